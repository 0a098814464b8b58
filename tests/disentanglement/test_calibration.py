import numpy as np
import pytest
from scipy.stats import t as student

from pyro_infomax.disentanglement import Calibration
from pyro_infomax.disentanglement._sample import to_sample
from pyro_infomax.disentanglement._score import ScoreOutcome, calibrated

N = 400


def rng():
    return np.random.RandomState(3)


def correlated():
    draws = np.random.RandomState(1)
    factors = draws.randint(5, size=(N, 1))
    return to_sample(factors + draws.randn(N, 1), factors)


def correlation(sample, _):
    value = np.corrcoef(sample.codes[:, 0], sample.values[:, 0])[0, 1]
    return ScoreOutcome(value, {"slope": np.array([value])}, {"squared": value**2}, ("A note.",))


def calibrate(statistic=correlation, **changes):
    options = {"calibration": Calibration(400, 400), "rng": rng(), "bounds": (-1.0, 1.0)} | changes
    return calibrated("correlation", statistic, correlated(), **options)


def test_the_score_is_that_of_the_data():
    score = calibrate()
    assert score.score == correlation(correlated(), None).score
    assert score.parts["slope"].tolist() == [score.score]
    assert score.notes == ("A note.",)


def test_the_interval_has_the_width_of_fishers():
    score = calibrate()
    error = (1 - score.score**2) / np.sqrt(N)
    low, high = score.interval
    assert (low + high) / 2 == pytest.approx(score.score)
    assert (high - low) / 2 == pytest.approx(1.97 * error, rel=0.15)


def test_the_floor_is_that_of_codes_that_know_nothing():
    score = calibrate()
    assert score.floor == pytest.approx(0, abs=4 / np.sqrt(N * 400))
    low, high = score.floor_interval
    assert (high - low) / 2 == pytest.approx(1.97 / np.sqrt(N), rel=0.15)


def test_the_ceiling_is_that_of_the_factors():
    assert calibrate().ceiling == pytest.approx(1)
    assert calibrate(has_ceiling=False).ceiling is None


def test_companions_have_their_own():
    score = calibrate()
    (squared,) = score.companions
    assert squared.name == "correlation_squared"
    assert squared.score == pytest.approx(score.score**2)
    assert squared.floor == pytest.approx(1 / N, rel=0.3)
    assert squared.ceiling == pytest.approx(1)
    low, high = squared.interval
    assert high - low == pytest.approx(2 * score.score * (score.interval[1] - score.interval[0]), rel=0.1)


def test_an_interval_ends_at_the_bounds():
    assert calibrate(bounds=(-0.05, 1.0)).floor_interval[0] == -0.05
    assert calibrate(bounds=(0.0, 0.1)).interval[1] == calibrate().score


def test_few_replications_have_wide_intervals():
    floor = calibrate(calibration=Calibration(0, 3)).floor_interval
    values = [correlation(correlated().permuted(draws), None).score for draws in [rng()] for _ in range(3)]
    half = student.ppf(0.975, 2) * np.std(values, ddof=1) * np.sqrt(1 + 1 / 3)
    assert floor == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_confidence_is_that_of_the_intervals():
    wide, narrow = (
        calibrate(calibration=Calibration(50, 50, confidence=confidence)) for confidence in (0.99, 0.5)
    )
    for each in ("interval", "floor_interval"):
        assert np.ptp(getattr(wide, each)) > 2 * np.ptp(getattr(narrow, each))


def test_without_calibration_the_score_is_alone():
    score = calibrate(calibration=None)
    assert (score.interval, score.floor, score.floor_interval, score.ceiling) == (None,) * 4
    assert score.score == calibrate().score


def test_a_score_does_not_depend_on_its_calibration():
    def drawn(_, draws):
        return ScoreOutcome(draws.rand())

    assert calibrate(drawn).score == calibrate(drawn, calibration=None).score


def test_none_and_one_replication_make_no_interval():
    score = calibrate(calibration=Calibration(bootstraps=1, permutations=1))
    assert (score.interval, score.floor_interval) == (None, None)
    assert score.floor is not None
    assert calibrate(calibration=Calibration(0, 0)).floor is None


def test_any_integers_will_do():
    assert Calibration(np.int64(3), 10**7) == Calibration(3, 10_000_000)


@pytest.mark.parametrize("calibration", [3, "own", Calibration])
def test_what_is_no_calibration_is_refused(calibration):
    with pytest.raises(ValueError, match="calibration to be a Calibration or None"):
        calibrate(calibration=calibration)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bootstraps": -1}, "bootstraps to be an integer >= 0 but got -1"),
        ({"permutations": 2.5}, "permutations to be an integer >= 0 but got 2.5"),
        ({"permutations": True}, "permutations"),
        ({"confidence": 95}, "0 < confidence < 1 but got 95"),
    ],
)
def test_wrong_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Calibration(**arguments)
