"""Divergences between families on the positive half-line, in value and gradient, against quadrature."""

import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.distributions import closed_divergence


def positive_families(a, b):
    return {
        "LogNormal": dist.LogNormal(a - 0.8, b),
        "Gamma": dist.Gamma(a + 1.2, b),
        "Exponential": dist.Exponential(b),
        "Weibull": dist.Weibull(b, a + 1.0),
        "HalfNormal": dist.HalfNormal(b),
    }


FAMILIES = list(positive_families(torch.ones(()), torch.ones(())))
LOG_Z = torch.linspace(-45.0, 12.0, 6001, dtype=torch.float64)


def by_quadrature(posterior, prior):
    """Over log z, where the densities decay fast on both sides: the trapezoidal rule is exact to rounding."""
    z = LOG_Z.exp()
    log_q, log_p = posterior.log_prob(z), prior.log_prob(z)
    density = (log_q + LOG_Z).exp()
    integrand = torch.where(density > 0, density * (log_q - log_p), 0.0)
    return integrand.sum() * (LOG_Z[1] - LOG_Z[0])


def value_and_gradient(divergence, families):
    leaves = [torch.tensor(v, requires_grad=True) for v in (0.9, 0.4, 1.3, 0.7)]
    posterior = positive_families(*leaves[:2])[families[0]]
    prior = positive_families(*leaves[2:])[families[1]]
    value = divergence(posterior, prior)
    gradient = torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)
    return value.detach(), torch.stack(gradient)


@pytest.mark.parametrize("posterior", FAMILIES)
def test_the_divergence_and_its_gradient_are_those_of_the_quadrature(posterior):
    for prior in FAMILIES:
        pair = posterior, prior
        ours, theirs = (value_and_gradient(each, pair) for each in (closed_divergence, by_quadrature))
        torch.testing.assert_close(
            ours[0], theirs[0], rtol=1e-9, atol=1e-9, msg=lambda m, p=pair: f"{p}: {m}"
        )
        torch.testing.assert_close(
            ours[1], theirs[1], rtol=1e-7, atol=1e-7, msg=lambda m, p=pair: f"{p}: {m}"
        )


def test_other_families_have_none():
    positive, other = dist.Gamma(1.0, 1.0), dist.HalfCauchy(1.0)
    assert closed_divergence(positive, other) is None
    assert closed_divergence(other, positive) is None
