"""Critics: scores of parts that broadcast, and the quadratic one as the log-ratio of Gaussians."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_infomax.nn import MLPCritic, QuadraticCritic, SeparableCritic


def randomised(critic):
    for parameter in critic.parameters():
        nn.init.normal_(parameter)
    return critic


@pytest.mark.parametrize("kind", [MLPCritic, SeparableCritic, QuadraticCritic])
def test_all_pairs_are_scored_as_each_pair_by_itself(kind):
    layers = {} if kind is QuadraticCritic else {"hidden": (5,)}
    critic = randomised(kind((2, 3), 2, **layers))
    x, y = torch.randn(4, 2, 3), torch.randn(5, 2)
    pairs = critic(x[:, None], y[None])
    assert pairs.shape == (4, 5)
    one_by_one = torch.stack([torch.stack([critic(a, b) for b in y]) for a in x])
    torch.testing.assert_close(pairs, one_by_one)
    assert not torch.allclose(pairs, pairs[:1])  # x counts
    assert not torch.allclose(pairs, pairs[:, :1])  # y counts


def test_the_quadratic_critic_is_the_log_ratio_of_any_two_gaussians():
    def gaussian(size):
        root = torch.randn(size, size)
        return MultivariateNormal(torch.randn(size), root @ root.T + torch.eye(size))

    first, second = gaussian(5), gaussian(5)
    critic = QuadraticCritic(2, 1, 2).to_log_ratio(first, second)
    v = torch.randn(7, 5)
    expected = first.log_prob(v) - second.log_prob(v)
    torch.testing.assert_close(critic(*v.split([2, 1, 2], dim=-1)), expected)


def test_the_quadratic_critic_is_its_formula_whatever_its_matrix():
    critic = randomised(QuadraticCritic(2, 3))
    v = torch.randn(6, 5)
    expected = torch.einsum("ni,ij,nj->n", v, critic.matrix, v) + v @ critic.vector + critic.constant
    torch.testing.assert_close(critic(*v.split([2, 3], dim=-1)), expected)


def test_the_separable_critic_is_its_formula():
    critic = randomised(SeparableCritic(2, 3, features=4, hidden=(5,)))
    x, y = torch.randn(6, 2), torch.randn(6, 3)
    expected = (critic.x_layers(x) * critic.y_layers(y)).sum(-1) + critic.constant
    torch.testing.assert_close(critic(x, y), expected)


def test_critics_take_data_of_another_dtype():
    critic = SeparableCritic(3, 2, features=4, hidden=(5,))
    assert critic(torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, 2).float()).dtype == torch.float64


@pytest.mark.parametrize(
    "parts",
    [(torch.zeros(4, 3),), (torch.zeros(4, 3), torch.zeros(4, 3)), (torch.zeros(()), torch.zeros(4, 2))],
)
def test_parts_of_other_shapes_are_refused(parts):
    with pytest.raises(ValueError, match=r"parts of the shapes \(..., 3\) and \(..., 2\) but got"):
        QuadraticCritic(3, 2)(*parts)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="got none"):
        MLPCritic()
    with pytest.raises(ValueError, match="features to be an integer >= 1"):
        SeparableCritic(3, 2, features=0)
    normal = MultivariateNormal(torch.zeros(4), torch.eye(4))
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        QuadraticCritic(3, 2).to_log_ratio(normal, normal)
