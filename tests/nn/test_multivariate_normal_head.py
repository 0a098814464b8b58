import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch.distributions import kl_divergence
from torch.nn.functional import softplus

from pyro_infomax.nn import MultivariateNormalHead

SUPPORTS = [
    (constraints.real, ()),
    (constraints.real_vector, (3,)),
    (constraints.real, (2, 3)),
    (constraints.positive, ()),
    (constraints.interval(-1.0, 2.0), (2, 2)),
    (constraints.simplex, (4,)),
    (constraints.positive_definite, (3, 3)),
]


@pytest.mark.parametrize(("support", "event"), SUPPORTS)
def test_shapes_and_gradients(support, event):
    batch = (2, 5, 1)
    head = MultivariateNormalHead(4, event, support=support)
    q = head(torch.randn(*batch, 4))
    z = q.rsample()
    assert (q.batch_shape, q.event_shape, z.shape) == (batch, event, (*batch, *event))
    (q.log_prob(z.detach().clone()).sum() + z.square().sum()).backward()
    assert all((p.grad != 0).all() for p in head.parameters())


@pytest.mark.parametrize("scale", [1e-3, 0.5, 50.0])
@pytest.mark.parametrize("n", [1, 4])
def test_the_covariance_starts_spherical(scale, n):
    q = MultivariateNormalHead(4, (n,), init_scale=scale)(10 * torch.randn(6, 4))
    assert type(q) is dist.MultivariateNormal
    torch.testing.assert_close(q.scale_tril, (scale * torch.eye(n)).expand(6, n, n))


def test_locations_start_small():
    locations = MultivariateNormalHead(256, (50,))(torch.randn(100, 256)).mean
    assert 0 < locations.abs().mean() < 1


def test_the_factor_is_linear_but_for_its_diagonal():
    head, h = MultivariateNormalHead(4, (3,)), torch.randn(6, 4)
    torch.nn.init.normal_(head.linear.weight)
    raw = h @ head.linear.weight.T + head.linear.bias
    q = head(h)
    torch.testing.assert_close(q.loc, raw[:, :3])
    torch.testing.assert_close(q.scale_tril.diagonal(dim1=-2, dim2=-1), softplus(raw[:, 3:6]))
    row, column = torch.tril_indices(3, 3, -1)
    torch.testing.assert_close(q.scale_tril[:, row, column], raw[:, 6:])
    assert not q.scale_tril.triu(1).any()


def test_the_elements_of_a_matrix_are_dependent():
    head, h = MultivariateNormalHead(4, (2, 2)), torch.randn(1, 4)
    torch.nn.init.normal_(head.linear.bias)
    z = head(h).sample((20_000,)).reshape(-1, 4)
    covariance = head(h).base_dist.covariance_matrix[0]
    variances = covariance.diagonal()
    error = ((covariance**2 + variances * variances[:, None]) / 20_000).sqrt()
    assert ((z.T.cov() - covariance).abs() < 5 * error).all()


def test_the_divergence_from_a_normal_prior_is_closed():
    head = MultivariateNormalHead(4, (3,))
    torch.nn.init.normal_(head.linear.bias)
    q = head(torch.randn(5, 4))
    exact = kl_divergence(q, dist.MultivariateNormal(torch.zeros(3), torch.eye(3)))
    z = q.sample((20_000,))
    terms = q.log_prob(z) - dist.Normal(torch.zeros(3), 1.0).to_event(1).log_prob(z)
    assert ((terms.mean(0) - exact).abs() < 5 * terms.std(0) / 20_000**0.5).all()


def test_the_density_on_the_positive_plane_integrates_to_one():
    head = MultivariateNormalHead(4, (2,), support=constraints.positive)
    with torch.no_grad():
        head.linear.bias.copy_(torch.tensor([0.2, -0.3, 0.0, 0.0, 0.4]))
    edges = torch.linspace(-5, 5, 1201).exp()
    a, b = torch.meshgrid(edges, edges, indexing="ij")
    density = head(torch.zeros(4)).log_prob(torch.stack([a, b], -1)).exp()
    total = torch.trapezoid(torch.trapezoid(density, edges), edges)
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=1e-4)


def test_strong_correlations_are_scored_in_single_precision():
    head = MultivariateNormalHead(4, (2,)).float()
    with torch.no_grad():
        head.linear.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -6.0, 30.0]))
    h = torch.zeros(1000, 4, dtype=torch.float32)
    q, exact = head(h), head.double()(h.double())
    z = q.rsample()
    assert z.dtype == torch.float32
    # Rounding z itself moves it by 1e-6 of a distance of some 30 / 0.0025 standard deviations
    torch.testing.assert_close(q.log_prob(z).double(), exact.log_prob(z.double()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="Expected a finite init_scale > 0 but got"):
        MultivariateNormalHead(4, (3,), init_scale=scale)
