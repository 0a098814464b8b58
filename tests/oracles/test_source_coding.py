import math

import pytest
import torch
from torch import Tensor

from pyro_infomax.oracles import blahut_arimoto, gaussian_rate_distortion, rate_distortion

HAMMING = [[0.0, 1.0], [1.0, 0.0]]


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


def h(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def rate_of(source: Tensor, conditional: Tensor) -> Tensor:
    joint = source[:, None] * conditional
    return torch.where(joint > 0, joint * (joint / (source[:, None] * joint.sum(0))).log(), 0).sum()


@pytest.mark.parametrize(
    ("p", "share"), [(0.3, 0.0), (0.1, 0.05), (0.5, 0.5), (0.3, 0.99), (0.5, 1.0), (0.1, 3.0)]
)
def test_binary_source_with_hamming_distortion(p: float, share: float) -> None:
    found = rate_distortion([p, 1 - p], HAMMING, target=share * p)
    close(found.rate, h(p) - h(min(share, 1) * p))
    close(found.distortion, min(share, 1) * p)
    assert found.rate - found.lower_bound <= 1e-10


@pytest.mark.parametrize("target", [0.05, 0.7])
def test_uniform_source_with_hamming_distortion(target: float) -> None:
    size = 6
    found = rate_distortion([1 / size] * size, 1 - torch.eye(size), target=target)
    close(found.rate, math.log(size) - h(target) - target * math.log(size - 1))
    slope = math.log((1 - target) / target * (size - 1))
    close(found.slope, slope, tolerance=1e-4)


@pytest.mark.parametrize("target", [0.0, 0.25, 0.6, 1.0])
def test_straight_curve_of_erasures(target: float) -> None:
    """One slope belongs to all distortions here."""
    erasures = [[0.0, math.inf, 1.0], [math.inf, 0.0, 1.0]]
    found = rate_distortion([0.5, 0.5], erasures, target=target)
    close(found.rate, (1 - target) * math.log(2))
    close(found.distortion, target)


@pytest.mark.parametrize("target", [0.1, 0.8])
def test_quantised_gaussian_source_is_near_the_formula(target: float) -> None:
    x = torch.linspace(-5, 5, 61)
    source = torch.exp(-0.5 * x.square())
    source = source / source.sum()
    found = rate_distortion(source, (x[:, None] - x).square(), target=target, tolerance=1e-8)
    variance = source @ x.square()
    close(found.rate, gaussian_rate_distortion(variance[None], distortion=target).rate, tolerance=3e-4)
    close(found.slope, 0.5 / target, tolerance=3e-3)


@pytest.fixture
def source() -> Tensor:
    return torch.randn(7).softmax(0)


@pytest.fixture
def distortion() -> Tensor:
    return torch.rand(7, 10)


def test_report_holds_together(source: Tensor, distortion: Tensor) -> None:
    found = rate_distortion(source, distortion, target=0.25)
    close(found.conditional.sum(1), torch.ones(7))
    close(found.reproduction, source @ found.conditional)
    close(found.distortion, (source[:, None] * found.conditional * distortion).sum())
    close(found.rate, rate_of(source, found.conditional))
    assert 0 <= found.rate - found.lower_bound <= 1e-10


def test_no_conditional_of_this_distortion_needs_less(source: Tensor, distortion: Tensor) -> None:
    found = rate_distortion(source, distortion, target=0.25)
    least = torch.nn.functional.one_hot(distortion.argmin(1), 10).double()
    for _ in range(100):
        other = (found.conditional.clamp(min=1e-6).log() + torch.randn(7, 10)).softmax(-1)
        error = (source[:, None] * other * distortion).sum()
        finest = (source[:, None] * least * distortion).sum()
        share = ((0.25 - finest) / (error - finest)).clamp(max=1)
        mixed = share * other + (1 - share) * least
        assert rate_of(source, mixed) >= found.lower_bound


@pytest.mark.parametrize("slope", [0.5, 20.0, 500.0])
def test_points_of_a_slope_lie_on_the_curve(source: Tensor, distortion: Tensor, slope: float) -> None:
    point = blahut_arimoto(distortion, source=source, slope=slope)
    assert point.rate - point.lower_bound <= 1e-9
    found = rate_distortion(source, distortion, target=point.distortion.item())
    close(found.rate, point.rate, tolerance=1e-8)


def test_least_distortion_takes_the_rate_of_the_best_reproductions(distortion: Tensor) -> None:
    found = rate_distortion([0.25] * 4, [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [2.0, 0.0]], target=0.0)
    close(found.rate, math.log(2))
    close(found.distortion, 0.0)


def test_symbols_that_never_occur_and_twins_change_nothing() -> None:
    plain = rate_distortion([0.3, 0.7], HAMMING, target=0.1)
    rare = rate_distortion([0.3, 0.0, 0.7], [[0.0, 1.0], [5.0, 5.0], [1.0, 0.0]], target=0.1)
    twins = rate_distortion([0.3, 0.7], [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]], target=0.1)
    close(rare.rate, plain.rate)
    close(twins.rate, plain.rate)


def test_symbols_that_never_occur_may_have_a_reproduction_of_their_own() -> None:
    hamming = 1 - torch.eye(3)
    found = rate_distortion([0.5, 0.5, 0.0], hamming, target=0.11)
    close(found.rate, rate_distortion([0.5, 0.5], HAMMING, target=0.11).rate)
    close(found.conditional.sum(1), torch.ones(3, dtype=torch.float64))
    steep = blahut_arimoto(hamming, source=[0.5, 0.5, 0.0], slope=1e6)
    close(steep.rate, math.log(2))
    close(steep.conditional.sum(1), torch.ones(3, dtype=torch.float64))


def test_a_target_below_the_least_distortion_by_rounding_is_the_least() -> None:
    distortion = 0.1 + 0.9 * (1 - torch.eye(3, dtype=torch.float64))
    source = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    found = rate_distortion(source, distortion, target=0.1 * (1 - 1e-15))
    close(found.rate, -(source * source.log()).sum())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"source": [[0.5, 0.5]]}, r"Expected source of shape \(source\) but got \(1, 2\)"),
        ({"source": [0.5, 0.6]}, "Expected source to sum to 1"),
        ({"distortion": [0.0, 1.0]}, r"Expected distortion of shape \(source, reproduction\) but got \(2,\)"),
        ({"distortion": [[0.0, 1.0]]}, r"Expected distortion of shape \(2, 2\) but got \(1, 2\)"),
        ({"distortion": [[0.0, math.nan], [1.0, 0.0]]}, "Expected distortion without nan"),
        ({"distortion": [[0.0, 1.0], [math.inf, math.inf]]}, "Expected a reproduction of finite distortion"),
        ({"distortion": [[0.0, math.inf], [math.inf, 0.0]]}, "allowed for every symbol but there is none"),
        ({"target": -0.1}, r"Expected target >= 0\.0, the least distortion, but got -0\.1"),
        ({"target": math.nan}, "but got nan"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rate_distortion(**({"source": [0.5, 0.5], "distortion": HAMMING, "target": 0.1} | arguments))
