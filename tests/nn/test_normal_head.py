import copy
import math

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
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


@pytest.mark.parametrize("support", [constraints.real, constraints.positive, constraints.interval(-1.0, 2.0)])
def test_large_features_give_finite_terms_and_gradients(support):
    head = NormalHead(4, (3,), support=support).float()
    torch.nn.init.normal_(head.linear.weight)
    q = head(1e4 * torch.randn(50, 4, dtype=torch.float32))
    log_q = q.log_prob(q.rsample())
    log_q.sum().backward()
    assert log_q.isfinite().all()
    assert head.linear.weight.grad.isfinite().all()


# ---- other supports


@pytest.mark.parametrize(
    ("support", "event"),
    [
        (constraints.positive, ()),
        (constraints.interval(-1.0, 2.0), (2, 3)),
        (constraints.independent(constraints.simplex, 1), (2, 3)),
        (constraints.lower_cholesky, (3, 3)),
    ],
)
@pytest.mark.parametrize("batch", [(5,), (2, 5, 1)])
def test_shapes_and_gradients_on_other_supports(support, event, batch):
    head = NormalHead(4, event, support=support)
    q = head(torch.randn(*batch, 4))
    z = q.rsample()
    assert (q.batch_shape, q.event_shape, z.shape) == (batch, event, (*batch, *event))
    (q.log_prob(z.detach().clone()).sum() + z.square().sum()).backward()
    assert all((p.grad != 0).all() for p in head.parameters())


def test_the_head_of_a_positive_site_is_log_normal():
    head, h = NormalHead(4, (3,), init_scale=0.3, support=constraints.positive), torch.randn(6, 4)
    q = head(h).base_dist
    assert isinstance(q, dist.LogNormal)
    torch.testing.assert_close(q.loc, (h @ head.linear.weight.T + head.linear.bias)[:, :3])
    torch.testing.assert_close(q.scale, torch.full((6, 3), 0.3))


def test_the_scale_of_a_simplex_is_that_of_its_reals():
    q = NormalHead(4, (3,), init_scale=0.3, support=constraints.simplex)(torch.randn(6, 4))
    torch.testing.assert_close(q.base_dist.stddev, torch.full((6, 2), 0.3))


def test_a_head_that_has_drawn_can_be_copied():
    head = NormalHead(4, (3,), support=constraints.simplex)
    head(torch.randn(6, 4)).rsample()
    twin, h = copy.deepcopy(head), torch.randn(6, 4)
    torch.testing.assert_close(twin(h).base_dist.mean, head(h).base_dist.mean)
    assert list(head.state_dict()) == ["linear.weight", "linear.bias"]


def test_a_discrete_support_is_refused():
    with pytest.raises(NotImplementedError, match="Expected a continuous support but got Boolean"):
        NormalHead(4, (3,), support=constraints.boolean)
