import pytest

from pyro_infomax.training import History


@pytest.fixture
def history():
    history = History()
    history.append({"epoch": 1, "step": 3, "loss": 4.0, "rate": 1.0, "seconds": 0.5})
    history.append({"epoch": 2, "step": 6, "loss": 2.0, "rate": 1.5, "seconds": 0.5})
    return history


def test_frame_has_a_row_an_epoch(history):
    frame = history.to_frame()
    assert frame.index.name == "epoch"
    assert frame.index.tolist() == [1, 2]
    assert list(frame.columns) == ["step", "loss", "rate", "seconds"]
    assert frame["rate"].tolist() == [1.0, 1.5]


def test_reads_like_a_table(history):
    assert history["loss"].tolist() == [4.0, 2.0]
    assert "rate" in history
    assert "elbo" not in history
    assert len(history) == 2
    assert [row["step"] for row in history] == [3, 6]
    assert history.steps == 6


def test_unknown_column_names_the_known(history):
    with pytest.raises(KeyError, match="epoch, step, loss, rate, seconds but got 'elbo'"):
        history["elbo"]


def test_repr_tells_why_it_stopped(history):
    assert repr(history) == "History(2 epochs, 6 steps, loss 4 -> 2)"
    history.stopped = "enough"
    assert repr(history).endswith("stopped: enough)")


def test_empty():
    history = History()
    assert (len(history), history.steps, repr(history)) == (0, 0, "History(0 epochs)")
    assert history.to_frame().empty
    assert history["loss"].tolist() == []


def test_state_passes_to_another_history(history):
    history.stopped = "enough"
    other = History()
    other.append({"epoch": 1, "step": 1, "loss": 9.0, "seconds": 0.0})
    other.load_state_dict(history.state_dict())
    assert other.rows == history.rows
    assert repr(other) == repr(history)
    other.rows[0]["loss"] = 0.0
    assert history.rows[0]["loss"] == 4.0
