"""The mixtures of the first sites against enumeration."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Laplace, LogNormal, Normal

from pyro_infomax.distributions import SideBySide
from pyro_infomax.information import AggregatePosterior, Prefixes

SIZE = 40


class Chain:
    """z1 around x, then two dimensions of z2 around both, with a score for each site."""

    batch_shape = torch.Size([SIZE])
    event_shape = torch.Size([3])

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def log_prob_sites(self, z: Tensor) -> Tensor:
        first = Normal(self.x, 0.5).log_prob(z[..., 0])
        second = Normal(self.x[:, None] - z[..., :1], 0.7).log_prob(z[..., 1:]).sum(-1)
        return torch.stack([first, second], -1)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_prob_sites(z).sum(-1)


def chain():
    return Chain(torch.randn(SIZE)), [1, 2]


def normals():
    return Independent(Normal(torch.randn(SIZE, 3), 0.5), 1), [2, 1]


def positive_and_real():
    parts = [LogNormal(torch.randn(SIZE, 1), 0.5), Normal(torch.randn(SIZE, 2), 0.5)]
    return Independent(SideBySide(parts), 1), [1, 2]


def mixed():
    parts = [
        Laplace(torch.randn(SIZE, 2), 0.5),
        Categorical(logits=torch.randn(SIZE, 1, 3)),
        Bernoulli(logits=torch.randn(SIZE, 2)),
    ]
    return Independent(SideBySide(parts), 1), [2, 1, 2]


def table_of(posterior, sizes, z):
    """log q(z_s|z_<s, x_n), (points, data, sites)."""
    if isinstance(posterior, Chain):
        return posterior.log_prob_sites(z[:, None])
    each = posterior.base_dist.log_prob(z[:, None])
    return torch.stack([part.sum(-1) for part in each.split(sizes, -1)], -1)


def points_of(posterior):
    return torch.randn(9, 3) if isinstance(posterior, Chain) else posterior.sample()[:9]


FAMILIES = [chain, normals, positive_and_real, mixed]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_prefix_is_the_enumerated_mixture(family) -> None:
    posterior, sizes = family()
    z, index = points_of(posterior), torch.randint(SIZE, (9,))
    table = table_of(posterior, sizes, z)  # (points, data, sites)
    each = Prefixes(posterior, sizes).log_prob(z[:, None])
    torch.testing.assert_close(each, table, rtol=0, atol=1e-12)
    sums = table.cumsum(-1)
    found = Prefixes(posterior, sizes).evaluate(z, index=index)
    torch.testing.assert_close(found.log_prob, sums.logsumexp(1) - math.log(SIZE), rtol=0, atol=1e-9)
    sums[torch.arange(9), index] = -torch.inf
    left = sums.logsumexp(1) - math.log(SIZE - 1)
    torch.testing.assert_close(found.leave_one_out, left, rtol=0, atol=1e-9)
    joint = AggregatePosterior(posterior).evaluate(z, index=index)
    torch.testing.assert_close(found.last.log_prob, joint.log_prob, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.last.leave_one_out, joint.leave_one_out, rtol=0, atol=1e-9)


def test_points_that_do_not_fit_at_once_are_split(monkeypatch) -> None:
    posterior, sizes = chain()
    z = torch.randn(50, 3)
    whole = Prefixes(posterior, sizes).evaluate(z).log_prob
    monkeypatch.setattr("pyro_infomax.information._mixture_engine._SCORES_AT_ONCE", 32 * SIZE * 3 * 7)
    torch.testing.assert_close(Prefixes(posterior, sizes).evaluate(z).log_prob, whole, rtol=0, atol=1e-12)
