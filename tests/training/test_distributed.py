"""What each of several processes sees and counts; tests/test_two_processes.py trains with two.

Processes that are threads here stand in the place of those that Fabric starts, below what fit can be given.
"""

import pyro
import pytest
import torch
from pyro import distributions as dist, poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from pyro_infomax._ranks import ONE_RANK
from pyro_infomax.programs import ProgramState, Snapshot
from pyro_infomax.training import TrainingState
from pyro_infomax.training._batches import to_batches
from pyro_infomax.training._distributed import DataPlates, DataShareMessenger, RankBatches
from pyro_infomax.training._fit import Divergence

# ---- which sites count once a datum, and which once a batch

ROWS = 6


def model(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.factor("penalty", torch.tensor(-1.0))
    with pyro.plate("topics", 3):
        pyro.sample("topic", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)), poutine.scale(scale=2.0):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)
    with pyro.plate("sub", 60, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(w, 1.0), obs=x)
    for n in pyro.plate("rows", len(x)):
        pyro.sample(f"r_{n}", dist.Normal(w, 1.0), obs=x[n])
    pyro.deterministic("twice", 2 * w)


def guide(x: Tensor) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("topics", 3):
        pyro.sample("topic", dist.Normal(0.0, 1.0))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ROWS)


def test_plates_of_the_data_are_found_by_their_size(x):
    plates = DataPlates(model, guide, (x,))
    assert plates.whole == {"data", "rows"}
    assert set(plates.outside) == {"w", "penalty", "topic"}


def test_one_row_is_enough_to_find_them(x):
    assert DataPlates(model, guide, (x[:1],)).whole == {"data", "rows"}


def test_a_plate_of_fixed_size_is_none_though_it_has_as_many_rows(x):
    assert "topics" not in DataPlates(model, guide, (x[:3],)).whole


@pytest.mark.parametrize(
    ("site", "scale"), [("w", 0.25), ("penalty", 0.25), ("topic", 0.25), ("x", 2.0), ("y", 2.5), ("r_0", 1.0)]
)
def test_scales(x, site, scale):
    with DataShareMessenger(DataPlates(model, guide, (x,)).whole, share=0.25):
        trace = poutine.trace(model).get_trace(x)
    assert trace.nodes[site]["scale"] == pytest.approx(scale)


def test_shares_of_parts_make_up_the_whole(x):
    """The log-density of a batch is the sum over its parts, each weighed by its share."""

    def log_prob(part: Tensor, values: dict[str, Tensor]) -> Tensor:
        with DataShareMessenger({"data", "rows"}, share=len(part) / ROWS):
            return poutine.trace(poutine.condition(model, values)).get_trace(part).log_prob_sum()

    values = {"w": torch.tensor(0.3), "topic": torch.randn(3)}
    whole = log_prob(x, values)
    parts = sum(log_prob(part, values) for part in x.split([1, 3, 2]))
    assert float(parts) == pytest.approx(float(whole), abs=1e-12)


def test_the_share_of_all_changes_nothing(x):
    with DataShareMessenger({"data"}, share=1.0):
        trace = poutine.trace(model).get_trace(x)
    assert trace.nodes["w"]["scale"] == 1.0


def test_a_recording_knows_the_share():
    one, other = (DataShareMessenger({"data"}, share=share).capture_key for share in (0.5, 0.4))
    assert one != other
    assert hash(one) == hash(DataShareMessenger({"data"}, share=0.5).capture_key)


def without_plate(x: Tensor) -> None:
    pyro.sample("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1), obs=x)


def factor_of_data(x: Tensor) -> None:
    pyro.factor("likelihood", -(x**2).sum())


@pytest.mark.parametrize(("program", "site"), [(without_plate, "x"), (factor_of_data, "likelihood")])
def test_data_outside_of_a_plate_are_refused(x, program, site):
    with pytest.raises(NotImplementedError, match=f"The site '{site}' is in no plate of the data's size"):
        DataPlates(program, lambda x: None, (x,))


def test_a_weight_that_scales_each_batch_up_to_all_data_is_refused(x):
    def scaled(x: Tensor) -> None:
        with poutine.scale(scale=60 / len(x)), pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(NotImplementedError, match=r"The site 'x' .* subsample_size"):
        DataPlates(scaled, lambda x: None, (x,))


def test_a_guide_that_infers_what_all_data_share_from_a_batch_is_refused(x):
    def amortised(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(x.mean(), 1.0))
        with pyro.plate("topics", 3):
            pyro.sample("topic", dist.Normal(0.0, 1.0))

    with pytest.raises(NotImplementedError, match="The site 'w'"):
        DataPlates(model, amortised, (x,))


def test_looking_leaves_parameters_without_gradients(x):
    def stated(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0), obs=x)

    DataPlates(stated, lambda x: None, (x,))
    assert pyro.param("loc").unconstrained().grad is None


# ---- the part of each batch that a process takes


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(5.0))


def values(batches):
    return [batch[0].tolist() for batch in batches]


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


def rank_batches(ranks, data, met=None, begun=None, **kwargs):
    return RankBatches(
        to_batches(data, **{"batch_size": 4} | kwargs),
        ranks,
        begin=(begun if begun is not None else []).append,
        place=lambda batch: tuple(part + 100 for part in batch),
        meet=lambda own, size: None if met is None else met.append((own, size)),
    )


def test_one_process_takes_everything():
    met, begun = [], []
    batches = rank_batches(ONE_RANK, torch.arange(10), met, begun)
    assert torch.cat([x for (x,) in batches.shuffled()]).sort().values.tolist() == list(range(100, 110))
    assert met == [(4, 4), (4, 4), (2, 2)]
    assert begun == [0]


def test_one_process_draws_what_it_draws_without_a_fabric():
    torch.manual_seed(3)
    alone = [x + 100 for (x,) in to_batches(torch.arange(10), batch_size=4).shuffled()]
    after = torch.rand(())
    torch.manual_seed(3)
    found = [x for (x,) in rank_batches(ONE_RANK, torch.arange(10)).shuffled()]
    assert all(torch.equal(*pair) for pair in zip(alone, found, strict=True))
    assert torch.rand(()) == after


def test_parts_in_order_make_up_each_batch(as_ranks):
    def parts(ranks):
        met = []
        return [x.tolist() for (x,) in rank_batches(ranks, torch.arange(11), met).ordered()], met

    (first, met), (second, _) = as_ranks(2, parts)
    together = [sorted(one + other) for one, other in zip(first, second, strict=True)]
    assert together == [[100, 101, 102, 103], [104, 105, 106, 107], [108, 109, 110]]
    assert met == [(2, 4), (2, 4), (2, 3)]


def test_an_epoch_knows_where_it_starts():
    begun = []
    list(rank_batches(ONE_RANK, torch.arange(10), begun=begun).shuffled(2))
    assert begun == [2]


class Broken(Dataset):
    """Holds a row that one process cannot read."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 5 and self.rank == 1:
            raise RuntimeError("unreadable")
        return torch.tensor(float(index))


def test_a_row_that_one_process_cannot_read_ends_all(as_ranks):
    found = as_ranks(2, lambda ranks: list(rank_batches(ranks, Broken(ranks.rank)).ordered()))
    assert [(type(each), str(each)) for each in found] == [(RuntimeError, "unreadable")] * 2


def loader(rank: int, size: int) -> DataLoader[torch.Tensor]:
    return DataLoader(torch.arange(size) + 1000 * rank, batch_size=2)


def test_loaders_of_different_lengths_are_refused(as_ranks):
    found = as_ranks(
        2, lambda ranks: list(rank_batches(ranks, loader(ranks.rank, 4 + 2 * ranks.rank)).ordered())
    )
    assert [type(each) for each in found] == [ValueError] * 2
    assert "Expected as many batches for each of 2 processes but 1 of them" in str(found[0])


def test_loaders_that_nobody_has_split_are_refused(as_ranks):
    found = as_ranks(2, lambda ranks: list(rank_batches(ranks, loader(0, 4)).ordered()))
    assert [type(each) for each in found] == [ValueError] * 2
    assert "all got the same batch" in str(found[0])


def test_loaders_with_parts_of_their_own_are_taken(as_ranks):
    found = as_ranks(2, lambda ranks: list(rank_batches(ranks, loader(ranks.rank, 4)).ordered()))
    assert [torch.cat([x for (x,) in each]).tolist() for each in found] == [
        [100, 101, 102, 103],
        [1100, 1101, 1102, 1103],
    ]


def test_parts_are_not_split_again():
    with pytest.raises(ValueError, match="Expected batches of one process"):
        rank_batches(ONE_RANK, torch.arange(10)).sharded(0, 2)


# ---- a training that has diverged in one of them


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.sum())


def test_the_data_are_counted_also_where_the_state_explains_it():
    # The count is a sum over processes, and the buffers of one alone may have been spoiled
    model = Model()
    svi = SVI(model, lambda x: None, pyro.optim.Adam({}), Trace_ELBO())
    programs = ProgramState(model)
    last_good = Snapshot(programs)
    counted = []
    divergence = Divergence(
        TrainingState(svi, epochs=1, programs=programs),
        last_good,
        count=lambda batch: counted.append(batch) or 0,
    )
    model.mean.fill_(torch.nan)
    assert divergence.explains((torch.ones(2),))
    assert len(counted) == 1
