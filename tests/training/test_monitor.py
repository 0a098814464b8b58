import pytest
import torch

from pyro_infomax.programs import ProgramState
from pyro_infomax.training import TrainingState
from pyro_infomax.training._callbacks import Monitor


def improvements(monitor, values, *, first=1):
    """The epochs whose values improve on those before."""
    state = TrainingState(None, epochs=len(values), programs=ProgramState())
    found = []
    for epoch, value in enumerate(values, start=first):
        state.epoch = epoch
        state.history.append(
            {"epoch": epoch, "step": epoch, "loss": 0.0, "seconds": 0.0, monitor.column: value}
        )
        found += [epoch] if monitor.improves(state) else []
    return found


def test_less_is_better():
    monitor = Monitor("validation_loss")
    assert improvements(monitor, [3.0, 4.0, 2.0, 2.0, -1.0]) == [1, 3, 5]
    assert (monitor.epoch, monitor.value) == (5, -1.0)


@pytest.mark.parametrize("column", ["elbo", "validation_elbo"])
def test_more_is_better_for_an_elbo(column):
    monitor = Monitor(column)
    assert improvements(monitor, [-3.0, -4.0, -2.0]) == [1, 3]
    assert (monitor.epoch, monitor.value) == (3, -2.0)


def test_min_delta_is_the_least_improvement():
    assert improvements(Monitor("loss", min_delta=0.5), [3.0, 2.6, 2.4, 2.0]) == [1, 3]


def test_nan_never_improves():
    monitor = Monitor("loss")
    assert improvements(monitor, [torch.nan, 3.0, torch.nan, 2.0]) == [2, 4]


def test_no_best_epoch_yet():
    monitor = Monitor("loss")
    assert improvements(monitor, [torch.nan]) == []
    assert monitor.epoch == 0
    assert monitor.value != monitor.value


def test_serves_one_training_after_another():
    monitor = Monitor("loss")
    improvements(monitor, [1.0])
    assert improvements(monitor, [5.0, 6.0, 4.0]) == [1, 3]


def test_state_goes_on():
    first, second = Monitor("elbo"), Monitor("elbo")
    improvements(first, [1.0, 3.0])
    second.load_state_dict(first.state_dict())
    assert (second.epoch, second.value) == (2, 3.0)


def test_missing_column():
    state = TrainingState(None, epochs=1, programs=ProgramState())
    state.history.append({"epoch": 1, "step": 1, "loss": 0.0, "seconds": 0.0})
    with pytest.raises(ValueError, match="column 'validation_loss' but it has epoch, step, loss, seconds"):
        Monitor("validation_loss").improves(state)


@pytest.mark.parametrize("min_delta", [-0.1, torch.nan])
def test_wrong_input(min_delta):
    with pytest.raises(ValueError, match="min_delta >= 0 but got"):
        Monitor("loss", min_delta=min_delta)


def test_a_state_of_another_column_is_refused():
    state = Monitor("elbo").state_dict()
    with pytest.raises(ValueError, match="watches 'loss' but it has watched 'elbo'"):
        Monitor("loss").load_state_dict(state)
