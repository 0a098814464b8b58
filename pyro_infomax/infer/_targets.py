r"""Targets in place of weights: a term is held at a value, or costs nothing up to one.

A weight says what a nat costs, a target how many there are to be. Where a training has come to rest, the two
are one: the β that holds the rate at R is −dD/dR there.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Final, Literal, final

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_infomax._checks import one_of, real_number
from pyro_infomax._recording import holds, is_recording
from pyro_infomax._types import Args, Frame, Kwargs, Program, Site, State
from pyro_infomax.distributions import closed_divergence, factors_of, family_name, is_point_mass
from pyro_infomax.infer._decomposed import SizedELBO
from pyro_infomax.infer._elbo import SurrogateLoss, has_sisters
from pyro_infomax.infer._estimators import counts_alike, refuse_weighted_data
from pyro_infomax.infer._latents import LocalLatents, data_plate
from pyro_infomax.infer._weights import ResolvedWeights, SiteWeights, TermWeight, WeightLike
from pyro_infomax.poutine import (
    Weight,
    frames_of,
    is_deterministic,
    sample_sites,
    unweighted_scale_and_mask,
)
from pyro_infomax.programs import is_masked

# ---- What they share: the data plate, and targets that may be schedules.


class TargetELBO(SizedELBO):
    """The base of objectives with a target: which plate holds the data, and targets among the weights.

    Args:
        targets: by name, a number, tensor or schedule each.
        weights, data_size, **kwargs: those of :class:`SizedELBO`.
    """

    state_of_evaluation: ClassVar = SizedELBO.state_of_evaluation | {"_plate"}
    _plate: Frame | None = None

    def __init__(
        self,
        *,
        targets: Mapping[str, TermWeight],
        weights: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for each in targets.values():
            if isinstance(each.value, Mapping):
                raise ValueError(
                    f"Expected one {each.label} for all sites but got one by site, {each.value}: pass a "
                    "number, a tensor or a schedule."
                )
        self._targets = frozenset(targets)
        super().__init__(weights={**(weights or {}), **targets}, **kwargs)

    def _target(self, name: str) -> Weight:
        return self._resolved_weights().terms[name].everywhere

    def _check_returned(self, weights: ResolvedWeights, costs: set[str]) -> None:
        super()._check_returned(weights, costs | self._targets)

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        traces = super()._get_trace(model, guide, args, kwargs)
        self._plate = data_plate(traces[0])
        return traces

    @property
    def _number_of_data(self) -> int:
        """Of how many data the loss is."""
        assert self._plate is not None
        return self._plate.full_size or self._plate.size

    def _data_axis(self, site: Site) -> int | None:
        """The axis of a site's batch shape that is over the data; None for a global site."""
        assert self._plate is not None
        inside = any(frame.name == self._plate.name for frame in frames_of(site))
        return len(site["fn"].batch_shape) + self._plate.dim if inside else None

    def _local_rate(self, model_trace: Trace, guide_trace: Trace, names: tuple[str, ...]) -> Tensor:
        """The rate of each datum, of these sites of the data plate together, (batch,)."""
        total = torch.zeros(())
        for name in names:
            site: Site = guide_trace.nodes[name]
            total = total + self._by_datum(site, super().latent_cost(model_trace.nodes[name], site)["rate"])
        return total

    def _by_datum(self, site: Site, nats: Tensor) -> Tensor:
        """What a site of the data plate has in its batch shape, summed for each datum, (batch,)."""
        axis = self._data_axis(site)
        assert axis is not None
        each = nats.expand(site["fn"].batch_shape).movedim(axis, 0)
        return each.reshape(len(each), -1).sum(1)


def _guide_alone(model_trace: Trace, guide_trace: Trace) -> list[Site]:
    """The sites with a density that only the guide has, auxiliary ones and factors."""
    sites = sample_sites(guide_trace)
    return [s for s in sites if s["name"] not in model_trace.nodes and not is_deterministic(s)]


# ---- A capacity that the rate is drawn to.


@final
class CapacityELBO(TargetELBO):
    r"""The rate is drawn to a capacity, which mostly grows in the course of a training.

    .. math:: D + \gamma \, | R - C |

    R is the mean over the minibatch of the rate of all sites in the data plate, what only the guide samples
    among them. While R is below C, more rate is rewarded with γ a nat, and above it is charged with γ. So
    R = C where γ exceeds the slope −dD/dR at C; a smaller γ leaves R where the slope is γ. Sites outside the
    data plate are no part of R: they count as in the ELBO.

    ``terms`` holds ``capacity_gap``, how far R is from C, beside ``rate``.

    Reference: Burgess, Higgins, Pal, Matthey, Watters, Desjardins and Lerchner (2018), Understanding
    disentangling in β-VAE.

    Args:
        capacity: C in nats per datum, >= 0: a number, a tensor or a schedule.
        gamma: γ, >= 0, a number, a tensor or a schedule.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, but ``vectorize_particles``.

    Raises:
        ValueError: if a number is negative or not finite, or no latent site is in the data plate.
        NotImplementedError: for masked latent sites, guide sites that are not reparameterised, and relaxed
            ones.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = CapacityELBO(0.5, gamma=10.0)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(100))
        >>> terms = elbo.terms
        >>> abs(loss - (terms.distortion + 10 * abs(terms.rate - 100 * 0.5))) < 1e-6
        True
    """

    joint_cost_replaces = True

    def __init__(self, capacity: WeightLike, *, gamma: WeightLike = 100.0, **kwargs: object) -> None:
        super().__init__(
            targets={"capacity": TermWeight("capacity", capacity)},
            weights={"capacity_gap": TermWeight("gamma", gamma)},
            **kwargs,
        )

    def joint_cost(self, model_trace: Trace, guide_trace: Trace) -> Mapping[str, Tensor]:
        names = LocalLatents(model_trace, guide_trace).names
        rate = self._local_rate(model_trace, guide_trace, names)
        for site in _guide_alone(model_trace, guide_trace):
            if self._data_axis(site) is not None:
                self._refuse_other_count(site, guide_trace.nodes[names[0]])
                rate = rate + self._by_datum(site, site["fn"].log_prob(site["value"]))
        return {"capacity_gap": (rate.mean() - self._target("capacity")).abs()}

    # It is a part of R already
    def _auxiliary(self, site: Site, weight: Weight) -> Tensor:
        found = super()._auxiliary(site, weight)
        return found if self._data_axis(site) is None else torch.zeros_like(found)

    def _refuse_other_count(self, site: Site, latent: Site) -> None:
        if not counts_alike(site, latent):
            raise NotImplementedError(
                f"CapacityELBO adds what the guide draws as {site['name']!r} to the rate of "
                f"{latent['name']!r} but they differ in scale or mask: put poutine.scale around all, and "
                "leave masks out"
            )


# ---- Nats that cost nothing.


@final
class FreeBitsELBO(TargetELBO):
    r"""The first nats of each latent dimension cost nothing.

    .. math:: D + \sum_j \max\Bigl(\kappa, \frac1B \sum_i \mathrm{KL}[q(z_j \mid x_i) \| p(z_j)]\Bigr)

    The mean is over the minibatch, so that a dimension may tell more of one datum than of another. Below κ a
    dimension has no gradient but that of the distortion, above it that of the ELBO. A floor keeps dimensions
    from collapsing early; with a large κ it is another objective than the ELBO.

    ``terms`` holds the sum as ``floored_rate`` beside the ``rate`` itself.

    Reference: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), Improving variational
    inference with inverse autoregressive flow.

    Args:
        free: κ in nats, >= 0: a number, a tensor or a schedule.
        by: what has so many free nats each, a ``"dimension"`` of a site or a whole ``"site"``. In further
            plates within the data plate, each cell has them.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, but ``vectorize_particles``.

    Raises:
        ValueError: if κ is negative or not finite.
        NotImplementedError: for latent sites that are masked or scaled datum by datum, guide sites that are
            not reparameterised, and relaxed ones; for point masses of what the guide draws beside the latent
            sites, as in Pyro's AutoNormal; by dimension for distributions that are no products of univariate
            ones.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = FreeBitsELBO(5.0)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(100))
        >>> abs(loss - (elbo.terms.distortion + 100 * 5.0)) < 1e-6  # its one dimension tells less
        True
    """

    def __init__(
        self, free: WeightLike, *, by: Literal["dimension", "site"] = "dimension", **kwargs: object
    ) -> None:
        one_of("by", by, ("dimension", "site"))
        super().__init__(targets={"free": TermWeight("free", free)}, **kwargs)  # type: ignore[arg-type]
        self.by = by

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        if beside := [site["name"] for site in _guide_alone(model_trace, guide_trace)]:
            latent = [site for site in sample_sites(guide_trace) if site["name"] in model_trace.nodes]
            if masses := [site["name"] for site in latent if is_point_mass(site["fn"])]:
                raise NotImplementedError(
                    f"the latent site {masses[0]!r} is a point mass in the guide, which draws {beside} "
                    "beside it, so that the rate is none of the site: draw it from its own density, as "
                    "AmortizedNormal does, or use CapacityELBO or BetaELBO"
                )

    def latent_cost(self, model_site: Site, guide_site: Site) -> Mapping[str, Tensor]:
        if is_masked(guide_site) or is_masked(model_site):
            raise NotImplementedError(
                f"the latent site {guide_site['name']!r} is masked, so that its mean over the minibatch is "
                "not one over data: leave the mask out, or use BetaELBO"
            )
        refuse_weighted_data(guide_site)
        shape = guide_site["fn"].batch_shape
        rate = self._each_rate(model_site, guide_site)  # (*batch, *event), or (*batch,) by site
        axis = self._data_axis(guide_site)
        mean = rate if axis is None else rate.mean(axis, keepdim=True)
        floored = torch.maximum(mean, torch.as_tensor(self._target("free"), dtype=mean.dtype))
        summed = floored.reshape(*floored.shape[: len(shape)], -1).sum(-1)
        return {"floored_rate": summed.expand(shape)}

    def _each_rate(self, model_site: Site, guide_site: Site) -> Tensor:
        if self.by == "site":
            rate = super().latent_cost(model_site, guide_site)["rate"]
            return rate.expand(guide_site["fn"].batch_shape).unsqueeze(-1)
        posterior, prior = (factors_of(site["fn"]) for site in (guide_site, model_site))
        if posterior is None or prior is None:
            names = " and ".join(family_name(site["fn"]) for site in (guide_site, model_site))
            raise NotImplementedError(
                f"the site {guide_site['name']!r} ({names}) has no rate of each dimension, as it is no "
                "product of univariate distributions in both programs: use FreeBitsELBO(..., by='site')"
            )
        # Where the whole site has no closed form, neither has a part: what p(z) depends on may come later
        closed = guide_site.get("divergence") is not None
        divergence = closed_divergence(posterior, prior) if closed else None
        if divergence is None:
            z = guide_site["value"]
            divergence = posterior.log_prob(z) - prior.log_prob(z)
        return divergence


# ---- A multiplier that holds a term at its target.

_RANGE: Final = math.log(1e6)  # of log β, either way


@final
class ConstrainedELBO(TargetELBO):
    r"""The ELBO with the weight of the rate that holds rate, distortion or information at a target.

    .. math:: D + \beta R, \qquad \log \beta \leftarrow \log \beta \pm \eta \,\frac{T - T^*}{1 + |T^*|}

    T is the term that was asked for, in nats per datum, of which :math:`T^*` are wanted. After each training
    step the logarithm of β rises where there is too much rate or information, or too little distortion, and
    falls otherwise. This is dual ascent on the Lagrangian of "the least distortion at the rate
    :math:`R^*`": where it comes to rest, β = −dD/dR, the weight with which :class:`TraceMeanField_BetaELBO`
    ends at the same point. ``elbo.multiplier`` is the present β, and the history has its mean over each epoch
    in the column ``multiplier``; in ``terms`` it is summed over the data as every term is.

    Rate and distortion of a minibatch are unbiased. For the information, R − KL[q(z) ‖ p(z)], the marginal KL
    comes from the minibatches of an epoch: the draws of the first are kept, and the densities of all
    posteriors at them summed up until N data have passed. That is the exact mixture but for what parameters
    have moved meanwhile, where epochs are shuffled; a smoothed mean over epochs goes into T.

    References:
        Rezende and Viola (2018), Taming VAEs (distortion).
        Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), Fixing a broken ELBO (rate).

    Args:
        rate, distortion, mutual_information: the target in nats per datum, of exactly one of them.
        dual_lr: η, how far the logarithm of β moves in a step, >= 0. With 0 it stays.
        multiplier: the β to begin with, > 0.
        data_size: N, for the information, where the data plate does not say it.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, but ``vectorize_particles``.

    Raises:
        ValueError: for no target or several, or one that is not finite, or not positive where it is the rate
            or the information.
        NotImplementedError: where several processes train, and for what :class:`TraceMeanField_BetaELBO`, and
            for the information :class:`DecomposedELBO`, refuse.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])  # a rate of 0.35 nats
        >>> elbo = ConstrainedELBO(rate=0.1, dual_lr=0.1)
        >>> loss = elbo.loss_and_grads(pair.model, pair.guide, pair.sample(100))
        >>> elbo.multiplier > 1  # there is more than was asked for
        True
    """

    state_of_evaluation: ClassVar = TargetELBO.state_of_evaluation | {
        "_log_multiplier",
        "_mixture",
        "_weight_of_data",
        "_trains",
    }
    _weight_of_data: Tensor | float = 1.0  # how often the held term counts data, altogether
    _trains = False

    def __init__(
        self,
        *,
        rate: float | None = None,
        distortion: float | None = None,
        mutual_information: float | None = None,
        dual_lr: float = 0.03,
        multiplier: float = 1.0,
        data_size: int | None = None,
        **kwargs: object,
    ) -> None:
        given = {"rate": rate, "distortion": distortion, "mutual_information": mutual_information}
        targets = {name: each for name, each in given.items() if each is not None}
        if len(targets) != 1:
            raise ValueError(
                f"Expected a target for one of {', '.join(given)} but got {targets or 'none'}: there is one "
                "weight to hold it with."
            )
        ((self.held, value),) = targets.items()
        above = None if self.held == "distortion" else 0.0
        self.target = real_number(self.held, value, above=above)
        self.dual_lr = real_number("dual_lr", dual_lr, at_least=0.0)
        self._log_multiplier = torch.tensor(
            math.log(real_number("multiplier", multiplier, above=0.0)), dtype=torch.float64
        )
        self._mixture = _MixtureOfEpoch()
        # How often its tensors became others, which a recorded step has to notice
        self._replaced = 0
        # Only the information needs the latent sites as one vector
        self._has_joint_cost = self.held == "mutual_information"
        self._rate_by_sites = not self._has_joint_cost
        weights = {"mutual_information": 0.0} if self._has_joint_cost else {}
        super().__init__(targets={}, weights=weights, data_size=data_size, **kwargs)

    @property
    def multiplier(self) -> float:
        """The present β."""
        self._refuse_recording("multiplier")
        return float(self._log_multiplier.exp())

    def state_dict(self) -> State:
        """The state that training leaves in the objective: steps, multiplier, what the information is of."""
        return {
            **super().state_dict(),
            "log_multiplier": self._log_multiplier.clone(),
            "mixture": self._mixture.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Puts the objective back to a saved state.

        Raises:
            ValueError: if the state is not one of :meth:`state_dict`.
        """
        keys = {"step", "log_multiplier", "mixture"}
        if set(state) != keys:
            raise ValueError(f"Expected a state with the keys {sorted(keys)} but got {sorted(state)}")
        super().load_state_dict({"step": state["step"]})
        self._log_multiplier.copy_(state["log_multiplier"])
        self._replaced += not self._mixture.load_state_dict(state["mixture"])

    # ---- an evaluation with the present β, and the step of β after it

    def loss_and_grads(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """The weighted loss, its gradients added to the parameters'; a step of β and of the schedules."""
        with self._training():
            return super().loss_and_grads(model, guide, *args, **kwargs)

    def differentiable_loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> Tensor:
        """The weighted loss as a tensor; a step of β and of the schedules if gradients are enabled."""
        if not torch.is_grad_enabled():
            return super().differentiable_loss(model, guide, *args, **kwargs)
        with self._training():
            return super().differentiable_loss(model, guide, *args, **kwargs)

    def surrogate(self, model: Program, guide: Program, *args: object, **kwargs: object) -> SurrogateLoss:
        """The evaluation in tensors alone; what is recorded of it is a training step, and moves β."""
        if not is_recording():
            return super().surrogate(model, guide, *args, **kwargs)
        with self._training():
            return super().surrogate(model, guide, *args, **kwargs)

    @contextmanager
    def _training(self) -> Iterator[None]:
        """What is evaluated within is a training step, after which β and the mixture move."""
        self._trains = True
        try:
            yield
            self._ascend()
        finally:
            self._trains = False

    def joint_cost(self, model_trace: Trace, guide_trace: Trace) -> Mapping[str, Tensor]:
        latents = LocalLatents(model_trace, guide_trace)
        rate = self._local_rate(model_trace, guide_trace, latents.names).mean()
        self._replaced += self._mixture.move_to(latents.z.device)
        with torch.no_grad():
            marginal_kl = self._mixture.marginal_kl(latents, self.size_of(latents), trains=self._trains)
        return {"mutual_information": rate - marginal_kl}

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        if has_sisters():
            raise NotImplementedError(
                f"{type(self).__name__} trains in one process: those that see other shares of the data would "
                "come to other multipliers"
            )
        traces = super()._get_trace(model, guide, args, kwargs)
        self._add("multiplier", self._log_multiplier.exp() * self._number_of_data)
        self._weight_of_data = self._weight_of(traces[0] if self.held == "distortion" else traces[1])
        return traces

    # The held term is a sum with the scales of its sites, of which a datum has the mean
    def _weight_of(self, trace: Trace) -> Tensor:
        observed = self.held == "distortion"
        sites = [site for site in sample_sites(trace) if site["is_observed"] == observed]
        sites = [site for site in sites if not is_deterministic(site)]
        sites = [site for site in sites if self._data_axis(site) is not None] or sites
        for site in sites:
            refuse_weighted_data(site)
        # Plates scale up to all rows, of the data and of what each datum has, which is no other weight
        scales = [
            torch.as_tensor(unweighted_scale_and_mask(site)[0]).double().reshape(())
            / math.prod((frame.full_size or frame.size) / frame.size for frame in frames_of(site))
            for site in sites
        ]
        scales = scales or [torch.ones((), dtype=torch.float64)]
        sentence = (
            f"{type(self).__name__} holds the {self.held} of a datum, and needs the sites of the data plate "
            f"to count alike, {[site['name'] for site in sites]}: put one poutine.scale around both programs"
        )
        if not holds(torch.isclose(torch.stack(scales), scales[0]).all(), sentence):
            raise NotImplementedError(sentence)
        return self._number_of_data * scales[0].detach()

    def _resolved_weights(self) -> ResolvedWeights:
        found, beta = super()._resolved_weights(), self._log_multiplier.exp()
        if self._rate_by_sites:
            return found._replace(latent=beta)
        return found._replace(terms={**found.terms, "rate": SiteWeights(beta, {})})

    @torch.no_grad()
    def _ascend(self) -> None:
        """A step of β by what a step of the parameters was by."""
        value = self._mean_terms()[self.held].double() / self._weight_of_data
        excess = (value - self.target) / (1 + abs(self.target))
        excess = -excess if self.held == "distortion" else excess
        new = (self._log_multiplier + self.dual_lr * excess.to(self._log_multiplier.device)).clamp(
            -_RANGE, _RANGE
        )
        self._log_multiplier.copy_(torch.where(new.isfinite(), new, self._log_multiplier))
        self._mixture.go_on()


@final
class _MixtureOfEpoch:
    """The marginal KL of the aggregate posterior of N data, by minibatches one after the other.

    The draws of one minibatch are kept. Of those that follow, the densities of the posteriors at these draws
    are summed up until N data have passed. The draws of the minibatch after that are kept next, so that each
    mixture is of one epoch.
    """

    def __init__(self) -> None:
        # Draws (points, latent), log p(z) at them and the log-sum of the densities, (points,); of how many
        # data that is, and how many of the draws there are; N; the smoothed marginal KL in nats per datum,
        # and how many estimates went into it
        self._kept: dict[str, Tensor] = {}
        self._next: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Tensor]:
        """What is kept; nothing before the first minibatch."""
        return {name: each.clone() for name, each in self._kept.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> bool:
        """Puts it back to a saved state; whether that is in the same tensors."""
        shapes = {name: each.shape for name, each in self._kept.items()}
        if not state:
            for name in shapes.keys() & {"count", "number", "valid"}:
                self._kept[name].zero_()
            return True
        if shapes == {name: each.shape for name, each in state.items()}:
            for name, each in self._kept.items():
                each.copy_(state[name])
            return True
        self._kept = {name: each.clone() for name, each in state.items()}
        return False

    def move_to(self, device: torch.device) -> bool:
        """Follows the draws, as after a checkpoint that was read on the CPU; whether to other tensors."""
        moved = any(each.device != device for each in self._kept.values())
        self._kept = {name: each.to(device) for name, each in self._kept.items()}
        return moved

    def marginal_kl(self, latents: LocalLatents, data_size: int, *, trains: bool) -> Tensor:
        """KL[q(z) ‖ p(z)] as it is known with this minibatch; training steps go on from it."""
        self._next = {}
        rows, z = latents.batch_size, latents.z.detach()
        log_prior, scores = latents.prior.log_prob(z).double(), _scores(latents, z)
        # These are all data
        if rows >= data_size:
            return (scores.logsumexp(1) - math.log(rows) - log_prior).mean()
        guess = (_stratified(scores, data_size) - log_prior).mean()
        if trains:
            if not self._kept:
                self._begin(z)
            fresh = {"z": z, "log_prior": log_prior, "log_sum": scores.logsumexp(1)}
            self._next = self._after(latents, fresh, data_size)
        known = self._next or self._kept
        if not known:
            return guess
        is_known = (known["data_size"] == data_size) & (known["number"] > 0)
        return torch.where(is_known, known["marginal_kl"], guess)

    def _after(self, latents: LocalLatents, fresh: Mapping[str, Tensor], data_size: int) -> dict[str, Tensor]:
        """What is kept after this minibatch, of draws and densities of its own."""
        kept, rows = self._kept, latents.batch_size
        # Another number of data is another mixture
        goes_on = kept["data_size"] == data_size
        before, valid = torch.where(goes_on, kept["count"], 0.0), torch.where(goes_on, kept["valid"], 0.0)
        summing = (before < data_size) & (valid > 0)
        sums = torch.logaddexp(kept["log_sum"], _scores(latents, kept["z"]).logsumexp(1))
        log_sum = torch.where(summing, sums, kept["log_sum"])
        count = before + rows
        finished = summing & (count >= data_size)
        counts = torch.arange(len(log_sum), device=log_sum.device) < valid
        each = torch.where(counts, log_sum - count.log() - kept["log_prior"], 0.0)
        found = each.sum() / valid.clamp(min=1.0)
        number = torch.where(goes_on, kept["number"], 0.0) + finished
        smoothed = kept["marginal_kl"] + (found - kept["marginal_kl"]) / number.clamp(1.0, _SMOOTHED)
        # Not the minibatch that has finished the last mixture: of shuffled epochs it would put a part of one
        # into the next, where some data count twice and others not at all. A short one gives few draws: the
        # next one starts, unless all are short
        starts = (valid == 0) | (before >= data_size) & (rows >= valid) | (before >= 2 * data_size)
        old = {"z": kept["z"], "log_prior": kept["log_prior"], "log_sum": log_sum}
        points = min(rows, len(log_sum))
        following = {
            name: torch.cat([torch.where(starts, each[:points], old[name][:points]), old[name][points:]])
            for name, each in fresh.items()
        }
        return following | {
            "count": torch.where(starts, float(rows), count),
            "valid": torch.where(starts, float(points), valid),
            "data_size": torch.full_like(count, data_size),
            "marginal_kl": torch.where(finished, smoothed, kept["marginal_kl"]),
            "number": number,
        }

    def _begin(self, z: Tensor) -> None:
        zeros = partial(torch.zeros, dtype=torch.float64, device=z.device)
        points = min(max(len(z), _FEWEST_POINTS), _MOST_POINTS)
        self._kept = {"z": zeros(points, z.shape[1]), "log_prior": zeros(points), "log_sum": zeros(points)}
        self._kept |= {name: zeros(()) for name in ("count", "valid", "data_size", "marginal_kl", "number")}

    def go_on(self) -> None:
        """Keeps what the last minibatch has led to."""
        for name, each in self._next.items():
            self._kept[name].copy_(each)
        self._next = {}


_SMOOTHED: Final = 3.0  # epochs that the marginal KL is a mean over, more or less
_FEWEST_POINTS, _MOST_POINTS = 64, 512


def _scores(latents: LocalLatents, points: Tensor) -> Tensor:
    """The log-densities of a minibatch's posteriors at some points, (points, batch)."""
    return latents.posterior.log_prob(points[:, None]).double()


def _stratified(scores: Tensor, data_size: int) -> Tensor:
    """The mixture of all data at the minibatch's own draws, from that of the minibatch, (batch,)."""
    if len(scores) == 1:
        return scores[0]
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    others = scores.masked_fill(diagonal, -math.inf).logsumexp(1) - math.log(len(scores) - 1)
    share = 1 / data_size
    return torch.logaddexp(scores.diagonal() + math.log(share), others + math.log1p(-share))
