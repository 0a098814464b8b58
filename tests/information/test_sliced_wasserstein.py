"""The sliced Wasserstein distance against closed forms of Normals, with the bias that sorting has."""

import math

import pytest
import torch
from scipy.special import ndtri
from torch.distributions import Independent, Normal

from pyro_infomax.information import batch_sliced_wasserstein, directions_like, sliced_wasserstein


def normal(loc, scale) -> Independent:
    return Independent(Normal(torch.as_tensor(loc), torch.as_tensor(scale)), 1)


def test_on_a_line_it_is_the_distance_of_quantiles():
    """(m − m')² + (s − s')² for Normals, of which equally spaced quantiles stand here."""
    q = torch.tensor(ndtri((torch.arange(50) + 0.5).numpy() / 50))
    q = q / q.square().mean().sqrt()
    m, s = (torch.tensor(each, requires_grad=True) for each in (0.7, 1.5))
    z, u = m + s * q[torch.randperm(50)], -0.2 + 0.6 * q
    found = batch_sliced_wasserstein(z[:, None], u[:, None], torch.tensor([[1.0, -1.0]]))
    assert float(found.detach()) == pytest.approx(0.9**2 + 0.9**2, abs=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, (m, s)), (torch.tensor(1.8),) * 2)


def test_of_two_draws_each_it_is_biased_as_is_said():
    """(m − m')² + s² + s'² − 2 c s s' with c = 1/π; every column is a draw of its own."""
    m, s, prior_scale, columns, chunks = 0.7, 1.5, 0.8, 20_000, 20
    leaves = [torch.tensor(each, requires_grad=True) for each in (m, s)]
    found = []
    for _ in range(chunks):
        z = leaves[0] + leaves[1] * torch.randn(2, columns // chunks)
        u = prior_scale * torch.randn(2, columns // chunks)
        # A minus sorts the other way round, which changes nothing
        value = (torch.stack([z, -z]).sort(1).values - torch.stack([u, -u]).sort(1).values).square().mean()
        by_column = torch.stack(
            [batch_sliced_wasserstein(z[:, [j]], u[:, [j]], torch.ones(1, 1)) for j in range(3)]
        )
        expected = (z.sort(0).values - u.sort(0).values).square().mean(0)[:3]
        torch.testing.assert_close(by_column, expected)
        found.append(torch.stack([value.detach(), *torch.autograd.grad(value, leaves)]))
    found = torch.stack(found)
    c = 1 / math.pi
    truth = torch.tensor(
        [m**2 + s**2 + prior_scale**2 - 2 * c * s * prior_scale, 2 * m, 2 * s - 2 * c * prior_scale]
    )
    without_bias = torch.tensor([m**2 + (s - prior_scale) ** 2, 2 * m, 2 * (s - prior_scale)])
    error = found.std(0) / math.sqrt(chunks)
    assert ((found.mean(0) - truth).abs() < 4 * error).all()
    assert ((found.mean(0) - without_bias).abs() > 20 * error)[[0, 2]].all()


def test_directions_are_uniform_on_the_sphere():
    directions = directions_like(torch.zeros(1, 3), 4000)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(4000))
    torch.testing.assert_close(directions @ directions.T / 4000, torch.eye(3) / 3, rtol=0, atol=0.03)
    assert float(directions.mean(1).abs().max()) < 0.05


def test_a_shift_counts_as_much_as_a_direction_shows_of_it():
    """|m|²/d for two distributions that differ by a shift."""
    posterior = normal([[1.0, 2.0, 2.0]], [[1.0, 0.5, 2.0]])
    prior = normal([0.0, 0.0, 0.0], [1.0, 0.5, 2.0])
    found = sliced_wasserstein(posterior, prior, num_samples=1000, num_projections=200, seed=0)
    assert abs(float(found) - 3.0) < 4 * float(found.standard_error)
    assert float(found.standard_error) < 0.5
    assert found.bound == "upper"
    assert "squared units of z, not in nats" in found.target


def test_its_error_is_the_spread_of_its_values():
    posterior, prior = normal([[2.0, 0.0], [1.0, 1.0]], [[0.5, 1.0], [1.5, 0.3]]), normal([0.0, 0.0], 1.0)
    found = [sliced_wasserstein(posterior, prior, num_samples=60, num_projections=10) for _ in range(100)]
    spread = float(torch.tensor([float(each) for each in found]).std())
    reported = math.sqrt(sum(float(each.standard_error) ** 2 for each in found) / len(found))
    assert 0.75 < reported / spread < 1.3


def test_on_a_line_its_error_is_known():
    """For N(1, 2²) and N(0, 1) the potentials are x²/2 + x and −y² − 2y, of variance 24 and 6."""
    found = sliced_wasserstein(normal([[1.0]] * 500, 2.0), normal([0.0], 1.0), num_samples=4000, seed=0)
    assert float(found.standard_error) == pytest.approx(math.sqrt(30 / 4000), rel=0.1)
    assert abs(float(found) - 2.0) < 4 * float(found.standard_error)


def test_gradients_point_to_the_prior():
    loc = torch.full((10, 2), 3.0, requires_grad=True)
    found = sliced_wasserstein(normal(loc, 1.0), normal([0.0, 0.0], [1.0, 1.0]), num_samples=500, seed=0)
    (gradient,) = torch.autograd.grad(found.value, loc)
    assert (gradient.sum(0) - 3.0).abs().max() < 0.6  # 2 m / d
    assert not found.standard_error.requires_grad


def test_too_few_draws_or_directions_are_refused():
    posterior, prior = normal([[0.0]], 1.0), normal([0.0], 1.0)
    with pytest.raises(ValueError, match="num_samples to be an integer >= 3"):
        sliced_wasserstein(posterior, prior, num_samples=2)
    with pytest.raises(ValueError, match="num_projections to be an integer >= 2"):
        sliced_wasserstein(posterior, prior, num_projections=1)
