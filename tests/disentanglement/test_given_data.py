"""What every score does with the codes and factors that it is given: checks, splits, sources, encoders."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.tree import DecisionTreeClassifier

from pyro_infomax.disentanglement import (
    Calibration,
    FactorSource,
    calibrated_score,
    factor_vae_score,
    gaussian_total_correlation_score,
    sap,
    score,
)

CODES = np.arange(24.0).reshape(12, 2)
FACTORS = np.stack([np.arange(12) % 3 * 10 - 5, np.arange(12) // 6], axis=1)
NOTHING = Calibration(0, 0)


def given_to_a_score(codes, factors, **options):
    """The codes and factors that a score of one's own is called with, one pair a call."""
    calls = []

    def keep(codes, factors):
        calls.append((codes, factors))
        return 0.0

    calibrated_score(keep, codes, factors, **{"calibration": None, "progress": False, **options})
    return calls


# ---- Arrays.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_tensors_of_any_precision_will_do(dtype):
    codes = torch.tensor(CODES, dtype=dtype, requires_grad=dtype.is_floating_point)
    ((seen, factors),) = given_to_a_score(codes, torch.tensor(FACTORS, dtype=torch.float64))
    assert seen.dtype == np.float64
    assert np.array_equal(seen, CODES)
    assert factors[:, 0].tolist() == [0, 1, 2] * 4


def test_codes_that_hardly_differ_from_0_are_0():
    ((codes, _),) = given_to_a_score(CODES * [1e-62, 1e-59], FACTORS)
    assert (codes[:, 0] == 0).all()
    assert np.ptp(codes[:, 1]) > 0


def test_codes_are_shuffled_row_by_row_and_factors_not_at_all():
    _, (codes, factors), _ = given_to_a_score(CODES, FACTORS, calibration=Calibration(0, 1))
    assert factors[:, 0].tolist() == [0, 1, 2] * 4
    assert not np.array_equal(codes, CODES)
    assert np.array_equal(np.sort(codes, axis=0), CODES)
    assert np.array_equal(codes[:, 1] - codes[:, 0], np.ones(12))


def test_half_of_the_data_is_drawn_without_repetition_and_a_datum_keeps_its_factors():
    _, (codes, factors), _ = given_to_a_score(CODES, FACTORS, calibration=Calibration(1, 0))
    assert len(np.unique(codes[:, 0])) == len(codes) == 6
    assert np.array_equal(factors[:, 0], codes[:, 0] / 2 % 3)
    assert np.array_equal(factors[:, 1], codes[:, 0] // 12)


def test_a_single_factor_gets_a_dead_code_beside_it():
    _, (codes, _) = given_to_a_score(CODES, FACTORS[:, :1], calibration=NOTHING)
    assert np.array_equal(codes, np.insert(FACTORS[:, :1], 1, 0, axis=1))


def poisoned(value):
    codes = CODES.copy()
    codes[3, 1] = value
    return codes


WRONG = {
    "nan": (poisoned(np.nan), FACTORS, "finite codes but got nan in row 3, column 1"),
    "inf": (poisoned(np.inf), FACTORS, "finite codes but got inf"),
    "nan factor": (CODES, poisoned(np.nan), "finite factors"),
    "lengths": (CODES, FACTORS[:11], "12 rows of codes and 11"),
    "a vector": (CODES[:, 0], FACTORS, r"codes of shape \(n, L\).*\(12,\)"),
    "no codes": (CODES[:, :0], FACTORS, r"codes of shape \(n, L\)"),
    "huge codes": (
        CODES * 1e60,
        FACTORS,
        r"between -1e\+60 and 1e\+60 but got 2e\+60 in row 1, column 0",
    ),
    "masked": (np.ma.masked_equal(CODES, 4.0), FACTORS, "finite codes but got nan in row 2, column 0"),
    "complex": (CODES + 1j, FACTORS, "codes to be an array of real numbers but got ndarray"),
    "a complex tensor": (torch.tensor(CODES + 1j), FACTORS, "real numbers but got Tensor"),
    "ragged": ([[1.0], [1.0, 2.0]], FACTORS, "real numbers but got list"),
    "huge factors": (CODES, FACTORS + 2**54, "factor 0 holds 1.80144e\\+16: number its values from 0"),
    "words": ([["a", "b"]] * 12, FACTORS, "codes to be an array of real numbers"),
    "tiny": (CODES[:9], FACTORS[:9], "at least 10 data but got 9"),
    "continuous": (CODES, FACTORS + 0.5, "integers but factor 0 holds"),
    "constant": (CODES, FACTORS * np.array([1, 0]), "factor 1 is always 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case):
    codes, factors, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        given_to_a_score(codes, factors)


def test_codes_alone_are_checked_too():
    with pytest.raises(ValueError, match="at least 10"):
        gaussian_total_correlation_score(CODES[:3])


# ---- What is learned from a part of the data, and judged by the rest.


def test_every_datum_is_learned_from_or_judges():
    """By thresholds between the values of a code, in a part of the data that a permutation tells."""
    rng = np.random.RandomState(0)
    factors = rng.randint([3, 4], size=(300, 2))
    codes = factors + rng.randn(300, 2)
    order = np.random.RandomState(7).permutation(300)
    train, test = order[:200], order[200:]
    expected = np.zeros((2, 2))
    for j, k in np.ndindex(2, 2):
        size = (3, 4)[k]
        tree = DecisionTreeClassifier(max_leaf_nodes=size, class_weight="balanced", random_state=0)
        tree.fit(codes[train, j : j + 1], factors[train, k])
        accuracy = balanced_accuracy_score(factors[test, k], tree.predict(codes[test, j : j + 1]))
        expected[j, k] = max(0.0, (accuracy - 1 / size) / (1 - 1 / size))
    options = {"seed": 7, "calibration": None, "progress": False}
    found = sap(codes, factors, **options)
    np.testing.assert_allclose(found.parts["separability"], expected, atol=1e-12)
    # a thousandth of a code that is far from 0 is lost in single precision, but not to the score
    far = sap(1e9 + 1e-3 * np.rint(1e3 * codes), factors, **options).parts["separability"]
    near = sap(np.rint(1e3 * codes), factors, **options).parts["separability"]
    np.testing.assert_array_equal(far, near)


def test_data_drawn_with_replacement_spread_as_a_correlation_does():
    rng = np.random.RandomState(1)
    factors = rng.randint(5, size=(400, 1))
    codes = np.insert(factors + rng.randn(400, 1), 1, 0.0, axis=1)
    found = sap(codes, factors, continuous=True, calibration=Calibration(400, 0), progress=False)
    root = np.sqrt(found.score)
    error = 2 * root * (1 - found.score) / np.sqrt(400)  # Fisher's, of the square
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.97 * error, rel=0.15)


# ---- Sources.


class Grid:
    """Observations that are the factors, on a shifted scale."""

    def __init__(self, *sizes):
        self.factor_sizes = sizes or (3, 4)
        self.rendered = 0

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)

    def observations(self, factors):
        assert np.shape(factors)[1] == len(self.factor_sizes)
        self.rendered += len(factors)
        return torch.as_tensor(factors, dtype=torch.float64) + 100


class NoisyGrid(Grid):
    draws = True

    def observations(self, factors, *, seed):
        return super().observations(factors) + torch.as_tensor(seed.rand(*factors.shape))


def shifted_back(observations):
    return (observations - 100).requires_grad_()


def test_a_grid_is_a_source():
    assert isinstance(Grid(), FactorSource)
    assert not isinstance(np.zeros((3, 2)), FactorSource)


def test_every_row_gets_its_own_code_and_each_combination_is_encoded_once():
    grid = Grid()
    ((codes, factors),) = given_to_a_score(shifted_back, grid, num_points=500, seed=3)
    assert np.array_equal(factors, Grid().sample_factors(500, seed=np.random.RandomState(3)))
    assert np.array_equal(codes, factors)
    assert grid.rendered == 12


def test_scores_of_a_table_share_what_was_encoded():
    grid, few = Grid(), {"calibration": None, "progress": False}
    table = score(shifted_back, grid, which=["sap", "factor_vae_score"], num_points=10, **few)
    assert grid.rendered == 12
    assert table["factor_vae_score"].score == factor_vae_score(shifted_back, Grid(), **few).score == 1


def test_observations_that_are_drawn_are_encoded_each_time():
    one, other, third = (
        given_to_a_score(shifted_back, NoisyGrid(), num_points=50, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(np.floor(one[0]), one[1])
    assert len(np.unique(one[0] % 1)) == one[0].size
    assert not np.intersect1d(one[0] % 1, third[0] % 1).size


def test_constant_factors_are_left_out_and_put_back():
    for grid, rendered in ((Grid(3, 1, 4), 12), (NoisyGrid(3, 1, 4), 200)):
        ((codes, factors),) = given_to_a_score(shifted_back, grid, num_points=200)
        assert np.array_equal(np.floor(codes), np.insert(factors, 1, 0, axis=1))
        assert factors.max(0).tolist() == [2, 3]
        assert grid.rendered == rendered


def test_a_source_where_nothing_varies_is_refused():
    with pytest.raises(ValueError, match=r"sizes \(1, 1\)"):
        score(np.asarray, Grid(1, 1))


@pytest.mark.parametrize("num_points", [0, 9.5])
def test_no_points_are_refused(num_points):
    with pytest.raises(ValueError, match=f"num_points to be an integer >= 1 but got {num_points}"):
        given_to_a_score(shifted_back, Grid(), num_points=num_points)


def test_one_of_each_is_refused():
    with pytest.raises(ValueError, match=r"source of factors.*but got ndarray"):
        given_to_a_score(shifted_back, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"function of observations.*but got ndarray"):
        given_to_a_score(np.zeros((3, 2)), Grid())


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda x: x.mean(0, keepdim=True), "each of 1[02] observations but got 1"),
        (lambda x: x * float("nan"), "finite codes"),
        (lambda x: x[:, 0], r"codes of shape \(n, L\)"),
    ],
)
def test_a_wrong_encoder_is_refused(encode, message):
    with pytest.raises(ValueError, match=message):
        given_to_a_score(encode, Grid(), num_points=200)
