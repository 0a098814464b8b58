"""The loop of fit: its steps, its data, its validation, its seeds, and its clean stop."""

import pickle
import threading
import warnings

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, ReweightedWakeSleep, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_infomax.capture import FusedOptim
from pyro_infomax.infer import Trace_BetaELBO, TraceMeanField_BetaELBO, TraceMeanField_InfoMaxELBO
from pyro_infomax.schedules import Linear
from pyro_infomax.training import History, NonFiniteLossError, fit


def parameters():
    return {name: value.detach().clone() for name, value in pyro.get_param_store().named_parameters()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert len(ours) > 0
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def is_finite(values):
    return all(bool(value.isfinite().all()) for value in values.values())


def location_svi(*, lr=0.1):
    """No latent site: its loss is not random, n times a Gaussian's negative log-likelihood at loc."""

    def model(x):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    pyro.clear_param_store()
    return SVI(model, lambda x: None, pyro.optim.Adam({"lr": lr}), Trace_ELBO())


# -- the loop --------------------------------------------------------------------------------------


def test_agrees_with_a_hand_written_loop(make_svi, data):
    svi = make_svi()
    torch.manual_seed(5)
    expected = []
    for _ in range(3):
        sums = torch.zeros(4)
        for index in torch.randperm(10).split(4):
            loss = svi.step(data[index])
            terms = svi.loss_and_grads.__self__.terms
            sums += torch.tensor([loss, terms.distortion, terms.rate, terms.elbo])
        expected.append(sums / 10)
    hand_written = parameters()

    svi = make_svi()
    torch.manual_seed(5)
    history = fit(svi, data, epochs=3, batch_size=4, progress=False)

    frame = history.to_frame()
    ours = torch.tensor(frame[["loss", "distortion", "rate", "elbo"]].to_numpy())
    torch.testing.assert_close(ours, torch.stack(expected), rtol=1e-14, atol=0)
    assert frame["step"].tolist() == [3, 6, 9]
    assert_same(parameters(), hand_written)


def test_whole_data_each_step(make_svi, data):
    seen = []
    svi = make_svi()
    guide = svi.guide
    svi.guide = lambda x: (seen.append(x), guide(x))[1]
    history = fit(svi, data, epochs=2, batch_size=None, progress=False)
    assert all(x is data for x in seen)
    assert history.steps == 2


def test_loss_is_per_datum(data):
    history = fit(location_svi(), data, epochs=1, batch_size=None, progress=False)
    expected = -dist.Normal(0.0, 1.0).log_prob(data).sum(-1).mean()
    assert history["loss"][0] == pytest.approx(float(expected), rel=1e-12)


def test_stock_elbo_has_no_terms(make_svi, data):
    history = fit(make_svi(TraceMeanField_ELBO()), data, epochs=1, validation=data, progress=False)
    assert history.columns == ("epoch", "step", "loss", "seconds", "validation_loss")


def test_loss_of_several_parts():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(())), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.ones(())) * x, 1.0))

    def make():
        pyro.clear_param_store()
        elbo = ReweightedWakeSleep(num_particles=2, max_plate_nesting=1)
        return SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)

    x = torch.randn(8)
    history = fit(make(), x, epochs=1, batch_size=None, progress=False, seed=3)
    torch.manual_seed(3)
    assert history["loss"][0] == pytest.approx(sum(make().step(x)) / 8)


def test_two_columns_of_data_reach_model_and_guide():
    def model(x, y):
        weight = pyro.param("weight", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(weight * x, 1.0), obs=y)

    svi = SVI(model, lambda x, y: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    x = torch.linspace(-2, 2, 30)
    fit(svi, (x, 2 * x), epochs=60, batch_size=16, progress=False)
    assert pyro.param("weight").item() == pytest.approx(2.0, abs=0.05)


# -- kinds of data ---------------------------------------------------------------------------------


class Rows(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index]


class TupleRows(Rows):
    def __getitem__(self, index):
        return (self.x[index].numpy(),)


@pytest.mark.parametrize("wrap", [lambda x: (x,), TensorDataset, Rows, TupleRows])
@pytest.mark.parametrize("batch_size", [4, None])
def test_all_kinds_of_data_train_alike(make_svi, data, wrap, batch_size):
    fit(make_svi(), data, epochs=2, batch_size=batch_size, progress=False, seed=3)
    expected = parameters()
    fit(make_svi(), wrap(data), epochs=2, batch_size=batch_size, progress=False, seed=3)
    assert_same(parameters(), expected)


def test_loader_keeps_its_own_batches(data):
    fit(location_svi(), DataLoader(TensorDataset(data), batch_size=4), epochs=1, batch_size=1, progress=False)
    by_loader = parameters()
    svi = location_svi()
    for batch in data.split(4):
        svi.step(batch)
    assert_same(by_loader, parameters())


# -- validation ------------------------------------------------------------------------------------


def test_validation_changes_no_parameter_and_no_random_stream(make_svi, data):
    fit(make_svi(), data, epochs=3, batch_size=4, progress=False)
    state, expected = torch.get_rng_state(), parameters()
    torch.manual_seed(0)
    fit(make_svi(), data, epochs=3, batch_size=4, progress=False, validation=data)
    assert_same(parameters(), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_shuffling_loader_as_validation_changes_no_random_stream(data):
    loader = DataLoader(TensorDataset(data), batch_size=4, shuffle=True)
    fit(location_svi(), data, epochs=2, progress=False)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    fit(location_svi(), data, epochs=2, progress=False, validation=loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_loss_is_that_of_the_trained_parameters(data):
    svi = location_svi()
    held_out = data[:7] + 1.0
    history = fit(svi, data, epochs=3, batch_size=4, progress=False, validation=held_out)
    assert history["validation_loss"][-1] == pytest.approx(svi.evaluate_loss(held_out) / 7, rel=1e-12)


def test_validation_has_each_term(make_svi, data):
    svi = make_svi()
    history = fit(svi, data, epochs=1, validation=data, progress=False, batch_size=None)
    row = history.rows[0]
    # The random state of that evaluation is the one in which training ended
    svi.guide.__self__.eval()
    svi.evaluate_loss(data)
    terms = svi.loss_and_grads.__self__.terms
    for name in ("loss", "distortion", "rate", "elbo"):
        assert row[f"validation_{name}"] == pytest.approx(getattr(terms, name) / 10, rel=1e-12), name


def test_validation_does_not_advance_a_schedule(make_svi, data):
    elbo = TraceMeanField_BetaELBO(beta=Linear(0.0, 1.0, 4))
    fit(make_svi(elbo), data, epochs=2, batch_size=5, validation=data, progress=False)
    assert elbo.step == 4


def test_validation_runs_in_evaluation_mode_without_gradients(make_svi, data):
    svi = make_svi()
    pair = svi.guide.__self__
    pair.decoder.eval()
    fit(svi, data, epochs=2, batch_size=None, validation=data, progress=False)
    assert list(pair.modes) == [(True, True), (False, False)] * 2
    assert pair.dropout.training
    assert not pair.decoder.training


# -- seeds -----------------------------------------------------------------------------------------


def test_same_seed_same_parameters(make_svi, data):
    state = torch.get_rng_state()
    fit(make_svi(), data, epochs=2, batch_size=4, progress=False, seed=11)
    first = parameters()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    fit(make_svi(), data, epochs=2, batch_size=4, progress=False, seed=11)
    assert_same(parameters(), first)


def test_other_seed_other_parameters(make_svi, data):
    fit(make_svi(), data, epochs=1, batch_size=4, progress=False, seed=11)
    first = parameters()
    fit(make_svi(), data, epochs=1, batch_size=4, progress=False, seed=12)
    assert not torch.equal(parameters()["scale"], first["scale"])


# -- warm-up ---------------------------------------------------------------------------------------


def test_unfinished_warm_up_is_warned_about(make_svi, data):
    svi = make_svi(TraceMeanField_InfoMaxELBO(lam=Linear(0.0, 3.0, 10)))
    with pytest.warns(UserWarning, match=r"need 6 more steps .* after 4 in this training"):
        fit(svi, data, epochs=2, batch_size=5, progress=False)


def test_finished_warm_up_is_silent(make_svi, data):
    svi = make_svi(TraceMeanField_InfoMaxELBO(lam=Linear(0.0, 3.0, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(svi, data, epochs=2, batch_size=5, progress=False)


# -- losses that are not finite --------------------------------------------------------------------


def test_infinite_loss_in_the_first_epoch_leaves_initial_parameters(make_svi, data):
    svi = make_svi()
    torch.manual_seed(2)
    svi.evaluate_loss(data)
    initial = parameters()
    svi = make_svi()
    spoiled = data.clone()
    spoiled[7] = torch.inf
    torch.manual_seed(2)
    with (
        pyro.validation_enabled(False),
        pytest.raises(
            NonFiniteLossError, match=r"The loss is nan at step 1 \(epoch 1\).*initial values"
        ) as caught,
    ):
        fit(svi, spoiled, epochs=2, batch_size=None, progress=False)
    assert_same(parameters(), initial)
    assert caught.value.batch[0] is spoiled
    assert len(caught.value.history.to_frame()) == 0


def test_infinite_loss_later_leaves_the_last_good_epoch(make_svi, data):
    good = {}

    def spoil(state):
        if state.epoch == 2:
            good.update(parameters())
            data[7, 0] = torch.inf

    with pytest.raises(NonFiniteLossError, match="the end of epoch 2") as caught:
        fit(make_svi(), data, epochs=5, batch_size=1, callbacks=[spoil], progress=False)
    error = caught.value
    assert_same(parameters(), good)
    assert (error.epoch, len(error.history)) == (3, 2)
    assert torch.equal(error.batch[0], data[7:8])
    assert 20 < error.step <= 30


@pytest.mark.parametrize("optim", [None, lambda: FusedOptim(torch.optim.Adam, {"lr": 0.01})])
def test_training_can_go_on_after_a_loss_that_is_not_finite(make_svi, data, optim):
    svi = make_svi()
    svi.optim = svi.optim if optim is None else optim()
    fit(svi, data, epochs=1, progress=False)
    spoiled = data.clone()
    spoiled[0] = torch.inf
    with pyro.validation_enabled(False), pytest.raises(NonFiniteLossError, match="The loss is nan"):
        fit(svi, spoiled, epochs=1, batch_size=None, progress=False)
    assert svi.optim.get_state() == {}
    fit(svi, data, epochs=2, progress=False)
    assert is_finite(parameters())


def test_the_error_survives_the_way_between_processes():
    history = History()
    history.append({"epoch": 1, "step": 3, "loss": 4.0, "seconds": 0.5})
    error = NonFiniteLossError("The loss is nan.", step=4, epoch=2, batch=(torch.ones(2),), history=history)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.step, copy.epoch) == ("The loss is nan.", 4, 2)
    assert torch.equal(copy.batch[0], torch.ones(2))
    assert copy.history.rows == history.rows


def test_pyros_validation_of_nan_is_the_same_error(make_svi, data):
    spoiled = data.clone()
    spoiled[3, 1] = torch.nan
    with pytest.raises(NonFiniteLossError, match="its batch holds 1 nan or inf") as caught:
        fit(make_svi(), Rows(spoiled), epochs=1, progress=False)
    assert isinstance(caught.value.__cause__, ValueError)
    assert is_finite(parameters())


@pytest.mark.parametrize("validate", [True, False])
def test_gradient_that_is_not_finite(validate):
    def model(x):
        scale = pyro.param("scale", torch.ones(()), constraint=constraints.positive)
        pyro.factor("spoiler", -(scale - scale).sqrt())
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with pyro.validation_enabled(validate), pytest.raises(NonFiniteLossError, match="after step 1"):
        fit(svi, torch.randn(8), epochs=1, progress=False)
    assert pyro.param("scale").item() == 1.0


def test_too_high_a_learning_rate(make_svi, data):
    with pytest.raises(NonFiniteLossError, match="lower the learning rate"):
        fit(make_svi(lr=1e200), data, epochs=10, batch_size=5, progress=False)
    assert is_finite(parameters())


def test_program_that_cannot_run_on_spoiled_parameters(data):
    def model(x):
        scale = pyro.param("scale", torch.ones(()))
        torch.linalg.cholesky(torch.eye(2) * scale)
        pyro.factor("spoiler", -(scale - scale).sqrt() + x.mean())

    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with pytest.raises(NonFiniteLossError, match="cannot be computed at step 2") as caught:
        fit(svi, data, epochs=1, batch_size=5, progress=False)
    assert isinstance(caught.value.__cause__, torch.linalg.LinAlgError)
    assert pyro.param("scale").item() == 1.0


def test_half_a_gradient_is_dropped():
    calls = []

    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        calls.append(x)
        if len(calls) == 2:
            raise ValueError("stopped in the second particle")
        pyro.factor("observed", loc + 1.0)

    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(num_particles=2))
    with pytest.raises(NonFiniteLossError):
        fit(svi, torch.tensor([torch.inf]), epochs=1, progress=False)
    assert pyro.param("loc").unconstrained().grad is None


class Standardised(nn.Module):
    """A module with running statistics, and with a buffer that is meant to be infinite."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False)
        self.loc = nn.Parameter(torch.zeros(3))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def model(self, x):
        pyro.module("standardised", self)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=self.norm(x))


def test_running_statistics_go_back_too(data):
    module = Standardised()
    svi = SVI(module.model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    fit(svi, data, epochs=1, progress=False)
    mean = module.norm.running_mean.clone()
    with pyro.validation_enabled(False), pytest.raises(NonFiniteLossError):
        fit(svi, data + torch.tensor([torch.inf, 0.0, 0.0]), epochs=1, progress=False)
    assert torch.equal(module.norm.running_mean, mean)


@pytest.mark.parametrize("size", [5, 4])
def test_other_errors_pass_through(data, size):
    """In the first step, and in a later one."""

    def model(x):
        pyro.param("a", torch.zeros(()))
        if len(x) != size:
            raise ValueError("my own mistake")

    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with pytest.raises(ValueError, match="my own mistake"):
        fit(svi, data, epochs=1, batch_size=4, progress=False)


def test_invalid_argument_in_the_first_step_is_the_programs_own(data):
    def model(x):
        pyro.sample("x", dist.Normal(pyro.param("a", torch.zeros(())), -1.0), obs=x[0, 0])

    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with pytest.raises(ValueError, match="Expected parameter scale"):
        fit(svi, data, epochs=1, progress=False)


# -- what runs between epochs ----------------------------------------------------------------------


def test_callbacks_see_each_epoch_and_can_stop(make_svi, data):
    seen = []

    def watch(state):
        seen.append((state.epoch, state.step, state.row["loss"] == state.history["loss"][-1]))
        if state.epoch == 2:
            state.stop("enough")

    history = fit(make_svi(), data, epochs=9, batch_size=5, callbacks=[watch], progress=False)
    assert seen == [(1, 2, True), (2, 4, True)]
    assert history.stopped == "enough"
    assert len(history) == 2


def test_progress_goes_to_stderr(make_svi, data, capsys):
    own_column = [lambda state: state.row.update(other=1.0)]
    fit(make_svi(), data, epochs=2, validation=data, callbacks=own_column, progress="beta=4")
    out, err = capsys.readouterr()
    assert out == ""
    assert "beta=4: " in err
    assert "2/2" in err
    for name in ("loss=", "distortion=", "rate=", "validation_loss=", "other=1"):
        assert name in err
    for name in ("seconds", "validation_rate", "elbo"):
        assert name not in err


def test_no_progress_is_silent(make_svi, data, capsys):
    fit(make_svi(), data, epochs=2, validation=data, progress=False)
    assert capsys.readouterr() == ("", "")


# -- wrong input -----------------------------------------------------------------------------------

WITH_NAN = torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [torch.nan, torch.nan]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"svi": "svi"}, r"Expected a pyro.infer.SVI but got str"),
        ({"epochs": 0}, r"epochs to be an integer >= 1 but got 0"),
        ({"epochs": 2.0}, r"epochs to be an integer >= 1 but got 2.0"),
        ({"epochs": np.bool_(True)}, r"epochs to be an integer >= 1 but got"),
        ({"epochs": "3"}, r"epochs to be an integer >= 1 but got '3'"),
        ({"batch_size": 0}, r"batch_size to be an integer >= 1 but got 0"),
        ({"batch_size": 1.5}, r"batch_size .* got 1.5"),
        ({"data": 3.0}, r"data to be a tensor, an array, .* got the type float"),
        ({"data": np.array(["a", "b"])}, r"data to be numbers, .* values of dtype <U1"),
        ({"data": pd.DataFrame({"x": [1.0, None]})}, r"data without missing values but got 1"),
        ({"seed": 1.5}, r"seed to be an integer .* got 1.5"),
        ({"data": [torch.ones(3)]}, r"data to be .* got a list of Tensor"),
        ({"data": ()}, r"data to be .* got a tuple of nothing"),
        ({"data": (torch.ones(3), "y")}, r"data to be .* got a tuple of Tensor and str"),
        ({"data": torch.ones(0, 3)}, r"data to hold at least one datum"),
        ({"data": torch.ones(())}, r"data to have a first axis"),
        ({"data": (torch.ones(3), torch.ones(4))}, r"one length but got lengths \[3, 4\]"),
        (
            {"data": (torch.ones(3), WITH_NAN)},
            r"data without nan but its tensor 1 holds 3, the first in row 1",
        ),
        ({"validation": WITH_NAN}, r"validation without nan"),
        ({"validation": 3}, r"validation to be a tensor"),
        ({"data": Rows([])}, r"data to hold at least one datum"),
        ({"data": Rows([{"x": 1.0}])}, r"batch to be a tensor or a tuple of tensors but got the type dict"),
        ({"data": DataLoader(Rows(torch.ones(3)), 4, drop_last=True)}, r"at least one datum in an epoch"),
    ],
)
def test_wrong_input(make_svi, change, message):
    arguments = {"svi": make_svi(), "data": torch.ones(4, 3), "epochs": 1, "progress": False} | change
    with pytest.raises(ValueError, match=message):
        fit(arguments.pop("svi"), arguments.pop("data"), **arguments)
    assert parameters() == {}


def test_a_subsample_of_a_larger_plate_is_counted_as_the_data_that_it_stands_for():
    def model(x):
        with pyro.plate("data", 40, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    x = torch.randn(40)
    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_BetaELBO(1.0))
    frame = fit(svi, x, epochs=1, batch_size=8, progress=False).to_frame()
    expected = -dist.Normal(0.0, 1.0).log_prob(x).mean().item()
    assert frame["loss"].item() == pytest.approx(expected)
    assert frame["distortion"].item() == pytest.approx(expected)


def test_counts_may_be_numpys_integers(data):
    assert fit(location_svi(), data, epochs=np.int32(2), batch_size=np.uint64(5), progress=False).steps == 4


def test_nan_are_found_in_large_data():
    x = torch.zeros(300_001, 4, dtype=torch.float32)
    x[[7, 300_000], 1] = torch.nan
    for rows in (x, x[8:]):
        first, count = (7, 2) if rows is x else (299_992, 1)
        with pytest.raises(ValueError, match=f"tensor 0 holds {count}, the first in row {first}"):
            fit(location_svi(), rows, epochs=1, progress=False)


def test_validation_that_is_not_finite_is_named(make_svi, data):
    with pytest.raises(ValueError, match="Expected finite validation data but a batch of them holds 3"):
        fit(make_svi(), data, epochs=1, validation=torch.full_like(data[:1], torch.inf), progress=False)


@pytest.mark.parametrize("callbacks", [print, [3]])
def test_callbacks_are_a_list_of_callables(make_svi, data, callbacks):
    with pytest.raises(ValueError, match="Expected callbacks to be a list of callables"):
        fit(make_svi(), data, epochs=1, callbacks=callbacks, progress=False)


# -- what belongs to the process -------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_training_without_gradients_is_refused(make_svi, data, context):
    svi = make_svi()
    with context(), pytest.raises(RuntimeError, match="Expected gradients to train with"):
        fit(svi, data, epochs=1, progress=False)
    assert not dict(pyro.get_param_store().items())


def test_a_second_training_in_another_thread_is_refused(make_svi, data):
    other, refused = SVI(print, print, pyro.optim.Adam({}), Trace_BetaELBO(1.0)), []

    def meanwhile(state):
        def another():
            with pytest.raises(RuntimeError, match="Expected one thread at a time to train"):
                fit(other, data, epochs=1, progress=False)
            refused.append(True)

        thread = threading.Thread(target=another)
        thread.start()
        thread.join()

    history = fit(make_svi(), data, epochs=2, seed=0, callbacks=[meanwhile], progress=False)
    assert refused == [True, True]
    assert rows(history) == rows(fit(make_svi(), data, epochs=2, seed=0, progress=False))


def rows(history):
    return [row | {"seconds": 0.0} for row in history]


class Own(nn.Module):
    """A pair of programs that somebody wrote."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 3)

    def model(self, x):
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def test_a_model_of_one_s_own_can_be_pickled_and_trained_on(data):
    own = Own()
    svi = SVI(own.model, own.guide, pyro.optim.Adam({"lr": 0.1}), Trace_BetaELBO(1.0))
    fit(svi, data, epochs=1, progress=False)
    again = pickle.loads(pickle.dumps(own))
    assert torch.equal(again.decoder.weight, own.decoder.weight)
    before = own.decoder.weight.detach().clone()
    fit(svi, data, epochs=1, progress=False)
    assert not torch.equal(own.decoder.weight, before)
