import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_infomax.distributions import LazyFlow


class Lazy(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, *context):
        return self.make(*context)


def test_a_plain_distribution_is_drawn_and_scored():
    flow = LazyFlow(Lazy(lambda c: dist.Laplace(c, 2.0).to_event(1)), 3, 3)
    q = flow(torch.ones(4, 3))
    z = q.rsample((5,))
    expected = dist.Laplace(1.0, 2.0).log_prob(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), expected)
    torch.testing.assert_close(q.log_prob(z.clone()), expected)


def test_one_that_has_no_gradient_says_so():
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(2)), dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)
    )
    p = LazyFlow(Lazy(lambda: mixture), 3)()
    assert not p.has_rsample
    assert p.sample((5,)).shape == (5, 3)


def test_a_distribution_that_draws_and_scores_at_once_is_asked_once():
    class Known(dist.MultivariateNormal):
        def rsample_and_log_prob(self, shape):
            return self.rsample(shape), torch.full(self.batch_shape, 7.0)

    flow = LazyFlow(Lazy(lambda c: Known(c, torch.eye(3))), 3, 3)
    q = flow(torch.zeros(4, 3))
    torch.testing.assert_close(q.log_prob(q.rsample()), torch.full((4,), 7.0))


def test_the_module_sees_each_context_once():
    seen = []

    def make(context):
        seen.append(context.shape)
        return dist.Normal(context, 1.0).to_event(1)

    q = LazyFlow(Lazy(make), 3, 3)(torch.zeros(4, 3))
    assert q.log_prob(torch.zeros(6, 1, 3)).shape == (6, 4)
    assert seen[-1] == (4, 3)


def test_values_get_the_axes_of_the_contexts(zuko):
    """NICE refuses other ones, and a neural flow takes the contexts wrongly."""
    for family in (zuko.flows.NICE, zuko.flows.NAF):
        flow = LazyFlow(family(3, 2, transforms=1), 3, 2)
        c, z = torch.randn(4, 2), torch.randn(6, 3)
        expected = torch.stack([flow(each).log_prob(z) for each in c], 1)
        torch.testing.assert_close(flow(c).log_prob(z[:, None]), expected)


def test_zuko_draws_and_scores_in_one_pass(zuko):
    flow = LazyFlow(zuko.flows.MAF(3, 2, transforms=1, hidden_features=(8,)), 3, 2)
    c = torch.randn(4, 2)
    q = flow(c)
    z = q.rsample()
    torch.testing.assert_close(q.log_prob(z), flow.module(c).log_prob(z))


def test_a_module_may_have_another_dtype_than_the_default():
    layer = nn.Linear(2, 3, dtype=torch.float32)
    module = Lazy(lambda c: dist.Normal(layer(c), 1.0).to_event(1))
    module.layer = layer
    q = LazyFlow(module, 3, 2)(torch.zeros(4, 2, dtype=torch.float32))
    assert q.sample().dtype == torch.float32


@pytest.mark.parametrize(
    "make",
    [
        lambda c: c,
        lambda c: dist.Normal(c, 1.0),
        lambda c: dist.Normal(c[..., :2], 1.0).to_event(1),
        lambda c: dist.Normal(c.sum(0), 1.0).to_event(1),
    ],
    ids=["a tensor", "no event", "another event", "no batch"],
)
def test_another_shape_is_refused(make):
    with pytest.raises(ValueError, match="Expected the flow to return a distribution with batch shape"):
        LazyFlow(Lazy(make), 3, 3)
