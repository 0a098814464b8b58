import math

import pytest

from pyro_infomax.disentanglement import Score


def test_calibrated_is_0_at_the_floor_and_1_at_the_ceiling():
    known = {"floor": 0.25, "ceiling": 0.75}
    assert Score("mig", 0.25, **known).calibrated == 0
    assert Score("mig", 0.75, **known).calibrated == 1
    assert Score("mig", 0.375, **known).calibrated == pytest.approx(0.25)


def test_calibrated_is_nan_where_a_scale_is_missing():
    assert math.isnan(Score("mig", 0.5, floor=0.0).calibrated)
    assert math.isnan(Score("mig", 0.5, ceiling=1.0).calibrated)
    assert math.isnan(Score("mig", 0.5, floor=0.3, ceiling=0.3).calibrated)


def test_it_is_a_number():
    assert float(Score("mig", 0.5)) == 0.5


def test_it_shows_itself_without_its_matrices():
    text = repr(Score("mig", 0.5, {"mutual_information": [[0.0]]}))
    assert text.startswith("Score(name='mig', score=0.5, interval=None")
    assert "mutual_information" not in text


def test_it_prints_what_is_known():
    completeness = Score("dci_completeness", 0.4, ceiling=1.0)
    score = Score("dci", 0.5, interval=(0.4, 0.6), companions=(completeness,), notes=("Code 3 is constant.",))
    assert str(score).splitlines() == [
        "dci 0.500 [0.400, 0.600]",
        "dci_completeness 0.400 (ceiling 1.000)",
        "Code 3 is constant.",
    ]
    assert score.all == (score, completeness)
