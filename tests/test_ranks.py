"""Processes that agree: sums, rows, objects, and errors that end all of them."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyro_infomax._ranks import ONE_RANK, FabricRanks, PeerError, Ranks, ranks_of


def test_no_fabric_is_one_process():
    assert ranks_of(None) is ONE_RANK
    assert (ONE_RANK.rank, ONE_RANK.world_size, ONE_RANK.is_first) == (0, 1, True)


@pytest.mark.parametrize("how", ["sum", "max"])
def test_one_process_keeps_what_it_has(how):
    tensor = torch.randn(3)
    assert torch.equal(ONE_RANK.reduce(tensor, how), tensor)
    assert torch.equal(ONE_RANK.rows(tensor), tensor)
    assert ONE_RANK.all_of("it") == ["it"]
    assert ONE_RANK.together(lambda: 3) == 3


def test_all_of_is_in_the_order_of_the_processes(as_ranks):
    found = as_ranks(3, lambda ranks: ranks.all_of(ranks.rank))
    assert found == [[0, 1, 2]] * 3


def test_the_reduced_logsumexp_is_that_of_all(as_ranks):
    terms = torch.randn(3, 4) * 300
    found = as_ranks(3, lambda ranks: ranks.log_sum(terms[ranks.rank]))
    for each in found:
        torch.testing.assert_close(each, terms.logsumexp(0), rtol=1e-13, atol=0.0)


def test_the_reduced_logsumexp_of_nothing_is_nothing(as_ranks):
    terms = torch.tensor([[-math.inf, -math.inf], [-math.inf, 1.0]])
    for each in as_ranks(2, lambda ranks: ranks.log_sum(terms[ranks.rank])):
        assert each.tolist() == [-math.inf, 1.0]


def test_what_goes_well_in_all_gives_each_its_own(as_ranks):
    assert as_ranks(2, lambda ranks: ranks.together(lambda: ranks.rank)) == [0, 1]


def _fail(ranks: Ranks, errors: dict[int, Exception]) -> Any:
    def compute() -> int:
        if ranks.rank in errors:
            raise errors[ranks.rank]
        return ranks.rank

    return ranks.together(compute)


@pytest.mark.parametrize("kind", [ValueError, NotImplementedError, RuntimeError])
def test_an_error_of_one_is_raised_in_all_as_its_kind(as_ranks, kind):
    error = kind("no luck")
    found = as_ranks(3, lambda ranks: _fail(ranks, {1: error}))
    assert [type(each) for each in found] == [kind] * 3
    assert [str(each) for each in found] == ["no luck"] * 3
    assert found[1] is error


def test_an_error_of_a_strange_kind_is_told(as_ranks):
    found = as_ranks(2, lambda ranks: _fail(ranks, {1: KeyError("z")}))
    assert isinstance(found[0], PeerError)
    assert "KeyError" in str(found[0])
    assert isinstance(found[1], KeyError)


def test_what_may_be_caught_gives_way_to_what_may_not(as_ranks):
    """A missing field would be passed over by one process, which would then wait for the others."""
    errors = {0: NotImplementedError("no closed form"), 2: ValueError("nan")}
    found = as_ranks(3, lambda ranks: _fail(ranks, errors))
    assert [(type(each), str(each)) for each in found] == [(ValueError, "nan")] * 3


def _fabric(**attributes: Any) -> Any:
    class DDPStrategy:
        pass

    methods = dict.fromkeys(("all_reduce", "all_gather", "broadcast"))
    known = {"global_rank": 0, "world_size": 1, "strategy": DDPStrategy(), "device": torch.device("cpu")}
    return SimpleNamespace(**(known | methods | attributes))


def test_what_is_no_fabric_is_refused():
    with pytest.raises(ValueError, match="Expected fabric to be a Fabric of Lightning's but got str"):
        ranks_of("ddp")


def test_a_fabric_that_was_not_launched_is_refused():
    with pytest.raises(ValueError, match=r"call fabric\.launch"):
        ranks_of(_fabric(world_size=2))


def test_a_strategy_that_splits_the_model_is_refused():
    class FSDPStrategy:
        pass

    with pytest.raises(NotImplementedError, match="FSDPStrategy splits the model"):
        ranks_of(_fabric(strategy=FSDPStrategy()))


def test_a_fabric_of_one_device_is_one_process():
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", devices=1)
    ranks = ranks_of(fabric)
    assert isinstance(ranks, FabricRanks)
    tensor = torch.randn(3)
    assert torch.equal(ranks.reduce(tensor), tensor)
    assert torch.equal(ranks.rows(tensor), tensor)
    assert torch.equal(ranks.log_sum(tensor), tensor)
    assert ranks.all_of("it") == ["it"]
