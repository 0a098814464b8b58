"""How the information moves with the number of data in the aggregate."""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, final

import pandas as pd
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from pyro_infomax._checks import whole_number
from pyro_infomax._data import Data, rows_of
from pyro_infomax._random import seeded_draws
from pyro_infomax._types import Program
from pyro_infomax.diagnostics._account_table import missing_lines
from pyro_infomax.diagnostics._decompose import NO_MARGINALS, Attempt
from pyro_infomax.diagnostics._pair import Pair
from pyro_infomax.diagnostics._population_information import (
    POPULATION_INFORMATION,
    information_ceiling,
    information_lower_bound,
    information_upper_bound,
    is_saturated,
)
from pyro_infomax.distributions import Posterior, diagonal_normal
from pyro_infomax.information import Account, Draws, Estimate
from pyro_infomax.nn import evaluation_mode

_FEWEST: Final = 64  # data, unless there are too few for some halvings
_HALVINGS: Final = 3
_ERRORS: Final = ("standard_error", "population_standard_error")


@final
@dataclass(frozen=True)
class Convergence:
    """The information of a representation under ever more of its data, in nats per datum.

    Each quantity is a sequence of estimates, one a size, smallest first.

    Attributes:
        sizes: the numbers of data.
        mutual_information_lower: the exact mixture of so many data, at most ln N.
        mutual_information_upper: the rate, or leave-one-out where it is lower by more than chance.
        leave_one_out: the mixture without each datum's own component.
        rate: E KL[q(z|x) ‖ p(z)].
        marginal_kl: KL[q(z) ‖ p(z)]; what I gains with more data, it loses.
        total_correlation: KL[q(z) ‖ Π_j q(z_j)].
        unavailable: the names of quantities that are None, and why.
    """

    sizes: tuple[int, ...]
    mutual_information_lower: Estimate
    mutual_information_upper: Estimate
    leave_one_out: Estimate
    rate: Estimate | None
    marginal_kl: Estimate | None
    total_correlation: Estimate | None
    unavailable: dict[str, str] = field(default_factory=dict)

    @property
    def ceiling(self) -> tuple[float, ...]:
        """ln N for each size."""
        return tuple(map(information_ceiling, self.sizes))

    @property
    def saturated(self) -> tuple[bool, ...]:
        """Whether I > ln N − 1, for each size."""
        return tuple(map(is_saturated, self.mutual_information_lower, self.sizes))

    def to_frame(self) -> pd.DataFrame:
        """A row a size: each quantity that is not None with its two errors, the ceiling and the flag."""
        columns: dict[str, Sequence[float]] = {"ceiling": self.ceiling, "saturated": self.saturated}
        for name, estimate in self._estimates():
            columns[name] = estimate.value.tolist()
            for error in _ERRORS:
                columns[f"{name}_{error}"] = getattr(estimate, error).tolist()
        return pd.DataFrame(columns, index=pd.Index(self.sizes, name="size"))

    def _estimates(self) -> Iterator[tuple[str, Estimate]]:
        quantities = ((name, getattr(self, name)) for name in vars(self))
        return ((name, each) for name, each in quantities if isinstance(each, Estimate))

    def __str__(self) -> str:
        return "\n".join([*self._table(), *self._notes()])

    def _table(self) -> Iterator[str]:
        found = {name: each for name, each in self._estimates() if name in _HEADINGS}
        yield "nats per datum ± standard error for the data at hand"
        yield f"{'N':>8}{'ln N':>9}" + "".join(f"{_HEADINGS[name]:>19}" for name in found)
        for row, size in enumerate(self.sizes):
            here = [estimate[row] for estimate in found.values()]
            cells = [f"{float(each):z.4f} ± {float(each.standard_error):.4f}".rjust(19) for each in here]
            flag = "  saturated" if self.saturated[row] else ""
            yield f"{size:>8}{self.ceiling[row]:>9.4f}{''.join(cells)}{flag}"

    def _notes(self) -> Iterator[str]:
        if len(self.sizes) > 1:
            few, many = self.sizes[-2:]
            rise = float(self.mutual_information_lower[-1]) - float(self.mutual_information_lower[-2])
            yield (
                f"from {few} to {many} data the lower bound rose by {rise:z.4f}; that of a representation "
                f"that tells all data apart rises by {math.log(many / few):.4f}"
            )
        yield from missing_lines(self.unavailable)


_HEADINGS: Final = {
    "mutual_information_lower": "I at least",
    "mutual_information_upper": "I at most",
    "rate": "rate",
    "marginal_kl": "marginal KL",
    "total_correlation": "total correlation",
}


def convergence(
    model: Program,
    guide: Program,
    data: Data,
    *,
    sizes: Sequence[int] | None = None,
    num_samples: int = 1,
    batch_size: int = 1024,
    seed: int | None = None,
    data_plate: str | None = None,
    progress: bool = True,
) -> Convergence:
    r"""Shows whether the information still grows with the number of data.

    The exact mixture of N data shows at most ln N nats, so that the information of an informative
    representation grows with N and its marginal KL and total correlation fall. Of random nested subsets of
    the data, each half of the next, all quantities are estimated from the same draws; where lower and upper
    bound have met, more data would not change the information.

    Reference: Hoffman and Johnson, 2016, ELBO surgery: yet another way to carve up the variational evidence
    lower bound, for the bound ln N.

    Args:
        model, data, batch_size, data_plate: as for :func:`~pyro_infomax.diagnostics.decompose`.
        guide: a Pyro program over the same local latent sites; it encodes the data once.
        sizes: numbers of data, from 2 to all of them; None for all and halves of halves, down to some 64.
        num_samples: draws of z per datum.
        seed: isolates the draws and the choice of the subsets from torch's global state.
        progress: show a bar where this takes more than a few seconds.

    Returns:
        The curves, in nats per datum.

    Raises:
        ValueError: for sizes out of range, less than two data, and the errors of
            :func:`~pyro_infomax.diagnostics.decompose`.
        NotImplementedError: for global latents; for a guide that is made for all of its data and not Normal.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> curve = convergence(oracle.model, oracle.guide, oracle.sample(400, seed=0), seed=0)
        >>> curve.sizes, curve.saturated
        ((50, 100, 200, 400), (False, False, False, False))
        >>> print(f"{float(oracle.mutual_information):.2f}, {curve.mutual_information_upper[-1]}")
        1.73, 1.7...
    """
    whole_number("num_samples", num_samples, at_least=1)
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(seed):
        build = partial(Pair, model, guide, data_plate=data_plate, batch_size=batch_size, progress=progress)
        pair = build(data)
        pair.mixtures()  # which refuses posteriors that have none
        chosen = _halves(pair.data_size) if sizes is None else _within_data(sizes, pair.data_size)
        # as many as decompose takes, so that both have the same draws of one seed
        z = pair.draw(max(2, num_samples))[:num_samples]
        order = torch.randperm(pair.data_size)
        subsets = [order[:size].sort().values for size in chosen]
        attempt = Attempt()
        prior = attempt(pair.prior, "rate", "marginal_kl")
        accounts = [
            Account(Draws(_posterior_of(pair, build, rows), prior, z=z[:, rows], progress=progress))
            for rows in subsets
        ]
        return _curves(accounts, attempt)


def _curves(accounts: list[Account], attempt: Attempt) -> Convergence:
    def curve(name: str, reason: str | None = None) -> Estimate | None:
        return attempt(lambda: _along([getattr(each, name) for each in accounts]), name, reason=reason)

    return Convergence(
        sizes=tuple(each.draws.data_size for each in accounts),
        mutual_information_lower=_along(list(map(information_lower_bound, accounts))),
        mutual_information_upper=replace(
            _along(list(map(information_upper_bound, accounts))), target=POPULATION_INFORMATION
        ),
        leave_one_out=_along([each.leave_one_out for each in accounts]),
        rate=curve("rate"),
        marginal_kl=curve("marginal_kl"),
        total_correlation=curve("total_correlation", NO_MARGINALS),
        unavailable=attempt.reasons,
    )


def _along(estimates: list[Estimate]) -> Estimate:
    """One estimate with an entry a size."""
    value, error, population = (
        torch.stack([getattr(each, name) for each in estimates]) for name in ("value", *_ERRORS)
    )
    return Estimate(value, error, population, estimates[-1].bound, estimates[-1].target)


def _halves(data_size: int) -> list[int]:
    fewest = max(2, min(_FEWEST, data_size // 2**_HALVINGS))
    sizes = [data_size]
    while sizes[-1] // 2 >= fewest:
        sizes.append(sizes[-1] // 2)
    return _within_data(sizes, data_size)


def _within_data(sizes: Sequence[int], data_size: int) -> list[int]:
    chosen = sorted(set(map(operator.index, sizes)))
    if data_size < 2 or not chosen or chosen[0] < 2 or chosen[-1] > data_size:
        raise ValueError(
            f"Expected sizes of at least 2 data and at most {data_size}, as many as there are, but got "
            f"{list(sizes)}"
        )
    return chosen


def _posterior_of(pair: Pair, build: Callable[[Data], Pair], rows: torch.Tensor) -> Posterior:
    """The posteriors of some of the data: those of all cut down where they are Normal, else encoded again."""
    if len(rows) == pair.data_size:
        return pair.posterior
    if (normal := diagonal_normal(pair.posterior)) is not None:
        loc, scale = (each[rows] for each in normal)
        return Independent(Normal(loc, scale, validate_args=False), 1)
    if isinstance(pair.posterior, MultivariateNormal):
        loc, scale_tril = pair.posterior.loc[rows], pair.posterior.scale_tril[rows]
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
    if pair.representation.program.follows:
        return build(rows_of(pair.data, rows)).posterior
    raise NotImplementedError(
        "The guide is made for all of its data and its posteriors are not Normal, so that those of some data "
        "are not to be had; give its plate the size len(data)"
    )
