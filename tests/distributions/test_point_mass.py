import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.distributions import is_point_mass

DELTA = dist.Delta(torch.zeros(3, 2))


@pytest.mark.parametrize(
    "fn", [DELTA, DELTA.to_event(1), DELTA.mask(False), dist.ExpandedDistribution(DELTA, (4, 3, 2))]
)
def test_a_wrapped_delta_is_one(fn):
    assert is_point_mass(fn)


@pytest.mark.parametrize("fn", [dist.Normal(torch.zeros(2), 1.0), dist.Normal(0.0, 1.0).mask(False)])
def test_what_has_a_density_is_none(fn):
    assert not is_point_mass(fn)
