import math

import pytest
import torch
from torch import Tensor

from pyro_infomax.oracles import LinearGaussian, gaussian_rate_distortion

SPECTRUM = [2.0, 6.0, 0.5, 3.0, 3.0]


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


def plain(level: float) -> tuple[float, float]:
    """Rate and distortion of a level, in plain Python."""
    rate = math.fsum(0.5 * math.log(value / level) for value in SPECTRUM if value > level)
    return rate, sum(min(level, value) for value in SPECTRUM)


@pytest.mark.parametrize("level", [1e-6, 0.5, 1.7, 3.0, 5.999, 6.0])
def test_all_three_places_lead_to_the_same_point(level: float) -> None:
    rate, distortion = plain(level)
    for place in ({"level": level}, {"distortion": distortion}, {"rate": rate}):
        point = gaussian_rate_distortion(SPECTRUM, **place)
        close(point.level, level)
        close(point.rate, rate)
        close(point.distortion, distortion)


def test_components_in_the_order_of_the_eigenvalues() -> None:
    point = gaussian_rate_distortion(SPECTRUM, level=2.5)
    close(point.distortions, torch.tensor([2.0, 2.5, 0.5, 2.5, 2.5]))
    nats = [0.0, 0.5 * math.log(6 / 2.5), 0.0, 0.5 * math.log(3 / 2.5), 0.5 * math.log(3 / 2.5)]
    close(point.rates, torch.tensor(nats))


def test_many_places_at_once() -> None:
    distortion = torch.linspace(0.01, 14.0, 30).reshape(5, 6)
    curve = gaussian_rate_distortion(SPECTRUM, distortion=distortion)
    assert curve.rates.shape == (5, 6, 5)
    for index in ((0, 0), (2, 3), (4, 5)):
        close(curve.rate[index], gaussian_rate_distortion(SPECTRUM, distortion=distortion[index]).rate)
    close(curve.distortion, distortion)


def test_places_may_lie_in_memory_as_they_like() -> None:
    places = torch.linspace(0.1, 2.0, 6, dtype=torch.float64).reshape(2, 3)
    for name in ("distortion", "rate"):
        turned = gaussian_rate_distortion([3.0, 1.0], **{name: places.T})
        torch.testing.assert_close(
            turned.level, gaussian_rate_distortion([3.0, 1.0], **{name: places}).level.T
        )


def test_slope_is_the_derivative() -> None:
    distortion = torch.linspace(0.2, 14.0, 50, requires_grad=True)
    curve = gaussian_rate_distortion(SPECTRUM, distortion=distortion)
    (gradient,) = torch.autograd.grad(curve.rate.sum(), distortion)
    close(curve.slope, gradient)
    close(curve.slope, -0.5 / curve.level)


def test_gradients_are_those_of_finite_differences() -> None:
    spectrum = torch.tensor([2.0, 6.0, 0.5, 3.5, 3.0], requires_grad=True)
    distortion = torch.tensor([1.0, 4.0, 9.0], requires_grad=True)
    rate = torch.tensor([0.2, 1.0, 4.0], requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s, d: gaussian_rate_distortion(s, distortion=d).rate, (spectrum, distortion)
    )
    assert torch.autograd.gradcheck(
        lambda s, r: gaussian_rate_distortion(s, rate=r).distortion, (spectrum, rate)
    )


def test_curve_is_the_least_rate_of_any_split_of_the_error() -> None:
    best = gaussian_rate_distortion(SPECTRUM, distortion=5.0).rate
    shares = torch.rand(20_000, 5)
    errors = torch.minimum(5.0 * shares / shares.sum(1, keepdim=True), torch.tensor(SPECTRUM))
    rates = 0.5 * (torch.tensor(SPECTRUM) / errors).log().sum(1)
    assert rates.min() >= best
    assert rates.min() < best + 0.1


def test_ends_of_the_curve() -> None:
    for distortion in (14.5, 14.6, 1e9):
        point = gaussian_rate_distortion(SPECTRUM, distortion=distortion)
        assert (point.rate, point.slope) == (0, 0)
        close(point.distortion, 14.5)
    close(gaussian_rate_distortion(SPECTRUM, rate=0.0).distortion, 14.5)


def test_singular_covariance_costs_nothing_where_it_has_no_variance() -> None:
    singular = gaussian_rate_distortion([3.0, 0.0, 1.0, -1e-17], distortion=[0.5, 2.5])
    plain_one = gaussian_rate_distortion([3.0, 1.0], distortion=[0.5, 2.5])
    close(singular.rate, plain_one.rate)
    close(
        gaussian_rate_distortion([3.0, 0.0, 1.0], rate=1.0).level,
        gaussian_rate_distortion([3.0, 1.0], rate=1.0).level,
    )
    values = torch.tensor([3.0, 0.0, 1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(gaussian_rate_distortion(values, distortion=0.5).rate, values)
    close(gradient, torch.tensor([1 / 6, 0.0, 1 / 2]))


@pytest.mark.parametrize("beta", [0.3, 2.5, 20.0])
def test_optimal_linear_vae_lies_on_the_curve(beta: float) -> None:
    s2 = 0.4
    best = LinearGaussian.optimum(SPECTRUM, beta, latent_dim=5, s2=s2)
    error = 2 * s2 * (best.distortion - 2.5 * math.log(2 * math.pi * s2))
    point = gaussian_rate_distortion(SPECTRUM, distortion=error)
    close(point.rate, best.rate, tolerance=1e-9)
    if best.rate > 0:
        close(point.level, beta * s2, tolerance=1e-9)


def test_too_few_latents_lie_above_the_curve_by_the_closed_form() -> None:
    best = LinearGaussian.optimum(SPECTRUM, 1.0, latent_dim=2, s2=0.3)
    error = 2 * 0.3 + 3.0 + 2.0 + 0.5
    close(best.rate, 0.5 * (math.log(6 / 0.3) + math.log(3 / 0.3)))
    assert best.rate > gaussian_rate_distortion(SPECTRUM, distortion=error).rate + 0.1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "Expected exactly one of distortion, rate and level but got none"),
        ({"rate": 1.0, "level": 1.0}, "but got rate, level"),
        ({"distortion": 0.0}, r"Expected distortion > 0 but got 0\.0"),
        ({"distortion": [1.0, -1.0]}, r"Expected distortion > 0 but got -1\.0"),
        ({"distortion": math.nan}, "Expected distortion to be finite"),
        ({"rate": -0.1}, r"Expected rate >= 0 but got -0\.1"),
        ({"level": 0.0}, r"Expected level > 0 but got 0\.0"),
    ],
)
def test_wrong_places_are_refused(arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        gaussian_rate_distortion(SPECTRUM, **arguments)


@pytest.mark.parametrize("eigenvalues", [[], [[1.0]], [1.0, -1.0], [0.0, 0.0], [1.0, math.inf]])
def test_wrong_eigenvalues_are_refused(eigenvalues: list[float]) -> None:
    with pytest.raises(ValueError, match="Expected eigenvalues"):
        gaussian_rate_distortion(eigenvalues, distortion=0.1)
