"""Bars in a terminal, lines elsewhere, silence where it is wanted; bars that wait."""

import io
import re
import time

import pyro
import pyro.distributions as dist
import pytest

from pyro_infomax import _progress as module, evidence
from pyro_infomax._progress import bar, patiently, waiting
from pyro_infomax.diagnostics import convergence, refine, resample
from pyro_infomax.infer import transmitted_information
from pyro_infomax.oracles import LinearGaussian, information_bottleneck


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_waits_and_can_be_unwanted(capsys, monkeypatch) -> None:
    assert list(patiently("abc", "letters")) == list("abc")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    assert list(patiently("abc", "letters", progress=False)) == list("abc")
    assert capsys.readouterr().err == ""
    assert list(patiently("abc", "letters")) == list("abc")
    assert "letters" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    out = Terminal()
    assert list(patiently("abc", "letters", file=out)) == list("abc")
    assert re.search(r"letters: +0%.*\r +\r$", out.getvalue(), re.DOTALL)
    assert "\n" not in out.getvalue()


def test_a_training_in_a_terminal_leaves_its_bar() -> None:
    out = Terminal()
    with bar(2, unit="epoch", progress="beta=4", file=out) as shown:
        shown.set_postfix_str("loss=3", False)
        shown.update(2)
    assert re.search(r"\rbeta=4: 100%.* 2/2 .*loss=3\]\n$", out.getvalue())


def test_a_log_gets_a_line_now_and_then_and_the_end(monkeypatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    out = io.StringIO()
    with bar(1000, unit="epoch", progress="beta=4", file=out) as shown:
        for epoch in range(1000):
            shown.set_postfix_str(f"loss={epoch}", False)
            shown.update()
    assert out.getvalue() == (
        "beta=4: 1/1000 epochs, 00:00 so far, about 00:00 left, loss=0\n"
        "beta=4: 1000/1000 epochs, in 00:00, loss=999\n"
    )
    monkeypatch.setattr(module, "_DISTANCE", 0.0)
    for _ in patiently(range(3), "blocks", file=out):
        pass
    assert [line.split(",")[0] for line in out.getvalue().splitlines()[2:]] == [
        "blocks: 1/3",
        "blocks: 2/3",
        "blocks: 3/3",
    ]


class Gone(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_what_cannot_be_told_ends_nothing(monkeypatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    monkeypatch.setattr(module, "_DISTANCE", 0.0)
    closed = io.StringIO()
    closed.close()
    for out in (Gone(), closed, None):
        monkeypatch.setattr("sys.stderr", out)
        assert list(patiently("abc", "letters")) == list("abc")
        with bar(2, unit="epoch", progress=True) as shown, waiting("for it", progress=True):
            shown.update()


def test_what_has_not_advanced_can_say_where_it_is(monkeypatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    out = io.StringIO()
    with bar(8, unit="point", progress=True, file=out) as shown:
        shown.set_postfix_str("epoch 1 of 2", False)
        assert out.getvalue() == ""
        shown.set_postfix_str("epoch 2 of 2", True)
        assert out.getvalue() == "0/8 points, 00:00 so far, epoch 2 of 2\n"


def test_the_rest_is_estimated_without_the_first_that_waits_for_a_compiler(monkeypatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    monkeypatch.setattr(module, "_DISTANCE", 0.0)
    with bar(1002, unit="step", progress=True, file=out) as shown:
        time.sleep(0.3)
        shown.update()
        time.sleep(0.05)
        shown.update()
    found = re.search(r"2/1002 steps, 00:00 so far, about (\d+):(\d+) left\n", out.getvalue())
    # the 1,000 that are left take 0.05 s each, by the second; with the first it would be 0.175 s
    assert 50 <= 60 * int(found[1]) + int(found[2]) < 170


def test_what_ends_early_or_has_no_number_says_so() -> None:
    out = io.StringIO()
    blocks = patiently(iter("abc"), "tuning", file=out)
    with pytest.raises(KeyboardInterrupt), bar(9, unit="epoch", progress=True, initial=4, file=out):
        raise KeyboardInterrupt
    with bar(None, unit="it", progress="tuning", file=out) as shown:
        shown.update()
    assert out.getvalue() == "4/9 epochs, ended after 00:00\ntuning: 1, in 00:00\n"
    assert next(blocks) == "a"


def test_a_wait_is_one_line(monkeypatch) -> None:
    log, terminal, silent = io.StringIO(), Terminal(), Terminal()
    monkeypatch.setattr(module, "_TICK", 0.01)
    with waiting("compiling", progress=True, file=log):
        assert log.getvalue() == "compiling\n"
    with waiting("compiling", progress="beta=4", file=terminal):
        while terminal.getvalue().count("beta=4: compiling [00:00]") < 3:
            time.sleep(0.01)
    assert log.getvalue() == "compiling\n"
    assert terminal.getvalue().count("\n") == 1
    with waiting("compiling", progress=False, file=silent):
        pass
    assert silent.getvalue() == ""


# ---- what shows one


def of_pair(function, **options):
    pair = LinearGaussian([2.0, 1.0], [[1.0], [0.5]], 0.5, [[0.5, 0.2]], [0.4])
    x = pair.sample(30, seed=0)
    return lambda progress: function(pair.model, pair.guide, x, seed=0, progress=progress, **options)


def transmitted(progress):
    def sender():
        return pyro.sample("y", dist.Normal(pyro.sample("x", dist.Normal(0.0, 1.0)), 1.0))

    def decoder(y):
        pyro.sample("x", dist.Normal(y / 2, 0.5**0.5))

    transmitted_information(decoder, sender, num_samples=20, seed=0, progress=progress)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (of_pair(evidence, num_samples=30), ["importance weights"]),
        (of_pair(evidence, method="annealed", num_temperatures=3), ["tuning", "annealing"]),
        (of_pair(resample, num_samples=30, num_draws=5), ["importance weights", "resampling"]),
        (of_pair(refine, num_samples=30, num_steps=2), ["refining"]),
        (of_pair(convergence, sizes=[30]), ["aggregate posterior"]),
        (transmitted, ["transmitted information"]),
        (
            lambda progress: information_bottleneck(
                [[0.4, 0.1], [0.1, 0.4]], 2.0, 2, seed=0, progress=progress
            ),
            ["information bottleneck"],
        ),
    ],
    ids=["importance", "annealed", "resample", "refine", "convergence", "transmitted", "bottleneck"],
)
def test_long_work_shows_a_bar_unless_it_is_unwanted(call, names, capsys, monkeypatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    call(False)
    assert capsys.readouterr().err == ""
    call(True)
    shown = capsys.readouterr().err
    assert all(name in shown for name in names), shown
