import numpy as np
import pytest

from pyro_infomax.disentanglement._sample import group_means, moved_by_factors, to_sample, variance_shares

SIZES = (3, 7)


def factors(n=900, seed=0):
    rng = np.random.RandomState(seed)
    return np.stack([rng.randint(size, size=n) for size in SIZES], axis=1)


def noise(n, codes, seed=1):
    return np.random.RandomState(seed).randn(n, codes)


def one_way(code, values):
    """Omega squared by the book, group by group."""
    groups = [code[values == value] for value in np.unique(values)]
    between = sum(len(group) * (group.mean() - code.mean()) ** 2 for group in groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    mean_square = within / (len(code) - len(groups))
    return (between - (len(groups) - 1) * mean_square) / (between + within + mean_square)


def test_shares_are_those_of_an_analysis_of_variance():
    given = factors()
    codes = given @ [[1.0, 0.5], [0.2, -1.0]] + noise(900, 2)
    naive = [[one_way(code, column) for column in given.T] for code in codes.T]
    np.testing.assert_allclose(variance_shares(to_sample(codes, given)), naive, atol=1e-12)


def test_noise_has_no_share_in_the_mean():
    given = factors(60)
    shares = variance_shares(to_sample(noise(60, 2000), given))  # (code, factor)
    errors = shares.std(0) / np.sqrt(2000)
    assert (np.abs(shares.mean(0)) < 4 * errors + 1e-3).all()
    assert (shares.min(0) < 0).all()


def test_scale_and_place_mean_nothing():
    given = factors()
    codes = given + noise(900, 2)
    moved = variance_shares(to_sample(1e3 + 1e-6 * codes, given))
    np.testing.assert_allclose(moved, variance_shares(to_sample(codes, given)), atol=1e-6)


def test_a_dead_code_has_none():
    codes = np.full((900, 1), 0.1)
    assert variance_shares(to_sample(codes, factors())).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_noise_is_not_moved_whatever_its_scale(scale):
    given = factors(2000)
    codes = np.concatenate([given[:, :1] + 0 * scale, scale * noise(2000, 200)], axis=1)
    moved = moved_by_factors(to_sample(codes, given))
    assert moved[0]
    assert not moved[1:].any()


def test_a_weak_share_moves_only_where_data_are_many():
    rng = np.random.RandomState(0)
    for n, expected in ((60, False), (20_000, True)):
        given = factors(n)
        assert moved_by_factors(to_sample(given[:, :1] + 5 * rng.randn(n, 1), given)).tolist() == [expected]


def test_means_of_values_that_no_datum_has_are_zero():
    means = group_means(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 2]), 4)
    assert means.ravel().tolist() == [2, 0, 5, 0]
