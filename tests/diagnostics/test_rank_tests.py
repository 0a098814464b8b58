"""Tests of ranks against enumeration of all samples, and of what each of the three tests has power for."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import multinomial

from pyro_infomax.diagnostics._rank_tests import (
    empirical_distribution,
    holm,
    pooled_dispersion_test,
    rank_test,
    simultaneous_band,
)

DRAWS, SIMULATIONS = 3, 7


def samples():
    """The counts of each rank in every sample, and their probabilities, (samples, ranks) and (samples,)."""
    every = itertools.product(range(SIMULATIONS + 1), repeat=DRAWS + 1)
    counts = np.array([each for each in every if sum(each) == SIMULATIONS])
    return counts, multinomial.pmf(counts, SIMULATIONS, np.full(DRAWS + 1, 1 / (DRAWS + 1)))


def test_the_p_value_of_the_shape_is_that_of_all_samples():
    counts, probability = samples()
    found = np.array([rank_test(np.repeat(np.arange(DRAWS + 1), each), DRAWS).p_shape for each in counts])
    for p_value in np.unique(found.round(12)):
        exact = probability[found <= p_value + 1e-9].sum()
        assert exact == pytest.approx(p_value, rel=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_band_holds_the_curve_with_its_probability(level):
    counts, probability = samples()
    band = simultaneous_band(SIMULATIONS, DRAWS, level)
    curves = counts.cumsum(1)[:, :-1] / SIMULATIONS
    inside = ((curves >= band.lower - 1e-12) & (curves <= band.upper + 1e-12)).all(1)
    held = probability[inside].sum()
    assert held >= level
    # the next narrower band of pointwise intervals holds less than the level, or there is none
    narrower = (curves > band.lower + 1e-12) & (curves < band.upper - 1e-12)
    assert probability[narrower.all(1)].sum() < level


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95, math.nan])
def test_levels_outside_of_0_and_1_are_refused(level):
    with pytest.raises(ValueError, match="Expected level between 0 and 1"):
        simultaneous_band(SIMULATIONS, DRAWS, level)


def test_uniform_ranks_have_uniform_p_values():
    generator = np.random.default_rng(0)
    tests = [rank_test(generator.integers(0, 20, 60), 19) for _ in range(400)]
    for name in ("p_shape", "p_location", "p_dispersion"):
        p_values = np.array([getattr(each, name) for each in tests])
        for level in (0.05, 0.3):
            error = 3.5 * math.sqrt(level * (1 - level) / 400)
            assert (p_values <= level).mean() <= level + error
            # the band is of counts, of which few have a p-value near the level
            assert name == "p_shape" or (p_values <= level).mean() >= level - error
    assert np.mean([each.p_value <= 0.05 for each in tests]) <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / 400)


def ranks_of(*, shift=0.0, scale=1.0, draws=99, simulations=2000):
    generator = np.random.default_rng(1)
    share = ndtr(shift + scale * generator.standard_normal(simulations))
    return generator.binomial(draws, share)


def test_location_and_dispersion_are_those_of_the_normal_scores():
    shifted = rank_test(ranks_of(shift=0.2), 99)
    assert shifted.location == pytest.approx(0.2, abs=4 / math.sqrt(2000))
    assert shifted.p_location < 1e-6
    spread = rank_test(ranks_of(scale=1.2), 99)
    assert spread.dispersion == pytest.approx(1.2, rel=4 * math.sqrt(0.5 / 2000) + 0.02)
    assert spread.p_dispersion < 1e-6 < spread.p_location


def test_dispersion_is_pooled_over_ranks_that_depend_on_each_other():
    def p_values(correlation, scale=1.0, repeats=300):
        generator = np.random.default_rng(4)
        for _ in range(repeats):
            both = generator.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], 200)
            ranks = np.floor(ndtr(scale * both) * 100).astype(int)
            yield pooled_dispersion_test(ranks, np.ones((200, 2), dtype=bool), 99).p_value

    for correlation in (0.0, 0.9):
        found = np.array(list(p_values(correlation)))
        for level in (0.05, 0.3):
            assert abs((found <= level).mean() - level) <= 4 * math.sqrt(level * (1 - level) / 300)
    assert np.median(list(p_values(0.0, 1.2, 20))) < 1e-3
    ranks, present = np.array([[5, 99]] * 10 + [[94, 0]] * 10), np.array([[True, False]] * 20)
    ranks = ranks + np.arange(20)[:, None] % 2
    alone = pooled_dispersion_test(ranks, present, 200).dispersion
    assert alone == pytest.approx(rank_test(ranks[:, 0], 200).dispersion)


def test_pooled_dispersion_is_as_often_too_small_as_too_large():
    generator = np.random.default_rng(5)
    alone = np.ones((60, 1), dtype=bool)
    tests = [pooled_dispersion_test(generator.integers(0, 100, (60, 1)), alone, 99) for _ in range(2000)]
    below, above = (
        np.mean([each.p_value < 0.05 and side * (each.dispersion - 1) > 0 for each in tests])
        for side in (-1, 1)
    )
    # squares are skewed, for which an ordinary t-test has six times as many below as above
    assert max(below, above) < 0.025 + 3.5 * math.sqrt(0.025 * 0.975 / 2000)


def test_dispersion_of_nothing_is_not_known():
    nothing = pooled_dispersion_test(np.zeros((60, 2), dtype=int), np.zeros((60, 2), dtype=bool), 99)
    assert math.isnan(nothing.p_value)
    assert math.isnan(nothing.dispersion)
    # of one simulation, or of equal ones, there is a mean square but no error of it
    for ranks in ([[0]], [[0], [99], [0]]):
        alike = pooled_dispersion_test(np.array(ranks), np.ones((len(ranks), 1), dtype=bool), 99)
        assert math.isnan(alike.p_value)
        assert alike.dispersion == pytest.approx(rank_test(np.array([0]), 99).dispersion)


def test_simulations_in_which_nothing_counts_do_not_count():
    generator = np.random.default_rng(6)
    ranks, present = generator.integers(0, 100, (60, 2)), np.ones((60, 2), dtype=bool)
    more = np.concatenate([ranks, np.full((500, 2), 7)]), np.concatenate([present, np.zeros((500, 2), bool)])
    assert pooled_dispersion_test(*more, 99) == pytest.approx(pooled_dispersion_test(ranks, present, 99))


def test_two_modes_are_seen_by_the_shape_alone():
    generator = np.random.default_rng(2)
    middle = np.where(
        generator.random(600) < 0.5, generator.integers(10, 35, 600), generator.integers(65, 90, 600)
    )
    test = rank_test(middle, 99)
    assert test.p_shape < 1e-6 < test.p_location


def test_many_draws_are_looked_at_in_some_places():
    band = simultaneous_band(100, 5000, 0.95)
    ranks = np.random.default_rng(3).integers(0, 5001, 100)
    curve = empirical_distribution(ranks, 5000)
    assert band.probability.shape == curve.shape == (100,)
    expected = [(ranks <= p * 5001 - 1 + 1e-6).mean() for p in band.probability]
    assert np.allclose(curve, expected)


def test_holm_corrects_for_the_number_of_known_p_values():
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
