"""The contract of CapturedSVI beside what programs read: hooks, objectives, errors, comparisons and more.

Most losses are Σ (x − a − c)²/2 with c = 0.5, so that value and gradient are known.
"""

import contextlib
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import SVI, Trace_ELBO, TraceTailAdaptive_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_infomax.capture import CapturedSVI
from pyro_infomax.infer import Trace_BetaELBO
from pyro_infomax.training import EarlyStopping, fit

RATE = 0.01
CHANGED = 8  # before this step; the one before and the one after are replays, comparisons are in 6 and 10
NUMBER = 0.5


def batch(step):
    return torch.linspace(-1.0, 2.0 + step, 5)


def loss_of(model, _, x):
    return 0.5 * (x - model(x)).square().sum()


def svi_of(model, objective=loss_of):
    return CapturedSVI(model, lambda _: None, pyro.optim.SGD({"lr": RATE}), objective)


def right(svi, change, *, before, after, steps=CHANGED):
    """Whether each step was that of c, with a gradient times a factor; and the last step's warnings."""
    found, a = [], 0.0
    for step in range(1, steps + 1):
        if step == CHANGED:
            change()
        c, factor = before if step < CHANGED else after
        residual = batch(step) - a - c
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = svi.step(batch(step))
        moved = pyro.get_param_store()["a"].item()
        expected = 0.5 * residual.square().sum().item(), a + RATE * factor * residual.sum().item()
        found.append((loss, moved) == pytest.approx(expected, rel=1e-9))
        a = moved
    return all(found), [str(each.message) for each in caught]


# ---- hooks on what is trained, which change the gradient

UNDO = []


@pytest.fixture(autouse=True)
def as_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    globals().update(NUMBER=0.5)
    yield
    while UNDO:
        UNDO.pop().remove()


def leaf():
    return pyro.param("a").unconstrained()


def twice(gradient):
    return 2 * gradient


def double_in_place(parameter):
    parameter.grad.mul_(2.0)


class Passing(nn.Linear):
    def __init__(self):
        super().__init__(1, 1, bias=False)
        self.requires_grad_(False).weight.fill_(1.0)


GRADIENTS = {
    "a_hook_of_a_tensor": lambda _: leaf().register_hook(twice),
    "a_backward_hook": lambda own: own.register_full_backward_hook(lambda _, grads, __: (2 * grads[0],)),
    "a_backward_pre_hook": lambda own: own.register_full_backward_pre_hook(lambda _, grads: (2 * grads[0],)),
    "a_backward_hook_of_all_modules": lambda _: nn.modules.module.register_module_full_backward_hook(
        lambda _, grads, __: (2 * grads[0],)
    ),
    "a_hook_after_accumulation": lambda _: leaf().register_post_accumulate_grad_hook(double_in_place),
}


def doubling(*, present):
    def make(register):
        own = Passing()

        def model(x):
            a = pyro.param("a", torch.zeros(()))
            if present and not hasattr(own, "hook"):
                own.hook = True
                UNDO.append(register(own))
            return own(a[None])[0] + 0.5

        return svi_of(model), own

    return make


@pytest.mark.parametrize("name", GRADIENTS)
def test_hooks_added_later(name):
    register = GRADIENTS[name]
    svi, own = doubling(present=False)(register)
    change = lambda: UNDO.append(register(own))  # noqa: E731
    assert right(svi, change, before=(0.5, 1.0), after=(0.5, 2.0), steps=11)[0]
    assert ("accumulated" in (svi.reason or "")) == (name == "a_hook_after_accumulation")


@pytest.mark.parametrize("name", GRADIENTS)
def test_hooks_taken_away(name):
    register = GRADIENTS[name]
    svi, _ = doubling(present=True)(register)
    assert right(svi, lambda: UNDO[-1].remove(), before=(0.5, 2.0), after=(0.5, 1.0))[0]


# ---- objectives of one's own


class Weighing:
    def __init__(self):
        self.c = torch.tensor(0.5)
        self.options = {"c": torch.tensor(0.5)}
        self.number = 0.5


class OwnELBO(Weighing, Trace_ELBO):
    """A loss Σ (x − a − c)²/2, whose c it keeps itself."""

    def __init__(self, read):
        Trace_ELBO.__init__(self)
        Weighing.__init__(self)
        self.read = read

    def _differentiable_loss_particle(self, model_trace, guide_trace):
        x, a = (model_trace.nodes[name]["value"] for name in ("_RETURN", "a"))
        loss = 0.5 * (x - a - self.read(self)).square().sum()
        return loss.item(), loss


class OwnLoss(Weighing):
    def __init__(self, read):
        super().__init__()
        self.read = read

    def __call__(self, model, _, x):
        return 0.5 * (x - model(x) - self.read(self)).square().sum()


OWN = {
    "tensor": (lambda own: own.c, lambda own: setattr(own, "c", torch.tensor(1.0))),
    "dict": (lambda own: own.options["c"], lambda own: own.options.update(c=torch.tensor(1.0))),
    "number": (lambda own: own.number, lambda own: setattr(own, "number", 1.0)),
    "global": (lambda _: NUMBER, lambda _: globals().update(NUMBER=1.0)),
}


@pytest.mark.parametrize("kind", [OwnELBO, OwnLoss])
@pytest.mark.parametrize("name", OWN)
def test_objectives_of_ones_own(kind, name):
    read, change = OWN[name]
    own = kind(read)

    def model(x):
        a = pyro.param("a", torch.zeros(()))
        return x if kind is OwnELBO else a

    found = right(svi_of(model, own), lambda: change(own), before=(0.5, 1.0), after=(1.0, 1.0))
    assert found == (True, [])


def test_loss_and_grads_of_one_objective_alone():
    elbo = Trace_ELBO()
    elbo.loss_and_grads = lambda model, guide, x: Trace_ELBO().loss_and_grads(model, guide, x)
    svi = svi_of(observing(), elbo)
    svi.step(batch(1))
    with pytest.warns(UserWarning, match="Trace_ELBO has a loss_and_grads of its own"):
        svi.step(batch(1))


# ---- what is around a step


def observing(distribution=dist.Normal):
    def model(x):
        loc = pyro.param("a", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", distribution(*([loc] if distribution is dist.Bernoulli else [loc, 1.0])), obs=x)

    return model


class Looking(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class LookingBelow(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("around", "says"),
    [
        (Looking, "inside of the mode Looking"),
        (LookingBelow, "inside of the mode LookingBelow"),
        (lambda: torch.autograd.set_detect_anomaly(True), "anomaly detection"),
        (lambda: poutine.scale(scale=2.0), "inside of the handler ScaleMessenger"),
    ],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_what_looks_at_each_operation_is_refused(around, says):
    svi = svi_of(observing(), Trace_ELBO())
    for step in range(4):
        svi.step(batch(step))
    assert svi.captured
    with pytest.warns(UserWarning, match=says), around():
        svi.step(batch(4))
    assert says in svi.reason


def low_precision(dtype):
    return torch.autocast("cpu", dtype=dtype)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (contextlib.nullcontext, lambda: low_precision(torch.bfloat16)),
        (lambda: low_precision(torch.bfloat16), lambda: low_precision(torch.float16)),
        (contextlib.nullcontext, lambda: torch.device("meta")),
        (lambda: torch.device("cpu"), lambda: torch.device("meta")),
        (contextlib.nullcontext, lambda: pyro.validation_enabled(False)),
        (contextlib.nullcontext, lambda: validation_of(pyro.infer)),
        (contextlib.nullcontext, lambda: validation_of(dist)),
    ],
)
def test_another_surrounding_is_another_recording(first, then):
    x = torch.ones(2, 2)

    def loss(*_):
        return (pyro.param("a", torch.ones(())) - torch.mm(x, x).sum()).square().double()

    svi = svi_of(None, loss)
    with first():
        for _ in range(4):
            svi.step()
    assert svi.captured
    assert svi.reason is None
    with then():
        svi.step()
    assert svi.reason.startswith("the first step on data of a kind")


@contextlib.contextmanager
def validation_of(part):
    part.enable_validation(False)
    yield
    part.enable_validation(True)


def test_validation_that_is_switched_on_looks_at_the_next_step():
    svi = svi_of(observing(dist.Bernoulli), Trace_ELBO())
    zeros = torch.zeros(3)
    with pyro.validation_enabled(False):
        for _ in range(4):
            svi.step(zeros)
    with pytest.raises(ValueError, match="within the support"):
        svi.step(zeros + 0.3)


# ---- counts that programs read from shapes


COUNTS = {
    "mask": lambda x: x[x > 0.5].shape[0],
    "bytes": lambda x: x.masked_select(x > 0.5).numel(),
    "unique": lambda x: len((x > 0.5).unique()),
    "unique_consecutive": lambda x: len(torch.unique_consecutive(x > 0.5)),
    "nonzero": lambda x: len((x > 0.5).nonzero()),
    "where": lambda x: len(torch.where(x > 0.5)[0]),
    "bincount": lambda x: len(torch.bincount((x > 0.5).long())),
    "repeat": lambda x: len(torch.repeat_interleave((x > 0.5).long())),
    "sparse": lambda x: (x > 0.5).to_sparse()._nnz(),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_read_from_shapes(name):
    """The count is 1, or 2, in all data but one."""
    ones = torch.tensor([0.0, 0.0, 0.0, 1.0])

    def loss(model, guide, x):
        return (pyro.param("a", torch.zeros(())) + COUNTS[name](x)).square()

    svi = svi_of(None, loss)
    svi.step(ones)
    with pytest.warns(UserWarning, match="shape depends on the values|sparse"):
        svi.step(ones)
    assert not svi.captured


# ---- errors


def noisy(x):
    a = pyro.param("a", torch.zeros(3))
    z = pyro.sample("z", dist.Normal(a, 1.0).to_event(1))
    shape = torch.linalg.cholesky(torch.eye(3) * x[0, 0])
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, shape.diagonal()).to_event(1), obs=x)


def noisy_guide(_):
    pyro.sample("z", dist.Normal(pyro.param("b", torch.zeros(3)), 1.0).to_event(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    "elbo", [Trace_BetaELBO, lambda: TraceTailAdaptive_ELBO(2, vectorize_particles=True)]
)
def test_a_batch_whose_error_is_caught(value, elbo):
    """What comes after it, the random numbers among it, is as with SVI."""
    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(3, affine=False)
        steps = []

        def model(x, norm=norm):
            norm(x)
            noisy(x)

        svi = kind(model, noisy_guide, pyro.optim.SGD({"lr": RATE}), elbo())
        for step in range(9):
            x = torch.full((4, 3), value if step in (4, 6) else 1.0 + step)
            try:
                steps.append(svi.step(x))
            except (ValueError, RuntimeError) as error:
                steps.append(str(error).partition("\n")[0])
        values = [value.tolist() for value in pyro.get_param_store().values()]
        found.append((steps, values, norm.running_mean.tolist(), torch.get_rng_state().tolist()))
    assert svi.captured
    assert str(found[0][:3]) == str(found[1][:3])
    assert found[0][3] == found[1][3]


def test_a_loss_that_is_infinite_and_has_a_gradient():
    """What is in .grad counts as with SVI."""
    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()

        def loss(model, guide, x, more):
            return 0.5 * (x - pyro.param("a", torch.zeros(()))).square().sum() + more

        svi = kind(None, lambda _: None, pyro.optim.SGD({"lr": RATE}), loss)
        for step in range(1, 9):
            if step == 8:
                leaf().grad = torch.ones(())
            lost = svi.step(batch(step), torch.tensor(float("inf") if step == 8 else 1.0))
        found.append((lost, leaf().item()))
    assert svi.captured
    assert found[0] == found[1]


# ---- when steps are compared


FILE = "c.txt"


def write(number):
    with open(FILE, "w", encoding="utf-8") as file:
        file.write(str(number))


def reading_a_file(_):
    with open(FILE, encoding="utf-8") as file:
        return pyro.param("a", torch.zeros(())) + float(file.read())


def training_with_a_file(at, steps, compare=()):
    """The first step that is ordinary for good, and why; the file changes before step ``at``."""
    svi = svi_of(reading_a_file)
    write(0.5)
    for step in range(1, steps + 1):
        if step == at:
            write(1.0)
        if step in compare:
            svi.compare_next_step()
        svi.step(batch(step % 7))
        if svi.reason and step > 1:
            return step, svi.reason
    return None


@pytest.mark.parametrize(
    ("at", "last", "found"),
    [
        (3, 2, 3),
        (5, 4, 6),
        (12, 10, 18),
        (101, 66, 130),
        (700, 514, 1026),
        (1030, 1026, 2050),
        (2100, 2050, 3074),
    ],
)
def test_comparisons_are_at_doubling_distances(at, last, found):
    """The recording is in step 2; from 1024 steps on the distance stays."""
    with pytest.warns(UserWarning, match="ordinary steps"):
        step, reason = training_with_a_file(at, found + 1)
    assert step == found
    steps = f"step {last + 1}" if found == last + 2 else f"steps {last + 1} to {found - 1}"
    said = f"; {steps} may have been wrong, since the two were last compared in step {last}"
    assert reason.endswith(said) == (found > last + 1)


def test_what_was_not_compared_counts_for_all_shapes():
    """Steps 7 and 8 compare the two shapes, step 11 finds the change."""
    svi = svi_of(reading_a_file)
    write(0.5)
    for step in range(1, 11):
        svi.step(batch(step)[: 5 - step % 2])
    write(1.0)
    with pytest.warns(
        UserWarning, match="; steps 8 to 10 may have been wrong, since the two were last compared in s"
    ):
        svi.step(batch(11)[:4])


def test_a_comparison_on_demand():
    with pytest.warns(
        UserWarning, match="step 11 may have been wrong, since the two were last compared in step 10"
    ):
        assert training_with_a_file(12, 20, compare=[12])[0] == 12


@pytest.mark.parametrize("own", [True, False])
def test_the_first_step_after_callbacks_of_ones_own_is_compared(own):
    """Epochs have four steps. The file changes after 16 of them, and step 18 is compared anyhow."""
    svi, steps = svi_of(reading_a_file), []

    def change(_):
        if len(steps) == 16:
            write(1.0)

    class Stopping(EarlyStopping):
        __call__ = staticmethod(change)

    def after_a_gradient(gradients):
        steps.append(gradients)
        if not own:
            change(gradients)

    svi.reduce_gradients = after_a_gradient
    callbacks = [Stopping(99, monitor="loss")] if own else [EarlyStopping(99, monitor="loss")]
    write(0.5)
    with pytest.warns(UserWarning, match="ordinary steps"):
        fit(svi, torch.ones(8), batch_size=2, epochs=6, callbacks=callbacks, progress=False)
    # The callbacks of earlier epochs have had steps 5, 9 and 13 compared
    assert ("; steps 14 to 16 may" if own else "; steps 11 to 17 may") in svi.reason


# ---- what stays as with SVI


def test_a_parameter_that_is_deleted_begins_anew():
    """The store has another tensor under the name from then on, and the old one trains no more."""

    def model(_):
        return pyro.param("loc", torch.zeros(())) + 0.5

    svi = svi_of(model)
    for step in range(1, 7):
        svi.step(batch(step))
    old = pyro.get_param_store()["loc"]
    stood = old.item()
    del pyro.get_param_store()["loc"]
    for step in range(1, 5):
        loss = svi.step(batch(step))
        assert loss == 0.5 * (batch(step) - 0.5).square().sum() if step == 1 else loss
    assert svi.captured
    assert old.item() == stood
    assert pyro.get_param_store()["loc"] is not old


def test_a_replay_knows_how_many_data_it_stands_for():
    def program(observed):
        def run(x):
            with pyro.plate("data", 1000, subsample_size=len(x)):
                loc = torch.zeros(()) if observed else pyro.param("loc", torch.zeros(()))
                z = pyro.sample("z", dist.Normal(loc, 1.0))
                if observed:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        return run

    elbo = Trace_BetaELBO()
    svi = CapturedSVI(program(True), program(False), pyro.optim.SGD({"lr": 1e-6}), elbo)
    for step in range(1, 6):
        svi.step(torch.ones(10))
        assert (elbo.stands_for(10), elbo.stands_for(7)) == (1000, 7), step
    assert svi.captured


# ---- why steps are ordinary


def test_there_is_a_reason_whenever_a_step_was_ordinary():
    def model(x, c):
        return pyro.param("a", torch.zeros(())) + c

    def loss(model, guide, x, c):
        return 0.5 * (x - model(x, c)).square().sum()

    svi = svi_of(model, loss)
    assert svi.reason == "no step has been taken yet"
    for step in range(3):
        svi.step(batch(1), 0.5)
        assert (svi.reason is None) == (step > 0)
    svi.step(batch(1), 1.5)
    assert svi.reason == "the first step on data of a kind, and after each change, is an ordinary one"
    for step in range(2, 16):
        svi.step(batch(1), step + 0.5)
        assert f"these came with {step + 0.5}; pass a number" in svi.reason
    with pytest.warns(
        UserWarning, match=r"16 plain values or shapes, the last one with 16.5; pass a number that"
    ):
        svi.step(batch(1), 16.5)
    assert not svi.captured
    assert "pass a number that changes as a tensor" in svi.reason


def test_a_sparse_argument():
    svi = svi_of(None, lambda *args: pyro.param("a", torch.zeros(())) * args[-1].to_dense().sum())
    with pytest.warns(UserWarning, match="an argument is a sparse tensor"):
        svi.step(torch.eye(2).to_sparse())


@pytest.mark.parametrize(
    "prior",
    [
        lambda: dist.Dirichlet(torch.ones(3)),
        lambda: dist.LKJCholesky(3, torch.tensor(2.0)),
        lambda: dist.LKJ(2, torch.tensor(2.0)),
    ],
)
def test_priors_whose_transforms_write_in_place(prior):
    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)

        def model(x):
            total = pyro.sample("z", prior()).square().cumsum(-1).sum()
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(total, 1.0), obs=x)

        svi = kind(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), Trace_BetaELBO())
        found.append([svi.step(batch(step)) for step in range(6)])
    assert svi.captured
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_an_autoregressive_prior_is_named():
    flow = affine_autoregressive(2, hidden_dims=[4])

    def model(x):
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(normal, [flow]))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.zeros(2)), 1.0).to_event(1))

    svi = CapturedSVI(model, guide, pyro.optim.SGD({"lr": RATE}), Trace_BetaELBO())
    svi.step(batch(1))
    with pytest.warns(UserWarning, match=r"value of a tensor \(in AffineAutoregressive._inverse\)"):
        svi.step(batch(1))
