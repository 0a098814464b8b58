r"""Objectives with a critic, for divergences between the joints whose densities nobody knows.

A critic that tells draws of one distribution from draws of another estimates the logarithm of the ratio of
their densities, and an objective takes its gradients through the draws. What the critic says is a term of its
own name. It is neither exact nor a bound, so that it never counts as rate, ELBO, or part of the account.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeAlias, final, get_args

import torch
from pyro import poutine
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from pyro.poutine.util import site_is_factor
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.optim import Optimizer

from pyro_infomax._checks import one_of, real_number, whole_number
from pyro_infomax._data import Tensors
from pyro_infomax._recording import is_recording
from pyro_infomax._types import Args, Kwargs, Program, Site, State
from pyro_infomax.distributions import family_name, is_point_mass, is_relaxed, tensors_of
from pyro_infomax.infer._elbo import (
    Loss,
    SurrogateLoss,
    Terms,
    has_sisters,
    subsampled_data,
    unweighted_sum,
)
from pyro_infomax.infer._estimators import TraceMeanField_WeightedELBO, counts_alike, is_reparameterised
from pyro_infomax.infer._latents import (
    GuideRun,
    KnownModels,
    TakenRowsMessenger,
    check_generates,
    data_plate,
    given_rows,
    simulate,
)
from pyro_infomax.infer._weights import (
    GuideRole,
    ModelRole,
    ResolvedWeights,
    TermWeight,
    TermWeights,
    WeightsLike,
)
from pyro_infomax.information import (
    OptimizerFactory,
    OptimizerOperations,
    adam,
    load_trained_state,
    logistic_loss,
    minimise,
    scores_of,
    trained_state,
)
from pyro_infomax.nn import held_fixed
from pyro_infomax.poutine import (
    frames_of,
    is_deterministic,
    plain_errors,
    sample_sites,
    unweighted_scale_and_mask,
)
from pyro_infomax.programs import is_masked

# ---- What a critic compares: draws of two joint distributions, a row for each datum.


class _ComparedDraws(NamedTuple):
    """Draws of two distributions that a critic tells apart.

    Args:
        first: what scores high, parts of (batch, \\*event) each.
        second: what scores low, the same parts of the other distribution; None where nobody asks for them,
            or there are none.
    """

    first: Tensors
    second: Tensors | None


def _latent_sites(guide_trace: Trace, *, auxiliary: bool = False) -> dict[str, Site]:
    """What a guide draws for the model, by name, or for itself too."""
    return {
        site["name"]: site
        for site in sample_sites(guide_trace)
        if not (site["is_observed"] or is_deterministic(site))
        and (auxiliary or not site["infer"].get("is_auxiliary"))
    }


def _observed_sites(simulated: Trace) -> dict[str, Site]:
    """What a simulation has drawn in place of data."""
    return {
        site["name"]: site
        for site in sample_sites(simulated)
        if site["infer"].get("was_observed") and not is_deterministic(site)
    }


def _rows_of_sites(sites: Mapping[str, Site], ours: str) -> Tensors:
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
    around = mask is not None and mask is not True
    if around or (is_masked(site) and not is_point_mass(fn)):
        raise NotImplementedError(f"{ours} compares whole draws but {name!r} is masked: leave out the mask")
    return value.expand(fn.batch_shape + fn.event_shape).reshape(frames[0].size, *fn.event_shape)


def _check_counts(sites: Sequence[Site], ours: str) -> None:
    """Refuses sites that are scaled, weighted or masked apart, or whose rows are."""
    scales = [site["scale"] for site in sites]
    several = any(isinstance(scale, Tensor) and scale.numel() > 1 for scale in scales)
    if several or not all(counts_alike(site, sites[0]) for site in sites):
        raise NotImplementedError(
            f"{ours} compares the sites {list(dict.fromkeys(site['name'] for site in sites))} as a whole but "
            f"they are scaled by {scales}, or masked apart: put one poutine.scale, or weight, of a number "
            "around all of them, in both programs"
        )


def _check_reparameterised(sites: Mapping[str, Site], ours: str, role: str) -> None:
    """Refuses sites through whose values no gradient would flow, or a wrong one."""
    for name, site in sites.items():
        if not is_reparameterised(site["fn"]) or is_relaxed(site["fn"]):
            raise NotImplementedError(
                f"{ours} takes gradients through the draws of the {role}'s site {name!r}, but "
                f"{family_name(site['fn'])} is not reparameterised: use a distribution that is, such as a "
                "Normal"
            )


def _check_one_plate(sites: Iterable[Site], ours: str, *of_data: str) -> None:
    """Refuses sites of several plates, or of another one than that of the data."""
    found = {*of_data, *(frame.name for site in sites for frame in frames_of(site))}
    if len(found) > 1:
        raise NotImplementedError(
            f"{ours} compares what each datum has but sites and data are in the plates {sorted(found)}: draw "
            "all that is compared in the data plate"
        )


def _check_simulates(simulated: Trace, latents: Mapping[str, Site], ours: str) -> None:
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
    _check_latents(simulated, latents)
    if not _observed_sites(simulated):
        raise ValueError(
            f"Expected the model to observe data but it has no site with obs=, which {ours} needs"
        )


def _check_latents(simulated: Trace, latents: Mapping[str, Site]) -> None:
    """Refuses a guide that draws what the model does not."""
    if missing := [name for name in latents if name not in simulated.nodes]:
        raise ValueError(f"Expected the model to have every latent site of the guide but it lacks {missing}")


# ---- An objective that owns a critic and its optimiser.

_NUMBERS: Final = "critic_optim"  # as which they come with the weights of a recorded step


class _CriticELBO(TraceMeanField_WeightedELBO):
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
    drops_factors: ClassVar[bool] = True
    state_of_evaluation: ClassVar = TraceMeanField_WeightedELBO.state_of_evaluation | {"_compared"}
    _compared: _ComparedDraws | None = None

    # What messengers have put at a site is then the user's weight alone, which the critic's term has too
    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls._rate_by_sites = False

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
        # Where the optimiser's tensors or options change, so does this, and what a recording is for
        self._critic_optim_as_recorded = OptimizerOperations(None)

    # ---- what a subclass says

    @abstractmethod
    def _draws(self, run: GuideRun) -> _ComparedDraws:
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

    def surrogate(self, model: Program, guide: Program, *args: object, **kwargs: object) -> SurrogateLoss:
        """The evaluation in tensors alone; what is recorded of it is a training step, with the critic's."""
        if is_recording():
            self._train_critic(model, guide, args, kwargs)
        return super().surrogate(model, guide, *args, **kwargs)

    def _train_critic(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> None:
        if has_sisters():
            raise NotImplementedError(
                f"{type(self).__name__} trains in one process: critics that see other shares of the data "
                "would become different ones"
            )
        optimizer = self.critic_optim
        if optimizer is None:
            return
        for step in range(self.critic_steps):
            with torch.no_grad():
                rows = TakenRowsMessenger()
                with plain_errors():
                    guide_trace = poutine.trace(rows(guide)).get_trace(*args, **kwargs)
                _check_reparameterised(
                    _latent_sites(guide_trace, auxiliary=True), type(self).__name__, "guide"
                )
                self._check_critic(guide_trace)
                draws = self._draws(GuideRun(model, guide_trace, rows.taken, args, kwargs, both=True))
            if draws.second is not None:
                self._take_step(step, optimizer, draws.first, draws.second)

    def _take_step(self, number: int, optimizer: Optimizer, first: Tensors, second: Tensors) -> None:
        loss = partial(logistic_loss, self.critic, first, second, gradient_penalty=self.gradient_penalty)
        if is_recording():
            numbers = self._given_weights.get(_NUMBERS)
            self._critic_optim_as_recorded.step(loss, None if numbers is None else numbers[number])
        else:
            minimise(optimizer, loss)

    # ---- what a captured step needs: what it is for, and the numbers of the critic's optimiser as inputs

    @property
    def own_parameters(self) -> tuple[Tensor, ...]:
        return tuple(self.critic.parameters())

    def look_at_itself(self) -> None:
        found = OptimizerOperations(self.critic_optim if self.critic_steps else None)
        if not found.same_as(self._critic_optim_as_recorded):
            self._critic_optim_as_recorded = found

    def variable_weights(self, *, numbers: bool = False) -> dict[str, Tensor]:
        """The present values of the weights that may change, and the numbers of the critic's next steps."""
        own = self._critic_optim_as_recorded.numbers(1, self.critic_steps)
        return super().variable_weights(numbers=numbers) | ({} if own is None else {_NUMBERS: own[0]})

    def weights_ahead(self, steps: int, *, numbers: bool = False) -> list[tuple[Tensor, ...]]:
        """The values of :meth:`variable_weights` for each of the next training steps."""
        found = super().weights_ahead(steps, numbers=numbers)
        own = self._critic_optim_as_recorded.numbers(steps, self.critic_steps)
        return found if own is None else [(*each, row) for each, row in zip(found, own, strict=True)]

    # ---- an evaluation, which leaves the critic alone

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        rows = TakenRowsMessenger()
        model_trace, guide_trace = super()._get_trace(rows(model), rows(guide), args, kwargs)
        self._check_pair(model_trace, guide_trace)
        if len({frame.name for site in sample_sites(model_trace) for frame in frames_of(site)}) > 1:
            plate = data_plate(model_trace).name
            _check_one_plate(_latent_sites(guide_trace).values(), type(self).__name__, plate)
        run = GuideRun(model, guide_trace, rows.taken, args, kwargs, both=self.needs_second)
        self._keep(model_trace, run)
        return model_trace, guide_trace

    def _keep(self, model_trace: Trace, run: GuideRun) -> None:  # noqa: ARG002
        """Keeps what the evaluation needs beside the traces."""
        self._compared = self._draws(run)

    def _check_pair(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Refuses programs of which the critic's term would be another one than it says."""
        ours, sites = type(self).__name__, _latent_sites(guide_trace)
        _check_latents(model_trace, sites)
        _check_reparameterised(_latent_sites(guide_trace, auxiliary=True), ours, "guide")
        twins = {name: model_trace.nodes[name] for name in sites}
        _rows_of_sites(twins, ours)
        _check_counts([*sites.values(), *twins.values()], ours)
        for site in sample_sites(guide_trace):
            alone = site["is_observed"] and site["name"] not in model_trace.nodes
            if self.drops_factors and alone and not is_deterministic(site):
                raise NotImplementedError(
                    f"{ours} knows the guide by its draws, which say nothing of the factor {site['name']!r}: "
                    "leave it out, or use BetaELBO, which counts it as rate"
                )
        self._check_critic(model_trace, guide_trace)

    def _check_critic(self, *traces: Trace) -> None:
        """Refuses a critic that shares parameters with the programs, which would each train them."""
        for site in (trace.nodes[name] for trace in traces for name in trace.param_nodes):
            leaf = getattr(site["value"], "unconstrained", lambda value=site["value"]: value)()
            # The store's parameter may be another tensor than the module's, of the same memory
            if any(leaf.data_ptr() == each.data_ptr() != 0 for each in self.critic.parameters()):
                raise ValueError(
                    f"Expected a critic with parameters of its own but it has {site['name']!r} of the "
                    "programs: give it a copy of the module, as by copy.deepcopy"
                )

    def _own_costs(
        self, model_trace: Trace, guide_trace: Trace, weights: ResolvedWeights, seen: set[str]
    ) -> Tensor:
        seen.add(self.critic_term)
        loss = super()._own_costs(model_trace, guide_trace, weights, seen)
        return loss + self._weighted_estimate(guide_trace)

    def _weighted_estimate(self, guide_trace: Trace) -> Tensor:
        """What the critic's estimate costs, recorded without its weight."""
        assert self._compared is not None
        first, second = self._compared
        self._compared = None
        with held_fixed(self.critic):
            high = scores_of(self.critic, first)
            costs = self._cost(high, None if second is None else scores_of(self.critic, second))
        names, weights = [*_latent_sites(guide_trace)], self._resolved_weights()
        return self._joint_terms(names, len(costs), {self.critic_term: costs}, guide_trace, weights)

    # A weight that nothing reads would be a wrong loss without a word
    def _check_terms(self, weights: TermWeights) -> None:
        known = {self.critic_term, "rate"} if self.weighs_rate else {self.critic_term}
        if unknown := sorted(set(weights) - known):
            raise ValueError(
                f"Expected no weights of {type(self).__name__} but those that it has arguments for but got "
                f"{unknown}."
            )

    # ---- the state that training leaves, of critic and optimiser too

    # What an evaluation has left, as tensors of its graph after an error, is nothing for a copy
    def __getstate__(self) -> State:
        left = self.state_of_evaluation - TraceMeanField_WeightedELBO.state_of_evaluation
        kept = {name: each for name, each in self.__dict__.items() if name not in left}
        return {**kept, "_critic_optim_as_recorded": OptimizerOperations(None)}

    def state_dict(self) -> State:
        """The state that training leaves in the objective: steps, the critic, and its optimiser."""
        return {**super().state_dict(), **trained_state(self.critic, self.critic_optim)}

    def load_state_dict(self, state: State) -> None:
        """Puts the objective back to a saved state.

        Raises:
            ValueError: if the state is not one of :meth:`state_dict` with such a critic.
        """
        keys = {"step", "critic", "critic_optim"}
        if set(state) != keys:
            raise ValueError(f"Expected a state with the keys {sorted(keys)} but got {sorted(state)}")
        whole_number("step", state["step"], at_least=0)  # before anything is loaded
        load_trained_state(self.critic, self.critic_optim, state)
        super().load_state_dict({"step": state["step"]})


# ---- Total correlation, by a critic between latents and their shuffled dimensions.


@final
class FactorVAE(_CriticELBO):
    r"""The β-VAE objective and γ times the total correlation of the latents, by a critic.

    .. math:: D + \beta R + \gamma \, \mathrm{TC}, \qquad
        \mathrm{TC} = \mathrm{KL}\Big[q(z) \,\Big\Vert\, \prod_j q(z_j)\Big]
        \approx \mathrm{E}_{q(z)} T(z)

    In terms of the account: R = I + TC + dimension-wise KL, so that γ weights TC once more, and leaves the
    mutual information alone. The critic tells latents from latents whose dimensions were shuffled over the
    minibatch, each by itself; those of all latent sites stand side by side in one row, in the guide's order.
    With the optimal critic the gradient is that of the total correlation.

    ``terms`` has ``critic_total_correlation`` beside distortion, rate and ELBO, of which it is no part.
    :class:`DecomposedELBO` weights TC without a critic, by the mixture of the minibatch, which needs the
    density of q(z|x).

    Reference: Kim and Mnih (2018), Disentangling by factorising. There both terms take turns on two
    minibatches; here the critic's steps come first, on draws of their own.

    Args:
        critic: scores latents (batch, d), of all latent dimensions d, as (batch,).
        gamma: the weight of the total correlation: a finite number, a tensor or a schedule.
        beta: the weight of the rate, as of :class:`TraceMeanField_BetaELBO`.
        critic_optim: makes a torch optimiser of the critic's parameters; by default Adam at the rate 0.001.
            :class:`~pyro_infomax.capture.CapturedSVI` records the steps of Adam, AdamW and SGD.
        critic_steps: how many steps of the critic go before each step of model and guide; with 0 it stays
            as it is.
        gradient_penalty: the weight c of :math:`\tfrac c2 \, \mathrm{E} \Vert \nabla T \Vert^2` in the
            critic's loss, the mean of both sides. It steadies the training, and makes estimates too small.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, save ``vectorize_particles``.

    Raises:
        ValueError: for a weight out of range, a single latent dimension, or a critic that shares parameters
            with the programs.
        NotImplementedError: for a guide's draws that are not reparameterised, latents not one a datum, masked
            or scaled in one program alone, and several processes.

    Example:
        >>> from pyro_infomax.nn import QuadraticCritic
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(
        ...     S=[2.0, 1.0], W=[[1.0, 0.0], [0.0, 1.0]], s2=1.0, V=[[0.5, 0.5], [0.0, 0.5]], Delta=[0.2, 0.2]
        ... )
        >>> elbo = FactorVAE(QuadraticCritic(2), gamma=5.0)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> elbo.terms.critic_total_correlation  # a critic that has learned nothing yet
        0.0
    """

    critic_term = "critic_total_correlation"
    drops_factors = False

    def __init__(
        self, critic: nn.Module, gamma: WeightsLike = 10.0, *, beta: WeightsLike = 1.0, **kwargs: object
    ) -> None:
        super().__init__(
            critic,
            critic_weight=TermWeight("gamma", gamma, above=-math.inf),
            weights={"rate": TermWeight("beta", beta)},
            **kwargs,  # type: ignore[arg-type]
        )

    def _draws(self, run: GuideRun) -> _ComparedDraws:
        ours, sites = type(self).__name__, _latent_sites(run.guide_trace)
        values = _rows_of_sites(sites, ours)
        z = torch.cat([each.reshape(len(each), -1) for each in values], dim=1)  # (batch, latent)
        size, dim = z.shape
        if dim < 2:
            raise ValueError(f"Expected at least 2 latent dimensions, to be independent, but got {dim}.")
        # A lone row has nothing to be shuffled with
        order = torch.rand(size, dim, device=z.device).argsort(0) if run.both and size > 1 else None
        return _ComparedDraws((z,), None if order is None else (z.gather(0, order),))


# ---- The rate of guides that can be drawn from and have no density.


@final
class AVB(_CriticELBO):
    r"""The ELBO of a guide without a density (adversarial variational Bayes): its rate by a critic.

    .. math:: D + \beta \, \mathrm{E} \, T(x, z), \qquad
        T \approx \log \frac{q(z \mid x)}{p(z)}, \qquad \mathrm{E} \, T \approx R

    The guide draws z by any network from x and noise, as a point mass at what it has computed::

        noise = torch.randn(len(x), 8)
        pyro.sample("z", dist.Delta(encoder(torch.cat([x, noise], -1)), event_dim=1))

    The critic tells latents of the guide from latents of the prior, each beside its datum. With the optimal
    critic the gradient is that of −ELBO, with respect to the guide through its draws, to the decoder through
    log p(x|z), and to a prior with parameters through log p(z) at the guide's draws.

    ``terms`` has ``distortion`` and ``critic_rate``. There is no ``rate`` and no ``elbo``: what a critic says
    is no bound on anything.

    Reference: Mescheder, Nowozin and Geiger (2017), Adversarial variational Bayes: unifying variational
    autoencoders and generative adversarial networks.

    Args:
        critic: ``critic(*data, *latents)`` scores as (batch,): the tensors that model and guide are called
            with, (batch, \*event) each, then the latent sites in the guide's order.
        beta: the weight of the critic's estimate of the rate: a number or tensor >= 0, or a schedule.
        critic_optim, critic_steps, gradient_penalty: as of :class:`FactorVAE`. The ELBO needs a critic that
            is close to the optimum, so give it more than one step.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, save ``vectorize_particles``.

    Raises:
        ValueError: as :class:`FactorVAE`, and for data that are not rows of the data plate.
        NotImplementedError: as :class:`FactorVAE`, for factors of the guide, and learned point-mass priors.

    Example:
        >>> from pyro_infomax.nn import QuadraticCritic
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = AVB(QuadraticCritic(1, 1), critic_steps=5)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> list(elbo.terms)
        ['distortion', 'loss', 'critic_rate']
    """

    critic_term = "critic_rate"
    weighs_rate = False
    state_of_evaluation = _CriticELBO.state_of_evaluation | {"_prior_score"}
    _prior_score: Tensor | float = 0.0

    def __init__(self, critic: nn.Module, beta: WeightsLike = 1.0, **kwargs: object) -> None:
        super().__init__(critic, critic_weight=TermWeight("beta", beta), **kwargs)  # type: ignore[arg-type]

    def _draws(self, run: GuideRun) -> _ComparedDraws:
        ours, sites = type(self).__name__, _latent_sites(run.guide_trace)
        latents = _rows_of_sites(sites, ours)
        data = self._data(run.args, run.kwargs, len(latents[0]))
        second = None
        if run.both:
            simulated = simulate(run, data=False)
            _check_latents(simulated, sites)
            second = (*data, *_rows_of_sites({name: simulated.nodes[name] for name in sites}, ours))
        return _ComparedDraws((*data, *latents), second)

    def _data(self, args: Args, kwargs: Kwargs, size: int) -> tuple[Tensor, ...]:
        data = tuple(each for each in args if isinstance(each, Tensor))
        lengths = [len(each) if each.dim() else None for each in data]
        others = len(given_rows(args, kwargs)) - len(data)
        if set(lengths) != {size} or others:
            raise ValueError(
                f"Expected data as arguments of {size} rows, as many as the plate of the latents has, but "
                f"got {len(data)} tensors of the lengths {lengths}, and {others} elsewhere: the critic sees "
                "latents beside their data, so pass the rows of a minibatch as tensors, each by position."
            )
        return data

    def _keep(self, model_trace: Trace, run: GuideRun) -> None:
        super()._keep(model_trace, run)
        self._prior_score = self._score_of_prior(model_trace, run)

    def _score_of_prior(self, model_trace: Trace, run: GuideRun) -> Tensor | float:
        """log p(z) of draws that are held fixed, through which the prior's parameters get their gradient."""
        sites = _latent_sites(run.guide_trace)
        if not (torch.is_grad_enabled() and any(_has_gradient(model_trace, site) for site in sites.values())):
            return 0.0
        # A prior may depend on latents before it, whose values must be held fixed as well
        fixed = run.rows.copy()
        for name, site in sites.items():
            fixed.add_node(name, **{**site, "value": site["value"].detach()})
        trace = simulate(run._replace(rows=fixed), data=False)
        learned = [name for name, site in sites.items() if _has_gradient(trace, site)]
        if points := [name for name in learned if is_point_mass(trace.nodes[name]["fn"])]:
            raise NotImplementedError(
                f"AVB trains the prior by its density but the model draws {points} as point masses, which "
                "have none: use AdversarialELBO, or a prior with a density"
            )
        trace.compute_log_prob(lambda name, _: name in learned)
        return sum((trace.nodes[name]["log_prob_sum"] for name in learned), torch.zeros(()))

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Loss, Loss]:
        loss = torch.zeros(())
        for site in sample_sites(model_trace):
            if site["is_observed"]:
                self._add("distortion", -unweighted_sum(site))
                loss = loss - site["log_prob_sum"]
        loss = loss + self._weighted_estimate(guide_trace)
        weight = self._resolved_weights().of_term(self.critic_term, "")
        prior = weight * self._prior_score
        surrogate = loss - prior + (prior.detach() if isinstance(prior, Tensor) else prior)
        self._prior_score = 0.0
        return torch_item(loss), surrogate

    def _reset(self) -> None:
        super()._reset()
        del self._sums["rate"]

    def _named_terms(self, values: dict[str, float], loss: float) -> Terms:
        return Terms(distortion=values.pop("distortion"), loss=loss, **values)


def _has_gradient(model_trace: Trace, site: Site) -> bool:
    """Whether parameters of the model have a gradient by their prior of a latent site."""
    fn: Any = model_trace.nodes[site["name"]]["fn"]
    if is_point_mass(fn):
        return any(each.requires_grad for _, each in tensors_of(fn))
    return bool(fn.log_prob(site["value"].detach()).requires_grad)


# ---- Divergences between the two joints.

JointDivergence: TypeAlias = Literal["js", "kl", "reverse_kl", "jeffreys"]


class _DualForm(NamedTuple):
    """A divergence of Q from P as the largest value of E_Q f(T) + E_P g(T), over all critics T."""

    on_first: Callable[[Tensor], Tensor]
    on_second: Callable[[Tensor], Tensor]


_DIVERGENCES: Final = {
    "js": _DualForm(
        lambda t: (logsigmoid(t) + math.log(2)) / 2, lambda t: (logsigmoid(-t) + math.log(2)) / 2
    ),
    "kl": _DualForm(lambda t: t, lambda t: 1 - t.exp()),
    "reverse_kl": _DualForm(lambda t: 1 - (-t).exp(), lambda t: -t),
    "jeffreys": _DualForm(lambda t: t + 1 - (-t).exp(), lambda t: -t + 1 - t.exp()),
}


class _JointELBO(_CriticELBO):
    """Objectives whose critic tells the representation joint from the generative joint."""

    needs_second = True
    divergence: JointDivergence
    state_of_evaluation = _CriticELBO.state_of_evaluation | {"_generates"}
    _generates: KnownModels = ()

    def _check_generates(self, run: GuideRun) -> None:
        """Refuses a model that reads data; asked once in each mode, after it has created its parameters."""
        if not is_recording():
            ours = type(self).__name__
            self._generates = check_generates(ours, run.model, run.args, run.kwargs, self._generates)

    def _draws(self, run: GuideRun) -> _ComparedDraws:
        return self._compare(simulate(run), run)

    def _compare(self, simulated: Trace, run: GuideRun) -> _ComparedDraws:
        ours, latents = type(self).__name__, _latent_sites(run.guide_trace)
        _check_simulates(simulated, latents, ours)
        observed = _observed_sites(simulated)
        self._check_covariates(observed, run)
        self._check_generates(run)
        data = {name: {**site, "value": site["infer"]["obs"]} for name, site in observed.items()}
        drawn = {**observed, **{name: simulated.nodes[name] for name in latents}}
        _check_reparameterised(drawn, ours, "model")
        given = {**data, **latents}
        found = _ComparedDraws(_rows_of_sites(given, ours), _rows_of_sites(drawn, ours))
        _check_one_plate([*given.values(), *drawn.values()], ours)
        _check_counts([*given.values(), *drawn.values()], ours)
        return found

    def _check_covariates(self, observed: Mapping[str, object], run: GuideRun) -> None:
        given = given_rows(run.args, run.kwargs)
        if len(given) > len(observed):
            raise NotImplementedError(
                f"{type(self).__name__} compares the observed sites {list(observed)} and the latents but the "
                f"programs are given {len(given)} tensors: what they condition on without observing it the "
                "critic would not see"
            )

    def _cost(self, first: Tensor, second: Tensor | None) -> Tensor:
        assert second is not None
        on_first, on_second = _DIVERGENCES[self.divergence]
        return on_first(first) + on_second(second)


@final
class AdversarialELBO(_JointELBO):
    r"""A divergence between the two joints by a critic alone (adversarially learned inference, BiGAN).

    .. math:: \mathrm{D}\big[\, q(z \mid x)\, p_\mathcal{D}(x) \,\Vert\, p(z)\, p(x \mid z) \,\big]
        = \sup_T \; \mathrm{E}_Q f(T(x, z)) + \mathrm{E}_P g(T(x, z))

    The critic tells data with their latents, from the guide, from draws of the model. No density is computed:
    guide and decoder may be implicit, as point masses at what a network has computed. All divergences are
    least, 0, where the joints are equal, and so where every quantity of the account is what the model says.
    Away from that point they differ:

    - ``"js"``: Jensen and Shannon's, at most ln 2. f = ½ ln 2σ(T), g = ½ ln 2σ(−T). Its gradient vanishes
      where the critic is sure.
    - ``"kl"``: KL(Q‖P) = D + R − H[X], what the ELBO minimises. f = T, g = 1 − exp T.
    - ``"reverse_kl"``: KL(P‖Q). f = 1 − exp(−T), g = −T.
    - ``"jeffreys"``: the sum of the last two.

    The optimal T is ln Q/P for all of them, so that one critic serves, which is trained by logistic
    regression. At the optimal critic value and gradient are those of the divergence, with respect to the
    guide and to the model; below it, the expected value of a critic on draws that are new to it is a lower
    bound. The exponentials make the last three unbearable to minibatches where the joints hardly overlap.

    With an empirical p_D and the densities of a decoder the KL divergences are infinite, and J-S is ln 2,
    which no critic finds on finite data: a critic that is strong enough does not generalise, and a weaker
    one, or a gradient penalty, smooths p_D. On draws from a density, such as those of
    :class:`~pyro_infomax.oracles.LinearGaussian`, all are finite.

    ``terms`` has ``critic_js``, ``critic_kl``, ``critic_reverse_kl`` or ``critic_jeffreys``, and ``loss``,
    the same number. There is no distortion, rate or ELBO; :func:`~pyro_infomax.diagnostics.decompose` has
    them where the programs have densities.

    References: Dumoulin et al. (2017), Adversarially learned inference; Donahue, Krähenbühl and Darrell
    (2017), Adversarial feature learning; Nowozin, Cseke and Tomioka (2016), f-GAN: training generative neural
    samplers using variational divergence minimization.

    Args:
        critic: ``critic(*observed, *latents)`` scores as (batch,): the observed sites of the model in their
            order, then the latent sites in the guide's order, (batch, \*event) each.
        divergence: ``"js"``, ``"kl"``, ``"reverse_kl"`` or ``"jeffreys"``.
        critic_optim, critic_steps, gradient_penalty: as of :class:`FactorVAE`.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, save ``vectorize_particles``.

    Raises:
        ValueError: for another divergence, or a critic that shares parameters with the programs.
        NotImplementedError: for latent or observed sites of either program that are not reparameterised, not
            one a datum, masked, or not of one scale, for factors, for a model that conditions on data
            (covariates, or a decoder that reads data rather than what it has sampled; which does not show
            without tensors as arguments), and in several processes.

    Example:
        >>> from pyro_infomax.nn import QuadraticCritic
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = AdversarialELBO(QuadraticCritic(1, 1))
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> list(elbo.terms)
        ['critic_js', 'loss']
    """

    weighs_rate = False

    def __init__(self, critic: nn.Module, divergence: JointDivergence = "js", **kwargs: object) -> None:
        one_of("divergence", divergence, get_args(JointDivergence))
        self.divergence = divergence
        self.critic_term = f"critic_{divergence}"
        super().__init__(critic, **kwargs)  # type: ignore[arg-type]

    # Nothing is scored: the programs are run for their draws
    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        weights = self._resolved_weights()
        guide_role = GuideRole(weights, guide, refuse_enumeration=self._refuse_enumeration())
        rows = TakenRowsMessenger()
        with plain_errors():
            guide_trace = poutine.trace(guide_role(rows(guide))).get_trace(*args, **kwargs)
        program = ModelRole(weights, guide_role)(model)
        run = GuideRun(program, guide_trace, rows.taken, args, kwargs, both=True)
        simulated = simulate(run)
        self._check_pair(simulated, guide_trace)
        observed = _observed_sites(simulated)
        self._subsampled = subsampled_data(simulated, args, lambda site: site["name"] in observed)
        self._compared = self._compare(simulated, run._replace(model=model))
        return simulated, guide_trace

    def _differentiable_loss_particle(self, _: Trace, guide_trace: Trace) -> tuple[Loss, Loss]:
        loss = self._weighted_estimate(guide_trace)
        return torch_item(loss), loss

    def _reset(self) -> None:
        self._sums, self._summed = {}, self.num_particles

    def _named_terms(self, values: dict[str, float], loss: float) -> Terms:
        return Terms(**values, loss=loss)


@final
class SymmetricELBO(_JointELBO):
    r"""Jeffreys' divergence between the two joints: the negative ELBO, and the other direction by a critic.

    .. math:: \underbrace{D + \beta R}_{\mathrm{KL}(Q \Vert P) + H[X] \text{ at } \beta = 1}
        + \gamma \, \mathrm{KL}(P \Vert Q), \qquad
        \mathrm{KL}(P \Vert Q) = \sup_T \; \mathrm{E}_P [-T] + \mathrm{E}_Q [1 - e^{-T}]

    for Q = q(z|x) p_D(x) and P = p(z) p(x|z). What has a density is exact: distortion, rate and their
    gradients are those of the ELBO. The other direction needs the density of p_D(x), which nobody knows, and
    so a critic. Where that direction counts, draws of the model that no datum resembles cost, and
    latents that the prior has and no datum is given do too.

    With an empirical p_D and the densities of a decoder KL(P‖Q) is infinite, so that a number that a critic
    finds there is one of the critic, not of the joints: use it where the data are new draws in each step, or
    so many that the critic cannot know them. :class:`ReverseKL` has the gradient for the guide without a
    critic.

    ``terms`` has ``critic_reverse_kl`` beside distortion, rate and ELBO, of which it is no part. At the
    optimal critic distortion + rate − H[X] + critic_reverse_kl is Jeffreys' divergence.

    References: Pu, Wang, Henao, Chen, Gan, Li and Carin (2017), Adversarial symmetric variational
    autoencoder; Nguyen, Wainwright and Jordan (2010), Estimating divergence functionals and the likelihood
    ratio by convex risk minimization.

    Args:
        critic: ``critic(*observed, *latents)``, as of :class:`AdversarialELBO`.
        gamma: the weight of KL(P‖Q): a number or tensor >= 0, or a schedule.
        beta: the weight of the rate, as of :class:`TraceMeanField_BetaELBO`.
        critic_optim, critic_steps, gradient_penalty: as of :class:`FactorVAE`.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, save ``vectorize_particles``.

    Raises:
        ValueError: for a weight out of range, or a critic that shares parameters with the programs.
        NotImplementedError: as :class:`AdversarialELBO`.

    Example:
        >>> from pyro_infomax.nn import QuadraticCritic
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = SymmetricELBO(QuadraticCritic(1, 1))
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> list(elbo.terms)
        ['distortion', 'rate', 'elbo', 'loss', 'critic_reverse_kl']
    """

    critic_term = "critic_reverse_kl"
    divergence = "reverse_kl"

    def __init__(
        self, critic: nn.Module, gamma: WeightsLike = 1.0, *, beta: WeightsLike = 1.0, **kwargs: object
    ) -> None:
        super().__init__(
            critic,
            critic_weight=TermWeight("gamma", gamma),
            weights={"rate": TermWeight("beta", beta)},
            **kwargs,  # type: ignore[arg-type]
        )
