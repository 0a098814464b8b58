"""The best epoch, by whatever column: which one it is, what is kept of it, and what is put back."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyro_infomax.programs import ProgramState
from pyro_infomax.training import BestWeights, TrainingState, fit

TOWARDS, BETWEEN = (torch.full((4, 1), value, dtype=torch.float64) for value in (1.0, 0.35))


def location_svi():
    """Moves loc by a tenth of the way to 1 an epoch; the validation data at 0.35 are passed on the way."""

    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x.mean())

    pyro.clear_param_store()
    return SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO())


def run(callback, *, svi=None, epochs=9, validation=BETWEEN):
    svi = svi or location_svi()
    return fit(svi, TOWARDS, epochs=epochs, validation=validation, callbacks=[callback], progress=False)


def loc():
    return pyro.param("loc").item()


def test_keeps_the_best_epoch_and_leaves_the_last_parameters():
    best = BestWeights()
    history = run(best)
    assert loc() == pytest.approx(1 - 0.9**9)
    best.restore()
    # loc = 1 − 0.9^epoch: 0.1, 0.19, 0.271, 0.3439, 0.40951, …
    assert loc() == pytest.approx(1 - 0.9**4)
    assert best.epoch == 4
    assert best.value == history["validation_loss"].min()


def test_monitors_another_column():
    best = BestWeights("loss")
    run(best)
    assert best.epoch == 9


def test_min_delta():
    # The loss falls by 0.0046 in epoch 2 and by 0.0032 in all the others
    best = BestWeights(min_delta=0.004)
    run(best)
    assert best.epoch == 2


def test_keeps_buffers_too():
    layer = nn.BatchNorm1d(1)

    def model(x):
        pyro.module("layer", layer)
        pyro.sample("x", dist.Normal(layer(x), 1.0).to_event(2), obs=torch.zeros_like(x))

    means = []
    best = BestWeights("loss")

    def first_is_best(state):
        state.row["loss"] = float(state.epoch)
        means.append(layer.running_mean.item())

    svi = SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())
    fit(svi, TOWARDS, epochs=3, callbacks=[first_is_best, best], progress=False)
    best.restore()
    assert layer.running_mean.item() == means[0] != means[-1]


def improvements(best, column, values):
    """The epochs whose values improve on those before."""
    state = TrainingState(None, epochs=len(values), programs=ProgramState())
    found = []
    for epoch, value in enumerate(values, start=1):
        state.epoch = epoch
        state.history.append({"epoch": epoch, "step": epoch, "loss": 0.0, "seconds": 0.0, column: value})
        best(state)
        found += [epoch] if best.epoch == epoch else []
    return found


@pytest.mark.parametrize(
    ("column", "values", "epochs"),
    [
        ("validation_loss", [3.0, 4.0, 2.0, 2.0, -1.0], [1, 3, 5]),
        ("elbo", [-3.0, -4.0, -2.0], [1, 3]),
        ("validation_elbo", [-3.0, -4.0, -2.0], [1, 3]),
        ("loss", [torch.nan, 3.0, torch.nan, 2.0], [2, 4]),
        ("loss", [torch.nan], []),
    ],
)
def test_which_epochs_improve(column, values, epochs):
    best = BestWeights(column)
    assert improvements(best, column, values) == epochs
    assert best.epoch == (epochs[-1] if epochs else 0)
    assert best.value == values[-1] or best.value != best.value
    # another training begins anew
    assert improvements(best, column, values) == epochs


def test_the_least_improvement():
    assert improvements(BestWeights("loss", min_delta=0.5), "loss", [3.0, 2.6, 2.4, 2.0]) == [1, 3]
    for min_delta in (-0.1, torch.nan):
        with pytest.raises(ValueError, match="min_delta >= 0 but got"):
            BestWeights(min_delta=min_delta)


def test_a_state_of_another_column_is_refused():
    with pytest.raises(ValueError, match="watches 'loss' but it has watched 'elbo'"):
        BestWeights("loss").load_state_dict(BestWeights("elbo").state_dict())


def test_nothing_to_restore():
    with pytest.raises(ValueError, match="an epoch with a validation_loss that is a number"):
        BestWeights().restore()


def test_forgets_the_training_before():
    best = BestWeights("unknown")

    def column(value):
        return lambda state: state.row.update(unknown=value)

    svi = location_svi()
    fit(svi, TOWARDS, epochs=1, callbacks=[column(1.0), best], progress=False)
    fit(svi, TOWARDS, epochs=1, callbacks=[column(torch.nan), best], progress=False)
    with pytest.raises(ValueError, match="unknown that is a number"):
        best.restore()


def resume(best, folder, *, epochs):
    svi = location_svi()
    options = {"validation": BETWEEN, "callbacks": [best], "checkpoint": folder / "run.ckpt"}
    fit(svi, TOWARDS, epochs=epochs, progress=False, resume=True, **options)


@pytest.mark.parametrize("epochs", [9, 5])
def test_resumed_training_knows_its_best_epoch(tmp_path, epochs):
    resume(BestWeights(), tmp_path, epochs=5)
    best = BestWeights()
    resume(best, tmp_path, epochs=epochs)
    assert loc() == pytest.approx(1 - 0.9**epochs)
    best.restore()
    assert best.epoch == 4
    assert loc() == pytest.approx(1 - 0.9**4)


def test_repr():
    assert repr(BestWeights("elbo")) == "BestWeights(monitor='elbo', min_delta=0.0)"
