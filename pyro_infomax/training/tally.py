"""Sums of losses and of their terms over batches."""

from typing import final

from pyro.infer import SVI

_TERMS = ("distortion", "rate", "elbo")


@final
class Tally:
    """Adds up the losses of batches, and the terms that the objective recorded for each.

    Args:
        svi: whose objective is asked for its terms; an objective without any leaves the loss alone.

    Attributes:
        size: number of data so far.
    """

    def __init__(self, svi: SVI) -> None:
        self._elbo = objective(svi)
        self._sums: dict[str, float] = {"loss": 0.0}
        self.size = 0

    def add(self, loss: float, size: int) -> None:
        """Adds the batch that was evaluated last.

        Args:
            loss: its loss in nats, a sum over its data.
            size: number of its data; an objective that knows them to be a subsample counts the whole.
        """
        self.size += getattr(self._elbo, "stands_for", int)(size)
        self._sums["loss"] += loss
        terms = getattr(self._elbo, "terms", None)
        if terms is not None:
            for name in _TERMS:
                self._sums[name] = self._sums.get(name, 0.0) + float(getattr(terms, name))

    def means(self, prefix: str = "") -> dict[str, float]:
        """The loss and the terms in nats per datum, under their names with a prefix.

        Raises:
            ValueError: if there was no batch.
        """
        if self.size == 0:
            raise ValueError("Expected at least one datum in an epoch but the loader gave none.")
        return {prefix + name: total / self.size for name, total in self._sums.items()}


def objective(svi: SVI) -> object:
    """The ELBO object behind an SVI; None where the loss is a plain function."""
    return getattr(svi.loss_and_grads, "__self__", None)


def total_loss(loss: float | tuple[float, ...]) -> float:
    """One number for a loss of several parts, on the sum of whose gradients the optimiser steps.

    Example:
        >>> total_loss((1.0, 2.0))
        3.0
    """
    return float(sum(loss)) if isinstance(loss, tuple) else float(loss)
