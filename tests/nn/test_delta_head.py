import math

import pytest
import torch
from pyro.distributions import constraints

from pyro_infomax.nn import DeltaHead

SUPPORTS = [
    (constraints.real, ()),
    (constraints.real, (2, 3)),
    (constraints.positive, (3,)),
    (constraints.interval(-1.0, 2.0), ()),
    (constraints.independent(constraints.simplex, 1), (2, 3)),
    (constraints.positive_definite, (3, 3)),
]


@pytest.mark.parametrize(("support", "event"), SUPPORTS)
def test_the_point_is_inside_and_has_gradients(support, event):
    batch = (2, 5, 1)
    head = DeltaHead(4, event, support=support)
    q = head(torch.randn(*batch, 4))
    z = q.rsample()
    assert (q.batch_shape, q.event_shape, z.shape) == (batch, event, (*batch, *event))
    assert support.check(z).all()
    z.square().sum().backward()
    assert all((p.grad != 0).all() for p in head.parameters())


@pytest.mark.parametrize(("support", "event"), SUPPORTS)
def test_there_is_no_jacobian(support, event):
    q = DeltaHead(4, event, support=support)(torch.randn(5, 4))
    assert torch.equal(q.log_prob(q.sample()), torch.zeros(5))
    assert (q.log_prob(q.sample() + 1) == -math.inf).all()


def test_the_point_of_a_real_site_is_linear():
    head, h = DeltaHead(4, (2, 3)), torch.randn(6, 4)
    expected = (h @ head.linear.weight.T + head.linear.bias).reshape(6, 2, 3)
    torch.testing.assert_close(head(h).mean, expected)


def test_the_point_of_a_positive_site_is_its_exponential():
    head, h = DeltaHead(4, (3,), support=constraints.positive), torch.randn(6, 4)
    torch.testing.assert_close(head(h).mean, (h @ head.linear.weight.T + head.linear.bias).exp())


def test_a_discrete_support_is_refused():
    with pytest.raises(NotImplementedError, match="Expected a continuous support but got OneHot"):
        DeltaHead(4, (3,), support=constraints.one_hot)
