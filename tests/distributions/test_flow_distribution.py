import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.distributions import CouplingFlow, FlowDistribution

N, D = 4, 3


@pytest.fixture
def flow(stir):
    return stir(CouplingFlow(D))


@pytest.fixture
def moved(flow):
    loc, scale = torch.randn(N, D), 0.5 + torch.rand(N, D)
    return FlowDistribution(flow, batch_shape=(N,), loc=loc, scale=scale)


def by_hand(flow, q, z):
    noise = (z - q.loc) / q.scale
    return flow().log_prob(noise) - q.scale.log().sum(-1)


def test_it_is_moved_and_scaled(flow, moved):
    z = torch.randn(6, N, D)
    torch.testing.assert_close(moved.log_prob(z), by_hand(flow, moved, z))


@pytest.mark.parametrize("part", ["loc", "scale"])
def test_one_of_the_two_is_enough(flow, moved, part):
    other = {"loc": torch.zeros(D), "scale": torch.ones(D)}
    other.pop(part)
    one = FlowDistribution(flow, batch_shape=(N,), **{part: getattr(moved, part)})
    both = FlowDistribution(flow, batch_shape=(N,), **{part: getattr(moved, part)}, **other)
    z = one.rsample()
    torch.testing.assert_close(one.log_prob(z), both.log_prob(z.clone()))


def test_the_own_draw_is_scored_with_its_scale(flow, moved):
    z = moved.rsample((6,))
    torch.testing.assert_close(moved.log_prob(z), by_hand(flow, moved, z))


def test_a_draw_without_gradient_is_scored_with_one(flow, moved):
    """The score of a fixed value, as score-function estimators need it."""
    z = moved.sample()
    assert not z.requires_grad
    (kept,) = torch.autograd.grad(moved.log_prob(z).sum(), [flow.layers[0].bias])
    (again,) = torch.autograd.grad(moved.log_prob(z.clone()).sum(), [flow.layers[0].bias])
    torch.testing.assert_close(kept, again)
    assert kept.abs().sum() > 0


def test_a_draw_without_gradient_is_not_scored_twice_without_one(flow, moved, no_second_pass):
    z = moved.sample()
    no_second_pass(flow)
    with torch.no_grad():
        assert moved.log_prob(z).shape == (N,)


def test_only_the_last_draw_is_known(moved):
    first, second = moved.rsample(), moved.rsample()
    torch.testing.assert_close(moved.log_prob(first), moved.log_prob(first.clone()))
    torch.testing.assert_close(moved.log_prob(second), moved.log_prob(second.clone()))


def test_a_draw_that_was_changed_in_place_is_scored_as_it_is(moved):
    z = moved.sample()
    with torch.no_grad():
        moved.log_prob(z)
        z.mul_(2)
        torch.testing.assert_close(moved.log_prob(z), moved.log_prob(z.clone()))


def test_draws_in_inference_mode_are_known(flow, moved, no_second_pass):
    with torch.inference_mode():
        z = moved.sample()
        expected = moved.log_prob(z.clone())
        no_second_pass(flow)
        torch.testing.assert_close(moved.log_prob(z), expected)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))])
def test_copies_forget_the_draw(flow, twin_of):
    q = flow()
    z = q.rsample()
    twin = twin_of(q)
    torch.testing.assert_close(twin.log_prob(z), q.log_prob(z))


def test_a_site_in_plates_runs_no_inverse(moved, flow, no_second_pass):
    no_second_pass(flow)

    def program():
        with pyro.plate("particles", 2, dim=-2), pyro.plate("data", N, dim=-1):
            return pyro.sample("z", moved)

    trace = pyro.poutine.trace(program).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (2, N, D)
    assert trace.nodes["z"]["log_prob"].shape == (2, N)


@pytest.mark.parametrize(
    "transform",
    [
        dist.transforms.ReshapeTransform((D,), (D, 1), cache_size=1),
        dist.transforms.ExpTransform(cache_size=1),
    ],
)
def test_a_further_transform_runs_no_inverse(moved, flow, no_second_pass, transform):
    no_second_pass(flow)
    q = dist.TransformedDistribution(moved, [transform]).expand((5, N))
    assert q.log_prob(q.rsample()).shape == (5, N)


def test_values_of_another_shape_are_refused(moved):
    with pytest.raises(ValueError, match="shape"):
        moved.log_prob(torch.zeros(N, D + 1))
