"""Closed-form divergences, in value, gradient and shape: against torch's dense Normals and quadrature."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence as torch_kl,
    transforms,
)

from pyro_infomax.distributions import closed_divergence
from pyro_infomax.information import rate

DATA, LATENT = 4, 3


def vector(*shape, requires_grad=False):
    return torch.randn(shape).requires_grad_(requires_grad)


def full(*batch, latent=LATENT):
    factor = 0.5 * vector(*batch, latent, latent) + 2.0 * torch.eye(latent)
    return MultivariateNormal(vector(*batch, latent), factor @ factor.mT)


def low_rank(*batch, latent=LATENT):
    diagonal = 0.3 + vector(*batch, latent) ** 2
    return LowRankMultivariateNormal(vector(*batch, latent), vector(*batch, latent, 2), diagonal)


def diagonal(*batch, latent=LATENT):
    return Independent(Normal(vector(*batch, latent), 0.3 + vector(*batch, latent) ** 2), 1)


def dense(normal):
    """Any Normal over vectors as the one family that torch compares with itself."""
    if isinstance(normal, Independent):
        return MultivariateNormal(normal.mean, scale_tril=normal.stddev.diag_embed())
    return MultivariateNormal(normal.mean, normal.covariance_matrix)


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-10)


# ---- Normals

NORMALS = list(itertools.product([full, low_rank, diagonal], [full, low_rank, diagonal]))


@pytest.mark.parametrize(("make_posterior", "make_prior"), NORMALS)
def test_normals_are_torchs_dense_ones(make_posterior, make_prior):
    for prior_batch in ((), (DATA,), (2, 1)):
        posterior, prior = make_posterior(DATA), make_prior(*prior_batch)
        batch = torch.broadcast_shapes((DATA,), prior_batch)
        expected = torch_kl(dense(posterior), dense(prior).expand(batch))
        assert_equal(closed_divergence(posterior, prior), expected)


@pytest.mark.parametrize("side", ["posterior", "prior"])
@pytest.mark.parametrize("make_dense", [full, low_rank])
def test_gradients_of_normals_are_torchs_dense_ones(make_dense, side):
    fixed = make_dense(DATA)
    loc, log_scale = vector(DATA, LATENT, requires_grad=True), vector(DATA, LATENT, requires_grad=True)
    free = Independent(Normal(loc, log_scale.exp()), 1)
    pair = (free, fixed) if side == "posterior" else (fixed, free)
    ours = torch.autograd.grad(closed_divergence(*pair).sum(), [loc, log_scale], retain_graph=True)
    theirs = torch.autograd.grad(torch_kl(*map(dense, pair)).sum(), [loc, log_scale])
    for actual, expected in zip(ours, theirs, strict=True):
        assert_equal(actual, expected)


def test_the_gradient_reaches_a_covariance():
    factor, prior = full(DATA).scale_tril.clone().requires_grad_(), diagonal()

    def gradient(divergence, prior):
        normal = MultivariateNormal(torch.zeros(LATENT), scale_tril=factor)
        return torch.autograd.grad(divergence(normal, prior).sum(), factor)[0].tril()

    assert_equal(gradient(closed_divergence, prior), gradient(torch_kl, dense(prior)))


@pytest.mark.parametrize("make_inner", [full, low_rank, diagonal])
def test_several_vectors_are_added(make_inner):
    """Matrices whose rows are vectors, independent of each other."""
    inner, prior = make_inner(DATA, 2), Normal(vector(2, LATENT), 1.5)
    expected = torch_kl(dense(inner), dense(Independent(prior, 1))).sum(-1)
    assert_equal(closed_divergence(Independent(inner, 1), Independent(prior, 2)), expected)


@pytest.mark.parametrize(("make_inner", "shape"), [(full, (2, 3)), (low_rank, (3, 2, 1)), (diagonal, ())])
def test_reshaped_vectors_are_the_flat_ones(make_inner, shape):
    size = math.prod(shape)
    inner = make_inner(DATA, latent=size)
    posterior = dist.TransformedDistribution(inner, [transforms.ReshapeTransform((size,), shape)])
    loc = vector(*shape)
    prior = dist.Normal(loc, 1.5).to_event(len(shape))
    expected = torch_kl(dense(inner), MultivariateNormal(loc.reshape(-1), 2.25 * torch.eye(size)))
    assert_equal(closed_divergence(posterior, prior), expected)
    assert_equal(
        closed_divergence(prior.expand([DATA]), posterior),
        torch_kl(MultivariateNormal(loc.reshape(-1), 2.25 * torch.eye(size)).expand([DATA]), dense(inner)),
    )


def test_vectors_reshaped_alike_are_the_flat_ones():
    shapes = (6,), (2, 3)
    posterior, prior = full(DATA, latent=6), low_rank(latent=6)
    reshaped = [
        dist.TransformedDistribution(d, [transforms.ReshapeTransform(*shapes)]) for d in (posterior, prior)
    ]
    assert_equal(closed_divergence(*reshaped), torch_kl(dense(posterior), dense(prior).expand([DATA])))


def test_a_reshaped_vector_that_meets_no_normal_has_none():
    posterior = dist.TransformedDistribution(full(latent=6), [transforms.ReshapeTransform((6,), (2, 3))])
    assert closed_divergence(posterior, dist.Laplace(torch.zeros(2, 3), 1.0).to_event(2)) is None


# ---- transforms


def stick_breaking(normal):
    return dist.TransformedDistribution(normal, [transforms.StickBreakingTransform()])


def sigmoid_of_three(normal):
    steps = [transforms.AffineTransform(torch.zeros(LATENT), 2.0), transforms.SigmoidTransform()]
    return dist.TransformedDistribution(normal, steps)


@pytest.mark.parametrize("push", [stick_breaking, sigmoid_of_three])
@pytest.mark.parametrize("make_posterior", [full, low_rank, diagonal])
def test_what_is_behind_the_same_transforms_counts(push, make_posterior):
    posterior, prior = make_posterior(DATA), diagonal()
    expected = torch_kl(dense(posterior), dense(prior).expand([DATA]))
    assert_equal(closed_divergence(push(posterior), push(prior)), expected)


def test_further_event_axes_behind_the_same_transforms_are_added():
    """Rows of simplices: the transform makes one event axis, Independent another."""

    def rows(normal):
        return stick_breaking(normal).to_event(1)

    posterior, prior = dist.Normal(vector(DATA, 2, LATENT), 0.5), dist.Normal(torch.zeros(2, LATENT), 1.0)
    expected = torch_kl(posterior, prior.expand([DATA, 2, LATENT])).sum((1, 2))
    assert_equal(closed_divergence(rows(posterior), rows(prior)), expected)


def exp_of_a_matrix(normal):
    """Of a vector of six, as a guide over a matrix of positive numbers has it."""
    steps = [transforms.ReshapeTransform((6,), (2, 3)), transforms.ExpTransform()]
    return dist.TransformedDistribution(normal, steps)


@pytest.mark.parametrize("make_posterior", [full, low_rank, diagonal])
def test_a_vector_behind_a_transform_meets_factors_behind_it(make_posterior):
    """The transform acts element by element, so that it does not matter which wrapper is outside."""
    posterior, loc = make_posterior(DATA, latent=6), vector(2, 3)
    flat = dist.Normal(loc.reshape(-1), 1.5).to_event(1)
    expected = torch_kl(dense(posterior), dense(flat).expand([DATA]))
    assert_equal(
        closed_divergence(exp_of_a_matrix(posterior), dist.LogNormal(loc, 1.5).to_event(2)), expected
    )
    vectors = dist.TransformedDistribution(posterior, [transforms.ExpTransform()])
    assert_equal(closed_divergence(vectors, dist.LogNormal(flat.mean, 1.5).to_event(1)), expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda exp: transforms.IndependentTransform(exp, 1),
        lambda exp: transforms.ComposeTransform([exp]),
        lambda exp: transforms.ComposeTransform([transforms.IndependentTransform(exp, 1)]),
    ],
)
def test_a_transform_is_the_same_within_wrappers(wrap):
    posterior, prior = full(DATA), diagonal()
    exp = transforms.ExpTransform()
    pushed = (dist.TransformedDistribution(d, [t]) for d, t in ((posterior, wrap(exp)), (prior, exp)))
    assert_equal(closed_divergence(*pushed), torch_kl(dense(posterior), dense(prior).expand([DATA])))


def test_different_transforms_have_none():
    assert closed_divergence(stick_breaking(full(latent=2)), sigmoid_of_three(full())) is None
    scaled = dist.TransformedDistribution(full(), [transforms.AffineTransform(0.0, 2.0)])
    assert (
        closed_divergence(scaled, dist.TransformedDistribution(full(), [transforms.ExpTransform()])) is None
    )


def test_folded_distributions_have_none():
    """Their divergence is less than that of what was folded."""
    one, other = (dist.FoldedDistribution(dist.Normal(m, 1.0)) for m in (-1.0, 1.0))
    assert closed_divergence(one, other) is None
    assert closed_divergence(dist.HalfCauchy(1.0), dist.HalfCauchy(1.0)) == 0.0


@pytest.mark.parametrize("swap", [False, True])
def test_what_is_folded_on_one_side_has_none(swap):
    """A half-Normal from |N(2, 1)|: .943 by quadrature, 2 by the divergence of what was folded."""
    pair = dist.HalfNormal(1.0), dist.FoldedDistribution(dist.Normal(2.0, 1.0))
    assert closed_divergence(*(reversed(pair) if swap else pair)) is None


# ---- wrappers and shapes


def test_factors_on_the_half_line_are_added():
    posterior = dist.LogNormal(vector(DATA, LATENT), 0.5).to_event(1)
    prior = dist.Gamma(torch.tensor([1.0, 2.0, 3.0]), 1.5).to_event(1)
    each = [
        closed_divergence(posterior.base_dist, dist.Gamma(a, 1.5))[:, j]
        for j, a in enumerate([1.0, 2.0, 3.0])
    ]
    assert_equal(closed_divergence(posterior, prior), torch.stack(each).sum(0))


def test_takes_what_pyro_expanded():
    posterior = dist.torch_distribution.ExpandedDistribution(dist.Normal(vector(), 0.5), [DATA, LATENT])
    prior = dist.Normal(torch.zeros(LATENT), 1.0)
    expected = torch_kl(posterior.base_dist, dist.Normal(0.0, 1.0)) * LATENT
    assert_equal(closed_divergence(posterior.to_event(1), prior.to_event(1)), expected.expand(DATA))


@pytest.mark.parametrize(
    ("make_posterior", "make_prior"),
    [
        (lambda: dist.Bernoulli(torch.tensor([0.2, 0.5, 0.9])), lambda: dist.Bernoulli(0.3)),
        (lambda: dist.Beta(torch.rand(LATENT) + 1.0, 2.0), lambda: dist.Beta(2.0, 3.0)),
        (lambda: dist.Poisson(torch.rand(LATENT) + 1.0), lambda: dist.Poisson(2.0)),
        *(
            (lambda make=make: make(torch.rand(LATENT, 5) + 1.0), lambda make=make: make(torch.ones(5)))
            for make in (dist.OneHotCategorical, dist.Categorical, dist.Dirichlet)
        ),
    ],
)
def test_broadcasts_what_torch_has(make_posterior, make_prior):
    posterior, prior = make_posterior(), make_prior()
    expected = torch_kl(posterior.expand([DATA, LATENT]), prior.expand([DATA, LATENT]))
    assert_equal(closed_divergence(posterior, prior.expand([DATA, 1])), expected)
    events = posterior.expand([DATA, LATENT]).to_event(1), prior.expand([LATENT]).to_event(1)
    assert_equal(closed_divergence(*events), expected.sum(-1))


def test_torchs_divergences_agree_with_draws():
    posterior, prior = (
        dist.Dirichlet(torch.tensor([1.5, 2.0, 4.0])),
        dist.Dirichlet(torch.tensor([3.0, 1.0, 2.0])),
    )
    z = posterior.sample([20_000])
    ratios = posterior.log_prob(z) - prior.log_prob(z)
    error = ratios.std() / math.sqrt(len(z))
    assert abs(ratios.mean() - closed_divergence(posterior, prior)) < 5 * error


def test_a_masked_pair_has_its_plain_number():
    masked = dist.Normal(torch.zeros(DATA), 1.0).mask(False)
    assert_equal(closed_divergence(masked, masked), torch.zeros(DATA))


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: d.expand([2]).to_event(1), lambda d: d.mask(True)])
def test_a_point_mass_has_none(wrap):
    """Torch's would drop the log-density that a transform left there."""
    point = dist.Delta(torch.tensor(0.3), log_density=1.5)
    assert closed_divergence(wrap(point), wrap(dist.Normal(0.0, 1.0))) is None


def test_a_transformed_point_mass_has_none():
    push = [transforms.ExpTransform()]
    point = dist.TransformedDistribution(dist.Delta(torch.tensor(0.3), log_density=1.5), push)
    assert closed_divergence(point, dist.LogNormal(0.0, 1.0)) is None


def sigmoid(normal):
    return dist.TransformedDistribution(normal, [transforms.SigmoidTransform()])


@pytest.mark.parametrize(
    ("make_posterior", "make_prior"),
    [
        (lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), lambda: dist.Normal(0.0, 1.0)),
        (lambda: dist.Normal(0.0, 1.0), lambda: dist.StudentT(3.0)),
        (lambda: dist.LogNormal(0.0, 1.0), lambda: dist.HalfCauchy(1.0)),
        (lambda: sigmoid(dist.Normal(0.0, 1.0)), lambda: dist.Uniform(0.0, 1.0)),
    ],
    ids=["other event", "heavy tails", "half of heavy tails", "sigmoid"],
)
def test_what_has_no_closed_form_has_none(make_posterior, make_prior):
    assert closed_divergence(make_posterior(), make_prior()) is None


# ---- in the account


@pytest.mark.parametrize("make_posterior", [full, low_rank, diagonal])
@pytest.mark.parametrize("make_prior", [full, low_rank, diagonal])
def test_the_rate_of_normals_has_no_error(make_posterior, make_prior):
    posterior, prior = make_posterior(50), make_prior()
    found = rate(posterior, prior, seed=0)
    assert found.standard_error == 0.0
    assert found.value == pytest.approx(torch_kl(dense(posterior), dense(prior).expand([50])).mean().item())


def test_the_rate_on_the_half_line_has_no_error():
    posterior, prior = (
        dist.LogNormal(vector(50, 2), 0.5).to_event(1),
        dist.Gamma(torch.ones(2), 1.0).to_event(1),
    )
    found = rate(posterior, prior, seed=0)
    assert found.standard_error == 0.0
    assert found.value == pytest.approx(closed_divergence(posterior, prior).mean().item())


# ---- Angles


@pytest.mark.parametrize("concentration", [1e-3, 2.0, 400.0])
def test_angles_diverge_as_quadrature_says(concentration):
    posterior = dist.VonMises(torch.tensor([0.3, -3.0]), concentration)
    prior = dist.VonMises(torch.tensor([3.1]), torch.tensor([0.7]))
    turn = torch.linspace(-math.pi, math.pi, 40_001)[:, None]
    q, p = posterior.log_prob(turn), prior.log_prob(turn)
    expected = torch.trapezoid(q.exp() * (q - p), turn, dim=0)
    torch.testing.assert_close(closed_divergence(posterior, prior), expected, rtol=1e-6, atol=1e-6)
    joint = closed_divergence(posterior.to_event(1), prior.expand([2]).to_event(1))
    torch.testing.assert_close(joint, expected.sum(), rtol=1e-6, atol=1e-6)


def test_sharp_angles_diverge_as_normals():
    pair = [dist.VonMises(torch.tensor(loc), torch.tensor(k)) for loc, k in ((0.1, 1e6), (0.1 + 1e-3, 4e6))]
    normals = [Normal(each.loc, each.concentration**-0.5) for each in pair]
    torch.testing.assert_close(closed_divergence(*pair), torch_kl(*normals), rtol=1e-4, atol=1e-4)
    single = [dist.VonMises(each.loc.float(), each.concentration.float()) for each in pair]
    torch.testing.assert_close(closed_divergence(*single), torch_kl(*normals).float(), rtol=1e-3, atol=1e-3)


def test_the_divergence_of_angles_has_its_gradient():
    values = [torch.tensor([v, v + 0.5], requires_grad=True) for v in (0.3, 1.2, -0.4, 2.0)]

    def divergence(loc, k, prior_loc, prior_k):
        return closed_divergence(dist.VonMises(loc, k), dist.VonMises(prior_loc, prior_k))

    assert torch.autograd.gradcheck(divergence, values)
