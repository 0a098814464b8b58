import copy
import pickle

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import nn

from pyro_infomax.distributions import CouplingFlow, LazyFlow, TransformFlow, to_flow

N, D, C = 4, 3, 2


@pytest.fixture
def flow(conditional, stir):
    return stir(to_flow(conditional, D, C))


@pytest.fixture
def context():
    return torch.randn(N, C)


def assert_integrates_to_one(log_prob, half=14.0, points=160):
    """A density on the plane, by the trapezoidal rule on four grids, which differ where it jumps."""
    step = 2 * half / points
    grids = [
        torch.cartesian_prod(*(torch.arange(-half + start, half, 2 * step) for start in starts))
        for starts in ((0, 0), (0, step), (step, 0), (step, step))
    ]
    with torch.no_grad():
        totals = log_prob(torch.cat(grids)[:, None]).exp().reshape(4, -1).sum(1) * (2 * step) ** 2
    assert abs(totals.mean() - 1) < 1e-3 + 2 * totals.std()


# ---- every kind of flow


def test_shapes(flow, context):
    q = flow(context)
    assert (q.batch_shape, q.event_shape) == ((N,), (D,))
    assert q.rsample((5,)).shape == (5, N, D)
    assert flow(context[:, None]).sample().shape == (N, 1, D)
    assert flow(context[0]).sample().shape == (D,)


def test_the_density_integrates_to_one(conditional, stir):
    assert_integrates_to_one(stir(to_flow(conditional, 2, C))(torch.randn(1, C)).log_prob)


def test_draws_have_the_density_of_their_scores(flow, context):
    """E[f(z) / q(z)] = integral of f, for a Normal f that is narrower than q."""
    q = flow(context[:1])
    with torch.no_grad():
        z = q.sample((20000,))
        f = dist.Normal(z.mean(0), 0.4 * z.std(0)).to_event(1)
        ratio = (f.log_prob(z) - q.log_prob(z.clone())).exp()  # (draws, 1)
    assert (ratio.mean() - 1).abs() < 5 * ratio.std() / len(z) ** 0.5
    assert ratio.std() > 0.1


def test_the_own_draw_is_scored_as_any_value(flow, context):
    q = flow(context)
    z = q.rsample((6,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))


def test_scoring_the_own_draw_runs_no_inverse(flow, context, no_second_pass):
    no_second_pass(flow)
    q = flow(context)
    assert q.log_prob(q.rsample()).shape == (N,)
    with pytest.raises(AssertionError, match="backwards"):
        q.log_prob(q.rsample().clone())


def test_the_gradient_through_the_own_draw_is_that_through_any_value(flow, context):
    def gradients(same):
        torch.manual_seed(5)
        flow.zero_grad()
        q = flow(context)
        z = q.rsample()
        q.log_prob(same(z)).sum().backward()
        return [p.grad for p in flow.parameters() if p.grad is not None]

    kept = gradients(lambda z: z)
    again = gradients(lambda z: z.clone())
    assert len(kept) == len(again) > 0
    for one, other in zip(kept, again, strict=True):
        torch.testing.assert_close(one, other)


def test_values_broadcast_against_the_batch(flow, context):
    z = torch.randn(6, 1, D)
    scores = flow(context).log_prob(z)  # (M, N)
    expected = torch.stack([torch.stack([flow(c[None]).log_prob(each)[0] for c in context]) for each in z])
    torch.testing.assert_close(scores, expected)


def test_a_batch_of_values_and_an_outer_axis(flow, context):
    z = torch.randn(6, N, D)
    scores = flow(context).log_prob(z)
    torch.testing.assert_close(scores, torch.stack([flow(context).log_prob(each) for each in z]))


def test_an_expanded_distribution_draws_for_each(flow, context, no_second_pass):
    q = flow(context).expand((3, N))
    z = q.rsample()
    assert z.shape == (3, N, D)
    assert (z[0] != z[1]).all()
    torch.testing.assert_close(q.log_prob(z), flow(context).log_prob(z.clone()))
    no_second_pass(flow)
    assert q.log_prob(z).shape == (3, N)


def test_all_parameters_get_gradients(flow, context):
    q = flow(context)
    q.log_prob(q.rsample((50,))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.parameters())


def test_it_survives_copies_after_use(flow, context):
    q = flow(context)
    z = q.rsample()
    q.log_prob(z).sum()
    q.log_prob(z.clone()).sum()
    expected = q.log_prob(z).detach()
    twin = copy.deepcopy(flow)
    for other in (twin, copy.deepcopy(twin)):
        torch.testing.assert_close(other(context).log_prob(z).detach(), expected)
    with torch.no_grad():
        next(flow.parameters()).add_(1.0)
    torch.testing.assert_close(twin(context).log_prob(z).detach(), expected)


def test_it_loads_the_state_of_another(conditional, stir, context):
    one, other = (stir(to_flow(conditional, D, C)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    z = torch.randn(N, D)
    torch.testing.assert_close(other(context).log_prob(z), one(context).log_prob(z))


def test_single_precision_from_end_to_end(conditional, stir):
    # Pyro inverts autoregressive transforms in torch's default dtype alone
    torch.set_default_dtype(torch.float32)
    q = stir(to_flow(conditional, D, C))(torch.randn(N, C))
    z = q.rsample((100,))
    assert z.dtype == q.log_prob(z).dtype == torch.float32
    torch.testing.assert_close(q.log_prob(z.clone()), q.log_prob(z), rtol=1e-4, atol=1e-4)


def test_the_default_follows_its_dtype(stir):
    q = stir(to_flow(None, D, C)).float()(torch.randn(N, C, dtype=torch.float32))
    assert q.log_prob(q.rsample().clone()).dtype == torch.float32


# ---- without a context


def test_a_flow_without_context(without_context, stir):
    p = stir(to_flow(without_context, 2, to_noise=True))()
    assert (p.batch_shape, p.event_shape) == ((), (2,))
    assert p.sample((5,)).shape == (5, 2)
    assert_integrates_to_one(p.log_prob, half=6.0, points=100)
    z = p.expand((7,)).rsample()
    assert z.shape == (7, 2)
    torch.testing.assert_close(p.log_prob(z), p.log_prob(z.clone()))


def test_it_is_pickled_after_use(without_context, stir):
    flow = stir(to_flow(without_context, 2))
    z = flow().rsample()
    twin = pickle.loads(pickle.dumps(flow))
    torch.testing.assert_close(twin().log_prob(z), flow().log_prob(z))


# ---- what is taken


def test_the_default_fits_one_element():
    q = to_flow(None, 1, C)(torch.randn(N, C))
    assert q.rsample().shape == (N, 1)


def test_each_kind_becomes_its_flow(zuko):
    assert isinstance(to_flow(None, D), CouplingFlow)
    assert isinstance(to_flow(lambda d: transforms.spline(d), D), TransformFlow)
    assert isinstance(to_flow(lambda d: nn.ModuleList([transforms.spline(d)]), D), TransformFlow)
    assert isinstance(to_flow(zuko.flows.NICE, D, C), LazyFlow)
    own = CouplingFlow(D, C, layers=1)
    assert to_flow(lambda *_: own, D, C) is own


@pytest.mark.parametrize("flow", [nn.Linear(2, 2), transforms.spline(2), 3, "NSF"])
def test_what_builds_nothing_is_refused(flow):
    with pytest.raises(ValueError, match="Expected flow to be a function of the sizes"):
        to_flow(flow, D)


@pytest.mark.parametrize("made", [None, dist.Normal(0.0, 1.0), [nn.Linear(2, 2)]])
def test_what_is_no_flow_is_refused(made):
    with pytest.raises(ValueError, match="Expected the flow to be transforms of Pyro"):
        to_flow(lambda *_: made, D, C)


def test_conditional_transforms_without_a_context_are_refused():
    with pytest.raises(ValueError, match="without a context"):
        to_flow(lambda d: transforms.conditional_spline(d, C), D)
