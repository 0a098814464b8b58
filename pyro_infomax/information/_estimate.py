"""A number in nats, with what is known about its error."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, final

import torch
from torch import Tensor

_FEWEST_DECIMALS: Final = 3
_MOST_DECIMALS: Final = 6


@final
@dataclass(frozen=True, eq=False)
class Estimate:
    r"""An estimated quantity, its standard errors, and the direction in which it bounds its target.

    Args:
        value: float64, 0-d, or (d,) for a quantity per latent dimension, in nats.
        standard_error: the error for the data at hand, shaped like ``value``: only the draws of z are random.
            It is 0 where the value is a closed form.
        population_standard_error: the error as a statement about the population that the data were drawn
            from, shaped like ``value``; None where no such statement is made.
        bound: whether ``value`` bounds its target from below, from above, or estimates it exactly; None where
            it does none of these.
        target: the quantity that is estimated or bounded, in words.
        note: why the error, or the value, cannot be trusted; None where nothing speaks against them. That of
            a vector tells of one of its dimensions at least.

    A vector is a sequence of scalar estimates.

    >>> import torch
    >>> number = torch.tensor([1.2341, 0.5], dtype=torch.float64)
    >>> error = torch.tensor([0.005, 0.0], dtype=torch.float64)
    >>> estimate = Estimate(number, error, None, bound="exact", target="a quantity per dimension")
    >>> print(estimate[0])
    1.234 ± 0.005 (exact)
    >>> len(estimate), float(estimate[1])
    (2, 0.5)
    """

    value: Tensor
    standard_error: Tensor
    population_standard_error: Tensor | None
    bound: Literal["lower", "upper", "exact"] | None
    target: str
    note: str | None = None

    def __len__(self) -> int:
        if self.value.dim() == 0:
            raise TypeError("Expected an estimate per dimension but this one is a scalar, without a length.")
        return len(self.value)

    def __getitem__(self, index: int | slice) -> "Estimate":
        population = self.population_standard_error
        return replace(
            self,
            value=self.value[index],
            standard_error=self.standard_error[index],
            population_standard_error=None if population is None else population[index],
        )

    def __iter__(self) -> Iterator["Estimate"]:
        return (self[index] for index in range(len(self)))

    def __float__(self) -> float:
        return float(self.value.detach())

    def __str__(self) -> str:
        pairs = zip(self.value.reshape(-1).tolist(), self.standard_error.reshape(-1).tolist(), strict=True)
        numbers = ", ".join(_with_error(value, error) for value, error in pairs)
        how: str = self.bound or "no bound"
        how = how if self.note is None else f"{how}, see its note"
        return f"{numbers} ({how})" if self.value.dim() == 0 else f"[{numbers}] ({how})"


def spread(per_datum: Tensor) -> Tensor:
    """The standard error of a mean over data, (batch,) or (batch, latent); nan for a single datum."""
    size = len(per_datum)
    return per_datum.std(0) / math.sqrt(size) if size > 1 else torch.full_like(per_datum[0], math.nan)


def mean_of_draws(per_draw: Tensor, bound: Literal["lower", "upper", "exact"], target: str) -> Estimate:
    """The mean of (samples, data) values, at least two samples, by whose spread its own error is known.

    Of (samples, data, sites) values those of each site.
    """
    samples, size = per_draw.shape[:2]
    error = (per_draw.var(0).sum(0) / samples).sqrt() / size
    # the spread has the draws in it too, and falls short of their error by chance alone
    population = torch.maximum(spread(per_draw.mean(0)), error)
    return Estimate(per_draw.mean((0, 1)), error, population, bound, target)


def _with_error(value: float, error: float) -> str:
    if error == 0:
        return f"{value:z.{_FEWEST_DECIMALS}f}"
    decimals = _decimals(error)
    return f"{value:z.{decimals}f} ± {error:.{decimals}f}"


def _decimals(error: float) -> int:
    """So many that the first digit of the error shows."""
    if not math.isfinite(error) or error < 10**-_MOST_DECIMALS:
        return _FEWEST_DECIMALS
    return max(_FEWEST_DECIMALS, math.ceil(-math.log10(error)))
