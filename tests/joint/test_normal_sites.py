"""Which programs are one diagonal Normal."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_infomax.joint.latent_space import LatentSpace
from pyro_infomax.joint.normal_sites import NormalParameters, normal_over, normal_parameters
from pyro_infomax.poutine import LocalProgram


def parameters(guide, x, *, batch_size=1024):
    program = LocalProgram(guide, (x,), role="guide", batch_size=batch_size)
    return normal_parameters(program, (x,), LatentSpace(program.latents))


def two_sites(second):
    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 0.5))
            pyro.sample("b", second(a, x))

    return guide


@pytest.mark.parametrize("batch_size", [1024, 30])
def test_sites_side_by_side(batch_size):
    x = torch.randn(100)
    normal = two_sites(lambda a, x: dist.Normal(x.unsqueeze(-1) * torch.ones(2), 2.0).to_event(1))
    loc, scale = parameters(normal, x, batch_size=batch_size)
    assert torch.equal(loc, x[:, None].expand(100, 3))
    assert torch.equal(scale, torch.tensor([0.5, 2.0, 2.0]).double().expand(100, 3))


def test_single_precision_becomes_double():
    loc, scale = parameters(two_sites(lambda a, x: dist.Normal(x, 1.0)), torch.randn(4).float())
    assert loc.dtype == scale.dtype == torch.float64


@pytest.mark.parametrize(
    "second",
    [
        lambda a, x: dist.Normal(a, 1.0),
        lambda a, x: dist.Normal(x, a.exp()),
        lambda a, x: dist.Normal(torch.where(a > x + 3, 1.0, 0.0), 1.0),
        lambda a, x: dist.Normal(x, a.abs() + 1 if bool((a - x).abs().max() < 4) else a),
        lambda a, x: dist.Laplace(x, 1.0),
        lambda a, x: dist.Normal(x, 1.0).mask(False),
    ],
)
def test_others_are_none(second):
    assert parameters(two_sites(second), torch.randn(40)) is None


def test_masked_sites_are_none():
    guide = two_sites(lambda a, x: dist.Normal(x, 1.0))
    assert parameters(poutine.mask(guide, mask=torch.tensor(True)), torch.randn(4)) is None


def test_subsampling_guides_give_all_rows():
    def guide(x):
        with pyro.plate("data", 10, subsample_size=4) as rows:
            pyro.sample("z", dist.Normal(x[rows], 1.0))

    x = torch.randn(10)
    assert torch.equal(parameters(guide, x).loc[:, 0], x)


def test_gradients_go_through():
    gain = torch.tensor(2.0, requires_grad=True)
    x = torch.randn(40)
    found = parameters(two_sites(lambda a, x: dist.Normal(gain * x, 1.0)), x, batch_size=7)
    (gradient,) = torch.autograd.grad(found.loc.sum(), gain)
    torch.testing.assert_close(gradient, x.sum())


def test_normal_over():
    loc, scale = torch.randn(4, 3), torch.rand(4, 3) + 0.1
    normal = normal_over(NormalParameters(loc, scale))
    assert normal.batch_shape == (4,)
    assert normal.event_shape == (3,)
    assert torch.equal(normal.mean, loc)
    assert torch.equal(normal.stddev, scale)
