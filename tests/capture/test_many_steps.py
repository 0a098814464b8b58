"""Many steps in one call are single steps, to the bit; compiled ones are ordinary ones, up to rounding."""

import math
import shutil
import warnings
from functools import partial
from itertools import pairwise
from os import environ

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, ReweightedWakeSleep, Trace_ELBO
from pyro.optim.adagrad_rmsprop import AdagradRMSProp
from pyro.optim.clipped_adam import ClippedAdam
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.capture._compiled import updates_of
from pyro_infomax.capture._graph import GradientBuffers
from pyro_infomax.infer import BetaELBO, ConstrainedELBO, Trace_BetaELBO
from pyro_infomax.schedules import Linear
from pyro_infomax.training import Checkpoint, LearningRateSchedule, NonFiniteLossError, fit

PIXELS, LATENT, BATCH = 5, 2, 7
SILENT = {"progress": False, "batch_size": BATCH}
needs_compiler = pytest.mark.skipif(
    shutil.which(environ.get("CXX", "g++")) is None, reason="needs a C++ compiler"
)


class Pair(nn.Module):
    """Networks with batch norm and dropout, whose buffers and draws a step must treat as SVI does."""

    def __init__(self):
        super().__init__()
        # without a bias, whose gradient before batch norm is rounding alone, which Adam would blow up
        first = nn.Linear(PIXELS, 6, bias=False)
        self.encoder = nn.Sequential(first, nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 4))
        self.decoder = nn.Linear(LATENT, PIXELS)

    def model(self, x, shift=0.0):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z) + shift, 0.7).to_event(1), obs=x)

    def guide(self, x, shift=0.0):
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + 0 * shift, log_scale.exp()).to_event(1))


def adam(**options):
    return FusedOptim(torch.optim.AdamW, {"lr": 1e-2}, clip_norm=20.0, **options)


def made(kind=CapturedSVI, optim=None, seed=1, **options):
    pyro.clear_param_store()
    torch.manual_seed(seed)
    pair = Pair()
    objective = BetaELBO(beta=Linear(0.0, 1.0, 12))
    return pair, kind(pair.model, pair.guide, optim or adam(), objective, **options)


def rows(steps=30, batch=BATCH, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, batch, PIXELS, generator=generator)


def left(pair, svi):
    """All that steps leave behind."""
    state = {name: value.clone() for name, value in pair.state_dict().items()}
    moments = {
        f"{name}.{kind}": value
        for name, kept in svi.optim.get_state().items()
        for kind, value in kept["optimizer" if "optimizer" in kept else "state"].items()
        if isinstance(value, torch.Tensor)
    }
    return state | moments | {"random state": torch.get_rng_state(), "step": torch.tensor(svi_step(svi))}


def svi_step(svi):
    return svi.loss_and_grads.__self__.step


def assert_equal(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], **({"rtol": 0, "atol": 0} | tolerance), msg=name)


# ---- steps on a stack of batches


def test_many_steps_are_single_steps_to_the_bit():
    pair, svi = made(SVI)
    expected = [(svi.step(x), dict(svi.loss_and_grads.__self__.terms)) for x in rows()]
    ordinary = left(pair, svi)
    pair, svi = made()
    taken = svi.steps(rows())
    assert svi.captured, svi.reason
    assert svi.reason is None
    assert taken.losses == [loss for loss, _ in expected]
    assert {name: column[-1] for name, column in taken.terms.items()} == expected[-1][1]
    for name, column in taken.terms.items():
        assert column == [terms[name] for _, terms in expected]
    assert dict(svi.loss_and_grads.__self__.terms) == expected[-1][1]
    assert_equal(left(pair, svi), ordinary)


def test_calls_end_where_a_step_is_compared():
    _, svi = made()
    lengths = [len(each.losses) for each in svi.steps_by_call(rows(140))]
    # an ordinary one, one that is recorded and compared, and then those between comparisons
    assert lengths == [1, 1, 1, 1, 1, 1, 3, 1, 7, 1, 15, 1, 31, 1, 63, 1, 10]
    svi.compare_next_step()
    assert [len(each.losses) for each in svi.steps_by_call(rows(4))] == [1, 3]


def test_each_tensor_in_the_arguments_has_an_axis_over_the_steps():
    x, shift = rows(12), torch.linspace(-1.0, 1.0, 12)
    found = []
    for many in (False, True):
        pair, svi = made()
        losses = (
            svi.steps(x, shift=shift).losses
            if many
            else [svi.step(one, shift=other) for one, other in zip(x, shift, strict=True)]
        )
        found.append((losses, left(pair, svi)))
    assert found[0][0] == found[1][0]
    assert_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("given", [(), (torch.zeros(()),), (torch.zeros(3, 2), torch.zeros(4, 2))])
def test_a_stack_has_one_length(given):
    _, svi = made()
    with pytest.raises(ValueError, match="first axis is over the steps, of one length"):
        svi.steps(*given)


def test_what_cannot_go_together_goes_one_by_one():
    for optim in (pyro.optim.Adam({"lr": 1e-2}), FusedOptim(torch.optim.Rprop, {"lr": 1e-2})):
        pair, svi = made(optim=optim)
        single = [svi.step(x) for x in rows(12)]
        kept = {name: value.clone() for name, value in pair.state_dict().items()}
        if isinstance(optim, FusedOptim):
            optim.forget()
        pyro.clear_param_store()
        again = (
            FusedOptim(torch.optim.Rprop, {"lr": 1e-2})
            if isinstance(optim, FusedOptim)
            else type(optim)(optim.pt_optim_constructor, {"lr": 1e-2})
        )
        pair, svi = made(optim=again)
        assert svi.steps(rows(12)).losses == single
        assert_equal(dict(pair.state_dict()), kept)


def test_a_gradient_that_is_there_already_is_added():
    found = []
    for many in (False, True):
        pair, svi = made()
        svi.steps(rows(20))
        pair.decoder.bias.grad = torch.full((PIXELS,), 3.0)
        x = rows(3, seed=8)
        found.append((svi.steps(x).losses if many else [svi.step(each) for each in x], left(pair, svi)))
    assert found[0][0] == found[1][0]
    assert_equal(found[0][1], found[1][1])


# ---- losses that are not finite, and errors


@pytest.mark.parametrize("bad", [40, 41, 63])
def test_a_loss_that_is_not_finite_is_found_with_its_step(bad):
    pair, svi = made()
    x = rows(80)
    x[bad, 2, 1] = math.inf
    with pytest.raises(NonFiniteLossError) as caught, pyro.validation_enabled(False):
        # a loader in no order would be taken step by step: the data are whole batches in a row
        fit(svi, InOrder(x), epochs=1, progress=False, batch_size=BATCH)
    assert caught.value.step == bad + 1
    assert caught.value.batch[0].isinf().nonzero().tolist() == [[2, 1]]
    fresh, _ = made()
    torch.testing.assert_close(pair.encoder[0].weight, fresh.encoder[0].weight)


class InOrder(TensorDataset):
    """A dataset of batches in a row, whose order is that of the data."""

    def __init__(self, x):
        super().__init__(x.flatten(0, 1))


@pytest.fixture(autouse=True)
def ordered(monkeypatch, request):
    """Trains on rows in their order, so that a test knows which step meets which of them."""
    if "found_with_its_step" in request.node.name or "plain_values" in request.node.name:
        monkeypatch.setattr(torch, "randperm", lambda size, **_: torch.arange(size))


def test_steps_before_an_error_are_taken():
    pair, svi = made(SVI)
    for x in rows(40)[:25]:
        svi.step(x)
    expected = left(pair, svi)
    pair, svi = made()
    x = rows(40)
    x[25] = math.nan
    given = []
    with pytest.raises(ValueError, match=r"(?s)nan|support|Real"), pyro.validation_enabled():
        given += [loss for each in svi.steps_by_call(x) for loss in given_losses(each, given)]
    assert len(given) == 25
    ours = left(pair, svi)
    for name in ("encoder.0.weight", "decoder.weight"):
        torch.testing.assert_close(ours[name], expected[name], rtol=0, atol=0)


def given_losses(taken, given):
    given.extend(taken.losses)
    return []


@pytest.mark.parametrize("kind", [ClippedAdam, AdagradRMSProp, torch.optim.SGD])
def test_what_an_optimiser_keeps_in_plain_values_is_undone_too(kind):
    options = {"lrd": 0.9} if kind is ClippedAdam else {} if kind is AdagradRMSProp else {"lr": 1e-3}
    x = rows(40)
    x[26, 0, 0] = math.inf
    found = []
    for svi_kind in (SVI, CapturedSVI):
        _, svi = made(svi_kind, optim=FusedOptim(kind, options))
        with pytest.raises(NonFiniteLossError), pyro.validation_enabled(False):
            fit(svi, InOrder(x), epochs=1, progress=False, batch_size=BATCH)
        _, svi = made(svi_kind, optim=FusedOptim(kind, options))
        with pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            losses = [svi.step(each) for each in x[:26]] if svi_kind is SVI else svi.steps(x[:27]).losses[:26]
        found.append(losses)
    assert found[0] == found[1]


def test_an_interruption_undoes_its_call():
    pair, svi = made()
    svi.steps(rows(20))
    expected = left(pair, svi)
    step = next(iter(svi._graphs.values())).step
    calls = iter(range(4))

    def interrupted(*given, run=step._function):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return run(*given)

    step._function = interrupted
    with pytest.raises(KeyboardInterrupt):
        svi.steps(rows(6, seed=9))
    assert_equal(left(pair, svi), expected)


def test_a_gradient_outside_of_the_loss_is_taken_in_a_compared_step_too():
    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        pair = nn.ParameterList([torch.zeros(2), torch.zeros(2)])

        def model(x, pair=pair):
            pyro.module("pair", pair)
            for step in range(6):  # turns that are done at once, and so rounded otherwise
                pyro.sample(f"x{step}", dist.Normal(pair[0], 1.0).to_event(1), obs=x[step])

        svi = kind(model, lambda x: None, FusedOptim(torch.optim.SGD, {"lr": 0.1}), BetaELBO(beta=1.0))
        for step in range(6):
            pair[1].grad = torch.ones(2) if step == 1 else None
            svi.step(torch.ones(6, 2) * step)
        found.append([each.detach().clone() for each in pair])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=0)


def test_what_a_kind_of_data_creates_is_drawn_as_by_svi():
    def model(x):
        loc = pyro.param("a", lambda: torch.randn(PIXELS))
        if len(x) < BATCH:
            loc = loc + pyro.param("b", lambda: torch.randn(PIXELS))
        z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1), infer={"is_auxiliary": True})
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc + z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(PIXELS), 1.0).to_event(1))

    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(4)
        svi = kind(model, guide, adam(), BetaELBO(beta=1.0))
        found.append([svi.step(x) for size in (BATCH, 3, BATCH, 3) for x in rows(3, batch=size)])
    assert found[0] == found[1]


def test_layouts_that_change_again_and_again_end_the_capture():
    _, svi = made()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(40):
            svi.steps(rows(3))
            svi.optim.set_state(svi.optim.get_state())
    assert "options of the optimiser changes again and again" in svi.reason
    assert [svi.reason in str(each.message) for each in caught] == [True]


def test_arrays_are_no_stack():
    _, svi = made()
    with pytest.raises(ValueError, match="Expected tensors but got arrays"):
        svi.steps(rows(2), np.zeros((2, BATCH)))


# ---- trainings


class Tuples(ReweightedWakeSleep):
    """Two losses, of the model and of the guide."""


def test_fit_on_losses_of_two_parts_and_on_data_that_collect_gradients():
    for objective, requires_grad in ((Tuples, False), (Trace_ELBO, True)):
        found = []
        for kind in (SVI, CapturedSVI):
            pyro.clear_param_store()
            torch.manual_seed(1)
            pair = Pair()
            given = data().requires_grad_(requires_grad)
            svi = kind(pair.model, pair.guide, adam(), objective())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                history = fit(svi, given, epochs=2, seed=3, **SILENT)
            found.append(history["loss"].tolist())
        assert found[0] == found[1]


def test_a_history_has_the_terms_of_an_objective_that_is_not_ours():
    class Own(Trace_ELBO):
        terms = None

        def loss_and_grads(self, *args, **kwargs):
            loss = super().loss_and_grads(*args, **kwargs)
            self.terms = {"mine": 2 * loss}
            return loss

    pyro.clear_param_store()
    pair = Pair()
    svi = CapturedSVI(pair.model, pair.guide, adam(), Own())
    with pytest.warns(UserWarning, match="loss_and_grads of its own"):
        history = fit(svi, data(), epochs=2, seed=3, **SILENT)
    assert history["mine"].tolist() == pytest.approx((2 * history["loss"]).tolist())


def data(number=61):
    return rows(1, number, seed=6)[0]


@pytest.mark.parametrize("columns", ["tensor", "array", "frame of two"])
def test_fit_takes_many_steps_a_call(columns):
    import pandas as pd

    given = {
        "tensor": data(),
        "array": data().numpy(),
        "frame of two": (pd.DataFrame(data().numpy()), np.linspace(0, 1, 61)[:, None]),
    }[columns]
    found = []
    for kind in (SVI, CapturedSVI):
        pair, svi = made(kind)
        history = fit(svi, given, epochs=12, validation=None, seed=3, **SILENT)
        frame = history.to_frame().drop(columns="seconds")
        found.append((frame, {name: value.clone() for name, value in pair.state_dict().items()}))
    assert found[0][0].equals(found[1][0])
    assert_equal(found[0][1], found[1][1])


def test_a_loader_may_draw_and_is_asked_for_one_batch_a_step():
    found = []
    for kind in (SVI, CapturedSVI):
        pair, svi = made(kind)
        loader = DataLoader(TensorDataset(data()), batch_size=BATCH, shuffle=True, collate_fn=noisy)
        history = fit(svi, loader, epochs=4, progress=False, seed=3)
        found.append((history["loss"].tolist(), dict(pair.state_dict())))
    assert found[0][0] == found[1][0]
    assert_equal(found[0][1], found[1][1])


def noisy(items):
    x = torch.stack([x for (x,) in items])
    return (x + 0.1 * torch.randn_like(x),)


def resumed(path, epochs, *, every, until, **options):
    """Where a training has come to that was stopped after so many steps, and resumed."""
    for resume in (False, True):
        pair, svi = made(**options)
        kept = StopsAfter(path, every_steps=every)
        kept.left = None if resume else until
        history = None
        try:
            history = fit(svi, data(), epochs=epochs, seed=3, checkpoint=kept, resume=resume, **SILENT)
        except Stopped:
            continue
    return history.to_frame().drop(columns="seconds"), left(pair, svi)


class Stopped(Exception):
    """A training is stopped here."""


class StopsAfter(Checkpoint):
    """A checkpoint whose training ends after some writings, as a killed one does, or leaves a copy there."""

    copied = None


@pytest.fixture
def stopping(monkeypatch):
    from pyro_infomax.training import _checkpoint

    write = _checkpoint.Keeper._write

    def write_and_stop(keeper, part):
        write(keeper, part)
        left = getattr(keeper.checkpoint, "left", None)
        if left is not None and keeper.training.step >= left:
            if keeper.checkpoint.copied is None:
                raise Stopped
            shutil.copy(keeper.checkpoint.path, keeper.checkpoint.copied)
            keeper.checkpoint.left = None

    monkeypatch.setattr(_checkpoint.Keeper, "_write", write_and_stop)


def test_a_replayed_training_resumes_to_the_bit(tmp_path, stopping):
    pair, svi = made()
    whole = fit(svi, data(), epochs=4, seed=3, **SILENT).to_frame().drop(columns="seconds")
    expected = left(pair, svi)
    for number, until in enumerate(range(1, 36, 7)):
        frame, state = resumed(tmp_path / f"{number}.pt", 4, every=1 + number % 4, until=until)
        assert frame.equals(whole)
        assert_equal(state, expected)


# ---- compiled


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@needs_compiler
def test_compiled_steps(cache, tmp_path, stopping):
    # they are ordinary ones up to rounding
    pair, svi = made(SVI)
    ordinary = fit(svi, data(), epochs=4, seed=3, **SILENT).to_frame().drop(columns="seconds")
    expected = left(pair, svi)
    # a step that is checked is another one, and a compilation more
    pyro.enable_validation(False)
    pair, svi = made(backend="inductor")
    kept = StopsAfter(tmp_path / "whole.pt", every_steps=7)
    kept.left, kept.copied = 14, tmp_path / "part.pt"
    whole = fit(svi, data(), epochs=4, seed=3, checkpoint=kept, **SILENT).to_frame().drop(columns="seconds")
    ours = left(pair, svi)
    assert svi.captured, svi.reason
    (step,) = [graph.step for graph in svi._graphs.values() if graph.step and graph.step.compiled]
    assert step._training._loop is not None  # without Python between the steps of a call
    assert (whole - ordinary).abs().to_numpy().max() < 1e-9
    assert_equal(ours, expected, rtol=1e-9, atol=1e-12)
    # one by one, from the middle on, they are the same to the bit; the short last batches are not compiled
    pair, svi = made(backend="inductor")
    again = Checkpoint(kept.copied, every_steps=1)
    history = fit(svi, data(), epochs=4, seed=3, checkpoint=again, resume=True, **SILENT)
    assert svi.captured, svi.reason
    assert history.to_frame().drop(columns="seconds").equals(whole)
    assert_equal(left(pair, svi), ours)


@needs_compiler
def test_compiled_steps_end_where_ordinary_ones_do_for_four_seeds(cache):
    finals, counts, data = [], [], rows(40)
    for kind in (SVI, lambda *args: CapturedSVI(*args, backend="inductor")):
        pyro.clear_param_store()
        torch.manual_seed(0)
        encoder, decoder = nn.Linear(PIXELS, 2 * LATENT), nn.Linear(LATENT, PIXELS)
        # small tensors that the programs close over stay live, to be read and to be written
        shift, count = torch.zeros(PIXELS), torch.zeros(())

        def model(x, decoder=decoder, shift=shift, count=count):
            count.add_(1)
            pyro.module("decoder", decoder)
            scale = pyro.param("scale", torch.tensor(0.8), constraint=dist.constraints.positive)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x + shift)

        def guide(x, encoder=encoder):
            pyro.module("encoder", encoder)
            loc, log_scale = encoder(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        # without moments, which a new start would have to clear, so that one compilation serves all seeds
        optim = FusedOptim(torch.optim.SGD, {"lr": 3e-2}, clip_norm=1.0)
        svi = kind(model, guide, optim, BetaELBO(beta=1.0))
        svi.step(data[0])
        leaves = [leaf for _, leaf in pyro.get_param_store().named_parameters()]
        for seed in range(4):
            torch.manual_seed(seed)
            shift.fill_(0.1 * seed)
            with torch.no_grad():
                for leaf in leaves:
                    leaf.copy_(0.3 * torch.randn(leaf.shape))
            finals.append(sum([svi.step(x) for x in data][-10:]) / 10)
        counts.append(int(count))
    assert svi.captured, svi.reason
    assert counts == [161, 161]
    ordinary, compiled = torch.tensor(finals[:4]), torch.tensor(finals[4:])
    # draws are the same, so that the losses are too, and not only their distribution
    torch.testing.assert_close(compiled, ordinary, rtol=1e-6, atol=0)
    assert ordinary.std() > 1e-3


@needs_compiler
def test_an_error_of_compiled_code_is_that_of_its_step(cache):
    def model(index, x):
        with pyro.plate("data", len(index)):
            loc = pyro.param("loc", torch.zeros(5))[index]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    # a step that is checked is another one
    pyro.enable_validation(False)
    index, x = torch.randint(5, (12, 8)), torch.ones(12, 8)
    index[9, 3] = 7
    infinite = torch.ones(3, 8)
    infinite[1, 0] = math.inf
    left_by = {}
    for backend in ("replay", "inductor"):
        pyro.clear_param_store()
        optim = FusedOptim(torch.optim.Adam, {"lr": 0.1})
        svi = CapturedSVI(model, lambda *_: None, optim, Trace_BetaELBO(), backend=backend)
        svi.progress = False
        taken = list(svi.steps(index[:4], x[:4]).losses)
        with pytest.raises(IndexError, match="out of"):
            taken += svi.steps(index[4:], x[4:]).losses
        left_by[backend] = pyro.param("loc").detach().clone(), svi.optim._groups[0].optimizer.state_dict()
    (loc, state), (compiled_loc, compiled_state) = left_by.values()
    torch.testing.assert_close(compiled_loc, loc, rtol=1e-12, atol=1e-15)
    assert compiled_state["state"][0]["step"] == state["state"][0]["step"] == 9
    # a loss that is not finite moves nothing, and the step is taken as an ordinary one
    (step,) = [graph.step for graph in svi._graphs.values() if graph.step]
    assert step.compiled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        losses = svi.steps(index[:3], infinite).losses
    assert [math.isfinite(loss) for loss in losses[:2]] == [True, False]


@needs_compiler
def test_compiled_steps_read_slices_and_expansions_where_they_are(cache):
    table = torch.randn(4, 3, dtype=torch.float32)
    ones = torch.ones(1, dtype=torch.float32).expand(4)
    losses = {}
    x = torch.randn(30, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32)

    def programs(x, *, is_model):
        scale = pyro.param("scale", torch.zeros(4, dtype=torch.float32)).exp()
        with pyro.plate("data", 16, subsample_size=len(x)):
            loc = torch.zeros_like(x) if is_model else x / 2
            z = pyro.sample("z", dist.Normal(loc, ones if is_model else scale).to_event(1))
            if is_model:
                column = table[:, :1].squeeze(1)
                pyro.sample("x", dist.Normal(z * column, 1.0).to_event(1), obs=x)

    for kind, backend in ((SVI, {}), (CapturedSVI, {"backend": "inductor"})):
        pyro.clear_param_store()
        torch.manual_seed(0)
        with torch.no_grad():
            table.fill_(1.0)
        # in float32, what is kept in double precision is rounded as the rest is
        elbo = ConstrainedELBO(mutual_information=1.0)
        optim = FusedOptim(torch.optim.Adam, {"lr": 0.01})
        svi = kind(
            partial(programs, is_model=True), partial(programs, is_model=False), optim, elbo, **backend
        )
        svi.progress = False
        losses[kind] = [svi.step(each) for each in x[:10]]
        with torch.no_grad():
            table[:, 0] *= 3.0
        losses[kind] += [svi.step(each) for each in x[10:20]]
        if kind is CapturedSVI:
            losses[kind] += svi.steps(x[20:]).losses
            (graph,) = [each for each in svi._graphs.values() if each.step]
            assert graph.step.compiled
        else:
            losses[kind] += [svi.step(each) for each in x[20:]]
    torch.testing.assert_close(*map(torch.tensor, losses.values()), rtol=1e-4, atol=1e-3)


def test_what_fails_while_a_step_is_made_ready_for_the_compiler_is_replayed(monkeypatch):
    def failing(*args, **kwargs):
        raise ZeroDivisionError("in a version of torch to come")

    monkeypatch.setattr("pyro_infomax.capture._compiled.make_fx", failing)
    _, svi = made(backend="inductor")
    svi.step(rows(1)[0])
    with pytest.warns(UserWarning, match="without compiling them: the compiler says ZeroDivisionError"):
        svi.step(rows(1)[0])
    assert svi.captured, svi.reason


# ---- the optimiser's step as operations

OPTIONS = {
    torch.optim.Adam: [{}, {"weight_decay": 0.3, "amsgrad": True}, {"maximize": True, "betas": (0.7, 0.9)}],
    torch.optim.AdamW: [{}, {"weight_decay": 0.3, "amsgrad": True, "eps": 1e-3}, {"maximize": True}],
    torch.optim.SGD: [
        {},
        {"momentum": 0.9, "weight_decay": 0.2},
        {"momentum": 0.8, "nesterov": True},
        {"momentum": 0.8, "dampening": 0.3, "maximize": True},
    ],
}


@pytest.mark.parametrize(
    ("kind", "options"), [(kind, options) for kind, every in OPTIONS.items() for options in every], ids=str
)
def test_an_update_is_the_step_of_the_optimiser(kind, options):
    optim = FusedOptim(kind, {"lr": 0.05, **options})
    parameters = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
    pyro.clear_param_store()
    for number, parameter in enumerate(parameters):
        pyro.param(f"p{number}", parameter)

    def step(gradient):
        for parameter, part in zip(parameters, gradient.split([6, 4]), strict=True):
            parameter.grad = part.view(parameter.shape).clone()
        optim(tuple(parameters))

    gradients = torch.randn(4, 10)
    step(gradients[0])
    (update,) = updates_of(GradientBuffers(optim, parameters, parameters))
    assert update.current
    for before, gradient in pairwise(gradients):
        del before
        (row,) = torch.tensor(update.rows(1), dtype=torch.float64)
        flat, *moments = update(update.flat.clone(), gradient, row, *(each.clone() for each in update.kept))
        step(gradient)
        torch.testing.assert_close(flat, update.flat, rtol=1e-13, atol=1e-15)
        for value, kept in zip(moments, update.kept, strict=True):
            torch.testing.assert_close(value, kept, rtol=1e-13, atol=1e-15)
    # Numbers are read anew at each step; whether there is such a term is fixed
    group = optim._groups[0].optimizer.param_groups[0]
    group["lr"] = 0.5
    assert update.current
    group["weight_decay"] = 0.0 if group["weight_decay"] else 0.7
    assert not update.current


def test_a_learning_rate_schedule_between_epochs():
    found = []
    for kind in (SVI, CapturedSVI):
        optim = adam(scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
        pair, svi = made(kind, optim=optim)
        fit(svi, data(), epochs=6, seed=3, callbacks=[LearningRateSchedule()], **SILENT)
        found.append({name: value.clone() for name, value in pair.state_dict().items()})
    assert_equal(*found)
