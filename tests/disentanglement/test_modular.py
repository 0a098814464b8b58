import itertools
import math

import numpy as np
import pytest

from pyro_infomax.disentanglement import Calibration, modularity

DSPRITES = (3, 6, 40, 32, 32)
FEW = Calibration(bootstraps=6, permutations=10)


def draw(size, sizes=DSPRITES, seed=0):
    rng = np.random.RandomState(seed)
    return np.stack([rng.randint(each, size=size) for each in sizes], axis=1)


def noise(size, columns, seed=1):
    return np.random.RandomState(seed).randn(size, columns)


def alone(codes, factors, **how):
    return modularity(codes, factors, calibration=None, **how)


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


def naive_modularity(codes, factors):
    total = 0.0
    for code in codes.T.tolist():
        squares = [naive_information(naive_bins(code), factor) ** 2 for factor in factors.T.tolist()]
        if max(squares) > 1e-25:
            total += 1 - (sum(squares) - max(squares)) / (max(squares) * (len(squares) - 1))
    return total / codes.shape[1]


def constructed(factors):
    rng = np.random.RandomState(3)
    size = len(factors)
    return {
        "factors": factors,
        "rotated": factors @ np.linalg.qr(rng.randn(3, 3))[0],
        "duplicated": np.concatenate([factors, factors[:, :1]], axis=1),
        "noise": rng.randn(size, 4),
        "constants": np.concatenate([factors[:, :1], np.full((size, 2), 0.3)], axis=1),
        "scaled": factors * np.array([1e-4, 700.0, 1.0]),
    }


@pytest.mark.parametrize("kind", ["factors", "rotated", "duplicated", "noise", "constants", "scaled"])
def test_the_reference_is_its_definition(kind):
    factors = draw(80, (4, 5, 2))
    codes = constructed(factors)[kind].astype(float)
    expected = naive_modularity(codes, factors)
    assert alone(codes, factors, reference=True).score == pytest.approx(expected, abs=1e-9)


def test_noise_scores_two_thirds_in_the_reference_and_nothing_here():
    factors, codes = draw(10_000), noise(10_000, 10)
    assert alone(codes, factors, reference=True).score == pytest.approx(0.67, abs=0.02)
    corrected = alone(codes, factors)
    assert corrected.score == 0
    assert corrected.notes == (
        "Codes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 tell no more of any factor than chance would and are left out "
        "of the mean.",
    )


@pytest.mark.parametrize("reference", [False, True])
def test_noise_scores_its_floor_and_the_factors_their_ceiling(reference):
    factors = draw(1000)
    how = {"reference": reference, "calibration": FEW, "progress": False}
    score = modularity(noise(1000, 5), factors, **how)
    low, high = score.floor_interval
    assert low <= score.score <= high
    assert (score.floor > 0.5) == reference
    assert modularity(factors, factors, **how).score == score.ceiling
    assert score.ceiling == pytest.approx(1, abs=0.02 if reference else 1e-12)


def test_codes_that_know_nothing_do_not_count():
    factors = draw(1000)
    codes = np.concatenate([factors, noise(1000, 3), np.ones((1000, 2))], axis=1)
    score = alone(codes, factors)
    assert score.score == pytest.approx(1)
    assert np.isnan(score.parts["per_code"]).tolist() == [False] * 5 + [True] * 5
    assert score.parts["mutual_information"].shape == (10, 5)
    assert alone(codes, factors, reference=True).score < 0.9


def test_a_code_of_two_factors_is_modular_to_no_more_than_half():
    factors = draw(5000, (4, 4, 4))
    product = (4 * factors[:, 0] + factors[:, 1])[:, None]
    score = alone(np.concatenate([product, factors[:, 2:]], axis=1), factors)
    assert score.parts["per_code"] == pytest.approx([0.5, 1], abs=0.01)
    assert score.notes == ()


def test_dead_codes_score_nothing():
    for reference in (False, True):
        assert alone(np.zeros((50, 2)), draw(50, (3, 2)), reference=reference).score == 0


def test_scale_does_not_count_and_bending_hardly():
    factors = draw(1000, (4, 7))
    codes = factors @ np.array([[1.0, 0.4], [0.2, 1.0]]) + noise(1000, 2)
    score = alone(codes, factors).score
    assert alone(codes * [2.0**20, -4.0], factors).score == score
    assert alone(np.exp(3 * codes), factors).score == pytest.approx(score, abs=0.01)


def test_a_seed_decides_and_nothing_else_changes():
    factors = draw(500, (4, 7))
    codes = factors @ np.array([[1.0, 0.8], [0.4, 1.0]]) + noise(500, 2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (
        modularity(codes, factors, seed=s, calibration=FEW, progress=False) for s in (0, 0, 1)
    )
    assert one.interval == same.interval != other.interval
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_one_factor_has_no_other():
    with pytest.raises(ValueError, match="at least two factors but got 1"):
        modularity(noise(50, 3), draw(50, (3,)))
