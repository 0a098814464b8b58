"""The one mixin by which a weight reaches any of Pyro's ELBOs."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, final

import torch
from pyro.infer import ELBO, ReweightedWakeSleep, Trace_ELBO, Trace_MMD, TraceGraph_ELBO, TraceTMC_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.ops.provenance import detach_provenance
from pyro.util import warn_if_nan
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_infomax.distributions import family_name, is_relaxed
from pyro_infomax.infer._recording import is_literal, literal_number
from pyro_infomax.infer._weights import GuideRole, ModelRole, ObjectiveWeight, ResolvedWeights
from pyro_infomax.poutine import SiteWeight, is_deterministic, plain_errors, unweighted_log_prob

# ---- What an objective's last evaluation was made of.


@final
@dataclass(frozen=True)
class Terms(Mapping[str, float]):
    """The *unweighted* terms of an evaluation, in nats, summed like the loss and averaged over particles.

    Attributes:
        distortion: −E log p(x|z), of the observed sites and the factors of the model.
        rate: E[log q(z|x) − log p(z)], of the latent sites, the factors and the auxiliary sites of the guide.
        elbo: −distortion − rate; for the Rényi objective its bound without weights.
        loss: the weighted loss that was returned.

    Example:
        >>> terms = Terms(distortion=3.0, rate=1.0, elbo=-4.0, loss=13.0)
        >>> terms.rate, terms["rate"]
        (1.0, 1.0)
    """

    distortion: float
    rate: float
    elbo: float
    loss: float

    def __getitem__(self, name: str) -> float:
        if name not in self._names():
            raise KeyError(name)
        return float(getattr(self, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))


# ---- An evaluation of an objective that stays in tensors from the programs to the gradients.

Program = Callable[..., Any]


class SurrogateLoss(NamedTuple):
    """What an objective computes in one evaluation, as tensors without axes.

    Args:
        loss: the weighted loss in nats, summed over the data, as ``loss_and_grads`` returns it.
        surrogate: whose gradient is the objective's; its value means nothing where sites are not
            reparameterised.
        distortion: unweighted, in nats, summed like the loss; None for objectives without terms.
        rate: the same of the rate.
        elbo: the objective's own ELBO where it is not −distortion − rate.
    """

    loss: Tensor
    surrogate: Tensor
    distortion: Tensor | None = None
    rate: Tensor | None = None
    elbo: Tensor | None = None


def particle_losses(
    elbo: ELBO, model: Program, guide: Program, args: Any, kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Loss and surrogate loss of one of Pyro's sampled ELBOs, averaged over its particles.

    Raises:
        NotImplementedError: for an ELBO of another kind.
    """
    particle = _particle(elbo)
    with _ItemsStayTensors():
        pairs = [particle(*traces) for traces in elbo._get_traces(model, guide, args, kwargs)]
        loss, surrogate = (sum(each) / elbo.num_particles for each in zip(*pairs, strict=True))
    return torch.as_tensor(loss).detach(), torch.as_tensor(surrogate)


def _particle(elbo: ELBO) -> Callable[[Any, Any], tuple[Any, Any]]:
    if isinstance(elbo, TraceGraph_ELBO):
        return lambda *traces: _negated_first(*elbo._loss_and_surrogate_loss_particle(*traces))
    if isinstance(elbo, Trace_ELBO):
        return elbo._differentiable_loss_particle
    raise NotImplementedError(f"{type(elbo).__name__} has no loss that stays in tensors")


# What Pyro calls a loss there is the ELBO
def _negated_first(elbo: Any, surrogate: Any) -> tuple[Any, Any]:
    return -elbo, surrogate


class _ItemsStayTensors(TorchFunctionMode):
    """Has ``tensor.item()`` give a tensor that is cut from the graph, which Pyro then sums just as well.

    What a recorded program has made of numbers, such as the indices of a sequential plate, becomes a number.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            return literal_number(args[0]) if is_literal(args[0]) else args[0].detach()
        return func(*args, **(kwargs or {}))


# ---- weighted elbo

Trace = Any

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


# ---- A differentiable loss of any objective.


def surrogate_loss(elbo: ELBO, model: Program, guide: Program, *args: Any, **kwargs: Any) -> SurrogateLoss:
    """Evaluates an objective in tensors alone, without a step of its schedules.

    No tensor becomes a number of Python on the way, so that the evaluation can be recorded as a graph of
    tensor operations. Validation reads values; switch it off while recording.

    Args:
        elbo: an objective of this package, or Pyro's Trace, TraceMeanField or TraceGraph ELBO.
        model: the model.
        guide: the guide.
        *args: what both are called with.
        **kwargs: the same by keyword.

    Returns:
        The loss, a surrogate that has its gradients, and the unweighted terms, in nats.

    Raises:
        NotImplementedError: for an objective that has no such evaluation.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyro_infomax.infer import TraceMeanField_BetaELBO
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> found = surrogate_loss(TraceMeanField_BetaELBO(beta=4.0), model, guide, torch.tensor([-1.0, 1.0]))
        >>> bool((found.loss - (found.distortion + 4 * found.rate)).abs() < 1e-4)
        True
    """
    if isinstance(elbo, WeightedELBO):
        return elbo.surrogate(model, guide, *args, **kwargs)
    return SurrogateLoss(*particle_losses(elbo, model, guide, args, kwargs))


# ---- From a loss in tensors to what a training step wants of it.

Traces = Iterable[tuple[Any, Any]]


def accumulate_gradients(surrogate: torch.Tensor, traces: Traces, *, retain_graph: bool | None) -> None:
    """Adds the gradients of a surrogate to the parameters', where the programs of the traces have any."""
    sites = (site for pair in traces for trace in pair for site in trace.nodes.values())
    if surrogate.requires_grad and any(site["type"] == "param" for site in sites):
        surrogate.backward(retain_graph=retain_graph)


def as_number(loss: torch.Tensor) -> float:
    """The value of a loss, with Pyro's warning where it is none."""
    number: Any = loss.item()
    warn_if_nan(number, "loss")
    return float(number)
