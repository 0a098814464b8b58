"""Leaves hold every component once, and their bounds bound."""

import pytest
import torch

from pyro_infomax.information._mixture_engine import DiagonalNormals, Leaves, ordered

SIZE = 1000


def components(latent: int = 3) -> DiagonalNormals:
    return DiagonalNormals(torch.randn(SIZE, latent), 0.1 * torch.exp(torch.randn(SIZE, latent)))


def test_every_component_is_in_one_leaf_and_can_be_found_there() -> None:
    given = components()
    leaves = Leaves(given, size=64)
    assert len(leaves) > 4
    assert [part.start for part in leaves.parts[1:]] == [part.stop for part in leaves.parts[:-1]]
    assert leaves.parts[-1].stop == SIZE
    assert leaves.largest <= 128
    leaf, column = leaves.home(torch.arange(SIZE))
    starts = torch.tensor([part.start for part in leaves.parts])
    torch.testing.assert_close(leaves.components.loc[starts[leaf] + column], given.loc, rtol=0, atol=0)
    torch.testing.assert_close(leaves.components.scale[starts[leaf] + column], given.scale, rtol=0, atol=0)


@pytest.mark.parametrize("latent", [1, 3])
def test_no_component_exceeds_its_leaf_s_bound(latent) -> None:
    leaves = Leaves(components(latent), size=64)
    z = 2 * torch.randn(150, latent)
    bounds = leaves.bounds(z)
    for leaf, part in enumerate(leaves.parts):
        members = torch.arange(SIZE)[part]
        scores = leaves.components.log_prob(z[:, None], members)  # (points, members)
        assert bool((scores.amax(1) <= bounds[:, leaf] + 1e-9).all())


def test_bounds_are_tight_for_a_leaf_of_twins() -> None:
    twins = DiagonalNormals(torch.ones(5, 2), torch.full((5, 2), 0.3))
    z = torch.randn(7, 2)
    expected = twins.log_prob(z, torch.zeros(7, dtype=torch.long))
    torch.testing.assert_close(Leaves(twins, size=64).bounds(z)[:, 0], expected)


def test_scales_are_told_apart_where_means_are_not() -> None:
    scale = torch.cat([torch.full((200, 1), 1e-3), torch.ones(200, 1)])
    leaves = Leaves(DiagonalNormals(torch.zeros(400, 1), scale)[torch.randperm(400)], size=100)
    kinds = [leaves.components.scale[part].unique().numel() for part in leaves.parts]
    assert kinds == [1] * len(leaves)


def test_neighbours_stand_together() -> None:
    points = torch.randn(500, 2)
    order, stops = ordered(points, 50)
    assert sorted(order.tolist()) == list(range(500))
    assert stops[-1] == 500
    within = torch.stack([points[part].var(0).sum() for part in order.tensor_split(stops[:-1])]).mean()
    assert within < 0.5 * points.var(0).sum()


def test_runs_of_equal_points_are_split() -> None:
    order, stops = ordered(torch.cat([torch.zeros(500, 2), torch.randn(100, 2)]), 50)
    assert sorted(order.tolist()) == list(range(600))
    assert 0 < min(torch.tensor([0, *stops]).diff()) <= max(torch.tensor([0, *stops]).diff()) <= 100
