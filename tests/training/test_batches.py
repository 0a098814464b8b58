import weakref
from itertools import chain

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from pyro_infomax.infer import Trace_BetaELBO
from pyro_infomax.training import fit
from pyro_infomax.training._batches import to_batches


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


# -- leaving out what was done ---------------------------------------------------------------------


class Noisy(Dataset):
    """Its items draw from the generator that also shuffles."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index + torch.rand(())


KINDS = {
    "tensor": (torch.arange(10), 3),
    "tuple": ((torch.arange(10), torch.arange(10.0)), 3),
    "whole": (torch.arange(10), None),
    "dataset": (Subset(TensorDataset(torch.arange(12)), range(10)), 3),
    "shuffling loader": (DataLoader(TensorDataset(torch.arange(10)), batch_size=3, shuffle=True), None),
    "stream": (Stream(), 2),
}


@pytest.mark.parametrize(("data", "batch_size"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("skip", [0, 1, 2, 9])
def test_skipping_leaves_the_same_batches(data, batch_size, skip):
    batches = to_batches(data, batch_size=batch_size)
    torch.manual_seed(4)
    expected = values(batches.shuffled())[skip:]
    torch.manual_seed(4)
    assert values(batches.shuffled(skip)) == expected


@pytest.mark.parametrize("shuffle", [False, True])
def test_skipping_draws_before_the_first_batch_is_asked_for(shuffle):
    batches = to_batches(DataLoader(Noisy(), batch_size=3, shuffle=shuffle), batch_size=None)
    torch.manual_seed(4)
    whole = batches.shuffled()
    next(whole)
    state = torch.get_rng_state()
    expected = values(whole)
    torch.manual_seed(4)
    rest = batches.shuffled(1)
    torch.set_rng_state(state)
    assert values(rest) == expected


def test_skipped_data_are_not_fetched():
    fetched = []

    class Watched(Noisy):
        def __getitem__(self, index):
            fetched.append(index)
            return torch.tensor(index)

    rest = values(to_batches(Watched(), batch_size=4).shuffled(2))
    assert fetched == rest[0]


# -- several processes -----------------------------------------------------------------------------


def parts(data, batch_size, world_size, *, walk):
    """The batches of each process, from generators in one state."""
    found = []
    for rank in range(world_size):
        torch.manual_seed(6)
        batches = to_batches(data, batch_size=batch_size).sharded(rank, world_size)
        found.append(values(getattr(batches, walk)()))
    return found


@pytest.mark.parametrize("walk", ["shuffled", "ordered"])
@pytest.mark.parametrize("data", [torch.arange(10), Subset(TensorDataset(torch.arange(12)), range(10))])
def test_processes_share_the_batches_of_one(data, walk):
    first, second = parts(data, 4, 2, walk=walk)
    (single,) = parts(data, 4, 1, walk=walk)
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [2, 2, 1]
    for whole, a, b in zip(single, first, second, strict=True):
        assert (whole[::2], whole[1::2]) == (a, b)


def test_short_batch_joins_the_one_before_it_where_a_process_would_stay_without_data():
    assert parts(torch.arange(9), 4, 2, walk="ordered") == [
        [[0, 2], [4, 6, 8]],
        [[1, 3], [5, 7]],
    ]


def test_processes_skip_alike():
    batches = to_batches(torch.arange(9), batch_size=4).sharded(1, 2)
    torch.manual_seed(6)
    expected = values(batches.shuffled())[1:]
    torch.manual_seed(6)
    assert values(batches.shuffled(1)) == expected


def test_processes_share_the_whole_data():
    assert parts(torch.arange(5), None, 2, walk="shuffled") == [[[0, 2, 4]], [[1, 3]]]


def test_loader_is_left_to_its_sampler():
    loader = DataLoader(TensorDataset(torch.arange(4)), batch_size=2)
    assert parts(loader, None, 2, walk="ordered") == [[[0, 1], [2, 3]]] * 2


def test_stream_cannot_be_split():
    batches = to_batches(Stream(), batch_size=2)
    assert batches.sharded(0, 1) is batches
    with pytest.raises(ValueError, match="data for process 1 of 2 to come from a DataLoader"):
        batches.sharded(1, 2)


@pytest.mark.parametrize(("size", "batch_size"), [(2, 5), (9, 2), (2, None)])
def test_too_few_data_for_all_processes(size, batch_size):
    with pytest.raises(ValueError, match="one datum for each of 3 processes but got 2"):
        to_batches(torch.arange(size), batch_size=batch_size).sharded(0, 3)


# -- streams through fit ---------------------------------------------------------------------------


class Rows(IterableDataset):
    """A stream without a length, which keeps an eye on the rows that it has given away."""

    def __init__(self, size):
        self.size = size
        self.alive = weakref.WeakSet()
        self.most_alive = 0

    def __iter__(self):
        for number in range(self.size):
            row = torch.tensor([float(number)])
            self.alive.add(row)
            self.most_alive = max(self.most_alive, len(self.alive))
            yield row


def subsampling_svi():
    """The model knows that its rows are a few of a thousand."""

    def model(x):
        loc = pyro.param("loc", torch.zeros(1))
        with pyro.plate("data", 1000, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    pyro.clear_param_store()
    return SVI(model, lambda x: None, pyro.optim.SGD({"lr": 1e-7}), Trace_BetaELBO(beta=1.0))


def by_hand(batches):
    """The loss of an epoch in nats per datum, where each batch stands for a thousand of them."""
    svi = subsampling_svi()
    return sum(svi.step(batch) for batch in batches) / (1000 * len(batches))


def test_history_of_a_stream_without_a_length():
    expected = by_hand(torch.arange(5.0)[:, None].split(2))
    history = fit(subsampling_svi(), Rows(5), epochs=1, batch_size=2, progress=False)
    assert history.rows[0]["step"] == 3
    assert history["loss"][0] == pytest.approx(expected, rel=1e-12)
    assert history["distortion"][0] == pytest.approx(expected, rel=1e-12)


def test_stream_is_not_kept():
    stream = Rows(600)
    fit(subsampling_svi(), stream, epochs=1, batch_size=4, validation=stream, progress=False)
    assert stream.most_alive <= 12


def test_loader_with_workers():
    loader = DataLoader(Rows(6), batch_size=2, num_workers=1)
    expected = by_hand(torch.arange(6.0)[:, None].split(2))
    history = fit(subsampling_svi(), loader, epochs=2, progress=False)
    assert history["step"].tolist() == [3, 6]
    assert history["loss"][0] == pytest.approx(expected, rel=1e-12)
