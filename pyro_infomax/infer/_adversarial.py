r"""Objectives with a critic, for divergences between the joints whose densities nobody knows.

A critic that tells draws of one distribution from draws of another estimates the logarithm of the ratio of
their densities, and an objective takes its gradients through the draws. What the critic says is a term of its
own name. It is neither exact nor a bound, so that it never counts as rate, ELBO, or part of the account.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias, final, get_args

import torch
from pyro import poutine
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyro_infomax._checks import one_of
from pyro_infomax._types import Args, Kwargs, Program, Site
from pyro_infomax.distributions import is_point_mass
from pyro_infomax.infer._critic_step import (
    ComparedDraws,
    CriticELBO,
    GuideRun,
    check_latents,
    check_reparameterised,
    check_simulates,
    latent_sites,
    observed_sites,
    rows_of_sites,
    scale_of,
    simulate,
    sites_that_follow_data,
)
from pyro_infomax.infer._elbo import Evaluation, Loss, Terms, subsampled_data, unweighted_sum
from pyro_infomax.infer._estimators import _unweighted_rate
from pyro_infomax.infer._weights import GuideRole, ModelRole, TermWeight, WeightsLike
from pyro_infomax.poutine import plain_errors, sample_sites

# ---- Total correlation, by a critic between latents and their shuffled dimensions.


@final
class FactorVAE(CriticELBO):
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
        critic_steps: how many steps of the critic go before each step of model and guide; with 0 it stays
            as it is.
        gradient_penalty: the weight c of :math:`\tfrac c2 \, \mathrm{E} \Vert \nabla T \Vert^2` in the
            critic's loss, the mean of both sides. It steadies the training, and makes estimates too small.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, save ``vectorize_particles``.

    Raises:
        ValueError: for a weight out of range, or a single latent dimension.
        NotImplementedError: for latents that are not reparameterised, not one a datum, or masked, and in
            several processes. :class:`~pyro_infomax.capture.CapturedSVI` goes on by ordinary steps.

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

    def __init__(
        self, critic: nn.Module, gamma: WeightsLike = 10.0, *, beta: WeightsLike = 1.0, **kwargs: object
    ) -> None:
        super().__init__(
            critic,
            critic_weight=TermWeight("gamma", gamma, above=-math.inf),
            weights={"rate": TermWeight("beta", beta)},
            **kwargs,  # type: ignore[arg-type]
        )

    def _draws(self, run: GuideRun) -> ComparedDraws:
        ours, sites = type(self).__name__, latent_sites(run.guide_trace)
        values = rows_of_sites(sites, ours)
        z = torch.cat([each.reshape(len(each), -1) for each in values], dim=1)  # (batch, latent)
        size, dim = z.shape
        if dim < 2:
            raise ValueError(f"Expected at least 2 latent dimensions, to be independent, but got {dim}.")
        # A lone row has nothing to be shuffled with
        order = torch.rand(size, dim, device=z.device).argsort(0) if run.both and size > 1 else None
        return ComparedDraws((z,), None if order is None else (z.gather(0, order),), scale_of(sites, ours))


# ---- The rate of guides that can be drawn from and have no density.


@final
class AVB(CriticELBO):
    r"""The ELBO of a guide without a density (adversarial variational Bayes): its rate by a critic.

    .. math:: D + \beta \, \mathrm{E} \, T(x, z), \qquad
        T \approx \log \frac{q(z \mid x)}{p(z)}, \qquad \mathrm{E} \, T \approx R

    The guide draws z by any network from x and noise, as a point mass at what it has computed::

        noise = torch.randn(len(x), 8)
        pyro.sample("z", dist.Delta(encoder(torch.cat([x, noise], -1)), event_dim=1))

    The critic tells latents of the guide from latents of the prior, each beside its datum. With the optimal
    critic the gradient is that of −ELBO, with respect to the guide through its draws, to the decoder through
    log p(x|z), and to a prior with parameters through log p(z) at the guide's draws.

    ``terms`` has ``distortion`` and ``critic_rate``. There is no ``rate`` and no ``elbo``, unless the guide
    has a density after all: a critic's estimate is no bound on anything.

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
        ValueError: for a weight out of range, or data that are not rows of the data plate.
        NotImplementedError: for latents that are not reparameterised, not one a datum, or masked, and in
            several processes. :class:`~pyro_infomax.capture.CapturedSVI` goes on by ordinary steps.

    Example:
        >>> from pyro_infomax.nn import QuadraticCritic
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = AVB(QuadraticCritic(1, 1), critic_steps=5)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> list(elbo.terms)  # this guide has a density, and so there is a rate
        ['distortion', 'rate', 'elbo', 'loss', 'critic_rate']
    """

    critic_term = "critic_rate"
    weighs_rate = False
    state_of_evaluation = CriticELBO.state_of_evaluation | {"_prior_score"}

    def __init__(self, critic: nn.Module, beta: WeightsLike = 1.0, **kwargs: object) -> None:
        self._prior_score: Tensor | float = 0.0
        super().__init__(critic, critic_weight=TermWeight("beta", beta), **kwargs)  # type: ignore[arg-type]

    def _draws(self, run: GuideRun) -> ComparedDraws:
        ours, sites = type(self).__name__, latent_sites(run.guide_trace)
        latents = rows_of_sites(sites, ours)
        data = self._data(run.args, run.kwargs, len(latents[0]))
        second = None
        if run.both:
            simulated = simulate(run, data=False)
            check_latents(simulated, sites)
            second = (*data, *rows_of_sites({name: simulated.nodes[name] for name in sites}, ours))
        return ComparedDraws((*data, *latents), second, scale_of(sites, ours))

    def _data(self, args: Args, kwargs: Kwargs, size: int) -> tuple[Tensor, ...]:
        data = tuple(each for each in args if isinstance(each, Tensor))
        lengths = [len(each) if each.dim() else None for each in data]
        if not data or set(lengths) != {size} or any(isinstance(each, Tensor) for each in kwargs.values()):
            raise ValueError(
                f"Expected data as arguments of {size} rows, as many as the plate of the latents has, but "
                f"got {len(data)} tensors of the lengths {lengths}: the critic sees latents beside their "
                "data, so pass the rows of a minibatch, by position."
            )
        return data

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        self._prior_score = self._score_of_prior(model, model_trace, guide_trace, args, kwargs)
        return model_trace, guide_trace

    def _score_of_prior(
        self, model: Program, model_trace: Trace, guide_trace: Trace, args: Args, kwargs: Kwargs
    ) -> Tensor | float:
        """log p(z) of draws that are held fixed, through which the prior's parameters get their gradient."""
        sites = latent_sites(guide_trace)
        twins: dict[str, Site] = {name: model_trace.nodes[name] for name in sites}
        scores = (twins[name]["fn"].log_prob(site["value"].detach()) for name, site in sites.items())
        if not (torch.is_grad_enabled() and any(each.requires_grad for each in scores)):
            return 0.0
        # A prior may depend on latents before it, whose values must be held fixed as well
        fixed = guide_trace.copy()
        for name, site in sites.items():
            fixed.remove_node(name)
            fixed.add_node(name, **{**site, "value": site["value"].detach()})
        with plain_errors():
            trace = poutine.trace(poutine.replay(model, trace=fixed)).get_trace(*args, **kwargs)
        trace.compute_log_prob(lambda name, _: name in sites)
        return sum((trace.nodes[name]["log_prob_sum"] for name in sites), torch.zeros(()))

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Loss, Loss]:
        loss = torch.zeros(())
        for site in sample_sites(model_trace):
            if site["is_observed"]:
                self._add("distortion", -unweighted_sum(site))
                loss = loss - site["log_prob_sum"]
        sites = latent_sites(guide_trace)
        # What the guide alone draws is noise on the way to z, which then has no density that is known
        auxiliary = any(site["infer"].get("is_auxiliary") for site in sample_sites(guide_trace))
        if not auxiliary and not any(is_point_mass(site["fn"]) for site in sites.values()):
            for name, site in sites.items():
                self._add("rate", _unweighted_rate(model_trace.nodes[name], site))
        loss = loss + self._weighted_estimate()
        weight = self._resolved_weights().of_term(self.critic_term, "")
        prior = weight * self._prior_score
        surrogate = loss - prior + (prior.detach() if isinstance(prior, Tensor) else prior)
        self._prior_score = 0.0
        return torch_item(loss), surrogate

    def _reset(self) -> None:
        super()._reset()
        del self._sums["rate"]

    def _named_terms(self, values: dict[str, float], loss: float) -> Terms:
        if "rate" in values:
            return super()._named_terms(values, loss)
        return Terms(distortion=values.pop("distortion"), loss=loss, **values)


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


class _JointELBO(CriticELBO):
    """Objectives whose critic tells the representation joint from the generative joint."""

    needs_second = True
    divergence: JointDivergence
    state_of_evaluation = CriticELBO.state_of_evaluation | {"_generates"}
    _generates: tuple[int, ...] = ()

    def _evaluate(
        self, parent: Evaluation, model: Program, guide: Program, args: Args, kwargs: Kwargs
    ) -> Any:
        found = super()._evaluate(parent, model, guide, args, kwargs)
        # Once for a model, and after it has created its parameters
        parts = getattr(model, "__self__", model), getattr(model, "__func__", model)
        if self._generates != tuple(map(id, parts)):
            follow = sites_that_follow_data(model, args, kwargs)
            if follow:
                raise NotImplementedError(
                    f"{type(self).__name__} draws data from the model, but what it draws of {follow} depends "
                    "on the data that it is given: let it depend on parameters and on what was sampled alone"
                )
            self._generates = () if follow is None else tuple(map(id, parts))
        return found

    def _draws(self, run: GuideRun) -> ComparedDraws:
        return self._compare(simulate(run), run)

    def _compare(self, simulated: Trace, run: GuideRun) -> ComparedDraws:
        ours, latents = type(self).__name__, latent_sites(run.guide_trace)
        check_simulates(simulated, latents, ours)
        observed = observed_sites(simulated)
        self._check_covariates(observed, run)
        data = {name: {**site, "value": site["infer"]["obs"]} for name, site in observed.items()}
        drawn = {**observed, **{name: simulated.nodes[name] for name in latents}}
        check_reparameterised(drawn, ours, "model")
        given = {**data, **latents}
        return ComparedDraws(rows_of_sites(given, ours), rows_of_sites(drawn, ours), scale_of(given, ours))

    def _check_covariates(self, observed: Mapping[str, object], run: GuideRun) -> None:
        given = [
            each for each in (*run.args, *run.kwargs.values()) if isinstance(each, Tensor) and each.dim()
        ]
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
        ValueError: for another divergence.
        NotImplementedError: for latent or observed sites of either program that are not reparameterised, not
            one a datum, or masked, for factors, for a model that conditions on data (covariates, or a decoder
            that reads data rather than what it has sampled), and in several processes.
            :class:`~pyro_infomax.capture.CapturedSVI` goes on by ordinary steps.

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
        with plain_errors():
            guide_trace = poutine.trace(guide_role(guide)).get_trace(*args, **kwargs)
        run = GuideRun(ModelRole(weights, guide_role)(model), guide_trace, args, kwargs, both=True)
        simulated = simulate(run)
        check_reparameterised(latent_sites(guide_trace), type(self).__name__, "guide")
        observed = observed_sites(simulated)
        self._subsampled = subsampled_data(simulated, args, lambda site: site["name"] in observed)
        self._compared = self._compare(simulated, run)
        return simulated, guide_trace

    def _differentiable_loss_particle(self, *_: Trace) -> tuple[Loss, Loss]:
        loss = self._weighted_estimate()
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
        ValueError: for a weight out of range.
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
