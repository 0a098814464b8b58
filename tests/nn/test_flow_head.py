import copy
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints, transforms

from pyro_infomax.information import AggregatePosterior
from pyro_infomax.nn import FlowHead

H = 4
SUPPORTS = {
    "real": (constraints.real, ()),
    "vector": (constraints.real_vector, (3,)),
    "matrix": (constraints.independent(constraints.real, 2), (2, 3)),
    "positive": (constraints.independent(constraints.positive, 1), (2,)),
    "interval": (constraints.interval(-1.0, 2.0), (2,)),
    "simplex": (constraints.simplex, (3,)),
    "lower_cholesky": (constraints.lower_cholesky, (2, 2)),
}


def stirred(head, scale=0.06):
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += scale * torch.randn_like(parameter)
    return head


@pytest.fixture(params=SUPPORTS)
def head(request):
    support, event = SUPPORTS[request.param]
    return stirred(FlowHead(H, event, support=support))


@pytest.mark.parametrize("batch", [(), (2, 5, 1)])
def test_shapes_and_support(head, batch):
    q = head(torch.randn(*batch, H))
    assert (q.batch_shape, q.event_shape, q.has_rsample) == (batch, head.event_shape, True)
    z = q.rsample()
    assert z.shape == batch + head.event_shape
    assert head.site.support.check(z).all()
    assert q.log_prob(z).shape == batch


@pytest.mark.parametrize("size", [1, 3])
def test_every_scale_starts_at_init_scale(size):
    q = FlowHead(H, (size,), init_scale=0.2)(torch.randn(1, H))
    z = q.sample((4000,))
    assert ((z.std(0) - 0.2).abs() < 5 * 0.2 / math.sqrt(2 * 4000)).all()


def test_it_starts_as_the_normal_of_its_linear_layer():
    head, h = FlowHead(H, (3,)), torch.randn(5, H)
    loc, raw = head.linear(h).chunk(2, -1)
    expected = dist.Normal(loc, torch.nn.functional.softplus(raw)).to_event(1)
    z = torch.randn(5, 3)
    torch.testing.assert_close(head(h).log_prob(z), expected.log_prob(z))


def test_the_own_draw_is_scored_in_one_pass(head, monkeypatch):
    def backwards(*_):
        raise AssertionError("the flow was run backwards")

    q = head(torch.randn(5, H)).expand((2, 5))
    z = q.rsample()
    with monkeypatch.context() as patch:
        patch.setattr(head.flow, "score", backwards)
        score = q.log_prob(z)
    torch.testing.assert_close(score, q.log_prob(z.clone()))


def test_the_density_of_a_positive_scalar_integrates_to_one():
    q = stirred(FlowHead(H, (), support=constraints.positive))(torch.randn(3, H))
    z = torch.linspace(-12, 9, 4001).exp()
    with torch.no_grad():
        mass = torch.trapezoid(q.log_prob(z[:, None]).exp(), z, dim=0)
    torch.testing.assert_close(mass, torch.ones(3), rtol=0, atol=1e-4)


def test_the_density_on_a_simplex_integrates_to_one():
    q = stirred(FlowHead(H, (3,), support=constraints.simplex))(torch.randn(1, H))
    z = dist.Dirichlet(torch.ones(3)).sample((40000,))
    with torch.no_grad():
        mass = q.log_prob(z).exp() / 2  # the uniform density is 2
    assert (mass.mean() - 1).abs() < 5 * mass.std() / 200


def test_it_is_scored_under_all_data_at_once():
    head, h, z = stirred(FlowHead(H, (2,))), torch.randn(5, H), torch.randn(6, 2)
    q = head(h)
    scores = torch.stack([head(each).log_prob(z) for each in h], 1)  # (M, N)
    torch.testing.assert_close(q.log_prob(z[:, None]), scores)
    torch.testing.assert_close(AggregatePosterior(q).log_prob(z), scores.logsumexp(1) - math.log(5))


def test_every_parameter_gets_a_gradient():
    head = stirred(FlowHead(100, (3,)))
    q = head(torch.randn(50, 100))
    q.log_prob(q.rsample()).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())


def test_many_features_are_compressed():
    wide, narrow = FlowHead(100, (3,)), FlowHead(10, (3,))
    assert wide.context(torch.randn(5, 100)).shape == (5, 64)
    h = torch.randn(5, 10)
    assert narrow.context(h) is h


def test_copies_and_pickles_after_use():
    head, h = stirred(FlowHead(H, (3,), support=constraints.simplex)), torch.randn(5, H)
    z = head(h).rsample()
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        torch.testing.assert_close(twin(h).log_prob(z.clone()), head(h).log_prob(z.clone()))


def test_a_flow_of_pyro():
    head = FlowHead(H, (2, 3), flow=transforms.conditional_affine_autoregressive)
    q = head(torch.randn(5, H))
    z = q.rsample()
    assert z.shape == (5, 2, 3)
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))


def test_draws_in_single_precision_are_finite_at_large_scales():
    torch.set_default_dtype(torch.float32)
    for support, event in SUPPORTS.values():
        head = FlowHead(H, event, support=support, init_scale=20.0)
        q = head(torch.randn(200, H))
        z = q.rsample()
        assert z.isfinite().all()
        assert q.log_prob(z).isfinite().all()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="Expected a finite init_scale > 0 but got"):
        FlowHead(H, (3,), init_scale=scale)


def test_a_flow_without_gradients_is_refused():
    class Drawn(torch.nn.Module):
        def forward(self, context):
            loc = context[..., None, :1].expand(*context.shape[:-1], 2, 3)
            logits = torch.zeros(*context.shape[:-1], 2)
            return dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(loc, 1.0).to_event(1))

    with pytest.raises(ValueError, match="whose draws carry gradients"):
        FlowHead(H, (3,), flow=lambda *_: Drawn())
