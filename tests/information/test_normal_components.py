"""Features times weights are log-densities, and nothing decays slower than it says."""

import math

import pytest
import torch
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, StudentT

from pyro_infomax.information._mixture_engine import DiagonalNormals, FullNormals, normal_components

FAMILIES = {
    "diagonal": lambda: Independent(Normal(torch.randn(7, 3), torch.rand(7, 3) + 0.2), 1),
    "full": lambda: MultivariateNormal(
        torch.randn(7, 3), scale_tril=torch.randn(7, 3, 3).tril(-1) + torch.eye(3)
    ),
    "low rank": lambda: LowRankMultivariateNormal(
        torch.randn(7, 3), torch.randn(7, 3, 1), torch.rand(7, 3) + 0.1
    ),
}


@pytest.fixture(params=FAMILIES)
def posterior(request):
    return FAMILIES[request.param]()


def test_the_product_of_features_and_weights_is_the_log_density(posterior) -> None:
    components, z, centre = normal_components(posterior), torch.randn(5, 3), torch.randn(3)
    features = components.features(z - centre)
    assert features.shape == (5, components.features_per_point)
    weights, constants = components.weights(slice(2, 6), centre)
    expected = posterior.log_prob(z[:, None])[:, 2:6]
    torch.testing.assert_close(features @ weights + constants, expected, rtol=1e-10, atol=1e-10)


def test_pairs_are_scored_by_differences(posterior) -> None:
    components, z, index = normal_components(posterior), torch.randn(5, 3), torch.tensor([0, 6, 6, 2, 1])
    expected = posterior.log_prob(z[:, None])[torch.arange(5), index]
    torch.testing.assert_close(components.log_prob(z, index), expected, rtol=1e-11, atol=1e-11)


def test_a_component_falls_off_at_least_as_fast_as_it_says(posterior) -> None:
    components, z = normal_components(posterior), 5 * torch.randn(200, 3)
    fall = components.peak - posterior.log_prob(z[:, None])  # (points, batch)
    promised = ((z[:, None] - components.loc) * components.decay()).square().sum(-1)
    assert bool((fall > promised - 1e-9).all())


def test_chosen_components_come_in_the_order_asked_for(posterior) -> None:
    components, order = normal_components(posterior), torch.tensor([5, 0, 3])
    assert components.decay(slice(1, 4)).shape == (3, 3)
    some, z = components[order], torch.randn(3, 3)
    torch.testing.assert_close(some.log_prob(z, torch.arange(3)), components.log_prob(z, order))
    torch.testing.assert_close(some.decay(), components.decay()[order])


def test_families() -> None:
    assert isinstance(normal_components(FAMILIES["diagonal"]()), DiagonalNormals)
    assert isinstance(normal_components(FAMILIES["low rank"]()), FullNormals)
    assert normal_components(Independent(StudentT(3.0, torch.zeros(4, 2)), 1)) is None


def test_many_dimensions_with_all_their_products_are_left_to_the_family_itself() -> None:
    root = torch.eye(33).expand(4, 33, 33)
    assert normal_components(MultivariateNormal(torch.zeros(4, 33), scale_tril=root)) is None


def test_single_precision_is_doubled() -> None:
    single = Independent(
        Normal(torch.zeros(4, 2, dtype=torch.float32), torch.ones(2, dtype=torch.float32)), 1
    )
    assert normal_components(single).loc.dtype == torch.float64


@pytest.mark.parametrize("diagonal", [1.0, 1e-10, 1e-18])
def test_nearly_singular_low_rank_covariances_keep_their_digits(diagonal) -> None:
    """The factor's outer product alone would have lost what the diagonal adds."""
    factor = torch.tensor([[1.0], [1.0]]).expand(3, 2, 1)
    normal = LowRankMultivariateNormal(torch.zeros(3, 2), factor, torch.full((3, 2), diagonal))
    found = normal_components(normal)
    along, across = 2 + diagonal, diagonal  # the eigenvalues
    z = torch.tensor([[math.sqrt(0.5 * along), math.sqrt(0.5 * along)]])
    expected = -0.5 - math.log(2 * math.pi) - 0.5 * (math.log(along) + math.log(across))
    value = found.log_prob(z, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(value, torch.tensor([expected]), rtol=1e-6, atol=0)
