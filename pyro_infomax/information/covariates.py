"""What is known in closed form about the draws, as covariates for the one regression."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pyro_infomax.information.closed_forms import joint_forms, marginal_forms, moments
from pyro_infomax.information.draws import Draws
from pyro_infomax.information.families import diagonal_normal


@final
@dataclass(frozen=True)
class Covariates:
    """Values of the draws, and their means over each datum's posterior."""

    values: Tensor  # (samples, batch, covariate)
    exact: Tensor  # (batch, covariate)

    def sum(self) -> "Covariates":
        return Covariates(self.values.sum(-1, keepdim=True), self.exact.sum(-1, keepdim=True))

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
    return [Covariates.cat(dimensions), Covariates.cat(sums), nothing]


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
    # the log-density of a Normal prior is a combination of the powers of z
    if diagonal_normal(draws.prior) is not None:
        return own
    return own + _known(lambda: draws.log_prior_marginals, forms.log_prior)


def _known(values: Callable[[], Tensor], exact: Tensor | None) -> list[Covariates]:
    if exact is None:
        return []
    return [Covariates(values(), exact if exact.dim() == 2 else exact[:, None])]


def _powers(draws: Draws) -> list[Covariates]:
    """z and its square, from the centre of the data: far from it the two would be one."""
    known = moments(draws.posterior)
    if known is None:
        return []
    mean, variance = known
    z, mean = draws.z.double() - mean.mean(0), mean - mean.mean(0)
    return [Covariates(z, mean), Covariates(z**2, mean**2 + variance)]
