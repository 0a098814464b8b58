from collections import Counter

import numpy as np
import pytest

from pyro_infomax.disentanglement._interventions import (
    FixedFactorDraws,
    Interventions,
    LearnerTrial,
    Verdicts,
    accuracy,
    fixed_groups,
    fixed_pairs,
    held_fixed,
    in_chunks,
)
from pyro_infomax.disentanglement._sample import to_sample

SIZES = (2, 3, 4)


class Grid:
    """Observations that are the factors themselves; noisy ones differ each time."""

    def __init__(self, sizes=SIZES, *, draws=False):
        self.factor_sizes = sizes
        self.draws = draws
        self.seen = 0

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)

    def observations(self, factors, *, seed=None):
        self.seen += len(factors)
        return np.asarray(factors) + (seed.rand(len(factors), 1) if self.draws else 0.0)


def drawn_factors(n=300, seed=0):
    return Grid().sample_factors(n, seed=np.random.RandomState(seed))


def hold(codes=None, factors=None, *, reference=False, pairs=False, background=0, seed=0):
    factors = drawn_factors() if factors is None else factors
    codes = factors if codes is None else codes
    rng = np.random.RandomState(seed)
    return held_fixed(
        codes, factors, pairs=pairs, num_background=background, reference=reference, rng=rng, progress=False
    )


# ---- rows that share a value


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


@pytest.mark.parametrize("draw", [fixed_pairs, fixed_groups])
def test_no_two_data_of_a_value_are_refused(draw):
    with pytest.raises(ValueError, match=r"share a value of factor 0.*got 6 that all differ"):
        draw(np.arange(6)[:, None], 0, 5, distinct=True, rng=np.random.RandomState(0))


# ---- the data at hand


def test_rows_that_judge_are_not_learned_from():
    held = hold(pairs=True)
    assert not set(held.train.rows.ravel()) & set(held.test.rows.ravel())
    assert len(np.unique(held.test.rows)) == 100
    assert held.train.rows.shape == (10_000, 2, 64)
    assert len(held.test) == 5000


def test_the_factor_that_is_named_is_the_one_that_is_shared():
    for pairs in (False, True):
        held = hold(pairs=pairs)
        for draws in (held.train, held.test):
            shared = held.sample.factors[draws.rows, draws.fixed.reshape(-1, *[1] * (draws.rows.ndim - 1))]
            assert (shared == shared[:, :1]).all()
            assert np.bincount(draws.fixed).min() > len(draws) / 3 - 5 * np.sqrt(len(draws) / 3)


def test_for_the_reference_all_rows_serve_both_parts():
    held = hold(reference=True)
    assert set(held.train.rows.ravel()) == set(held.test.rows.ravel()) == set(range(300))


def test_dependent_factors_are_noted():
    factors = drawn_factors(600)
    assert hold(factors=factors).notes == ()
    factors[::2, 2] = factors[::2, 1]
    (note,) = hold(factors=factors).notes
    assert note.startswith("Factors depend on each other (Cramér's V of 1 and 2 0.")


def test_a_copy_depends_wholly():
    factors = np.repeat(drawn_factors(600)[:, 1:2], 2, axis=1)
    (note,) = hold(factors=factors).notes
    assert "(Cramér's V of 0 and 1 1.00)" in note


def test_all_that_depend_on_each_other_stand_in_one_note():
    factors = np.repeat(drawn_factors(600)[:, 1:2], 3, axis=1)
    (note,) = hold(factors=factors).notes
    assert "(Cramér's V of 0 and 1 1.00, of 0 and 2 1.00, of 1 and 2 1.00)" in note


def test_a_single_factor_is_refused():
    with pytest.raises(ValueError, match="two factors or more"):
        hold(factors=drawn_factors()[:, :1])
    with pytest.raises(ValueError, match="two factors or more"):
        hold(lambda x: x, Grid((4,)), reference=True)


def test_data_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="factor 0 is always 0"):
        hold(factors=drawn_factors() * [0, 1, 1])
    with pytest.raises(ValueError, match="finite codes"):
        hold(np.full((300, 2), np.nan))
    with pytest.raises(ValueError, match="two factors or more"):  # one is constant
        hold(lambda x: x, Grid((1, 3)), reference=True)


# ---- a source


def test_points_of_a_source_are_the_data_at_hand():
    held = hold(lambda x: 2 * x, Grid())
    assert len(held.sample) == 15_000
    np.testing.assert_array_equal(held.sample.codes, 2 * held.sample.values)


@pytest.mark.parametrize("pairs", [False, True])
def test_each_combination_of_a_source_is_encoded_once(pairs):
    grid = Grid()
    held = hold(lambda x: -x, grid, reference=True, pairs=pairs)
    shared = held.sample.factors[held.test.rows, held.test.fixed.reshape(-1, *[1] * (1 + pairs))]
    assert (shared == shared[:, :1]).all()
    assert grid.seen == len(held.sample) == 24
    np.testing.assert_array_equal(held.sample.codes, -held.sample.values)


def test_observations_that_differ_are_encoded_each():
    grid = Grid(draws=True)
    held = hold(lambda x: x, grid, reference=True, background=50)
    assert grid.seen == len(held.sample) == 15_000 * 64 + 50
    assert held.background.tolist() == list(range(50))


class Chained(Grid):
    """The last factor is the one before it, or one more; some combinations never come."""

    def sample_factors(self, n, *, seed=None):
        factors = super().sample_factors(n, seed=seed)
        factors[:, 2] = factors[:, 1] + seed.randint(2, size=n)
        return factors


@pytest.mark.parametrize("pairs", [False, True])
def test_dependent_factors_of_a_source_are_intervened_in(pairs):
    grid = Chained()
    held = hold(lambda x: x[:, ::-1], grid, pairs=pairs)
    (note,) = held.notes
    assert note.startswith("Factors of the source depend on each other (Cramér's V of 1 and 2 0.")
    assert grid.seen == 24  # all combinations, also those that the source never draws
    np.testing.assert_array_equal(held.sample.codes, held.sample.values[:, ::-1])
    assert held.background.tolist() == list(range(15_000))
    for fixed, free in ((1, 2), (2, 1)):
        rows = held.test.rows[held.test.fixed == fixed].reshape(-1)
        given = [held.sample.factors[rows[held.sample.factors[rows, fixed] == v], free] for v in (0, 2)]
        shares = [np.bincount(each, minlength=4) / len(each) for each in given]
        np.testing.assert_allclose(shares[0], shares[1], atol=0.06)  # 5,000 data, each drawn often
        assert len(np.unique(held.sample.factors[rows], axis=0)) > 12
    rows = held.test.rows[held.test.fixed == 0].reshape(-1)  # what is free stays as the source draws it
    assert set(held.sample.factors[rows, 2] - held.sample.factors[rows, 1]) == {0, 1}


@pytest.mark.parametrize("pairs", [False, True])
def test_learning_and_judging_share_no_point_when_intervening(pairs):
    held = hold(lambda x: x, Chained(), pairs=pairs)
    train, test = (np.unique(draws.rows % 15_000) for draws in (held.train, held.test))
    assert not set(train) & set(test)
    assert len(test) > 4900


# ---- trials


def by_first_code(interventions):
    """Guesses the factor from the first code of the first row of a draw."""
    guesses = interventions.sample.codes[interventions.test.rows[:, 0], 0].astype(int)
    return Verdicts(interventions.test.fixed, guesses, {"mean": guesses.mean()}, ("Of the learner.",))


def trial():
    sample = to_sample(np.arange(20)[:, None] % 2, np.stack([np.arange(20) % 2, np.arange(20) // 10], 1))
    draws = FixedFactorDraws(np.arange(20) % 2, np.arange(20)[:, None])
    return LearnerTrial.of(
        Interventions(sample, np.arange(20), draws, draws, ("Of the data.",)), by_first_code
    )


def test_accuracy_is_the_share_of_right_guesses():
    outcome = accuracy(trial(), np.random.RandomState(0))
    assert outcome.score == 1.0
    assert outcome.parts == {"mean": 0.5}
    assert outcome.notes == ("Of the data.", "Of the learner.")


def test_verdicts_are_resampled_together():
    again = trial().resampled(np.random.RandomState(0)).verdicts
    assert (again.truth == again.guesses).all()
    assert again.truth.sum() != 10 or again.truth.tolist() != [0, 1] * 10


def test_shuffled_codes_are_learned_from_anew():
    verdicts = trial().permuted(np.random.RandomState(0)).verdicts
    assert 0 < (verdicts.truth == verdicts.guesses).mean() < 1


def test_the_factors_are_learned_from_too():
    assert trial().as_codes().verdicts.guesses.tolist() == [0, 1] * 10


def test_chunks_are_all_of_the_draws():
    draws = FixedFactorDraws(np.zeros(777, dtype=np.int64), np.arange(777 * 4).reshape(777, 4))
    np.testing.assert_array_equal(np.concatenate(list(in_chunks(draws))), draws.rows)
