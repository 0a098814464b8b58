import pytest
import torch
from torch import Tensor

from pyro_infomax.oracles._rate_distortion import maximise


class Distance:
    """J(w) = -|w - target|^2 / 2, whose maximum is the nearest point of the simplex."""

    def __init__(self, target: Tensor) -> None:
        self.size = len(target)
        self.target = target
        self.calls = 0

    def log_gain(self, weights: Tensor) -> Tensor:
        self.calls += 1
        return self.target - weights

    def gap(self, weights: Tensor) -> float:
        gradient = self.gradient(weights)
        return (gradient.max() - weights @ gradient).item()

    def gradient(self, weights: Tensor) -> Tensor:
        return self.target - weights

    def curvature(self, weights: Tensor) -> Tensor:
        return torch.eye(self.size)


class Uncertain(Distance):
    """The same with a certificate that never closes."""

    def gap(self, weights: Tensor) -> float:
        return 0.5


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([1.2, 1.3, 1.5], [0.2, 0.3, 0.5]),
        ([0.5, 0.5, -1.0], [0.5, 0.5, 0.0]),
        ([3.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
        ([7.0], [1.0]),
    ],
)
@pytest.mark.parametrize("max_iterations", [0, 30, 100_000])
def test_nearest_point_of_the_simplex(target: list[float], nearest: list[float], max_iterations: int) -> None:
    tolerance = 1e-4 if max_iterations > 1000 else 1e-12
    weights = maximise(Distance(torch.tensor(target)), tolerance=tolerance, max_iterations=max_iterations)
    torch.testing.assert_close(weights, torch.tensor(nearest), atol=3 * tolerance**0.5, rtol=0)


def test_iteration_stops_at_its_certificate() -> None:
    function = Distance(torch.tensor([0.2, 0.3, 0.5]))
    maximise(function, tolerance=1e-8, max_iterations=1000)
    assert 5 < function.calls < 1000


def test_certificate_that_does_not_close_is_an_error() -> None:
    with pytest.raises(
        RuntimeError, match=r"within 1e-06 nats but the bounds stay 0\.5 apart; allow a larger"
    ):
        maximise(Uncertain(torch.tensor([0.2, 0.8])), tolerance=1e-6, max_iterations=5)
