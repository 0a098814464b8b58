"""The mixture engine where it has several leaves, grids and tiles: what it skips, and what that costs.

Its values stand in ``test_aggregate_posterior.py``. Here are what the public surface cannot tell apart from
them: that tiles are skipped, that bounds hold, and that grids are used where they serve.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from pyro_infomax.information import AggregatePosterior, _mixture_engine as engine
from pyro_infomax.information._mixture_engine import (
    DiagonalNormals,
    Leaves,
    NormalMixture,
    RunningLogSumExp,
    UnivariateMixture,
    normal_components,
)

# ---- A log-sum-exp over columns that arrive tile by tile.


def run(*tiles: torch.Tensor) -> torch.Tensor:
    running = RunningLogSumExp(tiles[0][:, 0])
    for tile in tiles:
        running.add(torch.arange(len(tile)), tile.clone())
    return running.result()


def test_rising_and_falling_maxima_agree_with_the_whole() -> None:
    whole = torch.randn(6, 40) * 300
    torch.testing.assert_close(run(*whole.split(7, 1)), whole.logsumexp(1), rtol=1e-15, atol=1e-15)
    rising = whole.sort(1).values
    torch.testing.assert_close(run(*rising.split(1, 1)), whole.logsumexp(1), rtol=1e-14, atol=1e-14)


def test_empty_tiles_count_nothing() -> None:
    nothing, one = torch.full((2, 3), -math.inf), torch.zeros(2, 1)
    assert run(nothing).tolist() == [-math.inf] * 2
    assert run(nothing, one, nothing).tolist() == [0.0, 0.0]


def test_tiles_relative_to_the_reference_and_of_some_rows_agree_with_the_whole() -> None:
    whole = torch.randn(6, 40) * 300
    running = RunningLogSumExp(whole[:, 0])
    first, rows = torch.arange(6), torch.tensor([4, 1])
    running.add(first, whole[:, :20].clone())
    running.add_relative(rows, whole[rows, 20:] - running.reference[rows, None])
    expected = whole[:, :20].logsumexp(1)
    expected[rows] = whole[rows].logsumexp(1)
    torch.testing.assert_close(running.result(), expected, rtol=1e-14, atol=1e-14)


def test_a_tile_is_borne_while_its_exponentials_are_finite() -> None:
    running = RunningLogSumExp(torch.zeros(3))
    assert not running.bears(torch.arange(3), torch.zeros(3))
    running.add(torch.arange(2), torch.zeros(2, 1))
    assert running.bears(torch.arange(2), torch.full((2,), 300.0))
    assert not running.bears(torch.arange(2), torch.tensor([0.0, 301.0]))


# ---- Components in runs of neighbours.

COMPONENTS = 1000


def scattered(latent: int = 3) -> Independent:
    loc, scale = torch.randn(COMPONENTS, latent), 0.1 * torch.exp(torch.randn(COMPONENTS, latent))
    return Independent(Normal(loc, scale), 1)


def correlated() -> MultivariateNormal:
    root = torch.randn(COMPONENTS, 3, 3).tril(-1) + torch.eye(3)
    return MultivariateNormal(torch.randn(COMPONENTS, 3), scale_tril=0.1 * root)


def test_every_component_is_in_one_leaf_and_can_be_found_there() -> None:
    given = normal_components(scattered())
    leaves = Leaves(given, size=64)
    assert len(leaves) > 4
    assert [part.start for part in leaves.parts[1:]] == [part.stop for part in leaves.parts[:-1]]
    assert leaves.parts[-1].stop == COMPONENTS
    assert leaves.largest <= 128
    leaf, column = leaves.home(torch.arange(COMPONENTS))
    starts = torch.tensor([part.start for part in leaves.parts])
    assert torch.equal(leaves.components.loc[starts[leaf] + column], given.loc)
    assert torch.equal(leaves.components.scale[starts[leaf] + column], given.scale)
    spread = torch.stack([leaves.components.loc[part].var(0).sum() for part in leaves.parts]).mean()
    assert spread < 0.5 * given.loc.var(0).sum()


def test_leaves_of_equal_components_are_split() -> None:
    leaves = Leaves(DiagonalNormals(torch.zeros(COMPONENTS, 2), torch.ones(COMPONENTS, 2)), size=64)
    assert leaves.parts[-1].stop == COMPONENTS
    assert leaves.largest <= 128


@pytest.mark.parametrize("family", [lambda: scattered(1), scattered, correlated])
def test_no_component_exceeds_its_leaf_s_bound(family) -> None:
    leaves = Leaves(normal_components(family()), size=64)
    z = 2 * torch.randn(150, leaves.centre.shape[1])
    bounds = leaves.bounds(z)
    for leaf, part in enumerate(leaves.parts):
        members = torch.arange(COMPONENTS)[part]
        scores = torch.stack([leaves.components.log_prob(z, each.expand(len(z))) for each in members])
        assert bool((scores.amax(0) <= bounds[:, leaf] + 1e-9).all())


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


# ---- The mixture of Normals by tiles, against full enumeration by differences.

SIZE = 6000  # several leaves


def enumerated(posterior: Independent | MultivariateNormal, z: Tensor, index: Tensor | None = None) -> Tensor:
    table = torch.cat([posterior.log_prob(each[:, None]) for each in z.split(20)])
    if index is not None:
        table[torch.arange(len(z)), index] = -torch.inf
    return table.logsumexp(1)


def diagonal(size: int, latent: int, scale: float, *, spread: float = 0.0) -> Independent:
    scales = scale * torch.exp(spread * torch.randn(size, latent))
    return Independent(Normal(torch.randn(size, latent), scales), 1)


def full(size: int, latent: int, scale: float) -> MultivariateNormal:
    root = scale * (torch.eye(latent) + 0.5 * torch.randn(size, latent, latent).tril(-1))
    return MultivariateNormal(torch.randn(size, latent), scale_tril=root)


CASES = {
    "wide": lambda: diagonal(SIZE, 4, 0.5),
    "narrow": lambda: diagonal(SIZE, 4, 0.05),
    "very narrow": lambda: diagonal(SIZE, 4, 1e-3),
    "far from the origin": lambda: Independent(Normal(1e5 + torch.randn(SIZE, 2), 1e-3 * torch.ones(2)), 1),
    "of many scales": lambda: diagonal(SIZE, 3, 0.05, spread=1.5),
    "one dimension": lambda: diagonal(SIZE, 1, 1e-3),
    "a constant dimension": lambda: Independent(
        Normal(torch.randn(SIZE, 3) * torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.1, 1e-9, 0.1])), 1
    ),
    "full": lambda: full(SIZE, 3, 0.3),
    "full and narrow": lambda: full(SIZE, 3, 1e-3),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Independent | MultivariateNormal, Tensor, Tensor]:
    posterior = CASES[request.param]()
    index = torch.randint(SIZE, (30,))
    return posterior, posterior.sample()[index], index


def test_sums_are_the_enumerated_ones(case) -> None:
    """At draws, with and without their own component, and at points between them and far outside."""
    posterior, z, index = case
    between, far = (z + z.roll(1, 0)) / 2, posterior.mean[:5] + 30.0
    points = torch.cat([z, between, far])
    aggregate = AggregatePosterior(posterior)
    found = aggregate.log_prob(points) + math.log(SIZE)
    torch.testing.assert_close(found, enumerated(posterior, points), rtol=1e-12, atol=2e-10)
    left = aggregate.log_prob_leave_one_out(z, index) + math.log(SIZE - 1)
    torch.testing.assert_close(left, enumerated(posterior, z, index), rtol=1e-12, atol=2e-10)


def mixture_of(posterior: Independent) -> NormalMixture:
    return NormalMixture(normal_components(posterior))


def visited(
    mixture: NormalMixture, z: Tensor, monkeypatch: pytest.MonkeyPatch, floor: Tensor | None = None
) -> float:
    """The share of all pairs that are scored."""
    pairs = []
    tile = engine._Visit._tile

    def counted(self: engine._Visit, leaf: int, rows: Tensor) -> None:
        pairs.append(len(rows) * mixture.weights(leaf)[0].shape[1])
        tile(self, leaf, rows)

    monkeypatch.setattr(engine._Visit, "_tile", counted)
    mixture.log_sums(z, floor=floor)
    return sum(pairs) / (len(z) * mixture.size)


@pytest.mark.parametrize(("latent", "most"), [(1, 0.1), (2, 0.2), (10, 0.4)])
def test_most_tiles_of_narrow_components_are_skipped(latent, most, monkeypatch) -> None:
    posterior = diagonal(60_000, latent, 0.05 if latent > 1 else 0.005)
    z = posterior.sample()[:500]
    assert visited(mixture_of(posterior), z, monkeypatch) < most


def test_nothing_is_skipped_where_all_matters(monkeypatch) -> None:
    posterior = diagonal(SIZE, 3, 1.0)
    assert visited(mixture_of(posterior), posterior.sample()[:50], monkeypatch) == 1


def test_what_is_skipped_is_certified_to_be_small(monkeypatch) -> None:
    """With the certificate loosened to a hundredth, errors show, and stay below it."""
    posterior = diagonal(SIZE, 2, 0.1)
    z = posterior.sample()[:300]
    expected = enumerated(posterior, z)
    monkeypatch.setattr(engine, "_CERTIFIED", math.log(1e-2))
    missing = expected - mixture_of(posterior).log_sums(z)
    assert 1e-9 < float(missing.max()) < 1e-2
    assert float(missing.min()) > -1e-12


def test_beside_a_high_floor_nothing_needs_to_be_scored(monkeypatch) -> None:
    posterior = diagonal(SIZE, 2, 0.3)
    floor = torch.full((50,), 100.0)
    assert visited(mixture_of(posterior), posterior.sample()[:50], monkeypatch, floor) == 0


def test_terms_that_are_added_later_may_be_skipped_beside_a_floor() -> None:
    posterior = diagonal(SIZE, 2, 1e-2)
    z = posterior.sample()[:50]
    expected = enumerated(posterior, z)
    floor = expected + torch.linspace(-5, 60, 50)
    found = mixture_of(posterior).log_sums(z, floor=floor)
    both = torch.logaddexp(found, floor)
    torch.testing.assert_close(both, torch.logaddexp(expected, floor), rtol=0, atol=2e-10)


def test_some_points_may_keep_all_components() -> None:
    posterior = diagonal(100, 2, 0.3)
    z, index = posterior.sample()[:10], torch.arange(10)
    index[::2] = -1
    found = mixture_of(posterior).log_sums(z, index)
    expected = torch.where(index < 0, enumerated(posterior, z), enumerated(posterior, z, index.clamp(min=0)))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_points_at_infinity_have_no_density_and_nan_stays_nan() -> None:
    """Also among so many points that they are put in the order of space."""
    posterior, z = diagonal(50, 2, 0.3), torch.randn(5000, 2)
    z[1, 0], z[2, 0] = math.inf, math.nan
    found = AggregatePosterior(posterior).log_prob(z)
    assert found[1] == -math.inf
    assert found[2].isnan()
    rest = torch.cat([found[:1], found[3:40]]) + math.log(50)
    torch.testing.assert_close(rest, enumerated(posterior, torch.cat([z[:1], z[3:40]])))


def test_a_nan_beside_them_leaves_other_points_their_accuracy() -> None:
    posterior = diagonal(SIZE, 4, 1e-3)
    z = posterior.sample()[:20]
    z[3] = math.nan
    found, expected = mixture_of(posterior).log_sums(z), enumerated(posterior, z.nan_to_num())
    keep = torch.arange(20) != 3
    assert found[3].isnan()
    torch.testing.assert_close(found[keep], expected[keep], rtol=1e-12, atol=2e-10)


def test_weights_are_kept_only_while_they_are_few(monkeypatch) -> None:
    posterior = diagonal(SIZE, 2, 0.3)
    z = posterior.sample()[:20]
    keeping = mixture_of(posterior)
    expected = keeping.log_sums(z)
    monkeypatch.setattr(engine, "_WEIGHTS_KEPT", 0)
    forgetting = mixture_of(posterior)
    torch.testing.assert_close(forgetting.log_sums(z), expected, rtol=0, atol=0)
    assert keeping._weights
    assert not forgetting._weights


# ---- The mixture of univariate Normals: bands, grids and gaps.

MANY, POINTS = 20_000, 1500
ERROR = 1e-5


def evaluated(
    loc: Tensor, scale: Tensor, z: Tensor, index: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The log-density and, where points name their own components, what is left without these."""
    posterior = Independent(Normal(loc[:, None], scale[:, None]), 1)
    found = AggregatePosterior(posterior).evaluate_marginals(z[:, None], index=index)
    return found.log_prob.squeeze(1), None if index is None else found.leave_one_out.squeeze(1)


def summed(loc: Tensor, scale: Tensor, z: Tensor, index: Tensor | None = None) -> Tensor:
    table = torch.cat([Normal(loc, scale).log_prob(each[:, None]) for each in z.split(100)])
    if index is None:
        return table.logsumexp(1) - math.log(len(loc))
    table[torch.arange(len(z)), index] = -torch.inf
    return table.logsumexp(1) - math.log(len(loc) - 1)


SCALES = {
    "0.001": lambda: torch.full((MANY,), 1e-3),
    "1": lambda: torch.ones(MANY),
    "of three decades": lambda: 10 ** (-3 * torch.rand(MANY)),
    "mostly 1": lambda: torch.ones(MANY).index_fill_(0, torch.arange(5), 1e-4),
}


@pytest.mark.parametrize("scales", SCALES)
def test_mixture_and_leave_one_out_are_the_enumerated_ones(scales) -> None:
    loc, scale = torch.randn(MANY), SCALES[scales]()
    index = torch.cat([torch.arange(5), torch.randint(MANY, (POINTS - 5,))])
    z = Normal(loc, scale).sample()[index]
    found, left = evaluated(loc, scale, z, index)
    few = slice(0, 200)
    expected = summed(loc, scale, z[few])
    torch.testing.assert_close(found[few], expected, rtol=0, atol=ERROR)
    expected = summed(loc, scale, z[few], index[few])
    torch.testing.assert_close(left[few], expected, rtol=0, atol=3 * ERROR)


def test_gaps_between_far_components_are_not_interpolated() -> None:
    loc = torch.randn(MANY).sign() * 60 + 0.1 * torch.randn(MANY)
    z = torch.linspace(-70, 70, POINTS)
    scale = torch.ones(MANY)
    mixture = UnivariateMixture(loc, scale)
    (band,) = mixture._bands
    grid = band._grid(z)
    assert grid is not None
    assert not grid.trusted.all()
    few = slice(0, POINTS, 7)
    found, _ = evaluated(loc, scale, z)
    torch.testing.assert_close(found[few], summed(loc, scale, z[few]), rtol=1e-12, atol=ERROR)


@pytest.mark.parametrize("gap", [6.0, 7.0])
def test_clusters_with_gaps_keep_the_accuracy_of_the_spline(gap: float) -> None:
    """Where a gap begins the log-density bends, in cells beside those in which the check fails."""
    loc = (torch.arange(MANY) % 6) * gap + 0.05 * torch.randn(MANY)
    z, scale = torch.linspace(-4.0, 5 * gap + 4, POINTS), torch.ones(MANY)
    found, _ = evaluated(loc, scale, z)
    (between,) = torch.where(((z + gap / 2) % gap - gap / 2).abs() > gap / 2 - 1)
    torch.testing.assert_close(found[between], summed(loc, scale, z[between]), rtol=0, atol=1e-6)


def test_points_outside_the_grid_are_scored() -> None:
    loc, scale = torch.randn(MANY), torch.ones(MANY)
    z = torch.cat([torch.randn(POINTS), torch.tensor([-1e4, 50.0])])
    found, _ = evaluated(loc, scale, z)
    torch.testing.assert_close(found[-2:], summed(loc, scale, z[-2:]), rtol=1e-12, atol=1e-9)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many points are scored exactly, call by call."""
    counts: list[int] = []
    log_sums = NormalMixture.log_sums

    def counted(self: NormalMixture, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        counts.append(len(z))
        return log_sums(self, z, *args, **kwargs)

    monkeypatch.setattr(NormalMixture, "log_sums", counted)
    return counts


def test_a_grid_is_used_only_where_it_has_fewer_nodes_than_there_are_points() -> None:
    wide, narrow = (UnivariateMixture(torch.randn(MANY), torch.full((MANY,), s)) for s in (1.0, 1e-3))
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
    found, _ = evaluated(loc, scale, z)
    torch.testing.assert_close(found, summed(loc, scale, z), rtol=1e-12, atol=1e-12)


def test_a_lone_point_among_far_others_keeps_what_they_leave(monkeypatch) -> None:
    """Where nearly all of the density is a point's own, the difference would cancel."""
    monkeypatch.setattr(engine, "_WORTH_A_PLAN", 0)
    loc, scale = torch.tensor([0.0, 30.0, 31.0, 32.0]), torch.ones(4)
    z, index = torch.tensor([0.0, 31.0]), torch.tensor([0, 2])
    _, found = evaluated(loc, scale, z, index)
    torch.testing.assert_close(found, summed(loc, scale, z, index), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    "loc",
    [
        torch.randn(MANY).index_fill(0, torch.arange(3), 1e6),
        torch.randn(MANY) + 1e5 * (torch.arange(MANY) % 2),
    ],
    ids=["outliers", "clusters"],
)
def test_each_crowd_of_points_has_its_own_grid(loc, counts) -> None:
    """One grid from end to end would have more nodes than there are points."""
    z = loc[:POINTS] + torch.randn(POINTS)
    found, _ = evaluated(loc, torch.ones(MANY), z)
    assert sum(counts) < POINTS / 4
    torch.testing.assert_close(found[:100], summed(loc, torch.ones(MANY), z[:100]), rtol=0, atol=ERROR)


def test_points_that_are_not_finite_have_no_density_or_none_known() -> None:
    z = torch.randn(POINTS)
    z[0], z[1] = math.nan, math.inf
    found, _ = evaluated(torch.randn(MANY), torch.ones(MANY), z)
    assert found[0].isnan()
    assert found[1] == -math.inf
    assert bool(found[2:].isfinite().all())
