"""Coordinates in which posteriors are Normal."""

import pytest
import torch
from torch.distributions import (
    AbsTransform,
    AffineTransform,
    ComposeTransform,
    CumulativeDistributionTransform,
    ExpTransform,
    Gamma,
    HalfNormal,
    Independent,
    IndependentTransform,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    SigmoidTransform,
    StickBreakingTransform,
    TransformedDistribution,
)

from pyro_infomax.distributions import SideBySide, coordinates_of

ROWS = torch.arange(5.0)[:, None]
LOC = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()


def mapped(base, *steps):
    return TransformedDistribution(base, list(steps))


FAMILIES = {
    "positive": Independent(LogNormal(LOC, 0.5), 1),
    "mapped twice": Independent(
        mapped(LogNormal(LOC, 0.5), AffineTransform(torch.tensor([1.0, 2, 3]), 2.0)), 1
    ),
    "simplex": mapped(Independent(Normal(LOC, 0.5), 1), StickBreakingTransform()),
    "full": mapped(MultivariateNormal(LOC, torch.eye(3).double() + 0.2), SigmoidTransform()),
    "side by side": Independent(SideBySide([Normal(LOC[:, :1], 0.5), LogNormal(LOC[:, 1:], 0.5)]), 1),
    "normal": Independent(Normal(LOC, 0.5), 1),
    "mapped alike row by row": mapped(
        Independent(Normal(LOC, 0.5), 1),
        IndependentTransform(AffineTransform(torch.full((5, 1), 2.0), 1.5), 1),
        AffineTransform(torch.full((5, 3), -1.0), torch.tensor([1.0, 2, 3]), event_dim=1),
    ),
    "mapped by a composition": mapped(
        Independent(Normal(LOC, 0.5), 1),
        ComposeTransform([SigmoidTransform(cache_size=1), AffineTransform(torch.zeros(3), torch.ones(5, 3))]),
    ),
    "mapped by inverses": Independent(
        mapped(LogNormal(LOC, 0.5), ExpTransform().inv, AffineTransform(1.0, 2.0).inv), 1
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_density_is_that_of_the_coordinates_less_the_stretch(family) -> None:
    posterior = FAMILIES[family]
    coordinates, z = coordinates_of(posterior), posterior.sample()
    u, stretch = coordinates.at(z)
    assert u.shape == (5, 3)
    stretch = stretch.sum(-1) if stretch.dim() == 2 else stretch
    expected = posterior.log_prob(z[:, None])  # (points, data)
    torch.testing.assert_close(coordinates.base.log_prob(u[:, None]) - stretch[:, None], expected)


@pytest.mark.parametrize(
    "posterior",
    [
        Independent(Laplace(LOC, 1.0), 1),
        Independent(Gamma(LOC.exp(), 1.0), 1),
        Independent(HalfNormal(LOC.exp()), 1),
        Independent(mapped(Normal(LOC, 1.0), AffineTransform(LOC, 1.0)), 1),
        Independent(mapped(Laplace(LOC, 1.0), ExpTransform()), 1),
        Independent(SideBySide([Normal(LOC[:, :1], 0.5), Laplace(LOC[:, 1:], 0.5)]), 1),
        mapped(MultivariateNormal(LOC, torch.eye(3).double()), AffineTransform(LOC, 1.0)),
        # What may differ from datum to datum, and what has no inverse
        *(
            Independent(mapped(Normal(LOC, 1.0), step), 1)
            for step in (
                AffineTransform(ROWS, 1.0),
                AffineTransform(0.0, 1 + ROWS),
                AffineTransform(ROWS, 1.0).inv,
                AffineTransform(torch.zeros(5, 3).requires_grad_(), 1.0),
                AbsTransform(),
                CumulativeDistributionTransform(Normal(ROWS, 1.0)),
            )
        ),
        mapped(
            Independent(Normal(LOC, 1.0), 1), ComposeTransform([ExpTransform(), AffineTransform(ROWS, 1.0)])
        ),
        mapped(Independent(Normal(LOC, 1.0), 1), IndependentTransform(AffineTransform(ROWS, 1.0), 1)),
        object(),
    ],
)
def test_others_keep_their_own(posterior) -> None:
    found = coordinates_of(posterior)
    assert found.base is posterior
    assert found.transform is None


def test_what_is_not_reached_is_infinitely_far() -> None:
    z = torch.tensor([[0.0, -1.0, 1.0], [torch.nan, 1.0, 1.0]])
    u, stretch = coordinates_of(FAMILIES["positive"]).at(z)
    assert u.isfinite().all()
    torch.testing.assert_close(
        stretch, torch.tensor([[torch.inf, torch.inf, 0.0], [torch.nan, 0.0, 0.0]]), equal_nan=True
    )


def test_a_point_that_a_map_of_vectors_does_not_reach_is_lost_as_a_whole() -> None:
    z = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.2, 0.3, 0.4, 0.1], [torch.nan, 0.3, 0.4, 0.1]])
    u, stretch = coordinates_of(FAMILIES["simplex"]).at(z)
    assert u.isfinite().all()
    assert stretch[0] == torch.inf
    assert stretch[1].isfinite()
    assert stretch[2].isnan()
