"""Bands, grids and gaps against full enumeration."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_infomax.information import _mixture_engine as univariate_mixture
from pyro_infomax.information._mixture_engine import NormalMixture, UnivariateMixture

SIZE, POINTS = 20_000, 1500
ERROR = 1e-5


def enumerated(loc: Tensor, scale: Tensor, z: Tensor, index: Tensor | None = None) -> Tensor:
    table = torch.cat([Normal(loc, scale).log_prob(each[:, None]) for each in z.split(100)])
    if index is None:
        return table.logsumexp(1) - math.log(len(loc))
    table[torch.arange(len(z)), index] = -torch.inf
    return table.logsumexp(1) - math.log(len(loc) - 1)


SCALES = {
    "0.001": lambda: torch.full((SIZE,), 1e-3),
    "0.05": lambda: torch.full((SIZE,), 0.05),
    "1": lambda: torch.ones(SIZE),
    "of three decades": lambda: 10 ** (-3 * torch.rand(SIZE)),
    "mostly 1": lambda: torch.ones(SIZE).index_fill_(0, torch.arange(5), 1e-4),
}


@pytest.mark.parametrize("scales", SCALES)
def test_mixture_and_leave_one_out_are_the_enumerated_ones(scales) -> None:
    loc, scale = torch.randn(SIZE), SCALES[scales]()
    index = torch.cat([torch.arange(5), torch.randint(SIZE, (POINTS - 5,))])
    z = Normal(loc, scale).sample()[index]
    found = UnivariateMixture(loc, scale).evaluate(z, index)
    few = slice(0, 400)
    expected = enumerated(loc, scale, z[few])
    torch.testing.assert_close(found.log_prob[few], expected, rtol=0, atol=ERROR)
    expected = enumerated(loc, scale, z[few], index[few])
    torch.testing.assert_close(found.leave_one_out[few], expected, rtol=0, atol=3 * ERROR)


def test_gaps_between_far_components_are_not_interpolated() -> None:
    loc = torch.randn(SIZE).sign() * 60 + 0.1 * torch.randn(SIZE)
    z = torch.linspace(-70, 70, POINTS)
    scale = torch.ones(SIZE)
    mixture = UnivariateMixture(loc, scale)
    (band,) = mixture._bands
    grid = band._grid(z)
    assert grid is not None
    assert not grid.trusted.all()
    torch.testing.assert_close(
        mixture.evaluate(z).log_prob, enumerated(loc, scale, z), rtol=1e-12, atol=ERROR
    )


def test_points_outside_the_grid_are_scored() -> None:
    loc, scale = torch.randn(SIZE), torch.ones(SIZE)
    z = torch.cat([torch.randn(POINTS), torch.tensor([-1e4, 50.0])])
    found = UnivariateMixture(loc, scale).evaluate(z).log_prob
    torch.testing.assert_close(found[-2:], enumerated(loc, scale, z[-2:]), rtol=1e-12, atol=1e-9)


def test_a_few_points_far_outside_do_not_cost_the_others_their_grid(monkeypatch) -> None:
    counts = []
    log_sums = NormalMixture.log_sums

    def counted(self: NormalMixture, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        counts.append(len(z))
        return log_sums(self, z, *args, **kwargs)

    monkeypatch.setattr(NormalMixture, "log_sums", counted)
    z = torch.cat([torch.randn(POINTS), torch.tensor([-1e4, 1e5])])
    UnivariateMixture(torch.randn(SIZE), torch.ones(SIZE)).evaluate(z)
    assert sum(counts) < POINTS / 4


def test_a_grid_is_used_only_where_it_has_fewer_nodes_than_there_are_points() -> None:
    wide, narrow = (UnivariateMixture(torch.randn(SIZE), torch.full((SIZE,), s)) for s in (1.0, 1e-3))
    z = torch.randn(POINTS)
    assert wide._bands[0]._grid(z) is not None
    assert wide._bands[0]._grid(z[:10]) is None
    assert narrow._bands[0]._grid(z) is None


def test_bands_hold_every_component_once_the_widest_first() -> None:
    scale = 10 ** (-3 * torch.rand(500))
    bands = UnivariateMixture(torch.randn(500), scale)._bands
    assert sum(band.mixture.size for band in bands) == 500
    widths = [band.mixture.given.scale for band in bands]
    assert all(float(each.max() / each.min()) <= 4 for each in widths)
    assert all(float(b.max()) <= float(a.min()) for a, b in itertools.pairwise(widths))


def test_few_pairs_are_scored_exactly() -> None:
    loc, scale, z = torch.randn(300), torch.rand(300) + 0.1, torch.randn(200)
    found = UnivariateMixture(loc, scale).evaluate(z).log_prob
    torch.testing.assert_close(found, enumerated(loc, scale, z), rtol=1e-12, atol=1e-12)


def test_a_lone_point_among_far_others_keeps_what_they_leave(monkeypatch) -> None:
    """Where nearly all of the density is a point's own, the difference would cancel."""
    monkeypatch.setattr(univariate_mixture, "_WORTH_A_PLAN", 0)
    loc, scale = torch.tensor([0.0, 30.0, 31.0, 32.0]), torch.ones(4)
    z, index = torch.tensor([0.0, 31.0]), torch.tensor([0, 2])
    found = UnivariateMixture(loc, scale).evaluate(z, index).leave_one_out
    torch.testing.assert_close(found, enumerated(loc, scale, z, index), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    "loc",
    [
        torch.randn(SIZE).index_fill(0, torch.arange(3), 1e6),
        torch.randn(SIZE) + 1e5 * (torch.arange(SIZE) % 2),
    ],
    ids=["outliers", "clusters"],
)
def test_each_crowd_of_points_has_its_own_grid(loc, monkeypatch) -> None:
    """One grid from end to end would have more nodes than there are points."""
    counts = []
    log_sums = NormalMixture.log_sums

    def counted(self: NormalMixture, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        counts.append(len(z))
        return log_sums(self, z, *args, **kwargs)

    monkeypatch.setattr(NormalMixture, "log_sums", counted)
    z = loc[:POINTS] + torch.randn(POINTS)
    found = UnivariateMixture(loc, torch.ones(SIZE)).evaluate(z).log_prob
    assert sum(counts) < POINTS / 4
    torch.testing.assert_close(found[:200], enumerated(loc, torch.ones(SIZE), z[:200]), rtol=0, atol=ERROR)


def test_points_that_are_not_finite_have_no_density_or_none_known() -> None:
    z = torch.randn(POINTS)
    z[0], z[1] = math.nan, math.inf
    found = UnivariateMixture(torch.randn(SIZE), torch.ones(SIZE)).evaluate(z).log_prob
    assert found[0].isnan()
    assert found[1] == -math.inf
    assert bool(found[2:].isfinite().all())
