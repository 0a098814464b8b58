"""The bounds between which the population's information lies, and the ceiling of what N data can show."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from pyro_infomax._types import Array
from pyro_infomax.diagnostics._annealed import UnconstrainedSpace
from pyro_infomax.diagnostics._pair import Pair
from pyro_infomax.distributions import in_dtype_of
from pyro_infomax.information import Account, Estimate, mean_of_draws

# ---- Bounds that need the account alone.

_POPULATION: Final = "the mutual information of the representation in the population"
_SATURATION: Final = 1.0  # nats below the ceiling


def information_lower_bound(account: Account) -> Estimate:
    """The exact mixture."""
    return replace(account.mutual_information, bound="lower", target=_POPULATION)


def information_upper_bound(account: Account) -> Estimate:
    """The smaller of the two upper bounds, where there are two.

    The rate against a prior that depends on the data bounds nothing; a single datum, which has no other to
    leave in, cannot show such a prior.
    """
    bounds = [] if account.draws.prior is None else [account.rate]
    if account.draws.data_size > 1:
        bounds.append(account.leave_one_out)
    return replace(min(bounds, key=float), bound="upper", target=_POPULATION)


def information_ceiling(data_size: int) -> float:
    """ln N, which no information under N data exceeds."""
    return math.log(data_size)


def is_saturated(information: Estimate, data_size: int) -> bool:
    """Whether the information says more about N than about the representation."""
    return float(information) > information_ceiling(data_size) - _SATURATION


# ---- A ceiling by a marginal that was fitted to other data.

_COMPONENTS: Final = (1, 10, 40, 100)
_FEWEST: Final = 1000  # data, below which a marginal fitted to half of them gains nothing
_WORTHWHILE: Final = 0.5  # nats between floor and ceiling
_POINTS_OF_A_FIT: Final = 20_000
_DRAWS: Final = 4  # of each datum, to evaluate
_SHARE_OF_FIT: Final = 0.8  # of a fold; the rest chooses the number of components
_POINTS_A_COMPONENT: Final = 10  # for each latent dimension, at least


@final
@dataclass(frozen=True)
class CrossFittedCeiling:
    """An upper bound on the population's information by marginals r(z) that were fitted to other data.

    Attributes:
        information: E KL[q(z|x) ‖ r(z)], an upper bound.
        prior_gain: E log r(z) − E log p(z), what r in place of the prior would add to the ELBO of new data;
            None where the prior is not one for all data.
    """

    information: Estimate
    prior_gain: Estimate | None


@torch.no_grad()
def cross_fitted_ceiling(pair: Pair, *, training: Pair | None = None) -> CrossFittedCeiling:
    r"""The least of what mixtures of Gaussians bound the population's information by.

    .. math:: I[X; Z] = E_x \mathrm{KL}[q(z \mid x) \| q(z)] \le E_x \mathrm{KL}[q(z \mid x) \| r(z)]

    for every density r that the data x had no part in. The data are halved, and each half is evaluated under
    a mixture that was fitted to draws of the other, whose number of components a part of this other half
    chose. With training data the mixture is fitted to these and evaluated on the data of the pair. Latents
    are mapped to the real line first, which changes no KL.

    References:
        Agakov and Barber (2004), An auxiliary variational method.
        Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), Fixing a broken ELBO.
        Poole, Ozair, van den Oord, Alemi and Tucker (2019), On variational bounds of mutual information.

    Args:
        pair: model and guide on the data to evaluate.
        training: the pair on the data to fit to, None to halve those of the pair.

    Raises:
        NotImplementedError: for discrete, masked and angular latents, and over several processes.
    """
    if pair.masked or pair.ranks.world_size > 1:
        reason = f"latent sites {pair.masked} are masked" if pair.masked else "there are several processes"
        raise NotImplementedError(f"no marginal is fitted, since {reason}")
    space = UnconstrainedSpace.of(pair.program, pair.data, pair.space.layouts)
    z = pair.draw(_DRAWS)
    u = space.unconstrain(pair.space.unflatten(z.flatten(0, 1)))
    # each datum is scored by the mixture that it had no part in
    log_marginal = -space.constrain(u)[1].double().cpu().unflatten(0, z.shape[:2])
    u = u.unflatten(0, z.shape[:2]).cpu()
    for chosen, others in _folds(pair, training):
        mixture = _fitted(_points(training or pair, space, chosen))
        scores = torch.as_tensor(mixture.score_samples(u[:, others].flatten(0, 1).numpy()))
        log_marginal[:, others] += scores.unflatten(0, (_DRAWS, -1))
    own = in_dtype_of(pair.posterior, z)
    log_posterior = torch.cat([pair.posterior.log_prob(each).double() for each in own.split(1)]).cpu()
    information = mean_of_draws(log_posterior - log_marginal, "upper", _POPULATION)
    try:
        prior = pair.prior()
        log_prior = prior.log_prob(in_dtype_of(prior, z)).double().cpu()
    except NotImplementedError:
        return CrossFittedCeiling(information, None)
    target = "what a better prior adds to the ELBO of new data"
    return CrossFittedCeiling(information, mean_of_draws(log_marginal - log_prior, "lower", target))


def is_worth_fitting(lower: Estimate | None, upper: Estimate | None, data_size: int) -> bool:
    """Whether there are data enough for a marginal, and nats enough between the bounds that are there."""
    if lower is None or upper is None or data_size < _FEWEST:
        return False
    return float(upper) - float(lower) > _WORTHWHILE


def _folds(pair: Pair, training: Pair | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The rows of the data to fit to, and of those to evaluate."""
    if training is not None:
        yield torch.arange(training.data_size), torch.arange(pair.data_size)
        return
    order = torch.randperm(pair.data_size, device="cpu")
    first, second = order[: pair.data_size // 2], order[pair.data_size // 2 :]
    yield first, second
    yield second, first


def _points(pair: Pair, space: UnconstrainedSpace, rows: torch.Tensor) -> Array:
    """Draws of some data on the real line, those of one datum together, (draws x data, latent)."""
    z = pair.draw(max(1, min(_DRAWS, _POINTS_OF_A_FIT // len(rows))))  # (draws, data, latent)
    some = z[:, rows[:_POINTS_OF_A_FIT]].transpose(0, 1).flatten(0, 1)
    return np.asarray(space.unconstrain(pair.space.unflatten(some)).cpu().numpy())


def _fitted(points: Array) -> GaussianMixture:
    """The mixture that gives the last of the points most density, fitted to the first of them."""
    if not np.isfinite(points).all() or any(
        len(np.unique(column)) < 0.999 * len(column) for column in points.T
    ):
        raise NotImplementedError(
            "no marginal is fitted, since draws of the latents are at the bounds of their support"
        )
    number = int(_SHARE_OF_FIT * len(points))
    fit, rest = points[:number], points[number:]
    most = max(1, number // (_POINTS_A_COMPONENT * points.shape[1]))
    best: GaussianMixture | None = None
    best_score = -math.inf
    for components in [each for each in _COMPONENTS if each <= most] or [1]:
        mixture = GaussianMixture(
            components, random_state=int(torch.randint(2**31 - 1, (), device="cpu")), max_iter=60
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # any mixture bounds
            mixture.fit(fit)
        score = float(mixture.score(rest))
        if score <= best_score:
            break
        best, best_score = mixture, score
    assert best is not None
    return best
