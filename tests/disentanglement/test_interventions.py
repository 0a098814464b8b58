"""What the two scores that hold a factor fixed have in common."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from scipy.stats.contingency import association

from pyro_infomax.disentanglement import beta_vae_score, factor_vae_score

ALONE = {"calibration": None, "progress": False}
both = pytest.mark.parametrize("function", [beta_vae_score, factor_vae_score])


class Grid:
    """Observations that are the factors themselves; noisy ones differ each time."""

    def __init__(self, *sizes, draws=False):
        self.factor_sizes = sizes or (2, 3, 4)
        self.draws = draws
        self.seen = 0

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)

    def observations(self, factors, *, seed=None):
        self.seen += len(factors)
        return np.asarray(factors) + (0.01 * seed.rand(len(factors), 1) if self.draws else 0.0)


class Chained(Grid):
    """The last factor is the one before it, or one more; some combinations never come."""

    def sample_factors(self, n, *, seed=None):
        factors = super().sample_factors(n, seed=seed)
        factors[:, 2] = factors[:, 1] + seed.randint(2, size=n)
        return factors


def drawn_factors(n=600, seed=0):
    return Grid().sample_factors(n, seed=np.random.RandomState(seed))


def dependences(factors):
    return [note for note in factor_vae_score(factors, factors, **ALONE).notes if "depend" in note]


def test_dependent_factors_are_noted():
    factors = drawn_factors()
    assert dependences(factors) == []
    factors[::2, 2] = factors[::2, 1]
    (note,) = dependences(factors)
    assert note.startswith("Factors depend on each other (Cramér's V of 1 and 2 0.")


def test_the_dependence_is_that_of_bergsma():
    """Without its bias, from the statistic of SciPy: 0.35 where the plain one is 0.39."""
    rng = np.random.RandomState(0)
    left = rng.randint(5, size=120)
    right = np.where(rng.rand(120) < 0.3, left, rng.randint(6, size=120))
    table = np.histogram2d(left, right, bins=(5, 6))[0].astype(int)
    size, rows, columns = 120, 5, 6
    excess = chi2_contingency(table).statistic / size - (rows - 1) * (columns - 1) / (size - 1)
    smaller = min(each - (each - 1) ** 2 / (size - 1) for each in (rows, columns)) - 1
    plain = association(table, method="cramer")
    assert plain > (excess / smaller) ** 0.5 + 0.03
    (note,) = dependences(np.stack([left, right], axis=1))
    assert f"(Cramér's V of 0 and 1 {(excess / smaller) ** 0.5:.2f})" in note


def test_what_chance_explains_is_no_dependence():
    # 60 data, of which some are as much alike as those of dependent factors
    assert [dependences(drawn_factors(60, seed)) for seed in range(4)] == [[]] * 4


def test_all_that_depend_on_each_other_stand_in_one_note():
    (note,) = dependences(np.repeat(drawn_factors()[:, 1:2], 3, axis=1))
    assert "(Cramér's V of 0 and 1 1.00, of 0 and 2 1.00, of 1 and 2 1.00)" in note


@both
def test_dependent_factors_of_a_source_are_intervened_in(function):
    grid = Chained()
    result = function(np.asarray, grid, **ALONE)
    (note,) = result.notes
    assert note.startswith("Factors of the source depend on each other (Cramér's V of 1 and 2 0.")
    assert grid.seen == 24  # all combinations, also those that the source never draws
    assert result.score > 0.99


def test_the_reference_encodes_every_observation_that_differs_and_no_constant_factor():
    grid = Grid(2, 1, 4, draws=True)
    result = factor_vae_score(np.asarray, grid, reference=True, **ALONE)
    assert grid.seen == 10_000 + 15_000 * 64
    assert result.parts["votes"].shape == (3, 2)
    assert result.score == 1


@both
def test_a_single_factor_is_refused(function):
    for codes, factors in ((drawn_factors(), drawn_factors()[:, :1]), (np.asarray, Grid(1, 3))):
        with pytest.raises(ValueError, match="two factors or more"):
            function(codes, factors, reference=True, **ALONE)


@both
def test_no_two_data_of_a_value_are_refused(function):
    factors = np.stack([np.arange(30), np.arange(30) % 2], axis=1)
    with pytest.raises(ValueError, match=r"share a value of factor 0.*got 20 that all differ"):
        function(factors, factors, **ALONE)


def test_data_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="factor 0 is always 0"):
        beta_vae_score(drawn_factors(), drawn_factors() * [0, 1, 1], **ALONE)
    with pytest.raises(ValueError, match="finite codes"):
        factor_vae_score(drawn_factors() * np.nan, drawn_factors(), **ALONE)
