"""The bounds between which the population's information lies, and the ceiling of what N data can show."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from pyro_infomax._progress import Bar, bar
from pyro_infomax._types import Array
from pyro_infomax.diagnostics._annealed import UnconstrainedSpace
from pyro_infomax.diagnostics._pair import Pair
from pyro_infomax.distributions import Density, in_dtype_of
from pyro_infomax.information import Account, Estimate, mean_of_draws, spread

# ---- The two bounds, and which of several upper ones is reported.

POPULATION_INFORMATION: Final = "the mutual information of the representation in the population"
_SATURATION: Final = 1.0  # nats below the ceiling
_CHANCE: Final = 2.0  # standard errors of a difference


def information_lower_bound(account: Account) -> Estimate:
    """The exact mixture."""
    return replace(account.mutual_information, bound="lower", target=POPULATION_INFORMATION)


def information_upper_bound(account: Account, fitted: "CrossFittedCeiling | None" = None) -> Estimate:
    r"""The closest of the upper bounds that are there: by a fitted marginal, the rate, and leave-one-out.

    The least of several noisy numbers is no bound any more: of two with one mean, whose difference has the
    standard error s, it lies 0.4 s below. So a bound takes the place of the one before it only where it is
    lower by more than two standard errors of their difference, by which it loses at most :math:`\phi(2) s
    = 0.054 s`.

    The rate against a prior that depends on the data bounds nothing; a single datum, which has no other to
    leave in, cannot show such a prior. The target says which bound it is.
    """
    draws = account.draws
    bounds = [] if fitted is None else [(fitted.information, fitted.per_datum)]
    if draws.prior is not None:
        per_datum = (draws.log_posterior - draws.log_prior).mean(0).cpu()
        bounds.append((_upper(account.rate, "the rate against the prior"), per_datum))
    if draws.data_size > 1:
        per_datum = (draws.log_posterior - draws.log_leave_one_out).mean(0).cpu()
        name = "the rate against the posteriors of the other data (leave-one-out)"
        bounds.append((_upper(account.leave_one_out, name), per_datum))
    if not bounds:
        raise NotImplementedError("a single datum without a prior has no upper bound of its information")
    closest, of_closest = bounds[0]
    for bound, per_datum in bounds[1:]:
        if float(closest) - float(bound) > _CHANCE * float(spread(of_closest - per_datum)):
            closest, of_closest = bound, per_datum
    return closest


def _upper(estimate: Estimate, name: str) -> Estimate:
    return replace(estimate, bound="upper", target=f"{POPULATION_INFORMATION}, by {name}")


def information_ceiling(data_size: int) -> float:
    """ln N, which no information under N data exceeds."""
    return math.log(data_size)


def is_saturated(information: Estimate, data_size: int) -> bool:
    """Whether the information says more about N than about the representation."""
    return float(information) > information_ceiling(data_size) - _SATURATION


# ---- A ceiling by a marginal that was fitted to other data.

_FEWEST: Final = 1000  # data, from which a marginal is fitted unasked
_WORTHWHILE: Final = 0.5  # nats between floor and ceiling
_FEWEST_OF_A_FIT: Final = 10  # data, a fifth of which weigh the members of the marginal
_SHARE_OF_FIT: Final = 0.8  # of the data to fit to
_POINTS_OF_A_FIT: Final = 20_000
_DRAWS_OF_A_FIT: Final = 8  # of each datum, at most
_DRAWS: Final = 4  # of each datum, to evaluate


@final
@dataclass(frozen=True)
class CrossFittedCeiling:
    """An upper bound on the population's information by marginals r(z) that were fitted to other data.

    Attributes:
        information: E KL[q(z|x) ‖ r(z)], an upper bound.
        per_datum: what it is the mean of, (data,).
        prior_gain: E log r(z) − E log p(z), what r in place of the prior would add to the ELBO of data that r
            was not fitted to; None where the prior is not one for all data.
    """

    information: Estimate
    per_datum: torch.Tensor
    prior_gain: Estimate | None


@torch.no_grad()
def cross_fitted_ceiling(
    pair: Pair, prior: Density | None, *, training: Pair | None = None
) -> CrossFittedCeiling:
    r"""What a marginal that was fitted to other data bounds the population's information by.

    .. math:: I[X; Z] = E_x \mathrm{KL}[q(z \mid x) \| q(z)] \le E_x \mathrm{KL}[q(z \mid x) \| r(z)]

    for every density r that the data x had no part in. It is a weighted sum of the prior and of mixtures of
    Gaussians. The data are halved at random, and each half is evaluated under the r of the other half: most
    of that half fits the mixtures, the rest of it the weights. With training data r is fitted to these and
    evaluated on the data of the pair. Latents are mapped to the real line first, which changes no KL.

    References:
        Agakov and Barber (2004), An auxiliary variational method.
        Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), Fixing a broken ELBO.
        Poole, Ozair, van den Oord, Alemi and Tucker (2019), On variational bounds of mutual information.
        Smyth and Wolpert (1999), Linearly combining density estimators via stacking.

    Args:
        pair: model and guide on the data to evaluate.
        prior: p(z), None where there is not one for all data.
        training: the pair on the data to fit to, None to halve those of the pair.

    Raises:
        NotImplementedError: for discrete, masked and angular latents, over several processes, for fewer than
            ten data to fit to, and where no mixture could be fitted.
    """
    if pair.masked or pair.ranks.world_size > 1:
        reason = f"latent sites {pair.masked} are masked" if pair.masked else "there are several processes"
        raise NotImplementedError(f"no marginal is fitted, since {reason}")
    size = pair.data_size // 2 if training is None else training.data_size
    if size < _FEWEST_OF_A_FIT:
        which = "half of those at hand" if training is None else "the training data"
        raise NotImplementedError(
            f"no marginal is fitted to {size} data, {which}: it takes {_FEWEST_OF_A_FIT} to say anything"
        )
    space = UnconstrainedSpace.of(pair.program, pair.data, pair.space.layouts)
    z = pair.draw(_DRAWS)
    log_marginal = torch.empty(z.shape[:2], dtype=torch.float64)
    marginals = []
    # each datum is scored by the marginal that it had no part in
    with bar(None, unit="mixture", progress=pair.progress, name="fitting marginals", patient=True) as shown:
        for chosen, others in _folds(pair, training):
            marginal = _fitted_marginal(training or pair, space, prior, chosen, shown)
            scores = marginal.log_density(_Points.of(pair, space, prior, z[:, others]))
            log_marginal[:, others] = scores.unflatten(0, (_DRAWS, -1))
            marginals.append(marginal)
    own = in_dtype_of(pair.posterior, z)
    log_posterior = torch.cat([pair.posterior.log_prob(each).double() for each in own.split(1)]).cpu()
    per_draw = log_posterior - log_marginal
    where = "the other half of the data" if training is None else "the training data"
    against = f"the rate against a marginal fitted to {where}: {_in_words(marginals)}"
    information = _upper(mean_of_draws(per_draw, "upper", POPULATION_INFORMATION), against)
    gain = None
    if prior is not None:
        log_prior = prior.log_prob(in_dtype_of(prior, z)).double().cpu()
        # data that the guide was trained on are encoded otherwise than new ones
        old = "data that the marginal was not fitted to, though the guide may have been"
        which = old if training is None else "new data"
        target = f"what a better prior adds to the ELBO of {which}, by a marginal fitted to {where}"
        gain = mean_of_draws(log_marginal - log_prior, "lower", target)
    return CrossFittedCeiling(information, per_draw.mean(0), gain)


def is_worth_fitting(lower: Estimate | None, upper: Estimate | None, data_size: int) -> bool:
    """Whether there are data enough for a marginal, and nats enough between the bounds that are there."""
    if lower is None or upper is None or data_size < _FEWEST:
        return False
    return float(upper) - float(lower) > _WORTHWHILE


def _folds(pair: Pair, training: Pair | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The rows of the data to fit to, in random order, and of those to evaluate."""
    if training is not None:
        yield torch.randperm(training.data_size, device="cpu"), torch.arange(pair.data_size)
        return
    order = torch.randperm(pair.data_size, device="cpu")
    first, second = order[: pair.data_size // 2], order[pair.data_size // 2 :]
    yield first, second
    yield second, first


# ---- What a marginal is made of, and how it is fitted.

_COMPONENTS: Final = (1, 10, 40, 100)
_POINTS_A_COMPONENT: Final = 10  # for each latent dimension, at least
_WIDENED: Final = (0.0, 0.2)  # how far components are drawn to the covariance of the whole
_ROUNDS: Final = 200  # by which the weights have settled
_ROUNDING: Final = 1e-10  # of the variance, without which a covariance may have no root
_AT_ONCE: Final = 8192  # points
_WORTH_SAYING: Final = 0.005  # of the weight
_AT_BOUNDS: Final = "no marginal is fitted, since draws of the latents are at the bounds of their support"


@final
@dataclass(frozen=True)
class _Points:
    """Draws on the real line.

    Attributes:
        u: (points, real numbers).
        log_volume: by what each is stretched on its way to z, (points,).
        log_prior: log p(z), (points,), where there is one prior for all data.
    """

    u: torch.Tensor
    log_volume: torch.Tensor
    log_prior: torch.Tensor | None

    @classmethod
    def of(cls, pair: Pair, space: UnconstrainedSpace, prior: Density | None, z: torch.Tensor) -> "_Points":
        """Those of draws (samples, data, latent), the first draw of each datum first."""
        z = z.flatten(0, 1)
        u = space.unconstrain(pair.space.unflatten(z))
        if not bool(u.isfinite().all()):
            raise NotImplementedError(_AT_BOUNDS)
        log_prior = None if prior is None else prior.log_prob(in_dtype_of(prior, z)).double().cpu()
        return cls(u.cpu(), space.constrain(u)[1].double().cpu(), log_prior)


@final
@dataclass(frozen=True)
class _FittedMixture:
    """A mixture of Gaussians over points that were moved and scaled to mean 0 and covariance 1."""

    name: str
    mixture: MixtureSameFamily

    @classmethod
    def of(cls, fitted: GaussianMixture, widened: float) -> "_FittedMixture":
        """A fitted mixture, each component drawn by a part of the way to the covariance of the whole."""
        covariances = (1 - widened) * fitted.covariances_ + widened * np.eye(fitted.means_.shape[1])
        roots = torch.as_tensor(np.linalg.cholesky(covariances))
        weights, means = torch.as_tensor(fitted.weights_), torch.as_tensor(fitted.means_)
        components = MultivariateNormal(means, scale_tril=roots, validate_args=False)
        return cls(_gaussians(len(means)), MixtureSameFamily(Categorical(weights), components))

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """(points,)."""
        return torch.cat([self.mixture.log_prob(each) for each in points.split(_AT_ONCE)])


def _gaussians(number: int) -> str:
    return "Gaussian" if number == 1 else f"mixture of {number} Gaussians"


@final
@dataclass(frozen=True)
class _Marginal:
    """A density of z: a weighted sum of the prior, where there is one, and of mixtures of Gaussians.

    Attributes:
        members: the mixtures.
        mean: of the points that they were fitted to, (real numbers,).
        root: of the covariance of these, lower triangular.
        weights: of the prior, where there is one, and of the members, to the sum 1.
        left_out: mixtures that could not be fitted, and why.
    """

    members: Sequence[_FittedMixture]
    mean: torch.Tensor
    root: torch.Tensor
    weights: torch.Tensor
    left_out: dict[str, str]

    def log_density(self, points: _Points) -> torch.Tensor:
        """log r(z), (points,)."""
        return torch.logsumexp(self.log_members(points) + self.weights.log(), -1)

    def log_members(self, points: _Points) -> torch.Tensor:
        """The log-density of each z under the prior and the members, (points, members)."""
        moved = self.moved(points.u)
        volume = points.log_volume + self.root.diagonal().log().sum()
        found = [each.log_density(moved) - volume for each in self.members]
        return torch.stack(found if points.log_prior is None else [points.log_prior, *found], -1)

    def moved(self, u: torch.Tensor) -> torch.Tensor:
        """Points with mean 0 and covariance 1, where they are like those that the members were fitted to."""
        return torch.linalg.solve_triangular(self.root, (u - self.mean).mT, upper=False).mT.contiguous()

    def shares(self) -> dict[str, float]:
        """What is made of what."""
        names = [each.name for each in self.members]
        names = [*["prior"] * (len(self.weights) - len(names)), *names]
        found = dict.fromkeys(names, 0.0)
        for name, weight in zip(names, self.weights.tolist(), strict=True):
            found[name] += weight
        return found


def _fitted_marginal(
    pair: Pair, space: UnconstrainedSpace, prior: Density | None, rows: torch.Tensor, shown: Bar
) -> _Marginal:
    """Mixtures that were fitted to draws of most of the rows, weighted by the rest of them."""
    rows = rows[:_POINTS_OF_A_FIT]
    z = pair.draw(max(1, min(_DRAWS_OF_A_FIT, _POINTS_OF_A_FIT // len(rows))))
    number = int(_SHARE_OF_FIT * len(rows))
    fit, rest = (_Points.of(pair, space, prior, z[:, each]) for each in (rows[:number], rows[number:]))
    _check_spread(fit.u)
    mean, deviation = fit.u.mean(0), fit.u.std(0)
    correlation = ((fit.u - mean) / deviation).mT.cov().reshape(len(mean), len(mean))
    root = torch.linalg.cholesky(correlation + _ROUNDING * torch.eye(len(mean)))
    marginal = _Marginal((), mean, deviation[:, None] * root, torch.ones(0), {})
    members, left_out = _members(marginal.moved(fit.u).numpy(), marginal.moved(rest.u), shown)
    if not members:
        raise NotImplementedError(f"no marginal is fitted: {'; '.join(left_out.values())}")
    marginal = replace(marginal, members=members, left_out=left_out)
    return replace(marginal, weights=_best_weights(marginal.log_members(rest)))


def _check_spread(points: torch.Tensor) -> None:
    """A narrow component at values that come again would have any density."""
    if not bool(points.std(0).isfinite().all()):
        raise NotImplementedError("no marginal is fitted, since draws of the latents have no finite variance")
    if any(len(each.unique()) < 0.999 * len(each) for each in points.T):
        raise NotImplementedError(_AT_BOUNDS)


def _members(fit: Array, rest: torch.Tensor, shown: Bar) -> tuple[list[_FittedMixture], dict[str, str]]:
    """Mixtures of more and more Gaussians, as long as they give the rest more density; and what failed."""
    most = max(1, len(fit) // (_POINTS_A_COMPONENT * fit.shape[1]))
    members: list[_FittedMixture] = []
    left_out: dict[str, str] = {}
    best = -math.inf
    for components in [each for each in _COMPONENTS if each <= most]:
        try:
            fitted = _fitted(fit, components)
            found = [
                _FittedMixture.of(fitted, widened) for widened in (_WIDENED if components > 1 else (0.0,))
            ]
        except ValueError as error:  # of points that are almost on a line, say
            left_out[_gaussians(components)] = str(error).split(".")[0]
            continue
        members += found
        shown.update()
        score = max(float(mixture.log_density(rest).mean()) for mixture in found)
        if score <= best:
            break
        best = score
    return members, left_out


def _fitted(points: Array, components: int) -> GaussianMixture:
    seed = int(torch.randint(2**31 - 1, (), device="cpu"))
    mixture = GaussianMixture(components, random_state=seed, max_iter=60)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # any mixture bounds
        return mixture.fit(points)


def _best_weights(log_members: torch.Tensor) -> torch.Tensor:
    """The weights that give points most density, from log-densities (points, members), by EM."""
    weights = torch.full_like(log_members[0], 1 / log_members.shape[1])
    for _ in range(_ROUNDS):
        weights = torch.softmax(log_members + weights.log(), -1).mean(0)
    return weights


def _in_words(marginals: Sequence[_Marginal]) -> str:
    """What the marginals are made of, on average."""
    shares: dict[str, float] = {}
    for each in marginals:
        for name, share in each.shares().items():
            shares[name] = shares.get(name, 0.0) + share / len(marginals)
    parts = [f"{share:.0%} {name}" for name, share in shares.items() if share >= _WORTH_SAYING]
    left_out = {name: why for each in marginals for name, why in each.left_out.items()}
    without = "".join(f"; no {name} ({why})" for name, why in left_out.items())
    return ", ".join(parts) + without
