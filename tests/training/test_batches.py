"""The batches that fit gives to model and guide, from every kind of data."""

import weakref
from itertools import chain

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from pyro_infomax.infer import Trace_BetaELBO
from pyro_infomax.training import Checkpoint, fit


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(5.0))


class Endless(Dataset):
    def __getitem__(self, index):
        return torch.tensor(float(index))


def watching_svi(seen):
    """Notes each batch, and whether gradients are enabled."""

    def model(*batch):
        loc = pyro.param("loc", torch.zeros(()))
        pyro.factor("penalty", -loc.square())
        seen.append((torch.is_grad_enabled(), tuple(part.clone() for part in batch)))

    pyro.clear_param_store()
    return SVI(model, lambda *_: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO())


def given(data, **options):
    """The batches of training."""
    seen = []
    fit(watching_svi(seen), data, **({"epochs": 1, "progress": False, "seed": 3} | options))
    return [batch for _, batch in seen]


def validated(data, **options):
    """The batches of validation."""
    seen = []
    fit(watching_svi(seen), torch.zeros(1), epochs=1, validation=data, progress=False, **options)
    return [batch for in_training, batch in seen if not in_training]


def values(batches):
    return [batch[0].tolist() for batch in batches]


def test_an_epoch_visits_each_datum_once_and_keeps_the_short_batch():
    batches = values(given(torch.arange(10), batch_size=4, epochs=2))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    first, second = (list(chain.from_iterable(batches[start : start + 3])) for start in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second != list(range(10))


def test_tensors_stay_aligned():
    x = torch.arange(10)
    for a, b in given((x, 2 * x), batch_size=3):
        assert torch.equal(2 * a, b)


def test_validation_is_in_order():
    assert values(validated(torch.arange(5), batch_size=2)) == [[0, 1], [2, 3], [4]]


def test_a_dataset_that_fetches_many_at_once():
    subset = Subset(TensorDataset(torch.arange(10)), [1, 3, 5])
    assert values(validated(subset, batch_size=2)) == [[1, 3], [5]]


def test_a_stream_comes_in_its_own_order():
    expected = [[0.0, 1.0], [2.0, 3.0], [4.0]]
    assert values(given(Stream(), batch_size=2)) == values(validated(Stream(), batch_size=2)) == expected


def test_a_stream_needs_a_batch_size():
    with pytest.raises(ValueError, match="batch_size for data, an IterableDataset"):
        given(Stream(), batch_size=None)


def test_a_dataset_needs_a_length():
    with pytest.raises(ValueError, match="data to have a length but the type Endless has none"):
        given(Endless(), batch_size=2)


class Stopped(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_epoch_fetches_what_is_left(stop, tmp_path):
    fetched = []

    class Watched(Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            fetched.append(index)
            return torch.tensor(index)

    def resumed(seen, *, steps):
        svi = watching_svi(seen)
        step, left = svi.step, iter(range(steps))

        def stopping(*batch):
            if next(left, None) is None:
                raise Stopped
            return step(*batch)

        svi.step = stopping
        kept = {"checkpoint": Checkpoint(tmp_path / "fit.pt", every_steps=1), "resume": True}
        fit(svi, Watched(), epochs=1, batch_size=4, progress=False, seed=3, **kept)

    expected = values(given(torch.arange(10), batch_size=4))
    before, after = [], []
    with pytest.raises(Stopped):
        resumed(before, steps=stop)
    fetched.clear()
    resumed(after, steps=9)
    steps = [batch[0].tolist() for in_training, batch in (*before, *after) if in_training]
    assert steps == expected
    # the first data in order show which parameters there are
    assert fetched == [0, 1, 2, 3, *chain.from_iterable(expected[stop:])]


# -- streams -------------------------------------------------------------------------------------


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
