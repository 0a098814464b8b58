import math

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from pyro_infomax.disentanglement import Calibration, dci

FACTORS = np.random.RandomState(0).randint([2, 3, 4], size=(600, 3))
NOISE = np.random.RandomState(1).randn(600, 5)
ROTATION = np.linalg.qr(np.random.RandomState(2).randn(3, 3))[0]
ALONE = {"calibration": None, "progress": False}
CODES = {
    "factors": FACTORS.astype(float),
    "rotated": FACTORS @ ROTATION,
    "duplicated": np.concatenate([FACTORS, FACTORS], axis=1),
    "noise": NOISE,
    "noisy": np.concatenate([FACTORS + 0.3 * NOISE[:, :3], NOISE[:, 3:]], axis=1),
    "scaled": FACTORS * [1e-3, 1.0, 1e2],
    "dead": np.concatenate([FACTORS, np.ones((600, 2))], axis=1),
}
NAMES = ("dci", "dci_completeness", "dci_informativeness")


def values(score):
    assert tuple(each.name for each in score.all) == NAMES
    return np.array([each.score for each in score.all])


def concentration(rows):
    """Sum of weight times one less the entropy, by loops."""
    whole, result = sum(map(sum, rows)), 0.0
    for row in rows:
        shares = [(r + 1e-11) / (sum(row) + 1e-11 * len(row)) for r in row]
        entropy = -sum(s * math.log(s) for s in shares) / math.log(len(row))
        weight = sum(row) / whole if whole else 1 / len(rows)
        result += weight * (1 - entropy)
    return result


def defined(codes, factors, cut):
    importance, accuracy = [], []
    rng = np.random.RandomState(0)  # as dci seeds its learners
    for y in factors.T:
        model = GradientBoostingClassifier(random_state=rng.randint(2**31 - 1)).fit(codes[:cut], y[:cut])
        importance.append(np.abs(model.feature_importances_))
        accuracy.append(np.mean(model.predict(codes[cut:]) == y[cut:]))
    by_factor = np.array(importance).tolist()
    by_code = np.array(importance).T.tolist()
    return np.array([concentration(by_code), concentration(by_factor), np.mean(accuracy)])


def test_reference_is_its_definition():
    codes, factors = np.insert(CODES["rotated"][:90], 1, 1.0, axis=1), FACTORS[:90, :2]
    score = dci(codes, factors, reference=True, progress=False)
    assert values(score) == pytest.approx(defined(codes, factors, 60), abs=1e-6)
    assert score.floor is None


@pytest.mark.parametrize("name", ["rotated", "noisy"])
def test_default_is_near_the_reference(name):
    fast = values(dci(CODES[name], FACTORS, **ALONE))
    order = np.random.RandomState(0).permutation(600)
    slow = defined(CODES[name][order], FACTORS[order], 400)
    assert np.abs(fast - slow).max() < 0.05


@pytest.mark.parametrize("name", ["duplicated", "noise", "dead"])
def test_the_scores_are_those_of_the_importances(name):
    score = dci(CODES[name], FACTORS[:, :2], **ALONE)
    importance = score.parts["importance"]
    assert values(score)[:2] == pytest.approx(
        [concentration(importance.tolist()), concentration(importance.T.tolist())], abs=1e-9
    )


def test_factors_are_perfect():
    score = dci(FACTORS, FACTORS, calibration=Calibration(0, 0), progress=False)
    assert values(score) == pytest.approx(1.0, abs=1e-6)
    assert all(each.ceiling == pytest.approx(1.0, abs=1e-6) for each in score.all)
    assert np.allclose(score.parts["importance"], np.eye(3), atol=1e-6)
    assert "squared error in the trees of BinnedBoosting" in score.parts["importance_kind"]


def test_duplicated_codes_are_disentangled_but_not_complete():
    disentangled, complete, informative = values(dci(CODES["duplicated"], FACTORS, **ALONE))
    assert disentangled == pytest.approx(1.0, abs=1e-6)
    # at best shared alike, but a tree that splits once takes one of the two
    assert 1 - math.log(2) / math.log(6) < complete < 0.8
    assert informative == 1.0


def test_noise_scores_its_floor():
    score = dci(NOISE, FACTORS, calibration=Calibration(0, 8), progress=False)
    for each in score.all:
        assert each.floor_interval[0] <= each.score <= each.floor_interval[1]
    assert score.companions[1].floor == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 4]), abs=0.05)


def test_dead_codes_count_for_nothing():
    score = dci(CODES["dead"], FACTORS, **ALONE)
    assert score.parts["importance"][3:].max() == 0.0
    assert score.score == pytest.approx(1.0, abs=1e-6)
    assert score.notes == ("Codes 3, 4 are constant.",)
    nothing = dci(np.zeros((600, 2)), FACTORS, **ALONE)
    assert nothing.score == pytest.approx(0.0, abs=1e-9)
    assert np.allclose(nothing.parts["informativeness_test"], nothing.parts["majority"])


def test_learners_of_scikit_learn():
    forest = dci(CODES["factors"], FACTORS, learner=RandomForestClassifier(10), **ALONE)
    linear = dci(CODES["noisy"], FACTORS, learner=LogisticRegression(), **ALONE)
    assert forest.score > 0.9
    assert "RandomForestClassifier" in forest.parts["importance_kind"]
    assert "coefficients of LogisticRegression" in linear.parts["importance_kind"]
    assert linear.parts["importance"][3:].max() < 0.2


def test_coefficients_count_in_units_of_their_codes():
    codes = NOISE[:, :3] + FACTORS
    learner = LogisticRegression(C=1e8, solver="newton-cholesky")
    one, other = (
        dci(z, FACTORS, learner=learner, **ALONE).parts["importance"]
        for z in (codes, codes * [0.1, 1.0, 10.0])
    )
    assert np.allclose(one, other, atol=1e-3)


def test_a_learner_is_left_as_it_was():
    learner = RandomForestClassifier(3, random_state=None)
    dci(FACTORS, FACTORS, learner=learner, **ALONE)
    assert learner.random_state is None
    assert not hasattr(learner, "estimators_")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learner": Ridge()}, "to be a classifier"),
        ({"learner": KNeighborsClassifier()}, "neither"),
        ({"learner": RandomForestClassifier(), "reference": True}, "no learner beside reference=True"),
    ],
)
def test_learners_that_will_not_do(options, message):
    with pytest.raises(ValueError, match=message):
        dci(FACTORS, FACTORS, **options, **ALONE)


def test_a_single_factor_or_code_is_refused():
    with pytest.raises(ValueError, match="two factors or more"):
        dci(NOISE, FACTORS[:, :1])
    with pytest.raises(ValueError, match="two codes or more but got 1"):
        dci(NOISE[:, :1], FACTORS)


def test_values_that_only_one_part_has():
    factors = FACTORS[:20].copy()
    factors[:, 0] = 0
    factors[-1, 0] = 1
    for seed in range(2):
        score = dci(NOISE[:20], factors, calibration=Calibration(2, 2), seed=seed, progress=False)
        assert np.isfinite([each.score for each in score.all]).all()


def test_seeds():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (values(dci(CODES["noisy"], FACTORS, seed=seed, **ALONE)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
