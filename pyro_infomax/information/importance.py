"""Log-weights of importance sampling, and the bound on the log-evidence that they make."""

import math
from typing import Final, final

import torch
from torch import Tensor

from pyro_infomax.information.estimate import Estimate, spread

# few enough to keep for every datum, so many that what is left hardly moves the sum
_FEWEST_KEPT: Final = 64
_TARGET: Final = "the mean log-evidence of these data"


def importance_weighted_bound(log_weights: Tensor) -> Estimate:
    r"""The importance-weighted bound on the mean log-evidence of the data.

    .. math:: \frac1N \sum_n \log \frac1S \sum_s w_{sn} \le \frac1N \sum_n \log p(x_n)

    in expectation, for weights with :math:`E[w_{sn}] = p(x_n)`: those of :math:`p(x, z) / q(z \mid x)` under
    draws of z from q, or of annealed importance sampling. It is the ELBO at S = 1 and rises with S. See
    :class:`ImportanceWeights` for its error, and for weights that arrive in chunks.

    Reference: Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.

    Args:
        log_weights: (samples, data), in nats, at least two samples.

    Returns:
        A lower bound, in nats per datum.

    Raises:
        ValueError: for another shape, fewer than two samples, and weights that are nan or plus infinity.

    >>> import torch
    >>> estimate = importance_weighted_bound(torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    >>> float(estimate), float(estimate.standard_error) < 1e-7
    (0.5, True)
    """
    if log_weights.dim() != 2:
        raise ValueError(f"Expected log-weights of shape (samples, data) but got {tuple(log_weights.shape)}.")
    weights = ImportanceWeights(*log_weights.shape)
    weights.add(log_weights)
    return weights.estimate


@final
class ImportanceWeights:
    r"""What S log-weights of each of N data say, taken in chunk by chunk.

    Kept are the sums of the weights and of their squares, and the largest weights of each datum, about
    :math:`3 \sqrt S` of them.

    The variance of a datum's bound :math:`\log \frac1S \sum_s w_s` is the jackknife's. It is too large rather
    than too small in expectation (for the bound of S - 1 weights), whatever their distribution, and it does
    not level off at 1 as the delta method's does where a single weight outweighs the rest. No variance of the
    sample can know of weights that it missed: where the tail is heavy (a Pareto k above 0.7), trust neither
    the bound's tightness nor its error.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.
        Efron and Stein (1981), The jackknife estimate of variance.

    Args:
        num_samples: S, at least 2.
        data_size: N.

    Raises:
        ValueError: for fewer than two samples, or no data.

    >>> import torch
    >>> weights = ImportanceWeights(4, 1)
    >>> for _ in range(2):
    ...     weights.add(torch.tensor([[1.0], [3.0]]).log())
    >>> weights.log_mean.exp(), weights.effective_sample_size
    (tensor([2.0000], dtype=torch.float64), tensor([3.2000], dtype=torch.float64))
    """

    def __init__(self, num_samples: int, data_size: int) -> None:
        if num_samples < 2:
            raise ValueError(f"Expected num_samples >= 2, for an error of the bound, but got {num_samples}.")
        if data_size < 1:
            raise ValueError(f"Expected at least one datum but got {data_size}.")
        self.num_samples = num_samples
        self.data_size = data_size
        self._kept = min(num_samples, max(_FEWEST_KEPT, tail_length(num_samples) + 1))
        self._sum = torch.full([data_size], -math.inf, dtype=torch.float64)
        self._square = self._sum
        self._largest = torch.zeros(0, data_size, dtype=torch.float64)
        self._added = 0

    def add(self, log_weights: Tensor) -> None:
        """Takes in some samples.

        Args:
            log_weights: (samples, data), in nats.

        Raises:
            ValueError: for another number of data, more samples than were announced, and weights that are nan
                or plus infinity.
        """
        tile = log_weights.detach().double().cpu()
        self._check(tile)
        self._added += len(tile)
        self._sum = torch.logaddexp(self._sum, tile.logsumexp(0))
        self._square = torch.logaddexp(self._square, (2 * tile).logsumexp(0))
        both = torch.cat([self._largest, tile])
        self._largest = both.topk(min(self._kept, len(both)), dim=0).values

    def _check(self, tile: Tensor) -> None:
        room = self.num_samples - self._added
        if tile.dim() != 2 or tile.shape[1] != self.data_size or len(tile) > room:
            raise ValueError(
                f"Expected log-weights of shape (samples, {self.data_size}), at most {room} samples, but got "
                f"{tuple(tile.shape)}."
            )
        wrong = (tile.isnan() | (tile == math.inf)).any(0)
        if bool(wrong.any()):
            raise ValueError(
                f"Expected log-weights below infinity but got nan or inf for {int(wrong.sum())} of "
                f"{self.data_size} data, the first in row {int(wrong.nonzero()[0])}; look for nan in the "
                "data or the log-densities."
            )

    @property
    def largest(self) -> Tensor:
        """The largest log-weights of each datum, largest first, (kept, data): the tail and some more."""
        return self._largest

    @property
    def log_mean(self) -> Tensor:
        r""":math:`\log \frac1S \sum_s w_s`, the bound of each datum, (data,)."""
        return self._complete(self._sum) - math.log(self.num_samples)

    @property
    def effective_sample_size(self) -> Tensor:
        r""":math:`(\sum_s w_s)^2 / \sum_s w_s^2`, between 1 and S, (data,); 0 where all weights are 0."""
        size = (2 * self._complete(self._sum) - self._complete(self._square)).exp()
        return size.nan_to_num(nan=0.0)

    @property
    def variance(self) -> Tensor:
        """The jackknife's variance of each datum's bound, (data,); infinite where one weight alone counts."""
        share = (self._largest - self._complete(self._sum)).exp()  # (kept, data)
        rest = (1 - share.sum(0)).clamp(min=0)
        rest_square = (1 / self.effective_sample_size - share.square().sum(0)).clamp(min=0)
        size, left = self.num_samples, self.num_samples - len(share)
        # log(1 - p) of the rest, whose shares p are small, to second order around an even share
        away = (rest - left / size) / (1 - 1 / size)
        away_square = (rest_square - 2 * rest / size + left / size**2).clamp(min=0) / (1 - 1 / size) ** 2
        change = self._change(share, rest) - math.log1p(-1 / size)
        total = change.sum(0) - away - away_square / 2
        square = change.square().sum(0) + away_square
        spread = (square - total.square() / size).clamp(min=0) * (size - 1) / size
        return spread.nan_to_num(nan=math.inf)

    def _change(self, share: Tensor, rest: Tensor) -> Tensor:
        """By how much the log of the sum changes without each of the largest weights, (kept, data)."""
        # 1 - p of the largest loses all digits as p -> 1, so that the others are added up instead
        log_rest = self._sum + rest.log()
        others = torch.cat([self._largest[1:], log_rest[None]]).logsumexp(0)
        return torch.cat([(others - self._sum)[None], torch.log1p(-share[1:])])

    @property
    def estimate(self) -> Estimate:
        """The mean of the bounds over the data."""
        value = self.log_mean
        error = self.variance.sum().sqrt() / self.data_size
        return Estimate(value.mean(), error, torch.maximum(spread(value), error), "lower", _TARGET)

    def _complete(self, running: Tensor) -> Tensor:
        if self._added < self.num_samples:
            raise ValueError(f"Expected {self.num_samples} samples but only {self._added} were added.")
        return running


def tail_length(num_samples: int) -> int:
    r"""How many of the largest weights a tail is fitted to, :math:`\lceil \min(S / 5, 3 \sqrt S) \rceil`.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    >>> tail_length(1000)
    95
    """
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))
