"""Divergences from the prior."""

import math

import pytest
import torch
from torch.distributions import (
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform, StickBreakingTransform

from pyro_infomax.information import dimensionwise_kl, marginal_kl, prior_dependence, rate

PRIOR = Independent(Normal(torch.zeros(2), 1.0), 1)


def posterior() -> Independent:
    return Independent(Normal(torch.randn(100, 2), torch.tensor([0.3, 1.5])), 1)


def by_quadrature(loc: torch.Tensor, scale: float) -> float:
    """KL of a one-dimensional mixture from the standard normal, on a grid."""
    z = torch.linspace(-12, 12, 8001)
    mixture = Normal(loc, scale).log_prob(z[:, None]).logsumexp(1) - math.log(len(loc))
    return float((mixture.exp() * (mixture - Normal(0.0, 1.0).log_prob(z))).sum() * (z[1] - z[0]))


def test_the_rate_is_the_formula() -> None:
    chosen = posterior()
    mean, scale = chosen.base_dist.loc, chosen.base_dist.scale
    expected = 0.5 * (mean**2 + scale**2 - 1 - 2 * scale.log()).sum(1).mean()
    found = rate(chosen, PRIOR)
    torch.testing.assert_close(found.value, expected, rtol=1e-13, atol=0)
    assert (float(found.standard_error), found.bound) == (0, "exact")


def test_a_rate_without_a_closed_form_comes_from_the_draws() -> None:
    shifted = TransformedDistribution(posterior(), [AffineTransform(0.5, 2.0, event_dim=1)])
    moved = Independent(Normal(2 * shifted.base_dist.mean + 0.5, 2 * shifted.base_dist.stddev), 1)
    found = rate(shifted, PRIOR, num_samples=20, seed=0)
    assert 0 < abs(float(found) - float(rate(moved, PRIOR))) < 3 * float(found.standard_error)


def test_the_dimensions_give_what_quadrature_gives() -> None:
    chosen = posterior()
    found = dimensionwise_kl(chosen, PRIOR, num_samples=4, seed=0)
    for each, loc, scale in zip(found, chosen.base_dist.loc.T, (0.3, 1.5), strict=True):
        assert abs(float(each) - by_quadrature(loc, scale)) < 3 * float(each.standard_error)


def test_in_one_dimension_the_marginal_kl_is_all() -> None:
    one = Independent(Normal(torch.randn(100, 1), 0.3), 1)
    prior = Independent(Normal(torch.zeros(1), 1.0), 1)
    found = marginal_kl(one, prior, num_samples=4, seed=0)
    assert abs(float(found) - by_quadrature(one.base_dist.loc[:, 0], 0.3)) < 3 * float(found.standard_error)


def test_a_prior_with_known_marginals_adds_its_dependence() -> None:
    tilted = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    prior = Independent(Normal(torch.zeros(2), 1.0), 1)
    # under draws from N(0, I): E[log p1 p2 - log p] = (ln|C| + tr C^-1 - 2) / 2
    expected = 0.5 * (math.log(1 - 0.64) + 2 / (1 - 0.64) - 2)
    assert float(prior_dependence(prior.expand([50]), tilted)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("quantity", [dimensionwise_kl, prior_dependence])
def test_a_prior_without_known_marginals_is_refused_with_the_reason(quantity) -> None:
    simplex = TransformedDistribution(Independent(Normal(torch.zeros(1), 1.0), 1), [StickBreakingTransform()])
    with pytest.raises(NotImplementedError, match="univariate marginals are known"):
        quantity(posterior(), simplex)


def test_a_prior_without_known_marginals_still_has_a_marginal_kl() -> None:
    flow = TransformedDistribution(PRIOR, [AffineTransform(0.0, 2.0, event_dim=1)])
    wide, chosen = Independent(Normal(torch.zeros(2), 2.0), 1), posterior()
    found, expected = (marginal_kl(chosen, prior, num_samples=20, seed=0) for prior in (flow, wide))
    error = math.hypot(float(found.standard_error), float(expected.standard_error))
    assert abs(float(found) - float(expected)) < 3 * error
