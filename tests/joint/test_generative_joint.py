"""Densities and draws of the generative joint against closed forms written down site by site."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import Bernoulli, Categorical, Gamma, Independent, MultivariateNormal, Normal

from pyro_infomax.joint import LatentSpace, generative
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.poutine import weight
from pyro_infomax.programs import Placeholder
from pyro_infomax.vae import VAE

TOLERANCE = {"rtol": 0, "atol": 1e-9}
MIXTURE = torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double()


def close(value, expected):
    assert value.dtype == torch.float64
    assert value.shape == expected.shape
    torch.testing.assert_close(value, expected.double(), **TOLERANCE)


# ---- one model a family, with its two log-densities


@dataclass
class Case:
    model: Callable[..., Any]
    shape: tuple[int, ...]  # of z for one datum
    x: torch.Tensor
    prior: Callable[[torch.Tensor], torch.Tensor]  # of z alone
    likelihood: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of z and x
    draw: Callable[[int], torch.Tensor] | None = None  # of z where it is discrete

    def z(self, size):
        return self.draw(size) if self.draw else torch.randn(size, *self.shape)


def scalar_event():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.5, 2.0))
            pyro.sample("x", dist.Normal(3 * z, 0.7), obs=x)

    return Case(
        model,
        (),
        torch.randn(7),
        lambda z: Normal(0.5, 2.0).log_prob(z),
        lambda z, x: Normal(3 * z, 0.7).log_prob(x),
    )


def vector_event():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.arange(3.0), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :2], 0.7).to_event(1), obs=x)

    return Case(
        model,
        (3,),
        torch.randn(7, 2),
        lambda z: Normal(torch.arange(3.0), 2.0).log_prob(z).sum(-1),
        lambda z, x: Normal(z[:, :2], 0.7).log_prob(x).sum(-1),
    )


def matrix_event():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, 3), 2.0).to_event(2))
            pyro.sample("x", dist.Normal(z.sum((-1, -2)), 0.7), obs=x)

    return Case(
        model,
        (2, 3),
        torch.randn(7),
        lambda z: Normal(0.0, 2.0).log_prob(z).sum((-1, -2)),
        lambda z, x: Normal(z.sum((-1, -2)), 0.7).log_prob(x),
    )


def correlated():
    cov = torch.tensor([[2.0, 0.6], [0.6, 0.5]]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.ones(2), cov))
            pyro.sample("x", dist.Normal(z.prod(-1), 0.7), obs=x)

    return Case(
        model,
        (2,),
        torch.randn(7),
        lambda z: MultivariateNormal(torch.ones(2), cov).log_prob(z),
        lambda z, x: Normal(z.prod(-1), 0.7).log_prob(x),
    )


def binary():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Bernoulli(0.2 + 0.5 * z), obs=x)

    return Case(
        model,
        (),
        torch.tensor([1.0, 0, 0, 1, 0, 1, 1]),
        lambda z: Bernoulli(0.3).log_prob(z),
        lambda z, x: Bernoulli(0.2 + 0.5 * z).log_prob(x),
        lambda size: (torch.arange(size) % 2).double(),
    )


def categorical():
    probs = torch.tensor([0.2, 0.3, 0.5]).double()
    loc = torch.tensor([-1.0, 0.0, 4.0]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(probs), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[z], 0.7), obs=x)

    return Case(
        model,
        (),
        torch.randn(7),
        lambda z: Categorical(probs).log_prob(z),
        lambda z, x: Normal(loc[z], 0.7).log_prob(x),
        lambda size: torch.arange(size) % 3,
    )


def one_hot():
    probs = torch.tensor([0.2, 0.3, 0.5]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(probs))
            pyro.sample("x", dist.Normal(z @ torch.tensor([-1.0, 0.0, 4.0]).double(), 0.7), obs=x)

    return Case(
        model,
        (3,),
        torch.randn(7),
        lambda z: (z * probs.log()).sum(-1),
        lambda z, x: Normal(z @ torch.tensor([-1.0, 0.0, 4.0]).double(), 0.7).log_prob(x),
        lambda size: torch.eye(3)[torch.arange(size) % 3],
    )


def mixture_prior():
    def prior():
        components = dist.Normal(MIXTURE, 0.5).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), components)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z.sum(-1), 0.7), obs=x)

    def log_prior(z):
        parts = Normal(MIXTURE, 0.5).log_prob(z[:, None]).sum(-1)
        return (parts + torch.tensor([0.3, 0.7]).log()).logsumexp(-1)

    return Case(model, (2,), torch.randn(7), log_prior, lambda z, x: Normal(z.sum(-1), 0.7).log_prob(x))


def flow_prior():
    def model(x):
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            z = pyro.sample(
                "z", dist.TransformedDistribution(base, [dist.transforms.AffineTransform(1.0, 3.0)])
            )
            pyro.sample("x", dist.Normal(z.sum(-1), 0.7), obs=x)

    return Case(
        model,
        (2,),
        torch.randn(7),
        lambda z: Normal(1.0, 3.0).log_prob(z).sum(-1),
        lambda z, x: Normal(z.sum(-1), 0.7).log_prob(x),
    )


def pixels_right():
    """An inner plate at -1, the data at -2."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))  # (data, 1)
            with pyro.plate("pixels", 4, dim=-1):
                pyro.sample("x", dist.Normal(z, torch.arange(1.0, 5.0)), obs=x)

    return Case(
        model,
        (),
        torch.randn(7, 4),
        lambda z: Normal(0.0, 2.0).log_prob(z),
        lambda z, x: Normal(z[:, None], torch.arange(1.0, 5.0)).log_prob(x).sum(-1),
    )


def pixels_left():
    """An inner plate at -2, the data at -1: z keeps the shape (data,)."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            assert z.dim() == 1
            with pyro.plate("pixels", 4, dim=-2):
                pyro.sample("x", dist.Normal(z, torch.arange(1.0, 5.0)[:, None]), obs=x.T)

    return Case(
        model,
        (),
        torch.randn(7, 4),
        lambda z: Normal(0.0, 2.0).log_prob(z),
        lambda z, x: Normal(z[:, None], torch.arange(1.0, 5.0)).log_prob(x).sum(-1),
    )


def latent_in_inner_plate():
    def model(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("pixels", 4, dim=-2):
            z = pyro.sample(
                "z", dist.Normal(torch.arange(4.0)[:, None, None].expand(4, 1, 2), 2.0).to_event(1)
            )
            pyro.sample("x", dist.Normal(z.sum(-1), 0.7), obs=x.T)

    return Case(
        model,
        (4, 2),
        torch.randn(7, 4),
        lambda z: Normal(torch.arange(4.0)[:, None], 2.0).log_prob(z).sum((-1, -2)),
        lambda z, x: Normal(z.sum(-1), 0.7).log_prob(x).sum(-1),
    )


FAMILIES = [
    scalar_event,
    vector_event,
    matrix_event,
    correlated,
    binary,
    categorical,
    one_hot,
    mixture_prior,
    flow_prior,
    pixels_right,
    pixels_left,
    latent_in_inner_plate,
]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def case(request):
    return request.param()


def test_densities(case):
    joint, z = generative(case.model), case.z(7)
    close(joint.log_prior(z), case.prior(z))  # before any data
    close(joint.log_prior(z, case.x), case.prior(z))
    close(joint.log_likelihood(case.x, z), case.likelihood(z, case.x))
    log_prior, log_likelihood = joint.log_terms(case.x, z)
    close(log_prior, case.prior(z))
    close(log_likelihood, case.likelihood(z, case.x))
    x = case.x.T if case.x.shape == (4, 7) else case.x
    close(generative(case.model).log_prob({"z": z, "x": x}), case.prior(z) + case.likelihood(z, x))


def test_draws_have_the_shapes_that_are_scored(case):
    joint = generative(case.model)
    draws = joint.sample(6, case.x)
    assert draws["z"].shape == (6, *case.shape)
    assert draws["x"].shape == (6, *case.x.shape[1:])
    close(joint.log_prob(draws), case.prior(draws["z"]) + case.likelihood(draws["z"], draws["x"]))


# ---- many values for one datum, and the other way round


def test_one_datum_for_all_values():
    case = scalar_event()
    z = case.z(5)
    expected = case.likelihood(z, case.x[:1].expand(5))
    close(generative(case.model).log_likelihood(case.x[:1], z), expected)


def test_one_value_for_all_data():
    case = scalar_event()
    close(
        generative(case.model).log_likelihood(case.x, torch.ones(1)), case.likelihood(torch.ones(7), case.x)
    )


def test_log_likelihood_runs_in_pieces():
    case = vector_event()
    x, z = torch.randn(150, 2), torch.randn(150, 3)
    joint = generative(case.model)
    assert joint.program(x, batch_size=40).piece == 40
    close(joint.log_likelihood(x, z), case.likelihood(z, x))


# ---- several sites


def two_sites(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        b = pyro.sample("b", dist.Normal(a.unsqueeze(-1).expand(*a.shape, 2), 0.5).to_event(1))
        pyro.sample("x", dist.Normal(a * b.sum(-1), 1.0), obs=x)


def test_dependent_sites():
    a, b, x = torch.randn(5), torch.randn(5, 2), torch.randn(5)
    expected = Normal(0.0, 2.0).log_prob(a) + Normal(a[:, None], 0.5).log_prob(b).sum(-1)
    close(generative(two_sites).log_prior({"b": b, "a": a}), expected)
    close(generative(two_sites).log_likelihood(x, {"a": a, "b": b}), Normal(a * b.sum(-1), 1.0).log_prob(x))


def test_draws_of_dependent_sites_go_together():
    draws = generative(two_sites).sample(4000, torch.zeros(3), seed=1)
    residual = draws["b"] - draws["a"][:, None]
    assert abs(float(residual.mean())) < 4 * 0.5 / math.sqrt(8000)
    assert abs(float(residual.square().mean()) - 0.25) < 4 * 0.25 * math.sqrt(2 / 8000)


def test_two_observed_sites_add_up():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Bernoulli(logits=z), obs=y)

    x, y, z = torch.randn(4), torch.tensor([0.0, 1, 1, 0]), torch.randn(4)
    expected = Normal(z, 1.0).log_prob(x) + Bernoulli(logits=z).log_prob(y)
    close(generative(model).log_likelihood((x, y), z), expected)
    joint = generative(model).log_prob({"z": z, "x": x, "y": y}, x, y)
    close(joint, expected + Normal(0.0, 1.0).log_prob(z))


def test_given_values_of_observed_sites_replace_the_data():
    case = scalar_event()
    x, z = torch.randn(7), case.z(7)
    close(generative(case.model).log_prob({"z": z, "x": x}, case.x), case.prior(z) + case.likelihood(z, x))


# ---- what enters a density


def test_scales_do_not_count():
    case = scalar_event()
    z = case.z(7)
    close(
        generative(poutine.scale(case.model, scale=5.0)).log_likelihood(case.x, z), case.likelihood(z, case.x)
    )


@pytest.mark.parametrize("latent", [0.0, 3.0])
def test_weights_do_not_count(latent):
    case = scalar_event()
    z = case.z(7)
    joint = generative(weight(case.model, observed=0.0, latent=latent))
    close(joint.log_prior(z, case.x), case.prior(z))
    close(joint.log_likelihood(case.x, z), case.likelihood(z, case.x))


def test_masks_count():
    mask = torch.tensor([True, False, True])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, z = torch.randn(3), torch.randn(3)
    close(generative(model).log_likelihood(x, z), Normal(z, 1.0).log_prob(x) * mask)


def test_partly_observed_data():
    def model(x, known):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 2.0), obs=x, obs_mask=known)

    x, known = torch.randn(4), torch.tensor([True, False, True, False])
    sites = {"z": torch.randn(4), "x_unobserved": torch.randn(4)}
    joint = generative(model)
    missing = Normal(sites["z"], 2.0).log_prob(sites["x_unobserved"]) * ~known
    close(joint.log_prior(sites, x, known), Normal(0.0, 1.0).log_prob(sites["z"]) + missing)
    close(joint.log_likelihood((x, known), sites), Normal(sites["z"], 2.0).log_prob(x) * known)


def test_deterministic_sites_do_not_count():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            double = pyro.deterministic("double", 2 * z)
            pyro.sample("x", dist.Normal(double, 1.0), obs=x)

    x, z = torch.randn(4), torch.randn(4)
    close(generative(model).log_likelihood(x, z), Normal(2 * z, 1.0).log_prob(x))
    assert set(generative(model).sample(3, x)) == {"z", "x"}


def with_factor(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("penalty", -(z**2))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_factors_join_the_likelihood():
    x, z = torch.randn(4), torch.randn(4)
    expected = Normal(z, 1.0).log_prob(x) - z**2
    close(generative(with_factor).log_likelihood(x, z), expected)
    close(generative(with_factor).log_prob({"z": z, "x": x}), expected + Normal(0.0, 1.0).log_prob(z))


def test_models_with_factors_cannot_be_drawn_from():
    with pytest.raises(NotImplementedError, match="has factors"):
        generative(with_factor).sample(3, torch.randn(4))


# ---- plates


@pytest.mark.parametrize(
    ("size", "style"), [(12, "index"), (10, "subsample"), (3, "index"), (200, "subsample")]
)
def test_subsampling_models_score_every_row(size, style):
    def model(x):
        with pyro.plate("data", len(x), subsample_size=min(4, len(x))) as rows:
            part = x[rows] if style == "index" else pyro.subsample(x, event_dim=1)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), part.abs() + 1).to_event(1), obs=part)

    x, z = torch.randn(size, 2), torch.randn(size)
    expected = Normal(z[:, None], x.abs() + 1).log_prob(x).sum(-1)
    close(generative(model).log_likelihood(x, z), expected)
    close(generative(model).log_prior(z, x), Normal(0.0, 1.0).log_prob(z))


def test_subsampling_model_of_fixed_size_scores_fewer_data():
    def model(x):
        with pyro.plate("data", 100, subsample_size=8) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    x, z = torch.randn(5), torch.randn(5)
    z.requires_grad_()
    score = generative(model).log_likelihood(x, z)
    close(score.detach(), Normal(z, 1.0).log_prob(x).detach())
    torch.testing.assert_close(torch.autograd.grad(score.sum(), z)[0], x - z.detach())


def test_minibatches_of_a_larger_plate():
    def model(x):
        with pyro.plate("data", 1000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, z = torch.randn(90), torch.randn(90)
    joint = generative(model)
    close(joint.log_likelihood(x, z), Normal(z, 1.0).log_prob(x))
    close(joint.log_likelihood(x[:3], z[:3]), Normal(z, 1.0).log_prob(x)[:3])


def fixed_plate(x):
    with pyro.plate("data", 90):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_plates_of_fixed_size():
    x, z = torch.randn(90), torch.randn(90)
    joint = generative(fixed_plate)
    close(joint.log_likelihood(x, z), Normal(z, 1.0).log_prob(x))
    close(joint.log_prior(z), Normal(0.0, 1.0).log_prob(z))
    assert joint.sample(200, x)["x"].shape == (200,)


def test_plates_of_fixed_size_refuse_other_numbers():
    joint = generative(fixed_plate)
    joint.log_likelihood(torch.randn(90), torch.randn(90))
    with pytest.raises(ValueError, match=r"size 7, the number of data, .* \{'data': 90\}"):
        joint.log_prior(torch.randn(7), torch.randn(7))


def test_parameters_for_each_datum():
    def model(x):
        loc = pyro.param("loc", torch.zeros(len(x)))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, z = torch.randn(100), torch.randn(100)
    joint = generative(model)
    close(joint.log_prior(z, x), Normal(0.0, 1.0).log_prob(z))
    assert pyro.param("loc").shape == (100,)


# ---- global latents


def hierarchical(x):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("groups", 3):
        pyro.sample("means", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_conditioned_models_take_global_latents_as_given():
    model = poutine.condition(hierarchical, {"scale": torch.tensor(2.0), "means": torch.zeros(3)})
    x, z = torch.randn(5), torch.randn(5)
    close(generative(model).log_prior(z), Normal(0.0, 2.0).log_prob(z))
    close(generative(model).log_likelihood(x, z), Normal(z, 1.0).log_prob(x))


def test_draws_keep_what_is_conditioned_on():
    model = poutine.condition(hierarchical, {"scale": torch.tensor(1e-9), "means": torch.zeros(3)})
    draws = generative(model).sample(20, torch.full((5,), 7.0))
    assert set(draws) == {"z", "x"}
    assert float(draws["z"].abs().max()) < 1e-7
    assert float(draws["x"].std()) > 0.3


def test_global_latents_point_to_condition():
    with pytest.raises(NotImplementedError, match=r"'scale' of the model is outside.*poutine.condition"):
        generative(hierarchical).log_likelihood(torch.zeros(5), torch.zeros(5))


def test_an_observation_of_all_data_at_once_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.sample("sum", dist.Normal(z.sum(), 1.0), obs=torch.tensor(0.0))

    with pytest.raises(NotImplementedError, match=r"'sum' of the model.*depends on local latents"):
        generative(model).log_likelihood(torch.zeros(5), torch.zeros(5))


# ---- covariates, and priors that depend on them


def conditional_prior(x, label):
    loc = torch.tensor([-3.0, 3.0]).double()[label]
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.fixture
def labelled():
    return torch.randn(6), torch.tensor([0, 0, 0, 1, 1, 0])


def test_priors_of_covariates_are_scored_with_data(labelled):
    z = torch.randn(6)
    expected = Normal(torch.tensor([-3.0, 3.0]).double()[labelled[1]], 1.0).log_prob(z)
    close(generative(conditional_prior).log_prior(z, *labelled), expected)


def test_draws_take_the_covariates_in_turn(labelled):
    z = generative(conditional_prior).sample(600, *labelled, seed=0)["z"].reshape(100, 6)
    assert (z.mean(0) - torch.tensor([-3.0, -3, -3, 3, 3, -3])).abs().max() < 4 / 10


def bernoulli_of_covariate(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli((x > 0).double() * 0.5 + 0.2))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def branching(x):
    scale = 2.0 if x.sum() > 0 else 1.0
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def embedded(x, label):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(nn.functional.embedding(label, torch.eye(2))[..., 0], 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def masked(x):
    with pyro.plate("data", len(x)):
        with poutine.mask(mask=x > 0):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "validate"),
    [
        (conditional_prior, True),
        (bernoulli_of_covariate, False),
        (branching, True),
        (embedded, True),
        (embedded, False),
        (masked, False),
    ],
)
def test_priors_of_covariates_ask_for_data(model, validate, labelled):
    joint, z = generative(model), torch.ones(6)
    with pyro.validation_enabled(validate):
        with pytest.raises(ValueError, match=r"Expected data of the model.*log_prior\(z, x\)"):
            joint.log_prior(z)
        # having seen data changes nothing
        data = labelled if model in (conditional_prior, embedded) else labelled[:1]
        joint.log_likelihood(data, z)
        with pytest.raises(ValueError, match="Expected data of the model"):
            joint.log_prior(z)


def shape_of_data(x, y):
    x, y = x.to(torch.float64), y.to("cpu")
    loc = torch.zeros(x.shape[0], 2, dtype=x.dtype, device=x.device)
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(loc, x.new_ones(torch.Size((len(x), 2)))).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1) + y.mean(), 1.0), obs=x.flatten())


def test_priors_of_the_shape_of_data_need_none():
    z = torch.randn(5, 2)
    close(generative(shape_of_data).log_prior(z), Normal(0.0, 1.0).log_prob(z).sum(-1))


def test_later_sites_that_need_data_ask_for_them():
    def model(x, y):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a + y, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    z = {"a": torch.zeros(3), "b": torch.zeros(3)}
    with pytest.raises(ValueError, match="Expected data of the model"):
        generative(model).log_prior(z)
    close(
        generative(model).log_prior(z, torch.zeros(3), torch.ones(3)),
        Normal(0.0, 1.0).log_prob(torch.zeros(3)) + Normal(1.0, 1.0).log_prob(torch.zeros(3)),
    )


def test_placeholders_leave_no_parameters():
    def model(x):
        loc = pyro.param("loc", lambda: x.mean())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + loc, 1.0), obs=x)

    z = torch.randn(4)
    close(generative(model).log_prior(z), Normal(0.0, 1.0).log_prob(z))
    assert "loc" not in pyro.get_param_store()
    generative(model).log_likelihood(torch.ones(4), z)
    assert pyro.param("loc").item() == 1.0


def test_keyword_defaults_are_left_alone():
    def model(x, scale=2.0, *, loc=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    z = torch.randn(4)
    close(generative(model).log_prior(z), Normal(1.0, 2.0).log_prob(z))
    close(generative(model).log_likelihood(torch.zeros(4), z), Normal(z, 1.0).log_prob(torch.zeros(4)))


def test_models_without_data_by_default():
    def model(x=None):
        with pyro.plate("data", 3 if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    z = torch.randn(4)
    close(generative(model).log_prior(z), Normal(0.0, 1.0).log_prob(z))


# ---- modules


class Module(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.decoder = nn.Linear(2, 3, dtype=dtype)
        self.loc = nn.Parameter(torch.ones(2, dtype=dtype))

    def forward(self, x, unused):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    model = forward


class Bayesian(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = PyroModule[nn.Linear](2, 3)
        self.decoder.bias = PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))

    def forward(self, x):
        bias = self.decoder.bias  # sampled once, outside the plate
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.decoder.weight.T + bias, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("method", [False, True])
def test_modules(method):
    module = Module()
    x, z = torch.randn(5, 3), torch.randn(5, 2)
    joint = generative(module.model if method else module)
    close(joint.log_prior(z), Normal(1.0, 1.0).log_prob(z).sum(-1).detach())
    expected = Normal(module.decoder(z), 1.0).log_prob(x).sum(-1).detach()
    close(joint.log_likelihood((x, x), z).detach(), expected)


def test_vae():
    vae = VAE(MLPEncoder((3, 2), hidden=(5,)), MLPDecoder(2, (3, 2), hidden=(5,)), latent_dim=2).double()
    x, z = torch.rand(5, 3, 2).round(), torch.randn(5, 2)
    joint = generative(vae.model)
    close(joint.log_prior(z), Normal(0.0, 1.0).log_prob(z).sum(-1))
    close(joint.log_likelihood(x, z).detach(), vae.decode(z).log_prob(x).detach())


def test_single_precision_programs_score_values_in_double():
    module = Module(torch.float32)
    x, z = torch.randn(5, 3), torch.randn(5, 2)
    joint = generative(module.model)
    close(joint.log_prior(z, x, x).detach(), Normal(1.0, 1.0).log_prob(z).sum(-1))
    expected = Normal(module.decoder(z.float()).double(), 1.0).log_prob(x).sum(-1).detach()
    close(joint.log_likelihood((x, x), z).detach(), expected)


# ---- gradients, programs, randomness


def test_gradients_through_both_terms():
    scale = torch.tensor(0.7, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    x, z = torch.randn(5), torch.randn(5, requires_grad=True)
    joint = generative(model)
    (prior,) = torch.autograd.grad(joint.log_prior(z).sum(), z)
    torch.testing.assert_close(prior, -z.detach() / 4)
    to_z, to_scale = torch.autograd.grad(joint.log_likelihood(x, z).sum(), (z, scale))
    residual = (x - z).detach()
    torch.testing.assert_close(to_z, residual / 0.49)
    torch.testing.assert_close(to_scale, (residual**2 / 0.7**3 - 1 / 0.7).sum())


def test_it_trains_as_a_program():
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    joint = generative(model)
    svi = pyro.infer.SVI(joint, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.TraceMeanField_ELBO())
    z = torch.zeros(2)
    before = joint.log_prior(z, torch.zeros(2)).detach()
    for _ in range(100):
        svi.step(torch.full((10,), 3.0))
    loc = pyro.param("loc").detach()
    assert abs(float(loc) - 3.0) < 0.1
    close(joint.log_prior(z, torch.zeros(2)).detach(), Normal(loc, 1.0).log_prob(z))
    assert not torch.equal(before, joint.log_prior(z).detach())


def test_moments_of_draws():
    draws = generative(scalar_event().model).sample(20_000, torch.zeros(3), seed=0)
    assert abs(float(draws["z"].mean()) - 0.5) < 4 * 2.0 / math.sqrt(20_000)
    variance = 9 * 4 + 0.49
    assert abs(float(draws["x"].mean()) - 1.5) < 4 * math.sqrt(variance / 20_000)
    assert abs(float(draws["x"].var()) - variance) < 4 * variance * math.sqrt(2 / 20_000)


def test_draws_need_data_only_once():
    joint = generative(scalar_event().model)
    with pytest.raises(ValueError, match=r"Expected data of the model but got none.*sample\(10, x\)"):
        joint.sample(2)
    joint.sample(2, torch.zeros(3))
    assert joint.sample(5)["x"].shape == (5,)


def test_seeded_draws_repeat_and_leave_the_random_state():
    joint, x = generative(scalar_event().model), torch.zeros(3)
    state = torch.get_rng_state()
    first, again = (joint.sample(4, x, seed=3) for _ in range(2))
    assert torch.equal(first["x"], again["x"])
    assert not torch.equal(first["x"], joint.sample(4, x, seed=4)["x"])
    assert torch.equal(state, torch.get_rng_state())


def test_densities_leave_the_random_state():
    joint, z = generative(two_sites), {"a": torch.zeros(3), "b": torch.zeros(3, 2)}
    state = torch.get_rng_state()
    joint.log_prior(z)
    joint.log_likelihood(torch.zeros(3), z)
    assert torch.equal(state, torch.get_rng_state())


# ---- the prior as a distribution over all latent dimensions


def space_of(joint, x):
    return LatentSpace(joint.program(x).latents)


@pytest.mark.parametrize("family", [scalar_event, matrix_event, pixels_left])
def test_normal_priors_are_normals(family):
    case = family()
    joint = generative(case.model)
    prior = joint.prior(space_of(joint, case.x), case.x)
    assert isinstance(prior, Independent)
    z = case.z(4)
    close(prior.log_prob(z.reshape(4, -1)), case.prior(z))


def test_the_prior_takes_the_order_that_is_asked_for():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(5.0, 1.0))
            pyro.sample("b", dist.Normal(torch.zeros(2), 3.0).to_event(1))
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    joint, x = generative(model), torch.randn(4)
    layouts = joint.program(x).latents
    prior = joint.prior(LatentSpace({name: layouts[name] for name in ("b", "a")}), x)
    assert prior.mean.tolist() == [0.0, 0.0, 5.0]
    assert prior.stddev.tolist() == [3.0, 3.0, 1.0]


@pytest.mark.parametrize("family", [mixture_prior, flow_prior, correlated])
def test_other_priors_are_scored_by_the_model(family):
    case = family()
    joint = generative(case.model)
    prior = joint.prior(space_of(joint, case.x), case.x)
    z = case.z(30)
    close(prior.log_prob(z.reshape(3, 10, -1)), case.prior(z).reshape(3, 10))
    assert prior.sample((4, 2)).shape == (4, 2, 2)


def test_dependent_sites_are_no_normal_prior():
    joint, x = generative(two_sites), torch.randn(5)
    prior = joint.prior(space_of(joint, x), x)
    z = torch.randn(9, 3)
    expected = Normal(0.0, 2.0).log_prob(z[:, 0]) + Normal(z[:, :1], 0.5).log_prob(z[:, 1:]).sum(-1)
    close(prior.log_prob(z), expected)
    close(prior.log_prob(z[0]), expected[0])
    assert prior.batch_shape == ()
    assert prior.event_shape == prior.sample().shape == (3,)
    near = prior.sample((500,)).diff(dim=1)[:, 0]  # b is around a
    assert abs(float(near.std()) - 0.5) < 4 * 0.5 / 1000**0.5


def test_a_rare_dependence_is_seen():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("b", dist.Normal(torch.where(a > 6, 5.0, 0.0), 1.0))
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    joint, x = generative(model), torch.randn(50)
    prior = joint.prior(space_of(joint, x), x)
    close(
        prior.log_prob(torch.tensor([[7.0, 5.0]])),
        (Normal(0.0, 1.0).log_prob(torch.tensor([7.0])) + Normal(0.0, 1.0).log_prob(torch.tensor([0.0]))),
    )


def test_priors_of_fixed_plates_take_any_number_of_values():
    def model(x):
        with pyro.plate("data", 90):
            z = pyro.sample("z", dist.Laplace(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    joint, x = generative(model), torch.randn(90)
    prior = joint.prior(space_of(joint, x), x)
    z = torch.randn(200, 1)
    close(prior.log_prob(z), dist.Laplace(0.0, 1.0).log_prob(z[:, 0]))


@pytest.mark.parametrize("sizes", [(3, 3), (200, 1)])
def test_priors_of_covariates_are_no_one_prior(sizes):
    label = torch.tensor([0] * sizes[0] + [1] * sizes[1])  # sorted, and perhaps unequal late only
    joint, data = generative(conditional_prior), (torch.randn(len(label)), label)
    with pytest.raises(NotImplementedError, match="depends on the data"):
        joint.prior(space_of(joint, data), data)


@pytest.mark.parametrize(("apart", "is_one"), [(4, True), (4000, False)])
def test_a_prior_that_rounds_differently_from_row_to_row_is_one_prior(apart, is_one):
    def model(x):
        unit = torch.finfo(torch.float32).eps
        loc = torch.linspace(0.0, apart * unit, len(x), dtype=torch.float32)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 0.3))  # whose log-density is 0 within its range
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    joint, x = generative(model), torch.randn(300, dtype=torch.float32)
    space = space_of(joint, x)
    if is_one:
        assert joint.prior(space, x).event_shape == (1,)
    else:
        with pytest.raises(NotImplementedError, match="depends on the data"):
            joint.prior(space, x)


# ---- errors


def no_plate(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def square(x):
    with pyro.plate("left", 3, dim=-2), pyro.plate("right", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, torch.arange(1.0, 4.0)), obs=x)


def test_no_plate():
    with pytest.raises(ValueError, match=r"Expected a vectorised plate .* put the local sites into"):
        generative(no_plate).log_likelihood(torch.zeros(3), torch.zeros(3))


def test_several_plates():
    with pytest.raises(ValueError, match=r"\['left', 'right'\] all fit 3 data; say which by data_plate="):
        generative(square).log_likelihood(torch.zeros(3, 3), torch.zeros(3, 3))


@pytest.mark.parametrize(("plate", "axis"), [("left", 1), ("right", 0)])
def test_several_plates_resolved_by_name(plate, axis):
    x, z = torch.randn(3, 3), torch.randn(3, 3)  # (left, right)
    values = z if plate == "left" else z.T
    score = generative(square, data_plate=plate).log_likelihood(x, values)
    close(score, Normal(z, torch.arange(1.0, 4.0)).log_prob(x).sum(axis))


def test_unknown_plate():
    with pytest.raises(ValueError, match=r"Expected a plate 'rows' in the model but got \['left', 'right'\]"):
        generative(square, data_plate="rows").log_likelihood(torch.zeros(3, 3), torch.zeros(3, 3))


SITES = {"a": torch.zeros(3), "b": torch.zeros(3, 2)}


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(3), r"dict with the sites \['a', 'b'\] but got a tensor"),
        ({"a": torch.zeros(3)}, r"\['b'\] are missing"),
        (SITES | {"c": torch.zeros(3)}, r"\['c'\] too"),
        (SITES | {"b": torch.zeros(3, 4)}, r"'b' of shape \(M, 2\) but got \(3, 4\)"),
        (SITES | {"a": torch.zeros(4)}, "one number of values"),
        (SITES | {"a": 1.0}, "values of 'a' but got float"),
        ({}, "one number of values"),
    ],
)
def test_wrong_sites(z, message):
    for x in ((), (torch.zeros(3),)):
        with pytest.raises(ValueError, match=message):
            generative(two_sites).log_prior(z, *x)
    with pytest.raises(ValueError, match=message):
        generative(two_sites).log_likelihood(torch.zeros(3), z)


def test_observed_sites_may_come_along():
    case = scalar_event()
    joint = generative(case.model)
    draws = joint.sample(5, case.x)
    close(joint.log_prior(draws), case.prior(draws["z"]))
    close(joint.log_prior(draws, case.x[:1]), case.prior(draws["z"]))


def test_wrong_shape_of_observed_sites():
    case = vector_event()
    with pytest.raises(ValueError, match=r"'x' of shape \(M, 2\) but got \(7, 5\)"):
        generative(case.model).log_prob({"z": case.z(7), "x": torch.zeros(7, 5)}, case.x)


def test_values_and_data_of_different_numbers():
    case = scalar_event()
    with pytest.raises(ValueError, match=r"as many values as data.* got 5 values and 7 data"):
        generative(case.model).log_likelihood(case.x, case.z(5))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((torch.zeros(3), torch.zeros(4)), r"one number of data.*\[3, 4\]"),
        (torch.zeros(0), r"at least 1.*\[0\]"),
        ([1.0, 2.0], r"a tensor, an array or a frame, or a tuple.*\['float', 'float'\]"),
        (torch.tensor(1.0), "a first axis over the data but got a tensor without axes"),
    ],
)
def test_wrong_data(x, message):
    with pytest.raises(ValueError, match=message):
        generative(two_sites).log_likelihood(x, SITES)


def test_too_few_draws():
    with pytest.raises(ValueError, match="num_samples to be an integer >= 1 but got 0"):
        generative(two_sites).sample(0, torch.zeros(3))


def test_log_prob_asks_for_data_that_are_not_among_the_sites(labelled):
    with pytest.raises(ValueError, match=r"Expected (the )?data of the model.*x\)"):
        generative(conditional_prior).log_prob({"z": torch.zeros(6), "x": labelled[0]})


def test_placeholders_are_not_returned():
    assert not isinstance(generative(two_sites).log_prior(SITES), Placeholder)


def test_batches_without_plates():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"plates for all batch dimensions of 'z'.*to_event"):
        generative(model).log_likelihood(torch.zeros(3, 4), torch.zeros(3, 4))


def test_bayesian_module_under_condition():
    module = Bayesian().double()
    bias = torch.randn(3)
    joint = generative(poutine.condition(module, {"decoder.bias": bias}))
    x, z = torch.randn(5, 3), torch.randn(5, 2)
    expected = Normal(z @ module.decoder.weight.T + bias, 1.0).log_prob(x).sum(-1).detach()
    close(joint.log_likelihood(x, z).detach(), expected)


def test_data_of_another_shape_are_read_anew():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    joint, z = generative(model), torch.randn(5)
    for width in (4, 6):
        x = torch.randn(5, width)
        close(joint.log_likelihood(x, z), Normal(z[:, None], 1.0).log_prob(x).sum(-1))


def test_site_terms_are_the_parts_of_prior_and_likelihood():
    joint, x = generative(two_sites), torch.randn(5)
    z = {name: each for name, each in joint.sample(5, x, seed=0).items() if name in joint.program(x).latents}
    terms = joint.site_terms(x, z)
    assert set(terms) == set(joint.program(x).latents) | set(joint.program(x).observed)
    log_prior, log_likelihood = joint.log_terms(x, z)
    close(sum(terms[name] for name in z), log_prior)
    close(sum(each for name, each in terms.items() if name not in z), log_likelihood)
    close(terms["a"], Normal(0.0, 2.0).log_prob(z["a"]))


def test_independent_sites_of_several_families_are_a_product_prior():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Gamma(2.0, 1.0))
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.8])))
            pyro.sample("x", dist.Normal(a + c, 1.0), obs=x)

    joint, x = generative(model), torch.randn(5)
    prior = joint.prior(space_of(joint, x), x)
    assert isinstance(prior, torch.distributions.Independent)
    z = torch.stack([torch.rand(9), torch.arange(9.0) % 2], -1)
    expected = Gamma(2.0, 1.0).log_prob(z[:, 0]) + torch.tensor([0.2, 0.8]).log()[z[:, 1].long()]
    close(prior.log_prob(z), expected)
