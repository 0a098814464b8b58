"""The one mixin by which a weight reaches any of Pyro's ELBOs."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import ELBO, ReweightedWakeSleep, Trace_MMD, TraceTMC_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.ops.provenance import detach_provenance

from pyro_infomax.infer.objective_weight import ObjectiveWeight, ResolvedWeights
from pyro_infomax.infer.roles import GuideRole, ModelRole
from pyro_infomax.infer.site_families import family_name, is_relaxed
from pyro_infomax.infer.tensor_loss import SurrogateLoss, particle_losses
from pyro_infomax.infer.terms import Terms
from pyro_infomax.poutine import SiteWeight, is_deterministic, plain_errors, unweighted_log_prob

__all__ = ["WeightedELBO", "unweighted_sum"]

Trace = Any
Program = Callable[..., Any]

_UNWEIGHABLE = (ReweightedWakeSleep, TraceTMC_ELBO, Trace_MMD)


class WeightedELBO(ELBO):
    """Weighs the sites of model and guide wherever a Pyro ELBO traces them, and records the unweighted terms.

    Every ELBO of Pyro obtains its traces from ``_get_trace``, so weighing there reaches them all. A subclass
    joins this mixin with an estimator and says where its terms are computed (:meth:`_record`); a weighting
    gives it :attr:`objective_weight`.
    """

    objective_weight: ObjectiveWeight
    enumerates = False
    relaxes = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, _UNWEIGHABLE):
            raise NotImplementedError(
                f"{cls.__name__} cannot be weighed exactly; use a Trace_, TraceMeanField_, TraceGraph_ or "
                "TraceEnum_ class"
            )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._step = 0
        self._loss: float | torch.Tensor | None = None
        self._subsampled: dict[int, int] = {}
        self._given_weights: Mapping[str, torch.Tensor] = {}
        self._sums: list[float | torch.Tensor] = [0.0, 0.0]
        self._summed = self.num_particles

    @property
    def terms(self) -> Terms | None:
        """The unweighted terms of the last evaluation, None before the first."""
        if self._loss is None:
            return None
        distortion, rate = (float(total) / self._summed for total in self._sums)
        return Terms(distortion, rate, self._elbo(distortion, rate), float(self._loss))

    @property
    def step(self) -> int:
        """The number of training steps taken, which is where its schedules stand."""
        return self._step

    @property
    def pending_steps(self) -> int:
        """The number of training steps until every schedule stands at its end value."""
        return max(0, self.objective_weight.duration - self._step)

    def stands_for(self, rows: int) -> int:
        """The number of data that the last loss is for, where it was given ``rows`` of them.

        They are those of the whole plate where the model says that its data are a subsample, as in
        ``pyro.plate("data", 1000, subsample_size=len(x))``, since Pyro scales their loss up.
        """
        return self._subsampled.get(rows, rows)

    def state_dict(self) -> dict[str, int]:
        """The state that training leaves in the objective."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Puts the objective back to a saved state.

        Raises:
            ValueError: if the state is not one of :meth:`state_dict`.
        """
        if set(state) != {"step"}:
            raise ValueError(f"Expected a state with the key 'step' but got {sorted(state)}")
        self._step = int(state["step"])

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The weighted loss; leaves schedules where they are."""
        return self._evaluate(super().loss, model, guide, args, kwargs)  # type: ignore[misc]

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The weighted loss, its gradients added to the parameters'; a training step to the schedules."""
        parent = super().loss_and_grads  # type: ignore[misc]
        loss: float = self._evaluate(parent, model, guide, args, kwargs)
        self._step += 1
        return loss

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The weighted loss as a tensor; a training step to the schedules if gradients are enabled.

        Raises:
            NotImplementedError: where Pyro's estimator has none.
        """
        parent = getattr(super(), "differentiable_loss", None)
        if parent is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no differentiable loss: use loss_and_grads (or SVI), or a Trace_ "
                "class"
            )
        loss: torch.Tensor = self._evaluate(parent, model, guide, args, kwargs)
        self._step += torch.is_grad_enabled()
        return loss

    def surrogate(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> SurrogateLoss:
        """The evaluation in tensors alone, which leaves schedules where they are.

        See :func:`~pyro_infomax.infer.surrogate_loss`.
        """
        self._loss = None
        self._reset()
        found = self._surrogate(model, guide, args, kwargs)
        self._loss = found.loss
        return found

    def variable_weights(self, *, numbers: bool = False) -> dict[str, torch.Tensor]:
        """The present values of the weights that may change from step to step: schedules and tensors.

        Args:
            numbers: whether to take weights that are plain numbers too.
        """
        return self.objective_weight.variable(self._step, numbers=numbers)

    @contextmanager
    def given_weights(self, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Uses these values in place of those of :meth:`variable_weights`."""
        self._given_weights = weights
        try:
            yield
        finally:
            self._given_weights = {}

    def adopt(self, evaluation: SurrogateLoss, subsampled: Mapping[int, int]) -> None:
        """Takes an evaluation that was computed elsewhere as its own, and as a training step.

        Args:
            evaluation: what :meth:`surrogate` has returned there.
            subsampled: sizes of subsampled plates to what they stand for, see :attr:`subsampled`.
        """
        assert evaluation.distortion is not None
        assert evaluation.rate is not None
        self._reset()
        self._sums, self._summed = [evaluation.distortion, evaluation.rate], 1
        self._loss, self._subsampled = evaluation.loss, dict(subsampled)
        self._step += 1

    @property
    def subsampled(self) -> Mapping[int, int]:
        """Sizes of the subsampled plates of the last evaluation to what they are subsamples of."""
        return self._subsampled

    def _surrogate(self, model: Program, guide: Program, args: Any, kwargs: Any) -> SurrogateLoss:
        loss, surrogate = particle_losses(self, model, guide, args, kwargs)
        distortion, rate = (torch.as_tensor(total) / self._summed for total in self._sums)
        return SurrogateLoss(loss, surrogate, distortion, rate)

    def _evaluate(self, parent: Program, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        self._loss = None
        self._reset()
        loss = parent(model, guide, *args, **kwargs)
        self._loss = loss.detach() if isinstance(loss, torch.Tensor) else loss
        return loss

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        check = is_validation_enabled()
        weights = self.objective_weight.at(self._step, check_tensors=check, given=self._given_weights)
        guide_role = GuideRole(weights, guide, refuse_enumeration=self._refuse_enumeration())
        model_role = ModelRole(weights, guide_role)
        programs = model_role(model), guide_role(guide)
        with plain_errors():
            traces = super()._get_trace(*programs, args, kwargs)  # type: ignore[safe-super]
        self._check(weights, *traces)
        self._subsampled = _subsampled_plates(traces[0])
        self._record(*traces)
        return traces

    def _refuse_enumeration(self) -> str | None:
        if self.enumerates:
            return None
        name = type(self).__name__
        return (
            f"{name} cannot enumerate but the site {{site!r}} asks for it; use a TraceEnum objective, "
            "or drop its infer['enumerate'] (enumerate=False of AmortizedDiscrete)"
        )

    def _check(self, weights: ResolvedWeights, model_trace: Trace, guide_trace: Trace) -> None:
        for name in weights.by_name:
            self._check_known(name, model_trace)
            if not is_deterministic(model_trace.nodes[name]):
                self._check_distinct(weights.ambiguous(name, [*model_trace.nodes, *guide_trace.nodes]), name)
        if not self.relaxes:
            self._refuse_relaxed(guide_trace)

    def _check_known(self, name: str, model_trace: Trace) -> None:
        sites = _weighable(model_trace)
        if name not in sites:
            raise ValueError(
                f"Expected {self.objective_weight.name} to name sites of the model, {sites}, but got {name!r}"
            )

    def _check_distinct(self, ambiguous: list[str], name: str) -> None:
        if ambiguous:
            raise ValueError(
                f"Expected {self.objective_weight.name} to name {ambiguous[0]!r} too, since it names "
                f"{name!r} and they look like parts of one site that obs_mask splits"
            )

    # A discrete prior's sampled log-probability passes no gradient on to the value that it scores.
    def _refuse_relaxed(self, guide_trace: Trace) -> None:
        ours = type(self).__name__
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and is_relaxed(site["fn"]):
                raise NotImplementedError(
                    f"{ours} samples the rate, whose gradient would lack the part through the relaxed site "
                    f"{name!r} ({family_name(site['fn'])}); use TraceMeanField_{ours.split('_')[-1]}, which "
                    "has it in closed form, or a guide without the relaxation"
                )

    def _reset(self) -> None:
        """Forgets the last evaluation."""
        self._sums = [0.0, 0.0]
        self._summed = self.num_particles

    @abstractmethod
    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Adds the unweighted distortion and rate of one particle to ``_sums``."""

    def _elbo(self, distortion: float, rate: float) -> float:
        return -distortion - rate

    def _record_sampled(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Records the log-probabilities of the sampled values."""
        for site in model_trace.nodes.values():
            if site["type"] == "sample":
                self._sums[not site["is_observed"]] -= unweighted_sum(site)
        for site in guide_trace.nodes.values():
            if site["type"] == "sample":
                self._sums[1] += unweighted_sum(site)


def _weighable(model_trace: Trace) -> list[str]:
    """The sites with a density; a deterministic one has it only where ``obs_mask`` made it of two sites."""
    return [
        name
        for name, site in model_trace.nodes.items()
        if site["type"] == "sample"
        and (not is_deterministic(site) or f"{name}_observed" in model_trace.nodes)
    ]


def _subsampled_plates(model_trace: Trace) -> dict[int, int]:
    """Sizes of the plates around observed sites to what they are subsamples of."""
    return {
        frame.size: frame.full_size
        for site in model_trace.nodes.values()
        if site["type"] == "sample" and site["is_observed"]
        for frame in site["cond_indep_stack"]
        if frame.vectorized and frame.full_size and frame.full_size > frame.size
    }


def unweighted_sum(site: Any) -> torch.Tensor:
    """The sum of a site's log-probabilities without weights, by a division wherever that is exact."""
    record: SiteWeight | None = site.get("weight")
    if record is None:
        total, factor = site["log_prob_sum"], 1.0
    elif not isinstance(record.weight, torch.Tensor) and record.weight != 0:
        total, factor = site["log_prob_sum"], record.weight
    else:
        total, factor = unweighted_log_prob(site).sum(), 1.0
    return torch.as_tensor(detach_provenance(total)).detach() / factor
