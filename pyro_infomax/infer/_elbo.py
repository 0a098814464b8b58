"""The base of the objectives: how weights reach any of Pyro's ELBOs, and how terms come back."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, cast, final

import torch
from pyro.infer import ELBO, ReweightedWakeSleep, Trace_ELBO, Trace_MMD, TraceGraph_ELBO, TraceTMC_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.ops.provenance import detach_provenance
from pyro.poutine import Trace
from pyro.util import warn_if_nan
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_infomax._checks import whole_number
from pyro_infomax._recording import is_literal, is_recording, literal_number
from pyro_infomax._types import Args, Kwargs, Program, Site
from pyro_infomax.distributions import family_name, is_angular, is_discrete, is_point_mass, is_relaxed
from pyro_infomax.infer._draws import check_transforms
from pyro_infomax.infer._weights import (
    GuideRole,
    ModelRole,
    ResolvedWeights,
    TermWeight,
    TermWeights,
    WeightsLike,
)
from pyro_infomax.poutine import (
    fitting_frames,
    frames_of,
    is_deterministic,
    plain_errors,
    sample_sites,
    unweighted_log_prob,
)

# ---- What an objective's last evaluation was made of.


@final
class Terms(Mapping[str, float]):
    """The *unweighted* terms of an evaluation, in nats, summed like the loss and averaged over particles.

    Items are attributes too. Which there are depends on the objective; a weighted ELBO has at least

    - ``distortion``: −E log p(x|z), of the observed sites and the factors of the model.
    - ``rate``: E[log q(z|x) − log p(z)], of the latent sites, and of the guide's factors and auxiliary sites.
    - ``elbo``: −distortion − rate; for the Rényi objective its bound without weights.
    - ``loss``: the weighted loss that was returned.

    Example:
        >>> terms = Terms(distortion=3.0, rate=1.0, elbo=-4.0, loss=13.0)
        >>> terms.rate, terms["rate"]
        (1.0, 1.0)
    """

    def __init__(self, **values: float) -> None:
        self.__dict__.update(values)

    def __getitem__(self, name: str) -> float:
        value: float = self.__dict__[name]
        return value

    def __getattr__(self, name: str) -> float:
        raise AttributeError(f"Expected one of the terms {', '.join(self)} but got {name!r}.")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Expected terms to be left as they were evaluated but got {name}={value!r}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __hash__(self) -> int:
        return hash(tuple(self.items()))

    def __repr__(self) -> str:
        return f"Terms({', '.join(f'{name}={value}' for name, value in self.items())})"


# ---- An evaluation of an objective that stays in tensors from the programs to the gradients.


Loss = Tensor | float
Evaluation = Callable[..., Any]  # one of Pyro's methods of an ELBO
Traces = Iterable[tuple[Trace, Trace]]


class SurrogateLoss(NamedTuple):
    """What an objective computes in one evaluation, as tensors without axes.

    Args:
        loss: the weighted loss in nats, summed over the data, as ``loss_and_grads`` returns it.
        surrogate: whose gradient is the objective's; its value means nothing where sites are not
            reparameterised.
        terms: unweighted, in nats, summed like the loss; none for objectives of Pyro's own. There is an
            ``elbo`` where it is not −distortion − rate.
    """

    loss: Tensor
    surrogate: Tensor
    terms: Mapping[str, Tensor] = MappingProxyType({})


def particle_losses(
    elbo: ELBO, model: Program, guide: Program, args: Args, kwargs: Kwargs
) -> tuple[Tensor, Tensor]:
    """Loss and surrogate loss of one of Pyro's sampled ELBOs, averaged over its particles."""
    if isinstance(elbo, TraceGraph_ELBO):
        particle = elbo._loss_and_surrogate_loss_particle
    elif isinstance(elbo, Trace_ELBO):
        particle = elbo._differentiable_loss_particle
    else:
        raise NotImplementedError(f"{type(elbo).__name__} has no loss that stays in tensors")
    with _ItemsStayTensors():
        pairs = [particle(*traces) for traces in elbo._get_traces(model, guide, args, kwargs)]
        loss, surrogate = (sum(each) / elbo.num_particles for each in zip(*pairs, strict=True))
    # What TraceGraph_ELBO calls a loss there is the ELBO
    loss = -loss if isinstance(elbo, TraceGraph_ELBO) else loss
    return torch.as_tensor(loss).detach(), torch.as_tensor(surrogate)


class _ItemsStayTensors(TorchFunctionMode):
    """Has ``tensor.item()`` give a tensor that is cut from the graph, which Pyro then sums just as well.

    What a recorded program has made of numbers, such as the indices of a sequential plate, becomes a number.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            return literal_number(args[0]) if is_literal(args[0]) else args[0].detach()
        return func(*args, **(kwargs or {}))


# ---- The base of all objectives: weights on the way in, terms on the way out.

_UNWEIGHABLE = (ReweightedWakeSleep, TraceTMC_ELBO, Trace_MMD)


class WeightedELBO(ELBO):
    """The base of every objective: named weights, named terms, schedules, and a state.

    It weights the sites of model and guide wherever a Pyro ELBO traces them, which is in ``_get_trace``, and
    records the unweighted terms. A subclass joins it with one of Pyro's estimators; the classes
    ``Trace_WeightedELBO``, ``TraceMeanField_WeightedELBO``, ``TraceGraph_WeightedELBO``,
    ``TraceEnum_WeightedELBO`` and ``Renyi_WeightedELBO`` have done so. An objective of one's own derives from
    one of these and states its weights; on :class:`TraceMeanField_WeightedELBO` it may also split the cost
    of a latent site into terms of its own, by :meth:`~TraceMeanField_WeightedELBO.latent_cost`, and add terms
    of all latent sites together, by :meth:`~TraceMeanField_WeightedELBO.joint_cost`.

    Whatever the terms are, they reach :attr:`terms`, the history of a training, its progress bar, loggers
    and plots by their names, and weights may be schedules that checkpoints resume.

    Args:
        weights: by term, ``{"distortion": 1.0, "rate": 4.0}``: numbers, tensors, schedules, or mappings from
            site names of the model to these. Sites that a mapping does not name, and terms without a weight,
            count once. The weights of distortion and rate are >= 0, the others any finite numbers.
        **kwargs: those of Pyro's estimator.

    Raises:
        ValueError: if a weight is out of range, or names no site of the model.
    """

    enumerates = False
    relaxes = False
    # What an evaluation leaves in an objective, and a captured step therefore does not watch
    state_of_evaluation: ClassVar = frozenset(
        {"_weights", "_step", "_loss", "_subsampled", "_given_weights", "_sums", "_summed"}
    )
    _own_terms = False
    _rate_by_sites = True

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, _UNWEIGHABLE):
            raise NotImplementedError(
                f"{cls.__name__} cannot be weighed exactly; use a Trace_, TraceMeanField_, TraceGraph_ or "
                "TraceEnum_ class"
            )
        hooks = [hook for hook in ("latent_cost", "joint_cost") if hasattr(cls, hook)]
        if hooks and not cls._own_terms:
            raise TypeError(
                f"{cls.__name__} cannot have a {hooks[0]}, since its estimator takes gradients from "
                "log-probabilities alone: derive it from TraceMeanField_WeightedELBO."
            )

    def __init__(
        self, *, weights: Mapping[str, WeightsLike | TermWeight] | None = None, **kwargs: object
    ) -> None:
        if not hasattr(super(), "loss"):
            raise TypeError(
                f"Expected {type(self).__name__} to derive from an estimator: use "
                "TraceMeanField_WeightedELBO, or Trace_, TraceGraph_ or TraceEnum_WeightedELBO, as its base."
            )
        super().__init__(**kwargs)
        self.num_particles = whole_number("num_particles", self.num_particles, at_least=1)
        self._weights = TermWeights(weights or {}, rate_by_sites=self._rate_by_sites)
        self._check_terms(self._weights)
        self._step = 0
        self._loss: float | Tensor | None = None
        self._subsampled: dict[int, int] = {}
        self._given_weights: Mapping[str, Tensor] = {}
        self._sums: dict[str, float | Tensor] = {}
        self._summed = self.num_particles

    # ---- what users read and set

    @property
    def weights(self) -> TermWeights:
        """The weights by term, as they were given; ``elbo.weights["rate"] = 2.0`` sets another one."""
        return self._weights

    @property
    def terms(self) -> Terms | None:
        """The unweighted terms of the last evaluation, None before the first."""
        if self._loss is None:
            return None
        values = {name: float(total) / self._summed for name, total in self._sums.items()}
        return self._named_terms(values, float(self._loss))

    @property
    def step(self) -> int:
        """The number of training steps taken, which is where its schedules stand.

        Raises:
            RuntimeError: while a step is being recorded, which would keep the number for ever.
        """
        self._refuse_recording("step")
        return self._step

    @property
    def pending_steps(self) -> int:
        """The number of training steps until every schedule stands at its end value."""
        self._refuse_recording("pending_steps")
        return max(0, self._weights.duration - self._step)

    def _refuse_recording(self, name: str) -> None:
        if is_recording():
            raise RuntimeError(
                f"an objective reads its {name}, which a recorded step would keep for ever: make what "
                "depends on the step a weight with a schedule"
            )

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
        self._step = whole_number("step", state["step"], at_least=0)

    # ---- Pyro's interface of an ELBO

    def loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """The weighted loss; leaves schedules where they are."""
        return self._evaluate(super().loss, model, guide, args, kwargs)  # type: ignore[misc]

    def loss_and_grads(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """The weighted loss, its gradients added to the parameters'; a training step to the schedules."""
        parent = super().loss_and_grads  # type: ignore[misc]
        loss: float = self._evaluate(parent, model, guide, args, kwargs)
        self._warn_if_infinite(loss)
        self._step += 1
        return loss

    def differentiable_loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> Tensor:
        """The weighted loss as a tensor; a training step to the schedules if gradients are enabled.

        Raises:
            NotImplementedError: where Pyro's estimator has none.
        """
        parent = getattr(super(), "differentiable_loss", None)
        if parent is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no differentiable loss: use loss_and_grads (or SVI), or "
                f"Trace_{type(self).__name__.split('_')[-1]}"
            )
        loss: Tensor = self._evaluate(parent, model, guide, args, kwargs)
        if torch.is_grad_enabled() and not is_recording():
            self._warn_if_infinite(loss.item())
        self._step += torch.is_grad_enabled()
        return loss

    def _warn_if_infinite(self, loss: float) -> None:
        if math.isinf(loss):
            warnings.warn(
                f"Encountered an infinite loss of {type(self).__name__}: draws of q(z|x) are impossible "
                "under the model, or a density overflows, and the gradient is infinite or leaves them out. "
                "Use a guide within the support of the model, or VIMCO_InfoMaxELBO, which needs one possible "
                "draw for each datum",
                stacklevel=3,
            )

    # ---- what a captured step needs: an evaluation in tensors, and the weights as its inputs

    @property
    def own_parameters(self) -> tuple[Tensor, ...]:
        """Tensors that a training step moves by itself, beside those that the optimiser of SVI does."""
        return ()

    def look_at_itself(self) -> None:
        """Puts into attributes what a recording would fix of it and no attribute tells by its value.

        It is called before each captured step, which then looks whether attributes are as they were.
        """

    def surrogate(self, model: Program, guide: Program, *args: object, **kwargs: object) -> SurrogateLoss:
        """The evaluation in tensors alone, which leaves schedules where they are.

        See :func:`~pyro_infomax.infer.surrogate_loss`.
        """
        self._loss = None
        self._reset()
        found = self._surrogate(model, guide, args, kwargs)
        self._loss = found.loss
        return found

    def variable_weights(self, *, numbers: bool = False) -> dict[str, Tensor]:
        """The present values of the weights that may change from step to step: schedules and tensors.

        Args:
            numbers: whether to take weights that are plain numbers too.
        """
        return self._weights.variable(self._step, numbers=numbers)

    def weights_ahead(self, steps: int, *, numbers: bool = False) -> list[tuple[Tensor, ...]]:
        """The values of :meth:`variable_weights` for each of the next training steps."""
        return self._weights.ahead(self._step, steps, numbers=numbers)

    @contextmanager
    def given_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Uses these values in place of those of :meth:`variable_weights`."""
        self._given_weights = weights
        try:
            yield
        finally:
            self._given_weights = {}

    def adopt(self, evaluation: SurrogateLoss, subsampled: Mapping[int, int], *, steps: int = 1) -> None:
        """Takes an evaluation that was computed elsewhere as its own, and as the last of training steps.

        Args:
            evaluation: what :meth:`surrogate` has returned there.
            subsampled: sizes of subsampled plates to what they stand for, see :attr:`subsampled`.
            steps: how many training steps were taken.
        """
        self._reset()
        self._sums, self._summed = dict(evaluation.terms), 1
        self._loss, self._subsampled = evaluation.loss, dict(subsampled)
        self._step += steps

    def forget_evaluation(self) -> None:
        """Has no evaluation, as before the first."""
        self._loss = None
        self._reset()

    def terms_of(self, evaluations: SurrogateLoss) -> dict[str, list[float]]:
        """The named terms of many evaluations, from tensors with an axis over them."""
        values: dict[str, Any] = {name: each.double() for name, each in evaluations.terms.items()}
        named = self._named_terms(values, cast(Any, evaluations.loss.double()))
        return {name: cast(Tensor, each).tolist() for name, each in named.items()}

    @property
    def subsampled(self) -> Mapping[int, int]:
        """Sizes of the subsampled plates of the last evaluation to what they are subsamples of."""
        return self._subsampled

    # ---- one evaluation, from weights to recorded terms

    def _evaluate(
        self, parent: Evaluation, model: Program, guide: Program, args: Args, kwargs: Kwargs
    ) -> Any:
        self._loss = None
        self._reset()
        loss = parent(model, guide, *args, **kwargs)
        self._loss = loss.detach() if isinstance(loss, Tensor) else loss
        return loss

    def _surrogate(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> SurrogateLoss:
        loss, surrogate = particle_losses(self, model, guide, args, kwargs)
        return SurrogateLoss(loss, surrogate, self._mean_terms())

    def _mean_terms(self) -> dict[str, Tensor]:
        """The unweighted terms of the last evaluation, averaged over its particles, in tensors."""
        return {name: torch.as_tensor(total) / self._summed for name, total in self._sums.items()}

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        weights = self._resolved_weights()
        guide_role = GuideRole(weights, guide, refuse_enumeration=self._refuse_enumeration())
        model_role = ModelRole(weights, guide_role)
        programs = model_role(model), guide_role(guide)
        with plain_errors():
            traces = super()._get_trace(*programs, args, kwargs)  # type: ignore[safe-super]
        self._check(*traces)
        self._subsampled = subsampled_data(traces[0], args, lambda site: site["is_observed"])
        self._record(*traces)
        return traces

    def _resolved_weights(self) -> ResolvedWeights:
        return self._weights.at(self._step, check_tensors=is_validation_enabled(), given=self._given_weights)

    def _check_terms(self, weights: TermWeights) -> None:
        if unknown := sorted(set(weights) - {"distortion", "rate"}):
            raise ValueError(
                f"Expected weights of distortion and rate but {type(self).__name__} got {unknown}: further "
                "terms are those that a subclass of TraceMeanField_WeightedELBO returns from latent_cost or "
                "joint_cost."
            )

    def _refuse_enumeration(self) -> str | None:
        if self.enumerates:
            return None
        name = type(self).__name__
        return (
            f"{name} cannot enumerate but the site {{site!r}} asks for it; use a TraceEnum objective, "
            "or drop its infer['enumerate'] (enumerate=False of AmortizedDiscrete)"
        )

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        for weight in self._weights.all:
            for name in weight.sites:
                self._check_known(weight.label, name, model_trace)
                if not is_deterministic(model_trace.nodes[name]):
                    nodes = [*model_trace.nodes, *guide_trace.nodes]
                    self._check_distinct(weight.label, weight.ambiguous(name, nodes), name)
        if not self.relaxes:
            self._refuse_relaxed(guide_trace)
        _check_measures(model_trace, guide_trace)
        check_transforms(self, model_trace, guide_trace)

    def _check_known(self, label: str, name: str, model_trace: Trace) -> None:
        sites = _weighable(model_trace)
        if name not in sites:
            raise ValueError(f"Expected {label} to name sites of the model, {sites}, but got {name!r}")

    def _check_distinct(self, label: str, ambiguous: list[str], name: str) -> None:
        if ambiguous:
            raise ValueError(
                f"Expected {label} to name {ambiguous[0]!r} too, since it names "
                f"{name!r} and they look like parts of one site that obs_mask splits"
            )

    # A discrete prior's sampled log-probability passes no gradient on to the value that it scores.
    def _refuse_relaxed(self, guide_trace: Trace) -> None:
        ours = type(self).__name__
        for site in sample_sites(guide_trace):
            if is_relaxed(site["fn"]):
                raise NotImplementedError(
                    f"{ours} samples the rate, whose gradient would lack the part through the relaxed site "
                    f"{site['name']!r} ({family_name(site['fn'])}); use "
                    f"TraceMeanField_{ours.split('_')[-1]}, which has it in closed form, or a guide "
                    "without the relaxation"
                )

    def _reset(self) -> None:
        """Forgets the last evaluation."""
        self._sums = {"distortion": 0.0, "rate": 0.0}
        self._summed = self.num_particles

    def _add(self, term: str, nats: float | Tensor) -> None:
        """Records a part of an unweighted term of one particle, in nats, summed over the data."""
        self._sums[term] = self._sums.get(term, 0.0) + nats

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Records the unweighted terms of one particle: the log-probabilities of the sampled values."""
        for site in model_trace.nodes.values():
            if site["type"] == "sample":
                self._add("distortion" if site["is_observed"] else "rate", -unweighted_sum(site))
        for site in guide_trace.nodes.values():
            if site["type"] == "sample":
                self._add("rate", unweighted_sum(site))

    def _named_terms(self, values: dict[str, float], loss: float) -> Terms:
        """The terms of an evaluation, from what was recorded and the loss that was returned."""
        elbo = values.pop("elbo", -values["distortion"] - values["rate"])
        first = {name: values.pop(name) for name in ("distortion", "rate")}
        return Terms(**first, elbo=elbo, loss=loss, **values)


# Densities of a guide and a prior can be compared only where they are densities of the same things
def _check_measures(model_trace: Trace, guide_trace: Trace) -> None:
    for name, site in guide_trace.nodes.items():
        if site["type"] != "sample" or name not in model_trace.nodes:
            continue
        fn, prior = site["fn"], model_trace.nodes[name]["fn"]
        if is_angular(prior) and not (is_angular(fn) or is_point_mass(fn)):
            raise NotImplementedError(
                f"The latent {name!r} is an angle in the model but {family_name(fn)} in the guide, whose "
                "density on the whole line counts every turn, so that the ELBO bounds nothing: draw it from "
                f"dist.VonMises (heads={{{name!r}: dist.VonMises}} in an amortised guide)"
            )
        kinds = {is_discrete(fn), is_discrete(prior)}  # type: ignore[arg-type]
        if kinds == {True, False} and not is_point_mass(fn):
            raise ValueError(
                f"Expected {name!r} to be discrete, or continuous, in both programs but got "
                f"{family_name(prior)} in the model and {family_name(fn)} in the guide"
            )


def _weighable(model_trace: Trace) -> list[str]:
    """The sites with a density; a deterministic one has it only where ``obs_mask`` made it of two sites."""
    return [
        name
        for name, site in model_trace.nodes.items()
        if site["type"] == "sample"
        and (not is_deterministic(site) or f"{name}_observed" in model_trace.nodes)
    ]


def check_nesting(max_plate_nesting: float, *traces: Trace) -> None:
    """Refuses plates on the axes of enumerated values, which Pyro notices in validation alone."""
    frames = [frame for trace in traces for site in sample_sites(trace) for frame in frames_of(site)]
    outermost = max((-frame.dim for frame in frames), default=0)
    if outermost > max_plate_nesting:
        raise ValueError(
            f"Expected plates on {max_plate_nesting} axes, since max_plate_nesting={max_plate_nesting}, but "
            f"got one on axis {-outermost}: pass max_plate_nesting={outermost}, or leave it out"
        )


_PARTICLES = "num_particles_vectorized"  # Pyro's plate, of which a model knows nothing


def subsampled_data(trace: Trace, args: Args, is_data: Callable[[Site], bool]) -> dict[int, int]:
    """The size of the data plate to what it is a subsample of; nothing where it takes all of its rows."""
    sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
    frames = {site["name"]: [f for f in frames_of(site) if f.name != _PARTICLES] for site in sites}
    candidates = {f.name: f for site in sites if is_data(site) for f in frames[site["name"]]}
    if all(frame.size == (frame.full_size or frame.size) for frame in candidates.values()):
        return {}
    # Others may subsample too: where it cannot be told, the data plate has most sites, or is outermost
    rows = len(args[0]) if args and isinstance(args[0], Tensor) and args[0].dim() else None
    fitting = fitting_frames(candidates, sites, rows) or candidates
    sites_in = {name: sum(any(f.name == name for f in each) for each in frames.values()) for name in fitting}
    data = fitting[max(fitting, key=sites_in.__getitem__)]
    whole = data.full_size or data.size
    return {} if data.size == whole else {data.size: whole}


def unweighted_sum(site: Site) -> torch.Tensor:
    """The sum of a site's log-probabilities without weights, by a division wherever that is exact."""
    weight = site["weight"].weight if "weight" in site else 1.0
    if isinstance(weight, torch.Tensor) or weight == 0:
        return torch.as_tensor(detach_provenance(unweighted_log_prob(site).sum())).detach()
    return torch.as_tensor(detach_provenance(site["log_prob_sum"])).detach() / weight


# ---- A differentiable loss of any objective.


def surrogate_loss(
    elbo: ELBO, model: Program, guide: Program, *args: object, **kwargs: object
) -> SurrogateLoss:
    """Evaluates an objective in tensors alone, without a step of its schedules.

    No tensor becomes a number of Python on the way, so that the evaluation can be recorded as a graph of
    tensor operations. Validation reads values; switch it off while recording.

    Args:
        elbo: an objective of this package, or Pyro's Trace, TraceMeanField or TraceGraph ELBO.
        model, guide: the two programs.
        *args: what both are called with.
        **kwargs: the same by keyword.

    Returns:
        The loss, a surrogate that has its gradients, and the unweighted terms, in nats.

    Raises:
        NotImplementedError: for an objective that has no such evaluation.

    Example:
        >>> from pyro_infomax.infer import TraceMeanField_BetaELBO
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> objective = TraceMeanField_BetaELBO(beta=4.0)
        >>> found = surrogate_loss(objective, pair.model, pair.guide, pair.sample(10))
        >>> bool((found.loss - (found.terms["distortion"] + 4 * found.terms["rate"])).abs() < 1e-4)
        True
    """
    if isinstance(elbo, WeightedELBO):
        return elbo.surrogate(model, guide, *args, **kwargs)
    return SurrogateLoss(*particle_losses(elbo, model, guide, args, kwargs))


# ---- From a loss in tensors to what a training step wants of it.


def accumulate_gradients(surrogate: torch.Tensor, traces: Traces, *, retain_graph: bool | None) -> None:
    """Adds the gradients of a surrogate to the parameters', where the programs of the traces have any."""
    sites = (site for pair in traces for trace in pair for site in trace.nodes.values())
    if surrogate.requires_grad and any(site["type"] == "param" for site in sites):
        surrogate.backward(retain_graph=retain_graph)


def has_sisters() -> bool:
    """Whether other processes train with this one."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return several and torch.distributed.get_world_size() > 1


def as_number(loss: torch.Tensor) -> float:
    """The value of a loss, with Pyro's warning where it is none."""
    number: Any = loss.item()
    warn_if_nan(number, "loss")
    return float(number)
