r"""The other direction between the joints: sleep, wake–sleep and its reweighted form; and harmony.

An ELBO takes its expectations under the representation joint, :math:`q(z \mid x)\, p_\mathcal{D}(x)`. Sleep
takes them under the generative one, :math:`p(z)\, p(x \mid z)`, on data that the model makes up.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import ismethod
from typing import Any, Final, final
from weakref import WeakMethod, ref

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_infomax._checks import whole_number
from pyro_infomax._random import isolated_random_state
from pyro_infomax._recording import holds, is_recording
from pyro_infomax._types import Args, Kwargs, Program, Site
from pyro_infomax.distributions import without_masks
from pyro_infomax.infer._draws import check_densities, check_scores, cut_draws, scored_sites
from pyro_infomax.infer._elbo import Traces
from pyro_infomax.infer._estimators import TraceMeanField_WeightedELBO
from pyro_infomax.infer._multi_sample import (
    Renyi_WeightedELBO,
    are_same,
    log_weight,
    subsampled_apart,
    summed_within_particles,
    times,
)
from pyro_infomax.infer._named import InfoMaxWeighted
from pyro_infomax.infer._weights import ResolvedWeights, WeightsLike
from pyro_infomax.poutine import Weight, is_deterministic, sample_sites
from pyro_infomax.programs import ProgramState, Snapshot

# ---- Data that a model makes up, in the place of the arguments that hold its data.


@final
class _MadeUp(Messenger):
    """Has a model draw its observed sites, and keeps what was observed."""

    def __init__(self, objective: object) -> None:
        super().__init__()
        self.observed: dict[str, Tensor] = {}
        self._ours = type(objective).__name__

    def _pyro_sample(self, msg: Site) -> None:
        if not msg["is_observed"] or site_is_subsample(msg) or is_deterministic(msg):
            return
        if isinstance(msg["fn"], Unit):
            raise NotImplementedError(
                f"{self._ours} draws data from the model but it has the factor {msg['name']!r}, by which "
                "its sites do not make up a density; use RWS_InfoMaxELBO"
            )
        if without_masks(msg["fn"]) is not msg["fn"]:
            raise NotImplementedError(
                f"{self._ours} cannot tell what of {msg['name']!r} a mask of its distribution leaves out; "
                "put poutine.mask around the site"
            )
        self.observed[msg["name"]] = msg["value"]
        msg["value"], msg["is_observed"], msg["done"] = None, False, False


class _Dream:
    """Sites that a model has drawn, observed ones too, and the arguments that hold these in place of data."""

    def __init__(self, objective: object, model: Program, args: Args, kwargs: Kwargs) -> None:
        with torch.no_grad(), _MadeUp(objective) as made_up:
            self.trace = poutine.trace(model).get_trace(*args, **kwargs)
        if not made_up.observed:
            raise ValueError(
                f"Expected a model with observed sites, which {type(objective).__name__} makes up, but got "
                "none: pass data"
            )
        given: dict[int | str, object] = dict(enumerate(args))
        given.update(kwargs)
        for name, observed in made_up.observed.items():
            key = _place(name, observed, given)
            site, argument = self.trace.nodes[name], given[key]
            assert isinstance(argument, Tensor)
            drawn = _as_masked(site, observed)
            given[key] = drawn.reshape(argument.shape).to(argument.dtype)
        self.args: Args = tuple(given[place] for place in range(len(args)))
        self.kwargs: Kwargs = {key: each for key, each in given.items() if isinstance(key, str)}

    def check_reproduces(self, objective: object, model: Program) -> None:
        """Refuses a model that scores these data otherwise than it drew them."""
        with torch.no_grad():
            again = poutine.trace(poutine.replay(model, self.trace)).get_trace(*self.args, **self.kwargs)
            again.compute_log_prob()
            self.trace.compute_log_prob()
        for site in sample_sites(self.trace):
            twin = again.nodes.get(site["name"])
            if twin is None or not _are_close(site["log_prob"], twin["log_prob"]):
                raise ValueError(
                    "Expected a model whose sites follow its data by their values alone, but it scores "
                    f"{site['name']!r} on data that it has drawn otherwise than it drew them, so that "
                    f"{type(objective).__name__} would train on other data: pass what it conditions on as an "
                    "argument of its own, and put modules with dropout in evaluation mode"
                )


# Views of an argument are it in another shape; anything computed from it cannot be put back
def _place(name: str, observed: Tensor, given: Mapping[int | str, object]) -> int | str:
    def holds(each: object) -> bool:
        return each is observed or (
            isinstance(each, Tensor)
            and each.numel() == observed.numel()
            and each.data_ptr() == observed.data_ptr()
            and each.is_contiguous()
            and observed.is_contiguous()
        )

    found = [key for key, each in given.items() if holds(each)]
    if len(found) != 1:
        raise ValueError(
            f"Expected each observed site of the model to be one of the arguments but {name!r} is "
            f"{'several' if found else 'none'} of them, so that the guide cannot be given made-up data: "
            "write obs=x with an argument x of both programs, that holds the minibatch in its final form"
        )
    return found[0]


# Where the user's data are missing, the guide sees what stands there
def _as_masked(site: Site, observed: Tensor) -> Tensor:
    drawn, mask = site["value"], site["mask"]
    if drawn.shape != observed.shape:
        raise ValueError(
            f"Expected {site['name']!r} to be drawn in the shape {tuple(observed.shape)} of its data but got "
            f"{tuple(drawn.shape)}: give its distribution that shape, by expand say"
        )
    if mask is None:
        return drawn  # type: ignore[no-any-return]
    mask = torch.as_tensor(mask, device=drawn.device)
    return torch.where(mask[(..., *[None] * site["fn"].event_dim)], drawn, observed)


def _are_close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return torch.allclose(one, other.to(one.dtype), rtol=1e-4, atol=1e-4, equal_nan=True)


def _refuse_shared(
    objective: object, of_model: Iterable[Tensor], of_guide: Iterable[Tensor], *traces: Trace
) -> None:
    """Refuses parameters of both programs, which two objectives would pull at, by names in the traces."""
    both = set(map(_memory, of_model)) & set(map(_memory, of_guide))
    nodes: list[Site] = [site for trace in traces for site in trace.nodes.values()]
    sites = [site for site in nodes if site["type"] == "param"]
    if shared := sorted({site["name"] for site in sites if _memory(site["value"].unconstrained()) in both}):
        raise ValueError(
            f"Expected model and guide without parameters in common, since {type(objective).__name__} trains "
            f"them by different objectives, but both have {shared[:5]}: give each its own (by pyro.module of "
            "the decoder in the model and of the encoder in the guide; parts of one tensor are one "
            "parameter), detach it in the guide, or use TraceMeanField_BetaELBO"
        )


# Tied modules may hold two parameters of one memory
def _memory(tensor: Tensor) -> tuple[int, int]:
    try:
        return tensor.data_ptr() or id(tensor), tensor.numel()
    except RuntimeError:  # it is none that is strided
        return id(tensor), tensor.numel()


def _parameters_of(trace: Trace) -> list[Tensor]:
    sites: list[Site] = [site for site in trace.nodes.values() if site["type"] == "param"]
    return [site["value"].unconstrained() for site in sites]


def _parameters_behind(trace: Trace) -> Iterator[Tensor]:
    """The parameters that a gradient of its densities would reach, be they stated by the program or not."""
    densities = [torch.as_tensor(site["log_prob"]) for site in scored_sites(trace)]
    yield from (each for each in densities if each.is_leaf and each.requires_grad)
    seen, waiting = set(), [each.grad_fn for each in densities]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(before for before, _ in node.next_functions)
            if hasattr(node, "variable"):
                yield node.variable


class _TwoPhases(Renyi_WeightedELBO):
    """Objectives of which each program's parameters have one of their own, at given draws."""

    relaxes = True  # no gradient goes through a draw, be it relaxed

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        with cut_draws(self, guide):
            return super()._get_trace(model, guide, args, kwargs)

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        check_densities(self, model_trace, guide_trace)
        behind = _parameters_behind(model_trace), _parameters_behind(guide_trace)
        _refuse_shared(self, *behind, model_trace, guide_trace)

    # By the model's parameters, which are in no density of the guide's
    def _surrogate_bound(self, weights: Tensor, traces: Traces) -> Tensor:
        traces = list(traces)
        each = [summed_within_particles(model_trace, model_trace) for model_trace, _ in traces]
        joint = self._by_particle(each, like=weights)
        return times(self._slopes(weights.detach()), joint / self._scale).sum()


# A few data may be alike by chance in all that a model looks at beside their sites, such as their signs
_CHECKS: Final = 8


@final
class _AskedModel:
    """A model that has shown how it follows its data, and the modes in which its modules were."""

    def __init__(self, model: Program, programs: ProgramState) -> None:
        self._model = _weakly(model)
        self._modes = [(ref(module), module.training) for module in programs.modules]

    # A bound method is another object each time; two equal ones are of the same object
    def is_of(self, model: Program) -> bool:
        asked = self._model()
        return asked is model or (ismethod(asked) and ismethod(model) and asked == model)

    def is_as_asked(self, model: Program) -> bool:
        modules = ((module(), training) for module, training in self._modes)
        return self.is_of(model) and all(each is None or each.training == mode for each, mode in modules)


def _weakly(model: Program) -> Callable[[], Program | None]:
    try:
        return WeakMethod(model) if ismethod(model) else ref(model)
    except TypeError:  # what has no place for weak references is asked again
        return lambda: None


class _Sleeping(_TwoPhases):
    """Trains the guide on data that the model makes up."""

    state_of_evaluation = _TwoPhases.state_of_evaluation | {"_slept", "_asked"}

    def __init__(self, *, num_simulations: int = 1, **kwargs: Any) -> None:
        if {"alpha", "weights"} & kwargs.keys():
            raise TypeError(f"{type(self).__name__} has no alpha and no weights, which would not reach sleep")
        super().__init__(**kwargs)
        self.num_simulations = whole_number("num_simulations", num_simulations, at_least=1)
        self._slept = torch.zeros(())
        self._asked: list[_AskedModel] = []

    # Weak references are of this process alone, and another is to ask its own model
    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_asked": []}

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        if apart := subsampled_apart(model_trace, guide_trace):
            raise NotImplementedError(
                f"{type(self).__name__} cannot subsample the plate {apart[0]!r}, which some sites of the "
                "model are outside of: a guide that dreams of a minibatch learns their posterior given its "
                "rows alone; take all rows, or use Trace_InfoMaxELBO"
            )
        self._refuse_scales(model_trace, guide_trace)

    # A model draws what it draws, however much a site counts
    def _refuse_scales(self, model_trace: Trace, guide_trace: Trace) -> None:
        sites = [site for trace in (model_trace, guide_trace) for site in scored_sites(trace)]
        scales = [site["scale"] for site in sites]
        sentence = (
            f"{type(self).__name__} trains the guide on what the model draws, which the scale of a single "
            f"site does not change, and needs {sorted({site['name'] for site in sites})} to have one scale: "
            "put one poutine.scale around both programs, take all rows of the data, or use RWS_InfoMaxELBO, "
            "which weighs draws by it"
        )
        shapes = {each.shape for each in scales if isinstance(each, Tensor) and each.dim()}
        if len(shapes) > 1 or not all(holds(are_same(each, scales[0]), sentence) for each in scales):
            raise NotImplementedError(sentence)

    def _sleep(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Tensor, Traces]:
        """−log q(z|x) at draws of the model, summed over its data, and the traces that it comes from."""
        self._check_model(model, args, kwargs)
        traces = []
        for _ in range(self.num_simulations):
            dream = _Dream(self, model, args, kwargs)
            asleep = poutine.trace(poutine.replay(guide, dream.trace)).get_trace(*dream.args, **dream.kwargs)
            asleep.compute_log_prob(lambda _, site: not site_is_subsample(site))
            traces.append((dream.trace, asleep))
        sites = [site for _, trace in traces for site in sample_sites(trace) if not is_deterministic(site)]
        total = torch.as_tensor(-sum(site["log_prob_sum"] for site in sites) / self.num_simulations)
        self._slept = total.detach()
        return total, traces

    # In the modes in which the dreams are drawn: a decoder may look at data in training alone
    def _check_model(self, model: Program, args: Args, kwargs: Kwargs) -> None:
        if is_recording() or any(each.is_as_asked(model) for each in self._asked):
            return
        programs = ProgramState(model)
        kept = Snapshot(programs)
        programs.follow(kept.extend)
        try:
            with isolated_random_state(), programs.watch():
                for _ in range(_CHECKS):
                    _Dream(self, model, args, kwargs).check_reproduces(self, model)
        finally:
            kept.restore()  # the statistics of batch norm, say
        self._asked = [*(each for each in self._asked if each.is_of(model)), _AskedModel(model, programs)]

    def _bound_terms(self) -> dict[str, Tensor]:
        return {**super()._bound_terms(), "sleep": self._slept}


@contextmanager
def _buffers_aside(*programs: Program) -> Iterator[None]:
    """Has modules write to copies of their buffers, as batch norm does, which nobody keeps.

    To write the old numbers back would take a look at the new ones, or a write of all in each recorded step.
    """
    kept: dict[tuple[nn.Module, str], Tensor] = {}
    copies: dict[int, Tensor] = {}

    def put_aside(_: object, buffers: Mapping[tuple[nn.Module, str], Tensor]) -> None:
        for place, buffer in buffers.items():
            if place not in kept and not is_lazy(buffer):
                kept[place] = buffer
                if id(buffer) not in copies:
                    copies[id(buffer)] = buffer.detach().clone()
                _set_buffer(*place, copies[id(buffer)])

    state = ProgramState(*programs)
    try:
        state.follow(put_aside)
        with state.watch():
            yield
    finally:
        for place, buffer in kept.items():
            _set_buffer(*place, buffer)


def _set_buffer(module: nn.Module, name: str, buffer: Tensor) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        setattr(module, name, buffer)
    else:
        module._buffers[name] = buffer


# ---- The objectives.


@final
class ReverseKL(_Sleeping):
    r"""Sleep: trains the guide alone, on the generative joint.

    .. math:: -\mathbb{E}_{p(z)\, p(x \mid z)} \log q(z \mid x)
        = \mathbb{E}_{p(x)} \mathrm{KL}[p(z \mid x) \,\Vert\, q(z \mid x)] + \text{const.}

    is the divergence of the joints in the other direction, :math:`\mathrm{KL}[p(z)\, p(x \mid z) \,\Vert\,
    q(z \mid x)\, p(x)]`, up to what no guide moves. It covers all that the posterior covers, where the ELBO
    settles on a part, and needs no gradient through draws, so that guides may be discrete. **Its optimum is
    the exact posterior on the model's own data**: what the guide does to real data is left to chance where
    these are unlike them, as they are at the start of a training. Parameters of the model get no gradient.

    Each evaluation draws as many data as it is given, with the same covariates: arguments that are no
    observed site stay, and data under a mask stay what they are. An observed site must be an argument of both
    programs, as in ``obs=x``. After an evaluation the terms are those of the ELBO on the given data, one draw
    for each, and ``sleep``, which is the loss: a cross-entropy in nats, whose minimum is the entropy of the
    posterior and not 0. The given data reach no buffers of modules: the statistics of batch norm are those of
    the model's own data.

    Hinton, Dayan, Frey and Neal, 1995, The wake-sleep algorithm for unsupervised neural networks.

    Args:
        num_simulations: how many data sets to draw and average over in each evaluation.
        **kwargs: ``max_plate_nesting``, as in :class:`pyro.infer.RenyiELBO`.

    Raises:
        ValueError: if an observed site of the model is not one of the arguments, if the model scores what it
            has drawn otherwise than it drew it (since it conditions on data, as a teacher-forced decoder
            does, or has dropout), or if model and guide share parameters.
        NotImplementedError: for factors, for guides with point masses or auxiliary sites, for a guide that is
            itself a messenger, for several particles, for a plate that subsamples beside global latents, and
            for sites of different scales, as by ``poutine.scale`` around the likelihood alone.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> sleep = ReverseKL()
        >>> loss = sleep.loss(pair.model, pair.guide, pair.sample(10))
        >>> loss == sleep.terms.sleep
        True
    """

    def __init__(self, *, num_simulations: int = 1, **kwargs: Any) -> None:
        if kwargs.pop("num_particles", 1) != 1:
            raise NotImplementedError("ReverseKL has one particle for its terms; use num_simulations")
        super().__init__(num_simulations=num_simulations, num_particles=1, **kwargs)

    def _evaluated(
        self, model: Program, guide: Program, args: Args, kwargs: Kwargs
    ) -> tuple[Tensor, Tensor, Traces]:
        with torch.no_grad(), _buffers_aside(model, guide):
            super()._evaluated(model, guide, args, kwargs)
        total, traces = self._sleep(model, guide, args, kwargs)
        # The model has no gradient here, and would move with what it states, however it uses it
        for dreamt, asleep in traces:
            _refuse_shared(self, _parameters_of(dreamt), _parameters_behind(asleep), dreamt, asleep)
        return total.detach(), total, traces


@final
class WakeSleepELBO(_Sleeping):
    r"""Wake–sleep: the model learns from data by draws of the guide, the guide from data of the model.

    .. math:: \nabla_\theta = -\sum_k \tilde w_k \nabla_\theta \log p(x, z_k) , \quad z_k \sim q(z \mid x),
        \qquad \nabla_\phi = -\nabla_\phi \log q(z' \mid x') , \quad (z', x') \sim p(z)\, p(x \mid z)

    With one particle the model's part is the gradient of the ELBO, with several that of the
    importance-weighted bound. The two are gradients of **different objectives**, so that their sum is that of
    none and need not converge; the guide is right where the model's data are like the given ones. Each
    program's parameters get their own part alone.

    The loss is minus the bound plus the sleep loss of :class:`ReverseKL`; the terms hold both, as ``elbo``
    and ``sleep``.

    Hinton, Dayan, Frey and Neal, 1995, The wake-sleep algorithm for unsupervised neural networks.

    Args:
        num_particles: K, the draws of the guide for each datum.
        num_simulations: how many data sets to draw and average over in each evaluation.
        **kwargs: as in :class:`ReverseKL`, and ``vectorize_particles``.

    Raises:
        ValueError, NotImplementedError: as :class:`ReverseKL`.

    Example:
        >>> from pyro_infomax.oracles import DiscreteVAE
        >>> pair = DiscreteVAE([0.5, 0.5], [[0.8, 0.2], [0.3, 0.7]], [[0.6, 0.4], [0.4, 0.6]])
        >>> elbo = WakeSleepELBO()
        >>> loss = elbo.loss(pair.model, pair.guide, torch.tensor([0, 1]))
        >>> abs(loss - (elbo.terms.sleep - elbo.terms.elbo)) < 1e-6
        True
    """

    def __init__(self, *, num_particles: int = 1, num_simulations: int = 1, **kwargs: Any) -> None:
        super().__init__(num_particles=num_particles, num_simulations=num_simulations, **kwargs)

    def _evaluated(
        self, model: Program, guide: Program, args: Args, kwargs: Kwargs
    ) -> tuple[Tensor, Tensor, Traces]:
        loss, surrogate, traces = super()._evaluated(model, guide, args, kwargs)
        total, dreams = self._sleep(model, guide, args, kwargs)
        return loss + total.detach(), surrogate + total, [*traces, *dreams]


@final
class RWS_InfoMaxELBO(InfoMaxWeighted, _TwoPhases):
    r"""Reweighted wake–sleep: both programs learn from data, by the same weighted draws of the guide.

    .. math:: \nabla_\theta = -\sum_k \tilde w_k \nabla_\theta \log p(x, z_k) , \qquad
        \nabla_\phi = -\sum_k \tilde w_k \nabla_\phi \log q(z_k \mid x) , \qquad z_k \sim q(z \mid x)

    The model's part is the gradient of the importance-weighted bound (see :class:`IWAE_InfoMaxELBO`). The
    guide's part (wake-φ) estimates that of :math:`\mathrm{KL}[p(z \mid x) \,\Vert\, q(z \mid x)]` on the
    given data, **with the bias of weights that are normalised over K draws**: for a few draws it points
    elsewhere, and a guide that misses a mode does not hear of it. Draws need no reparameterisation; each
    program's parameters get their own part alone. Weights are each datum's own, in the cells of the plates
    that all sites share.

    With λ the weights are those of :math:`p(z)\, p(x \mid z)^{1 + \lambda}`, to which the guide then tends.

    The loss is minus the bound plus the guide's part, :math:`-\sum_k \tilde w_k \log q(z_k \mid x)`; the
    terms hold both without weights, as ``elbo`` and ``wake``.

    Bornschein and Bengio, 2015, Reweighted wake-sleep. Le, Kosiorek, Siddharth, Teh and Wood, 2019,
    Revisiting reweighted wake-sleep for models with stochastic control flow.

    Args:
        lam: a number or tensor > -1, a schedule, or a mapping from observed sites of the model to these; 0 by
            default.
        num_particles: K, at least 2.
        **kwargs: ``vectorize_particles``, ``max_plate_nesting``, as in :class:`pyro.infer.RenyiELBO`.

    Raises:
        ValueError: for one particle, if model and guide share parameters, and if a weight is not above -1 or
            names no site of the model.
        NotImplementedError: for guides with point masses, factors or auxiliary sites, or whose support
            parameters move, for a guide that is itself a messenger, and for what
            :class:`~pyro_infomax.infer.Renyi_InfoMaxELBO` refuses.

    Example:
        >>> from pyro_infomax.oracles import DiscreteVAE
        >>> pair = DiscreteVAE([0.5, 0.5], [[0.8, 0.2], [0.3, 0.7]], [[0.6, 0.4], [0.4, 0.6]])
        >>> elbo = RWS_InfoMaxELBO(num_particles=5)
        >>> loss = elbo.loss(pair.model, pair.guide, torch.tensor([0, 1]))
        >>> abs(loss - (elbo.terms.wake - elbo.terms.elbo)) < 1e-6
        True
    """

    state_of_evaluation = _TwoPhases.state_of_evaluation | {"_log_posteriors"}
    _log_posteriors: tuple[Tensor, ...] = ()

    def __init__(self, lam: WeightsLike = 0.0, *, num_particles: int = 10, **kwargs: Any) -> None:
        if "alpha" in kwargs:
            raise TypeError("RWS_InfoMaxELBO has no alpha; use Renyi_InfoMaxELBO")
        whole_number("num_particles", num_particles, at_least=2)
        super().__init__(lam, num_particles=num_particles, **kwargs)

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        check_scores(self, guide_trace)

    def _loss_and_surrogate(self, traces: Traces) -> tuple[Tensor, Tensor]:
        traces = list(traces)
        loss, surrogate = super()._loss_and_surrogate(traces)
        weights = self._by_particle([log_weight(*pair).detach() / self._scale for pair in traces])
        wake = self._wake(weights, [_log_posterior(*pair) for pair in traces])
        return loss + wake.detach(), surrogate + wake

    def _wake(self, log_weights: Tensor, log_posteriors: Sequence[Tensor]) -> Tensor:
        return -times(self._slopes(log_weights), self._by_particle(log_posteriors, like=log_weights)).sum()

    def _reset(self) -> None:
        super()._reset()
        self._log_posteriors = ()

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._record(model_trace, guide_trace)
        self._log_posteriors += (_log_posterior(model_trace, guide_trace).detach(),)

    def _bound_terms(self) -> dict[str, Tensor]:
        return {**super()._bound_terms(), "wake": self._wake(self._unweighted(), self._log_posteriors)}


def _log_posterior(model_trace: Trace, guide_trace: Trace) -> Tensor:
    return summed_within_particles(guide_trace, model_trace)


# ---- Harmony.


@final
class HarmonyELBO(TraceMeanField_WeightedELBO):
    r"""Harmony learning of yin-yang machines: the expected log-density of the generative joint.

    .. math:: \mathbb{E}_{q(z \mid x)\, p_\mathcal{D}(x)} \log p(x, z)
        = -D + \mathbb{E} \log p(z) = \mathrm{ELBO} - H_q(Z \mid X)

    to be maximised. In terms of the account the rate is replaced by the cross-entropy of posterior and prior,
    :math:`-\mathbb{E} \log p(z) = R + H_q(Z \mid X)`, the term ``prior_cross_entropy``; what the guide draws
    beside the latents costs nothing. It is here to be
    compared with the others, and **fails twice**:

    - Nothing holds a posterior open, and nothing holds its scale. For any model the best guide is a point
      mass, of infinite rate. With a fixed Normal prior, codes that shrink by c while the decoder grows by 1/c
      lose nothing and gain until they are all at its mode, a limit that is never reached. With a prior of
      learned scale each halving gains ln 2 nats a dimension without end: the objective is **unbounded
      above**.
    - The number of factors that it chooses by itself, *automatic model selection*, **depends on the units of
      the data**: with n measurements and k orthonormal factors of learned scales, rescaling x by c moves the
      objective by :math:`-(n + k) \ln c`, by which small units choose more factors, large ones fewer. A
      likelihood moves by :math:`-n \ln c`, whatever k is.

    Xu, 2004, Advances on BYY harmony learning: information theoretic perspective, generalized projection
    geometry, and independent factor autodetermination.

    Args:
        weights: of ``distortion`` and ``prior_cross_entropy``, as in :class:`TraceMeanField_WeightedELBO`.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`.

    Raises:
        ValueError: for a weight of another term, the rate say.
        NotImplementedError: where a guide site is not reparameterised or asks for enumeration, and for
            factors of the guide.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> harmony = HarmonyELBO()
        >>> loss = harmony.loss(pair.model, pair.guide, pair.sample(10))
        >>> abs(loss - (harmony.terms.distortion + harmony.terms.prior_cross_entropy)) < 1e-4
        True
    """

    # There is no log q here that what the guide draws beside the latents could be a part of
    def _auxiliary(self, site: Site, weight: Weight) -> Tensor:
        if site["is_observed"]:
            raise NotImplementedError(
                f"HarmonyELBO takes its expectation under the guide's draws alone but the guide has "
                f"{site['name']!r}, a factor of its density: leave it out, or use TraceMeanField_BetaELBO"
            )
        return torch.zeros_like(super()._auxiliary(site, weight))

    # Nor does a rate cost anything here, which is recorded all the same
    def _check_returned(self, weights: ResolvedWeights, costs: set[str]) -> None:
        super()._check_returned(weights, costs - {"rate"})

    def latent_cost(self, model_site: Site, guide_site: Site) -> Mapping[str, Tensor]:
        """The cross-entropy of posterior and prior, in closed form where there is one, in nats per datum."""
        divergence = guide_site.get("divergence")
        if divergence is not None:
            try:
                return {"prior_cross_entropy": divergence + guide_site["fn"].entropy()}
            except NotImplementedError:
                pass  # sampled as well as any other
        return {"prior_cross_entropy": -model_site["fn"].log_prob(guide_site["value"])}
