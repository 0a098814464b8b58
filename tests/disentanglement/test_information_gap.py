import itertools
import math

import numpy as np
import pytest

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


def naive_mig(codes, factors):
    gaps = []
    for factor in factors.T.tolist():
        first, second = sorted(naive_information(naive_bins(c), factor) for c in codes.T.tolist())[:-3:-1]
        gaps.append((first - second) / naive_information(factor, factor))
    return sum(gaps) / len(gaps)


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
    assert alone(codes, factors, reference=True).score == pytest.approx(naive_mig(codes, factors), abs=1e-9)


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
    factors = draw(1000, (4, 7))
    codes = factors + noise(1000, 2)
    assert alone(np.exp(5 * codes), factors).score == alone(codes, factors).score
    assert alone(np.exp(5 * codes), factors, reference=True).score < 0.1


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
