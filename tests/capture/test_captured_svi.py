"""CapturedSVI takes the steps of SVI, whatever the programs and their user do meanwhile."""

import contextlib
import copy
import functools
import random
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, ReweightedWakeSleep, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from torch import nn
from torch.distributions import constraints
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import (
    Renyi_InfoMaxELBO,
    Trace_BetaELBO,
    Trace_InfoMaxELBO,
    TraceEnum_BetaELBO,
    TraceEnum_InfoMaxELBO,
    TraceGraph_BetaELBO,
    TraceGraph_InfoMaxELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_InfoMaxELBO,
)
from pyro_infomax.schedules import Cyclical, Linear

STEPS = 12  # comparisons are in steps 2, 3 and 10


def batch(step, rows=6):
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(step))


def adam():
    return pyro.optim.Adam({"lr": 0.01})


def fused():
    return FusedOptim(torch.optim.Adam, {"lr": 0.01})


def fused_by_name():
    return FusedOptim(torch.optim.Adam, lambda name: {"lr": 0.01 if "weight" in name else 0.02})


class Training:
    """A training from a seed: what it leaves, and what it warned of."""

    def __init__(self, cls, make, *, steps=STEPS, hook=None, data=batch, optim=adam):
        pyro.clear_param_store()
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        model, guide, elbo = make()
        self.svi = cls(model, guide, optim(), elbo)
        self.losses, self.terms, self.error = [], [], None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(steps):
                if hook is not None:
                    hook(step, self.svi)
                given = data(step)
                try:
                    self.losses.append(self.svi.step(*(given if isinstance(given, tuple) else (given,))))
                except (ValueError, KeyError) as error:
                    self.error = error
                    break
                self.terms.append(dict(getattr(elbo, "terms", None) or {}))
        self.warnings = [str(each.message) for each in caught if "ordinary steps" in str(each.message)]
        self.parameters = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
        self.random_states = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002


def compared(make, *, captured=True, says="", tolerance=0.0, **options):
    """Trains twice, and holds the two trainings against each other."""
    eager, ours = Training(SVI, make, **options), Training(CapturedSVI, make, **options)
    assert ours.svi.captured is captured, ours.warnings
    assert len(ours.warnings) == (not captured)
    assert all(says in each for each in ours.warnings), ours.warnings
    assert ours.parameters.keys() == eager.parameters.keys()
    for name, value in eager.parameters.items():
        torch.testing.assert_close(ours.parameters[name], value, rtol=0, atol=tolerance, equal_nan=True)
    np.testing.assert_allclose(ours.losses, eager.losses, rtol=1e-6)
    for terms, others in zip(ours.terms, eager.terms, strict=True):
        assert terms == pytest.approx(others, rel=1e-5, nan_ok=True)
    assert type(ours.error) is type(eager.error)
    assert str(ours.error)[:100] == str(eager.error)[:100]
    assert ours.error or ours.random_states == eager.random_states
    return ours


def vae(elbo=TraceMeanField_BetaELBO, encoder=lambda: nn.Linear(3, 4)):
    def make():
        encode, decode = encoder(), nn.Linear(2, 3)

        def model(x):
            pyro.module("decode", decode)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(decode(z), 1.0).to_event(1), obs=x)

        def guide(x):
            pyro.module("encode", encode)
            with pyro.plate("data", len(x)):
                loc, log_scale = encode(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        guide.encode = encode
        return model, guide, elbo()

    return make


def shifted(shift, *, elbo=Trace_ELBO, state=dict):
    """x ~ N(a + shift(x, a, state), 1)."""

    def make():
        own = state()

        def model(x):
            a = pyro.param("a", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(a + shift(x, a, own), 1.0).to_event(1), obs=x)

        model.state = own
        return model, lambda _: None, elbo()

    return make


def while_recording():
    return any(type(mode).__name__ == "Recorder" for mode in _get_current_dispatch_mode_stack())


def at(step, change):
    """A hook that calls ``change(svi)`` before one step."""
    return lambda number, svi: change(svi) if number == step else None


# ---- what is captured


@pytest.mark.parametrize(
    "elbo",
    [
        Trace_BetaELBO,
        TraceMeanField_BetaELBO,
        TraceGraph_BetaELBO,
        TraceEnum_BetaELBO,
        Trace_InfoMaxELBO,
        TraceMeanField_InfoMaxELBO,
        TraceGraph_InfoMaxELBO,
        TraceEnum_InfoMaxELBO,
        lambda: Renyi_InfoMaxELBO(num_particles=2),
        lambda: Trace_BetaELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
        Trace_ELBO,
        TraceMeanField_ELBO,
        TraceGraph_ELBO,
    ],
)
def test_objectives(elbo):
    compared(vae(elbo))


@pytest.mark.parametrize(
    "elbo", [TraceMeanField_BetaELBO, TraceEnum_InfoMaxELBO, Renyi_InfoMaxELBO, Trace_ELBO]
)
def test_single_precision(elbo):
    torch.set_default_dtype(torch.float32)
    compared(vae(elbo))


def test_particles_one_after_another():
    compared(vae(lambda: Trace_InfoMaxELBO(num_particles=3)), tolerance=1e-14)


def test_two_hundred_steps_with_a_fused_optimizer():
    compared(vae(), optim=fused, steps=200, tolerance=1e-12)


@pytest.mark.parametrize(
    ("elbo", "beta"),
    [
        (Trace_BetaELBO, Linear(0.0, 1.0, 6)),
        (TraceMeanField_BetaELBO, Cyclical(0.0, 1.0, 5)),
        (TraceMeanField_BetaELBO, {"z": Linear(0.0, 2.0, 8), "x": torch.tensor(1.5)}),
    ],
)
def test_schedules_and_mappings(elbo, beta):
    compared(vae(lambda: elbo(beta=beta)))


def test_weight_in_place():
    weight = torch.tensor(1.0)

    def make():
        weight.fill_(1.0)
        return vae(lambda: Trace_BetaELBO(beta=weight))()

    compared(make, hook=lambda *_: weight.add_(0.1))


def test_weight_set_by_hand():
    def hook(step, svi):
        svi.loss_and_grads.__self__.beta = 1.0 + step / 10

    compared(vae(Trace_BetaELBO), hook=hook, steps=30)


def discrete(infer):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3) / 3))
            loc = (z * pyro.param("loc", lambda: torch.randn(3))).sum(-1)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            logits = x @ pyro.param("slope", torch.zeros(3, 3))
            pyro.sample("z", dist.OneHotCategorical(logits=logits), infer=infer)

    return model, guide


@pytest.mark.parametrize(
    ("elbo", "infer"),
    [
        (TraceEnum_InfoMaxELBO, {"enumerate": "parallel"}),
        (TraceEnum_BetaELBO, {"enumerate": "sequential"}),
        (Trace_BetaELBO, {}),
        (TraceGraph_BetaELBO, {}),
    ],
)
def test_discrete(elbo, infer):
    compared(lambda: (*discrete(infer), elbo()))


class Gated(nn.Module):
    """A deep Markov model (Krishnan et al., 2017), whose encoder goes backwards through a sequence."""

    def __init__(self, size=2, hidden=3, pixels=4):
        super().__init__()
        self.rnn = nn.GRU(pixels, hidden, batch_first=True)
        self.combine, self.encode = nn.Linear(size, hidden), nn.Linear(hidden, 2 * size)
        self.gate, self.move, self.emit = (nn.Linear(size, n) for n in (size, 2 * size, pixels))
        self.start = nn.Parameter(torch.zeros(size))

    def transition(self, z):
        gate = torch.sigmoid(self.gate(z))
        loc, scale = self.move(torch.relu(z)).chunk(2, -1)
        return (1 - gate) * z + gate * loc, nn.functional.softplus(scale)

    def model(self, x):
        pyro.module("dmm", self)
        z = self.start.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                z = pyro.sample(f"z_{t}", dist.Normal(*self.transition(z)).to_event(1))
                seen = dist.Bernoulli(logits=self.emit(z)).to_event(1)
                pyro.sample(f"x_{t}", seen, obs=x[:, t])

    def guide(self, x):
        pyro.module("dmm", self)
        states, z = self.rnn(x.flip(1))[0].flip(1), self.start.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                loc, scale = self.encode(self.combine(z).tanh() + states[:, t]).chunk(2, -1)
                z = pyro.sample(f"z_{t}", dist.Normal(loc, nn.functional.softplus(scale)).to_event(1))


def test_a_deep_markov_model():
    """What its turns do at once in a captured step is summed in another order."""

    def make():
        dmm = Gated()
        return dmm.model, dmm.guide, TraceMeanField_BetaELBO()

    data = lambda step: torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(step)).round()  # noqa: E731
    compared(make, data=data, optim=fused, steps=4, tolerance=1e-10)


def test_decaying_baseline():
    infer = {"baseline": {"use_decaying_avg_baseline": True}}
    compared(lambda: (*discrete(infer), TraceGraph_BetaELBO()), captured=False, says="__baseline")


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_BetaELBO])
def test_subsampling(elbo):
    data = batch(99, 20)

    def program(observed):
        def run():
            with pyro.plate("data", 20, subsample_size=5) as rows:
                x = data[rows, 0]
                z = pyro.sample(
                    "z", dist.Normal(0.0 if observed else pyro.param("a", torch.tensor(0.3)) * x, 1.0)
                )
                if observed:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        return run

    compared(lambda: (program(True), program(False), elbo()), data=lambda _: ())


def test_sequential_plate():
    def program(observed):
        def run(x):
            for i in pyro.plate("each", 3):
                loc = torch.tensor(0.0) if observed else pyro.param(f"loc_{i}", torch.tensor(0.1))
                z = pyro.sample(f"z_{i}", dist.Normal(loc, 1.0))
                if observed:
                    with pyro.plate(f"data_{i}", len(x)):
                        pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[:, i])

        return run

    compared(lambda: (program(True), program(False), Trace_ELBO()))


@pytest.mark.parametrize("guide", [AutoNormal, AutoLowRankMultivariateNormal])
def test_autoguides(guide):
    scale_prior = dist.LogNormal(torch.tensor(0.0), 1.0)  # validates itself, whatever the switch says

    def model(x):
        scale = pyro.sample("scale", scale_prior)
        weights = pyro.sample("weights", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x @ weights, scale), obs=x.sum(-1))

    compared(lambda: (model, guide(model), Trace_BetaELBO()))


def test_constrained_and_masked():
    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=x[:, 1] > 0), poutine.scale(scale=2.5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0], obs_mask=x[:, 2] > 0)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
        with pyro.plate("data", len(x)), poutine.mask(mask=x[:, 1] > 0), poutine.scale(scale=2.5):
            pyro.sample("z", dist.Normal(0.3 * x[:, 0], scale))
            with poutine.mask(mask=~(x[:, 2] > 0)):
                pyro.sample("x_unobserved", dist.Normal(x.new_zeros(len(x)), scale))

    compared(lambda: (model, guide, Trace_InfoMaxELBO()))


def test_loss_function():
    def loss(model, guide, x):
        trace = poutine.trace(guide).get_trace(x)
        return trace.log_prob_sum() - poutine.trace(poutine.replay(model, trace)).get_trace(x).log_prob_sum()

    compared(lambda: (*vae()()[:2], loss))


@pytest.mark.parametrize(
    "middle",
    [
        lambda: nn.BatchNorm1d(5),
        lambda: nn.Dropout(0.3),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 5)),
    ],
)
def test_modules(middle):
    def encoder():
        return nn.Sequential(nn.Linear(3, 5), middle(), nn.Tanh(), nn.Linear(5, 4))

    ours = compared(vae(encoder=encoder))
    eager = Training(SVI, vae(encoder=encoder))
    for (name, buffer), other in zip(
        ours.svi.guide.encode.named_buffers(), eager.svi.guide.encode.buffers(), strict=True
    ):
        torch.testing.assert_close(buffer, other, rtol=0, atol=0, msg=name)


def test_batch_norm_applied_twice():
    def make():
        norm = nn.BatchNorm1d(3)

        def shift(x, a, _):
            pyro.module("norm", norm)
            return (norm(x) + norm(x)).mean(0) * a

        return shifted(shift)()

    compared(make)


@pytest.mark.parametrize(
    "shift",
    [
        lambda x, a, _: torch.rand(3) - torch.rand(3),
        lambda x, a, _: 0.0 * len(torch.rand(3)),
        lambda x, a, _: nn.functional.dropout(a + 1, 0.5) - nn.functional.dropout(a + 1, 0.5),
        lambda x, a, _: (a * 1.0).mul_(2.0).add_(x.mean()),
        lambda x, a, _: x.mul_(0.5).mean(),
        lambda x, a, _: x.mean().item() + a.mean().item(),
        # what is made of numbers alone is a number
        lambda x, a, _: int(torch.arange(4).max()) + sum(torch.arange(3).tolist()),
        lambda x, a, _: float(torch.zeros_like(torch.ones(2)).sum()) + int(torch.arange(3).unbind()[1] + 1),
        lambda x, a, _: nn.functional.one_hot((x[:, 0] > 0).long(), 3).double().mean(0),
        lambda x, a, _: float(functools.reduce(lambda one, _: one + one, range(60), torch.ones(()))) * 1e-18,
        lambda x, a, _: (torch.complex(a, x[0]).conj() * torch.complex(a, x[1])).real,
        lambda x, a, _: torch.autograd.grad((a.exp() * x[0]).sum(), a, create_graph=True)[0],
    ],
)
def test_operations(shift):
    compared(shifted(shift))


@pytest.mark.parametrize(
    "write",
    [
        lambda average, x: average.mul_(0.9).add_(x.mean()),
        lambda average, x: (average[:2].add_(x.mean()), average[1:].mul_(0.5), average.mul_(0.9)),
        lambda average, x: torch.add(average, x.mean(), out=average),
        lambda average, x: torch._foreach_add_([average], 0.1),
    ],
)
def test_what_is_written_in_place(write):
    def shift(x, a, own):
        write(own["average"], x)
        return own["average"] * 1

    compared(shifted(shift, state=lambda: {"average": torch.zeros(3)}))


def test_a_tensor_that_is_only_left_behind():
    def shift(x, a, own):
        own["last"] = x.mean()
        return 0.0

    compared(shifted(shift))


def test_arguments_of_every_kind():
    """Each is fixed by a recording, or handed on to it."""
    kinds = [1, True, 1.0, 2, None, "two", torch.float32, [1], (1,), {"a": 1}, {"b": 1}]

    def model(x, options, kind):
        a = pyro.param("a", torch.zeros(3))
        with pyro.plate("data", len(x)):
            loc = a + options["shift"][0].mean() + len(repr(kind)) / 10 + len(type(kind).__name__)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def data(step):
        return batch(step), {"shift": [batch(step + 50)]}, kinds[step // 4]

    compared(lambda: (model, lambda *_: None, Trace_ELBO()), data=data, steps=4 * len(kinds))


def test_arguments_by_keyword():
    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("a", torch.zeros(3)) + y, 1.0).to_event(1), obs=x)

    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        svi = kind(model, lambda *_, **__: None, adam(), Trace_ELBO())
        found.append([])
        for step in range(10):
            x, y = batch(step), batch(step + 50)
            found[-1].append(svi.step(x, y=y) if step % 2 else svi.step(x, y))
    assert svi.captured
    assert found[0] == found[1]


@pytest.mark.parametrize("optim", [adam, fused, lambda: FusedOptim(torch.optim.SGD, by_name)])
def test_gradients_that_are_reduced(optim):
    """They come in as few tensors as the optimiser takes: one a dtype, or a group."""
    sizes = []

    def halve(gradients):
        sizes.append(sorted((str(each.dtype), each.numel()) for each in gradients))
        for each in gradients:
            each.mul_(0.5)

    def shift(x, a, _):
        single = pyro.param("single", torch.ones(4, dtype=torch.float32))
        return single[:3] * x.mean() + pyro.param("b", torch.ones(3))

    found = []
    for kind, scale in ((SVI, 0.5), (CapturedSVI, 1.0)):
        pyro.clear_param_store()
        model, guide, elbo = shifted(shift)()
        svi = kind(poutine.scale(model, scale), guide, optim(), elbo)
        svi.reduce_gradients = halve
        for step in range(5):
            svi.step(batch(step))
        found.append([value.detach().clone() for value in pyro.get_param_store().values()])
    assert svi.captured
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)
    whole = [("torch.float32", 4), ("torch.float64", 6)]
    assert sizes[-1] == ([whole[0], *[("torch.float64", 3)] * 2] if optim not in (adam, fused) else whole)


def by_name(name):
    return {"lr": 0.01, "momentum": 0.9 * (name == "b")}


# ---- what is not captured goes on as if nothing had been tried


def suppressed(x):
    with contextlib.suppress(Exception):
        return float(x.mean())
    return 0.0


def overwritten(x):
    zeros = torch.zeros(3)
    view = zeros[1]
    zeros.copy_(x[0])
    return float(view)


CLOSED_OVER = torch.tensor(2.0)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: 1.0 if x.sum() > 0 else 0.0,
        lambda x: float(x.mean()),
        lambda x: int(x[0, 0] * 10) / 10,
        lambda x: sum(x[0].tolist()),
        lambda x: float(x.numpy().mean()),
        lambda x: float(np.asarray(x).mean()),
        lambda x: float(np.from_dlpack(x).mean()),
        lambda x: float(f"{x[0, 0]:.3f}"),
        lambda x: torch.tensor([x[0, 0], 0.0, 1.0]),
        lambda x: torch.tensor(data=[[x[0, 0], 0.0, 1.0]]),
        lambda x: float(torch.equal(x, x)),
        lambda x: range(3)[(x[0, 0] > 0).long()],
        suppressed,
        # nor are these made of numbers alone
        overwritten,
        lambda x: float(CLOSED_OVER),
        lambda x: float(torch.tensor(2.0) * CLOSED_OVER),
        lambda x: float(torch.rand(())),
    ],
)
def test_values_that_programs_read(read):
    says = "value of a tensor (test_captured_svi.py, line"
    compared(shifted(lambda x, a, _: read(x)), captured=False, says=says, steps=4)


def fails_while_recording(x):
    if while_recording():
        torch.zeros(2).view(3)
    return 0.0


@pytest.mark.parametrize(
    ("shift", "says"),
    [
        (
            lambda x, a, _: fails_while_recording(x),
            "cannot be recorded (RuntimeError: shape '[3]' is invalid",
        ),
        (lambda x, a, _: fails_while_recording(x), "(test_captured_svi.py, line"),
        (lambda x, a, _: (a * x)[x > 0].mean(), "shape depends on the values"),
        (lambda x, a, own: own.update(n=own.get("n", 0) + 1) or 0.1 * own["n"], "change own"),
        (lambda x, a, own: random.random(), "Python's random"),
        (lambda x, a, own: float(np.random.randn()), "NumPy's random"),  # noqa: NPY002
        (lambda x, a, own: own.setdefault("g", random.Random(0)).random(), "own['g']"),
        (lambda x, a, own: own.setdefault("g", np.random.default_rng(0)).normal(), "own['g']"),
        (
            lambda x, a, own: torch.rand((), generator=own.setdefault("g", torch.Generator().manual_seed(0))),
            "a generator other than torch's own",
        ),
        (lambda x, a, own: 0.1 * (own.setdefault("seen", []).append(1) or len(own["seen"])), "own['seen']"),
    ],
)
def test_refused(shift, says):
    compared(shifted(shift), captured=False, says=says, steps=4)


def spoiled_norm(x, own):
    norm = own.setdefault("norm", nn.BatchNorm1d(3, affine=False))
    pyro.module("norm", norm)
    return norm(x).mean() + (0.0 * norm(x).mean() if while_recording() else 0.0)


def trained_while_recording(name):
    value = pyro.param(name, torch.ones(()))
    return value if while_recording() else value.detach()


@pytest.mark.parametrize(
    ("shift", "says"),
    [
        (
            lambda x, a, _: 0.001 * while_recording(),
            "is not the step that the programs take: the loss is",
        ),
        (lambda x, a, _: 0.1 * (a - a.detach()) * while_recording(), "the gradient of a differs"),
        (lambda x, a, own: spoiled_norm(x, own), "the buffer"),
        (
            lambda x, a, own: own.setdefault("count", torch.zeros(())).add_(1 + while_recording()) * 0.0,
            "the buffer 0 of those that are written to differs",
        ),
        (lambda x, a, _: 0.0 * torch.rand(3).sum() if while_recording() else 0.0, "other random numbers"),
        (lambda x, a, _: 0.0 * trained_while_recording("b"), "other parameters have a gradient"),
    ],
)
def test_a_recording_of_other_steps_is_found_out(shift, says):
    compared(shifted(shift), captured=False, says=says, steps=4)


def test_rounding_is_no_other_step():
    compared(shifted(lambda x, a, _: 1e-14 * while_recording()), tolerance=1e-9)


def test_an_objective_of_ones_own_code():
    class Own(Trace_ELBO):
        def loss_and_grads(self, model, guide, *args, **kwargs):
            return 2 * super().loss_and_grads(model, guide, *args, **kwargs)

    compared(vae(Own), captured=False, says="Own has a loss_and_grads of its own", steps=4)


def test_late_parameter_by_a_counter():
    def shift(x, a, own):
        own["n"] = own.get("n", 0) + 1
        return pyro.param("late", torch.ones(3)) if own["n"] > 6 else 0.0

    compared(shifted(shift), captured=False, says="own['n']")


def test_state_carried_in_an_attribute():
    state = {"average": torch.zeros(3)}

    def shift(x, a, own):
        own["average"] = own["average"] * 0.9 + x.mean()
        return own["average"]

    compared(shifted(shift, state=lambda: dict(state)), captured=False, says="not the step")


def test_gradient_of_what_is_no_parameter():
    weight = nn.Parameter(torch.ones(3))
    compared(shifted(lambda x, a, _: weight.sum()), captured=False, says="no parameter of Pyro")


def test_other_objectives():
    make = vae(lambda: ReweightedWakeSleep(num_particles=2))
    eager, ours = Training(SVI, make, steps=4), Training(CapturedSVI, make, steps=4)
    assert ours.losses == eager.losses
    assert "ReweightedWakeSleep" in ours.svi.reason


def test_more_than_sixteen_shapes():
    compared(vae(), data=lambda step: batch(step, 1 + step % 20), steps=30, captured=False, says="16 shapes")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda step: batch(step).requires_grad_(), "gradient of its own"),
        (lambda step: (batch(step), object()), "type object"),
    ],
)
def test_arguments_refused(data, says):
    model, guide, _ = shifted(lambda x, a, _: 0.0)()
    make = lambda: ((lambda x, *_: model(x)), (lambda x, *_: guide(x)), Trace_ELBO())  # noqa: E731
    compared(make, data=data, captured=False, says=says)


def test_a_handler_around():
    def make():
        return shifted(lambda x, a, _: 0.0)()

    pyro.clear_param_store()
    svi = CapturedSVI(*make()[:2], adam(), Trace_ELBO())
    with pytest.warns(UserWarning, match="handler ScaleMessenger"), poutine.scale(scale=0.5):
        svi.step(batch(0))


# ---- what changes meanwhile


def test_the_same_tensor_twice_and_then_two():
    def model(x, y):
        a = pyro.param("a", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a + y.mean(), 1.0).to_event(1), obs=x)

    def data(step):
        return (batch(step),) * 2 if step < 5 else (batch(step), batch(step + 50))

    compared(lambda: (model, lambda *_: None, Trace_ELBO()), data=data)


def test_an_argument_that_is_closed_over():
    everything, other = batch(1, 20), batch(2, 20)
    compared(shifted(lambda x, a, _: everything.mean(0)), data=lambda step: everything if step < 5 else other)


@pytest.mark.parametrize(
    "data",
    [
        lambda step: batch(step, 2 if step % 5 == 4 else 6),
        lambda step: batch(step, 3).T if step % 2 else batch(step, 3),
        lambda step: batch(step, 1).expand(3, 3),
        lambda step: batch(step, 12)[::4],
        lambda step: batch(step, 2).reshape(-1).unfold(0, 3, 1),
    ],
)
def test_layouts(data):
    compared(shifted(lambda x, a, _: 0.0), data=data)


@pytest.mark.parametrize(
    ("change", "optims"),
    [
        (lambda svi: svi.guide.encode[1].eval(), [fused]),
        (lambda svi: setattr(svi.guide.encode[1], "p", 0.6), [fused]),
        (lambda svi: svi.guide.encode[0].weight.requires_grad_(False), [adam, fused]),
        (lambda svi: svi.guide.encode.__setitem__(1, nn.Tanh()), [fused]),
        (lambda svi: svi.guide.encode.register_forward_hook(lambda *args: args[-1] * 0.5), [fused]),
        (lambda svi: setattr(svi, "optim", pyro.optim.SGD({"lr": 0.01})), [adam, fused]),
        (lambda svi: pyro.clear_param_store(), [adam, fused]),
        (lambda svi: [each.data.add_(0.1) for _, each in pyro.get_param_store().named_parameters()], [adam]),
        (
            lambda svi: [setattr(p, "grad", torch.ones_like(p)) for p in svi.guide.encode.parameters()],
            [adam, fused, fused_by_name],
        ),
        (lambda svi: setattr(svi.loss_and_grads.__self__, "num_particles", 2), [fused]),
        (lambda svi: [setattr(p, "data", p.data.clone()) for p in svi.guide.encode.parameters()], [fused]),
        (lambda svi: svi.optim.groups([svi.guide.encode[0].weight]), [fused, fused_by_name]),
    ],
)
def test_changes_by_the_user(change, optims):
    def encoder():
        return nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.3), nn.Linear(5, 4))

    for optim in optims:
        # what is flat rounds otherwise
        tolerance = 0 if optim is adam else 1e-12
        compared(vae(encoder=encoder), hook=at(8, change), optim=optim, tolerance=tolerance)


def test_another_parameter_under_the_name():
    def change(svi):
        pyro.get_param_store()["a"] = torch.ones(3)

    compared(shifted(lambda x, a, _: 0.0), hook=at(8, change))


@pytest.mark.parametrize(
    ("c", "change"),
    [
        (0.5, lambda own: own.update(c=1.0)),
        (torch.ones(()), lambda own: own.update(c=own["c"] * 2)),
        (torch.ones(()), lambda own: own["c"].mul_(2)),
        ([0.5], lambda own: own["c"].append(2.0)),
        ([0.5, 1.0], lambda own: own["c"].pop()),
        ({"a": [1.0, {"b": 0.5}]}, lambda own: own["c"]["a"][1].update(b=1.0)),
    ],
)
def test_what_programs_close_over(c, change):
    def total(value):
        if isinstance(value, dict):
            value = list(value.values())
        return sum(map(total, value)) if isinstance(value, list) else value

    make = shifted(lambda x, a, own: total(own["c"]), state=lambda: {"c": copy.deepcopy(c)})
    compared(make, hook=at(8, lambda svi: change(svi.model.state)))


NUMBER = [0.5]
READ_AS_GLOBAL = 0.5


class Scale:
    kind = 0.5

    def __init__(self):
        self.scale = 0.5
        self.itself = self

    def __call__(self):
        return self.scale + self.kind


def in_a_comprehension():
    return sum([READ_AS_GLOBAL for _ in range(2)])


def with_defaults(*, options=NUMBER):
    return options[0]


def reading_a_cell():
    number = 0.5

    def change():
        nonlocal number
        number = 1.0

    return lambda: number, change


def reading_a_module():
    found = nn.Sequential(nn.Dropout(0.25))
    found.own = 0.5
    return (lambda: found.own + found[0].p), lambda: setattr(found[0], "p", 0.5)


def reading_objects():
    scale = Scale()
    return functools.partial(scale.__call__), lambda: setattr(scale, "scale", 1.0)


@pytest.mark.parametrize(
    "reading",
    [
        lambda: (lambda: READ_AS_GLOBAL, lambda: globals().update(READ_AS_GLOBAL=1.0)),
        lambda: (in_a_comprehension, lambda: globals().update(READ_AS_GLOBAL=1.0)),
        lambda: (with_defaults, lambda: NUMBER.__setitem__(0, 1.0)),
        lambda: (Scale(), lambda: setattr(Scale, "kind", 1.0)),
        reading_a_cell,
        reading_a_module,
        reading_objects,
    ],
)
def test_wherever_programs_find_a_number(reading, monkeypatch):
    def make():
        monkeypatch.setitem(globals(), "READ_AS_GLOBAL", 0.5)
        NUMBER[0] = 0.5
        monkeypatch.setattr(Scale, "kind", 0.5)
        program, change = reading()
        model, guide, elbo = shifted(lambda x, a, _: program())()
        model.change = change
        return model, guide, elbo

    ours = compared(make, hook=at(8, lambda svi: svi.model.change()))
    assert ours.losses[8] != pytest.approx(ours.losses[7], rel=1e-12)


def test_an_equal_number_is_no_change():
    def hook(step, svi):
        svi.model.state.update(c=float("0.5"), unknown=float("nan"))

    make = shifted(lambda x, a, own: own["c"], state=lambda: {"c": 0.5, "unknown": float("nan")})
    compared(make, hook=hook, steps=40)


def test_under_autocast():
    torch.set_default_dtype(torch.float32)
    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(*vae()()[:2], adam(), TraceMeanField_BetaELBO())
        found.append([])
        for step in range(10):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=step % 2 == 1):
                found[-1].append(svi.step(batch(step)))
    assert svi.captured
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_another_default_dtype():
    def make():
        torch.set_default_dtype(torch.float64)
        return shifted(lambda x, a, _: torch.full((3,), 1 / 3))()

    def data(step):
        return batch(step).double()

    ours = compared(make, hook=at(8, lambda _: torch.set_default_dtype(torch.float32)), data=data)
    torch.set_default_dtype(torch.float64)
    stays = Training(SVI, make, data=data)
    # a third of single precision is another number
    assert ours.losses[8] != stays.losses[8]


def test_what_changes_each_step():
    def hook(step, svi):
        svi.model.state["c"] = step / 10

    make = shifted(lambda x, a, own: own["c"])
    compared(make, hook=hook, steps=40, captured=False, says="own['c'] changes again and again")


@pytest.mark.parametrize("name", ["model", "guide", "loss_and_grads"])
def test_replaced_parts(name):
    def change(svi):
        part = getattr(svi, name)
        setattr(svi, name, lambda *args: part(*args))

    compared(vae(), hook=at(8, change), captured=False, says="was replaced")


@pytest.mark.parametrize("optim", [adam, fused])
def test_a_parameter_that_stays_out_of_some_steps(optim):
    def shift(x, a, _):
        stated = pyro.param("b", torch.ones(3))
        return stated if len(x) == 6 else 0.0

    compared(
        shifted(shift), data=lambda step: batch(step, 6 - step % 2), optim=optim, steps=30, tolerance=1e-15
    )


def test_without_gradients_around():
    make = shifted(lambda x, a, _: 0.0)
    pyro.clear_param_store()
    svi = CapturedSVI(*make()[:2], pyro.optim.SGD({"lr": 0.01}), Trace_ELBO())
    for step in range(5):
        svi.step(batch(step))
    before = pyro.param("a").detach().clone()
    with torch.no_grad():
        svi.step(batch(5))
        with pytest.warns(UserWarning, match="no parameter has a gradient"):
            svi.step(batch(6))
    assert torch.equal(before, pyro.param("a"))


# ---- errors


def test_a_loss_that_is_no_number_raises_as_with_svi():
    def data(step):
        return batch(step) * (float("nan") if step == 8 else 1.0)

    assert isinstance(compared(vae(), data=data).error, ValueError)


def test_a_loss_that_is_no_number_warns_without_validation():
    pyro.clear_param_store()
    svi = CapturedSVI(*shifted(lambda x, a, _: 0.0)()[:2], adam(), Trace_ELBO())
    with pyro.validation_enabled(False):
        for step in range(5):
            svi.step(batch(step))
        with pytest.warns(UserWarning, match="NaN"):
            svi.step(batch(0) * float("nan"))
    assert svi.captured


def test_errors_in_later_steps():
    def shift(x, a, _):
        if len(x) == 7:
            raise KeyError("seven")
        return 0.0

    ours = compared(shifted(shift), data=lambda step: batch(step, 7 if step == 8 else 6))
    assert isinstance(ours.error, KeyError)


def test_interrupted_while_recording():
    norm, interrupt, count = nn.BatchNorm1d(3), [True], {"runs": 0}

    def shift(x, a, _):
        pyro.module("norm", norm)
        shift = norm(x).mean() + torch.rand(())
        if while_recording() and interrupt[0]:
            count["runs"] = 1
            raise KeyboardInterrupt
        return shift + count["runs"]

    svi = CapturedSVI(*shifted(shift)()[:2], adam(), Trace_ELBO())
    svi.step(batch(0))
    before = torch.get_rng_state(), norm.running_mean.clone(), pyro.infer.util.is_validation_enabled()
    with pytest.raises(KeyboardInterrupt):
        svi.step(batch(1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert torch.equal(before[1], norm.running_mean)
    assert pyro.infer.util.is_validation_enabled() == before[2]
    assert count == {"runs": 0}
    interrupt[0] = False
    for step in range(3):
        svi.step(batch(step))
    assert svi.captured


def test_a_recording_keeps_no_activations():
    pyro.clear_param_store()
    encoder = lambda: nn.Sequential(nn.Linear(3, 200), nn.Tanh(), nn.Linear(200, 4))  # noqa: E731
    svi = CapturedSVI(*vae(encoder=encoder)()[:2], adam(), TraceMeanField_BetaELBO())
    for _ in range(4):
        svi.step(batch(0, 1000))
    (graph,) = svi._graphs.values()
    kept = [each for each in graph.step._function.__globals__.values() if isinstance(each, torch.Tensor)]
    assert svi.captured
    assert max(each.numel() for each in kept) < 1000 * 200


def test_a_copy_records_anew():
    svi = CapturedSVI(*shifted(lambda x, a, _: 0.0)()[:2], adam(), Trace_ELBO())
    for step in range(4):
        svi.step(batch(step))
    copied = copy.deepcopy(svi)
    assert not copied.captured
    for step in range(4):
        copied.step(batch(step))
    assert copied.captured


def test_unknown_backend():
    with pytest.raises(ValueError, match="Expected backend"):
        CapturedSVI(*shifted(lambda x, a, _: 0.0)()[:2], adam(), Trace_ELBO(), backend="jax")
