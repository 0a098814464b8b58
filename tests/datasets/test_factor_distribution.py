import math

import numpy as np
import pytest

from pyro_infomax.datasets import FactorArrays

NAMES, SIZES = ("a", "b", "c"), (2, 3, 4)
GRID = np.stack([axis.ravel() for axis in np.indices(SIZES)], axis=1)


def data(factors=GRID, names=NAMES, **options):
    return FactorArrays(np.zeros((len(factors), 1)), factors, factor_names=names, **options)


def comes_as_often(given, probabilities, n=20_000):
    """Whether combinations are drawn with these probabilities, up to five standard errors."""
    cells = np.ravel_multi_index(tuple(given.sample_factors(n, seed=0).T), given.factor_sizes)
    counts = np.bincount(cells, minlength=len(probabilities))
    error = 5 * np.sqrt(n * probabilities * (1 - probabilities))
    return bool((np.abs(counts - n * probabilities) <= error + 1e-9).all())


def is_uniform(given):
    """Each combination once is what comes where all come equally often."""
    try:
        given.as_dataset()
    except ValueError:
        return False
    return True


def test_the_full_grid_is_drawn_column_by_column():
    generator = np.random.RandomState(1)
    columns = [generator.randint(size, size=7) for size in SIZES]
    drawn = data().sample_factors(7, seed=1)
    assert np.array_equal(drawn, np.stack(columns, axis=1))
    assert drawn.dtype == np.int64


def test_the_combinations_of_the_full_grid_are_all_with_the_last_changing_fastest():
    assert data().all_factors().tolist() == GRID.tolist()
    assert len(data()) == 24
    assert np.allclose(data().probabilities(), 1 / 24)
    assert is_uniform(data())


def test_what_is_left_out_never_comes():
    some = data(where=lambda v: (v[:, 0] == 0) | (v[:, 2] > 1))
    kept = (GRID[:, 0] == 0) | (GRID[:, 2] > 1)
    assert some.all_factors().tolist() == GRID[kept].tolist()
    assert len(some) == kept.sum()
    assert comes_as_often(some, kept / kept.sum())
    assert is_uniform(some)
    expected = np.where(kept, -math.log(kept.sum()), -math.inf)
    np.testing.assert_allclose(some.log_prob(GRID), expected, rtol=1e-12)


def test_correlated_factors_weigh_by_the_distance_of_their_scaled_values():
    tied = data(correlated={("b", "c"): 0.3})
    weights = np.exp(-((GRID[:, 1] / 2 - GRID[:, 2] / 3) ** 2) / (2 * 0.3**2))
    expected = weights / weights.sum()
    assert np.allclose(tied.probabilities(), expected, rtol=1e-12)
    assert comes_as_often(tied, expected)
    assert not is_uniform(tied)


def test_several_pairs_and_what_is_left_out_go_together():
    tied = data(correlated={("a", "b"): 0.5, ("b", "c"): 1.0}, where=lambda v: v[:, 1] != 1)
    a, b, c = tied.all_factors().T
    weights = np.exp(-((a - b / 2) ** 2) / 0.5 - (b / 2 - c / 3) ** 2 / 2)
    assert np.allclose(tied.probabilities(), weights / weights.sum(), rtol=1e-12)


def test_a_factor_of_one_value_goes_with_any():
    tied = data(np.array([[0, 0], [0, 1], [0, 2]]), "ab", correlated={("a", "b"): 0.5})
    expected = np.exp(-np.square([0, 0.5, 1]) / 0.5)
    assert np.allclose(tied.probabilities(), expected / expected.sum())


def test_rows_are_drawn_as_often_as_there_are():
    assert comes_as_often(
        data(np.array([[0, 0], [1, 1], [1, 1], [1, 1]]), "ab"), np.array([0.25, 0, 0, 0.75])
    )


def test_the_smallest_sigma_ties_two_factors_where_the_diagonal_is_left_out():
    tied = data(GRID[:, :2], "ab", correlated={("a", "b"): 1e-6})
    assert np.isfinite(tied.probabilities()).all()
    assert {tuple(row) for row in tied.sample_factors(100, seed=0).tolist()} == {(0, 0), (1, 2)}
    square = np.stack([axis.ravel() for axis in np.indices((3, 3))], axis=1)
    off = data(square, "ab", correlated={("a", "b"): 1e-6}, where=lambda v: v[:, 0] != v[:, 1])
    expected = [abs(a - b) == 1 for a, b in off.all_factors().tolist()]
    assert np.allclose(off.probabilities(), np.array(expected) / 4)


WRONG = {
    "a number": ({"where": lambda v: v[:, 0]}, "where to give a boolean for each combination"),
    "one boolean": ({"where": lambda v: True}, "where to give a boolean for each combination"),
    "two axes": ({"where": lambda v: v > 0}, "where to give a boolean for each combination"),
    "nothing left": ({"where": lambda v: v[:, 0] > 5}, "it leaves none"),
    "no mapping": ({"correlated": [("a", "b")]}, "correlated to be a mapping from pairs of names to sigma"),
    **{
        f"pair {pair}": ({"correlated": {pair: 1.0}}, "name pairs of two of the factors a, b, c")
        for pair in (("a", "d"), ("a", "a"), ("a",), "ab")
    },
    **{
        f"sigma {sigma}": ({"correlated": {("a", "b"): sigma}}, "a finite sigma >= 1e-06")
        for sigma in (0, -1.0, math.nan, math.inf, 1e-200)
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_come_is_refused(case):
    options, message = WRONG[case]
    with pytest.raises(ValueError, match=f"Expected .*{message}"):
        data(**options)
