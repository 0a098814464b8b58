import math

import pytest
import torch
from torch.nn.functional import softplus

from pyro_infomax.nn import NormalHead


@pytest.mark.parametrize("event", [(), (3,), (2, 3)])
@pytest.mark.parametrize("batch", [(5,), (5, 1)])
def test_shapes(event, batch):
    q = NormalHead(4, event)(torch.randn(*batch, 4))
    assert q.batch_shape == batch
    assert q.event_shape == event
    assert q.rsample().shape == (*batch, *event)


@pytest.mark.parametrize("scale", [1e-3, 0.5, 1.0, 50.0])
def test_every_scale_starts_at_init_scale(scale):
    q = NormalHead(4, (3,), init_scale=scale)(10 * torch.randn(6, 4))
    torch.testing.assert_close(q.stddev, torch.full((6, 3), scale))


def test_locations_start_small():
    locations = NormalHead(256, (50,))(torch.randn(100, 256)).mean
    assert 0 < locations.abs().mean() < 1


def test_the_first_rows_are_locations_and_the_last_are_scales():
    head, h = NormalHead(4, (3,)), torch.randn(6, 4)
    torch.nn.init.normal_(head.linear.weight)
    loc, raw = h @ head.linear.weight.T[:, :3] + head.linear.bias[:3], h @ head.linear.weight.T[:, 3:]
    q = head(h)
    torch.testing.assert_close(q.mean, loc)
    torch.testing.assert_close(q.stddev, softplus(raw + head.linear.bias[3:]))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="Expected a finite init_scale > 0 but got"):
        NormalHead(4, (3,), init_scale=scale)
