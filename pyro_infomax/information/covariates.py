"""What is known in closed form about the draws, as covariates for the one regression."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from pyro_infomax.information.closed_forms import joint_forms, marginal_forms, moments
from pyro_infomax.information.coordinates import coordinates_of
from pyro_infomax.information.draws import Draws
from pyro_infomax.information.families import diagonal_normal

_MOST_ERRORS: Final = 5.0  # of the mean of a covariate


@final
@dataclass(frozen=True)
class Covariates:
    """Values of the draws, and their means over each datum's posterior."""

    values: Tensor  # (samples, batch, covariate)
    exact: Tensor  # (batch, covariate)

    def sum(self) -> "Covariates":
        return Covariates(self.values.sum(-1, keepdim=True), self.exact.sum(-1, keepdim=True))

    def estimable(self) -> "Covariates":
        """Those whose means the draws find: tails that no draw has reached would be taken for surplus."""
        surplus = self.values - self.exact
        error = (surplus**2).mean((0, 1)).sqrt() / math.sqrt(math.prod(surplus.shape[:2]))
        found = surplus.mean((0, 1)).abs() <= _MOST_ERRORS * error
        return Covariates(self.values[..., found], self.exact[:, found])

    @classmethod
    def cat(cls, parts: Sequence["Covariates"]) -> "Covariates":
        return cls(
            torch.cat([each.values for each in parts], -1), torch.cat([each.exact for each in parts], -1)
        )


@torch.no_grad()
def covariates_of(draws: Draws) -> list[Covariates]:
    """What can be chosen from, best first: every latent dimension by itself, their sums, nothing."""
    nothing, joint, powers = _nothing(draws), _of_joint(draws), _powers(draws)
    dimensions = [nothing, *joint, *_of_marginals(draws), *powers]
    sums = [nothing, *joint, *(each.sum() for each in powers)]
    return [*(Covariates.cat(each).estimable() for each in (dimensions, sums)), nothing]


def _nothing(draws: Draws) -> Covariates:
    samples, batch, _ = draws.z.shape
    return Covariates(
        draws.log_posterior.new_zeros(samples, batch, 0), draws.log_posterior.new_zeros(batch, 0)
    )


def _of_joint(draws: Draws) -> list[Covariates]:
    forms = joint_forms(draws.posterior, draws.prior)
    own = _known(lambda: draws.log_posterior[..., None], forms.log_posterior)
    return own + _known(lambda: draws.log_prior[..., None], forms.log_prior)


def _of_marginals(draws: Draws) -> list[Covariates]:
    forms = marginal_forms(draws.posterior, draws.prior)
    own = _known(lambda: draws.log_posterior_marginals, forms.log_posterior)
    if _is_combination_of_powers(draws):
        return own
    return own + _known(lambda: draws.log_prior_marginals, forms.log_prior)


def _known(values: Callable[[], Tensor], exact: Tensor | None) -> list[Covariates]:
    if exact is None:
        return []
    return [Covariates(values(), exact if exact.dim() == 2 else exact[:, None])]


def _is_combination_of_powers(draws: Draws) -> bool:
    """Whether the log-density of each dimension under the prior is, for it is Normal in the same u."""
    prior = coordinates_of(draws.prior)
    return diagonal_normal(prior.base) is not None and prior.transform == draws.coordinates.transform


def _powers(draws: Draws) -> list[Covariates]:
    """u and its square, from the centre of the data: far from it the two would be one.

    Powers of z itself may have tails that the draws do not reach, where u is Normal.
    """
    known = moments(draws.coordinates.base)
    if known is None:
        return []
    mean, variance = known
    u = draws.coordinates.at(draws.z.double())[0]
    u, mean = u - mean.mean(0), mean - mean.mean(0)
    return [Covariates(u, mean), Covariates(u**2, mean**2 + variance)]
