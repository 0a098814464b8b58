"""The base of objectives with a critic, which is trained within each step."""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from pyro_infomax._checks import real_number, whole_number
from pyro_infomax._data import Tensors
from pyro_infomax._random import isolated_random_state
from pyro_infomax._recording import NotCapturableError
from pyro_infomax._types import Args, Kwargs, Program, Site, State
from pyro_infomax.distributions import family_name, is_point_mass, is_relaxed
from pyro_infomax.infer._elbo import Evaluation, Loss
from pyro_infomax.infer._estimators import TraceMeanField_WeightedELBO
from pyro_infomax.infer._weights import TermWeight, TermWeights, WeightsLike
from pyro_infomax.information import OptimizerFactory, adam
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.poutine import (
    Weight,
    frames_of,
    is_deterministic,
    plain_errors,
    sample_sites,
    unweighted_scale_and_mask,
)

# ---- What a critic compares: draws of two joint distributions, a row for each datum.


class GuideRun(NamedTuple):
    """A run of the guide, and what it takes to run the model.

    Args:
        model: the model.
        guide_trace: what the guide has drawn.
        args, kwargs: what both are called with.
        both: whether draws of both distributions are asked for.
    """

    model: Program
    guide_trace: Trace
    args: Args
    kwargs: Kwargs
    both: bool


class ComparedDraws(NamedTuple):
    """Draws of two distributions that a critic tells apart.

    Args:
        first: what scores high, parts of (batch, \\*event) each.
        second: what scores low, the same parts of the other distribution; None where nobody asks for them,
            or there are none.
        scale: how many data each row stands for.
    """

    first: Tensors
    second: Tensors | None
    scale: Weight


def latent_sites(guide_trace: Trace) -> dict[str, Site]:
    """What a guide draws for the model, by name."""
    return {
        site["name"]: site
        for site in sample_sites(guide_trace)
        if not (site["is_observed"] or site["infer"].get("is_auxiliary") or is_deterministic(site))
    }


def observed_sites(simulated: Trace) -> dict[str, Site]:
    """What :func:`simulate` has drawn in place of data."""
    return {
        site["name"]: site
        for site in sample_sites(simulated)
        if site["infer"].get("was_observed") and not is_deterministic(site)
    }


def simulate(run: GuideRun, *, data: bool = True) -> Trace:
    """A run of the model, on the rows that the guide has taken of each plate.

    Args:
        run: of the guide.
        data: whether observed sites are drawn too, or observed as they are.
    """
    rows = run.guide_trace.copy()
    for name, site in run.guide_trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            rows.remove_node(name)
    with plain_errors():
        program = poutine.replay(poutine.uncondition(run.model) if data else run.model, trace=rows)
        return poutine.trace(program).get_trace(*run.args, **run.kwargs)


def rows_of_sites(sites: Mapping[str, Site], ours: str) -> Tensors:
    """The values of sites as rows of the data plate, (batch, \\*event) each; refuses what is none."""
    if not sites:
        raise ValueError(f"Expected the guide of {ours} to draw latents but it has none")
    return tuple(_rows(site, ours) for site in sites.values())


def _rows(site: Site, ours: str) -> Tensor:
    name, fn, value = site["name"], site["fn"], torch.as_tensor(site["value"])
    frames = frames_of(site)
    if len(frames) != 1 or fn.batch_shape.numel() != frames[0].size:
        raise NotImplementedError(
            f"{ours} compares one value of {name!r} for each datum but it has batch shape "
            f"{tuple(fn.batch_shape)} in the plates {[frame.name for frame in frames]}: put it in the data "
            "plate alone, its own axes in to_event"
        )
    _, mask = unweighted_scale_and_mask(site)
    if not (_is_whole(mask) and (_is_whole(_own_mask(fn)) or is_point_mass(fn))):
        raise NotImplementedError(f"{ours} compares whole draws but {name!r} is masked: leave out the mask")
    return value.expand(fn.batch_shape + fn.event_shape).reshape(frames[0].size, *fn.event_shape)


def _own_mask(fn: object) -> Tensor | bool | None:
    """The mask of a distribution by its own ``mask`` method, wherever it is wrapped."""
    while fn is not None:
        if isinstance(fn, MaskedDistribution):
            return fn._mask  # type: ignore[no-any-return]
        fn = getattr(fn, "base_dist", None)
    return None


def _is_whole(mask: Tensor | bool | None) -> bool:
    return mask is None or mask is True


def scale_of(sites: Mapping[str, Site], ours: str) -> Weight:
    """How many data each row stands for, by plates that subsample and by poutine.scale."""
    scales = [unweighted_scale_and_mask(site)[0] for site in sites.values()]
    if any(isinstance(scale, Tensor) and scale.numel() > 1 for scale in scales) or len(set(scales)) != 1:
        raise NotImplementedError(
            f"{ours} compares the sites {list(sites)} as a whole but they are scaled by {scales}: put one "
            "poutine.scale, of a number, around all of them"
        )
    return scales[0]


def check_reparameterised(sites: Mapping[str, Site], ours: str, role: str) -> None:
    """Refuses sites through whose values no gradient would flow, or a wrong one."""
    for name, site in sites.items():
        if not site["fn"].has_rsample or is_relaxed(site["fn"]):
            raise NotImplementedError(
                f"{ours} takes gradients through the draws of the {role}'s site {name!r}, but "
                f"{family_name(site['fn'])} is not reparameterised: use a distribution that is, such as a "
                "Normal"
            )


def check_simulates(simulated: Trace, latents: Mapping[str, Site], ours: str) -> None:
    """Refuses a model whose run without data is no draw of the sites that are compared."""
    for site in sample_sites(simulated):
        name = site["name"]
        if site_is_factor(site):
            raise NotImplementedError(
                f"{ours} draws from the model, which is not possible with the factor {name!r}"
            )
        known = name in latents or site["infer"].get("was_observed") or is_deterministic(site)
        if not known:
            raise ValueError(
                f"Expected the guide to draw every latent site of the model but it lacks {name!r}"
            )
    check_latents(simulated, latents)
    if not observed_sites(simulated):
        raise ValueError(
            f"Expected the model to observe data but it has no site with obs=, which {ours} needs"
        )


def check_latents(simulated: Trace, latents: Mapping[str, Site]) -> None:
    """Refuses a guide that draws what the model does not."""
    if missing := [name for name in latents if name not in simulated.nodes]:
        raise ValueError(f"Expected the model to have every latent site of the guide but it lacks {missing}")


def sites_that_follow_data(model: Program, args: Args, kwargs: Kwargs) -> list[str] | None:
    """The sites of which a model without observations draws other values where its data are others.

    None where the data do not tell, as they are all alike.
    """
    others = [_in_other_rows(each) for each in args], {name: _in_other_rows(kwargs[name]) for name in kwargs}
    given = [*zip(args, others[0], strict=True), *zip(kwargs.values(), others[1].values(), strict=True)]
    if all(one is other or torch.equal(one, other) for one, other in given):  # type: ignore[arg-type]
        return None
    drawn = []
    for some_args, some_kwargs in ((args, kwargs), (tuple(others[0]), others[1])):
        with torch.no_grad(), isolated_random_state(), evaluation_mode(model):
            trace = simulate(GuideRun(model, Trace(), some_args, some_kwargs, both=True))
        drawn.append({site["name"]: torch.as_tensor(site["value"]) for site in sample_sites(trace)})
    first, second = drawn
    return [name for name in first if name not in second or not _alike(first[name], second[name])]


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether values are the same but for what the order of operations may change."""
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    near = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one, other, rtol=near, atol=near)


def _in_other_rows(each: object) -> object:
    return each.roll(1, 0) if isinstance(each, Tensor) and each.dim() else each


# ---- An objective that owns a critic and its optimiser.


class CriticELBO(TraceMeanField_WeightedELBO):
    """The base of objectives that learn the log-ratio of two densities, and train by it.

    ``loss_and_grads`` first takes steps of the critic, each on new draws of the programs, by logistic
    regression; then it evaluates the objective, and its gradients, with the critic as it is. ``loss`` takes
    no steps. A subclass says what is compared (:meth:`_draws`) and what it costs (:meth:`_cost`).

    Args:
        critic: ``critic(*parts)`` scores parts (batch, \\*event) as (batch,).
        critic_optim: makes a torch optimiser of the critic's parameters.
        critic_steps: how many steps of the critic go before each step of model and guide.
        gradient_penalty: the weight of the critic's squared gradient in its loss.
        critic_weight: what the critic's estimate counts in the loss.
        weights: those of other terms.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`.
    """

    critic_term: str
    needs_second: ClassVar[bool] = False
    weighs_rate: ClassVar[bool] = True
    state_of_evaluation: ClassVar = TraceMeanField_WeightedELBO.state_of_evaluation | {"_compared"}

    def __init__(
        self,
        critic: nn.Module,
        *,
        critic_optim: OptimizerFactory = adam,
        critic_steps: int = 1,
        gradient_penalty: float = 0.0,
        critic_weight: TermWeight | None = None,
        weights: Mapping[str, WeightsLike | TermWeight] | None = None,
        **kwargs: object,
    ) -> None:
        if not isinstance(critic, nn.Module):
            raise TypeError(
                f"Expected critic to be a module but got {type(critic).__name__}: use one of "
                "pyro_infomax.nn, such as MLPCritic(x_dim, z_dim)."
            )
        own = {} if critic_weight is None else {self.critic_term: critic_weight}
        for each in own.values():
            if each.sites:
                raise ValueError(
                    f"Expected {each.label} to be one weight, since the critic sees all sites at once, but "
                    f"got one for each of {sorted(each.sites)}."
                )
        super().__init__(weights={**(weights or {}), **own}, **kwargs)
        if self.vectorize_particles and self.num_particles > 1:
            raise ValueError(
                f"Expected vectorize_particles=False of {type(self).__name__}, whose critic compares a draw "
                "for each datum."
            )
        self.critic = critic
        self.critic_steps = whole_number("critic_steps", critic_steps, at_least=0)
        self.gradient_penalty = real_number("gradient_penalty", gradient_penalty, at_least=0.0)
        trained = [each for each in critic.parameters() if each.requires_grad]
        # One whose ratio is known has none, and torch's optimisers refuse that
        self.critic_optim: Optimizer | None = critic_optim(trained) if trained else None
        self._compared: ComparedDraws | None = None

    # ---- what a subclass says

    @abstractmethod
    def _draws(self, run: GuideRun) -> ComparedDraws:
        """What the critic compares; the second part only where both are asked for."""

    def _cost(self, first: Tensor, second: Tensor | None) -> Tensor:  # noqa: ARG002
        """What each row costs by its scores, (batch,)."""
        return first

    # ---- a step: first the critic's, then the objective's

    def loss_and_grads(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """The loss, its gradients added to the parameters' of the programs, after steps of the critic."""
        self._train_critic(model, guide, args, kwargs)
        return super().loss_and_grads(model, guide, *args, **kwargs)

    def differentiable_loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> Tensor:
        """The loss as a tensor, after steps of the critic if gradients are enabled."""
        if torch.is_grad_enabled():
            self._train_critic(model, guide, args, kwargs)
        return super().differentiable_loss(model, guide, *args, **kwargs)

    def surrogate(self, *_: object, **__: object) -> NoReturn:
        """Refuses to be recorded, so that :class:`~pyro_infomax.capture.CapturedSVI` takes ordinary steps.

        Raises:
            NotCapturableError: always.
        """
        raise NotCapturableError(
            f"{type(self).__name__} trains its critic within each step, which a recorded step would leave out"
        )

    def _train_critic(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> None:
        if has_sisters():
            raise NotImplementedError(
                f"{type(self).__name__} trains in one process: critics that see other shares of the data "
                "would become different ones"
            )
        optimizer = self.critic_optim
        if optimizer is None:
            return
        for _ in range(self.critic_steps):
            with torch.no_grad():
                with plain_errors():
                    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
                draws = self._draws(GuideRun(model, guide_trace, args, kwargs, both=True))
            if draws.second is not None:
                self._take_step(optimizer, draws.first, draws.second)

    def _take_step(self, optimizer: Optimizer, first: Tensors, second: Tensors) -> None:
        def closure() -> float:
            optimizer.zero_grad()
            # The one loss whose optimum is the log-ratio and whose gradient cannot explode
            loss = softplus(-self._scores(first)).mean() + softplus(self._scores(second)).mean()
            if self.gradient_penalty:
                squares = self._squared_gradient(first) + self._squared_gradient(second)
                loss = loss + self.gradient_penalty / 4 * squares
            loss.backward()
            return float(loss.detach())

        with torch.enable_grad():
            optimizer.step(closure)
            optimizer.zero_grad()

    def _squared_gradient(self, parts: Tensors) -> Tensor:
        """The mean over rows of the squared gradient of the score in what it scores."""
        inputs = [each.detach().requires_grad_(each.is_floating_point()) for each in parts]
        smooth = [each for each in inputs if each.requires_grad]
        total = self._scores(tuple(inputs)).sum()
        found = torch.autograd.grad(total, smooth, create_graph=True, materialize_grads=True)
        return sum((each.square().sum() for each in found), torch.zeros(())) / len(parts[0])

    def _scores(self, parts: Tensors) -> Tensor:
        scores = self.critic(*parts)
        if not isinstance(scores, Tensor) or scores.shape != parts[0].shape[:1]:
            found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"Expected the critic to score {len(parts)} parts of {len(parts[0])} rows as a tensor of "
                f"shape ({len(parts[0])},) but got {found}."
            )
        return scores

    # ---- an evaluation, which leaves the critic alone

    def _evaluate(
        self, parent: Evaluation, model: Program, guide: Program, args: Args, kwargs: Kwargs
    ) -> Any:
        with _held_fixed(self.critic):
            try:
                return super()._evaluate(parent, model, guide, args, kwargs)
            finally:
                self._compared = None

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        check_reparameterised(latent_sites(guide_trace), type(self).__name__, "guide")
        self._compared = self._draws(GuideRun(model, guide_trace, args, kwargs, both=self.needs_second))
        return model_trace, guide_trace

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Loss, Loss]:
        _, loss = super()._differentiable_loss_particle(model_trace, guide_trace)
        loss = loss + self._weighted_estimate()
        return torch_item(loss), loss

    def _weighted_estimate(self) -> Tensor:
        """What the critic's estimate costs, recorded without its weight."""
        assert self._compared is not None
        first, second, scale = self._compared
        costs = self._cost(self._scores(first), None if second is None else self._scores(second))
        total = costs.sum() * scale
        self._add(self.critic_term, total.detach())
        return total * self._resolved_weights().of_term(self.critic_term, "")

    # A weight that nothing reads would be a wrong loss without a word
    def _check_terms(self, weights: TermWeights) -> None:
        known = {self.critic_term, "rate"} if self.weighs_rate else {self.critic_term}
        if unknown := sorted(set(weights) - known):
            raise ValueError(
                f"Expected no weights of {type(self).__name__} but those that it has arguments for but got "
                f"{unknown}."
            )

    # ---- the state that training leaves, of critic and optimiser too

    def state_dict(self) -> State:
        """The state that training leaves in the objective: steps, the critic, and its optimiser."""
        optim = None if self.critic_optim is None else self.critic_optim.state_dict()
        kept = {"critic": self.critic.state_dict(), "critic_optim": optim}
        return {**super().state_dict(), **copy.deepcopy(kept)}

    def load_state_dict(self, state: State) -> None:
        """Puts the objective back to a saved state.

        Raises:
            ValueError: if the state is not one of :meth:`state_dict` with such a critic.
        """
        keys = {"step", "critic", "critic_optim"}
        if set(state) != keys:
            raise ValueError(f"Expected a state with the keys {sorted(keys)} but got {sorted(state)}")
        here, there = (_shapes(each) for each in (self.critic.state_dict(), state["critic"]))
        if here != there:
            raise ValueError(f"Expected the state of a critic with {here} but got one with {there}")
        if (self.critic_optim is None) != (state["critic_optim"] is None):
            raise ValueError("Expected a state with that of the critic's optimiser, where it has one")
        super().load_state_dict({"step": state["step"]})
        self.critic.load_state_dict(state["critic"])
        if self.critic_optim is not None:
            self.critic_optim.load_state_dict(state["critic_optim"])


def has_sisters() -> bool:
    """Whether other processes train with this one."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return several and torch.distributed.get_world_size() > 1


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in tensors.items() if isinstance(each, Tensor)}


@contextmanager
def _held_fixed(critic: nn.Module) -> Iterator[None]:
    """Has its block pass gradients through a critic and none to it, in evaluation mode."""
    trained = [each for each in critic.parameters() if each.requires_grad]
    for each in trained:
        each.requires_grad_(False)
    try:
        with evaluation_mode(critic):
            yield
    finally:
        for each in trained:
            each.requires_grad_(True)
