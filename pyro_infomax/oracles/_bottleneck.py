"""The information bottleneck, of tables by iteration and of Gaussians in closed form."""

from dataclasses import dataclass
from typing import Final, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_infomax._checks import whole_number
from pyro_infomax._progress import patiently
from pyro_infomax.oracles._checks import (
    finite,
    generator_at,
    mutual_information_of,
    of_rank,
    positive,
    positive_number,
    probabilities,
)

_SHARPEST: Final = 8.0  # scale of the logits of the sharpest random start
_LEAST: Final = 1e-300  # of a probability, below which it counts as this


@final
@dataclass(frozen=True, eq=False)
class InformationBottleneck:
    """A compression T of X that keeps what X tells of Y, in nats.

    Attributes:
        compression: I(X; T), what is kept of X.
        relevance: I(T; Y), what is kept of what X tells of Y.
        encoder: p(t|x), (x, t).
        marginal: p(t), (t,).
        decoder: p(y|t), (t, y).
        beta: the weight of the relevance.
    """

    compression: Tensor
    relevance: Tensor
    encoder: Tensor
    marginal: Tensor
    decoder: Tensor
    beta: float

    @property
    def loss(self) -> Tensor:
        """compression - beta relevance."""
        return self.compression - self.beta * self.relevance


@torch.no_grad()
def information_bottleneck(
    joint: ArrayLike | Tensor,
    beta: float,
    num_states: int,
    *,
    restarts: int = 20,
    tolerance: float = 1e-10,
    max_iterations: int = 10_000,
    seed: int | None = None,
    progress: bool = True,
) -> InformationBottleneck:
    r"""The information bottleneck of two discrete variables, by self-consistent iteration.

    .. math::

        \min_{p(t|x)} \; I(X; T) - \beta\, I(T; Y): \qquad
        p(t|x) \propto p(t)\, \exp\big({-\beta}\, KL[p(y|x) \| p(y|t)]\big)

    Every iteration lowers the loss, down to a stationary point of it. There can be several: the best of all
    restarts is returned, whose loss is an upper bound on the minimum. For beta at most 1 the minimum is 0, at
    an encoder that ignores X.

    Reference: Tishby, Pereira and Bialek (1999), *The Information Bottleneck Method*.

    Args:
        joint: p(x, y), (x, y).
        beta: weight of the relevance, positive.
        num_states: how many states T has; as many as X has suffice.
        restarts: number of random encoders, from nearly uniform to nearly deterministic ones, to start from.
        tolerance: how little one iteration may change every p(x, t) at the end.
        max_iterations: of all restarts side by side.
        seed: isolates the random starts from torch's global generator; None draws from it.
        progress: show a bar where this takes more than a few seconds.

    Raises:
        ValueError: If the joint is no distribution, or another argument is out of range.
        RuntimeError: If the best restart has not converged, as it hardly does at a critical beta, where a new
            cluster is about to split off.

    Example:
        >>> joint = [[0.45, 0.05], [0.05, 0.45]]  # a fair bit, seen through a channel that flips a tenth
        >>> kept = information_bottleneck(joint, beta=2.0, num_states=2, seed=0)
        >>> print(f"of {kept.compression:.3f} nats {kept.relevance:.3f} are relevant")
        of 0.483 nats 0.282 are relevant
    """
    source = of_rank("joint", probabilities("joint", joint, axes=2), "x, y")
    weight = positive_number("beta", beta).item()
    num_states = whole_number("num_states", num_states, at_least=1)
    restarts = whole_number("restarts", restarts, at_least=1)
    iteration = _SelfConsistency(source, weight)
    encoders = _random_encoders(restarts, len(source), num_states, seed)  # (restart, x, t)
    change = torch.full((restarts,), torch.inf, dtype=torch.float64)
    for _ in patiently(range(max_iterations), "information bottleneck", progress=progress):
        if (change <= tolerance).all():
            break
        updated = iteration.update(encoders)
        change, encoders = iteration.distance(updated, encoders), updated
    best = iteration.loss(encoders).argmin()
    if not change[best] <= tolerance:
        raise RuntimeError(
            f"Expected the encoder to settle within {tolerance:.3g} but after {max_iterations} iterations it "
            f"still moves by {change[best].item():.3g}; allow more iterations or a larger tolerance."
        )
    return iteration.report(encoders[best])


@final
class _SelfConsistency:
    """One round of the three equations, for many encoders (restart, x, t) at once."""

    def __init__(self, joint: Tensor, beta: float) -> None:
        self._joint = joint  # (x, y)
        self._beta = beta
        self._p_x = joint.sum(1)  # (x,)
        self._p_y_given_x = joint / self._p_x.clamp(min=_LEAST).unsqueeze(1)  # (x, y)

    def update(self, encoders: Tensor) -> Tensor:
        p_t = self._p_x @ encoders  # (restart, t)
        decoders = self._decoders(encoders).clamp(min=_LEAST)  # (restart, t, y)
        # the entropy of p(y|x), which is the same for all t, is left out of the divergence
        fit = self._p_y_given_x @ decoders.log().mT  # (restart, x, t)
        return (p_t.clamp(min=_LEAST).log().unsqueeze(-2) + self._beta * fit).softmax(-1)

    def distance(self, encoders: Tensor, others: Tensor) -> Tensor:
        """The largest change of p(x, t), (restart,)."""
        return (self._p_x.unsqueeze(1) * (encoders - others)).abs().amax((-2, -1))

    def loss(self, encoders: Tensor) -> Tensor:
        """I(X; T) - beta I(T; Y), (restart,)."""
        return self._compression(encoders) - self._beta * self._relevance(encoders)

    def report(self, encoder: Tensor) -> InformationBottleneck:
        return InformationBottleneck(
            compression=self._compression(encoder),
            relevance=self._relevance(encoder),
            encoder=encoder,
            marginal=self._p_x @ encoder,
            decoder=self._decoders(encoder),
            beta=self._beta,
        )

    def _decoders(self, encoders: Tensor) -> Tensor:
        """p(y|t), (..., t, y)."""
        return encoders.mT @ self._joint / (self._p_x @ encoders).clamp(min=_LEAST).unsqueeze(-1)

    def _compression(self, encoders: Tensor) -> Tensor:
        return mutual_information_of(self._p_x.unsqueeze(1) * encoders)

    def _relevance(self, encoders: Tensor) -> Tensor:
        return mutual_information_of(encoders.mT @ self._joint)


def _random_encoders(restarts: int, size: int, num_states: int, seed: int | None) -> Tensor:
    """From nearly uniform to nearly deterministic ones, (restart, x, t)."""
    generator = generator_at(seed)
    noise = torch.randn(restarts, size, num_states, dtype=torch.float64, generator=generator)
    scales = torch.linspace(_SHARPEST, 0.1, restarts, dtype=torch.float64)
    return (scales.reshape(-1, 1, 1) * noise).softmax(-1)


@final
@dataclass(frozen=True, eq=False)
class GaussianInformationBottleneck:
    """A point of the information curve of two Gaussian vectors, in nats.

    Attributes:
        compression: I(X; T), what is kept of X, (...).
        relevance: I(T; Y), what is kept of what X tells of Y, (...).
        active: how many canonical directions T has, (...).
    """

    compression: Tensor
    relevance: Tensor
    active: Tensor


def gaussian_information_bottleneck(
    correlations: ArrayLike | Tensor, beta: ArrayLike | Tensor
) -> GaussianInformationBottleneck:
    r"""The information bottleneck of two jointly Gaussian vectors, in closed form.

    The best compression is a noisy linear map onto the canonical directions, of which direction j is active
    once :math:`\beta \rho_j^2 > 1`:

    .. math::

        I(X; T) = \tfrac12 \sum_\text{active} \ln \frac{(\beta - 1)\, \rho_j^2}{1 - \rho_j^2}, \qquad
        I(T; Y) = I(X; T) - \tfrac12 \sum_\text{active} \ln \beta \rho_j^2

    Reference: Chechik, Globerson, Tishby and Weiss (2005), *Information Bottleneck for Gaussian Variables*.

    Args:
        correlations: the canonical correlations of X and Y, (dim,), above -1 and below 1.
        beta: weight of the relevance, positive, (...).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> kept = gaussian_information_bottleneck([0.9, 0.5], beta=[1.0, 3.0, 1000.0])
        >>> kept.active.tolist()
        [0, 1, 2]
        >>> print(f"{kept.relevance[-1]:.3f}")  # nearly I(X; Y) = 0.974
        0.973
    """
    squares = of_rank("correlations", finite("correlations", correlations), "dim").square()  # (dim,)
    if not (squares < 1).all():
        raise ValueError(f"Expected correlations within (-1, 1) but got {squares.max().sqrt().item()}.")
    weight = positive("beta", beta).unsqueeze(-1)  # (..., 1)
    is_active = weight * squares > 1  # (..., dim)
    signal = torch.where(is_active, (weight - 1) * squares / (1 - squares), 1.0)
    excess = torch.where(is_active, weight * squares, 1.0)
    compression = 0.5 * signal.log().sum(-1)
    return GaussianInformationBottleneck(
        compression, compression - 0.5 * excess.log().sum(-1), is_active.sum(-1)
    )
