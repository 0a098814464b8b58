import numpy as np
import pytest
from sklearn.svm import LinearSVC

from pyro_infomax.disentanglement import Calibration, sap

FACTORS = np.random.RandomState(0).randint([3, 4, 6], size=(600, 3))
NOISE = np.random.RandomState(1).randn(600, 3)
ROTATION = np.linalg.qr(np.random.RandomState(2).randn(3, 3))[0]
ALONE = {"calibration": None, "progress": False}


def lead(matrix):
    ranked = np.sort(matrix, axis=0)[::-1]
    return float(np.mean(ranked[0] - ranked[1]))


CODES = {
    "factors": FACTORS.astype(float),
    "rotated": FACTORS @ ROTATION,
    "duplicated": np.concatenate([FACTORS, FACTORS], axis=1),
    "noise": NOISE,
    "noisy": FACTORS + 0.5 * NOISE,
    "scaled": FACTORS * [1e-3, 1.0, 1e2],
    "dead": np.concatenate([FACTORS, np.ones((600, 2))], axis=1),
}


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
@pytest.mark.parametrize("name", ["factors", "noisy", "dead"])
def test_reference_is_the_accuracy_of_machines(name):
    codes, factors = CODES[name][:150], FACTORS[:150]
    matrix = np.zeros((codes.shape[1], 3))
    for j in range(codes.shape[1]):
        for k in range(3):
            machine = LinearSVC(C=0.01, class_weight="balanced", random_state=0)
            machine.fit(codes[:100, j : j + 1], factors[:100, k])
            matrix[j, k] = np.mean(machine.predict(codes[100:, j : j + 1]) == factors[100:, k])
    score = sap(codes, factors, reference=True, progress=False)
    assert score.score == pytest.approx(lead(matrix), abs=0.01)
    assert score.floor is None


@pytest.mark.parametrize("name", ["rotated", "scaled", "dead"])
def test_continuous_is_the_squared_correlation(name):
    codes = CODES[name]
    matrix = np.zeros((codes.shape[1], 3))
    for j in range(codes.shape[1]):
        for k in range(3):
            covariance = np.cov(codes[:, j], FACTORS[:, k], ddof=1)
            if covariance[0, 0] > 1e-12:
                matrix[j, k] = covariance[0, 1] ** 2 / (covariance[0, 0] * covariance[1, 1])
    for reference in (False, True):
        score = sap(codes, FACTORS, continuous=True, reference=reference, **ALONE)
        assert np.allclose(score.parts["separability"], matrix, rtol=1e-9, atol=1e-12)
        assert score.score == pytest.approx(lead(matrix), abs=1e-9)


def test_continuous_factors_need_not_be_whole():
    score = sap(NOISE[:, :2], NOISE[:, 1:] * 0.3, continuous=True, calibration=Calibration(5, 5))
    assert score.parts["separability"][1, 0] == pytest.approx(1.0)
    assert score.ceiling > 0.9


def test_default_is_the_balanced_accuracy_beyond_chance():
    """Of thresholds that can be named: values lie at 0, 1, ..., with the noise of a code far below them."""
    flipped = FACTORS[:, :1].copy()
    wrong = np.random.RandomState(3).rand(600) < 0.3
    flipped[wrong] = (flipped[wrong] + 1) % 3
    score = sap(np.concatenate([flipped, NOISE[:, :1]], axis=1), FACTORS[:, :1], seed=5, **ALONE)
    test = np.random.RandomState(5).permutation(600)[400:]
    right = [np.mean(flipped[test][FACTORS[test, 0] == v] == v) for v in range(3)]
    assert score.parts["separability"][0, 0] == pytest.approx((np.mean(right) - 1 / 3) / (2 / 3), abs=1e-9)


@pytest.mark.parametrize("name", ["factors", "scaled", "dead"])
def test_factors_score_one_less_what_the_others_tell_by_chance(name):
    score = sap(CODES[name], FACTORS, **ALONE)
    assert score.parts["separability"].max(0).tolist() == [1.0, 1.0, 1.0]
    assert score.score > 0.85


def test_duplicated_codes_lead_by_nothing():
    assert sap(CODES["duplicated"], FACTORS, **ALONE).score == 0.0


def test_neither_scale_nor_location_matters():
    codes = FACTORS + 0.7 * NOISE
    one, other = (sap(z, FACTORS, **ALONE) for z in (codes, codes * [-1e-6, 1.0, 1e6] + [0.0, 1e9, 0.0]))
    assert np.allclose(
        one.parts["separability"][1:], other.parts["separability"][1:], atol=0.02
    )  # 1e9 rounds
    assert one.score == pytest.approx(other.score, abs=0.02)


def test_noise_scores_its_floor_and_factors_their_ceiling():
    score = sap(NOISE, FACTORS, calibration=Calibration(2, 12), progress=False)
    assert score.floor_interval[0] <= score.score <= score.floor_interval[1]
    assert score.floor < 0.1
    best = sap(FACTORS, FACTORS, calibration=Calibration(2, 2), progress=False)
    assert best.ceiling == best.score
    assert best.interval[0] <= best.score <= best.interval[1]


def test_dead_codes_tell_nothing_and_are_named():
    score = sap(CODES["dead"], FACTORS, **ALONE)
    assert score.parts["separability"][3:].max() == 0.0
    assert score.notes == ("Codes 3, 4 are constant.",)
    assert sap(CODES["dead"][:, :4], FACTORS, **ALONE).notes == ("Code 3 is constant.",)
    assert sap(FACTORS, FACTORS, **ALONE).notes == ()


@pytest.mark.parametrize("reference", [False, True])
def test_values_that_only_one_part_has(reference):
    factors = FACTORS[:30].copy()
    factors[:, 0] = 0
    factors[-1, 0] = 1
    score = sap(CODES["noisy"][:30], factors, reference=reference, calibration=Calibration(2, 2))
    assert 0 <= score.score <= 1
    assert np.isfinite(score.parts["separability"]).all()


def test_seeds():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (sap(CODES["noisy"], FACTORS, seed=seed, **ALONE).score for seed in (1, 1, 2))
    assert one == same != other
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_a_single_code_has_no_second():
    with pytest.raises(ValueError, match="two codes or more"):
        sap(NOISE[:, :1], FACTORS)
