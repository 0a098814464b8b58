"""Means over data and draws, with the part of their noise removed whose mean is known in closed form."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final, Literal, final

import numpy as np
import torch
from torch import Tensor

from pyro_infomax.distributions import (
    Density,
    coordinates_of,
    diagonal_normal,
    has_all_moments,
    joint_forms,
    marginal_forms,
    moments,
)
from pyro_infomax.information._draws import Draws
from pyro_infomax.information._estimate import Estimate

# ---- The regression on control variates, and means that keep their errors.

# with fewer, the fitted coefficients would add more noise, and optimism, than they remove
_DRAWS_PER_COVARIATE: Final = 20
_RELATIVE_RANK: Final = 1e-10
_LEAST_REST: Final = 1e-6  # of a draw that the fit passes through: its residual is rounding
_FEWEST_DRAWS: Final = 50  # fewer may all have missed what the value is made of
_STUDENT: Final = 1.2  # its quantile of 97.5 % is that of the Normal, times 1 + 1.2 / degrees of freedom
_MOST_WIDENING: Final = 0.2  # of an error, for skewness: more is not known from draws
# of the noise: for tails of power -1.5, a quarter of it stays in few draws however many there are
_MOST_CONCENTRATED: Final = 0.15
_OF_FEW: Final = 5.0  # draws, which have as much of light tails too
ROUNDING: Final = 1e-9  # nats
_NOT_FINITE: Final = (
    "it has no finite value: the posteriors' tails are too heavy for a log-density, or reach where it is -inf"
)
_FEW_DECIDE: Final = (
    "a few draws far out decide it, so that its error may be too small: take more of each datum, "
    "num_samples, or posteriors of lighter tails"
)


@final
@dataclass(frozen=True)
class CorrectedMean:
    r"""An expectation over data and draws, kept so that sums and differences keep their errors.

    Noise that two expectations share cancels in their difference, and identities between quantities hold on
    the reported values to rounding.
    """

    datum: Tensor  # (batch,) or (batch, latent): the mean of each datum, after the correction
    residual: Tensor  # (samples, batch) or (samples, batch, latent): the error of each draw, as it is judged
    noise: Tensor  # shaped alike: the same before it is compared with a neighbour's, which hides skewness
    bias: Tensor  # () or (latent,): what a finite number of data adds to the population's value, on average

    def __add__(self, other: "CorrectedMean") -> "CorrectedMean":
        return self._with(other, 1)

    def __sub__(self, other: "CorrectedMean") -> "CorrectedMean":
        return self._with(other, -1)

    def _with(self, other: "CorrectedMean", sign: int) -> "CorrectedMean":
        return CorrectedMean(
            torch.add(self.datum, other.datum, alpha=sign),
            _with_noise(self.residual, other.residual, sign),
            _with_noise(self.noise, other.noise, sign),
            self.bias + sign * other.bias,
        )

    def endless(self, where: Tensor) -> "CorrectedMean":
        """Minus infinity for the data, or their dimensions, where it is known to be."""
        whole = where.any(0)  # () or (latent,)
        residual, noise = (part.masked_fill(whole, 0.0) for part in (self.residual, self.noise))
        return CorrectedMean(self.datum.masked_fill(where, -math.inf), residual, noise, self.bias)

    def biased(self, bias: Tensor) -> "CorrectedMean":
        return replace(self, bias=bias)

    def sum(self) -> "CorrectedMean":
        """Over the latent dimensions."""
        return CorrectedMean(self.datum.sum(-1), self.residual.sum(-1), self.noise.sum(-1), self.bias.sum(-1))

    def some(self, entries: slice) -> "CorrectedMean":
        """Some entries of a vector."""
        return CorrectedMean(*(getattr(self, each.name)[..., entries] for each in fields(self)))

    def followed_by(self, last: "CorrectedMean") -> "CorrectedMean":
        """One more entry of a vector."""
        pairs = ((getattr(self, each.name), getattr(last, each.name)) for each in fields(self))
        return CorrectedMean(*(torch.cat([several, one.unsqueeze(-1)], -1) for several, one in pairs))

    def estimate(self, bound: Literal["lower", "upper", "exact"], target: str) -> Estimate:
        return Estimate(
            self.datum.mean(0),
            self._standard_error,
            self._population_standard_error(),
            bound,
            target,
            self.note,
        )

    @cached_property
    def _standard_error(self) -> Tensor:
        """Of the draws; wider where these are skewed: then it is least where the mean is far off."""
        error = ((self.residual**2).mean((0, 1)) / self._draws).sqrt() * (1 + self._widening)
        return error.masked_fill(self.datum.mean(0).isinf() & error.isfinite(), 0.0)

    @property
    def _draws(self) -> int:
        return math.prod(self.residual.shape[:2])

    @cached_property
    def _widening(self) -> Tensor:
        """What brings the coverage of 1.96 errors back to 95 %, to second order in the skewness."""
        return (1.08 * self._squared_skewness / self._draws).nan_to_num(0.0).clamp(max=_MOST_WIDENING)

    @property
    def _squared_skewness(self) -> Tensor:
        """Of the draws, from noise that is counted from the mean of each datum's; nan without noise."""
        samples = len(self.noise)
        second, third = self._squares.mean((0, 1)), (self._squares * self.noise).mean((0, 1))
        if samples == 1:
            return third * third / (second * second * second)
        if samples == 2:  # pairs are symmetric about their mean
            return torch.zeros_like(second)
        # Three are nearly symmetric: what brings theirs back would bring its own noise too
        whole = samples * (samples - 1) / (samples - 2) ** 2
        own = (1 - 1 / whole) * (self._squares**3).mean((0, 1)) / self._draws
        return whole * (third**2 - own).clamp(min=0) / second**3

    @property
    def _concentration(self) -> Tensor:
        """1 where a single draw has all of the noise, 1 / draws where all have as much; nan without any."""
        samples = len(self.noise)
        whole = samples / (samples - 1) if samples > 1 else 1.0
        second, fourth = self._squares.mean((0, 1)), (self._squares * self._squares).mean((0, 1))
        return whole * fourth / (self._draws * second * second)

    @cached_property
    def _squares(self) -> Tensor:
        return self.noise * self.noise  # torch is slow at powers

    @property
    def note(self) -> str | None:
        """Why the value, or its error, cannot be trusted."""
        if not bool(self.datum.mean(0).isfinite().all()):
            return _NOT_FINITE
        uncertain = ~(self._standard_error <= ROUNDING)  # also where it is nan
        if not bool(uncertain.any()):
            return None
        if self._draws < _FEWEST_DRAWS:
            enough = math.ceil(_FEWEST_DRAWS / len(self.datum))
            return f"{self._draws} draws are too few to judge its error by: take num_samples >= {enough}"
        decided = self._concentration > _MOST_CONCENTRATED + _OF_FEW / self._draws
        return _FEW_DECIDE if bool((uncertain & decided).any()) else None

    def _population_standard_error(self) -> Tensor:
        batch = len(self.datum)
        spread = ((self.datum - self.datum.mean(0)) ** 2).sum(0) / (torch.ones_like(self.bias) * (batch - 1))
        return torch.hypot(torch.maximum((spread / batch).sqrt(), self._standard_error), self.bias)


def _no_noise(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros that take the memory of one."""
    return like.new_zeros(()).expand(*shape)


def _with_noise(one: Tensor, other: Tensor, sign: int) -> Tensor:
    """The sum or difference; what has no noise costs nothing."""
    same = one.shape == other.shape and other.dim() > 0
    return one if same and not any(other.stride()) else torch.add(one, other, alpha=sign)


def in_a_row(estimates: Sequence[Estimate]) -> Estimate:
    """Vectors of one quantity as one vector."""
    errors = [each.population_standard_error for each in estimates]
    known = [each for each in errors if each is not None]
    notes = [each.note for each in estimates if each.note is not None]
    return replace(
        estimates[0],
        value=torch.cat([each.value for each in estimates]),
        standard_error=torch.cat([each.standard_error for each in estimates]),
        population_standard_error=torch.cat(known) if len(known) == len(errors) else None,
        note=_NOT_FINITE if _NOT_FINITE in notes else next(iter(notes), None),
    )


def note_on(values: Tensor) -> str | None:
    """Why the plain mean of values (samples, batch), or of several (samples, batch, several), misleads."""
    noise = _centred(values)
    return CorrectedMean(values.mean(0), noise, noise, torch.zeros_like(values[0, 0])).note


@final
class ControlVariates:
    r"""One regression for all quantities of the same draws.

    .. math:: \hat y = \bar y - \hat\beta^\top (\bar c - \mathrm{E} c)

    :math:`\hat\beta` is the least-squares fit of y on the covariates c, within each datum when there are
    several draws for each, over all data otherwise.

    The error is the jackknife's: each residual counts as if its draw had been left out of the fit, for draws
    far out both pull the fit towards themselves and are the noisiest. A single draw for each datum cannot be
    told from the datum's own mean. There, what the data's own moments tell of these means is taken off, and
    pairs of neighbours are compared, whose means differ little; what they still differ goes into the error,
    which is then rather too large.

    References: Glasserman (2003), Monte Carlo Methods in Financial Engineering, section 4.1; Long and Ervin
    (2000), Using heteroscedasticity consistent standard errors in the linear regression model; Cochran
    (1977), Sampling Techniques, section 5A.12, for strata with a single unit each; Hall (1992), The bootstrap
    and Edgeworth expansion, section 2.6, for few and skewed draws.
    """

    def __init__(
        self,
        covariates: "Covariates",
        *,
        neighbours: Tensor | None = None,
        trend: Tensor | None = None,
    ) -> None:
        samples, batch, size = covariates.shape
        self.shape = (samples, batch)
        self._covariates = covariates
        self._centre = covariates.mean() if samples == 1 else None
        # Covariates from their means and of unit size, so that the rank of their products can be judged
        gram, missed = (
            torch.zeros(shape, dtype=torch.float64, device=covariates.device)
            for shape in ((size, size), size)
        )
        for _, values, exact in covariates.parts():
            centred = self._centred(values)
            gram += torch.einsum("snk,snl->kl", centred, centred)
            missed += (values.mean(0) - exact).sum(0)
        scale = (gram.diagonal() / max(1, samples * batch)).sqrt()
        self._scale = scale.masked_fill(scale == 0, 1.0)
        gram = gram / (samples * batch) / self._scale / self._scale[:, None]
        # Solved once for all quantities; covariates that repeat each other drop out by the pseudo-inverse
        self.inverse = torch.linalg.pinv(gram, rtol=_RELATIVE_RANK, hermitian=True)
        rank = int(torch.linalg.matrix_rank(gram, rtol=_RELATIVE_RANK, hermitian=True)) if size else 0
        self.freedom = available_draws(samples, batch) - rank
        self.influence = self._influence(missed / batch / self._scale)
        self.neighbours = neighbours if samples == 1 else None
        self.trend = trend if samples == 1 else None  # (batch, function of the datum), orthonormal

    @classmethod
    def of(cls, covariates: Tensor, exact: Tensor, **options: Tensor | None) -> "ControlVariates":
        """On covariates (samples, batch, covariate) whose means (batch, covariate) are at hand."""
        return cls(Covariates.of(covariates, exact), **options)

    def _centred(self, values: Tensor) -> Tensor:
        return values - (values.mean(0) if self._centre is None else self._centre)

    def _parts(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, covariates (samples, rows, covariate), and by how much they missed, (rows, covariate)."""
        for rows, values, exact in self._covariates.parts():
            yield rows, self._centred(values).div_(self._scale), (values.mean(0) - exact).div_(self._scale)

    def known(self, exact: Tensor) -> CorrectedMean:
        """A closed form: (batch,) or (batch, latent) without noise."""
        noise = _no_noise([*self.shape, *exact.shape[1:]], exact)
        return CorrectedMean(exact, noise, noise, torch.zeros_like(exact[0]))

    def expectation(self, y: Tensor) -> CorrectedMean:
        """The mean of y, (samples, batch) or (samples, batch, latent)."""
        if not bool(y.isfinite().all()) or self.freedom <= 0:
            # the mean stands, and of its error nothing is known
            return self._expectation(y.mean(0), torch.full_like(y, torch.nan))
        # What the covariates tell of y, and by how much their own means were missed by these draws
        centred = _centred(y)
        products = (torch.einsum("snk,sn...->k...", c, centred[:, rows]) for rows, c, _ in self._parts())
        fit = self.inverse @ (sum(products) / math.prod(self.shape))  # (covariate,) or (covariate, latent)
        fitted, surplus = [], []
        for _, covariates, missed in self._parts():
            fitted.append(torch.einsum("snk,k...->sn...", covariates, fit))
            surplus.append(torch.einsum("nk,k...->n...", missed, fit))
        # The noise that is left, draw by draw, weighed by how much each draw moves the mean
        influence = self.influence if y.dim() == 2 else self.influence.unsqueeze(-1)
        residual = (centred - torch.cat(fitted, 1)) * influence
        return self._expectation(y.mean(0) - torch.cat(surplus), residual)

    def _expectation(self, datum: Tensor, noise: Tensor) -> CorrectedMean:
        return CorrectedMean(datum, self._compared(noise), noise, torch.zeros_like(datum[0]))

    def _influence(self, missed: Tensor) -> Tensor:
        """By how much each draw moves the mean, in units of its residual, (samples, batch)."""
        draws, available = math.prod(self.shape), max(available_draws(*self.shape), 1)
        found = []
        for _, covariates, _ in self._parts():
            pull = covariates @ self.inverse  # (samples, rows, covariate)
            leverage = (pull * covariates).sum(-1) / available
            weight = 1 - pull @ missed
            found.append(weight * math.sqrt(draws / available) / (1 - leverage).clamp(min=_LEAST_REST))
        return torch.cat(found, 1)

    def _compared(self, residual: Tensor) -> Tensor:
        freedom = float(self.freedom)
        if self.trend is not None:
            by_datum = residual.reshape(len(self.trend), -1)  # a single draw for each
            told = torch.linalg.vector_norm(self.trend, dim=-1, keepdim=True)  # (batch, 1)
            rest = (1 - told * told).clamp(min=_LEAST_REST).sqrt()
            fitted = self.trend @ (self.trend.mT @ by_datum)
            residual = ((by_datum - fitted) / rest).reshape(residual.shape)
            freedom -= self.trend.shape[1]
        if self.neighbours is not None:
            residual = (residual - residual[:, self.neighbours]) / math.sqrt(2)
            freedom /= 1.5  # pairs share their members
        # Wider by Student's t, since an error from few draws is noisy itself
        return residual * (1 + _STUDENT / max(freedom, 1.0))


def affordable(covariates: "Covariates | Tensor") -> bool:
    """Whether the draws can bear the fit of so many covariates."""
    samples, batch, size = covariates.shape
    return available_draws(samples, batch) >= _DRAWS_PER_COVARIATE * size


def available_draws(samples: int, batch: int) -> int:
    """Degrees of freedom before any covariate is fitted: within the data, or across them for single draws."""
    return batch * (samples - 1) if samples > 1 else batch - 1


def _centred(y: Tensor) -> Tensor:
    return y - (y.mean(0) if len(y) > 1 else y.mean(1, keepdim=True))


# ---- What is known in closed form about the draws, as covariates for the one regression.

_NUMBERS_AT_ONCE: Final = 2**17  # 1 MB
_MOST_ERRORS: Final = 5.0  # of the mean of a covariate
_OfRows = Callable[[slice], tuple[Tensor, Tensor]]


@final
class Covariates:
    """Values of the draws, and their means over each datum's posterior, made for few data at a time.

    All of them would take many times the memory of the posteriors.

    Args:
        of_rows: from rows of the data to values (samples, rows, covariate) and means (rows, covariate).
        shape: (samples, batch, covariate).
    """

    def __init__(self, of_rows: _OfRows, shape: Sequence[int], *, device: torch.device | None = None) -> None:
        self._of_rows = of_rows
        self.shape = torch.Size(shape)
        self.device = device

    @classmethod
    def of(cls, values: Tensor, exact: Tensor) -> "Covariates":
        """Those that are at hand, (samples, batch, covariate) and (batch, covariate)."""
        return cls(lambda rows: (values[:, rows], exact[rows]), values.shape, device=values.device)

    def parts(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their values and their means, one part after the other."""
        samples, batch, size = self.shape
        step = max(1, _NUMBERS_AT_ONCE // max(1, samples * size))
        for start in range(0, batch, step):
            rows = slice(start, start + step)
            with torch.no_grad():
                values, exact = self._of_rows(rows)
            yield rows, values, exact

    @property
    def values(self) -> Tensor:
        """All of them, (samples, batch, covariate)."""
        return torch.cat([values for _, values, _ in self.parts()], 1)

    @property
    def exact(self) -> Tensor:
        """All means, (batch, covariate)."""
        return torch.cat([exact for _, _, exact in self.parts()])

    def mean(self) -> Tensor:
        """Over draws and data, (covariate,)."""
        samples, batch, size = self.shape
        total = torch.zeros(size, dtype=torch.float64, device=self.device)
        for _, values, _ in self.parts():
            total += values.sum((0, 1))
        return total / (samples * batch)

    def sum(self) -> "Covariates":
        def of_rows(rows: slice) -> tuple[Tensor, Tensor]:
            values, exact = self._of_rows(rows)
            return values.sum(-1, keepdim=True), exact.sum(-1, keepdim=True)

        return Covariates(of_rows, [*self.shape[:2], 1], device=self.device)

    def estimable(self) -> "Covariates":
        """Those whose means the draws find: tails that no draw has reached would be taken for surplus."""
        samples, batch, size = self.shape
        total, squares = torch.zeros(2, size, dtype=torch.float64, device=self.device)
        for _, values, exact in self.parts():
            surplus = values - exact
            total += surplus.sum((0, 1))
            squares += surplus.square_().sum((0, 1))
        draws = samples * batch
        found = (total / draws).abs() <= _MOST_ERRORS * (squares / draws).sqrt() / math.sqrt(draws)
        if bool(found.all()):
            return self

        def of_rows(rows: slice) -> tuple[Tensor, Tensor]:
            values, exact = self._of_rows(rows)
            return values[..., found], exact[:, found]

        return Covariates(of_rows, [samples, batch, int(found.sum())], device=self.device)

    @classmethod
    def cat(cls, parts: Sequence["Covariates"]) -> "Covariates":
        def of_rows(rows: slice) -> tuple[Tensor, Tensor]:
            values, exact = zip(*(part._of_rows(rows) for part in parts), strict=True)
            return torch.cat(values, -1), torch.cat(exact, -1)

        size = sum(part.shape[-1] for part in parts)
        return cls(of_rows, [*parts[0].shape[:2], size], device=parts[0].device)


def covariates_of(draws: Draws) -> Iterator[Covariates]:
    """What can be chosen from, best first: every latent dimension by itself, their sums, nothing."""
    with torch.no_grad():
        yield Covariates.cat(list(_dimensions(draws))).estimable()
        yield Covariates.cat(list(_sums(draws))).estimable()
        yield _nothing(draws)


def _dimensions(draws: Draws) -> Iterator[Covariates]:
    yield from (_nothing(draws), *_of_joint(draws), *_of_marginals(draws), *_powers(draws))


def _sums(draws: Draws) -> Iterator[Covariates]:
    yield from (_nothing(draws), *_of_joint(draws), *(each.sum() for each in _powers(draws)))


def _nothing(draws: Draws) -> Covariates:
    samples, batch, _ = draws.z.shape
    own = draws.log_posterior
    return Covariates.of(own.new_zeros(samples, batch, 0), own.new_zeros(batch, 0))


def _of_joint(draws: Draws) -> list[Covariates]:
    forms = joint_forms(draws.posterior, draws.prior)
    own = _known(lambda: draws.log_posterior[..., None], forms.log_posterior)
    if not _light(draws):
        return own
    return own + _known(lambda: draws.log_prior[..., None], forms.log_prior)


def _of_marginals(draws: Draws) -> list[Covariates]:
    forms = marginal_forms(draws.posterior, draws.prior)
    own = _known(lambda: draws.log_posterior_marginals, forms.log_posterior)
    if _is_combination_of_powers(draws) or not _light(draws):
        return own
    return own + _known(lambda: draws.log_prior_marginals, forms.log_prior)


def _light(draws: Draws) -> bool:
    """Whether it is known that the prior's log-density of the draws has a variance."""
    in_u = _is_combination_of_powers(draws)
    return has_all_moments(draws.coordinates.base if in_u else draws.posterior)


def _known(values: Callable[[], Tensor], exact: Tensor | None) -> list[Covariates]:
    if exact is None:
        return []
    return [Covariates.of(values(), exact if exact.dim() == 2 else exact[:, None])]


def _is_combination_of_powers(draws: Draws) -> bool:
    """Whether the log-density of each dimension under the prior is, for it is Normal in the same u."""
    if draws.prior is None:
        return False
    prior = coordinates_of(draws.prior)
    return diagonal_normal(prior.base) is not None and prior.transform == draws.coordinates.transform


def _powers(draws: Draws) -> list[Covariates]:
    """u and its square, from the centre of the data: far from it the two would be one.

    Powers of z itself may have tails that the draws do not reach, where u is Normal.
    """
    base = draws.coordinates.base
    known = moments(base) if has_all_moments(base) else None
    if known is None:
        return []
    (mean, variance), centre = known, known[0].mean(0)

    def first(rows: slice) -> tuple[Tensor, Tensor]:
        return draws.coordinates.at(draws.z[:, rows].double())[0] - centre, mean[rows] - centre

    def second(rows: slice) -> tuple[Tensor, Tensor]:
        u, around = first(rows)
        return u**2, around**2 + variance[rows]

    shape = [*draws.z.shape[:2], mean.shape[-1]]
    return [Covariates(each, shape, device=mean.device) for each in (first, second)]


# ---- What the data tell of their own means, and which have posteriors next to each other.

_DATA_PER_FUNCTION: Final = 4


@torch.no_grad()
def trend_of(posterior: Density) -> Tensor | None:
    """Functions of the datum, (batch, function), orthonormal and of mean 0: its mean, and squares of that.

    None for unknown moments and for few data.
    """
    known = moments(posterior)
    if known is None:
        return None
    mean = known[0] - known[0].mean(0)
    batch, latent = mean.shape
    if batch < 2 * latent * _DATA_PER_FUNCTION:
        squares = (mean**2).sum(-1, keepdim=True)
    else:
        squares = mean**2
    columns = torch.cat([mean, squares - squares.mean(0)], -1)
    if batch < columns.shape[1] * _DATA_PER_FUNCTION:
        return None
    found = torch.linalg.qr(columns)
    # moments that never move, or repeat each other, would leave arbitrary directions
    told = found.R.diagonal().abs() > _RELATIVE_RANK * columns.norm(dim=0)
    return found.Q if bool(told.all()) else found.Q[:, told]


_FEWEST_DATA: Final = 50  # among fewer the neighbours are far, and their pairs too few to judge an error by
_MOST_DIMENSIONS: Final = 4  # in more the nearest is hardly nearer than any other, and takes long to find
_APART: Final = 1e-6  # in widths of the posteriors: what holds crowds of twins apart


@torch.no_grad()
def nearest(posterior: Density) -> Tensor | None:
    """The datum with the nearest posterior mean, (batch,), counted in the widths of the posteriors.

    It is sought in the dimensions that tell the data apart best; None for unknown moments and for few data.
    """
    from scipy.spatial import cKDTree  # late: it takes as long to import as all of this room

    known = moments(posterior)
    if known is None or len(known[0]) < _FEWEST_DATA:
        return None
    mean, variance = known
    position = mean / variance.mean(0).clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
    leading = position.var(0).argsort(descending=True)[:_MOST_DIMENSIONS]
    # twins that nothing tells apart would all be compared with each other
    place = np.linspace(0, _APART, len(position))[:, None]
    points = np.hstack([position[:, leading].cpu().numpy(), place])  # (batch, leading + 1)
    found = torch.from_numpy(cKDTree(points).query(points, k=2)[1]).to(mean.device)  # (batch, 2)
    # usually the first is the datum itself, though not always among twins
    itself = found[:, 0] == torch.arange(len(found), device=mean.device)
    return torch.where(itself, found[:, 1], found[:, 0])
