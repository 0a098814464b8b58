import itertools
import math

import numpy as np
import pytest
from scipy.stats import chi2

from pyro_infomax.disentanglement import Calibration, mig

SIZES = (3, 6, 40, 32, 32)
FEW = Calibration(bootstraps=8, permutations=8)


def draw(size, sizes=SIZES, seed=0):
    rng = np.random.RandomState(seed)
    return np.stack([rng.randint(each, size=size) for each in sizes], axis=1)


def noise(size, columns, seed=1):
    return np.random.RandomState(seed).randn(size, columns)


def alone(codes, factors, **how):
    return mig(codes, factors, calibration=None, **how)


def naive_bins(code):
    low, width = min(code), (max(code) - min(code)) / 20
    return [min(int((each - low) / width), 19) if width else 0 for each in code]


def naive_information(left, right):
    size, total = len(left), 0.0
    for a, b in itertools.product(set(left), set(right)):
        both = sum(x == a and y == b for x, y in zip(left, right, strict=True)) / size
        if both:
            total += both * math.log(both / (left.count(a) * right.count(b) / size**2))
    return total


def naive_informations(codes, factors):
    return np.array(
        [[naive_information(naive_bins(c), f) for f in factors.T.tolist()] for c in codes.T.tolist()]
    )


def constructed(factors):
    rng = np.random.RandomState(3)
    rotation = np.linalg.qr(rng.randn(2, 2))[0]
    size = len(factors)
    return {
        "factors": factors,
        "rotated": factors @ rotation,
        "duplicated": np.concatenate([factors, factors[:, :1]], axis=1),
        "noise": rng.randn(size, 4),
        "constants": np.concatenate([factors[:, :1], np.full((size, 2), 0.3)], axis=1),
        "scaled": factors * np.array([1e-4, 700.0]) + rng.rand(size, 2) * [1e-5, 100.0],
    }


@pytest.mark.parametrize("kind", ["factors", "rotated", "duplicated", "noise", "constants", "scaled"])
def test_the_reference_is_its_definition(kind):
    factors = draw(90, (4, 5))
    codes = constructed(factors)[kind].astype(float)
    information = naive_informations(codes, factors)
    entropy = [naive_information(factor, factor) for factor in factors.T.tolist()]
    first, second = np.sort(information, axis=0)[:-3:-1]
    score = alone(codes, factors, reference=True)
    np.testing.assert_allclose(score.parts["mutual_information"], information, atol=1e-12)
    np.testing.assert_allclose(score.parts["entropy"], entropy, atol=1e-12)
    assert score.score == pytest.approx(np.mean((first - second) / entropy), abs=1e-9)


def test_twenty_bins_cannot_carry_the_factors_of_dsprites():
    ceilings = []
    for size in SIZES:
        factor = np.tile(np.arange(size), 10)[:, None]
        ceilings.append(alone(np.concatenate([factor, 0 * factor], axis=1), factor, reference=True).score)
    assert np.mean(ceilings) == pytest.approx(0.902, abs=5e-4)
    drawn = draw(10_000)
    assert alone(drawn, drawn, reference=True).score == pytest.approx(0.896, abs=1e-3)
    assert alone(drawn, drawn).score == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("size", [500, 2000])
def test_the_factors_score_one_and_noise_nothing(size):
    factors = draw(size)
    score = mig(noise(size, 10), factors, calibration=FEW, progress=False)
    assert score.ceiling == pytest.approx(1, abs=1e-12)
    assert score.score == score.floor == 0


def test_the_reference_has_its_own_floor_and_ceiling():
    score = mig(noise(2000, 6), draw(2000), reference=True, calibration=FEW, progress=False)
    low, high = score.floor_interval
    assert low <= score.score <= high
    assert score.floor > 0
    assert score.ceiling < 0.9


def test_the_factors_score_their_ceiling():
    factors = draw(1000)
    for reference in (False, True):
        score = mig(factors, factors, reference=reference, calibration=FEW, progress=False)
        assert score.score == score.ceiling
        assert score.calibrated == pytest.approx(1)


def test_a_factor_told_twice_has_no_gap():
    factors = draw(1000, (4, 7))
    score = alone(factors[:, [0, 1, 1]], factors)
    assert score.parts["per_factor"] == pytest.approx([1, 0])
    assert score.parts["top"].tolist() == [[0, 1], [1, 2]]
    assert score.parts["mutual_information"].shape == (3, 2)
    assert score.parts["entropy"] == pytest.approx([math.log(4), math.log(7)], abs=0.02)


def test_scale_and_bending_do_not_count():
    factors = draw(1024, (4, 7))  # 32 bins of 32 data each
    codes = factors + noise(1024, 2)
    information = alone(codes, factors).parts["mutual_information"]
    for other in (np.exp(5 * codes), np.arctan(codes), 1e6 * codes - 5):
        assert np.array_equal(alone(other, factors).parts["mutual_information"], information)
    falling = alone(-codes, factors).parts["mutual_information"]
    np.testing.assert_allclose(falling, information, rtol=1e-12)
    assert alone(np.exp(5 * codes), factors, reference=True).score < 0.1


def test_bins_by_rank_hold_as_many_data_each():
    code = noise(64, 1)
    eighth = np.argsort(np.argsort(code, axis=0), axis=0) // 8
    information = alone(np.concatenate([code, 0 * code], axis=1), eighth).parts["mutual_information"]
    assert information[:, 0] == pytest.approx([math.log(8), 0], abs=1e-12)


def test_equal_values_stay_together():
    """Where they come in the data tells a factor that their value does not tell."""
    code = np.concatenate([np.zeros(60), np.linspace(1, 2, 40)])[:, None]
    factor = np.concatenate([np.arange(60) // 30, np.arange(40) % 2])[:, None]
    codes = np.concatenate([code, np.arange(100)[:, None]], axis=1)
    known = alone(codes, factor).parts["mutual_information"][:, 0]
    assert known[0] == 0 < 0.2 < known[1]


def test_independent_columns_have_exactly_no_information_and_rounding_is_none():
    grid = np.array(list(itertools.product(range(3), range(7), range(5))))
    information = alone(grid, grid, reference=True).parts["mutual_information"]
    assert (information[~np.eye(3, dtype=bool)] == 0).all()
    rng = np.random.RandomState(977)
    factors = np.stack([rng.randint(values, size=977) for values in range(2, 40)], axis=1)
    dead = np.zeros((977, 2))
    assert (alone(dead, factors, reference=True).parts["mutual_information"] == 0).all()
    left, right = np.divmod(np.arange(7 * 11 * 13) // 13, 11)
    codes = np.stack([left, left % 2], axis=1)
    assert (alone(codes, right[:, None], reference=True).parts["mutual_information"] == 0).all()


def test_chance_is_taken_off_what_is_known():
    rng = np.random.RandomState(0)
    factor = draw(600, (12,))
    codes = np.where(rng.rand(600, 2) < [0.5, 0.0], factor, rng.randint(12, size=(600, 2)))
    corrected = alone(codes, factor).parts["mutual_information"][0, 0]
    plug_in = alone(codes, factor, reference=True).parts["mutual_information"][0, 0]
    shuffled = [
        alone(codes[rng.permutation(600)], factor, reference=True).parts["mutual_information"][0, 0]
        for _ in range(200)
    ]
    chance, error = np.mean(shuffled), np.std(shuffled) / 200**0.5
    whole = min(naive_information(each, each) for each in (codes[:, 0].tolist(), factor[:, 0].tolist()))
    assert corrected == pytest.approx(whole * (plug_in - chance) / (whole - chance), abs=4 * error)
    share = 0.5 + 0.5 / 12
    truth = math.log(12) + share * math.log(share) + (1 - share) * math.log((1 - share) / 11)
    assert corrected == pytest.approx(truth, abs=0.1)
    assert plug_in > corrected + 0.04


@pytest.mark.parametrize(("values", "each"), [(2, 2000), (5, 2000)])
def test_what_chance_reaches_once_in_a_thousand_matrices_is_nothing(values, each):
    """The test is that of the likelihood ratio where counts are large."""
    threshold = chi2.isf(1e-3 / 2, (values - 1) ** 2)  # of two codes
    code, factor = np.divmod(np.arange(values**2), values)

    def counts(moved):
        """All margins alike, and a little more on the diagonal."""
        return each - moved + moved * values * (code == factor)

    def ratio(moved):
        return 2 * (counts(moved) * np.log(counts(moved) / each)).sum()

    above = next(moved for moved in itertools.count(1) if ratio(moved) > 1.01 * threshold)
    below = above - 2
    assert 0.85 * threshold < ratio(below) < 0.99 * threshold
    for moved, kept in ((below, False), (above, True)):
        codes, factors = (column.repeat(counts(moved))[:, None] for column in (code, factor))
        assert (alone(np.insert(codes, 1, 0, axis=1), factors).score > 0) == kept


def test_columns_that_nothing_can_be_said_of_have_none():
    distinct = np.arange(20)
    both = np.stack([0 * distinct, distinct], axis=1)
    assert not alone(both, distinct[:, None]).parts["mutual_information"].any()


def test_a_dead_code_is_a_code_that_knows_nothing():
    factors = draw(1000, (4, 7))
    codes = np.concatenate([factors, np.zeros((1000, 3))], axis=1)
    assert alone(codes, factors).score == pytest.approx(1)
    assert alone(np.zeros((1000, 3)), factors, reference=True).score == 0
    assert alone(np.zeros((1000, 3)), factors).score == 0


def test_a_continuous_code_tells_about_what_it_should():
    """A binary factor behind normal noise: the information is that of a Gaussian channel of two signals."""
    factors = draw(10_000, (2, 3))
    codes = np.stack([2.0 * factors[:, 0], np.zeros(10_000)], axis=1) + noise(10_000, 2)
    grid = np.linspace(-9, 11, 20_001)
    density = sum(np.exp(-((grid - mean) ** 2) / 2) for mean in (0, 2)) / 2 / math.sqrt(2 * math.pi)
    truth = -(density * np.log(density)).sum() * 1e-3 - math.log(2 * math.pi * math.e) / 2
    assert alone(codes, factors).parts["per_factor"][0] == pytest.approx(truth / math.log(2), abs=0.03)


def test_the_interval_is_as_wide_as_scores_are_spread():
    def codes(factors, seed):
        return factors + noise(400, 2, seed) * [0.5, 2.0]

    scores = [alone(codes(f, seed), f).score for seed in range(40) for f in [draw(400, (4, 9), seed)]]
    factors = draw(400, (4, 9), 99)
    score = mig(
        codes(factors, 99), factors, calibration=Calibration(bootstraps=40, permutations=0), progress=False
    )
    low, high = score.interval
    assert (high - low) / 2 == pytest.approx(2 * np.std(scores), rel=0.6)


def test_a_seed_decides_and_nothing_else_changes():
    factors = draw(300, (4, 7))
    codes = factors + noise(300, 2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (mig(codes, factors, seed=s, calibration=FEW, progress=False) for s in (0, 0, 1))
    assert one.interval == same.interval != other.interval
    assert one.score == other.score
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_one_code_has_no_second():
    with pytest.raises(ValueError, match="at least two codes but got 1"):
        mig(draw(50, (3,)), draw(50, (3,)))


def test_a_single_factor_will_do():
    factors = draw(500, (5,))
    score = mig(np.concatenate([factors, noise(500, 1)], 1), factors, calibration=FEW, progress=False)
    assert (score.score, score.ceiling) == pytest.approx((1, 1))


class Source:
    factor_sizes = (4, 3)

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)

    def observations(self, factors):
        return np.asarray(factors, dtype=float)


def test_codes_may_be_made_by_an_encoder():
    score = alone(lambda x: x[:, ::-1] ** 3, Source(), num_points=200, progress=False)
    assert score.score == pytest.approx(1)
    assert score.parts["top"][0].tolist() == [1, 0]
