import pytest

from pyro_infomax.training import History
from pyro_infomax.training._fit import ProgressBar


def history(epochs):
    found = History()
    for epoch in range(1, epochs + 1):
        found.append({"epoch": epoch, "step": epoch, "loss": 3.25, "seconds": 0.1, "rate": 0.5, "other": 1.0})
    return found


def shown(capsys, *, progress, epochs=2):
    with ProgressBar(4, progress=progress) as bar:
        bar.follow(history(0))
        bar.follow(history(epochs))
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_it_shows_what_the_last_epoch_gave(capsys):
    err = shown(capsys, progress=True)
    assert "2/4" in err
    assert "loss=3.25, rate=0.5" in err
    assert "other=1" in err  # a term of the objective's own
    assert "seconds" not in err


def test_it_jumps_to_where_a_resumed_training_stands(capsys):
    assert "3/4" in shown(capsys, progress=True, epochs=3)


@pytest.mark.parametrize("title", ["beta=4", ""])
def test_a_string_is_its_title(capsys, title):
    assert f"{title}: " in shown(capsys, progress=title) or title == ""


def test_no_progress_is_silent(capsys):
    assert shown(capsys, progress=False) == ""
