"""Weights on the parts of the rate: each part by itself, in value and gradient."""

import itertools
import math
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import MultivariateNormal, Normal

from pyro_infomax import decompose, to_arviz
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.distributions import TransformFlow
from pyro_infomax.guides import AmortizedFlow
from pyro_infomax.infer import (
    DecomposedELBO,
    DirectInfoMax,
    GroupedELBO,
    MarginalELBO,
    TraceMeanField_BetaELBO,
    beta_tcvae,
    hfvae,
    infovae,
)
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.schedules import Linear
from pyro_infomax.training import fit

D = 2
X = torch.tensor(
    [[1.0, -0.5], [-1.2, 0.3], [0.4, 1.6], [-0.3, -1.1], [1.5, 0.9], [-1.9, 0.2]], dtype=torch.float64
)
N = len(X)
PARTS = ("mutual_information", "total_correlation", "dimensionwise_kl")
A = torch.tensor([[0.5, 0.2], [-0.3, 0.6]], dtype=torch.float64)
LOG_SCALE = torch.tensor([-0.2, 0.0], dtype=torch.float64)
PRIOR_SCALE = 1.3


class AtNode(dist.Normal):
    """A Normal whose next draw is given: a node of a quadrature, the same for all data."""

    node = torch.zeros(D).double()

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.node


def model(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), PRIOR_SCALE).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x, family=dist.Normal):
    with pyro.plate("data", N, subsample_size=len(x)):
        loc, scale = x @ pyro.param("a", A.clone()), pyro.param("log_scale", LOG_SCALE.clone()).exp()
        pyro.sample("z", family(loc, scale.expand(loc.shape)).to_event(1))


def at_nodes(x):
    return guide(x, family=AtNode)


# ---- The values and gradients that the parts have, by sums over a grid.


def parts_on_a_grid(a, log_scale):
    """Information, total correlation and dimension-wise KL of all N data, nats per datum."""
    axis = torch.linspace(-9.0, 9.0, 241).double()
    loc, scale, step = X @ a, log_scale.exp(), axis[1] - axis[0]
    each = Normal(loc, scale).log_prob(axis[:, None, None])  # (grid, data, latent)
    joint = each[:, None, :, 0] + each[None, :, :, 1]  # (grid, grid, data)
    mixture = joint.logsumexp(-1) - math.log(N)
    marginals = each.logsumexp(1) - math.log(N)  # (grid, latent)
    product = marginals[:, None, 0] + marginals[None, :, 1]
    prior = Normal(0.0, PRIOR_SCALE).log_prob(axis)[:, None]
    area = step**2
    return {
        "mutual_information": (joint.exp() * (joint - mixture[..., None])).sum() * area / N,
        "total_correlation": (mixture.exp() * (mixture - product)).sum() * area,
        "dimensionwise_kl": (marginals.exp() * (marginals - prior)).sum() * step,
    }


@cache
def truth():
    leaves = [each.clone().requires_grad_() for each in (A, LOG_SCALE)]
    values = parts_on_a_grid(*leaves)
    gradients = {
        name: torch.autograd.grad(value, leaves, retain_graph=True) for name, value in values.items()
    }
    return {name: (values[name].item(), gradients[name]) for name in PARTS}


def expected_over_draws(elbo):
    """The mean over draws of each term, and of the gradient of the loss, per datum, by Gauss–Hermite."""
    nodes, weights = (torch.tensor(each) for each in hermegauss(10))
    weights = weights / weights.sum()
    terms = dict.fromkeys(PARTS, 0.0)
    gradients = [torch.zeros_like(each) for each in (A, LOG_SCALE)]
    for i, j in itertools.product(range(len(nodes)), repeat=2):
        AtNode.node = nodes[[i, j]]
        loss = elbo.differentiable_loss(model, at_nodes, X) * (weights[i] * weights[j] / N)
        leaves = [pyro.get_param_store()[name].unconstrained() for name in ("a", "log_scale")]
        for total, each in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
            total += each
        for name in PARTS:
            terms[name] += float(weights[i] * weights[j]) * elbo.terms[name] / N
    return terms, gradients


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_all_data_is_right_in_value_and_gradient(part):
    elbo = DecomposedELBO(**{**dict.fromkeys(PARTS, 0.0), part: 1.0}, distortion=0.0, data_size=N)
    terms, gradients = expected_over_draws(elbo)
    for name in PARTS:
        assert terms[name] == pytest.approx(truth()[name][0], abs=1e-5)
    for found, expected in zip(gradients, truth()[part][1], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# ---- A minibatch of them, draw by draw, and the variants that have been published and are wrong.


def weights_of(variant, size):
    """log-weights (draw, component) of the mixture of a minibatch."""
    weights = torch.full((size, size), (N - 1) / N / (size - 1)).double()
    if variant == "first column":  # beta-tcvae, pythae
        weights = torch.full((size, size), 1 / (size - 1)).double()
        weights[:, 0] = 1 / N
        weights[size - 2, 0] = (N - size + 1) / (N * (size - 1))
    elif variant == "weighted":  # minibatch weighted sampling
        weights[:] = 1 / (N * size)
    else:
        weights.fill_diagonal_(1 / N)
    return weights.log()


def parts_by_hand(z, x, variant="right"):
    loc, scale = x @ A, LOG_SCALE.exp()
    scores = Normal(loc, scale).log_prob(z[:, None])  # (draw, component, latent)
    weights = weights_of(variant, len(x))
    joint = (scores.sum(-1) + weights).logsumexp(1)
    if variant == "once a dimension":  # disentangling-vae
        joint = (scores + weights[..., None]).sum(-1).logsumexp(1)
    product = (scores + weights[..., None]).logsumexp(1).sum(-1)
    own = scores.diagonal().sum(0)
    prior = Normal(0.0, PRIOR_SCALE).log_prob(z).sum(-1)
    return {
        "mutual_information": own - joint,
        "total_correlation": joint - product,
        "dimensionwise_kl": product - prior,
    }


def drawn(elbo, x, model=model, guide=guide, seed=0):
    torch.manual_seed(seed)
    z = poutine.trace(guide).get_trace(x).nodes["z"]["value"].detach()
    torch.manual_seed(seed)
    return z, elbo.loss(model, guide, x)


def test_a_minibatch_gives_the_parts_with_the_plates_scale():
    elbo = DecomposedELBO(mutual_information=3.0, total_correlation=5.0, dimensionwise_kl=0.5, distortion=2.0)
    z, loss = drawn(elbo, X[:4])
    right = {name: float(each.sum()) * N / 4 for name, each in parts_by_hand(z, X[:4]).items()}
    for name in PARTS:
        assert elbo.terms[name] == pytest.approx(right[name], abs=1e-10)
    weighted = 3 * right[PARTS[0]] + 5 * right[PARTS[1]] + 0.5 * right[PARTS[2]]
    assert loss == pytest.approx(2 * elbo.terms.distortion + weighted, abs=1e-9)


@pytest.mark.parametrize("variant", ["first column", "weighted", "once a dimension"])
def test_the_published_variants_add_up_as_well_and_miss_the_parts(variant):
    elbo = DecomposedELBO()
    z, loss = drawn(elbo, X[:4])
    wrong = {name: float(each.sum()) * N / 4 for name, each in parts_by_hand(z, X[:4], variant).items()}
    assert sum(wrong.values()) == pytest.approx(loss - elbo.terms.distortion, abs=1e-9)
    assert all(abs(wrong[name] - elbo.terms[name]) > 0.05 for name in PARTS[:2])


def test_over_all_minibatches_the_mixture_is_that_of_all_data():
    """Of q̂(z_i), which the information tells: q(z_i|x_i) = q̂(z_i) exp(I_i)."""
    torch.manual_seed(1)
    z = X @ A + LOG_SCALE.exp() * torch.randn(N, D)
    exact = Normal(X @ A, LOG_SCALE.exp()).log_prob(z[:, None]).sum(-1).exp().mean(1)
    own = Normal(X @ A, LOG_SCALE.exp()).log_prob(z).sum(-1)
    for variant, right in {"right": True, "first column": False, "weighted": False}.items():
        found = torch.zeros(N)
        batches = list(itertools.permutations(range(N), 3))
        for batch in batches:
            rows = torch.tensor(batch)
            information = parts_by_hand(z[rows], X[rows], variant)["mutual_information"]
            found[rows] += (own[rows] - information).exp() / (len(batches) * 3 / N)
        assert torch.allclose(found, exact, atol=1e-12) == right


@pytest.mark.parametrize("elbo", [DecomposedELBO(), MarginalELBO(), beta_tcvae(1.0), infovae()])
def test_with_all_weights_one_it_is_the_elbo_at_every_draw(elbo):
    _, loss = drawn(elbo, X[:4])
    _, expected = drawn(Trace_ELBO(), X[:4])
    assert loss == pytest.approx(expected, abs=1e-9)


def test_of_many_gaussian_data_the_parts_are_those_in_closed_form():
    pair = LinearGaussian(
        S=[2.0, 1.0], W=[[1.0, 0.2], [0.3, 1.0]], s2=1.0, V=[[0.5, 0.3], [0.1, 0.6]], Delta=[0.6, 0.5]
    )
    size = 3000
    elbo = DecomposedELBO(data_size=size)
    torch.manual_seed(2)
    with torch.no_grad():
        elbo.loss(pair.model, pair.guide, pair.sample(size))
    terms = {name: elbo.terms[name] / size for name in PARTS}
    # The spread of each log-ratio is about a nat, the bias of the mixture of N data some exp(I) / 2N
    error = 4 / math.sqrt(size) + math.exp(float(pair.mutual_information)) / size
    assert terms["mutual_information"] == pytest.approx(float(pair.mutual_information), abs=error)
    assert terms["total_correlation"] == pytest.approx(float(pair.total_correlation), abs=error)
    assert terms["dimensionwise_kl"] == pytest.approx(float(pair.dimensionwise_kl.sum()), abs=error)


# ---- A reward on information.


def test_information_is_rewarded_by_infonce_and_penalised_by_stratified_sampling():
    rewarded = DecomposedELBO(mutual_information=-2.0)
    z, _ = drawn(rewarded, X[:4])
    scores = Normal(X[:4] @ A, LOG_SCALE.exp()).log_prob(z[:, None]).sum(-1)
    infonce = scores.diagonal() - scores.logsumexp(1) + math.log(4)
    assert rewarded.terms.mutual_information == pytest.approx(float(infonce.sum()) * N / 4, abs=1e-10)
    right = parts_by_hand(z, X[:4])
    assert rewarded.terms.total_correlation == pytest.approx(float(right["total_correlation"].sum()) * N / 4)
    assert rewarded.terms.mutual_information < float(right["mutual_information"].sum()) * N / 4 - 0.1
    far = DecomposedELBO(mutual_information=-1.0, data_size=1000)
    apart = 100 * X[:4]
    far.loss(unsubsampled, at_unsubsampled, apart)
    assert far.terms.mutual_information / 4 == pytest.approx(math.log(4))


def unsubsampled(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), PRIOR_SCALE).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def at_unsubsampled(x):
    with pyro.plate("data", len(x)):
        loc, scale = x @ pyro.param("a", A.clone()), pyro.param("log_scale", LOG_SCALE.clone()).exp()
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


# Two rows: a reward that becomes a penalty on the way
SCHEDULES = {
    "weights": {"mutual_information": Linear(-1.0, 1.0, 4), "total_correlation": Linear(1.0, 6.0, 4)},
    "numbers": {"mutual_information": -0.5, "total_correlation": 3.0},
}


@pytest.mark.parametrize("weights", SCHEDULES.values(), ids=SCHEDULES)
def test_it_trains_captured_as_by_steps(weights):
    losses, terms = [], []
    optimisers = pyro.optim.Adam({"lr": 0.05}), FusedOptim(torch.optim.Adam, {"lr": 0.05})
    for kind, optimiser in zip((SVI, CapturedSVI), optimisers, strict=True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        elbo = DecomposedELBO(**weights, data_size=N)
        svi = kind(unsubsampled, at_unsubsampled, optimiser, elbo)
        losses.append([svi.step(X[:4]) for _ in range(6)])
        terms.append(elbo.terms)
    assert svi.captured
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=0)
    torch.testing.assert_close(dict(terms[0]), dict(terms[1]), rtol=1e-9, atol=0)


# ---- Several sites, groups of them, other priors and posteriors.

NAMES = ("a", "b", "c")
SIZES = (1, 2, 1)


def model_of_sites(x, root=None):
    with pyro.plate("data", N, subsample_size=len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        of_b = dist.Normal(torch.zeros(2), 1.0).to_event(1) if root is None else with_root(root)
        b = pyro.sample("b", of_b)
        c = pyro.sample("c", dist.Laplace(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((a[:, None] + b) * c, 1.0).to_event(1), obs=x)


def with_root(root):
    return dist.MultivariateNormal(torch.zeros(2), scale_tril=root)


def guide_of_sites(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("a", dist.Normal(x[:, 0], 0.6))
        pyro.sample("b", dist.Normal(x @ A, 0.8).to_event(1))
        pyro.sample("c", dist.Laplace(x[:, 1:], 0.5).to_event(1))


def factors_of_sites(x, z):
    """log q(z_j|x_n) at the draws, (draw, component, latent)."""
    a = Normal(x[:, :1], 0.6).log_prob(z[:, None, :1])
    b = Normal(x @ A, 0.8).log_prob(z[:, None, 1:3])
    c = dist.Laplace(x[:, 1:], 0.5).log_prob(z[:, None, 3:])
    return torch.cat([a, b, c], -1)


def sites_drawn(elbo, x, model):
    torch.manual_seed(0)
    trace = poutine.trace(guide_of_sites).get_trace(x)
    z = torch.cat([trace.nodes[name]["value"].reshape(len(x), -1) for name in NAMES], -1)
    torch.manual_seed(0)
    return z, elbo.loss(model, guide_of_sites, x)


ROOT = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("groups", [None, (("a", "b"), ("c",))])
def test_groups_of_sites_split_the_total_correlation(groups, correlated):
    elbo = hfvae(4.0, 3.0, groups=groups, mutual_information=2.0, dimensionwise_kl=5.0)
    x = X[:4]
    z, loss = sites_drawn(elbo, x, lambda x: model_of_sites(x, ROOT if correlated else None))
    weights = weights_of("right", 4)
    scores = factors_of_sites(x, z)
    runs = {None: ((0,), (1, 2), (3,))}.get(groups, ((0, 1, 2), (3,)))
    mixture = (scores.sum(-1) + weights).logsumexp(1)
    of_groups = sum((scores[..., list(run)].sum(-1) + weights).logsumexp(1) for run in runs)
    product = (scores + weights[..., None]).logsumexp(1).sum(-1)
    prior_product = Normal(0.0, 1.0).log_prob(z[:, :3]).sum(-1) + dist.Laplace(0.0, 1.0).log_prob(z[:, 3])
    expected = {
        "mutual_information": scores.diagonal().sum(0) - mixture,
        "total_correlation_between": mixture - of_groups,
        "total_correlation_within": of_groups - product,
        "dimensionwise_kl": product - prior_product,
    }
    if correlated:
        joint = MultivariateNormal(torch.zeros(2), scale_tril=ROOT)
        difference = Normal(0.0, 1.0).log_prob(z[:, 1:3]).sum(-1) - joint.log_prob(z[:, 1:3])
        expected["prior_dependence"] = difference
    expected = {name: float(each.sum()) * N / 4 for name, each in expected.items()}
    found = {name: elbo.terms[name] for name in elbo.terms if name in expected or "depend" in name}
    assert found == pytest.approx(expected, abs=1e-9)
    counts = {"mutual_information": 2, "total_correlation_between": 4, "dimensionwise_kl": 5}
    weighted = sum(counts.get(name, 3) * each for name, each in expected.items())
    assert loss == pytest.approx(elbo.terms.distortion + weighted, abs=1e-8)


def test_several_sites_are_one_vector():
    elbo, grouped = DecomposedELBO(), GroupedELBO()
    sites_drawn(elbo, X[:4], model_of_sites)
    _, loss = sites_drawn(grouped, X[:4], model_of_sites)
    between, within = grouped.terms.total_correlation_between, grouped.terms.total_correlation_within
    assert elbo.terms.total_correlation == pytest.approx(between + within)
    assert elbo.terms.loss == pytest.approx(loss)
    assert elbo.terms.loss == pytest.approx(drawn_elbo(model_of_sites, guide_of_sites))


def drawn_elbo(model, guide):
    torch.manual_seed(0)
    return Trace_ELBO().loss(model, guide, X[:4])


def test_a_prior_whose_dimensions_depend_counts_like_the_total_correlation():
    def correlated(x):
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", with_root(ROOT))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    elbo = DecomposedELBO(total_correlation=7.0)
    z, loss = drawn(elbo, X[:4], correlated)
    terms = elbo.terms
    own = Normal(0.0, 1.0).log_prob(z).sum(-1) - MultivariateNormal(torch.zeros(2), scale_tril=ROOT).log_prob(
        z
    )
    assert terms.prior_dependence == pytest.approx(float(own.sum()) * N / 4)
    parts = terms.mutual_information + 7 * (terms.total_correlation + terms.prior_dependence)
    assert loss == pytest.approx(terms.distortion + parts + terms.dimensionwise_kl)


def test_a_flow_has_a_marginal_kl_but_no_marginals():
    flow = AmortizedFlow(unsubsampled, torch.nn.Linear(D, 4))
    elbo = infovae(alpha=2.0, lam=5.0, data_size=N)
    loss = elbo.loss(unsubsampled, flow, X[:4])
    terms = elbo.terms
    assert loss == pytest.approx(terms.distortion - terms.mutual_information + 5 * terms.marginal_kl)
    with pytest.raises(NotImplementedError, match="marginals are known"):
        DecomposedELBO(data_size=N).loss(unsubsampled, flow, X[:4])


SHAPES = {"scalar": (), "matrix": (2, 1), "vector in a further plate": (2,)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_flow_of_another_shape_is_that_of_the_vector(shape):
    dim = -1 - (len(shape) == 1)

    def model(x):
        with pyro.plate("data", N, dim=dim):
            z = pyro.sample("z", dist.Gamma(torch.full(shape, 2.0), 1.0).to_event(len(shape)))
            loc = z.reshape(N, -1).sum(-1).reshape(N, *(1,) * (-1 - dim))
            pyro.sample("x", dist.Normal(loc[..., None], 1.0).expand([*loc.shape, D]).to_event(1), obs=x)

    torch.manual_seed(2)
    x = X.reshape(N, *(1,) * (-1 - dim), D)
    flow = AmortizedFlow(
        model,
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(D, 4)),
        create_plates=lambda x: pyro.plate("data", N, dim=dim),
    )
    elbo = MarginalELBO(data_size=N)
    elbo.loss(model, flow, x)  # makes its parameters
    torch.manual_seed(0)
    site = poutine.trace(flow).get_trace(x).nodes["z"]
    torch.manual_seed(0)
    elbo.loss(model, flow, x)
    scores = torch.stack([site["fn"].log_prob(z.expand_as(site["value"])).reshape(N) for z in site["value"]])
    information = (scores.diagonal() - scores.logsumexp(1) + math.log(N)).sum().detach()
    assert elbo.terms.mutual_information == pytest.approx(information.item(), abs=1e-6)
    if shape == ():
        DecomposedELBO(data_size=N).loss(model, flow, x)  # whose only marginal is itself


# ---- Priors of which a tensor has fewer axes than the plates.


def in_two_plates(prior):
    def model(x):
        with pyro.plate("data", N, subsample_size=len(x), dim=-2), pyro.plate("inner", D, dim=-1):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", N, subsample_size=len(x), dim=-2), pyro.plate("inner", D, dim=-1):
            pyro.sample("z", dist.Normal(x, 0.5))

    return model, guide


def moved_by(loc):
    base = dist.Normal(torch.zeros(D), 1.0)
    return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(loc, 1.0)])


def mixed_by(logits):
    components = dist.Normal(torch.tensor([-1.0, 1.0]).expand(4, D, 2), 0.7)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)


OF_DATA = {
    "moved by a column": lambda x: moved_by(5 * x[:, :1]),
    "weighted by a column": lambda x: mixed_by(torch.stack([x[:, :1], -x[:, :1]], -1)),
}


@pytest.mark.parametrize("objective", [DecomposedELBO, MarginalELBO, DirectInfoMax])
@pytest.mark.parametrize("prior", OF_DATA.values(), ids=OF_DATA)
def test_a_prior_that_is_each_datums_own_by_a_column_is_refused(prior, objective):
    with pytest.raises(NotImplementedError, match="differs from datum to datum"):
        objective().loss(*in_two_plates(prior), X[:4])


FIXED = {
    "moved": (lambda x: moved_by(torch.ones(1, D)), lambda x: dist.Normal(torch.ones(D), 1.0)),
    "weighted": (lambda x: mixed_by(torch.zeros(1, D, 2)), lambda x: mixed_by(torch.zeros(4, D, 2))),
    "column": (lambda x: moved_by(torch.ones(4, 1)), lambda x: dist.Normal(1.0, 1.0)),
}


@pytest.mark.parametrize(("prior", "same"), FIXED.values(), ids=FIXED)
def test_a_prior_with_fewer_axes_that_is_the_same_for_all_data_is_scored(prior, same):
    _, loss = drawn(MarginalELBO(), X[:4], *in_two_plates(prior))
    assert loss == pytest.approx(drawn(MarginalELBO(), X[:4], *in_two_plates(same))[1], abs=1e-10)


VECTORS = {
    "fixed": (lambda x: torch.ones(D), None),
    "of the data": (lambda x: x, "differs from datum to datum"),
}


@pytest.mark.parametrize(("loc", "refusal"), VECTORS.values(), ids=VECTORS)
def test_a_prior_of_vectors_may_be_moved(loc, refusal):
    def moved(x):
        shift = dist.transforms.AffineTransform(loc(x), 1.0, event_dim=1)
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.TransformedDistribution(with_root(ROOT), [shift]))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def plain(x):
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.ones(2), scale_tril=ROOT))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    if refusal is None:
        found, expected = (drawn(MarginalELBO(), X[:4], each)[1] for each in (moved, plain))
        assert found == pytest.approx(expected, abs=1e-10)
    else:
        with pytest.raises(NotImplementedError, match=refusal):
            MarginalELBO().loss(moved, guide, X[:4])


def mixed_of(components):
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(D)), components)


CHOLESKY = dist.transforms.LowerCholeskyAffine
SINGLE = torch.eye(D).float()
# Of vectors, with as many data as components and dimensions
OF_VECTORS = {
    "mixture of one covariance": lambda: mixed_of(dist.MultivariateNormal(X[:D], scale_tril=ROOT)),
    "mixture of low rank": lambda: mixed_of(
        dist.LowRankMultivariateNormal(SINGLE, 3 * SINGLE[..., None], SINGLE + 1.0)
    ),
    "mapped by a root": lambda: dist.TransformedDistribution(
        dist.Normal(torch.zeros(D), 1.0).to_event(1), [CHOLESKY(torch.ones(D), ROOT)]
    ),
}


@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("prior", OF_VECTORS.values(), ids=OF_VECTORS)
def test_a_prior_of_vectors_for_as_many_data_as_it_has_dimensions(prior, dim):
    # A further plate within that of the data leaves the vectors an axis of size 1
    def model(x):
        with pyro.plate("data", N, subsample_size=len(x), dim=dim):
            z = pyro.sample("z", prior())
            if dim == -2:
                with pyro.plate("columns", D, dim=-1):
                    pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)
            else:
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        rows = x if dim == -1 else x[:, None]
        with pyro.plate("data", N, subsample_size=len(x), dim=dim):
            pyro.sample("z", dist.MultivariateNormal(rows @ A.to(x), scale_tril=0.7 * ROOT.to(x)))

    x, elbo = X[:D], MarginalELBO(mutual_information=0.0)
    dtype = prior().sample().dtype
    z, _ = drawn(elbo, x.to(dtype), model, guide)
    z = z.reshape(D, D).double()
    posterior = torch.stack([MultivariateNormal(row @ A, scale_tril=0.7 * ROOT).log_prob(z) for row in x], 1)
    weights = torch.full((D, D), (N - 1) / N / (D - 1)).fill_diagonal_(1 / N)
    log_q = (posterior + weights.log()).logsumexp(1)
    wanted = N / D * float((log_q - prior().log_prob(z.to(dtype))).sum())
    assert elbo.terms.marginal_kl == pytest.approx(wanted, rel=1e-6)


# ---- Flows of Pyro in single precision, whose networks insist on their type.


@pytest.fixture
def single():
    """Inverses of Pyro's autoregressive flows make tensors of torch's default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def with_flow(transforms, *, conditioned=False, prior=None):
    """A pair in float32, and the posterior as a function of some data."""
    flow = torch.nn.ModuleList(transforms).float()

    def posterior(x):
        base = dist.Normal((x @ A.float()), 0.7).to_event(1)
        steps = [each.condition(x) for each in flow] if conditioned else list(flow)
        return dist.TransformedDistribution(base, steps)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x) if prior else dist.Normal(torch.zeros(D).float(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return model, guide, posterior, flow


def information_by_datum(z, x, posterior):
    """Datum by datum, as the flow itself scores."""
    scores = torch.stack([posterior(row.expand_as(x)).log_prob(z).double() for row in x], 1)
    return (scores.diagonal() - scores.logsumexp(1) + math.log(len(x))).sum()


INVERTIBLE = {
    "coupling": lambda: dist.transforms.affine_coupling(D, hidden_dims=[4]),
    "autoregressive": lambda: dist.transforms.affine_autoregressive(D, hidden_dims=[4]),
    "spline": lambda: dist.transforms.spline(D),
}


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("make", INVERTIBLE.values(), ids=INVERTIBLE)
def test_a_learned_flow_in_single_precision_is_scored_as_it_scores_itself(make):
    torch.manual_seed(3)
    model, guide, posterior, flow = with_flow([make()])
    x = X.float()
    elbo = MarginalELBO(mutual_information=2.0, marginal_kl=2.0, data_size=N)
    z, _ = drawn(elbo, x, model, guide)
    with torch.no_grad():
        expected = information_by_datum(z, x, posterior)
    assert elbo.terms.mutual_information == pytest.approx(float(expected), rel=1e-4)
    # Of both with one weight, it is the rate, and has its gradient
    gradients = []
    for objective in (elbo, TraceMeanField_BetaELBO(beta=2.0)):
        flow.zero_grad()
        torch.manual_seed(0)
        loss = objective.differentiable_loss(model, guide, x)
        gradients.append(torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True))
    pairs = [each for each in zip(*gradients, strict=True) if each[1] is not None]
    assert pairs
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_learned_flow_trains_in_single_precision_captured_as_by_steps():
    losses = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide, _, _ = with_flow([INVERTIBLE["coupling"]()])
        optimiser = FusedOptim(torch.optim.Adam, {"lr": 0.01})
        svi = kind(model, guide, optimiser, MarginalELBO(mutual_information=0.5, data_size=N))
        losses.append([svi.step(X.float()) for _ in range(4)])
    assert svi.captured
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)


CONTEXT = {
    "coupling": lambda: dist.transforms.conditional_affine_coupling(D, D, hidden_dims=[4]),
    "autoregressive": lambda: dist.transforms.conditional_affine_autoregressive(D, D, hidden_dims=[4]),
    "planar": lambda: dist.transforms.conditional_planar(D, D, hidden_dims=[4]),
    "spline": lambda: dist.transforms.conditional_spline(D, D, hidden_dims=[4]),
    "matrix": lambda: dist.transforms.conditional_matrix_exponential(D, D, hidden_dims=[4]),
}


@pytest.mark.parametrize("make", CONTEXT.values(), ids=CONTEXT)
def test_a_flow_that_is_conditioned_by_hand_is_refused_with_what_works(make):
    model, guide, _, _ = with_flow([make()], conditioned=True)
    with pytest.raises(NotImplementedError, match=r"(?s)site 'z' \(\w+\) is conditioned.*TransformFlow"):
        MarginalELBO(data_size=N).loss(model, guide, X.float())


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("kind", ["coupling", "autoregressive"])
def test_what_the_refusal_names_works(kind):
    torch.manual_seed(3)
    flow = TransformFlow([CONTEXT[kind]()], D).float()
    model, *_ = with_flow([])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", flow(x))

    elbo = MarginalELBO(data_size=N)
    z, _ = drawn(elbo, X.float(), model, guide)
    with torch.no_grad():
        expected = information_by_datum(z, X.float(), flow)
    assert elbo.terms.mutual_information == pytest.approx(float(expected), rel=1e-4)


UNFIT = {"Planar": lambda: dist.transforms.planar(D), "Radial": lambda: dist.transforms.radial(D)}


@pytest.mark.parametrize("name", UNFIT)
def test_a_flow_that_cannot_score_other_draws_is_refused_by_name(name):
    model, guide, _, _ = with_flow([UNFIT[name]()])
    with pytest.raises(NotImplementedError, match=f"(?s)site 'z' \\({name}\\).*can be inverted"):
        MarginalELBO(data_size=N).loss(model, guide, X.float())


@pytest.mark.usefixtures("single")
def test_a_flow_may_be_the_prior_where_it_is_the_same_for_all_data():
    torch.manual_seed(3)
    steps = torch.nn.ModuleList([INVERTIBLE["autoregressive"]()]).float()

    def flowing(loc):
        return dist.TransformedDistribution(dist.Normal(loc, 1.0).to_event(1), list(steps))

    fixed, guide, _, _ = with_flow(
        [INVERTIBLE["coupling"]()], prior=lambda x: flowing(torch.zeros(D).float())
    )
    elbo = MarginalELBO(data_size=N)
    _, loss = drawn(elbo, X.float(), fixed, guide)
    torch.manual_seed(0)
    assert loss == pytest.approx(Trace_ELBO().loss(fixed, guide, X.float()), rel=1e-4)
    moved, *_ = with_flow([], prior=flowing)
    with pytest.raises(NotImplementedError, match="differs from datum to datum"):
        elbo.loss(moved, guide, X.float())


# ---- Sites of a guide that are drawn given each other, whichever way a draw gets into the next site.


def written(a, x, write):
    loc = torch.zeros_like(x)
    write(loc)
    return loc


WAYS = {
    "by items": lambda a, x: written(a, x, lambda loc: loc.__setitem__((slice(None), 0), a[:, 0])),
    "by a copy": lambda a, x: written(a, x, lambda loc: loc[:, :1].copy_(a[:, :1])),
    "in place": lambda a, x: written(a, x, lambda loc: loc.add_(a)),
    "out": lambda a, x: written(a, x, lambda loc: torch.add(a.detach(), x.detach(), out=loc)),
    "by a mask": lambda a, x: written(a, x, lambda loc: loc.__setitem__(a > 0, 3.0)),
    "vmap": lambda a, x: torch.func.vmap(lambda row: row.flip(0))(a),
    "numpy": lambda a, x: torch.from_numpy(a.detach().numpy() + 1),
    "list": lambda a, x: torch.tensor(a.tolist()),
    "rows": lambda a, x: torch.stack([2 * each for each in a]),
    "if": lambda a, x: x + 1 if a.sum() > 0 else x - 1,
    "count": lambda a, x: x * len(a[a > 0]),
}
APART = {
    "shape": lambda a, x: x * len(a) + a.shape[1],
    "shown": lambda a, x: [f"{a.sum()}", repr(a)] and x.clone(),
    "memory used again": lambda a, x: [(a + each).sum() for each in range(9)] and x.clone(),
}


def model_of_two(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(a + b, 1.0).to_event(1), obs=x)


def guide_of_two(way):
    def guide(x):
        loc = x @ pyro.param("matrix", A.clone())
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(loc, 0.6).to_event(1))
            pyro.sample("b", dist.Normal(way(a, loc), 0.8).to_event(1))

    return guide


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_site_that_is_drawn_given_another_is_refused(way):
    with pytest.raises(NotImplementedError, match="draws 'b' given \\['a'\\]"):
        MarginalELBO(data_size=N).loss(model_of_two, guide_of_two(way), X)


def test_what_a_distribution_hides_shows_in_its_draws():
    class Moved(dist.Normal):
        def rsample(self, sample_shape=()):
            return super().rsample(sample_shape) + self.by()

        def expand(self, batch_shape, _instance=None):
            return self

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 0.6).to_event(1))
            moved = Moved(x, 0.8)
            moved.by = lambda: a
            pyro.sample("b", moved.to_event(1))

    with pytest.raises(NotImplementedError, match="draws 'b' given"):
        MarginalELBO(data_size=N).loss(model_of_two, guide, X)


@pytest.mark.parametrize("way", APART.values(), ids=APART)
def test_shapes_and_pictures_of_a_draw_make_no_dependence(way):
    def apart(x):
        with pyro.plate("data", len(x)):
            loc = x @ pyro.param("matrix", A.clone())
            pyro.sample("a", dist.Normal(loc, 0.6).to_event(1))
            pyro.sample("b", dist.Normal(way(torch.zeros(N, D), loc), 0.8).to_event(1))

    torch.manual_seed(0)
    found = MarginalELBO(data_size=N).loss(model_of_two, guide_of_two(way), X)
    torch.manual_seed(0)
    assert found == MarginalELBO(data_size=N).loss(model_of_two, apart, X)


AUXILIARY = {"infer": {"is_auxiliary": True}}
BESIDE = {
    "factor": lambda a: pyro.factor("f", -a.square().sum(-1), has_rsample=True),
    "auxiliary": lambda a: pyro.sample("aux", dist.Normal(a[:, 0], 1.0), **AUXILIARY),
    "score": lambda a: dist.Normal(0.0, 1.0).log_prob(a),
    "bounds": lambda a: dist.Uniform(a, a + 1.0),
}


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("look", BESIDE.values(), ids=BESIDE)
def test_the_validation_of_a_draw_makes_no_dependence(look, validate):
    with pyro.validation_enabled(validate):
        elbo = MarginalELBO(data_size=N)
        elbo.loss(model_of_two, guide_of_two(lambda a, x: [look(a)] and x.clone()), X)
        assert elbo.terms.mutual_information > 0
        # What distributions are made of is followed all the same
        with pytest.raises(NotImplementedError, match="draws 'b' given"):
            elbo.loss(model_of_two, guide_of_two(lambda a, x: dist.Normal(a, 1.0).rsample()), X)


def test_following_the_draws_leaves_a_captured_step_as_it_is():
    losses = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optimiser = FusedOptim(torch.optim.Adam, {"lr": 0.05})
        svi = kind(model_of_two, guide_of_two(lambda a, x: x), optimiser, MarginalELBO(data_size=N))
        losses.append([svi.step(X) for _ in range(4)])
    assert svi.captured
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)


# ---- What is refused, and how many data there are.


def test_the_number_of_data_comes_from_the_plate_or_is_asked_for():
    elbo = DecomposedELBO()
    with pytest.raises(ValueError, match="pass data_size=N"):
        elbo.loss(model, guide, X)
    elbo.loss(model, guide, X[:4])
    elbo.loss(model, guide, X)  # whose plate has said in the meantime that these are all
    with pytest.raises(ValueError, match="pass data_size=N"):
        DecomposedELBO().loss(unsubsampled, at_unsubsampled, X)
    with pytest.raises(ValueError, match="data_size=6"):
        DecomposedELBO(data_size=7).loss(model, guide, X[:4])
    with pytest.raises(ValueError, match="at most data_size=5"):
        DecomposedELBO(data_size=5).loss(unsubsampled, at_unsubsampled, X)
    with pytest.raises(ValueError, match=r"at least 2 data .* another batch_size, or .* drop_last=True"):
        elbo.loss(model, guide, X[:1])
    svi = SVI(unsubsampled, at_unsubsampled, pyro.optim.Adam({}), DecomposedELBO(data_size=7))
    with pytest.raises(ValueError, match=r"DecomposedELBO\(data_size=6\), as many as there are to train on"):
        fit(svi, X, epochs=1, batch_size=4, progress=False)


@pytest.mark.parametrize("name", ["total_correlation", "dimensionwise_kl", "distortion"])
def test_what_has_no_upper_bound_is_not_rewarded(name):
    with pytest.raises(ValueError, match=f"Expected {name} >= 0"):
        DecomposedELBO(**{name: -1.0})
    elbo = DecomposedELBO()
    with pytest.raises(ValueError, match=f"Expected {name} >= 0"):
        elbo.weights[name] = -1.0


def test_groups_are_of_the_local_sites():
    for groups in ((("a", "b"),), (("a", "b", "c"),), (("a",), ("b", "c", "c")), (("a", "d"), ("b", "c"))):
        with pytest.raises(ValueError, match="in one of at least two groups"):
            hfvae(groups=groups).loss(model_of_sites, guide_of_sites, X[:4])
    with pytest.raises(ValueError, match="one weight of 'mutual_information'"):
        DecomposedELBO(mutual_information={"a": 2.0}).loss(model_of_sites, guide_of_sites, X[:4])


def test_point_masses_have_no_mixture():
    def pointed(x):
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Delta(x @ pyro.param("matrix", A.clone())).to_event(1))

    with pytest.raises(NotImplementedError, match="point mass"):
        DecomposedELBO().loss(model, pointed, X[:4])


# ---- Training.


def test_it_lands_where_the_linear_pair_is_optimal():
    """D + β I is least on the rate-distortion curve, whatever the weights of the other parts."""
    beta, s2, size = 1.5, 0.5, 100
    best = LinearGaussian.optimum([3.0, 1.0, 0.3], beta, 2, s2)
    noise = torch.randn(size, 3)
    noise = noise - noise.mean(0)
    x = noise @ torch.linalg.cholesky(torch.linalg.inv(noise.T @ noise / size)) @ best.S.sqrt()

    def model(x):
        w = pyro.param("w", torch.tensor([[0.9, 0.4, 0.1], [-0.3, 0.7, 0.2]]))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w, s2**0.5).to_event(1), obs=x)

    def guide(x):
        v = pyro.param("v", torch.tensor([[0.3, -0.1], [0.1, 0.4], [0.0, 0.1]]))
        scale = pyro.param("scale", torch.full((2,), 0.7), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ v, scale).to_event(1))

    elbo = DecomposedELBO(
        mutual_information=beta, total_correlation=6.0, dimensionwise_kl=3.0, data_size=size
    )
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    for _ in range(150):
        svi.step(x)
    w, v, scale = (pyro.get_param_store()[name].detach() for name in ("w", "v", "scale"))
    found = LinearGaussian(S=best.S, W=w.T, s2=s2, V=v.T, Delta=scale**2)
    cost, least = (float(each.distortion + beta * each.mutual_information) for each in (found, best))
    assert cost == pytest.approx(least, rel=0.01)
    assert float(found.mutual_information) == pytest.approx(float(best.mutual_information), abs=0.1)
    assert float(found.marginal_kl) < 0.02


def test_it_goes_through_a_training_with_all_that_follows(tmp_path):
    elbo = beta_tcvae(Linear(1.0, 4.0, 5), data_size=40)
    svi = CapturedSVI(unsubsampled, at_unsubsampled, FusedOptim(torch.optim.Adam, {"lr": 0.01}), elbo)
    x = torch.randn(40, D)
    history = fit(svi, x, epochs=2, batch_size=10, progress=False, seed=0, checkpoint=tmp_path / "c.pt")
    columns = history.to_frame().columns
    assert set(PARTS) <= set(columns)
    assert svi.captured
    again = beta_tcvae(Linear(1.0, 4.0, 5), data_size=40)
    again.load_state_dict(elbo.state_dict())
    assert again.step == 8
    assert decompose(unsubsampled, at_unsubsampled, x, seed=0).total_correlation is not None
    to_arviz(unsubsampled, at_unsubsampled, x, num_samples=3, seed=0)
