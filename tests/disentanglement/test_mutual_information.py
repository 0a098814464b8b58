import itertools
import math

import numpy as np
import pytest
from scipy.stats import hypergeom

from pyro_infomax.disentanglement._mig import (
    corrected_mutual_informations,
    entropies,
    expected_by_chance,
    mutual_informations,
)


def naive_information(left, right):
    size, total = len(left), 0.0
    for a, b in itertools.product(set(left), set(right)):
        both = sum(x == a and y == b for x, y in zip(left, right, strict=True)) / size
        if both:
            product = list(left).count(a) * list(right).count(b) / size**2
            total += both * math.log(both / product)
    return total


def columns(size, *counts, seed=0):
    rng = np.random.RandomState(seed)
    return np.stack([rng.randint(count, size=size) for count in counts], axis=1)


def test_information_is_its_definition():
    bins, factors = columns(60, 4, 2, 7), columns(60, 3, 5, seed=1)
    bins[:, 1] = factors[:, 0] > 1
    naive = [[naive_information(b, f) for f in factors.T.tolist()] for b in bins.T.tolist()]
    assert mutual_informations(bins, factors) == pytest.approx(np.array(naive), abs=1e-12)


def test_information_of_a_column_with_itself_is_its_entropy():
    bins = columns(80, 4, 9)
    naive = [-sum(p * math.log(p) for p in np.bincount(b) / 80 if p) for b in bins.T]
    assert entropies(bins) == pytest.approx(naive, abs=1e-12)
    assert np.diag(mutual_informations(bins, bins)) == pytest.approx(naive, abs=1e-12)


def test_independent_and_constant_columns_have_exactly_no_information():
    grid = np.array(list(itertools.product(range(3), range(7), range(5))))
    information = mutual_informations(grid, grid)
    assert (information[~np.eye(3, dtype=bool)] == 0).all()
    assert not mutual_informations(np.zeros((105, 1), dtype=np.int64), grid).any()


def naive_expectation(left, right):
    size, total = len(left), 0.0
    for a, b in itertools.product(np.bincount(left), np.bincount(right)):
        for both in range(1, min(a, b) + 1):
            log = math.log(size * both / (a * b))
            total += hypergeom.pmf(both, size, a, b) * both / size * log
    return total


@pytest.mark.parametrize(
    ("size", "left", "right", "tolerance"), [(12, 3, 2, 1e-9), (40, 7, 9, 1e-9), (300, 4, 5, 3e-4)]
)
def test_the_expectation_is_that_over_all_permutations(size, left, right, tolerance):
    bins, factors = columns(size, left), columns(size, right, seed=1)
    naive = naive_expectation(bins[:, 0], factors[:, 0])
    assert expected_by_chance(bins, factors).mean[0, 0] == pytest.approx(naive, rel=tolerance)


def test_the_expectation_enumerates_the_permutations_of_few():
    left, right = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 0, 1, 1])
    every = [
        naive_information(list(order), right.tolist()) for order in itertools.permutations(left.tolist())
    ]
    assert expected_by_chance(left[:, None], right[:, None]).mean[0, 0] == pytest.approx(np.mean(every))


@pytest.mark.parametrize("counts", [(10, 3), (30, 30), (2, 90)])
def test_shuffles_have_these_moments(counts):
    rng = np.random.RandomState(2)
    bins, factors = columns(300, *counts).T[:, :, None]
    chance = expected_by_chance(bins, factors)
    shuffles = [mutual_informations(bins[rng.permutation(300)], factors)[0, 0] for _ in range(400)]
    deviation = chance.variance[0, 0] ** 0.5
    assert np.mean(shuffles) == pytest.approx(chance.mean[0, 0], abs=4 * deviation / 20)
    assert np.std(shuffles) == pytest.approx(deviation, rel=0.15)


def test_large_counts_have_the_variance_of_the_likelihood_ratio_test():
    bins, factors = columns(100_000, 4), columns(100_000, 6, seed=1)
    chance = expected_by_chance(bins, factors)
    assert 2e5 * chance.mean[0, 0] == pytest.approx(15, rel=2e-3)
    assert 4e10 * chance.variance[0, 0] == pytest.approx(30, rel=5e-3)


def test_what_determines_the_other_keeps_its_whole_entropy():
    factor = columns(500, 40)
    coarse = factor // 5
    both = np.concatenate([factor, coarse], axis=1)
    corrected = corrected_mutual_informations(both[:, ::-1], both)
    fine, rough = entropies(both)
    assert corrected == pytest.approx(np.array([[rough, rough], [fine, rough]]), abs=1e-12)


def test_noise_has_none_at_its_level():
    rng = np.random.RandomState(0)
    factors = columns(400, 20, 3)
    exceeded = [
        corrected_mutual_informations(rng.randint(15, size=(400, 3)), factors, level=0.2).any()
        for _ in range(100)
    ]
    assert np.mean(exceeded) == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 100) ** 0.5)
    assert not corrected_mutual_informations(rng.randint(15, size=(400, 9)), factors).any()


def test_chance_is_taken_off_what_is_known():
    rng = np.random.RandomState(0)
    factor = columns(600, 12)
    bins = np.where(rng.rand(600, 1) < 0.5, factor, rng.randint(12, size=(600, 1)))
    chance = expected_by_chance(bins, factor).mean[0, 0]
    plug_in = mutual_informations(bins, factor)[0, 0]
    whole = min(entropies(bins)[0], entropies(factor)[0])
    corrected = corrected_mutual_informations(bins, factor)[0, 0]
    assert corrected == pytest.approx(whole * (plug_in - chance) / (whole - chance))
    share = 0.5 + 0.5 / 12
    truth = math.log(12) + share * math.log(share) + (1 - share) * math.log((1 - share) / 11)
    assert corrected == pytest.approx(truth, abs=0.1)
    assert plug_in > corrected + 0.04


def test_columns_that_nothing_can_be_said_of_have_none():
    constant, distinct = np.zeros((20, 1), dtype=np.int64), np.arange(20)[:, None]
    both = np.concatenate([constant, distinct], axis=1)
    assert not corrected_mutual_informations(both, both).any()


@pytest.mark.parametrize("size", [300, 977, 1200])
def test_rounding_is_no_information(size):
    draws = np.random.RandomState(size)
    factors = np.stack([draws.randint(values, size=size) for values in range(2, 40)], axis=1)
    assert (mutual_informations(np.zeros((size, 1), dtype=np.int64), factors) == 0).all()
    assert (mutual_informations(factors, np.zeros((size, 1), dtype=np.int64)) == 0).all()
    left, right = np.divmod(np.arange(7 * 11 * 13) // 13, 11)
    assert mutual_informations(left[:, None], right[:, None]) == 0
