"""Kernels: how alike two points are."""

from collections.abc import Sequence
from typing import Any, Final, Protocol, final

import torch
from torch import Tensor

from pyro_infomax.random_state import seeded_draws

_PILOT_DRAWS: Final = 1000


class Kernel(Protocol):
    """A symmetric, positive definite function of two points."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Of all pairs of a (m, d) and b (n, d): (m, n)."""


@final
class RBF:
    r"""The Gaussian kernel.

    .. math:: k(a, b) = \exp\Big(-\frac{\|a - b\|^2}{2 \ell^2}\Big)

    Args:
        lengthscale: :math:`\ell > 0`, in the units of z.

    Raises:
        ValueError: for a length-scale that is not positive and finite.

    >>> kernel = RBF(2.0)
    >>> kernel(torch.zeros(1, 2), torch.tensor([[2.0, 2.0]])).log()
    tensor([[-1.]])
    """

    def __init__(self, lengthscale: float) -> None:
        self.lengthscale = _positive("lengthscale", lengthscale)

    @classmethod
    def median(cls, prior: Any) -> "RBF":
        r"""With the median distance between two draws of a prior as its length-scale.

        The pilot draws are always the same, so that the kernel is a function of the prior alone, and values
        for different posteriors, or after different epochs, are comparable.

        Reference: Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test.

        Args:
            prior: batch shape (), event shape (d,).

        Raises:
            ValueError: for a prior whose draws coincide.
        """
        with seeded_draws(0), torch.no_grad():
            z = prior.sample((_PILOT_DRAWS,)).double()  # (draws, latent)
        distance = float(torch.pdist(z).median())
        if not distance > 0:
            raise ValueError(
                f"Expected a prior whose draws differ but their median distance is {distance}; pass a kernel."
            )
        return cls(distance)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (squared_distances(a, b) * (-0.5 / self.lengthscale**2)).exp()

    def __repr__(self) -> str:
        return f"RBF({self.lengthscale:.4g})"


@final
class InverseMultiquadric:
    r"""A sum of inverse multiquadric kernels, whose heavy tails still pull on far outliers.

    .. math:: k(a, b) = \sum_s \frac{s C}{s C + \|a - b\|^2}

    Reference: Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders.

    Args:
        scale: :math:`C > 0`, in the squared units of z; :math:`2 d` is the expected squared distance between
            two draws of a standard normal prior.
        multiples: the factors s.

    Raises:
        ValueError: for a scale or a multiple that is not positive and finite, or no multiples.

    >>> kernel = InverseMultiquadric(4.0, multiples=(0.5, 1.0))
    >>> kernel(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]))  # 2/6 + 4/8
    tensor([[0.8333]])
    """

    def __init__(
        self, scale: float, *, multiples: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    ) -> None:
        self.scale = _positive("scale", scale)
        if not multiples:
            raise ValueError("Expected at least one of multiples but got none.")
        self.multiples = tuple(_positive("multiples", each) for each in multiples)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        squares = squared_distances(a, b)
        total = torch.zeros_like(squares)
        for scale in (each * self.scale for each in self.multiples):
            total = total + scale / (squares + scale)
        return total

    def __repr__(self) -> str:
        return f"InverseMultiquadric({self.scale:.4g})"


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Between all pairs of a (m, d) and b (n, d), (m, n), by differences: a matrix product would cancel."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def _positive(name: str, value: float) -> float:
    if not 0 < float(value) < float("inf"):
        raise ValueError(f"Expected {name} > 0 and finite but got {float(value)}.")
    return float(value)
