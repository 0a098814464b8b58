import math

import numpy as np
import pytest

from pyro_infomax.datasets._factors import FactorTable, FullGrid, to_cells, to_distribution, to_random_state

NAMES, SIZES = ("a", "b", "c"), (2, 3, 4)


def within(counts, probabilities, n):
    """Whether counts are what these probabilities give, up to five standard errors."""
    error = 5 * np.sqrt(n * probabilities * (1 - probabilities))
    return bool((np.abs(counts - n * probabilities) <= error + 1e-9).all())


def counts_of(distribution, n=20_000):
    drawn = distribution.sample(n, to_random_state(0))
    return np.bincount(to_cells(drawn, distribution.sizes), minlength=math.prod(distribution.sizes)), n


def test_the_full_grid_is_drawn_column_by_column():
    generator = to_random_state(1)
    columns = [generator.randint(size, size=7) for size in SIZES]
    drawn = FullGrid(SIZES).sample(7, to_random_state(1))
    assert np.array_equal(drawn, np.stack(columns, axis=1))
    assert drawn.dtype == np.int64


def test_the_combinations_of_the_full_grid_are_all_with_the_last_changing_fastest():
    grid = FullGrid(SIZES)
    expected = [[a, b, c] for a in range(2) for b in range(3) for c in range(4)]
    assert grid.combinations().tolist() == expected
    assert len(grid) == 24
    assert np.allclose(grid.probabilities(), 1 / 24)


def test_without_anything_left_out_it_is_the_full_grid():
    assert isinstance(to_distribution(NAMES, SIZES), FullGrid)


def test_what_is_left_out_never_comes():
    distribution = to_distribution(NAMES, SIZES, where=lambda v: (v[:, 0] == 0) | (v[:, 2] > 1))
    expected = [
        [a, b, c] for a in range(2) for b in range(3) for c in range(4) if a == 0 or c > 1
    ]  # (combination, factor)
    assert distribution.combinations().tolist() == expected
    assert len(distribution) == len(expected)
    counts, n = counts_of(distribution)
    probabilities = np.zeros(24)
    probabilities[to_cells(np.array(expected), SIZES)] = 1 / len(expected)
    assert within(counts, probabilities, n)
    assert distribution.is_uniform


def test_correlated_factors_weigh_by_the_distance_of_their_scaled_values():
    distribution = to_distribution(NAMES, SIZES, correlated={("b", "c"): 0.3})
    weights = np.array(
        [
            math.exp(-((b / 2 - c / 3) ** 2) / (2 * 0.3**2))
            for _ in range(2)
            for b in range(3)
            for c in range(4)
        ]
    )
    expected = weights / weights.sum()
    assert np.allclose(distribution.probabilities(), expected, rtol=1e-12)
    counts, n = counts_of(distribution)
    assert within(counts, expected, n)
    assert not distribution.is_uniform


def test_several_pairs_and_what_is_left_out_go_together():
    distribution = to_distribution(
        NAMES, SIZES, correlated={("a", "b"): 0.5, ("b", "c"): 1.0}, where=lambda v: v[:, 1] != 1
    )
    weights = np.array(
        [
            math.exp(-((a - b / 2) ** 2) / 0.5 - (b / 2 - c / 3) ** 2 / 2)
            for a, b, c in distribution.combinations()
        ]
    )
    assert np.allclose(distribution.probabilities(), weights / weights.sum(), rtol=1e-12)


def test_a_factor_of_one_value_goes_with_any():
    distribution = to_distribution(("a", "b"), (1, 3), correlated={("a", "b"): 0.5})
    expected = np.exp(-np.square([0, 0.5, 1]) / 0.5)
    assert np.allclose(distribution.probabilities(), expected / expected.sum())


def test_log_prob_is_minus_infinity_where_nothing_comes():
    distribution = to_distribution(NAMES, SIZES, where=lambda v: v[:, 0] == 0)
    assert distribution.log_prob(np.array([[1, 2, 3], [0, 0, 0]])).tolist() == [-math.inf, -math.log(12)]


def test_a_tiny_sigma_gives_no_nan():
    distribution = to_distribution(NAMES, SIZES, correlated={("b", "c"): 1e-3})
    assert np.isfinite(distribution.probabilities()).all()
    assert distribution.sample(100, to_random_state(0))[:, 1].max() <= 2


def test_rows_of_cells_and_their_weights_are_drawn_as_often():
    table = FactorTable((2, 2), np.array([0, 3]), np.log([1.0, 3.0]))
    counts, n = counts_of(table)
    assert within(counts, np.array([0.25, 0, 0, 0.75]), n)


@pytest.mark.parametrize("answer", [lambda v: v[:, 0], lambda v: True, lambda v: v > 0])
def test_a_predicate_without_a_boolean_each_is_refused(answer):
    with pytest.raises(ValueError, match=r"Expected where to give a boolean for each combination"):
        to_distribution(NAMES, SIZES, where=answer)


def test_nothing_left_is_refused():
    with pytest.raises(ValueError, match="it leaves none"):
        to_distribution(NAMES, SIZES, where=lambda v: v[:, 0] > 5)


@pytest.mark.parametrize("pair", [("a", "d"), ("a", "a"), ("a",), "ab"])
def test_unknown_pairs_are_refused(pair):
    with pytest.raises(ValueError, match="Expected correlated to name pairs of two of the factors a, b, c"):
        to_distribution(NAMES, SIZES, correlated={pair: 1.0})


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf, 1e-200])
def test_a_sigma_that_is_not_positive_is_refused(sigma):
    with pytest.raises(ValueError, match="Expected a finite sigma >= 1e-06"):
        to_distribution(NAMES, SIZES, correlated={("a", "b"): sigma})


def test_the_smallest_sigma_ties_two_factors_where_the_diagonal_is_left_out():
    distribution = to_distribution(
        (*"ab",), (3, 3), correlated={("a", "b"): 1e-6}, where=lambda v: v[:, 0] != v[:, 1]
    )
    expected = [abs(a - b) == 1 for a, b in distribution.combinations().tolist()]
    assert np.allclose(distribution.probabilities(), np.array(expected) / 4)


def test_pairs_without_their_sigma_are_refused():
    with pytest.raises(ValueError, match="Expected correlated to be a mapping from pairs of names to sigma"):
        to_distribution(NAMES, SIZES, correlated=[("a", "b")])
