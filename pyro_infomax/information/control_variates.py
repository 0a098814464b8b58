"""Means over data and draws, with the part of their noise removed whose mean is known in closed form."""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, final

import torch
from torch import Tensor

from pyro_infomax.information.estimate import Estimate

# with fewer, the fitted coefficients would add more noise, and optimism, than they remove
_DRAWS_PER_COVARIATE: Final = 20
_RELATIVE_RANK: Final = 1e-10
_LEAST_REST: Final = 1e-6  # of a draw that the fit passes through: its residual is rounding


@final
@dataclass(frozen=True)
class Expectation:
    r"""An expectation over data and draws, kept so that sums and differences keep their errors.

    Noise that two expectations share cancels in their difference, and identities between quantities hold on
    the reported values to rounding.
    """

    datum: Tensor  # (batch,) or (batch, latent): the mean of each datum, after the correction
    residual: Tensor  # (samples, batch) or (samples, batch, latent): the error of each draw, as it is judged
    bias: Tensor  # () or (latent,): what a finite number of data adds to the population's value, on average

    def __add__(self, other: "Expectation") -> "Expectation":
        return self._with(other, 1)

    def __sub__(self, other: "Expectation") -> "Expectation":
        return self._with(other, -1)

    def _with(self, other: "Expectation", sign: int) -> "Expectation":
        return Expectation(
            self.datum + sign * other.datum,
            self.residual + sign * other.residual,
            self.bias + sign * other.bias,
        )

    def biased(self, bias: Tensor) -> "Expectation":
        return replace(self, bias=bias)

    def sum(self) -> "Expectation":
        """Over the latent dimensions."""
        return Expectation(self.datum.sum(-1), self.residual.sum(-1), self.bias.sum(-1))

    def estimate(self, bound: Literal["lower", "upper", "exact"], target: str) -> Estimate:
        return Estimate(
            self.datum.mean(0), self._standard_error(), self._population_standard_error(), bound, target
        )

    def _standard_error(self) -> Tensor:
        draws = math.prod(self.residual.shape[:2])
        return ((self.residual**2).mean((0, 1)) / draws).sqrt()

    def _population_standard_error(self) -> Tensor:
        batch = len(self.datum)
        spread = ((self.datum - self.datum.mean(0)) ** 2).sum(0) / (torch.ones_like(self.bias) * (batch - 1))
        return torch.hypot(torch.maximum((spread / batch).sqrt(), self._standard_error()), self.bias)


@final
class ControlVariates:
    r"""One regression for all quantities of the same draws.

    .. math:: \hat y = \bar y - \hat\beta^\top (\bar c - \mathrm{E} c)

    :math:`\hat\beta` is the least-squares fit of y on the covariates c, within each datum when there are
    several draws for each, over all data otherwise.

    The error is the jackknife's: each residual counts as if its draw had been left out of the fit, for draws
    far out both pull the fit towards themselves and are the noisiest. A single draw for each datum cannot be
    told from the datum's own mean. There, pairs of neighbours are compared, whose means differ little; what
    they differ goes into the error, which is then rather too large.

    References: Glasserman (2003), Monte Carlo Methods in Financial Engineering, section 4.1; Long and Ervin
    (2000), Using heteroscedasticity consistent standard errors in the linear regression model; Cochran
    (1977), Sampling Techniques, section 5A.12, for strata with a single unit each.

    Args:
        covariates: (S, N, k), of the draws.
        exact: (N, k), their mean over each datum's posterior.
        neighbours: (N,), for each datum another one like it, to compare single draws with; None compares
            them with the mean of all.
    """

    def __init__(self, covariates: Tensor, exact: Tensor, *, neighbours: Tensor | None = None) -> None:
        samples, batch, size = covariates.shape
        self.shape = (samples, batch)
        self.covariates = _centred(covariates)
        scale = (self.covariates**2).mean((0, 1)).sqrt()
        scale = scale.masked_fill(scale == 0, 1.0)
        self.covariates /= scale
        self.surplus = (covariates.mean(0) - exact) / scale  # (batch, covariate)
        gram = torch.einsum("snk,snl->kl", self.covariates, self.covariates) / (samples * batch)
        self.inverse = torch.linalg.pinv(gram, rtol=_RELATIVE_RANK, hermitian=True)
        rank = int(torch.linalg.matrix_rank(gram, rtol=_RELATIVE_RANK, hermitian=True)) if size else 0
        self.freedom = available_draws(samples, batch) - rank
        self.influence = self._influence()
        self.neighbours = neighbours if samples == 1 else None

    def known(self, exact: Tensor) -> Expectation:
        """A closed form: (batch,) or (batch, latent) without noise."""
        return self._expectation(exact, exact.new_zeros(*self.shape, *exact.shape[1:]))

    def expectation(self, y: Tensor) -> Expectation:
        """The mean of y, (samples, batch) or (samples, batch, latent)."""
        if not bool(y.isfinite().all()) or self.freedom <= 0:
            # the mean stands, and of its error nothing is known
            return self._expectation(y.mean(0), torch.full_like(y, torch.nan))
        centred = _centred(y)
        moments = torch.einsum("snk,sn...->k...", self.covariates, centred) / math.prod(self.shape)
        fit = self.inverse @ moments  # (covariate,) or (covariate, latent)
        fitted = torch.einsum("snk,k...->sn...", self.covariates, fit)
        surplus = torch.einsum("nk,k...->n...", self.surplus, fit)
        residual = torch.einsum("sn...,sn->sn...", centred - fitted, self.influence)
        return self._expectation(y.mean(0) - surplus, self._compared(residual))

    def _expectation(self, datum: Tensor, residual: Tensor) -> Expectation:
        return Expectation(datum, residual, torch.zeros_like(datum[0]))

    def _influence(self) -> Tensor:
        """By how much each draw moves the mean, in units of its residual, (samples, batch)."""
        draws, available = math.prod(self.shape), max(available_draws(*self.shape), 1)
        pull = self.covariates @ self.inverse  # (samples, batch, covariate)
        leverage = (pull * self.covariates).sum(-1) / available
        weight = 1 - pull @ self.surplus.mean(0)
        return weight * math.sqrt(draws / available) / (1 - leverage).clamp(min=_LEAST_REST)

    def _compared(self, residual: Tensor) -> Tensor:
        if self.neighbours is None:
            return residual
        return (residual - residual[:, self.neighbours]) / math.sqrt(2)


def affordable(covariates: Tensor) -> bool:
    """Whether the draws can bear the fit of so many covariates (samples, batch, covariate)."""
    samples, batch, size = covariates.shape
    return available_draws(samples, batch) >= _DRAWS_PER_COVARIATE * size


def available_draws(samples: int, batch: int) -> int:
    """Degrees of freedom before any covariate is fitted: within the data, or across them for single draws."""
    return batch * (samples - 1) if samples > 1 else batch - 1


def _centred(y: Tensor) -> Tensor:
    return y - (y.mean(0) if len(y) > 1 else y.mean(1, keepdim=True))
