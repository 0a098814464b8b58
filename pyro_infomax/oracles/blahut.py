"""The iteration of Blahut and Arimoto, for channels and for sources."""

from typing import overload

from numpy.typing import ArrayLike
from torch import Tensor

from .channel import ChannelCapacity, priced_capacity
from .source_coding import RateDistortion, sloped_rate_distortion


@overload
def blahut_arimoto(
    table: ArrayLike | Tensor,
    /,
    *,
    cost: ArrayLike | Tensor | None = None,
    slope: float | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> ChannelCapacity: ...


@overload
def blahut_arimoto(
    table: ArrayLike | Tensor,
    /,
    *,
    source: ArrayLike | Tensor,
    slope: float | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> RateDistortion: ...


def blahut_arimoto(
    table: ArrayLike | Tensor,
    /,
    *,
    source: ArrayLike | Tensor | None = None,
    cost: ArrayLike | Tensor | None = None,
    slope: float | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> ChannelCapacity | RateDistortion:
    r"""Channel capacity and rate-distortion by alternating optimisation, with certified bounds.

    Of a channel p(y|x) it finds the input that carries the most information, less what it costs; of a source
    p(x) and a table of distortions d(x, x̂) the reproduction that needs the least:

    .. math::

        \max_{p(x)} \; I(X; Y) - s\, E[c(X)],
        \qquad \min_{p(\hat x|x)} \; I(X; \hat X) + s\, E[d(X, \hat X)].

    Both are concave in one vector of weights, which grow by
    :math:`\exp(KL[p(y|x) \| p(y)] - s c(x))` or by
    :math:`\sum_x p(x) e^{-s d(x, \hat x)} / \sum_k w_k e^{-s d(x, k)}` until the largest of these factors
    certifies that no other weights do better by more than the tolerance. Where the iteration crawls, Newton's
    steps in the interior take over. :func:`channel_capacity` and :func:`rate_distortion` find the slope of a
    given budget or distortion.

    References:
        Arimoto (1972), *An Algorithm for Computing the Capacity of Arbitrary Discrete Memoryless Channels*.
        Blahut (1972), *Computation of Channel Capacity and Rate-Distortion Functions*.
        Csiszár (1974), *On the Computation of Rate-Distortion Functions*.

    Args:
        table: a channel p(y|x), (input, output); or with a source the distortion d(x, x̂),
            (source, reproduction), infinite where a reproduction is forbidden.
        source: p(x), (source,): makes it a problem of rate-distortion.
        cost: c(x) of a channel's inputs, (input,).
        slope: s, in nats per unit of cost, at least zero, 0 by default; or per unit of distortion, positive.
        tolerance: the gap between the bounds that is accepted, in nats.
        max_iterations: of the multiplicative update, before Newton's steps.

    Returns:
        A :class:`ChannelCapacity`, or with a source a :class:`RateDistortion`.

    Raises:
        ValueError: If probabilities do not sum to one, shapes do not fit, the slope is out of range, or
            arguments of the two problems are mixed.
        RuntimeError: If the bounds do not come within the tolerance.

    Example:
        >>> z_channel = blahut_arimoto([[1.0, 0.0], [0.3, 0.7]])
        >>> print(f"{z_channel.capacity:.4f} nats at p(1) = {z_channel.input[1]:.4f}")
        0.3491 nats at p(1) = 0.4210
        >>> point = blahut_arimoto([[0.0, 1.0], [1.0, 0.0]], source=[0.5, 0.5], slope=2.0)
        >>> print(f"{point.rate:.4f} nats at distortion {point.distortion:.4f}")
        0.3278 nats at distortion 0.1192
    """
    if source is None:
        price = 0.0 if slope is None else slope
        return priced_capacity(
            table, cost=cost, slope=price, tolerance=tolerance, max_iterations=max_iterations
        )
    if cost is not None or slope is None:
        raise ValueError(
            "Expected a slope and no cost beside a source, whose table holds the distortions, but got "
            f"{'no slope' if slope is None else 'a cost'}."
        )
    return sloped_rate_distortion(
        source, table, slope=slope, tolerance=tolerance, max_iterations=max_iterations
    )
