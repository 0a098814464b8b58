import numpy as np
import pytest

from pyro_infomax.disentanglement._sample import binned, equal_width_bins, num_rank_bins, rank_bins, to_sample


def codes(size=200, columns=3):
    return np.random.RandomState(0).randn(size, columns)


def test_bins_of_equal_width_are_those_of_the_reference():
    array = codes()
    for code, bins in zip(array.T, equal_width_bins(array).T, strict=True):
        width = (code.max() - code.min()) / 20
        naive = [min(int((each - code.min()) / width), 19) for each in code]
        assert bins.tolist() == naive


def test_a_constant_code_has_one_bin():
    constant = np.full((30, 1), 3.7)
    assert len(np.unique(equal_width_bins(constant))) == 1
    assert not rank_bins(constant, 5).any()


def test_rank_bins_hold_as_many_data_each():
    assert np.bincount(rank_bins(codes(200, 1), 8)[:, 0]).tolist() == [25] * 8


@pytest.mark.parametrize("increasing", [np.exp, np.arctan, lambda x: 1e6 * x - 5])
def test_no_increasing_map_changes_rank_bins(increasing):
    assert np.array_equal(rank_bins(codes(), 12), rank_bins(increasing(codes()), 12))


def test_a_falling_map_turns_them_around():
    assert np.array_equal(rank_bins(codes(), 8), 7 - rank_bins(-codes(), 8))


def test_few_distinct_values_are_bins_and_equal_values_stay_together():
    few = np.random.RandomState(0).randint(7, size=(100, 1)) * 0.3
    assert np.array_equal(rank_bins(few, 7)[:, 0], np.unique(few, return_inverse=True)[1].ravel())
    spike = np.concatenate([np.zeros(60), np.linspace(1, 2, 40)])[:, None]
    bins = rank_bins(spike, 10)[:, 0]
    assert (bins[:60] == bins[0]).all()
    assert np.array_equal(np.unique(bins), np.arange(bins.max() + 1))
    assert bins.max() == 4


def test_there_are_bins_for_every_value_of_the_largest_factor():
    assert num_rank_bins(10_000, 40) == 100
    assert num_rank_bins(500, 183) == 183


def sample():
    rng = np.random.RandomState(0)
    factors = np.stack([rng.randint(3, size=400), rng.randint(30, size=400)], axis=1)
    return to_sample(rng.randn(400, 4), factors)


def test_the_factors_are_their_own_rank_bins():
    data = binned(sample(), reference=False)
    assert np.array_equal(data.as_codes().bins, sample().factors)
    assert binned(sample(), reference=True).as_codes().bins.max() == 19


def test_a_resample_is_half_of_the_data_without_replacement():
    data = binned(to_sample(np.arange(400.0)[:, None], sample().factors), reference=False)
    part = data.resampled(np.random.RandomState(1))
    assert len(part.bins) == len(part.factors) == len(part.best) == 200
    whole = sorted(zip(data.bins[:, 0], *data.factors.T, strict=True))
    for each in zip(part.bins[:, 0], *part.factors.T, strict=True):
        whole.remove(each)


def test_a_permutation_shuffles_the_bins_alone():
    data = binned(sample(), reference=False)
    shuffled = data.permuted(np.random.RandomState(1))
    assert np.array_equal(shuffled.factors, data.factors)
    assert not np.array_equal(shuffled.bins, data.bins)
    assert sorted(map(tuple, shuffled.bins)) == sorted(map(tuple, data.bins))
