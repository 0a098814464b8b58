"""How many points are scored at once, and what is beyond the reach of a component."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Categorical,
    ExpTransform,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from pyro_infomax.information import points_at_once
from pyro_infomax.information._mixture_engine import Dense


class Network(torch.nn.Module):
    """A conditional shift, which notes how many vectors its layer has seen at once."""

    def __init__(self, context):
        super().__init__()
        self.layer = torch.nn.Linear(2, 64)
        self.context = context
        self.most = 0

    def forward(self, z):
        inputs = torch.cat(torch.broadcast_tensors(z, self.context), -1)
        self.most = max(self.most, inputs.shape[:-1].numel())
        return self.layer(inputs).tanh().sum(-1, keepdim=True)


class Flow(dist.TransformModule):
    """Moves the second dimension by a network of the first and of the datum."""

    domain = codomain = dist.constraints.real_vector
    bijective = True

    def __init__(self, network):
        super().__init__()
        self.network = network

    def _shift(self, z):
        shift = self.network(z[..., :1])
        return torch.cat([torch.zeros_like(shift), shift], -1)

    def _call(self, u):
        return u + self._shift(u)

    def _inverse(self, z):
        return z - self._shift(z)

    def log_abs_det_jacobian(self, u, z):
        return torch.zeros(torch.broadcast_shapes(u.shape, z.shape)[:-1])


def flow(size):
    torch.manual_seed(1)
    network = Network(torch.randn(size, 1))
    base = Independent(Normal(torch.zeros(size, 2), 1.0), 1)
    return TransformedDistribution(base, [Flow(network)]), network


LOC = torch.zeros(100, 3)
PARAMETRIC = {
    "factors": Independent(Normal(LOC, 1.0), 1),
    "mapped factors": Independent(dist.LogNormal(LOC, 1.0), 1),
    "full": MultivariateNormal(LOC, torch.eye(3)),
    "mixture": MixtureSameFamily(
        Categorical(torch.ones(100, 2)), Independent(Normal(LOC[:, None].expand(100, 2, 3), 1.0), 1)
    ),
}


@pytest.mark.parametrize("family", PARAMETRIC)
def test_parameters_leave_room_for_many_points(family):
    assert points_at_once(PARAMETRIC[family]) == 2**22 // 300


@pytest.mark.parametrize(
    ("rows", "points"), [(100, 2**22 // (3200 * 3)), (2, 2**22 // 300), (10, 2**22 // 960)]
)
def test_networks_that_run_on_few_rows_at_once_take_less(rows, points):
    class Piecewise:
        batch_shape, event_shape, rows_at_once = torch.Size([100]), torch.Size([3]), rows

    assert points_at_once(Piecewise()) == points


def test_networks_get_fewer_points_at_once_and_score_the_same():
    size = 2**14
    posterior, network = flow(size)
    z = torch.randn(9, 2)
    found = Dense(posterior).evaluate(z, None).log_prob
    assert network.most == 4 * size
    assert points_at_once(posterior) == 4
    expected = posterior.log_prob(z[:, None]).logsumexp(1) - math.log(size)
    torch.testing.assert_close(found, expected)


def test_a_bar_shows_for_flows_that_take_long(monkeypatch, capsys):
    monkeypatch.setattr("pyro_infomax._progress._PATIENCE", 0.0)
    posterior, _ = flow(2**14)
    Dense(posterior).evaluate(torch.randn(9, 2), None, progress=True)
    assert "aggregate posterior" in capsys.readouterr().err


def test_what_only_some_components_reach_has_the_density_of_these():
    """Values above each datum's own bound."""
    bounds = torch.tensor([[0.0], [1.0], [5.0]])
    steps = [ExpTransform(), AffineTransform(bounds, 1.0)]
    base = Normal(torch.zeros(3, 1), 1.0, validate_args=False)
    factors = TransformedDistribution(base, steps, validate_args=False)
    posterior = Independent(factors, 1, validate_args=False)
    z = torch.tensor([[2.0], [-1.0], [torch.nan]])
    found = Dense(posterior).evaluate(z, None).log_prob
    reached = dist.LogNormal(0.0, 1.0).log_prob(torch.tensor([2.0, 1.0])).logsumexp(0) - math.log(3)
    torch.testing.assert_close(found[:2], torch.stack([reached, torch.tensor(-torch.inf)]))
    assert found[2].isnan()
