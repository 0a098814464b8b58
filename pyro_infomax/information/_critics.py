r"""The mutual information of two vectors of which there are draws alone, by a critic that scores pairs.

A critic T(x, y) is trained on some of the pairs to tell them from pairs that were torn apart, and a bound is
evaluated with it on others. Nothing needs to be known of any density.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, Literal, TypeAlias, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus
from torch.optim.swa_utils import AveragedModel

from pyro_infomax._checks import one_of, real_number, whole_number
from pyro_infomax._data import Data, as_tensor
from pyro_infomax._progress import patiently
from pyro_infomax._random import seeded_draws
from pyro_infomax.information._critic_training import OptimizerFactory, adam, minimise
from pyro_infomax.information._estimate import Estimate, spread

# ---- What the scores of all pairs say of the information.

CriticEstimator: TypeAlias = Literal["nwj", "dv", "info_nce", "smile"]

# Above the one, few pairs carry a mean; below the other distance from its ceiling, an estimate is at it
_LARGEST_SHARE: Final = 0.1
_CLOSE: Final = 1.0
# From so many on, the spread of their means is error enough
_MANY_BLOCKS: Final = 8


@final
class _Scored:
    """What is left of the scores of all pairs within blocks of data: a few numbers for each datum.

    Args:
        blocks: (size, size) each, float64, with x in rows and y in columns; those on the diagonal belong
            together. They are looked at one by one, and not kept.
        estimator: what is wanted of them.
        clip: where SMILE clips the scores of the pairs that do not belong together.

    Attributes:
        value: the estimate.
        influences: of each datum on it, (batch,), up to a constant.
        largest_block: the size of the largest block.
        largest_share: that of one pair in the mean over pairs that do not belong together.
    """

    def __init__(self, blocks: Iterable[Tensor], estimator: CriticEstimator, clip: float) -> None:
        self._clip = clip if estimator == "smile" else math.inf
        self.largest_block, self._largest, self._total = 0, 0.0, 0.0
        look = self._among_all if estimator == "info_nce" else self._apart
        found = [look(block) for block in blocks]
        together, *others = (torch.cat(each) for each in zip(*found, strict=True))  # (batch,) each
        if estimator == "info_nce":
            self.value = together.mean()
            many = len(found) >= _MANY_BLOCKS
            self.influences = _by_block([each for each, _ in found]) if many else others[0]
            return
        by_x, by_y = others
        mean = by_x.mean()
        if estimator == "nwj":
            self.value, self.influences = together.mean() - mean + 1, together - by_x - by_y
        else:
            self.value, self.influences = together.mean() - mean.log(), together - (by_x + by_y) / mean

    @property
    def largest_share(self) -> float:
        return self._largest / self._total if self._total else 0.0

    def _among_all(self, block: Tensor) -> tuple[Tensor, ...]:
        """T − ln mean_j exp T_j of each datum, and what the mean of these would lose with it.

        As one of the others a datum counts in the terms of all data, so that their spread is no error. That
        of the jackknife is too large in small blocks, and hardly too small (Efron and Stein, 1981, The
        jackknife estimate of variance).
        """
        size = len(block)
        self.largest_block = max(self.largest_block, size)
        apart = block.diagonal() - block.logsumexp(1)
        each = apart + math.log(size)
        if size < 3:  # of which nothing is left to compare
            return each, torch.full_like(each, math.nan)
        share = block.softmax(1).clamp(max=1 - torch.finfo(block.dtype).eps).fill_diagonal_(0.0)
        without = (apart.sum() - apart - torch.log1p(-share).sum(0)) / (size - 1) + math.log(size - 1)
        return each, size * each.mean() - (size - 1) * without

    def _apart(self, block: Tensor) -> tuple[Tensor, ...]:
        """For each datum T, and the mean of exp T over pairs of its x, and of its y, with others."""
        self.largest_block = max(self.largest_block, len(block))
        weights = block.clamp(-self._clip, self._clip).exp().fill_diagonal_(0.0)
        self._largest = max(self._largest, float(weights.max()))
        self._total += float(weights.sum())
        return block.diagonal().clone(), weights.sum(1) / (len(block) - 1), weights.sum(0) / (len(block) - 1)


def _by_block(found: Sequence[Tensor]) -> Tensor:
    """Influences of data whose spread is that of the means of independent blocks."""
    mean, unbiased = torch.cat([*found]).mean(), len(found) / (len(found) - 1)
    scales = [math.sqrt(len(each) * unbiased) for each in found]
    pairs = zip(scales, found, strict=True)
    return torch.cat([(scale * (each.mean() - mean)).expand(len(each)) for scale, each in pairs])


_TARGETS: Final = {
    "nwj": "the mutual information between x and y",
    "dv": "the mutual information between x and y, in the limit of many pairs",
    "smile": "the mutual information between x and y, which it may exceed: it is no bound",
}


def _target(estimator: CriticEstimator, block: int) -> str:
    if estimator == "info_nce":
        return f"the mutual information between x and y, and at most ln {block} = {math.log(block):.3f}"
    return _TARGETS[estimator]


def critic_bound(scores: Tensor, *, estimator: CriticEstimator = "nwj", clip: float = 5.0) -> Estimate:
    r"""A bound on the mutual information from the scores that a critic gives to all pairs of some data.

    .. math::

        \mathrm{NWJ} &= \mathrm{E}_{p(x,y)} T - \mathrm{E}_{p(x)p(y)} e^{T} + 1 \le I(X; Y) \\
        \mathrm{DV} &= \mathrm{E}_{p(x,y)} T - \ln \mathrm{E}_{p(x)p(y)} e^{T} \le I(X; Y) \\
        \mathrm{InfoNCE} &= \mathrm{E} \Big[ T_{ii} - \ln \tfrac1B \sum_j e^{T_{ij}} \Big]
            \le \min(I(X; Y), \ln B)

    NWJ and DV equal the information for the log-ratio T = ln p(y|x) / p(y); of DV any constant may be added
    to T, of InfoNCE any function of x. NWJ is a lower bound in expectation at any number of pairs; the
    logarithm of a mean makes DV too large by half the squared relative error of that mean. SMILE is DV with T
    clipped to ±clip in the second part. That lowers its variance, but then it is no bound: whoever clips
    enough finds as much information as he likes.

    All of these are *lower* bounds. A training that minimises one of them lowers the bound, not the
    information: to penalise information use an upper bound, such as :func:`rate`.

    References: Donsker and Varadhan (1983), Asymptotic evaluation of certain Markov process expectations for
    large time; Nguyen, Wainwright and Jordan (2010), Estimating divergence functionals and the likelihood
    ratio by convex risk minimization; van den Oord, Li and Vinyals (2018), Representation learning with
    contrastive predictive coding; Poole, Ozair, van den Oord, Alemi and Tucker (2019), On variational bounds
    of mutual information; Song and Ermon (2020), Understanding the limitations of variational mutual
    information estimators.

    Args:
        scores: (batch, batch), of x in rows with y in columns; those on the diagonal belong together. The
            critic must not have been trained on these data, else the value is no bound.
        estimator: ``"nwj"``, ``"dv"``, ``"info_nce"`` or ``"smile"``.
        clip: of SMILE, above 0.

    Returns:
        An estimate in nats, of bound "lower", or None for SMILE. Its errors are of the data as draws from
        their population, with the critic as it is; that of InfoNCE is the jackknife's, rather too large for
        few data, and nan for 2.

    Raises:
        ValueError: for scores that are no finite square matrix of at least 2 data, or so large that their
            exponentials overflow; for another estimator.

    >>> import torch
    >>> from pyro_infomax.oracles import CorrelatedNormals
    >>> pair = CorrelatedNormals([[1.0, 0.9], [0.9, 1.0]], x_dim=1)
    >>> x, y = pair.sample(1000, seed=0)
    >>> scores = pair.conditional(x).log_prob(y[:, None]).T - pair.log_marginal(y)  # the optimal critic
    >>> print(f"{pair.mutual_information:.3f}")
    0.830
    >>> print(critic_bound(scores))
    0.852 ± 0.029 (lower)
    """
    one_of("estimator", estimator, get_args(CriticEstimator))
    if scores.dim() != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise ValueError(
            f"Expected scores of shape (batch, batch), of at least 2 data, but got {tuple(scores.shape)}: "
            "score all pairs, as by critic(x[:, None], y[None])."
        )
    clip = real_number("clip", clip, above=0.0)
    return _estimate([_Scored([_checked(scores)], estimator, clip)], estimator)


def _checked(scores: Tensor) -> Tensor:
    scores = scores.detach().cpu().double()
    if not bool(scores.isfinite().all()):
        raise ValueError(
            f"Expected finite scores of all pairs but {int((~scores.isfinite()).sum())} of "
            f"{scores.numel()} are not: train with a smaller learning rate."
        )
    return scores


def _estimate(folds: Sequence[_Scored], estimator: CriticEstimator, *, copied: str | None = None) -> Estimate:
    """The mean over folds by their sizes, each with a critic of its own."""
    if not all(bool(fold.value.isfinite()) for fold in folds):
        raise ValueError(
            "Expected scores whose exponentials have a mean but those of pairs that do not belong together "
            "are all 0, or too large: train with a smaller learning rate, or take estimator='info_nce'."
        )
    sizes = torch.tensor([float(len(fold.influences)) for fold in folds], dtype=torch.float64)
    value = (torch.stack([fold.value for fold in folds]) * sizes).sum() / sizes.sum()
    # Within each fold, since the critics of the folds differ by constants
    influences = torch.cat([fold.influences - fold.influences.mean() for fold in folds])
    error = spread(influences)
    block = max(fold.largest_block for fold in folds)
    share = max(fold.largest_share for fold in folds)
    return Estimate(
        value,
        error,
        error,
        bound=None if estimator == "smile" else "lower",
        target=_target(estimator, block),
        note=copied or _note(float(value), estimator, block=block, size=int(sizes.sum()), share=share),
    )


def _note(value: float, estimator: CriticEstimator, *, block: int, size: int, share: float) -> str | None:
    if estimator == "info_nce" and value > math.log(block) - _CLOSE:
        return (
            f"it is within a nat of its ceiling ln {block} = {math.log(block):.2f}, and the information may "
            "be much larger: take larger batches, or NWJ"
        )
    # McAllester and Stratos (2020), Formal limitations on the measurement of mutual information
    if value > math.log(size) - _CLOSE:
        return f"no {size} data can show that there are more than about ln {size} = {math.log(size):.2f} nats"
    if estimator in ("nwj", "dv") and share > _LARGEST_SHARE:
        return (
            f"one pair makes {share:.0%} of the mean over pairs that do not belong together, so that neither "
            "value nor error can be trusted: take more data, or InfoNCE"
        )
    return None


# ---- A critic of one's own data: trained on some folds of them, evaluated on another.


def critic_information(
    x: Data,
    y: Data,
    critic: nn.Module,
    *,
    estimator: CriticEstimator = "nwj",
    folds: int = 5,
    steps: int = 2000,
    batch_size: int = 128,
    optim: OptimizerFactory = adam,
    clip: float = 5.0,
    seed: int | None = None,
    progress: bool | str = True,
) -> Estimate:
    r"""A lower bound on the mutual information of two vectors of which there are draws alone.

    The data are cut into folds. For each of them a copy of the critic is trained on the others, and the bound
    of :func:`critic_bound` is evaluated on the fold with it. So no critic judges pairs that it has learned
    from, and an overfitted one makes the bound looser, never too large, as long as the pairs are independent
    draws. Copies of a pair fall into several folds, and a note says so where there seem to be any.

    InfoNCE trains by itself. For the others the critic is trained as a classifier between the pairs of a
    minibatch and all other pairs of its x and y, by logistic regression, whose optimum is the log-ratio too;
    its gradient is unbiased over minibatches, and large scores do not make it explode. MINE, which ascends
    DV, has neither.

    Where q(y|x) is known use :func:`mutual_information`: it is exact. How far a bound is below the
    information nobody knows, so compare critics, and take the largest value. It is a lower bound: never
    minimise the information by it.

    References: those of :func:`critic_bound`; Belghazi et al. (2018), MINE: mutual information neural
    estimation; Hjelm et al. (2019), Learning deep representations by mutual information estimation and
    maximization, for the classifier.

    Args:
        x: (N, \*x_shape), or (N,) for numbers: a tensor, an array or a frame.
        y: (N, \*y_shape), its rows in the same order.
        critic: of :mod:`pyro_infomax.nn`, such as ``MLPCritic(x_dim, y_dim)``, or a module of one's own:
            ``critic(x, y)`` scores x (..., \*x_shape) and y (..., \*y_shape), whose leading axes broadcast,
            as (...). It is copied, and itself left as it is. It sees each coordinate of floating-point
            data with mean 0 and variance 1, which changes no information, in the dtype of its parameters.
        estimator: ``"nwj"``, ``"dv"``, ``"info_nce"`` or ``"smile"``; see :func:`critic_bound`.
        folds: into how many the data are cut, at least 2.
        steps: of training, for each fold.
        batch_size: how many pairs a step trains on, and how many InfoNCE compares, with ceiling ln(batch).
        optim: makes a torch optimiser of the critic's parameters; by default Adam at the rate 0.001.
        clip: of SMILE, above 0.
        seed: isolates folds and minibatches from torch's global state.
        progress: whether to show a bar for what takes long, and under which title.

    Returns:
        An estimate in nats, of bound "lower", or None for SMILE. Its errors are of the data as draws from
        their population; how far the critics are from the optimum is in no error.

    Raises:
        ValueError: for x and y of different numbers of data, too few data for the folds, a number out of
            range, or a critic that gives other shapes.

    >>> import torch
    >>> from pyro_infomax.nn import QuadraticCritic
    >>> from pyro_infomax.oracles import CorrelatedNormals
    >>> pair = CorrelatedNormals([[1.0, 0.9], [0.9, 1.0]], x_dim=1)
    >>> x, y = pair.sample(1000, seed=0)
    >>> found = critic_information(x, y, QuadraticCritic(1, 1), folds=2, steps=300, seed=0,
    ...     optim=lambda parameters: torch.optim.Adam(parameters, lr=0.03))
    >>> bool((found.value - pair.mutual_information).abs() < 0.1), found.bound
    (True, 'lower')
    """
    one_of("estimator", estimator, get_args(CriticEstimator))
    x, y = _rows("x", x), _rows("y", y)
    if len(x) != len(y):
        raise ValueError(f"Expected as many rows of x as of y but got {len(x)} and {len(y)}.")
    folds = whole_number("folds", folds, at_least=2)
    if len(x) < 2 * folds:
        raise ValueError(f"Expected at least {2 * folds} data, 2 for each fold, but got {len(x)}.")
    steps = whole_number("steps", steps, at_least=0)
    batch_size = whole_number("batch_size", batch_size, at_least=2)
    clip = real_number("clip", clip, above=0.0)
    loss = _info_nce_loss if estimator == "info_nce" else _logistic_loss
    with seeded_draws(seed):
        parts = torch.randperm(len(x)).tensor_split(folds)
        ticks = iter(patiently(range(folds * steps), "training critics", progress=progress))
        scored = []
        for number, held_out in enumerate(parts):
            rest = torch.cat([*parts[:number], *parts[number + 1 :]])
            scale_x, scale_y = _Standard(x[rest]), _Standard(y[rest])
            own = _Trained(copy.deepcopy(critic), optim, loss, batch_size)
            own.train(scale_x(x[rest]), scale_y(y[rest]), ticks, steps=steps)
            blocks = own.scores(scale_x(x[held_out]), scale_y(y[held_out]))
            scored.append(_Scored(blocks, estimator, clip))
        next(ticks, None)
    return _estimate(scored, estimator, copied=_note_of_copies(x, y))


def _note_of_copies(x: Tensor, y: Tensor) -> str | None:
    """A note where a fold may hold copies of what the critic of that fold has learned.

    Draws of discrete variables repeat too. But then, unless one is a function of the other, what repeats of
    the one comes with several values of the other, save as often as chance would have it.
    """
    of_x, of_y = (torch.unique(each.flatten(1), dim=0, return_inverse=True)[1] for each in (x, y))
    different = torch.unique(torch.stack([of_x, of_y]), dim=1)
    pairs = different.shape[1]
    if not (_keeps_to_one(of_x, of_y, different[0]) or _keeps_to_one(of_y, of_x, different[1])):
        return None
    return (
        f"{len(x)} pairs are {pairs} different ones: where they are copies, rather than draws that happen to "
        "be alike, the critics are judged by pairs that they have learned from, so that the value may be too "
        "large, and the error too small: pass each pair once"
    )


def _keeps_to_one(values: Tensor, partners: Tensor, different: Tensor) -> bool:
    """Whether most values that repeat have one partner alone, beyond what chance would have.

    Args:
        values, partners: of each pair, (batch,), numbered.
        different: the values of the different pairs.
    """
    count, found = values.bincount(), different.bincount()
    repeats = count > 1
    alone = int((found[repeats] == 1).sum())
    shares = partners.bincount().double() / len(partners)
    times, numbers = (each.tolist() for each in count[repeats].unique(return_counts=True))
    by_chance = sum(
        number * float(shares.pow(each).sum()) for each, number in zip(times, numbers, strict=True)
    )
    return alone - by_chance > (int(repeats.sum()) - by_chance) / 2


def _rows(name: str, data: Data) -> Tensor:
    rows = as_tensor(name, data).detach()
    if not rows.dim():
        raise ValueError(f"Expected {name} of shape (N, ...) but got a number.")
    if not bool(rows.isfinite().all()):
        raise ValueError(f"Expected finite values of {name}: drop or fill what is missing.")
    return rows[:, None] if rows.dim() == 1 else rows


@final
class _Standard:
    """Brings each coordinate to mean 0 and variance 1; leaves integers, which may be labels, alone."""

    def __init__(self, rows: Tensor) -> None:
        self._floating = rows.is_floating_point()
        if self._floating:
            self._mean, scale = rows.mean(0), rows.std(0, correction=0)
            self._scale = torch.where(scale > 0, scale, 1.0)

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows - self._mean) / self._scale if self._floating else rows


def _logistic_loss(scores: Tensor) -> Tensor:
    size = len(scores)
    apart = softplus(scores)
    others = (apart.sum() - apart.diagonal().sum()) / (size * (size - 1))
    return softplus(-scores.diagonal()).mean() + others


def _info_nce_loss(scores: Tensor) -> Tensor:
    return cross_entropy(scores, torch.arange(len(scores), device=scores.device))


@final
class _Trained:
    """A critic in training, and afterwards the mean of its parameters over the second half of the steps."""

    def __init__(
        self, critic: nn.Module, optim: OptimizerFactory, loss: Callable[[Tensor], Tensor], batch_size: int
    ) -> None:
        self._critic, self._optim, self._loss, self._batch_size = critic, optim, loss, batch_size

    def train(self, x: Tensor, y: Tensor, ticks: Iterator[object], *, steps: int) -> None:
        """Takes steps, with a tick each, on the pairs of one pass over the data after another."""
        parameters = [each for each in self._critic.parameters() if each.requires_grad]
        # A critic that is known needs no training, and torch's optimisers refuse it
        if not parameters:
            return
        optimizer = self._optim(parameters)
        self._critic.train()
        averaged = AveragedModel(self._critic, use_buffers=True)
        batches: list[Tensor] = []
        for step in range(steps):
            next(ticks)
            batches = batches or list(self._cut(torch.randperm(len(x), device=x.device)))
            rows = batches.pop()
            minimise(optimizer, partial(self._loss_of, x[rows], y[rows]))
            # Without it the last minibatches would show in the critic
            if 2 * step >= steps - 1:
                averaged.update_parameters(self._critic)
        self._critic = averaged.module

    def _loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        return self._loss(self._all_pairs(x, y))

    @torch.no_grad()
    def scores(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Of all pairs within blocks of about the size of a minibatch."""
        self._critic.eval()
        for rows in self._cut(torch.arange(len(x), device=x.device)):
            yield _checked(self._all_pairs(x[rows], y[rows]))

    def _cut(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Parts of nearly one size, of at least 2 rows."""
        number = max(1, min(-(-len(rows) // self._batch_size), len(rows) // 2))
        return rows.tensor_split(number)

    def _all_pairs(self, x: Tensor, y: Tensor) -> Tensor:
        first, second = (self._as_parameters(each) for each in (x, y))
        scores = self._critic(first[:, None], second[None])
        if not isinstance(scores, Tensor) or scores.shape != (len(x), len(y)):
            found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"Expected critic(x[:, None], y[None]) to give scores of shape {(len(x), len(y))} but got "
                f"{found}: let the leading axes of x and y broadcast, and give a score each."
            )
        return scores

    def _as_parameters(self, rows: Tensor) -> Tensor:
        """Floating-point rows in the dtype of the critic's parameters, where it has any."""
        dtypes = [each.dtype for each in self._critic.parameters() if each.is_floating_point()]
        return rows.to(dtypes[0]) if dtypes and rows.is_floating_point() else rows
