import numpy as np

from pyro_infomax.disentanglement._sample import Split, ordered, to_sample


def split_of(codes):
    sample = to_sample(codes, np.arange(len(codes))[:, None] % 3)
    return Split(sample.take(np.arange(20)), sample.take(np.arange(20, len(codes))))


def test_codes_become_ranks_of_the_train_part():
    codes = np.random.RandomState(0).randint(7, size=30).astype(float)[:, None] * 1e-9 + 1e3
    ranks = ordered(split_of(codes))
    distinct = sorted(set(codes[:20, 0]))
    assert ranks.train.codes[:, 0].tolist() == [distinct.index(z) for z in codes[:20, 0]]


def test_codes_of_the_test_part_lie_between_ranks_and_no_further():
    codes = np.concatenate([np.arange(20.0) ** 2, [2.5, -7.0, 1e9, *np.arange(7.0) ** 2]])[:, None]
    ranks = ordered(split_of(codes)).test.codes[:, 0]
    assert ranks[:3].tolist() == [1.5, 0.0, 19.0]
    assert ranks[3:].tolist() == list(range(7))


def test_scale_and_location_leave_the_ranks():
    codes = np.random.RandomState(0).randn(40, 3)
    one, other = ordered(split_of(codes)), ordered(split_of(1024 * codes + 4096))
    assert np.array_equal(one.train.codes, other.train.codes)
    assert np.allclose(one.test.codes, other.test.codes, atol=1e-6)
