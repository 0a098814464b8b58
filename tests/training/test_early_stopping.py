import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO

from pyro_infomax.programs import ProgramState
from pyro_infomax.training import Callback, EarlyStopping, TrainingState, fit


@pytest.fixture
def svi():
    """Moves loc by 0.1 an epoch towards data at 1; the validation data at 0.35 are passed on the way."""

    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    return SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO())


TOWARDS, BETWEEN = torch.full((1,), 1.0), torch.full((1,), 0.35)


def run(svi, callback, *, epochs=20):
    return fit(svi, TOWARDS, epochs=epochs, validation=BETWEEN, callbacks=[callback], progress=False)


def test_stops_after_patience_and_goes_back_to_the_best(svi):
    # loc = 1 − 0.9^epoch: 0.1, 0.19, 0.271, 0.3439, 0.40951, …
    history = run(svi, EarlyStopping(patience=3))
    assert len(history) == 7
    assert history.stopped.startswith("early stopping: validation_loss did not improve")
    assert "epoch 4 for 3 epochs" in history.stopped
    assert pyro.param("loc").item() == pytest.approx(1 - 0.9**4)


def test_can_keep_the_last(svi):
    run(svi, EarlyStopping(patience=3, restore_best=False))
    assert pyro.param("loc").item() == pytest.approx(1 - 0.9**7)


def test_goes_back_to_the_best_also_when_epochs_run_out(svi):
    history = run(svi, EarlyStopping(patience=9), epochs=6)
    assert history.stopped is None
    assert pyro.param("loc").item() == pytest.approx(1 - 0.9**4)


def test_min_delta_is_the_least_improvement(svi):
    # The loss falls by 0.0185 in epoch 2 and by 0.0097 in epoch 3
    history = run(svi, EarlyStopping(patience=1, min_delta=0.015))
    assert len(history) == 3


def test_serves_one_training_after_another(svi):
    callback = EarlyStopping(patience=3)
    run(svi, callback)
    pyro.clear_param_store()
    run(svi, callback, epochs=6)
    assert pyro.param("loc").item() == pytest.approx(1 - 0.9**4)


def test_goes_on_from_the_state_of_another(svi):
    first, second = EarlyStopping(patience=3), EarlyStopping(patience=3)
    run(svi, first, epochs=5)
    second.load_state_dict(first.state_dict())
    state = TrainingState(svi, epochs=9, programs=ProgramState())
    for epoch in range(1, 8):
        # column values do not matter before the one that is judged
        state.history.append({"epoch": epoch, "step": epoch, "loss": 0.0, "validation_loss": 99.0})
    state.epoch = 7
    second(state)
    assert "epoch 4 for 3 epochs" in state.history.stopped


@pytest.mark.parametrize(("monitor", "sign", "epochs"), [("loss", 1.0, 3), ("validation_elbo", -1.0, 3)])
def test_direction_of_improvement(monitor, sign, epochs):
    callback = EarlyStopping(patience=2, monitor=monitor, restore_best=False)
    stops = drive(callback, monitor, [sign * value for value in (1.0, 2.0, 3.0, 0.0)])
    assert stops == epochs


def test_nan_never_improves():
    callback = EarlyStopping(patience=2, restore_best=False)
    assert drive(callback, "validation_loss", [3.0, torch.nan, torch.nan, 1.0]) == 3


def drive(callback, column, values):
    """Calls a callback with the values of a column, and returns the epoch at which it stops."""
    state = TrainingState(None, epochs=len(values), programs=ProgramState())
    for epoch, value in enumerate(values, start=1):
        state.epoch = epoch
        state.history.append({"epoch": epoch, "step": epoch, "loss": 0.0, "seconds": 0.0} | {column: value})
        callback(state)
        if state.history.stopped:
            return epoch
    return None


def test_missing_column(svi):
    with pytest.raises(ValueError, match="column 'validation_loss' but it has epoch, step, loss, seconds"):
        fit(svi, TOWARDS, epochs=2, callbacks=[EarlyStopping(patience=1)], progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, "patience to be an integer >= 1 but got 0"),
        ({"patience": 1.5}, "patience to be an integer >= 1 but got 1.5"),
        ({"patience": 1, "min_delta": -0.1}, "min_delta >= 0 but got -0.1"),
        ({"patience": 1, "min_delta": torch.nan}, "min_delta >= 0 but got nan"),
    ],
)
def test_wrong_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**arguments)


def test_callback_is_told_of_the_end(svi):
    class Recorder(Callback):
        def __init__(self):
            self.calls = []

        def __call__(self, state):
            self.calls.append(state.epoch)

        def finish(self, state):
            self.calls.append("end")

    recorder = Recorder()
    run(svi, recorder, epochs=2)
    assert recorder.calls == [1, 2, "end"]
