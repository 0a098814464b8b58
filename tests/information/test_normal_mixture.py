"""Skipped, refined and centred tiles against full enumeration by differences."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from pyro_infomax.information import _mixture_engine as normal_mixture
from pyro_infomax.information._mixture_engine import (
    DiagonalNormals,
    FullNormals,
    NormalComponents,
    NormalMixture,
)

SIZE = 6000  # several leaves


def enumerated(posterior: Independent | MultivariateNormal, z: Tensor, index: Tensor | None = None) -> Tensor:
    table = torch.cat([posterior.log_prob(each[:, None]) for each in z.split(20)])
    if index is not None:
        table[torch.arange(len(z)), index] = -torch.inf
    return table.logsumexp(1)


def diagonal(size: int, latent: int, scale: float, *, spread: float = 0.0) -> Independent:
    scales = scale * torch.exp(spread * torch.randn(size, latent))
    return Independent(Normal(torch.randn(size, latent), scales), 1)


def components(posterior: Independent | MultivariateNormal) -> NormalComponents:
    if isinstance(posterior, MultivariateNormal):
        return FullNormals(posterior.loc, posterior.scale_tril)
    return DiagonalNormals(posterior.base_dist.loc, posterior.base_dist.scale)


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
    index = torch.randint(SIZE, (60,))
    return posterior, posterior.sample()[index], index


@pytest.mark.parametrize("skip", [True, False])
def test_sums_are_the_enumerated_ones(case, skip) -> None:
    posterior, z, index = case
    mixture = NormalMixture(components(posterior), skip=skip)
    torch.testing.assert_close(mixture.log_sums(z), enumerated(posterior, z), rtol=1e-12, atol=2e-10)
    left = enumerated(posterior, z, index)
    torch.testing.assert_close(mixture.log_sums(z, index), left, rtol=1e-12, atol=2e-10)


def test_points_that_are_no_draws_are_scored_too(case) -> None:
    posterior, z, _ = case
    between = (z + z.roll(1, 0)) / 2
    outside = posterior.base_dist.loc if isinstance(posterior, Independent) else posterior.loc
    far = outside[:5] + 30.0
    for points in (between, far):
        found = NormalMixture(components(posterior)).log_sums(points)
        torch.testing.assert_close(found, enumerated(posterior, points), rtol=1e-12, atol=2e-10)


def visited(
    mixture: NormalMixture, z: Tensor, monkeypatch: pytest.MonkeyPatch, floor: Tensor | None = None
) -> float:
    """The share of all pairs that are scored."""
    pairs = []
    tile = normal_mixture._Visit._tile

    def counted(self: normal_mixture._Visit, leaf: int, rows: Tensor) -> None:
        pairs.append(len(rows) * mixture.weights(leaf)[0].shape[1])
        tile(self, leaf, rows)

    monkeypatch.setattr(normal_mixture._Visit, "_tile", counted)
    mixture.log_sums(z, floor=floor)
    return sum(pairs) / (len(z) * mixture.size)


@pytest.mark.parametrize(("latent", "most"), [(1, 0.1), (2, 0.2), (10, 0.4)])
def test_most_tiles_of_narrow_components_are_skipped(latent, most, monkeypatch) -> None:
    posterior = diagonal(60_000, latent, 0.05 if latent > 1 else 0.005)
    z = posterior.sample()[:500]
    assert visited(NormalMixture(components(posterior)), z, monkeypatch) < most


def test_nothing_is_skipped_where_all_matters(monkeypatch) -> None:
    posterior = diagonal(SIZE, 3, 1.0)
    assert visited(NormalMixture(components(posterior)), posterior.sample()[:50], monkeypatch) == 1


def test_what_is_skipped_is_certified_to_be_small(monkeypatch) -> None:
    """With the certificate loosened to a hundredth, errors show, and stay below it."""
    posterior = diagonal(SIZE, 2, 0.1)
    z = posterior.sample()[:300]
    expected = enumerated(posterior, z)
    monkeypatch.setattr(normal_mixture, "_CERTIFIED", math.log(1e-2))
    missing = expected - NormalMixture(components(posterior)).log_sums(z)
    assert 1e-9 < float(missing.max()) < 1e-2
    assert float(missing.min()) > -1e-12


def test_beside_a_high_floor_nothing_needs_to_be_scored(monkeypatch) -> None:
    posterior = diagonal(SIZE, 2, 0.3)
    floor = torch.full((50,), 100.0)
    assert visited(NormalMixture(components(posterior)), posterior.sample()[:50], monkeypatch, floor) == 0


def test_terms_that_are_added_later_may_be_skipped_beside_a_floor() -> None:
    posterior = diagonal(SIZE, 2, 1e-2)
    z = posterior.sample()[:50]
    expected = enumerated(posterior, z)
    floor = expected + torch.linspace(-5, 60, 50)
    found = NormalMixture(components(posterior)).log_sums(z, floor=floor)
    both = torch.logaddexp(found, floor)
    torch.testing.assert_close(both, torch.logaddexp(expected, floor), rtol=0, atol=2e-10)


def test_some_points_may_keep_all_components() -> None:
    posterior = diagonal(100, 2, 0.3)
    z, index = posterior.sample()[:10], torch.arange(10)
    index[::2] = -1
    found = NormalMixture(components(posterior)).log_sums(z, index)
    expected = torch.where(index < 0, enumerated(posterior, z), enumerated(posterior, z, index.clamp(min=0)))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_points_at_infinity_have_no_density_and_nan_stays_nan() -> None:
    mixture = NormalMixture(components(diagonal(50, 2, 0.3)))
    z = torch.tensor([[0.0, 0.0], [math.inf, 0.0], [math.nan, 0.0]])
    found = mixture.log_sums(z)
    assert found[0].isfinite()
    assert found[1] == -math.inf
    assert found[2].isnan()


def test_a_nan_beside_them_leaves_other_points_their_accuracy() -> None:
    posterior = diagonal(SIZE, 4, 1e-3)
    z = posterior.sample()[:20]
    z[3] = math.nan
    found, expected = NormalMixture(components(posterior)).log_sums(z), enumerated(posterior, z.nan_to_num())
    keep = torch.arange(20) != 3
    assert found[3].isnan()
    torch.testing.assert_close(found[keep], expected[keep], rtol=1e-12, atol=2e-10)


def test_weights_are_kept_only_while_they_are_few(monkeypatch) -> None:
    posterior = diagonal(SIZE, 2, 0.3)
    z = posterior.sample()[:20]
    keeping = NormalMixture(components(posterior))
    expected = keeping.log_sums(z)
    monkeypatch.setattr(normal_mixture, "_WEIGHTS_KEPT", 0)
    forgetting = NormalMixture(components(posterior))
    torch.testing.assert_close(forgetting.log_sums(z), expected, rtol=0, atol=0)
    assert keeping._weights
    assert not forgetting._weights
