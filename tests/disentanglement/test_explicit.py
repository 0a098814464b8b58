import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import MultiLabelBinarizer

from pyro_infomax.disentanglement import Calibration, explicitness

FACTORS = np.random.RandomState(0).randint([2, 4, 6], size=(450, 3))
NOISE = np.random.RandomState(1).randn(450, 3)
ROTATION = np.linalg.qr(np.random.RandomState(2).randn(3, 3))[0]
ALONE = {"calibration": None, "progress": False}
CODES = {
    "factors": FACTORS.astype(float),
    "rotated": FACTORS @ ROTATION,
    "duplicated": np.concatenate([FACTORS, FACTORS], axis=1),
    "noise": NOISE,
    "noisy": FACTORS + NOISE,
    "scaled": FACTORS * [1e-3, 1.0, 1e2],
}


def defined(codes, factors, cut):
    """Mean macro area of train and test, by the reference's definition."""
    mean, spread = codes[:cut].mean(0), codes[:cut].std(0)
    train, test = (codes[:cut] - mean) / spread, (codes[cut:] - mean) / spread
    areas = []
    for y in factors.T:
        model = LogisticRegression().fit(train, y[:cut])
        parts = ((train, y[:cut]), (test, y[cut:]))
        indicators = [MultiLabelBinarizer().fit_transform(given[:, None]) for _, given in parts]
        areas.append(
            [roc_auc_score(i, model.predict_proba(z)) for i, (z, _) in zip(indicators, parts, strict=True)]
        )
    return np.array(areas)


@pytest.mark.parametrize("name", ["rotated", "duplicated", "scaled"])
def test_reference_is_its_definition(name):
    score = explicitness(CODES[name], FACTORS, reference=True, **ALONE)
    areas = defined(CODES[name], FACTORS, 300)
    assert np.allclose(score.parts["auc_train"], areas[:, 0], atol=1e-6)
    assert np.allclose(score.parts["auc_test"], areas[:, 1], atol=1e-6)
    assert score.score == pytest.approx(areas[:, 1].mean(), abs=1e-6)


def test_default_counts_from_chance():
    order = np.random.RandomState(3).permutation(450)
    areas = defined(CODES["noisy"][order], FACTORS[order], 300)
    score = explicitness(CODES["noisy"], FACTORS, seed=3, **ALONE)
    assert score.score == pytest.approx(2 * areas[:, 1].mean() - 1, abs=1e-6)
    assert np.allclose(score.parts["per_factor"], 2 * areas[:, 1] - 1, atol=1e-6)


@pytest.mark.parametrize(("reference", "chance"), [(True, 0.5), (False, 0.0)])
def test_noise_scores_its_floor(reference, chance):
    score = explicitness(NOISE, FACTORS, reference=reference, calibration=Calibration(0, 10))
    low, high = score.floor_interval
    assert low <= score.score <= high
    assert low <= chance <= high


def test_factors_score_their_ceiling():
    score = explicitness(CODES["factors"], FACTORS, calibration=Calibration(3, 2), progress=False)
    assert score.score == score.ceiling > 0.97
    assert score.interval[0] <= score.score <= score.interval[1]


def test_an_invertible_linear_code_is_as_explicit_as_the_factors():
    one, other = (explicitness(CODES[name], FACTORS, **ALONE).score for name in ("factors", "rotated"))
    assert one == pytest.approx(other, abs=0.02)


def test_dead_codes_change_nothing():
    codes = np.concatenate([CODES["noisy"], np.full((450, 2), 0.1)], axis=1)
    for reference in (False, True):
        one, other = (explicitness(z, FACTORS, reference=reference, **ALONE) for z in (CODES["noisy"], codes))
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert other.notes == ("Codes 3, 4 are constant.",)
    assert explicitness(np.zeros((450, 2)), FACTORS, **ALONE).score == pytest.approx(0.0, abs=1e-12)


def test_a_value_that_only_the_test_part_has_is_at_chance():
    factors = FACTORS[:, :2].copy()
    factors[400:, 0] = 2
    codes = factors + 0.0
    area = explicitness(codes, factors, reference=True, **ALONE).parts["auc_test"][0]
    model = LogisticRegression().fit(
        (codes[:300] - codes[:300].mean(0)) / codes[:300].std(0), factors[:300, 0]
    )
    z = (codes[300:] - codes[:300].mean(0)) / codes[:300].std(0)
    known = [roc_auc_score(factors[300:, 0] == v, model.predict_proba(z)[:, v]) for v in (0, 1)]
    assert area == pytest.approx((sum(known) + 0.5) / 3, abs=1e-6)


def test_values_that_the_test_part_lacks_are_left_out():
    factors = FACTORS[:, :2].copy()
    factors[300:, 1] = np.minimum(factors[300:, 1], 2)
    factors[300:, 0] = 1
    parts = explicitness(factors + 0.0, factors, reference=True, **ALONE).parts
    assert parts["auc_test"][0] == 0.5
    assert parts["auc_test"][1] > 0.95


def test_tiny_data():
    factors = np.array([0] * 9 + [1, 0, 1, 0])[:, None]
    score = explicitness(NOISE[:13], factors, reference=True, calibration=Calibration(5, 5))
    assert np.isfinite([score.score, *score.interval, *score.floor_interval]).all()


def test_seeds():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (explicitness(CODES["noisy"], FACTORS, seed=seed, **ALONE).score for seed in (1, 1, 2))
    assert one == same != other
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
