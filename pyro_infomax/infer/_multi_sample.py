r"""Bounds of several draws on log p(x), and their gradients: Rényi's, IWAE, DReG, STL, VIMCO and the TVO.

All are over log weights, :math:`\log w_k = \log p(x, z_k) - \log q(z_k \mid x)`, in each cell of the plates
that all sites of the model share; scales of plates stay outside of the mean over draws.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, final

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import RenyiELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_infomax._checks import whole_number
from pyro_infomax._recording import holds
from pyro_infomax._types import Args, Frame, Kwargs, Program, Site
from pyro_infomax.distributions import family_name, without_masks
from pyro_infomax.infer._draws import (
    along_draws,
    check_densities,
    check_paths,
    check_scores,
    cut_draws,
    is_path,
    scored_sites,
)
from pyro_infomax.infer._elbo import (
    SurrogateLoss,
    Terms,
    Traces,
    WeightedELBO,
    accumulate_gradients,
    as_number,
)
from pyro_infomax.infer._named import BetaWeighted, InfoMaxWeighted
from pyro_infomax.infer._weights import WeightsLike
from pyro_infomax.poutine import (
    Weight,
    sample_sites,
    unweighted_log_prob,
    unweighted_scale_and_mask,
)

# ---- RenyiELBO by a bound that stays in tensors.


class RenyiBound(RenyiELBO):
    r"""The variational Rényi bound, in one graph of tensor operations for all particles.

    .. math:: \frac{s}{1 - \alpha} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}

    in each cell of the plates that all sites of the model share, with the scale s that its latents have in
    common, by a plate that subsamples or by :func:`pyro.poutine.scale`.

    Li and Turner, 2016, Rényi divergence variational inference.
    """

    def loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """Minus the bound."""
        with torch.no_grad():
            return as_number(self._evaluated(model, guide, args, kwargs)[0])

    def loss_and_grads(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """Minus the bound, its gradients added to the parameters'."""
        loss, surrogate, traces = self._evaluated(model, guide, args, kwargs)
        accumulate_gradients(surrogate, traces, retain_graph=self.retain_graph)
        return as_number(loss)

    def differentiable_loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> Tensor:
        """Minus the bound, as a tensor that has its gradient."""
        loss, surrogate, _ = self._evaluated(model, guide, args, kwargs)
        return loss + (surrogate - surrogate.detach())

    def _evaluated(
        self, model: Program, guide: Program, args: Args, kwargs: Kwargs
    ) -> tuple[Tensor, Tensor, Traces]:
        """Loss, what has its gradient, and the traces that they come from."""
        traces = list(self._get_traces(model, guide, args, kwargs))
        return *self._loss_and_surrogate(traces), traces

    # The mean over particles is one over draws of z: a subsample must be the same for all
    def _get_traces(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> Traces:
        if self.num_particles == 1 or self.vectorize_particles:
            return super()._get_traces(model, guide, args, kwargs)  # type: ignore[no-any-return]
        rows = _SameRows()
        return super()._get_traces(rows(model), rows(guide), args, kwargs)  # type: ignore[no-any-return]

    def _loss_and_surrogate(self, traces: Traces) -> tuple[Tensor, Tensor]:
        traces = list(traces)
        scale = self._common_scale(*traces[0])
        weights = self._by_particle([log_weight(*pair) / scale for pair in traces])
        if torch.is_grad_enabled():
            self._check_possible(weights.isneginf(), traces)
        bound = self._bounds(weights.detach()).sum()
        return -scale * bound, -scale * self._surrogate_bound(weights, traces)

    def _check_possible(self, impossible: Tensor, traces: Traces) -> None:
        """Refuses draws of no weight where the gradient of the bound is infinite or lacks a part by them."""
        drawn = _sites(traces, 1)
        paths = {site["name"]: site["value"] for site in drawn if is_path(site)}
        ours = type(self).__name__
        if self._needs_all:
            why, remedy = f"the bound of {ours} is -inf otherwise", ", or VIMCO_InfoMaxELBO"
        elif paths:
            why, remedy = f"the gradient of {ours} misses that parameters move draws across its edge", ""
        else:
            return
        sentence = (
            f"Expected draws of q(z|x) within the support of the model, since {why}, but {{}} has the "
            f"log-probability -inf at some; use a guide within that support{remedy}"
        )
        if holds(~impossible.any(), sentence.format("a site")):
            return
        sites = [site for site in _sites(traces, 0) if bool(site["log_prob"].isneginf().any())]
        # Of draws that have scores instead, discrete ones say, each has a probability that parameters move
        if not self._needs_all and any(site["name"] not in paths for site in drawn):
            values = [site["value"] for site in drawn if site["name"] in paths]
            sites = [site for site in sites if site["name"] in paths or _depends(site["log_prob"], values)]
        if names := sorted({site["name"] for site in sites}):
            raise ValueError(sentence.format(" and ".join(map(repr, names))))

    @property
    def _needs_all(self) -> bool:
        """Whether one impossible draw makes the bound infinite."""
        return bool(self.alpha > 1.0)

    def _surrogate_bound(self, weights: Tensor, traces: Traces) -> Tensor:
        """What has the gradient of the bound, from log w with its graph: (particles, *shared plates)."""
        log_weights = weights.detach()
        scores = self._by_particle([self._scores(*pair) for pair in traces], like=weights)
        return times(self._slopes(log_weights), weights).sum() + times(self._gains(log_weights), scores).sum()

    def _slopes(self, log_weights: Tensor) -> Tensor:
        """The derivative of the bound by each log w."""
        shares = torch.softmax((1.0 - self.alpha) * log_weights, 0)
        # Of a cell whose draws are all impossible there is none
        return torch.where(log_weights.isneginf().all(0), 0.0, shares)

    # With the mean of the others in its place, as in VIMCO, which keeps the estimate unbiased (Mnih and
    # Rezende, 2016, Variational inference for Monte Carlo objectives)
    def _gains(self, log_weights: Tensor) -> Tensor:
        """What each particle adds to the bound, the cost of its score: (particles, *shared plates)."""
        if self.num_particles == 1:
            return _or_zero(log_weights)
        powers = (1.0 - self.alpha) * log_weights
        mean_of_others = _sum_of_others(powers) / (self.num_particles - 1)
        without = torch.logaddexp(log_sum_of_others(powers), mean_of_others)
        bounds = (without - math.log(self.num_particles)) / (1.0 - self.alpha)
        return _or_zero(self._bounds(log_weights)) - _or_zero(bounds)

    # What all latents count for in common, by a plate that subsamples say, belongs outside of the mean
    def _common_scale(self, model_trace: Trace, guide_trace: Trace) -> Weight:
        """The scale of the latent sites, without weights; refuses what has none."""
        if self.num_particles == 1:
            return 1.0
        ours = type(self).__name__
        if apart := subsampled_apart(model_trace, guide_trace):
            raise NotImplementedError(
                f"{ours} cannot subsample the plate {apart[0]!r}, which some sites of the model are outside "
                "of: a mean of weights that are estimates themselves is no bound; take all of its rows, or "
                "use Trace_InfoMaxELBO"
            )
        sites = [site for trace in (guide_trace, model_trace) for site in scored_sites(trace)]
        latent = [site for site in sites if not site["is_observed"]] or sites
        scales = [unweighted_scale_and_mask(site)[0] for site in latent] or [1.0]
        names = sorted({site["name"] for site in latent})
        sentence = f"{ours} needs the latent sites {names} to have one scale, a number, in both"
        if not all(_is_number(each) and holds(are_same(each, scales[0]), sentence) for each in scales):
            raise NotImplementedError(
                f"{sentence} programs but got {scales}; put one poutine.scale around all, or use "
                "Trace_InfoMaxELBO"
            )
        return scales[0]

    def _scores(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """The log-probabilities of the draws that are not reparameterised, without scales and masks."""
        return summed_within_particles(guide_trace, model_trace, self._score)

    # What masks its density does not keep a value from being drawn
    def _score(self, site: Site) -> Tensor | float:
        bare: Any = without_masks(site["fn"])
        is_bare = bare is site["fn"]
        _, score_function, entropy_term = site["score_parts"] if is_bare else bare.score_parts(site["value"])
        if not (is_identically_zero(score_function) or is_identically_zero(entropy_term)):
            raise NotImplementedError(
                f"{type(self).__name__} has no gradient for {site['name']!r}, which is reparameterised in "
                "part; use a Trace_ class"
            )
        score: Tensor | float = score_function
        return score

    def _by_particle(self, each: Sequence[Tensor], *, like: Tensor | None = None) -> Tensor:
        """(particles, *shared plates), as large as ``like`` if that is given."""
        if self.vectorize_particles and self.num_particles > 1:
            return each[0] if like is None else each[0].expand_as(like)
        cells = [] if like is None else [like[0]]
        return torch.stack(torch.broadcast_tensors(*each, *cells)[: len(each)])

    def _bounds(self, log_weights: Tensor) -> Tensor:
        """The bound of each cell of the shared plates."""
        order = 1.0 - self.alpha
        return (torch.logsumexp(order * log_weights, 0) - math.log(self.num_particles)) / order


@final
class _SameRows(Messenger):
    """Has every run take the subsamples of the first."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Site) -> None:
        if site_is_subsample(msg) and msg["name"] in self._rows:
            msg["value"], msg["done"] = self._rows[msg["name"]], True

    def _pyro_post_sample(self, msg: Site) -> None:
        if site_is_subsample(msg):
            self._rows[msg["name"]] = msg["value"]


def summed_within_particles(
    trace: Trace,
    model_trace: Trace,
    of_site: Callable[[Site], Tensor | float] = lambda site: site["log_prob"],
) -> Tensor:
    """A quantity of the sites of a trace, summed over all axes but those of a model's shared plates."""
    shared = _shared_axes(model_trace)
    terms = [of_site(site) for site in scored_sites(trace)]
    sums = [_summed_but(term, shared) if isinstance(term, Tensor) else term for term in terms]
    return torch.as_tensor(sum(sums))


# Without validation an axis may be in no plate at all; its cells count once, as in Pyro's other ELBOs
def _summed_but(term: Tensor, kept: Mapping[int, int]) -> Tensor:
    axes = [axis for axis in range(-term.dim(), 0) if axis not in kept]
    return term.sum(axes) if axes else term


def log_weight(
    model_trace: Trace,
    guide_trace: Trace,
    of_site: Callable[[Site], Tensor] = lambda site: site["log_prob"],
) -> Tensor:
    """Of one particle, log p(x, z) − log q(z), in each cell of the plates that the model's sites share."""
    joint = summed_within_particles(model_trace, model_trace, of_site)
    return joint - summed_within_particles(guide_trace, model_trace, of_site)


def log_sum_of_others(values: Tensor) -> Tensor:
    """Along the first axis, the logarithm of the sum of the exponentials of all values but each one."""
    return torch.logaddexp(*_before_and_after(values, Tensor.logcumsumexp, -math.inf))


def _sum_of_others(values: Tensor) -> Tensor:
    """Along the first axis, the sum of all values but each one, which may be infinite."""
    return torch.add(*_before_and_after(values, Tensor.cumsum, 0.0))


def _before_and_after(
    values: Tensor, total: Callable[[Tensor, int], Tensor], of_none: float
) -> tuple[Tensor, Tensor]:
    none = torch.full_like(values[:1], of_none)
    before = torch.cat([none, total(values, 0)[:-1]])
    return before, torch.cat([total(values.flip(0), 0).flip(0)[1:], none])


# Where all draws are impossible, or all others, which the one has no part in, there is nothing to compare
def _or_zero(bounds: Tensor) -> Tensor:
    return torch.where(bounds.isinf(), 0.0, bounds)


def times(shares: Tensor, values: Tensor) -> Tensor:
    """A draw of no weight has no part in a mean, whatever its value."""
    return torch.where(shares == 0, 0.0, shares * values)


def _sites(traces: Traces, program: int) -> list[Site]:
    """Those of all particles, of the model (0) or the guide (1)."""
    return [site for pair in traces for site in scored_sites(pair[program])]


def _depends(total: Tensor, values: Sequence[Tensor]) -> bool:
    if not total.requires_grad:
        return False
    slopes = torch.autograd.grad(total.sum(), values, retain_graph=True, allow_unused=True)
    return any(slope is not None for slope in slopes)


def _shared_frames(model_trace: Trace) -> dict[str, Frame]:
    each = [{frame.name: frame for frame in site["cond_indep_stack"]} for site in scored_sites(model_trace)]
    shared = set.intersection(*map(set, each)) if each else set()
    return {name: frame for name, frame in each[0].items() if name in shared} if shared else {}


def _shared_axes(model_trace: Trace) -> dict[int, int]:
    """The axes of the plates that all sites of the model share, the particles' too, and their sizes."""
    return {frame.dim: frame.size for frame in _shared_frames(model_trace).values() if frame.vectorized}


def _spans(log_prob: Tensor, axes: Mapping[int, int]) -> bool:
    shape = log_prob.shape
    return all(size == 1 or (len(shape) >= -axis and shape[axis] == size) for axis, size in axes.items())


def _is_number(scale: Weight) -> bool:
    return not isinstance(scale, Tensor) or scale.numel() == 1


def subsampled_apart(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """The plates that subsample and that not all sites of the model share."""
    shared = _shared_frames(model_trace)
    sites = [site for trace in (guide_trace, model_trace) for site in scored_sites(trace)]
    frames = (frame for site in sites for frame in site["cond_indep_stack"])
    return [f.name for f in frames if f.name not in shared and (f.full_size or f.size) > f.size]


def are_same(scale: Weight, other: Weight) -> bool | Tensor:
    if not isinstance(scale, Tensor) and not isinstance(other, Tensor):
        return scale is other or bool(scale == other)
    return (torch.as_tensor(scale) == torch.as_tensor(other)).all()


# ---- Weights on the likelihood within the bound.


class Renyi_WeightedELBO(WeightedELBO, RenyiBound):
    """The variational Rényi bound; only observed sites can be weighed exactly."""

    state_of_evaluation = WeightedELBO.state_of_evaluation | {"_log_weights", "_scale"}
    _log_weights: Sequence[Tensor] = ()  # of the particles of the last evaluation
    _scale: Weight = 1.0

    def _reset(self) -> None:
        super()._reset()
        self._log_weights = ()

    def _surrogate(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> SurrogateLoss:
        loss, surrogate, _ = self._evaluated(model, guide, args, kwargs)
        return SurrogateLoss(loss, surrogate, {**self._mean_terms(), **self._bound_terms()})

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        self._check_plates(model_trace, guide_trace)
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample":
                self._check_guide_site(name, site)

    # A site outside of the plates that all sites of the model share would count in each of their cells
    def _check_plates(self, model_trace: Trace, guide_trace: Trace) -> None:
        shared = _shared_axes(model_trace)
        sites = scored_sites(guide_trace)
        if outside := [site["name"] for site in sites if not _spans(site["log_prob"], shared)]:
            raise NotImplementedError(
                f"{type(self).__name__} needs the guide's sites in every plate that the sites of the model "
                f"share but {outside} are outside of one; move them into it, or use Trace_InfoMaxELBO"
            )

    def _check_guide_site(self, name: str, site: Site) -> None:
        ours = type(self).__name__
        if "weight" in site:
            raise NotImplementedError(
                f"{ours} cannot weigh the latent site {name!r} exactly; "
                f"use Trace_, TraceGraph_ or TraceMeanField_{ours.split('_')[-1]}"
            )

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._record(model_trace, guide_trace)
        unweighted = log_weight(model_trace, guide_trace, lambda site: unweighted_log_prob(site).detach())
        self._log_weights = [*self._log_weights, unweighted]
        self._scale = self._common_scale(model_trace, guide_trace)

    def _named_terms(self, values: dict[str, float], loss: float) -> Terms:
        # The bound is no sum of the two; one that was computed elsewhere is among the values
        if self._log_weights:
            values |= {name: float(bound) for name, bound in self._bound_terms().items()}
        return super()._named_terms(values, loss)

    def _bound_terms(self) -> dict[str, Tensor]:
        """The bound without weights, and what else there is to say of its particles."""
        return {"elbo": self._scale * self._bounds(self._unweighted()).sum()}

    def _unweighted(self) -> Tensor:
        """log w without weights and the common scale, (particles, *shared plates)."""
        return self._by_particle(self._log_weights) / self._scale


# ---- The bounds.


@final
class Renyi_InfoMaxELBO(InfoMaxWeighted, Renyi_WeightedELBO):
    r"""The InfoMax weight within a variational Rényi bound (Li and Turner, 2016; Burda et al., 2016, for α =
    0).

    .. math:: -\frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k
        \Big[ \frac{p(x \mid z_k)^{1 + \lambda} p(z_k)}{q(z_k \mid x)} \Big]^{1 - \alpha}

    in each cell of the plates that all sites share, whose scale stands in front of it. The ``elbo`` of its
    terms is the bound without weights.

    Args:
        lam: a number or tensor > -1, a schedule, or a mapping from observed sites of the model to these.
        **kwargs: those of :class:`pyro.infer.RenyiELBO`: ``alpha``, ``num_particles``, …

    Raises:
        ValueError: if a weight is not above -1 or not finite, or names no site of the model. In a step with
            gradients, if reparameterised draws are impossible under the model, whose gradient would lack the
            part by which parameters move them over the edge; for α > 1, if any are, since the bound is -inf.
        NotImplementedError: where a mapping names a latent site, a site asks for enumeration, a site of the
            guide is outside of the plates that the model's sites share, latents have different scales, or a
            plate subsamples that some sites of the model are outside of.
    """


class _MultiSample(InfoMaxWeighted, Renyi_WeightedELBO):
    """λ within a bound that is one of log p(x) at λ = 0, which is therefore the default."""

    _fewest = 1

    def __init__(self, lam: WeightsLike = 0.0, *, num_particles: int = 2, **kwargs: object) -> None:
        if "alpha" in kwargs:
            raise TypeError(f"{type(self).__name__} has no alpha; use DReG_InfoMaxELBO or Renyi_InfoMaxELBO")
        whole_number("num_particles", num_particles, at_least=self._fewest)
        super().__init__(lam, num_particles=num_particles, **kwargs)


class _Reparameterised(WeightedELBO):
    """Refuses draws that only a score function could differentiate."""

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        for site in sample_sites(guide_trace):
            if not (site["is_observed"] or is_identically_zero(site["score_parts"].score_function)):
                raise NotImplementedError(
                    f"{type(self).__name__} needs reparameterised guide sites but {site['name']!r} "
                    f"({family_name(site['fn'])}) is not; use VIMCO_InfoMaxELBO"
                )


@final
class IWAE_InfoMaxELBO(_Reparameterised, _MultiSample):
    r"""The importance-weighted bound of K draws, and the InfoMax weight within it.

    .. math:: \mathbb{E}_{z_1 \dots z_K \sim q(z \mid x)} \log \frac{1}{K} \sum_k
        \frac{p(x \mid z_k)^{1 + \lambda}\, p(z_k)}{q(z_k \mid x)}

    At λ = 0, the default here, it lies between the ELBO (K = 1) and log p(x), which it tends to for large K;
    any λ makes it a bound of :math:`\log \int p(z)\, p(x \mid z)^{1 + \lambda} dz`. It is Rényi's bound at α
    = 0. In terms of the account its gap is no longer the KL divergence of q(z|x) from p(z|x), so that
    distortion and rate do not add up to it: the better K makes the bound, the less the guide is asked to be
    the posterior. The gradient of the guide has a signal that shrinks faster than its noise (Rainforth et
    al., 2018, Tighter variational bounds are not necessarily better); :class:`DReG_InfoMaxELBO` has the cure.

    After an evaluation the ``elbo`` of its terms is the bound itself, without weights, never
    :math:`\sum_k \tilde w_k \log w_k`, which lies above log p(x) where draws disagree.

    A weight β on the rate is refused: draws weigh :math:`p(x \mid z)\,(p(z) / q(z \mid x))^\beta` then, whose
    mean under q is no integral over z of anything but q itself, so that nothing is bounded.

    Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.

    Args:
        lam: a number or tensor > -1, a schedule, or a mapping from observed sites of the model to these.
        num_particles: K.
        **kwargs: ``vectorize_particles``, ``max_plate_nesting``, as in :class:`pyro.infer.RenyiELBO`.

    Raises:
        ValueError: if a weight is not above -1 or not finite, or names no site of the model, and where draws
            are impossible under the model, in a step with gradients.
        NotImplementedError: where a draw is not reparameterised, and for what
            :class:`~pyro_infomax.infer.Renyi_InfoMaxELBO` refuses.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = IWAE_InfoMaxELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> abs(loss + elbo.terms.elbo) < 1e-9
        True
    """


@final
class VIMCO_InfoMaxELBO(_MultiSample):
    r"""The importance-weighted bound where draws are not reparameterised, such as discrete ones.

    .. math:: \sum_k \tilde w_k \nabla \log w_k
        + \sum_k \big[ \hat L - \hat L_{-k} \big] \nabla \log q(z_k \mid x) , \qquad
        \tilde w_k = w_k \Big/ \sum_j w_j

    is its gradient, with :math:`\hat L` the log of the mean weight and :math:`\hat L_{-k}` the same with the
    geometric mean of the other weights in place of the k-th: unbiased for the bound of K draws. Sites that
    are reparameterised keep that gradient. Bound, terms, weights and refusals are those of
    :class:`IWAE_InfoMaxELBO`.

    Mnih and Rezende, 2016, Variational inference for Monte Carlo objectives.

    Args:
        lam: as in :class:`IWAE_InfoMaxELBO`.
        num_particles: K, at least 2.
        **kwargs: as there.

    Raises:
        ValueError: for one particle, which has no others, and where reparameterised draws are impossible
            under the model, in a step with gradients.
        NotImplementedError: where a site asks for enumeration, is reparameterised in part, or for what
            :class:`~pyro_infomax.infer.Renyi_InfoMaxELBO` refuses.

    Example:
        >>> from pyro_infomax.oracles import DiscreteVAE
        >>> pair = DiscreteVAE([0.5, 0.5], [[0.8, 0.2], [0.3, 0.7]], [[0.6, 0.4], [0.4, 0.6]])
        >>> elbo = VIMCO_InfoMaxELBO(num_particles=4)
        >>> elbo.loss(pair.model, pair.guide, torch.tensor([0, 1])) > 0
        True
    """

    _fewest = 2


class _Pathwise(_Reparameterised, Renyi_WeightedELBO):
    """Gradients of a guide through its draws alone, where the score of its density has the mean 0."""

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        check_scores(self, guide_trace)
        check_paths(self, guide_trace)

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        with cut_draws(self, guide, to_differentiate=torch.is_grad_enabled()):
            return super()._get_trace(model, guide, args, kwargs)

    # The score counts w̃ per draw, whose expectation is that of (1 − α)(w̃ − w̃²) on the path to the draw, as
    # long as no parameter moves an edge of the support
    def _surrogate_bound(self, weights: Tensor, traces: Traces) -> Tensor:
        traces = list(traces)
        shares = self._slopes(weights.detach())
        at_draws = self._by_particle([_at_draws(*pair) / self._scale for pair in traces], like=weights)
        on_path = self.alpha * shares + (1.0 - self.alpha) * shares**2
        return times(shares, at_draws).sum() + along_draws(times(on_path, weights).sum(), traces)


def _at_draws(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """log p(x, z) less what the guide has beside densities of draws, which is no score."""
    joint = summed_within_particles(model_trace, model_trace)
    if all("drawn" in site for site in scored_sites(guide_trace)):
        return joint
    return joint - summed_within_particles(
        guide_trace, model_trace, lambda site: 0.0 if "drawn" in site else site["log_prob"]
    )


@final
class DReG_InfoMaxELBO(_Pathwise, InfoMaxWeighted):
    r"""The importance-weighted bound with the doubly reparameterised gradient.

    .. math:: \nabla_\theta = \sum_k \tilde w_k \nabla_\theta \log p(x, z_k) , \qquad
        \nabla_\phi = \sum_k \tilde w_k^2 \, \frac{\partial \log w_k}{\partial z_k} \nabla_\phi z_k , \qquad
        \tilde w_k = w_k \Big/ \sum_j w_j

    Value, terms and weights are those of :class:`IWAE_InfoMaxELBO`, and so is the expectation of the
    gradient, as long as no parameter of the guide moves an edge of its support. It has less variance: the
    score of q(z|x) is replaced by an equal expectation over the path to the draws, so that at the true
    posterior the gradient of the guide is 0 at every draw, and its signal does not vanish beside its noise
    as K grows. With ``alpha`` it is that of Rényi's bound, with :math:`\alpha \tilde w_k + (1 - \alpha)
    \tilde w_k^2` in place of :math:`\tilde w_k^2`.

    Parameters that guide and model share have both gradients. Guides may have several sites that depend on
    each other. Factors and point masses of a guide, and draws under a mask, whose density is not in the
    weight, keep the plain reparameterised gradient, which is unbiased too. A step costs a second backward
    pass through the decoder. The density of a guide is evaluated at the bare draws, so that a flow has to
    have an inverse.

    Tucker, Lawson, Gu and Maddison, 2019, Doubly reparameterized gradient estimators for Monte Carlo
    objectives. Geffner and Domke, 2021, On the difficulty of unbiased alpha divergence minimization.

    Args:
        lam: as in :class:`IWAE_InfoMaxELBO`; 0 by default.
        **kwargs: those of :class:`pyro.infer.RenyiELBO`: ``num_particles``, ``alpha``, …

    Raises:
        ValueError: if a weight is not above -1 or not finite, or names no site of the model.
        NotImplementedError: where a draw is not reparameterised, is one of Pyro's straight-through ones or
            has a support that parameters move, for a guide that is itself a messenger, for a flow that is
            random (dropout in training mode), and for what :class:`~pyro_infomax.infer.Renyi_InfoMaxELBO`
            refuses.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = DReG_InfoMaxELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
        >>> x = pair.sample(10)
        >>> loss = elbo.loss_and_grads(pair.model, pair.guide, x)
        >>> abs(loss + elbo.terms.elbo) < 1e-9
        True
    """

    def __init__(self, lam: WeightsLike = 0.0, **kwargs: object) -> None:
        super().__init__(lam, **kwargs)


class _StickingTheLanding(_Pathwise):
    """The ELBO of one draw, on which weights of latent sites are exact too."""

    def __init__(self, *weight: Any, num_particles: int = 1, **kwargs: Any) -> None:
        if num_particles != 1:
            raise NotImplementedError(
                f"{type(self).__name__} is for one particle but got {num_particles}: dropping the score "
                "beside weights that are normalised over draws is biased; use DReG_InfoMaxELBO"
            )
        if "alpha" in kwargs:
            raise TypeError(f"{type(self).__name__} has no alpha, since all bounds of one draw are the ELBO")
        super().__init__(*weight, num_particles=1, **kwargs)

    # There is no mean of weights that a weight of a latent site could change
    def _check_guide_site(self, name: str, site: Site) -> None:
        pass


@final
class STL_InfoMaxELBO(_StickingTheLanding, InfoMaxWeighted):
    r"""The InfoMax objective of one draw, whose gradient of the guide goes through the draw alone.

    .. math:: (1 + \lambda) D + R , \qquad \nabla_\phi = -\frac{\partial}{\partial z}
        \big[ (1 + \lambda) \log p(x \mid z) + \log p(z) - \log q(z \mid x) \big] \nabla_\phi z

    Value, terms and expected gradient are those of :class:`~pyro_infomax.infer.Trace_InfoMaxELBO`; at the
    true posterior (of λ = 0, the default here) the gradient of the guide is 0 at every draw, where the ELBO's
    is 0 on average alone. Far from the posterior, :class:`~pyro_infomax.infer.TraceMeanField_InfoMaxELBO` may
    have less variance, by its closed form of the rate. Which guides it takes is said in
    :class:`DReG_InfoMaxELBO`, which is the same for several draws.

    Roeder, Wu and Duvenaud, 2017, Sticking the landing: simple, lower-variance gradient estimators for
    variational inference.

    Args:
        lam: a number or tensor > -1, a schedule, or a mapping from sites of the model to these.
        **kwargs: ``max_plate_nesting``, as in :class:`pyro.infer.RenyiELBO`.

    Raises:
        NotImplementedError: for several particles, where a draw is not reparameterised or has a support that
            parameters move, for a guide that is itself a messenger, and for a flow that is random.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> exact = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> x = exact.sample(10)
        >>> losses = [STL_InfoMaxELBO().loss(exact.model, exact.guide, x) for _ in range(2)]
        >>> abs(losses[0] - losses[1]) < 1e-9
        True
    """

    def __init__(self, lam: WeightsLike = 0.0, **kwargs: Any) -> None:
        super().__init__(lam, **kwargs)


@final
class STL_BetaELBO(_StickingTheLanding, BetaWeighted):
    r"""The beta-VAE objective of one draw, whose gradient of the guide goes through the draw alone.

    .. math:: D + \beta R , \qquad \nabla_\phi = -\frac{\partial}{\partial z}
        \big[ \log p(x \mid z) + \beta \log p(z) - \beta \log q(z \mid x) \big] \nabla_\phi z

    What is said of :class:`STL_InfoMaxELBO` holds, with the gradient 0 where the guide is
    :math:`q \propto p(z)\, p(x \mid z)^{1 / \beta}`.

    Args:
        beta: a number or tensor >= 0, a schedule, or a mapping from sites of the model to these; 1 by
            default.
        **kwargs: as in :class:`STL_InfoMaxELBO`.

    Raises:
        NotImplementedError: as there.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = STL_BetaELBO(4.0)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> abs(loss - (elbo.terms.distortion + 4 * elbo.terms.rate)) < 1e-6
        True
    """

    def __init__(self, beta: WeightsLike = 1.0, **kwargs: Any) -> None:
        super().__init__(beta, **kwargs)


# ---- The thermodynamic bound.

_BETAS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0)


@final
class TVO_InfoMaxELBO(_MultiSample):
    r"""The thermodynamic bound: a left Riemann sum of the integral that log p(x) is.

    .. math:: \log p(x) = \int_0^1 \mathbb{E}_{\pi_\beta} \log \frac{p(x, z)}{q(z \mid x)} \, d\beta
        \;\ge\; \sum_j (\beta_{j+1} - \beta_j) \, \mathbb{E}_{\pi_{\beta_j}} \log w , \qquad
        \pi_\beta \propto q(z \mid x)^{1 - \beta} p(x, z)^\beta

    The integrand rises from the ELBO at β = 0, so that the left sum is a lower bound, the right one an upper
    bound; with the two points 0 and 1 the left one is the ELBO. These β are points of a path, not weights of
    the rate. The expectations are those of K draws of q, reweighted by :math:`w^\beta`. At any draws the sum
    on the left is at most, that on the right at least the importance-weighted bound of the same draws: **the
    left one stays a lower bound on log p(x) with few draws, the right one needs many to be an upper one.**
    They are the terms ``elbo`` and ``right_sum``.

    Draws need no reparameterisation, and none is used. The gradient is

    .. math:: \sum_k \frac{\partial \hat L}{\partial \log w_k} \nabla \log w_k
        + \sum_k \big[ \hat L - \hat L_{-k} \big] \nabla \log q(z_k \mid x)

    with :math:`\hat L` the sum on the left and :math:`\hat L_{-k}` that of the other draws: unbiased for the
    bound of K draws. For the model it is the covariance estimator of Masrani et al., for the guide that
    estimator is its limit of many draws, and at few it is biased (by half, for the first point of two draws).

    Masrani, Le and Wood, 2019, The thermodynamic variational objective.

    Args:
        lam: the InfoMax weight within the bound, as in :class:`IWAE_InfoMaxELBO`; 0 by default.
        betas: the points of the path, rising from 0 to 1.
        num_particles: K, at least 2.
        **kwargs: as in :class:`IWAE_InfoMaxELBO`.

    Raises:
        ValueError: for one particle, if ``betas`` do not rise from 0 to 1, and if a draw is impossible under
            the model in a step with gradients, since the bound is -inf then.
        NotImplementedError: for a guide with point masses, factors or auxiliary sites, which has no density
            of the latents, for one whose support parameters move, that is itself a messenger or a random
            flow, and for what
            :class:`~pyro_infomax.infer.Renyi_InfoMaxELBO` refuses.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.4]], Delta=[0.6])
        >>> elbo = TVO_InfoMaxELBO(num_particles=50, vectorize_particles=True, max_plate_nesting=1)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> -elbo.terms.distortion - elbo.terms.rate < elbo.terms.elbo < elbo.terms.right_sum
        True
    """

    _fewest = 2
    relaxes = True  # no gradient goes through a draw, be it relaxed

    def __init__(
        self,
        lam: WeightsLike = 0.0,
        *,
        betas: Sequence[float] = _BETAS,
        num_particles: int = 10,
        **kwargs: object,
    ) -> None:
        super().__init__(lam, num_particles=num_particles, **kwargs)
        self.betas = tuple(map(float, betas))
        rises = all(low < high for low, high in pairwise(self.betas))
        if len(self.betas) < 2 or not rises or (self.betas[0], self.betas[-1]) != (0.0, 1.0):
            raise ValueError(f"Expected betas that rise from 0 to 1 but got {betas}")

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        with cut_draws(self, guide):
            return super()._get_trace(model, guide, args, kwargs)

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        check_densities(self, model_trace, guide_trace)
        check_scores(self, guide_trace)

    def _bounds(self, log_weights: Tensor) -> Tensor:
        return self._sum(log_weights, self.betas[:-1])

    def _bound_terms(self) -> dict[str, Tensor]:
        right = self._scale * self._sum(self._unweighted(), self.betas[1:]).sum()
        return {**super()._bound_terms(), "right_sum": right}

    # ∂/∂log w of E log w is π + β times the covariance of log w and itself
    def _slopes(self, log_weights: Tensor) -> Tensor:
        slopes = torch.zeros_like(log_weights)
        for beta, width in zip(self.betas, self._widths, strict=False):
            shares = torch.softmax(_tempered(log_weights, beta), 0)
            mean = times(shares, log_weights).sum(0)
            slopes = slopes + width * (shares + beta * times(shares, log_weights - mean))
        return slopes

    def _gains(self, log_weights: Tensor) -> Tensor:
        return self._bounds(log_weights) - self._sum(log_weights, self.betas[:-1], others=True)

    # Any draw has a score, a reparameterised one too
    def _score(self, site: Site) -> Tensor | float:
        bare = without_masks(site["fn"])
        score: Tensor = site["unscaled_log_prob"] if bare is site["fn"] else bare.log_prob(site["value"])
        return score

    @property
    def _needs_all(self) -> bool:
        return True

    @property
    def _widths(self) -> tuple[float, ...]:
        return tuple(high - low for low, high in pairwise(self.betas))

    def _sum(self, log_weights: Tensor, betas: Sequence[float], *, others: bool = False) -> Tensor:
        """The sum of all draws, (*shared plates), or of all but each, (particles, *shared plates)."""
        of = log_sum_of_others if others else lambda values: values.logsumexp(0)
        # Downwards from the largest, so that the mean is one of positive numbers and has a logarithm
        largest = log_weights.amax(0)
        depths = (largest - log_weights).log()
        total = torch.zeros_like(largest)
        for beta, width in zip(betas, self._widths, strict=True):
            tempered = _tempered(log_weights, beta)
            mean_depth = (of(_dropped(tempered + depths)) - of(tempered)).exp()
            total = total + width * (largest - mean_depth)
        return torch.where(largest.isneginf(), largest, total)


def _tempered(log_weights: Tensor, beta: float) -> Tensor:
    """Of w^β, which is 1 at β = 0 whatever w is."""
    return beta * log_weights if beta else torch.zeros_like(log_weights)


def _dropped(logs: Tensor) -> Tensor:
    """0 · log 0 is 0."""
    return torch.where(logs.isnan(), -math.inf, logs)
