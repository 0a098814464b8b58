"""Parts of batches that several processes take in step."""

import pytest
import torch
from torch.utils.data import DataLoader

from pyro_infomax._ranks import ONE_RANK
from pyro_infomax.training._batches import to_batches
from pyro_infomax.training._distributed import RankBatches


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


class Broken(torch.utils.data.Dataset):
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
