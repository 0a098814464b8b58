"""The algorithms behind the scores, where a score shows them with too little precision."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import hypergeom
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier

from pyro_infomax.disentanglement._chen_mig import NormalMixtures
from pyro_infomax.disentanglement._dci import BinnedBoosting
from pyro_infomax.disentanglement._interventions import fixed_groups, fixed_pairs, held_fixed
from pyro_infomax.disentanglement._mig import (
    PointwiseInformation,
    expected_by_chance,
    mutual_informations,
)
from pyro_infomax.disentanglement._sample import to_sample

# ---- Boosted trees on bins.


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


@pytest.mark.parametrize("values", [2, 5])
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
    z, y = np.arange(400.0)[:, None], np.arange(400) // 10
    first = np.log(1 / 40)
    for options, largest in (({"largest_step": 1.5}, 1.5), ({}, 3.0)):
        model = BinnedBoosting(1, random_state=0, **options).fit(z, y)
        assert model.decision_function(z).max() - first == pytest.approx(largest)


@pytest.mark.parametrize("bins", [1, 257])
def test_bins_fit_into_a_byte(bins):
    with pytest.raises(ValueError, match="max_bins"):
        BinnedBoosting(max_bins=bins).fit(np.zeros((10, 1)), np.arange(10))


# ---- Mixtures of Normals in groups.

SIZE = 600


def naive(loc, scale, draws, owner, labels):
    logs = np.empty((len(draws), labels.shape[1]))
    for m, t in np.ndindex(logs.shape):
        group = labels[:, t] == labels[owner[m], t]
        terms = -0.5 * ((draws[m] - loc[group]) / scale[group]) ** 2 - np.log(scale[group])
        logs[m, t] = np.logaddexp.reduce(terms) - np.log(group.sum()) - 0.5 * np.log(2 * np.pi)
    return logs


def drawn(loc, scale, *, seed=1):
    rng = np.random.RandomState(seed)
    owner = rng.permutation(len(loc))[:200]
    return loc[owner] + scale[owner] * rng.standard_normal(len(owner)), owner


def labellings(size):
    rng = np.random.RandomState(2)
    return np.stack([np.zeros(size, int), rng.randint(3, size=size), rng.randint(40, size=size)], axis=1)


NORMAL = np.random.RandomState(0).standard_normal(SIZE)
CASES = {
    **{f"scale {s:g}": (NORMAL, np.full(SIZE, s)) for s in (1e-8, 0.02, 0.1, 3.0)},
    "scales apart": (NORMAL, np.exp(2 * np.random.RandomState(3).standard_normal(SIZE) - 3)),
    "clusters": (np.arange(SIZE) % 4 * 100.0, np.full(SIZE, 0.3)),
    "clusters of two scales": (np.arange(SIZE) % 4 * 1.0, np.where(np.arange(SIZE) % 8 < 4, 1e-3, 2.0)),
    "far from zero": (NORMAL + 1e6, np.full(SIZE, 0.2)),
    "collapsed": (np.zeros(SIZE), np.ones(SIZE)),
}


@pytest.mark.parametrize("case", CASES)
def test_log_densities_are_those_of_the_loops(case):
    loc, scale = CASES[case]
    draws, owner = drawn(loc, scale)
    labels = labellings(len(loc))
    found = NormalMixtures(loc, scale, draws, owner).log_densities(labels)
    expected = naive(loc, scale, draws, owner, labels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), rtol=0, atol=1e-6)


def test_a_group_of_one_has_the_density_of_its_component():
    loc, scale = np.array([0.0, 1.0, 1e9]), np.array([1.0, 2.0, 1e-3])
    logs = NormalMixtures(loc, scale, loc, np.arange(3)).log_densities(np.arange(3)[:, None])
    np.testing.assert_allclose(logs[:, 0], -np.log(scale * np.sqrt(2 * np.pi)))


def test_a_scale_that_is_lost_beside_its_mean_still_has_its_own_component():
    loc, scale = np.array([1.0, 2.0, 2.0]), np.full(3, 1e-30)
    logs = NormalMixtures(loc, scale, loc, np.arange(3)).log_densities(np.zeros((3, 1), int))
    own = -np.log(1e-30 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(logs[:, 0], [own - np.log(3), own + np.log(2 / 3), own + np.log(2 / 3)])


def test_blocks_of_components_change_nothing(monkeypatch):
    loc, scale = CASES["scale 0.1"]
    draws, owner = drawn(loc, scale)
    mixtures = NormalMixtures(loc, scale, draws, owner)
    whole = mixtures.log_densities(labellings(SIZE))
    monkeypatch.setattr("pyro_infomax.disentanglement._chen_mig._BLOCK", 1000)
    np.testing.assert_allclose(mixtures.log_densities(labellings(SIZE)), whole, rtol=1e-12)


def test_a_grid_in_several_stretches_reaches_every_draw():
    loc, scale = np.repeat([0.0, 100.0, 300.0], 1000), np.full(3000, 0.3)
    loc = loc + 0.1 * np.random.RandomState(4).standard_normal(3000)
    owner = np.random.RandomState(5).permutation(3000)
    draws, labels = loc[owner] + 0.3 * np.random.RandomState(6).standard_normal(3000), labellings(3000)
    found = NormalMixtures(loc, scale, draws, owner).log_densities(labels)[:60]
    expected = naive(loc, scale, draws[:60], owner[:60], labels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


# ---- Mutual information that chance alone would show.


def columns(size, *counts, seed=0):
    rng = np.random.RandomState(seed)
    return np.stack([rng.randint(count, size=size) for count in counts], axis=1)


def by_every_count(left, right):
    size, total = len(left), 0.0
    for a, b in itertools.product(np.bincount(left), np.bincount(right)):
        for both in range(1, min(a, b) + 1):
            log = math.log(size * both / (a * b))
            total += hypergeom.pmf(both, size, a, b) * both / size * log
    return total


# 300: counts beyond those that the table holds one by one
@pytest.mark.parametrize(
    ("size", "left", "right", "tolerance"), [(12, 3, 2, 1e-9), (40, 7, 9, 1e-9), (300, 4, 5, 3e-4)]
)
def test_the_expectation_is_that_over_all_permutations(size, left, right, tolerance):
    bins, factors = columns(size, left), columns(size, right, seed=1)
    expected = by_every_count(bins[:, 0], factors[:, 0])
    assert expected_by_chance(bins, factors).mean[0, 0] == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("counts", [(10, 3), (30, 30), (2, 90)])
def test_shuffles_have_these_moments(counts):
    rng = np.random.RandomState(2)
    bins, factors = columns(300, *counts).T[:, :, None]
    chance = expected_by_chance(bins, factors)
    shuffles = [mutual_informations(bins[rng.permutation(300)], factors)[0, 0] for _ in range(400)]
    deviation = chance.variance[0, 0] ** 0.5
    assert np.mean(shuffles) == pytest.approx(chance.mean[0, 0], abs=4 * deviation / 20)
    assert np.std(shuffles) == pytest.approx(deviation, rel=0.15)


def test_few_data_have_the_moments_of_all_their_permutations():
    bins, factor = np.repeat([0, 1, 2], [2, 2, 3]), np.repeat([0, 1], [3, 4])[:, None]
    every = [mutual_informations(np.array([p]).T, factor) for p in set(itertools.permutations(bins.tolist()))]
    chance = expected_by_chance(bins[:, None], factor)
    assert chance.mean == pytest.approx(np.mean(every), rel=1e-9)
    assert chance.variance == pytest.approx(np.var(every), rel=0.03)


def test_large_counts_have_the_variance_of_the_likelihood_ratio_test():
    bins, factors = columns(100_000, 4), columns(100_000, 6, seed=1)
    chance = expected_by_chance(bins, factors)
    assert 2e5 * chance.mean[0, 0] == pytest.approx(15, rel=2e-3)
    assert 4e10 * chance.variance[0, 0] == pytest.approx(30, rel=5e-3)


# ---- What is told at each datum.


@pytest.mark.parametrize("grid", [None, 20], ids=["distinct codes", "codes that come again"])
def test_shuffled_codes_tell_nothing_on_average_and_err_as_they_say(grid):
    codes = np.random.RandomState(0).randn(300, 200)
    data = PointwiseInformation.of(
        to_sample(codes if grid is None else np.round(grid * codes), columns(300, 2, 7))
    )
    mean = data.told.mean(0)  # (code, factor)
    spread = mean.std(0)
    assert (np.abs(mean.mean(0)) < 4 * spread / 200**0.5).all()
    ratio = spread / data.standard_error.mean(0)
    assert ((ratio > 0.65) & (ratio < 1.1)).all()


# ---- Rows that share a value.


@pytest.mark.parametrize("distinct", [False, True])
def test_pairs_share_the_value_and_each_is_as_likely_as_the_other(distinct):
    factors = np.array([[0], [1], [0], [1], [0]])
    pairs = fixed_pairs(factors, 0, 1000, distinct=distinct, rng=np.random.RandomState(0))
    counts = Counter(zip(pairs[:, 0].ravel().tolist(), pairs[:, 1].ravel().tolist(), strict=True))
    possible = [
        (i, j) for i in range(5) for j in range(5) if factors[i] == factors[j] and not (distinct and i == j)
    ]
    assert set(counts) == set(possible)
    for i, j in possible:
        choices = (factors == factors[i]).sum() - distinct
        expected = 64_000 / 5 / choices
        assert counts[i, j] == pytest.approx(expected, abs=5 * np.sqrt(expected))


@pytest.mark.parametrize("distinct", [False, True])
def test_groups_share_one_value_that_comes_as_often_as_in_the_data(distinct):
    factors = np.array([[7], [2], [7], [7], [5]]) % 8
    rows = fixed_groups(factors, 0, 4000, distinct=distinct, rng=np.random.RandomState(0))
    values = factors[rows, 0]
    assert (values == values[:, :1]).all()
    shares = np.array([(values[:, 0] == value).mean() for value in (7, 2, 5)])
    expected = [1.0, 0.0, 0.0] if distinct else [0.6, 0.2, 0.2]
    np.testing.assert_allclose(shares, expected, atol=5 * 0.5 / np.sqrt(4000))
    of_seven = rows[values[:, 0] == 7]
    np.testing.assert_allclose([(of_seven == row).mean() for row in (0, 2, 3)], 1 / 3, atol=0.01)


class Chained:
    """The last factor is the one before it, or one more."""

    factor_sizes = (2, 3, 4)

    def sample_factors(self, n, *, seed=None):
        factors = np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)
        factors[:, 2] = factors[:, 1] + seed.randint(2, size=n)
        return factors

    def observations(self, factors):
        return factors


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("from_source", [False, True])
def test_rows_that_judge_are_not_learned_from_and_share_the_factor_that_is_named(from_source, pairs):
    rng = np.random.RandomState(0)
    given = (np.asarray, Chained()) if from_source else 2 * [columns(300, 2, 3, 4)]
    held = held_fixed(*given, pairs=pairs, num_background=0, reference=False, rng=rng, progress=False)
    size = 15_000 if from_source else 300  # of a source, as drawn and intervened in for each factor
    train, test = (np.unique(draws.rows % size) for draws in (held.train, held.test))
    assert not np.intersect1d(train, test).size
    assert len(test) > 0.98 * size / 3
    for draws in (held.train, held.test):
        shared = held.sample.factors[draws.rows, draws.fixed.reshape(-1, *[1] * (draws.rows.ndim - 1))]
        assert (shared == shared[:, :1]).all()
        assert np.bincount(draws.fixed).min() > len(draws) / 3 - 5 * np.sqrt(len(draws) / 3)


def test_a_factor_that_is_set_anew_says_nothing_of_the_others():
    held = held_fixed(
        np.asarray,
        Chained(),
        pairs=False,
        num_background=0,
        reference=False,
        rng=np.random.RandomState(0),
        progress=False,
    )
    for fixed, free in ((1, 2), (2, 1)):
        rows = held.test.rows[held.test.fixed == fixed].reshape(-1)
        given = [held.sample.factors[rows[held.sample.factors[rows, fixed] == v], free] for v in (0, 2)]
        shares = [np.bincount(each, minlength=4) / len(each) for each in given]
        np.testing.assert_allclose(shares[0], shares[1], atol=0.06)  # 5,000 data, each drawn often
    rows = held.test.rows[held.test.fixed == 0].reshape(-1)  # what is free stays as the source draws it
    assert set(held.sample.factors[rows, 2] - held.sample.factors[rows, 1]) == {0, 1}
