import copy
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from pyro.distributions.conditional import ConditionalComposeTransformModule, ConstantConditionalTransform

from pyro_infomax.distributions import TransformFlow


def test_the_score_is_that_of_a_transformed_distribution(stir):
    steps = [transforms.spline(3, count_bins=4), transforms.AffineTransform(1.0, 2.0)]
    stir(steps[0])
    expected = dist.TransformedDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), steps)
    z = torch.randn(5, 3)
    torch.testing.assert_close(TransformFlow(steps, 3)().log_prob(z), expected.log_prob(z))


def test_to_noise_turns_the_transforms_around():
    """z = (noise - 1) / 2."""
    flow = TransformFlow([transforms.AffineTransform(1.0, 2.0)], 1, to_noise=True)
    z = torch.randn(5, 1)
    expected = dist.Normal(-0.5, 0.5).log_prob(z).sum(-1)
    torch.testing.assert_close(flow().log_prob(z), expected)
    draws = flow().sample((4000,))
    assert abs(draws.mean() + 0.5) < 5 * 0.5 / math.sqrt(4000)


def test_an_inverse_of_torch_keeps_its_parameters():
    spline = transforms.spline(3)
    flow = TransformFlow([spline.inv], 3)
    assert list(map(id, flow.parameters())) == list(map(id, spline.parameters()))


@pytest.mark.parametrize("to_noise", [True, False])
def test_the_transforms_remember_nothing(to_noise):
    part = transforms.affine_autoregressive(2, hidden_dims=[8])
    whole = transforms.ComposeTransform([part])
    flow = TransformFlow([whole], 2, to_noise=to_noise)
    flow().log_prob(flow().rsample().clone())
    assert part._cached_x_y == (None, None)
    assert part._cached_log_scale is None


def test_a_transform_without_inverse_scores_its_own_draws_alone():
    q = TransformFlow([transforms.conditional_planar(2, 3, [8])], 2)(torch.randn(4, 3))
    assert q.log_prob(q.rsample()).shape == (4,)
    with pytest.raises(NotImplementedError, match="Expected a transform that can be inverted but got"):
        q.log_prob(torch.zeros(4, 2))


def chain():
    return [transforms.spline(2, count_bins=4), transforms.affine_autoregressive(2, hidden_dims=[8]).inv]


@pytest.mark.parametrize(
    "whole",
    [
        transforms.ComposeTransform,
        lambda parts: transforms.ComposeTransform([parts[0], transforms.ComposeTransform(parts[1:])]),
        lambda parts: transforms.ComposeTransform([part.inv for part in parts[::-1]]).inv,
        lambda parts: ConditionalComposeTransformModule([ConstantConditionalTransform(p) for p in parts]),
    ],
    ids=["whole", "nested", "inverse", "conditional"],
)
def test_parts_of_a_whole_are_parts_of_the_flow(stir, whole):
    """Else they would not be trained, nor moved, nor saved."""
    parts = chain()
    apart = stir(TransformFlow(parts, 2))
    flow = TransformFlow([whole(parts)], 2)
    assert list(map(id, flow.parameters())) == list(map(id, apart.parameters()))
    z = flow().rsample((5,))
    torch.testing.assert_close(flow().log_prob(z), apart().log_prob(z))
    torch.testing.assert_close(flow().log_prob(z.clone()), apart().log_prob(z.clone()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: transforms.spline_coupling(2, hidden_dims=[8], count_bins=4),
        lambda: transforms.ComposeTransform(chain()),
        lambda: ConditionalComposeTransformModule([transforms.conditional_spline(2, 3, [8]), chain()[0]]),
    ],
    ids=["parts of its own", "whole", "conditional"],
)
def test_copies_and_pickles_after_use(make):
    flow, context = TransformFlow([make()], 2), torch.randn(4, 3)
    q = flow(context)
    z = q.rsample()
    q.log_prob(z.clone())
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(twin(context).log_prob(z), q.log_prob(z))


def test_batch_statistics_are_refused():
    """The density of a vector would depend on those that it is scored with."""
    with pytest.raises(ValueError, match="that act on each vector by itself but got BatchNorm"):
        TransformFlow([transforms.batchnorm(2)], 2)
