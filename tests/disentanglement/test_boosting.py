import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier

from pyro_infomax.disentanglement._dci import BinnedBoosting


def data(size=600, values=4, seed=0):
    """Codes of few distinct values, so that bins lose nothing."""
    rng = np.random.RandomState(seed)
    codes = rng.randint(20, size=(size, 4)).astype(float)
    noisy = codes @ [1.0, 0.6, 0.3, 0.0] + 3 * rng.randn(size)
    return codes, np.digitize(noisy, np.quantile(noisy, np.arange(1, values) / values))


def raw(model, codes):
    """A softmax says nothing of a constant in all of them."""
    scores = model.decision_function(codes)
    return scores - scores.mean(1, keepdims=True) if scores.ndim > 1 else scores


@pytest.mark.parametrize("values", [2, 3, 5])
def test_trees_are_those_of_scikit_learn(values):
    codes, y = data(values=values)
    ours = BinnedBoosting(5, learning_rate=0.1, largest_step=np.inf, random_state=0).fit(codes, y)
    theirs = GradientBoostingClassifier(n_estimators=5, random_state=0).fit(codes, y)
    # not to the digit, where equally good splits are drawn
    assert np.allclose(ours.feature_importances_, theirs.feature_importances_, atol=0.01)
    assert np.allclose(raw(ours, codes), raw(theirs, codes), atol=0.02)
    assert (ours.predict(codes) == theirs.predict(codes)).mean() > 0.99


def test_one_stage_is_that_of_scikit_learn_to_the_digit():
    codes, y = data(size=3000, values=3)
    ours = BinnedBoosting(1, learning_rate=1.0, largest_step=np.inf, random_state=0).fit(codes, y)
    theirs = GradientBoostingClassifier(n_estimators=1, learning_rate=1.0, random_state=0).fit(codes, y)
    assert np.allclose(ours.feature_importances_, theirs.feature_importances_, atol=1e-6)
    assert np.allclose(raw(ours, codes), raw(theirs, codes), atol=1e-6)


def test_default_importances_are_nearly_those_of_scikit_learn():
    rng = np.random.RandomState(1)
    z = rng.randn(1500, 4)
    y = np.digitize(z @ [1.0, -0.5, 0.3, 0.0], [-0.7, 0.7])
    ours = BinnedBoosting(random_state=0).fit(z, y)
    theirs = GradientBoostingClassifier(random_state=0).fit(z, y)
    assert np.abs(ours.feature_importances_ - theirs.feature_importances_).max() < 0.03
    assert abs(ours.score(z, y) - theirs.score(z, y)) < 0.05


def test_twins_share_what_they_tell():
    codes, y = data(values=5)
    twins = codes[:, [0, 0, 1]]
    importance = BinnedBoosting(random_state=0).fit(twins, y).feature_importances_
    alone = BinnedBoosting(random_state=0).fit(codes[:, :2], y).feature_importances_
    assert importance[:2].sum() == pytest.approx(alone[0], abs=0.01)
    assert importance[:2].min() > 0.25 * importance[:2].sum()


def test_no_increasing_function_changes_the_importances():
    z, y = np.random.RandomState(0).randn(500, 3), np.arange(500) % 3
    z[:, 1] += y
    one = BinnedBoosting(random_state=0).fit(z, y)
    other = BinnedBoosting(random_state=0).fit(np.exp(z * [1.0, 2.0, 0.5]), y)
    assert np.array_equal(one.feature_importances_, other.feature_importances_)


def test_more_values_than_bins_are_put_into_bins_of_equal_numbers():
    z = np.random.RandomState(0).randn(1000, 1) ** 3
    model = BinnedBoosting(1, max_bins=16, random_state=0).fit(z, z[:, 0] > 0)
    counts = np.bincount(model._binned(z)[0], minlength=16)
    assert counts.min() >= 61
    assert counts.max() <= 64


def test_nothing_to_learn_gives_zeros():
    z = np.random.RandomState(0).randn(30, 2)
    dead = BinnedBoosting(random_state=0).fit(np.zeros((30, 2)), np.arange(30) % 3)
    assert dead.feature_importances_.tolist() == [0.0, 0.0]
    constant = BinnedBoosting(random_state=0).fit(z, np.full(30, 7))
    assert constant.predict(z).tolist() == [7] * 30


def test_it_is_cloned_and_seeded_like_others():
    codes, y = data(size=300)
    twins = codes[:, [0, 0, 1]]
    model = clone(BinnedBoosting(3, random_state=4))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, other = model.fit(twins, y).feature_importances_, clone(model).fit(twins, y).feature_importances_
    assert np.array_equal(one, other)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    assert model.get_params()["n_estimators"] == 3


def test_no_step_is_longer_than_the_largest():
    z = np.arange(400.0)[:, None]
    y = np.arange(400) // 10
    first = np.log(1 / 40)
    model = BinnedBoosting(1, largest_step=1.5, random_state=0).fit(z, y)
    moves = model.decision_function(z) - first
    assert moves.max() == pytest.approx(1.5)
    assert BinnedBoosting(1, random_state=0).fit(z, y).decision_function(z).max() - first == pytest.approx(
        3.0
    )


@pytest.mark.parametrize("bins", [1, 257])
def test_bins_fit_into_a_byte(bins):
    with pytest.raises(ValueError, match="max_bins"):
        BinnedBoosting(max_bins=bins).fit(np.zeros((10, 1)), np.arange(10))
