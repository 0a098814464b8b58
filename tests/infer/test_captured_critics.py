"""Objectives with a critic in CapturedSVI: the critic's steps are recorded, or refused by name."""

import copy
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ExponentialLR

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import AVB, FactorVAE, SymmetricELBO
from pyro_infomax.nn import MLPCritic, QuadraticCritic
from pyro_infomax.training import fit

BATCH, STEPS = 6, 12


def model(x):
    weight, bias = pyro.param("weight", torch.eye(3)[:, :2] * 0.7), pyro.param("bias", torch.zeros(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight + bias, 0.6).to_event(1), obs=x)


def guide(x):
    slope, scale = pyro.param("slope", torch.eye(2, 3) * 0.4), pyro.param("scale", torch.tensor(-0.5)).exp()
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))


class Noisy(nn.Module):
    """A critic with buffers, and with draws of its own."""

    def __init__(self, size):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 1)
        )

    def forward(self, *parts):
        return self.layers(torch.cat(parts, -1)).squeeze(-1)


def data():
    return torch.randn(STEPS, BATCH, 2, generator=torch.Generator().manual_seed(1))


class Trained:
    """A training in three calls of four steps each, between which a function may change something."""

    def __init__(self, kind, make, change=lambda elbo, call: None, x=None):
        pyro.clear_param_store()
        torch.manual_seed(0)
        self.elbo = make()
        options = {"backend": "replay"} if kind is CapturedSVI else {}
        self.svi = kind(model, guide, FusedOptim(Adam, {"lr": 0.01}), self.elbo, **options)
        self.losses, self.calls = [], []
        for call, batches in enumerate((data() if x is None else x).split(STEPS // 3)):
            if kind is CapturedSVI:
                for taken in self.svi.steps_by_call(batches):
                    self.losses += taken.losses
                    self.calls.append(len(taken.losses))
            else:
                self.losses += [self.svi.step(batch.clone()) for batch in batches]
            change(self.elbo, call)

    @property
    def left(self):
        parameters = {name: each.detach().clone() for name, each in pyro.get_param_store().named_parameters()}
        return parameters, self.elbo.state_dict(), torch.get_rng_state(), self.losses


def assert_same(one, other):
    """To the bit, whatever they are made of."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for each, twin in zip(one, other, strict=True):
            assert_same(each, twin)
    else:
        assert one == other


def assert_captured_as_ordinary(make, change=lambda elbo, call: None, x=None):
    expected = Trained(SVI, make, change, x).left
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured = Trained(CapturedSVI, make, change, x)
    assert_same(captured.left, expected)
    assert captured.svi.captured, captured.svi.reason
    return captured


def two_groups(parameters):
    first, *rest = parameters
    groups = [{"params": [first], "lr": 0.02, "betas": (0.5, 0.9)}, {"params": rest, "weight_decay": 0.1}]
    return Adam(groups, lr=0.01)


def factor(critic=QuadraticCritic, **options):
    return lambda: FactorVAE(critic(3), **{"critic_optim": partial(Adam, lr=0.02), **options})


CRITICS = {
    "no steps": factor(critic_steps=0),
    "several steps": factor(critic_steps=5),
    "gradient penalty": factor(partial(MLPCritic, hidden=(4,)), gradient_penalty=0.5),
    "buffers and draws": factor(Noisy, critic_steps=2, gradient_penalty=0.5),
    "buffers and draws, of both joints": lambda: SymmetricELBO(Noisy(5), critic_steps=2),
    "groups": factor(critic_optim=two_groups),
    "amsgrad": factor(critic_optim=partial(Adam, amsgrad=True, weight_decay=0.1, maximize=True)),
    "decoupled": factor(critic_optim=partial(AdamW, lr=0.02, weight_decay=0.5, foreach=True)),
    "SGD": factor(critic_optim=partial(SGD, lr=0.02)),
    "momentum": factor(critic_optim=partial(SGD, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1)),
    "dampening": factor(critic_optim=partial(SGD, lr=0.02, momentum=0.9, dampening=0.2, maximize=True)),
}


@pytest.mark.parametrize("name", CRITICS)
def test_a_recorded_critic_is_trained_as_by_ordinary_steps(name):
    assert max(assert_captured_as_ordinary(CRITICS[name]).calls) > 1


# ---- What users change in between.


def of_option(name, *values):
    def change(elbo, call):
        elbo.critic_optim.param_groups[0][name] = values[call]

    return change


def freeze(elbo, call):
    next(elbo.critic.parameters()).requires_grad_(call == 1)


def evaluate(elbo, call):
    elbo.critic.train(call == 1)


def reload(elbo, call):
    elbo.load_state_dict(elbo.state_dict())


def reload_optimiser(elbo, call):
    elbo.critic_optim.load_state_dict(copy.deepcopy(elbo.critic_optim.state_dict()))


def replace_optimiser(elbo, call):
    elbo.critic_optim = Adam(elbo.critic.parameters(), lr=0.05)


def more_steps(elbo, call):
    elbo.critic_steps, elbo.gradient_penalty = 2 - call, 0.5 * call


def write_parameters(elbo, call):
    elbo.critic.load_state_dict(QuadraticCritic(3).state_dict())


CHANGES = {
    "learning rate": of_option("lr", 0.3, 0.0, 0.1),
    "betas": of_option("betas", (0.0, 0.1), (0.9, 0.9), (0.5, 0.5)),
    "weight decay": of_option("weight_decay", 0.5, 0.0, 0.5),
    **{
        each.__name__: each
        for each in (freeze, reload, reload_optimiser, replace_optimiser, more_steps, write_parameters)
    },
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_between_steps_is_followed(name):
    captured = assert_captured_as_ordinary(factor(), CHANGES[name])
    # After a recording, steps are compared one by one at first
    assert (max(captured.calls) > 1) == (name in ("learning rate", "write_parameters"))


def test_a_critic_in_evaluation_mode_and_the_rate_of_an_sgd_lead_to_another_recording():
    assert_captured_as_ordinary(factor(Noisy), evaluate)
    assert_captured_as_ordinary(factor(critic_optim=partial(SGD, lr=0.1)), CHANGES["learning rate"])


def test_a_scheduler_of_the_critic_is_followed():
    def make():
        elbo = factor()()
        elbo.schedule = ExponentialLR(elbo.critic_optim, 0.3)
        return elbo

    assert_captured_as_ordinary(make, lambda elbo, call: elbo.schedule.step())


# ---- What cannot be recorded.


class Own(Adam):
    pass


def hooked(parameters):
    optimizer = Adam(parameters)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def patched(parameters):
    optimizer = Adam(parameters)
    optimizer.step = partial(Adam.step, optimizer)
    return optimizer


@pytest.mark.parametrize(
    ("optim", "reason"),
    [
        (partial(torch.optim.LBFGS, max_iter=2), "by LBFGS, of which no step can be recorded: take Adam"),
        (torch.optim.RMSprop, "by RMSprop, of which"),
        (Own, "by Own, of which"),
        (hooked, "by Adam with a hook on its steps"),
        (patched, "or a step of its own"),
        (partial(Adam, fused=True), "by Adam with fused=True"),
        (partial(Adam, lr=torch.tensor(0.01)), "a tensor for its lr"),
    ],
)
def test_other_optimisers_are_refused_by_name(optim, reason):
    make = factor(critic_optim=optim)
    expected = Trained(SVI, make).left
    with pytest.warns(UserWarning, match=f"ordinary steps: a critic is trained within each step, .*{reason}"):
        captured = Trained(CapturedSVI, make)
    assert_same(captured.left, expected)
    assert not captured.svi.captured


def test_a_hook_that_comes_later_is_refused_then():
    calls = []

    def change(elbo, call):
        if call == 1:
            elbo.critic_optim.register_step_pre_hook(lambda *_: calls.append(1))

    with pytest.warns(UserWarning, match="hook on its steps"):
        captured = Trained(CapturedSVI, factor(), change)
    assert len(calls) == STEPS // 3
    assert_same(captured.left, Trained(SVI, factor(), change).left)


def test_a_function_that_evaluates_the_objective_is_refused():
    elbo = factor()()
    svi = CapturedSVI(model, guide, FusedOptim(Adam, {"lr": 0.01}), elbo.differentiable_loss)
    svi.step(data()[0])
    with pytest.warns(UserWarning, match="where it is given the objective itself"):
        svi.step(data()[1])
    assert elbo.step == 2


# ---- Trainings.


def test_a_lone_row_trains_no_critic_and_a_loss_that_is_none_undoes_its_call():
    def fitted(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        elbo, x = factor(critic_steps=2)(), data().flatten(0, 1)[:25]
        svi = kind(model, guide, FusedOptim(Adam, {"lr": 0.01}), elbo)
        history = fit(svi, x, epochs=3, batch_size=4, progress=False, seed=0)
        return elbo, list(history.to_frame()["loss"])

    ordinary, captured = fitted(SVI), fitted(CapturedSVI)
    assert_same([captured[0].state_dict(), captured[1]], [ordinary[0].state_dict(), ordinary[1]])
    (first, *_), taken = captured[0].critic.parameters(), 3 * 2 * 6
    assert float(captured[0].critic_optim.state[first]["step"]) == taken

    x = data()
    x[-2] = torch.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pyro.validation_enabled(False):
            expected, found = (Trained(kind, factor(), x=x).elbo.state_dict() for kind in (SVI, CapturedSVI))
    assert str(found) == str(expected)  # nan is nan
    assert "nan" in str(found)


def test_a_training_goes_to_and_fro_between_captured_and_ordinary_steps():
    def trained(*kinds):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim, state = FusedOptim(Adam, {"lr": 0.01}), None
        for kind, batches in zip(kinds, data().split(3), strict=True):
            elbo = AVB(Noisy(5), critic_steps=2, gradient_penalty=0.1)
            if state is not None:
                elbo.load_state_dict(state)
            torch.manual_seed(0)
            svi = kind(model, guide, optim, elbo)
            losses = [svi.step(x) for x in batches]
            state = elbo.state_dict()
            assert kind is SVI or svi.captured, svi.reason
        return state, losses

    assert_same(trained(CapturedSVI, SVI, CapturedSVI, CapturedSVI), trained(SVI, SVI, SVI, SVI))
    assert_same(trained(SVI, CapturedSVI, SVI, CapturedSVI), trained(SVI, SVI, SVI, SVI))


def test_a_copy_has_a_critic_of_its_own():
    captured = Trained(CapturedSVI, factor())
    before = copy.deepcopy(captured.elbo.state_dict())
    copied = copy.deepcopy(captured.svi)
    copied.steps(data())
    assert_same(captured.elbo.state_dict(), before)
    assert copied.captured, copied.reason
    assert copied.loss.__self__.step == 2 * STEPS
