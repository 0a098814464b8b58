import copy
import pickle
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence
from torch.nn.functional import softplus

from pyro_infomax.nn import DistributionHead

# Family, event shape, computed parameters, their starts where they are not real
FAMILIES = [
    (dist.Gamma, (), {"concentration": 1.0, "rate": 1.0}),
    (dist.Gamma, (2, 3), {"concentration": 1.0, "rate": 1.0}),
    (dist.InverseGamma, (), {"concentration": 1.0, "rate": 1.0}),
    (dist.Beta, (2,), {"concentration1": 1.0, "concentration0": 1.0}),
    (dist.Kumaraswamy, (2,), {"concentration1": 1.0, "concentration0": 1.0}),
    (dist.Dirichlet, (3,), {"concentration": 1.0}),
    (dist.Dirichlet, (2, 3), {"concentration": 1.0}),
    (dist.Normal, (3,), {"scale": 1.0}),
    (dist.LogNormal, (), {"scale": 1.0}),
    (dist.Laplace, (), {"scale": 1.0}),
    (dist.StudentT, (), {"df": 4.0, "scale": 1.0}),
    (partial(dist.StudentT, 4.0), (2,), {"scale": 1.0}),
    (partial(dist.StudentT, df=4.0), (), {"scale": 1.0}),
    (dist.VonMises, (2,), {"concentration": 1.0}),
    (dist.Weibull, (), {"scale": 1.0, "concentration": 1.0}),
    (dist.MultivariateNormal, (3,), {"scale_tril": torch.eye(3)}),
    (dist.MultivariateNormal, (2, 3), {"scale_tril": torch.eye(3)}),
    (dist.MultivariateStudentT, (3,), {"df": 4.0, "scale_tril": torch.eye(3)}),
    (partial(dist.LKJCholesky, 3), (3, 3), {"concentration": 1.0}),
    (dist.Poisson, (2,), {"rate": 1.0}),
    (dist.NegativeBinomial, (), {"total_count": 1.0}),
    (partial(dist.Binomial, 5), (), {}),
    (dist.Bernoulli, (3,), {}),
    (dist.OneHotCategorical, (2, 3), {}),
]


@pytest.mark.parametrize(("family", "event", "starts"), FAMILIES)
def test_shapes_and_gradients(family, event, starts):
    batch = (2, 5, 1)
    head = DistributionHead(4, event, family)
    q = head(torch.randn(*batch, 4))
    z = q.sample()
    assert (q.batch_shape, q.event_shape, z.shape) == (batch, event, (*batch, *event))
    q.log_prob(z).square().sum().backward()
    assert all((p.grad != 0).all() for p in head.parameters())


@pytest.mark.parametrize(("family", "event", "starts"), FAMILIES)
def test_parameters_start_near_one(family, event, starts):
    head = DistributionHead(16, event, family)
    for features, tolerance in [(torch.zeros(1, 16), 1e-12), (torch.randn(50, 16), 0.3)]:
        q = head(features)
        q = q.base_dist if isinstance(q, dist.Independent) else q
        for name, start in starts.items():
            value = getattr(q, name)
            target = torch.as_tensor(start, dtype=value.dtype).expand_as(value)
            torch.testing.assert_close(value, target, rtol=0, atol=tolerance)


def test_every_parameter_depends_on_the_features_at_first():
    q = DistributionHead(16, (), dist.Gamma)(torch.randn(50, 16))
    assert q.concentration.std() > 1e-3
    assert q.rate.std() > 1e-3


def test_parameters_are_those_of_the_formula():
    head, h = DistributionHead(4, (3,), dist.Normal), torch.randn(6, 4)
    raw = h @ head.linear.weight.T + head.linear.bias
    q = head(h)
    torch.testing.assert_close(q.mean, raw[:, :3])
    torch.testing.assert_close(q.stddev, softplus(raw[:, 3:]))


@pytest.mark.parametrize(
    ("family", "low", "high"),
    [
        (dist.Gamma, 0.0, 60.0),
        (dist.Beta, 0.0, 1.0),
        (dist.Kumaraswamy, 0.0, 1.0),
        (dist.Laplace, -60.0, 60.0),
        (partial(dist.StudentT, 8.0), -300.0, 300.0),
        (dist.VonMises, -torch.pi, torch.pi),
        (dist.Weibull, 0.0, 60.0),
    ],
)
def test_the_density_integrates_to_one(family, low, high):
    head = DistributionHead(4, (), family)
    nn.init.constant_(head.linear.bias, 1.5)
    grid = torch.linspace(low, high, 40_003)[1:-1]
    total = torch.trapezoid(head(torch.zeros(4)).log_prob(grid).exp(), grid)
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("family", "event"), [(dist.Poisson, ()), (dist.NegativeBinomial, ())])
def test_probabilities_sum_to_one(family, event):
    q = DistributionHead(4, event, family)(torch.zeros(5, 4))
    torch.testing.assert_close(q.log_prob(torch.arange(200.0)[:, None]).exp().sum(0), torch.ones(5))


@pytest.mark.parametrize(
    ("family", "event", "prior"),
    [
        (dist.Gamma, (2,), dist.Gamma(2.0, 3.0).expand([2]).to_event(1)),
        (dist.Beta, (), dist.Beta(2.0, 3.0)),
        (dist.Dirichlet, (3,), dist.Dirichlet(torch.tensor([0.5, 1.0, 2.0]))),
        (dist.Laplace, (2,), dist.Laplace(0.0, 2.0).expand([2]).to_event(1)),
        (dist.LogNormal, (), dist.LogNormal(0.0, 2.0)),
    ],
)
def test_the_divergence_from_a_prior_of_the_same_family_is_closed(family, event, prior):
    head = DistributionHead(4, event, family)
    nn.init.constant_(head.linear.bias, 2.0)
    q = head(torch.randn(5, 4))
    z = q.sample((20_000,))
    terms = q.log_prob(z) - prior.log_prob(z)
    assert ((kl_divergence(q, prior) - terms.mean(0)).abs() < 5 * terms.std(0) / 20_000**0.5).all()


def test_features_can_give_the_exact_posterior_of_a_conjugate_model():
    # Counts of a Poisson with a Gamma(2, 3) rate; the softplus is the identity from some 40 on
    counts, head = torch.tensor([[50.0], [60.0]]), DistributionHead(1, (), dist.Gamma)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0], [0.0]]))
        head.linear.bias.copy_(torch.tensor([2.0, 4.0]).expm1().log())
        head.linear.bias[0] = 2.0
    q, exact = head(counts), dist.Gamma(2.0 + counts[:, 0], 4.0)
    torch.testing.assert_close(kl_divergence(q, exact), torch.zeros(2), rtol=0, atol=1e-10)


def test_fixed_parameters_stay():
    q = DistributionHead(4, (), partial(dist.StudentT, 4.0))(torch.randn(5, 4))
    assert (q.df == 4).all()
    q = DistributionHead(4, (2,), partial(dist.Normal, scale=0.1))(torch.randn(5, 4))
    torch.testing.assert_close(q.stddev, torch.full((5, 2), 0.1))
    q = DistributionHead(4, (2,), partial(dist.MultivariateNormal, covariance_matrix=4 * torch.eye(2)))
    torch.testing.assert_close(q(torch.randn(5, 4)).stddev, torch.full((5, 2), 2.0))


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_copies(twin):
    head, h = DistributionHead(4, (3,), partial(dist.StudentT, 4.0)), torch.randn(5, 4)
    assert torch.equal(twin(head)(h).mean, head(h).mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", [dist.Gamma, dist.MultivariateNormal, dist.Dirichlet])
def test_the_dtype_is_that_of_the_features(family, dtype):
    head = DistributionHead(4, (3,), family).to(dtype)
    assert head(torch.randn(5, 4, dtype=dtype)).sample().dtype == dtype


@pytest.mark.parametrize("family", [dist.Gamma, dist.LogNormal, dist.Dirichlet, dist.StudentT])
def test_large_features_give_valid_parameters(family):
    head = DistributionHead(4, (3,), family).float()
    q = head(1e4 * torch.randn(50, 4, dtype=torch.float32))
    q.log_prob(q.sample().clamp(min=1e-20)).sum().backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize(
    ("family", "event", "message"),
    [
        (dist.Uniform, (), r"tells the range of its \['high', 'low'\] but got Uniform: fix .* pass a module"),
        (dist.RelaxedBernoulli, (), r"range of its \['temperature'\] but got RelaxedBernoulli"),
        (dist.Binomial, (), "'total_count' of Binomial has none"),
        (dist.Categorical, (), "'logits' of Categorical does not: .* CategoricalHead"),
        (dist.LowRankMultivariateNormal, (3,), "'cov_factor' of LowRank.* LowRankNormalHead"),
        (dist.Delta, (), "known number of event axes but got Delta"),
        (dist.TransformedDistribution, (), "known number of event axes but got TransformedDistribution"),
        (dist.ZeroInflatedPoisson, (), "ZeroInflatedPoisson cannot: pass a module"),
    ],
)
def test_families_that_do_not_tell_their_parameters_are_refused(family, event, message):
    with pytest.raises(NotImplementedError, match=message):
        DistributionHead(4, event, family)


@pytest.mark.parametrize(
    ("family", "event", "message"),
    [
        (torch.distributions.Gamma, (), r"Expected a class of pyro\.distributions.* but got <class 'torch"),
        (dist.Gamma(1.0, 1.0), (), r"Expected a class of pyro\.distributions.* but got Gamma"),
        (nn.Linear, (), "but got <class 'torch.nn"),
        (dist.Dirichlet, (), r"at least 1 axes for Dirichlet but got \(\)"),
        (dist.LogisticNormal, (3,), r"Expected LogisticNormal to have event shape \(3,\)"),
        (partial(dist.Normal, torch.zeros(7)), (3,), None),
    ],
)
def test_what_does_not_fit_is_refused(family, event, message):
    error = (ValueError, NotImplementedError) if message is None else ValueError
    with pytest.raises(error, match=message):
        DistributionHead(4, event, family)
