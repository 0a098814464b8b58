"""Densities and draws of the representation joint against loops over data and values."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal, AutoNormalMessenger
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    StudentT,
)

from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.joint import generative, representation
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.poutine import weight
from pyro_infomax.vae import VAE

TOLERANCE = {"rtol": 0, "atol": 1e-9}
Sites = dict[str, torch.Tensor]


def close(value, expected):
    assert value.dtype == torch.float64
    assert value.shape == expected.shape
    torch.testing.assert_close(value, expected.double(), **TOLERANCE)


# ---- one guide a family, with log q(z|x) of one value and one datum


@dataclass
class Case:
    guide: Callable[..., Any]
    x: torch.Tensor
    values: Callable[[int], Sites]
    log_prob: Callable[[Sites, torch.Tensor], torch.Tensor]

    def table(self, z):
        """log q(z_m|x_n), (M, N), one by one."""
        size = len(next(iter(z.values())))
        rows = [{name: each[m] for name, each in z.items()} for m in range(size)]
        return torch.stack([torch.stack([self.log_prob(row, x) for x in self.x]) for row in rows])


def one(guide, x, values, log_prob):
    return Case(guide, x, lambda m: {"z": values(m)}, lambda z, x: log_prob(z["z"], x))


def scalar_event():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(2 * x, x.exp()))

    return one(guide, torch.randn(6), torch.randn, lambda z, x: Normal(2 * x, x.exp()).log_prob(z))


def vector_event():
    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x, 0.3).to_event(1))

    return one(
        guide,
        torch.randn(6, 2),
        lambda m: torch.randn(m, 2),
        lambda z, x: Normal(x, 0.3).log_prob(z).sum(),
    )


def matrix_event():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.3).to_event(2))

    return one(
        guide,
        torch.randn(6, 2, 3),
        lambda m: torch.randn(m, 2, 3),
        lambda z, x: Normal(x, 0.3).log_prob(z).sum(),
    )


COV = torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double()


def correlated():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x, COV))

    return one(
        guide,
        torch.randn(6, 2),
        lambda m: torch.randn(m, 2),
        lambda z, x: MultivariateNormal(x, COV).log_prob(z),
    )


def laplace():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Laplace(x, 0.5).to_event(1))

    return one(
        guide,
        torch.randn(6, 2),
        lambda m: torch.randn(m, 2),
        lambda z, x: Laplace(x, 0.5).log_prob(z).sum(),
    )


def binary():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=x), infer={"enumerate": "parallel"})

    return one(
        guide,
        torch.randn(6),
        lambda m: (torch.arange(m) % 2).double(),
        lambda z, x: Bernoulli(logits=x).log_prob(z),
    )


def categorical():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=x))

    return one(
        guide,
        torch.randn(6, 3),
        lambda m: torch.arange(m) % 3,
        lambda z, x: Categorical(logits=x).log_prob(z),
    )


def one_hot():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.OneHotCategorical(logits=x))

    return one(
        guide,
        torch.randn(6, 3),
        lambda m: torch.eye(3)[torch.arange(m) % 3],
        lambda z, x: (z * x.log_softmax(-1)).sum(),
    )


def flow():
    def guide(x):
        base = dist.Normal(x, 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.ExpTransform()]))

    return one(
        guide,
        torch.randn(6, 2),
        lambda m: torch.rand(m, 2) + 0.1,
        lambda z, x: (Normal(x, 1.0).log_prob(z.log()) - z.log()).sum(),
    )


def positive():
    """A transform that its posteriors share, over a matrix."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(x, 0.6).to_event(2))

    return one(
        guide,
        torch.randn(6, 2, 3),
        lambda m: torch.rand(m, 2, 3) + 0.1,
        lambda z, x: (Normal(x, 0.6).log_prob(z.log()) - z.log()).sum(),
    )


def logit_of_simplex(z):
    """The real vectors that stick breaking maps to points of a simplex, and its log-volume."""
    rest = 1 - z.cumsum(-1)[..., :-1] + z[..., :-1]  # what is left before each part
    offset = torch.arange(z.shape[-1] - 1, 0, -1.0).log()
    share = z[..., :-1] / rest
    return share.logit() + offset, (share.log() + (1 - share).log() + rest.log()).sum(-1)


def simplex():
    def guide(x):
        base = dist.Normal(x, 0.7).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.StickBreakingTransform()]))

    def log_prob(z, x):
        u, stretch = logit_of_simplex(z)
        return Normal(x, 0.7).log_prob(u).sum() - stretch

    return one(guide, torch.randn(6, 2), lambda m: torch.rand(m, 3).log().softmax(-1), log_prob)


def interval():
    """Two transforms, one of which holds a tensor, behind a scalar site."""

    def guide(x):
        steps = [dist.transforms.SigmoidTransform(), dist.transforms.AffineTransform(torch.tensor(-1.0), 3.0)]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(x, 0.8), steps))

    def log_prob(z, x):
        share = (z + 1) / 3
        return Normal(x, 0.8).log_prob(share.logit()) - (3 * share * (1 - share)).log()

    return one(guide, torch.randn(6), lambda m: 3 * torch.rand(m) - 1, log_prob)


def correlated_and_positive():
    def guide(x):
        base = dist.MultivariateNormal(x, COV)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.ExpTransform()]))

    return one(
        guide,
        torch.randn(6, 2),
        lambda m: torch.rand(m, 2) + 0.1,
        lambda z, x: MultivariateNormal(x, COV).log_prob(z.log()) - z.log().sum(),
    )


def low_rank():
    factor = torch.tensor([[0.5], [0.2], [-0.4]]).double()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LowRankMultivariateNormal(x, factor, torch.full((3,), 0.3)))

    covariance = factor @ factor.T + 0.3 * torch.eye(3).double()
    return one(
        guide,
        torch.randn(6, 3),
        lambda m: torch.randn(m, 3),
        lambda z, x: MultivariateNormal(x, covariance).log_prob(z),
    )


def moved_by_the_datum():
    """A transform with parameters of the datum, which is no coordinate of all."""

    def guide(x):
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        steps = [dist.transforms.AffineTransform(x, 2.0), dist.transforms.ExpTransform()]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base.expand([len(x)]), steps))

    return one(
        guide,
        torch.randn(6, 2),
        lambda m: torch.rand(m, 2) + 0.1,
        lambda z, x: (Normal(x, 2.0).log_prob(z.log()) - z.log()).sum(),
    )


def bits_in_a_plate():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("pixels", 3, dim=-2):
            pyro.sample("z", dist.Bernoulli(logits=x.T))

    return one(
        guide,
        torch.randn(6, 3),
        lambda m: torch.randint(2, (m, 3)).double(),
        lambda z, x: Bernoulli(logits=x).log_prob(z).sum(),
    )


def inner_plate_left():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("pixels", 3, dim=-2):
            pyro.sample("z", dist.Normal(x.T, 0.4))

    return one(
        guide,
        torch.randn(6, 3),
        lambda m: torch.randn(m, 3),
        lambda z, x: Normal(x, 0.4).log_prob(z).sum(),
    )


def inner_plate_right():
    def guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
            pyro.sample("z", dist.Laplace(x, 0.4))

    return one(
        guide,
        torch.randn(6, 3),
        lambda m: torch.randn(m, 3),
        lambda z, x: Laplace(x, 0.4).log_prob(z).sum(),
    )


def independent_sites():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Normal(x, 0.3).to_event(1))
            pyro.sample("a", dist.Normal(x.sum(-1), 0.5))

    return Case(
        guide,
        torch.randn(6, 2),
        lambda m: {"a": torch.randn(m), "b": torch.randn(m, 2)},
        lambda z, x: Normal(x, 0.3).log_prob(z["b"]).sum() + Normal(x.sum(), 0.5).log_prob(z["a"]),
    )


def mixed_families():
    """A class, bits in a plate on one side and positive vectors in one on the other, a real vector."""

    def guide(x):
        data = pyro.plate("data", len(x), dim=-2)
        with data, pyro.plate("right", 3, dim=-1):
            pyro.sample("positive", dist.LogNormal(x[:, :, None] * torch.ones(2), 0.5).to_event(1))
        with data, pyro.plate("left", 2, dim=-3):
            pyro.sample("bits", dist.Bernoulli(logits=x.T[:2, :, None]))
        with data:
            pyro.sample("class", dist.Categorical(logits=x[:, None]))
            pyro.sample("real", dist.StudentT(4.0, x[:, None, :2], 0.5).to_event(1))

    return Case(
        guide,
        torch.randn(6, 3),
        lambda m: {
            "positive": torch.rand(m, 3, 2) + 0.1,
            "bits": torch.randint(2, (m, 2)).double(),
            "class": torch.arange(m) % 3,
            "real": torch.randn(m, 2),
        },
        lambda z, x: (
            (Normal(x[:, None], 0.5).log_prob(z["positive"].log()) - z["positive"].log()).sum()
            + Bernoulli(logits=x[:2]).log_prob(z["bits"]).sum()
            + Categorical(logits=x).log_prob(z["class"])
            + StudentT(4.0, x[:2], 0.5).log_prob(z["real"]).sum()
        ),
    )


def plates_on_either_side():
    """Two sites in different plates, the second around the first."""

    def guide(x):
        data = pyro.plate("data", len(x), dim=-2)
        with data, pyro.plate("right", 3, dim=-1):
            a = pyro.sample("a", dist.LogNormal(x, 0.5))
        with data, pyro.plate("left", 2, dim=-3):
            pyro.sample("b", dist.Normal(a.mean(-1, keepdim=True), 0.3))

    return Case(
        guide,
        torch.randn(6, 3),
        lambda m: {"a": torch.rand(m, 3) + 0.1, "b": torch.randn(m, 2)},
        lambda z, x: (
            (Normal(x, 0.5).log_prob(z["a"].log()) - z["a"].log()).sum()
            + Normal(z["a"].mean(), 0.3).log_prob(z["b"]).sum()
        ),
    )


def simplex_and_normal():
    """Independent sites of which one is no product."""

    def guide(x):
        base = dist.Normal(x, 0.7).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("s", dist.TransformedDistribution(base, [dist.transforms.StickBreakingTransform()]))
            pyro.sample("r", dist.Normal(x[:, 0], 0.4))

    def log_prob(z, x):
        u, stretch = logit_of_simplex(z["s"])
        return Normal(x, 0.7).log_prob(u).sum() - stretch + Normal(x[0], 0.4).log_prob(z["r"])

    values = lambda m: {"s": torch.rand(m, 3).log().softmax(-1), "r": torch.randn(m)}  # noqa: E731
    return Case(guide, torch.randn(6, 2), values, log_prob)


def mixed_sites():
    def guide(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=x))
            pyro.sample("z", dist.Normal(torch.arange(3.0)[c], 0.5))

    return Case(
        guide,
        torch.randn(6, 3),
        lambda m: {"c": torch.arange(m) % 3, "z": torch.randn(m)},
        lambda z, x: Categorical(logits=x).log_prob(z["c"]) + Normal(z["c"].double(), 0.5).log_prob(z["z"]),
    )


def dependent(loc_of):
    """Two sites, the second around a function of the first and x."""

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x[:, :1], 0.3).to_event(1))
            pyro.sample("b", dist.Normal(loc_of(a, x), 0.5))

    return Case(
        guide,
        torch.randn(6, 2),
        lambda m: {"a": torch.randn(m, 1), "b": torch.randn(m)},
        lambda z, x: (
            Normal(x[:1], 0.3).log_prob(z["a"]).sum() + Normal(z["a"].sum() * x[1], 0.5).log_prob(z["b"])
        ),
    )


def broadcasting():
    return dependent(lambda a, x: a[..., 0] * x[:, 1])


def reshaping():
    return dependent(lambda a, x: a.reshape(len(x)) * x[:, 1])


def concatenating():
    return dependent(lambda a, x: torch.cat([a, x[:, 1:]], -1).prod(-1))


def of_the_first_axis():
    """Broadcasts to another result: with an outer dimension the first axis is not the data."""
    return dependent(lambda a, x: (a[..., 0].flatten()[: len(x)]) * x[:, 1])


def convolving():
    def loc_of(a, x):
        kernel = torch.ones(1, 1, 1)
        return nn.functional.conv1d(a.unsqueeze(1), kernel)[:, 0, 0] * x[:, 1]

    return dependent(loc_of)


def normalising():
    layer = nn.BatchNorm1d(1, affine=False, eps=0.0).double().eval()
    return dependent(lambda a, x: layer(a)[:, 0] * x[:, 1])


SINGLE = [
    scalar_event,
    vector_event,
    matrix_event,
    correlated,
    laplace,
    binary,
    categorical,
    one_hot,
    flow,
    positive,
    simplex,
    interval,
    correlated_and_positive,
    low_rank,
    moved_by_the_datum,
    bits_in_a_plate,
    inner_plate_left,
    inner_plate_right,
]
SEVERAL = [
    independent_sites,
    mixed_families,
    plates_on_either_side,
    simplex_and_normal,
    mixed_sites,
    broadcasting,
    reshaping,
    concatenating,
    of_the_first_axis,
    convolving,
    normalising,
]


@pytest.fixture(params=[*SINGLE, *SEVERAL], ids=lambda family: family.__name__)
def case(request):
    return request.param()


def test_densities(case):
    """Of values with their own data, all with one datum, one value with all data, and all with all."""
    joint, z = representation(case.guide, case.x), case.values(6)
    table = case.table(z)
    close(joint.log_posterior(z, case.x), table.diagonal())
    close(joint.log_posterior(z, case.x[2:3]), table[:, 2])
    close(joint.log_posterior({name: each[:1] for name, each in z.items()}, case.x), table[0])
    close(joint.log_aggregate(z), table.logsumexp(1) - math.log(6))
    inverted = joint.log_inverted(z)
    close(inverted, table.log_softmax(1))
    close(inverted.logsumexp(1), torch.zeros(6))


def test_draws(case):
    """They have the shapes and types that are scored, and so have those of the posterior of each datum."""
    joint = representation(case.guide, case.x)
    draw, like = joint.sample(9, seed=0), case.values(9)
    assert {name: each.shape for name, each in draw.items()} == {n: each.shape for n, each in like.items()}
    assert {name: each.dtype for name, each in draw.items()} == {n: each.dtype for n, each in like.items()}
    assert torch.equal(draw.data[0], case.x[draw.index])
    rows = torch.arange(9)
    close(joint.log_posterior(draw, draw.data), case.table(draw)[rows, draw.index])
    z = joint.posterior.sample((2,))
    assert z.shape == (2, 6, joint.space.size)
    score = joint.posterior.log_prob(z)
    assert score.shape == (2, 6)
    sites = joint.space.unflatten(z.flatten(0, 1))
    table = case.table({name: each.to(like[name].dtype) for name, each in sites.items()})
    close(score.double(), table.unflatten(0, (2, 6)).diagonal(dim1=1, dim2=2))


def test_a_bare_tensor_is_the_lone_site():
    case = vector_event()
    z = case.values(5)
    joint = representation(case.guide, case.x)
    close(joint.log_aggregate(z["z"]), joint.log_aggregate(z))


@pytest.mark.parametrize(
    "family", [vector_event, independent_sites, interval, inner_plate_right, categorical, mixed_families]
)
def test_independent_dimensions_are_one_product(family):
    case = family()
    posterior = representation(case.guide, case.x).posterior
    assert isinstance(posterior, Independent)
    z = posterior.sample()
    each = posterior.base_dist.log_prob(z)  # (data, latent)
    assert each.shape == z.shape
    close(each.sum(-1), posterior.log_prob(z))
    assert z.dtype == torch.float64


@pytest.mark.parametrize("family", [laplace, one_hot, flow, low_rank])
def test_lone_vectors_keep_their_distribution(family):
    case = family()
    assert isinstance(representation(case.guide, case.x).posterior, Distribution)


@pytest.mark.parametrize("low_rank", [False, True])
def test_single_precision_normals_keep_their_distribution(low_rank):
    covariance = (1e-4 * (0.8 + 0.2 * torch.eye(3))).float()
    factor, x = torch.full((3, 1), 9e-3).float(), 3 * torch.randn(200, 3).float()

    def guide(x):
        with pyro.plate("data", len(x)):
            if low_rank:
                fn = dist.LowRankMultivariateNormal(x, factor, torch.full((3,), 2e-5).float())
            else:
                fn = dist.MultivariateNormal(x, covariance)
            pyro.sample("z", fn)

    found = representation(guide, x).posterior
    assert isinstance(found, Distribution)
    z = x[:, None].double()
    alone = torch.cat([found.log_prob(each[None]) for each in z])
    close(found.log_prob(z).diagonal(), alone.reshape(200, 200).diagonal())


def test_a_rare_dependence_is_seen():
    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("b", dist.Normal(torch.where(a > x + 6, 5.0, 0.0), 1.0))

    joint = representation(guide, torch.zeros(50))
    z = {"a": torch.tensor([7.0]), "b": torch.tensor([5.0])}
    expected = Normal(0.0, 1.0).log_prob(torch.tensor([7.0])) + Normal(0.0, 1.0).log_prob(torch.zeros(1))
    close(joint.log_aggregate(z), expected)


# ---- plates and parameters


@pytest.mark.parametrize(
    ("size", "style", "family"),
    [
        (12, "index", dist.Normal),
        (10, "subsample", dist.Laplace),
        (10, "index", dist.Laplace),
        (70, "subsample", dist.Normal),
        (5, "index", dist.Laplace),
    ],
)
def test_subsampling_guides(size, style, family):
    def guide(x):
        with pyro.plate("data", len(x), subsample_size=4) as rows:
            part = x[rows] if style == "index" else pyro.subsample(x, event_dim=0)
            pyro.sample("z", family(part, 0.5))

    x, z = torch.randn(size), torch.randn(size)
    joint = representation(guide, x)
    close(joint.log_posterior(z, x), family(x, 0.5).log_prob(z))
    close(joint.log_aggregate(z), family(x, 0.5).log_prob(z[:, None]).logsumexp(1) - math.log(size))
    others = torch.randn(3)
    close(joint.log_posterior(others, others + 1), family(others + 1, 0.5).log_prob(others))


def test_dependent_sites_in_a_subsampling_guide():
    def guide(x):
        with pyro.plate("data", len(x), subsample_size=4) as rows:
            a = pyro.sample("a", dist.Normal(x[rows], 0.5))
            pyro.sample("b", dist.Normal(a.reshape(4), 1.0))

    x, z = torch.randn(10), {"a": torch.randn(3), "b": torch.randn(3)}
    table = Normal(x, 0.5).log_prob(z["a"][:, None]) + Normal(z["a"], 1.0).log_prob(z["b"])[:, None]
    close(representation(guide, x).log_aggregate(z), table.logsumexp(1) - math.log(10))
    assert representation(guide, x).posterior.sample((2,)).shape == (2, 10, 2)


def per_datum(x):
    loc = pyro.param("loc", torch.zeros(len(x)))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0))


def per_datum_of_known_size(x):
    loc = pyro.param("loc", torch.zeros(1100))
    assert len(x) == 1100, "all data, please"
    with pyro.plate("data", 1100):
        pyro.sample("z", dist.Normal(loc, 1.0))


def per_datum_subsampled(x):
    loc = pyro.param("loc", torch.zeros(len(x)))
    with pyro.plate("data", len(x), subsample_size=30) as rows:
        pyro.sample("z", dist.Normal(loc[rows], 1.0))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("guide", "size"),
    [
        (per_datum, 20),
        (per_datum, 64),
        (per_datum, 100),
        (per_datum, 1100),
        (per_datum_of_known_size, 1100),
        (per_datum_subsampled, 1100),
        (per_datum_subsampled, 50),
    ],
)
def test_parameters_for_each_datum(guide, size, trained):
    x, loc = torch.zeros(size), torch.zeros(size)
    if trained:
        loc = torch.randn(size)
        pyro.param("loc", loc.clone())
    joint = representation(guide, x)
    assert list(pyro.get_param_store().keys()) == ["loc"]
    assert pyro.param("loc").shape == (size,)
    z = torch.randn(size)
    close(joint.log_posterior(z, x).detach(), Normal(loc, 1.0).log_prob(z))
    few = torch.randn(3)
    expected = Normal(loc, 1.0).log_prob(few[:, None]).logsumexp(1) - math.log(size)
    close(joint.log_aggregate(few).detach(), expected)


def test_draws_of_parameters_for_each_datum():
    x = torch.zeros(100)
    pyro.param("loc", 100 * torch.arange(100.0))
    draw = representation(per_datum, x).sample(500, seed=0)
    noise = draw["z"] - 100 * draw.index
    assert float(noise.abs().max()) < 6
    assert noise.unique().numel() == 500


@pytest.mark.parametrize("guide", [per_datum, per_datum_subsampled])
def test_parameters_for_each_datum_do_not_fit_other_data(guide):
    x = torch.randn(100)
    pyro.param("loc", torch.randn(100))
    joint = representation(guide, x)
    with pytest.raises(ValueError, match=r"Expected the joint's own 100 data.*joint.data"):
        joint.log_posterior(torch.zeros(50), x[50:])


def test_minibatches_of_a_larger_plate():
    def guide(x):
        with pyro.plate("data", 5000, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    x, z = torch.randn(200), torch.randn(200)
    joint = representation(guide, x)
    assert joint.program.follows
    close(joint.log_posterior(z, x), Normal(x, 1.0).log_prob(z))
    close(joint.log_posterior(z[:3], x[5:8]), Normal(x[5:8], 1.0).log_prob(z[:3]))


def test_guides_run_in_pieces():
    case = vector_event()
    x, z = torch.randn(2500, 2), torch.randn(4, 2)
    joint = representation(case.guide, x)
    assert [len(rows) for rows in joint.program.pieces(2500)] == [1024, 1024, 452]
    expected = Normal(x, 0.3).log_prob(z[:, None]).sum(-1).logsumexp(1) - math.log(2500)
    close(joint.log_aggregate(z), expected)


def test_a_single_datum():
    joint = representation(vector_event().guide, torch.ones(1, 2))
    z = torch.randn(4, 2)
    close(joint.log_aggregate(z), Normal(1.0, 0.3).log_prob(z).sum(-1))
    close(joint.log_inverted(z), torch.zeros(4, 1))
    close(joint.log_posterior(z, torch.ones(1, 2)), Normal(1.0, 0.3).log_prob(z).sum(-1))


def test_labels_travel_along():
    def guide(x, label):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + label, 1.0))

    x, label, z = torch.randn(6), torch.tensor([0, 0, 1, 1, 2, 2]), torch.randn(6)
    joint = representation(guide, (x, label))
    close(joint.log_posterior(z, (x, label)), Normal(x + label, 1.0).log_prob(z))
    draw = joint.sample(20)
    assert torch.equal(draw.data[1], label[draw.index])


def test_an_inner_plate_of_the_same_size_needs_a_name():
    def guide(x):
        with pyro.plate("data", 3, dim=-2), pyro.plate("pixels", 3, dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    x, z = torch.randn(3, 3), torch.randn(3, 3)
    with pytest.raises(ValueError, match=r"\['data', 'pixels'\] all fit 3 data"):
        representation(guide, x)
    joint = representation(guide, x, data_plate="data")
    close(joint.log_posterior(z, x), Normal(x, 1.0).log_prob(z).sum(1))


# ---- what enters a density


def test_scales_and_weights_do_not_count():
    case = vector_event()
    z = case.values(6)
    for program in (poutine.scale(case.guide, scale=3.0), weight(case.guide, latent=0.0)):
        joint = representation(program, case.x)
        close(joint.log_posterior(z, case.x), case.table(z).diagonal())
        close(joint.log_aggregate(z), case.table(z).logsumexp(1) - math.log(6))


@pytest.mark.parametrize("family", [dist.Normal, dist.Laplace])
def test_masks_count(family):
    mask = torch.tensor([True, False, True])

    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            pyro.sample("z", family(x, 1.0))

    x, z = torch.randn(3), torch.randn(3)
    joint = representation(guide, x)
    close(joint.log_posterior(z, x), family(x, 1.0).log_prob(z) * mask)
    # a density of 1 wherever z may be is none, and has no part in a mixture
    with pytest.raises(NotImplementedError, match="have no mixture"):
        joint.log_aggregate(z)


def test_factors_are_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.factor("tilt", z, has_rsample=True)

    with pytest.raises(NotImplementedError, match="'tilt' is a factor or observed"):
        representation(guide, torch.zeros(3))


def test_deterministic_sites_do_not_count():
    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.deterministic("twice", 2 * z)

    joint = representation(guide, torch.zeros(3))
    assert list(joint.space.layouts) == ["z"]
    close(joint.log_aggregate(torch.zeros(2)), Normal(0.0, 1.0).log_prob(torch.zeros(2)))


def test_conditioned_guides_take_global_latents_as_given():
    def guide(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale))

    x, z = torch.randn(3), torch.randn(3)
    with pytest.raises(NotImplementedError, match=r"'scale' of the guide is outside.*condition"):
        representation(guide, x)
    joint = representation(poutine.condition(guide, {"scale": torch.tensor(2.0)}), x)
    close(joint.log_posterior(z, x), Normal(x, 2.0).log_prob(z))


# ---- Pyro's and our own guides


def toy_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_amortized_normal():
    def model(x):
        toy_model(x[:, 0])

    guide = AmortizedNormal(model, MLPEncoder(1).double())
    x, z = torch.randn(100, 1), torch.randn(100)
    joint = representation(guide, x)
    close(joint.log_posterior(z, x).detach(), guide.posterior(x)["z"].log_prob(z).detach())
    assert joint.sample(5)["z"].shape == (5,)


def test_vae():
    vae = VAE(MLPEncoder((3, 2), hidden=(5,)), MLPDecoder(2, (3, 2), hidden=(5,)), latent_dim=2).double()
    x, z = torch.rand(8, 3, 2), torch.randn(8, 2)
    joint = representation(vae.guide, x)
    posterior = vae.encode(x)
    close(joint.log_posterior(z, x).detach(), posterior.log_prob(z).detach())
    table = posterior.log_prob(z[:, None]).detach()
    close(joint.log_aggregate(z).detach(), table.logsumexp(1) - math.log(8))


def test_a_normal_guide_of_pyros_is_made_for_all_data_and_has_its_density():
    guide, x = AutoNormal(toy_model), torch.zeros(100)
    joint = representation(guide, x)
    assert guide.prototype_trace.nodes["z"]["value"].shape == (100,)
    guide.locs.z = torch.randn(100)
    z = torch.randn(100)
    expected = Normal(guide.locs.z.detach(), guide.scales.z.detach()).log_prob(z)
    close(joint.log_posterior(z, x).detach(), expected)


def test_other_auxiliary_sites_are_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(u, 1.0))

    with pytest.raises(NotImplementedError, match="'u' is auxiliary"):
        representation(guide, torch.zeros(10))


def test_point_guides_are_made_for_all_data():
    guide, x = AutoDelta(toy_model), torch.zeros(100)
    joint = representation(guide, x)
    assert joint.sample(7)["z"].shape == (7,)
    assert guide(x)["z"].shape == (100,)


def test_guides_that_are_messengers():
    guide, x = AutoNormalMessenger(toy_model), torch.zeros(100)
    joint = representation(guide, x)
    guide.locs.z = torch.randn(100)
    z = torch.randn(100)
    expected = Normal(guide.locs.z.detach(), guide.scales.z.detach()).log_prob(z)
    close(joint.log_posterior(z, x).detach(), expected)


# ---- precision, gradients, programs, training


def test_single_precision_guides_score_values_in_double():
    case = vector_event()
    x, z = case.x.float(), torch.randn(5, 2)
    joint = representation(case.guide, x)
    table = Normal(x.double(), torch.tensor(0.3).double()).log_prob(z[:, None]).sum(-1)
    torch.testing.assert_close(joint.log_aggregate(z), table.logsumexp(1) - math.log(6), rtol=0, atol=1e-5)
    # the same values in single and double precision have the same posterior, not a rounded one
    finer = joint.log_aggregate(z) - joint.log_aggregate(z + 1e-9)
    assert float(finer.abs().max()) > 0


def test_single_precision_flows_with_networks():
    torch.set_default_dtype(torch.float32)
    flow = dist.transforms.affine_autoregressive(2, hidden_dims=[4])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(x, 1.0).to_event(1), [flow]))

    x, z = torch.randn(6, 2), torch.randn(5, 2).double()
    fn = dist.TransformedDistribution(dist.Normal(x, 1.0).to_event(1), [flow])
    table = torch.stack([fn.log_prob(each.float().expand(6, 2)) for each in z]).double().detach()
    log_aggregate = representation(guide, x).log_aggregate(z).detach()
    torch.testing.assert_close(log_aggregate, table.logsumexp(1) - math.log(6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [dist.Normal, dist.Laplace])
def test_gradients(family):
    gain = torch.tensor(0.7, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", family(gain * x, 1.0))

    x, z = torch.randn(6), torch.randn(4, requires_grad=True)
    joint = representation(guide, x)
    table = family(gain * x, 1.0).log_prob(z[:, None])
    for value, expected in (
        (joint.log_aggregate(z), table.logsumexp(1)),
        (joint.log_inverted(z)[:, 0], table.log_softmax(1)[:, 0]),
        (joint.log_posterior(z[:1].expand(6), x), table[0]),
    ):
        found = torch.autograd.grad(value.sum(), (z, gain))
        wanted = torch.autograd.grad(expected.sum(), (z, gain), retain_graph=True)
        torch.testing.assert_close(found, wanted)


def test_gradients_through_dependent_sites():
    gain = torch.tensor(0.7, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("b", dist.Normal(gain * a.reshape(len(x)), 1.0))

    x, a, b = torch.randn(6), torch.randn(4, requires_grad=True), torch.randn(4)
    value = representation(guide, x).log_aggregate({"a": a, "b": b})
    table = Normal(x, 1.0).log_prob(a[:, None]) + Normal(gain * a, 1.0).log_prob(b)[:, None]
    wanted = torch.autograd.grad(table.logsumexp(1).sum(), (a, gain))
    torch.testing.assert_close(torch.autograd.grad(value.sum(), (a, gain)), wanted)


def test_training_is_seen():
    def guide(x):
        loc = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + loc, 1.0))

    x = torch.randn(20) + 5
    joint = representation(guide, x)
    z = torch.randn(3)
    before = joint.log_aggregate(z).detach()
    svi = pyro.infer.SVI(
        generative(toy_model), joint, pyro.optim.Adam({"lr": 0.1}), pyro.infer.TraceMeanField_ELBO()
    )
    for _ in range(5):
        svi.step(x)
    shift = pyro.param("shift").detach()
    table = Normal(x / 2 + shift, 1.0).log_prob(z[:, None])
    close(joint.log_aggregate(z).detach(), table.logsumexp(1) - math.log(20))
    assert not torch.equal(before, joint.log_aggregate(z).detach())


def test_called_without_arguments_it_runs_on_its_data():
    case = vector_event()
    joint = representation(case.guide, case.x)
    assert poutine.trace(joint).get_trace().nodes["z"]["value"].shape == (6, 2)
    assert poutine.trace(joint).get_trace(case.x[:2]).nodes["z"]["value"].shape == (2, 2)


# ---- draws


@pytest.mark.parametrize("family", [dist.Normal, dist.Laplace])
def test_moments_of_draws(family):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", family(x, 0.5))

    x = torch.tensor([-3.0, 0.0, 1.0, 6.0])
    draw = representation(guide, x).sample(20_000, seed=1)
    noise = draw["z"] - x[draw.index]
    sd = float(family(torch.tensor(0.0), 0.5).stddev)
    assert abs(float(noise.mean())) < 4 * sd / math.sqrt(20_000)
    # the fourth moment of a Laplace is 6 sd⁴
    assert abs(float(noise.square().mean()) - sd**2) < 4 * sd**2 * math.sqrt(5 / 20_000)
    shares = torch.bincount(draw.index, minlength=4) / 20_000
    assert float((shares - 0.25).abs().max()) < 4 * math.sqrt(0.25 * 0.75 / 20_000)
    assert abs(float(torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1])) < 4 / math.sqrt(20_000)


def test_seeded_draws_repeat_and_leave_the_random_state():
    case = laplace()
    joint = representation(case.guide, case.x)
    state = torch.get_rng_state()
    first, again = (joint.sample(5, seed=7) for _ in range(2))
    assert torch.equal(first["z"], again["z"])
    assert not torch.equal(first["z"], joint.sample(5, seed=8)["z"])
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(joint.sample(5)["z"], joint.sample(5)["z"])


@pytest.mark.parametrize("family", [scalar_event, laplace, reshaping])
def test_densities_leave_the_random_state(family):
    case = family()
    z = case.values(6)
    state = torch.get_rng_state()
    joint = representation(case.guide, case.x)
    joint.log_aggregate(z)
    joint.log_posterior(z, case.x)
    assert torch.equal(state, torch.get_rng_state())


def test_buffers_stay_as_they_were():
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.norm(x), 1.0).to_event(1))

    guide = Guide()
    representation(guide, torch.randn(100, 2) + 5)
    assert torch.equal(guide.norm.running_mean, torch.zeros(2))
    assert guide.training


def test_two_thousand_values_against_two_thousand_data():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.3).to_event(1))

    x, z = torch.randn(2000, 8), torch.randn(2000, 8)
    joint = representation(guide, x)
    start = time.perf_counter()
    joint.log_aggregate(z)
    assert time.perf_counter() - start < 1.0


# ---- errors


def test_no_plate():
    def guide(x):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"Expected a vectorised plate.*in|of the guide"):
        representation(guide, torch.zeros(3))


def test_sequential_plates():
    def guide(x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z_{i}", dist.Normal(x[i], 1.0))

    with pytest.raises(ValueError, match="Expected a vectorised plate"):
        representation(guide, torch.zeros(3))


def test_plates_of_another_size():
    def guide(x):
        with pyro.plate("other", 5):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"size 3, the number of data, in the guide.*\{'other': 5\}"):
        representation(guide, torch.zeros(3))


def test_plates_that_subsample_before_the_program_runs():
    plate = pyro.plate("data", 10, subsample_size=4)

    def guide(x):
        with plate as rows:
            pyro.sample("z", dist.Normal(x[rows], 1.0))

    with pytest.raises(NotImplementedError, match="took its subsample before"):
        representation(guide, torch.zeros(10))


def test_inner_plates_that_subsample():
    def guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 4, subsample_size=2, dim=-1):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0))

    with pytest.raises(NotImplementedError, match="'pixels' around 'z' subsamples"):
        representation(guide, torch.zeros(10, 4))


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(3), r"dict with the sites \['a', 'b'\] but got a tensor"),
        ({"a": torch.zeros(3, 1)}, r"\['b'\] are missing"),
        ({"a": torch.zeros(3, 1), "b": torch.zeros(3), "c": torch.zeros(3)}, r"\['c'\] too"),
        ({"a": torch.zeros(3), "b": torch.zeros(3)}, r"'a' of shape \(M, 1\) but got \(3,\)"),
        ({"a": torch.zeros(0, 1), "b": torch.zeros(0)}, "at least 1"),
    ],
)
def test_wrong_sites(z, message):
    case = broadcasting()
    joint = representation(case.guide, case.x)
    for call in (joint.log_aggregate, joint.log_inverted, lambda z: joint.log_posterior(z, case.x)):
        with pytest.raises(ValueError, match=message):
            call(z)


def test_values_and_data_of_different_numbers():
    case = vector_event()
    joint = representation(case.guide, case.x)
    with pytest.raises(ValueError, match=r"as many values as data.*got 5 values and 6 data"):
        joint.log_posterior(case.values(5), case.x)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.zeros(3), torch.zeros(4)), r"one number of data.*\[3, 4\]"),
        (torch.zeros(0, 2), r"at least 1.*\[0\]"),
        ((), "a tensor, an array or a frame, or a tuple"),
        ([1.0], r"\['float'\]"),
    ],
)
def test_wrong_data(data, message):
    with pytest.raises(ValueError, match=message):
        representation(vector_event().guide, data)


def test_too_few_draws():
    case = vector_event()
    with pytest.raises(ValueError, match="num_samples to be an integer >= 1 but got 0"):
        representation(case.guide, case.x).sample(0)


def test_scores_leave_out_what_follows_the_latent_sites():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 2.0))
        assert not guide.ends, "the guide ran on"

    guide.ends, z = False, torch.randn(3)
    joint = representation(guide, torch.zeros(3))
    guide.ends = True
    close(joint.log_posterior(z, torch.zeros(3)), Normal(0.0, 2.0).log_prob(z))
