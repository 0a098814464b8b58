import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch.distributions import kl_divergence
from torch.nn.functional import softplus

from pyro_infomax.nn import LowRankNormalHead

SUPPORTS = [
    (constraints.real, ()),
    (constraints.real_vector, (5,)),
    (constraints.real, (2, 3)),
    (constraints.positive, (3,)),
    (constraints.simplex, (4,)),
    (constraints.corr_cholesky, (3, 3)),
]


@pytest.mark.parametrize(("support", "event"), SUPPORTS)
def test_shapes_and_gradients(support, event):
    batch = (2, 5, 1)
    head = LowRankNormalHead(4, event, support=support)
    q = head(torch.randn(*batch, 4))
    z = q.rsample()
    assert (q.batch_shape, q.event_shape, z.shape) == (batch, event, (*batch, *event))
    weights = torch.randn(event)
    (q.log_prob(z.detach().clone()).sum() + (weights * z).sum().square()).backward()
    assert all((p.grad != 0).all() for p in head.parameters())


@pytest.mark.parametrize("scale", [1e-3, 0.5, 500.0])
@pytest.mark.parametrize(("n", "rank"), [(1, 1), (10, 3), (10, 10)])
def test_every_standard_deviation_starts_at_init_scale_with_small_correlations(scale, n, rank):
    q = LowRankNormalHead(4, (n,), rank=rank, init_scale=scale)(10 * torch.randn(6, 4))
    assert type(q) is dist.LowRankMultivariateNormal
    torch.testing.assert_close(q.stddev, torch.full((6, n), scale))
    correlations = q.covariance_matrix / scale**2 - torch.eye(n)
    assert correlations.abs().max() < 0.01 * rank


def test_correlations_are_learned_from_the_start():
    q = LowRankNormalHead(4, (3,))
    correlated = dist.MultivariateNormal(torch.zeros(3), 0.2 * torch.eye(3) + 0.1)
    kl_divergence(q(torch.ones(4)), correlated).backward()
    assert (q.linear.bias.grad[6:].abs() > 1e-3).all()


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (4, 2), (5, 3), (10, 4)])
def test_the_rank_is_the_square_root_by_default(n, rank):
    assert LowRankNormalHead(4, (n,)).rank == rank
    assert LowRankNormalHead(4, (n,))(torch.randn(6, 4)).cov_factor.shape == (6, n, rank)


def test_the_covariance_is_that_of_the_formula():
    head, h = LowRankNormalHead(4, (3,), rank=2), torch.randn(6, 4)
    torch.nn.init.normal_(head.linear.weight)
    raw = h @ head.linear.weight.T + head.linear.bias
    scale, factor = softplus(raw[:, 3:6]).diag_embed(), raw[:, 6:].reshape(6, 3, 2)
    torch.testing.assert_close(head(h).loc, raw[:, :3])
    exact = scale @ (torch.eye(3) + factor @ factor.mT) @ scale
    torch.testing.assert_close(head(h).covariance_matrix, exact)


def test_the_density_is_that_of_the_full_covariance():
    head = LowRankNormalHead(4, (5,))
    torch.nn.init.normal_(head.linear.bias)
    q = head(torch.randn(6, 4))
    full = dist.MultivariateNormal(q.loc, q.covariance_matrix)
    z = torch.randn(7, 1, 5)
    torch.testing.assert_close(q.log_prob(z), full.log_prob(z))
    prior = dist.MultivariateNormal(torch.zeros(5), torch.eye(5))
    torch.testing.assert_close(kl_divergence(q, prior), kl_divergence(full, prior))


def test_scales_of_many_orders_are_scored_in_single_precision():
    head = LowRankNormalHead(4, (6,), rank=2).float()
    with torch.no_grad():
        head.linear.bias[6:12] = torch.tensor([-20.0, -10.0, 0.0, 10.0, 100.0, 1000.0])
        head.linear.bias[12:] = torch.randn(12)
    q = head(torch.zeros(1000, 4, dtype=torch.float32))
    z, exact = q.rsample(), head.double()(torch.zeros(1000, 4))
    torch.testing.assert_close(q.log_prob(z).double(), exact.log_prob(z.double()), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("rank", [0, -1, 4])
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(ValueError, match=rf"Expected 1 <= rank <= 3, .* but got {rank}\."):
        LowRankNormalHead(4, (3,), rank=rank)


def test_the_rank_is_at_most_the_number_of_reals():
    with pytest.raises(ValueError, match="Expected 1 <= rank <= 2, the number of reals"):
        LowRankNormalHead(4, (3,), rank=3, support=constraints.simplex)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="Expected a finite init_scale > 0 but got"):
        LowRankNormalHead(4, (3,), init_scale=scale)
