"""Sums of losses and of their terms over batches."""

from collections.abc import Callable
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
        self._stands_for: Callable[[int], int] = getattr(self._elbo, "stands_for", int)
        self._sums: dict[str, float] = {"loss": 0.0}
        self.size = 0.0

    def add(self, loss: float, size: int, share: float = 1.0) -> None:
        """Adds the batch that was evaluated last.

        Args:
            loss: its loss in nats, a sum over its data.
            size: number of its data; an objective that knows them to be a subsample counts the whole.
            share: of the data of all processes, those that this one has.
        """
        whole = self._stands_for(size)
        # What stands for the whole does so in every process
        self.size += whole if whole == size else whole * share
        self._sums["loss"] += loss
        terms = getattr(self._elbo, "terms", None)
        if terms is not None:
            sums = self._sums
            for name in _TERMS:
                sums[name] = sums.get(name, 0.0) + getattr(terms, name)

    def means(
        self, reduce: Callable[[dict[str, float]], dict[str, float]] = lambda sums: sums
    ) -> dict[str, float]:
        """The loss and the terms in nats per datum.

        Args:
            reduce: adds up the sums of several processes.

        Raises:
            ValueError: if there was no batch.
        """
        sums = reduce(self._sums | {"size": self.size})
        size = sums.pop("size")
        if size == 0:
            raise ValueError("Expected at least one datum in an epoch but the loader gave none.")
        return {name: total / size for name, total in sums.items()}

    def state_dict(self) -> dict[str, float]:
        """The sums so far, and the number of data."""
        return self._sums | {"size": self.size}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from the sums of another tally."""
        self._sums = {name: total for name, total in state.items() if name != "size"}
        self.size = float(state["size"])


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
