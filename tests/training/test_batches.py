from itertools import chain

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from pyro_infomax.training.batches import to_batches


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(5.0))


class Endless(Dataset):
    def __getitem__(self, index):
        return torch.tensor(float(index))


def values(batches):
    return [batch[0].tolist() for batch in batches]


def test_shuffled_visits_each_datum_once_and_keeps_the_short_batch():
    batches = values(to_batches(torch.arange(10), batch_size=4).shuffled())
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(chain.from_iterable(batches)) == list(range(10))


def test_each_epoch_is_shuffled_anew():
    batches = to_batches(torch.arange(10), batch_size=4)
    assert values(batches.shuffled()) != values(batches.shuffled())


def test_tensors_stay_aligned():
    x = torch.arange(10)
    for a, b in to_batches((x, 2 * x), batch_size=3).shuffled():
        assert torch.equal(2 * a, b)


def test_ordered_draws_nothing():
    state = torch.get_rng_state()
    assert values(to_batches(torch.arange(5), batch_size=2).ordered()) == [[0, 1], [2, 3], [4]]
    assert torch.equal(torch.get_rng_state(), state)


def test_dataset_that_fetches_many_at_once():
    subset = Subset(TensorDataset(torch.arange(10)), [1, 3, 5])
    assert values(to_batches(subset, batch_size=2).ordered()) == [[1, 3], [5]]


def test_stream_comes_in_its_own_order():
    batches = to_batches(Stream(), batch_size=2)
    assert values(batches.shuffled()) == values(batches.ordered()) == [[0.0, 1.0], [2.0, 3.0], [4.0]]


def test_stream_needs_a_batch_size():
    with pytest.raises(ValueError, match="batch_size for data, an IterableDataset"):
        to_batches(Stream(), batch_size=None)


def test_dataset_needs_a_length():
    with pytest.raises(ValueError, match="data to have a length but the type Endless has none"):
        to_batches(Endless(), batch_size=2)
