"""Weights by enumeration, and what they are on average over every minibatch."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from pyro_infomax.information import AggregatePosterior, BatchMixture

RELATIVE = 1e-12


def normal(loc: Tensor, scale: Tensor | float) -> Independent:
    return Independent(Normal(loc, torch.as_tensor(scale).expand(loc.shape)), 1)


def part(posterior: Independent, members: Tensor) -> Independent:
    return normal(posterior.base_dist.loc[members], posterior.base_dist.scale[members])


def enumerated(scores: Tensor, own: float, other: float) -> np.ndarray:
    """log Σ_n w_n f_n for scores (samples, batch, component, ...), the own component on the diagonal."""
    batch = scores.shape[1]
    weights = np.full((batch, batch), other)
    np.fill_diagonal(weights, own)
    weights = weights.reshape(1, batch, batch, *(1,) * (scores.dim() - 3))
    return logsumexp(scores.numpy(), axis=2, b=np.broadcast_to(weights, scores.shape))


B, N, D, S = 7, 50, 3, 2
KINDS = {
    "uniform": (lambda posterior: BatchMixture(posterior), 1 / B, 1 / B),
    "stratified": (
        lambda posterior: BatchMixture(posterior, data_size=N),
        1 / N,
        (N - 1) / (N * (B - 1)),
    ),
    "weighted": (lambda posterior: BatchMixture.weighted(posterior, data_size=N), 1 / (N * B), 1 / (N * B)),
}


@pytest.fixture(params=[1.0, 1e-3], ids=["moderate", "narrow"])
def posterior(request: pytest.FixtureRequest) -> Independent:
    return normal(torch.randn(B, D), request.param * (0.5 + torch.rand(B, D)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_own_component_counts_once_and_with_its_own_weight(posterior: Independent, kind: str) -> None:
    build, own, other = KINDS[kind]
    z = posterior.sample((S,))
    scores = posterior.log_prob(z[:, :, None])  # (samples, batch, component)
    found = build(posterior).log_prob(z)
    np.testing.assert_allclose(found, enumerated(scores, own, other), rtol=RELATIVE, atol=RELATIVE)


@pytest.mark.parametrize("kind", KINDS)
def test_each_dimension_has_the_weights_once(posterior: Independent, kind: str) -> None:
    build, own, other = KINDS[kind]
    z = posterior.sample((S,))
    scores = posterior.base_dist.log_prob(z[:, :, None])  # (samples, batch, component, latent)
    found = build(posterior).log_prob_marginals(z)
    np.testing.assert_allclose(found, enumerated(scores, own, other), rtol=RELATIVE, atol=RELATIVE)


@pytest.mark.parametrize("kind", KINDS)
def test_other_families_are_scored_by_their_own_log_prob(kind: str) -> None:
    build, own, other = KINDS[kind]
    root = torch.randn(B, 2, 2) * 0.3 + 0.5 * torch.eye(2)
    posterior = MultivariateNormal(torch.randn(B, 2), root @ root.mT + 0.01 * torch.eye(2))
    z = posterior.sample((S,))
    scores = posterior.log_prob(z[:, :, None])
    np.testing.assert_allclose(build(posterior).log_prob(z), enumerated(scores, own, other), rtol=1e-10)
    assert build(posterior).log_prob_marginals(z).shape == (S, B, 2)


def over_all_batches(full: Independent, z: Tensor, mixture: type, size: int) -> Tensor:
    """The mean density at z of datum 0 over every minibatch of ``size`` that holds it, (samples,)."""
    others = range(1, full.batch_shape[0])
    found = []
    for rest in itertools.combinations(others, size - 1):
        batch = part(full, torch.tensor([0, *rest]))
        points = z[:, None].expand(-1, size, -1)  # only the first column is looked at
        found.append(mixture(batch).log_prob(points)[:, 0].exp())
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_the_stratified_density_is_unbiased_over_all_minibatches(size: int) -> None:
    full, z = normal(torch.randn(6, 2), 0.5), torch.randn(4, 2)
    found = over_all_batches(full, z, lambda batch: BatchMixture(batch, data_size=6), size)
    torch.testing.assert_close(found, AggregatePosterior(full).log_prob(z).exp(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_the_weighted_density_is_short_by_a_factor_of_the_data_size_and_more(size: int) -> None:
    full, z = normal(torch.randn(6, 2), 0.5), torch.randn(4, 2)
    found = over_all_batches(full, z, lambda batch: BatchMixture.weighted(batch, data_size=6), size)
    own = part(full, torch.tensor([0])).log_prob(z).exp()
    aggregate = AggregatePosterior(full).log_prob(z).exp()
    # the own component is there for sure, each other one in a share (B - 1)/(N - 1) of the minibatches
    expected = (own + (size - 1) / 5 * (6 * aggregate - own)) / (6 * size)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_of_all_data_it_is_the_exact_mixture() -> None:
    posterior = normal(torch.randn(B, D), 0.3)
    z, aggregate = posterior.sample((S,)), AggregatePosterior(posterior)
    for mixture, gap in (
        (BatchMixture(posterior), 0.0),
        (BatchMixture(posterior, data_size=B), 0.0),
        (BatchMixture.weighted(posterior, data_size=B), math.log(B)),
    ):
        exact = aggregate.log_prob(z.flatten(0, 1)).view(S, B)
        torch.testing.assert_close(mixture.log_prob(z) + gap, exact, rtol=RELATIVE, atol=RELATIVE)
        exact = aggregate.log_prob_marginals(z.flatten(0, 1)).view(S, B, D)
        torch.testing.assert_close(mixture.log_prob_marginals(z) + gap, exact, rtol=RELATIVE, atol=RELATIVE)


def test_it_is_differentiable_in_the_draws_and_in_the_parameters() -> None:
    loc, width = torch.randn(4, 2, requires_grad=True), torch.rand(4, 2).add(0.2).requires_grad_()
    z = torch.randn(1, 4, 2, requires_grad=True)

    def joint(loc: Tensor, width: Tensor, z: Tensor) -> Tensor:
        return BatchMixture(normal(loc, width), data_size=9).log_prob(z)

    def marginals(loc: Tensor, width: Tensor, z: Tensor) -> Tensor:
        return BatchMixture(normal(loc, width), data_size=9).log_prob_marginals(z)

    assert torch.autograd.gradcheck(joint, (loc, width, z))
    assert torch.autograd.gradcheck(marginals, (loc, width, z))


def test_a_lone_datum_has_no_others() -> None:
    with pytest.raises(ValueError, match="Expected a minibatch of at least 2 data but got 1"):
        BatchMixture(normal(torch.zeros(1, 2), 1.0), data_size=10)


@pytest.mark.parametrize("data_size", [6, 0, -1, math.nan])
def test_fewer_data_than_in_the_minibatch_are_refused(data_size: int) -> None:
    posterior = normal(torch.zeros(B, 2), 1.0)
    for build in (BatchMixture, BatchMixture.weighted):
        with pytest.raises(ValueError, match="Expected data_size >= 7, the size of the minibatch, but got"):
            build(posterior, data_size=data_size)


def test_parameters_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected positive, finite scales of the posterior"):
        BatchMixture(Independent(Normal(torch.zeros(3, 2), 0.0, validate_args=False), 1))
    with pytest.raises(ValueError, match="Expected finite means of the posterior"):
        BatchMixture(Independent(Normal(torch.full((3, 2), math.nan), 1.0, validate_args=False), 1))
    with pytest.raises(ValueError, match=r"Expected a posterior of batch shape \(N,\)"):
        BatchMixture(Normal(torch.zeros(3, 2), 1.0))


@pytest.mark.parametrize("shape", [(3, 2), (1, 4, 2), (1, 3, 5), (0, 3, 2)])
@pytest.mark.parametrize("method", ["log_prob", "log_prob_marginals"])
def test_draws_of_another_shape_are_refused(shape: tuple[int, ...], method: str) -> None:
    mixture = BatchMixture(Independent(Normal(torch.zeros(3, 2), 1.0), 1))
    with pytest.raises(ValueError, match=r"Expected draws of shape \(S, 3, 2\)"):
        getattr(mixture, method)(torch.zeros(shape))


def test_infinitely_many_data_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected data_size >= 3"):
        BatchMixture(Independent(Normal(torch.zeros(3, 2), 1.0), 1), data_size=math.inf)
