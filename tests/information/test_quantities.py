"""Information, divergences from the prior and active dimensions, from the posterior alone."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, StickBreakingTransform

from pyro_infomax.information import (
    active_units,
    dimensionwise_kl,
    leave_one_out,
    marginal_kl,
    mutual_information,
    prior_dependence,
    rate,
)

# ---- Mutual information


ON_A_LINE = Independent(Normal(torch.linspace(-1, 1, 100)[:, None], torch.tensor(0.5)), 1)


def information_by_quadrature() -> float:
    """The information between the index and z, on a grid."""
    loc = torch.linspace(-1, 1, 100).double()
    z = torch.linspace(-6, 6, 4001).double()
    density = Normal(loc, 0.5).log_prob(z[:, None])  # (grid, batch)
    mixture = density.logsumexp(1, keepdim=True) - math.log(100)
    return float((density.exp() * (density - mixture)).mean(1).sum() * (z[1] - z[0]))


@pytest.mark.parametrize("num_samples", [1, 8])
def test_the_mixture_gives_what_quadrature_gives(num_samples: int) -> None:
    found = mutual_information(ON_A_LINE, num_samples=num_samples, seed=0)
    assert abs(float(found) - information_by_quadrature()) < 3 * float(found.standard_error)
    assert float(found.standard_error) < 0.01


def test_leaving_one_out_raises_it() -> None:
    low, high = mutual_information(ON_A_LINE, seed=0), leave_one_out(ON_A_LINE, seed=0)
    assert float(low) < float(high)
    assert (low.bound, high.bound) == ("exact", "upper")


def test_a_seed_repeats_the_information_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    assert float(mutual_information(ON_A_LINE, seed=1)) == float(mutual_information(ON_A_LINE, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_single_datum_leaves_nothing_out() -> None:
    with pytest.raises(ValueError, match="Expected at least 2 data"):
        leave_one_out(Independent(Normal(torch.zeros(1, 2), 1.0), 1))


# ---- Divergences from the prior


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


# ---- Active dimensions


MEANS = torch.tensor([[-1.0, 0.05, 0.0], [1.0, -0.05, 0.0]])


def test_a_dimension_is_active_when_its_mean_moves() -> None:
    posterior = Independent(Normal(MEANS, 1.0), 1)
    assert active_units(posterior).tolist() == [True, False, False]
    assert active_units(posterior, threshold=0.002).tolist() == [True, True, False]


def test_a_constant_dimension_is_inactive_at_any_threshold() -> None:
    assert not active_units(Independent(Normal(MEANS, 1.0), 1), threshold=0.0)[2]


def test_a_single_datum_has_no_active_dimension() -> None:
    assert active_units(Independent(Normal(MEANS[:1], 1.0), 1)).tolist() == [False] * 3


def test_a_negative_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected threshold >= 0 but got -0\.1"):
        active_units(Independent(Normal(MEANS, 1.0), 1), threshold=-0.1)


@pytest.mark.parametrize("offset", [0.1, 1e6])
def test_an_offset_does_not_activate_a_constant_dimension(offset: float) -> None:
    constant = Independent(Normal(torch.full((1000, 1), offset), 1e-12), 1)
    assert active_units(constant, threshold=0.0).tolist() == [False]


def test_codes_without_a_mean_are_refused_with_the_reason() -> None:
    with pytest.raises(NotImplementedError, match=r"Independent\(Categorical, 1\) has no such mean"):
        active_units(Independent(Categorical(logits=torch.zeros(4, 2, 3)), 1))


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected threshold >= 0 but got nan"):
        active_units(Independent(Normal(MEANS, 1.0), 1), threshold=float("nan"))
