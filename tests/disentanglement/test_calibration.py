import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression

from pyro_infomax.disentanglement import Calibration, calibrated_score, dci, gaussian_total_correlation_score

N = 400


def correlated():
    draws = np.random.RandomState(1)
    factors = draws.randint(5, size=(N, 1))
    return factors + draws.randn(N, 1), factors


def correlation(codes, factors):
    return np.corrcoef(codes[:, 0], factors[:, 0])[0, 1]


def calibrate(function=correlation, **changes):
    options = {"calibration": Calibration(400, 400), "seed": 3, "bounds": (-1.0, 1.0), "progress": False}
    return calibrated_score(function, *correlated(), **(options | changes))


@pytest.fixture(scope="module")
def calibrated():
    return calibrate()


def test_the_interval_has_the_width_of_fishers(calibrated):
    assert calibrated.score == correlation(*correlated())
    error = (1 - calibrated.score**2) / np.sqrt(N)
    low, high = calibrated.interval
    assert (low + high) / 2 == pytest.approx(calibrated.score)
    assert (high - low) / 2 == pytest.approx(1.97 * error, rel=0.15)


def test_the_floor_is_that_of_codes_that_know_nothing_and_the_ceiling_that_of_the_factors(calibrated):
    assert calibrated.floor == pytest.approx(0, abs=4 / np.sqrt(N * 400))
    low, high = calibrated.floor_interval
    assert (high - low) / 2 == pytest.approx(1.97 / np.sqrt(N), rel=0.15)
    assert calibrated.ceiling == pytest.approx(1)


def test_there_is_no_ceiling_where_factors_cannot_be_scored():
    assert gaussian_total_correlation_score(np.random.RandomState(0).randn(50, 2)).ceiling is None


def test_companions_have_their_own():
    rng = np.random.RandomState(0)
    factors = rng.randint(3, size=(300, 2))
    codes, learner = factors + rng.randn(300, 2), LogisticRegression()
    score = dci(codes, factors, learner=learner, calibration=Calibration(20, 20), progress=False)
    assert len({each.name for each in score.all}) == len({each.interval for each in score.all}) == 3
    for each in score.all:
        assert each.floor_interval[0] < each.floor < each.floor_interval[1] < each.score < each.ceiling
        assert sum(each.interval) / 2 == pytest.approx(each.score, abs=0.1)
        assert each.interval[0] < each.score < each.interval[1]


def test_an_interval_ends_at_the_bounds():
    few = Calibration(20, 20)
    assert calibrate(bounds=(-0.05, 1.0), calibration=few).floor_interval[0] == -0.05
    # and holds the score, even where this lies beyond them
    beyond = calibrate(bounds=(0.0, 0.1), calibration=few)
    assert beyond.interval[1] == beyond.score


def test_few_replications_have_wide_intervals():
    values = []

    def kept(codes, factors):
        values.append(correlation(codes, factors))
        return values[-1]

    floor = calibrate(kept, calibration=Calibration(0, 3)).floor_interval
    shuffled = values[1:4]  # between the score itself and the ceiling
    half = student.ppf(0.975, 2) * np.std(shuffled, ddof=1) * np.sqrt(1 + 1 / 3)
    assert floor == pytest.approx((np.mean(shuffled) - half, np.mean(shuffled) + half))


def test_confidence_is_that_of_the_intervals():
    wide, narrow = (
        calibrate(calibration=Calibration(50, 50, confidence=confidence)) for confidence in (0.99, 0.5)
    )
    for each in ("interval", "floor_interval"):
        ratio = np.ptp(getattr(wide, each)) / np.ptp(getattr(narrow, each))
        assert ratio == pytest.approx(student.ppf(0.995, 49) / student.ppf(0.75, 49))


def test_without_calibration_the_score_is_alone():
    score = calibrate(calibration=None)
    assert (score.interval, score.floor, score.floor_interval, score.ceiling) == (None,) * 4
    assert score.score == correlation(*correlated())


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
