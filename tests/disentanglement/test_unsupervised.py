import itertools
import math

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import chi2

from pyro_infomax.disentanglement import (
    Calibration,
    gaussian_total_correlation_score,
    mutual_information_score,
    wasserstein_correlation,
)

SCORES = (gaussian_total_correlation_score, wasserstein_correlation, mutual_information_score)
FEW = Calibration(bootstraps=10, permutations=10)


def mixed(size=400, columns=4, seed=0):
    rng = np.random.RandomState(seed)
    return rng.randn(size, columns) @ (np.eye(columns) + 0.4 * rng.rand(columns, columns))


def noise(size=400, columns=4, seed=1):
    return np.random.RandomState(seed).randn(size, columns)


def alone(score, codes, **how):
    return score(codes, calibration=None, **how)


def naive_covariance(codes):
    centred = codes - codes.mean(0)
    return sum(np.outer(row, row) for row in centred) / (len(codes) - 1)


def test_the_reference_total_correlation_is_its_definition():
    covariance = naive_covariance(mixed())
    expected = 0.5 * (np.log(np.diag(covariance)).sum() - math.log(np.linalg.det(covariance)))
    score = alone(gaussian_total_correlation_score, mixed(), reference=True)
    assert score.score == pytest.approx(expected, abs=1e-10)
    assert score.parts["covariance"] == pytest.approx(covariance)


def test_the_reference_wasserstein_correlation_is_its_definition():
    covariance = naive_covariance(mixed())
    root = sqrtm(covariance @ np.diag(np.diag(covariance)))
    expected = 2 * np.trace(covariance) - 2 * np.trace(root)
    score = alone(wasserstein_correlation, mixed(), reference=True)
    assert score.score == pytest.approx(expected, abs=1e-8)
    assert score.parts["normalised"] == pytest.approx(expected / np.trace(covariance), abs=1e-8)


def naive_bins(code):
    low, width = min(code), (max(code) - min(code)) / 20
    return [min(int((each - low) / width), 19) for each in code]


def test_the_reference_mutual_information_is_its_definition():
    codes = mixed(80, 3)
    bins = [naive_bins(code) for code in codes.T.tolist()]
    total = 0.0
    for i, left in enumerate(bins):
        for j, right in enumerate(bins):
            pairs = set(zip(left, right, strict=True)) if i != j else set()
            for a, b in pairs:
                both = sum(x == a and y == b for x, y in zip(left, right, strict=True)) / 80
                total += both * math.log(both * 80**2 / (left.count(a) * right.count(b)))
    assert alone(mutual_information_score, codes, reference=True).score == pytest.approx(total / 6, abs=1e-10)


def test_the_total_correlation_has_no_bias():
    truth = -math.log(1 - 0.5**2) / 2
    rng = np.random.RandomState(0)
    draws = [
        rng.multivariate_normal(np.zeros(3), [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]], 20) for _ in range(400)
    ]
    scores = np.array([alone(gaussian_total_correlation_score, each).score for each in draws])
    plain = np.array([alone(gaussian_total_correlation_score, each, reference=True).score for each in draws])
    error = scores.std() / 20
    assert scores.mean() == pytest.approx(truth, abs=4 * error)
    assert plain.mean() > truth + 4 * error


@pytest.mark.parametrize("score", SCORES)
def test_independent_codes_score_their_floor(score):
    result = score(noise(1000), calibration=FEW, progress=False)
    low, high = result.floor_interval
    assert low <= result.score <= high
    assert result.score == pytest.approx(0, abs=0.02)
    assert not result.higher_is_better
    assert result.ceiling is None


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("score", SCORES)
def test_dependent_codes_score_above_their_floor(score, reference):
    result = score(mixed(1000), reference=reference, calibration=FEW, progress=False)
    assert result.interval[0] > result.floor_interval[1]
    assert result.interval[0] < result.score < result.interval[1]


@pytest.mark.parametrize("score", SCORES)
def test_scales_do_not_count(score):
    scales = np.array([1e-3, 1.0, 50.0, 1e4])
    assert alone(score, mixed() * scales).score == pytest.approx(alone(score, mixed()).score, rel=1e-6)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("score", SCORES[:2])
def test_a_dead_code_is_left_out(score, reference):
    dead = np.insert(mixed(), 2, 0.3, axis=1)
    expected = alone(score, mixed(), reference=reference).score
    assert alone(score, dead, reference=reference).score == pytest.approx(expected)


def test_a_dead_code_counts_among_the_reference_pairs_only():
    dead = np.insert(mixed(), 2, 0.3, axis=1)
    assert alone(mutual_information_score, dead).score == alone(mutual_information_score, mixed()).score
    plain = alone(mutual_information_score, mixed(), reference=True).score
    assert alone(mutual_information_score, dead, reference=True).score == pytest.approx(plain * 12 / 20)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("score", SCORES)
def test_codes_that_do_not_move_score_nothing(score, reference):
    codes = np.zeros((50, 3))
    codes[:, 1] = np.arange(50)
    result = score(codes, reference=reference, calibration=FEW, progress=False)
    assert (result.score, result.floor) == pytest.approx((0, 0), abs=1e-12)


def test_codes_that_move_alone_are_noted():
    for score in SCORES:
        assert alone(score, np.zeros((50, 3))).notes[0].startswith("Fewer than two codes move")


def test_duplicated_codes_have_an_infinite_total_correlation():
    twice = noise()[:, [0, 1, 1]] * [1.0, 1.0, -3.0]
    result = gaussian_total_correlation_score(twice, calibration=FEW, progress=False)
    assert result.score == math.inf
    assert result.interval is None
    assert result.floor == pytest.approx(0, abs=0.02)
    assert "linear function" in result.notes[0]


def test_duplicated_codes_are_far_from_independent():
    twice = noise()[:, [0, 0]]
    assert alone(wasserstein_correlation, twice).score == pytest.approx(4 - 2 * math.sqrt(2))
    assert alone(mutual_information_score, twice).score == pytest.approx(math.log(9), abs=1e-3)


def test_the_information_of_normal_codes_is_about_theirs():
    codes = np.random.RandomState(0).multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 10_000)
    assert alone(mutual_information_score, codes).score == pytest.approx(-math.log(1 - 0.49) / 2, abs=0.03)


def test_what_chance_reaches_once_in_a_thousand_matrices_is_nothing():
    """Between two codes of few values and many data the test is that of the likelihood ratio."""
    values, each = 5, 2000
    threshold = chi2.isf(1e-3 / 4, (values - 1) ** 2)  # a matrix of four elements
    left, right = np.divmod(np.arange(values**2), values)

    def counts(moved):
        """All margins alike, and a little more on the diagonal."""
        return each - moved + moved * values * (left == right)

    def ratio(moved):
        return 2 * (counts(moved) * np.log(counts(moved) / each)).sum()

    above = next(moved for moved in itertools.count(1) if ratio(moved) > 1.01 * threshold)
    below = above - 2
    assert 0.85 * threshold < ratio(below) < 0.99 * threshold
    for moved, kept in ((below, False), (above, True)):
        codes = np.stack([code.repeat(counts(moved)) for code in (left, right)], axis=1)
        assert (alone(mutual_information_score, codes).score > 0) == kept


def test_chance_is_taken_off_the_information():
    assert alone(mutual_information_score, noise(300)).score == 0
    assert alone(mutual_information_score, noise(300), reference=True).score > 0.2


@pytest.mark.parametrize("score", SCORES)
def test_a_seed_decides_and_nothing_else_changes(score):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (score(mixed(), seed=s, calibration=FEW, progress=False) for s in (0, 0, 1))
    assert one.interval == same.interval != other.interval
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("score", SCORES)
def test_what_cannot_be_scored_is_refused(score):
    with pytest.raises(ValueError, match="at least two codes but got 1"):
        score(np.zeros((50, 1)))
    with pytest.raises(ValueError, match="finite codes"):
        score(np.full((50, 2), np.nan))
    with pytest.raises(ValueError, match="source of factors"):
        score(lambda x: x)


class Source:
    factor_sizes = (4, 3)

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)

    def observations(self, factors):
        return np.asarray(factors, dtype=float)


def test_codes_may_be_made_by_an_encoder():
    for score in SCORES:
        result = alone(score, lambda x: x @ np.ones((2, 2)), factors=Source(), num_points=200, progress=False)
        assert result.score > 0.5
