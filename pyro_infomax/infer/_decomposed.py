r"""Weights on the parts of the rate: information, and what the aggregate posterior differs from the prior by.

Everything here compares the draws of a minibatch with the mixture of its posteriors, by minibatch stratified
sampling.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast, final

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution

from pyro_infomax._checks import whole_number
from pyro_infomax._types import Args, Kwargs, Program
from pyro_infomax.distributions import is_factorised, marginals_of
from pyro_infomax.infer._elbo import WeightedELBO, subsampled_data
from pyro_infomax.infer._estimators import TraceMeanField_WeightedELBO
from pyro_infomax.infer._latents import LocalLatents
from pyro_infomax.infer._weights import ResolvedWeights, SiteWeights, TermWeight, WeightsLike
from pyro_infomax.information import BatchMixture, InverseMultiquadric, Kernel, batch_mmd
from pyro_infomax.poutine import sample_sites

# ---- What compares the data of a minibatch has to know of how many it was drawn.


class SizedELBO(TraceMeanField_WeightedELBO):
    """The base of objectives whose terms depend on the number of data that a minibatch was drawn from.

    Args:
        data_size: N; None where the plate says it, or where it is not needed.
        **kwargs: those of :class:`TraceMeanField_WeightedELBO`.
    """

    state_of_evaluation: ClassVar = WeightedELBO.state_of_evaluation | {"_plate_size"}

    def __init__(self, *, data_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_size = None if data_size is None else whole_number("data_size", data_size, at_least=2)
        self._plate_size: int | None = None

    def size_of(self, latents: LocalLatents) -> int:
        """N, the number of data that the minibatch was drawn from.

        Raises:
            ValueError: where it is neither in the plate nor given, or is both and differs.
        """
        rows, whole = latents.batch_size, latents.plate_size
        if whole > rows:
            self._plate_size = whole
        known = whole if whole in (self._plate_size, self.data_size) else None
        if self.data_size is not None and whole > rows and known != self.data_size:
            raise ValueError(
                f"Expected data_size={whole}, the size of the data plate, but got {self.data_size}: leave it "
                "out, or correct the plate"
            )
        size = self.data_size or known
        if size is None:
            raise ValueError(
                f"Expected to know how many data a minibatch of {rows} was drawn from but the data plate is "
                f"of {rows} too: pass data_size=N ({rows} where these are all), or write the plate as "
                'pyro.plate("data", N, subsample_size=len(x))'
            )
        if rows > size:
            raise ValueError(f"Expected at most data_size={size} data in a minibatch but got {rows}.")
        return size


# ---- What all of them share: the mixture of a minibatch, its size, and the sign of the information.


class AggregateELBO(SizedELBO):
    """The base of objectives whose terms are of the aggregate posterior; a subclass splits the marginal KL.

    Args:
        information: the weight of the mutual information, of any sign.
        weights: those of the other terms, >= 0.
        data_size: N; None where the plate says it.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`.

    Example:
        >>> class Halved(AggregateELBO):
        ...     def __init__(self, *, data_size):
        ...         super().__init__(information=1.0, weights={"half": 2.0}, data_size=data_size)
        ...     def marginal_terms(self, latents, log_q, data_size):
        ...         half = (log_q - latents.prior.log_prob(latents.z)) / 2
        ...         return {"half": half, "other_half": half}
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = Halved(data_size=100)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(100))
        >>> terms = elbo.terms
        >>> abs(loss - (terms.distortion + terms.mutual_information + 3 * terms.half)) < 1e-6
        True
    """

    joint_cost_replaces = True
    # Terms that are weighted like another one, and are there for some programs only
    weighted_like: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        *,
        information: WeightsLike | TermWeight,
        weights: Mapping[str, WeightsLike | TermWeight],
        data_size: int | None,
        **kwargs: object,
    ) -> None:
        each = {
            name: weight if isinstance(weight, TermWeight) else TermWeight(name, weight)
            for name, weight in weights.items()
        }
        super().__init__(weights={"mutual_information": information, **each}, data_size=data_size, **kwargs)

    @abstractmethod
    def marginal_terms(self, latents: LocalLatents, log_q: Tensor, data_size: int) -> Mapping[str, Tensor]:
        """The parts of log q(z) − log p(z) at the draws, (batch,) each.

        Args:
            latents: the latent sites of the data plate.
            log_q: the logarithm of the mixture at each draw, (batch,).
            data_size: N.
        """

    @final
    def joint_cost(self, model_trace: Trace, guide_trace: Trace) -> Mapping[str, Tensor]:
        latents = LocalLatents(model_trace, guide_trace)
        size = self.size_of(latents)
        log_q = log_mixture(latents, size)
        own = latents.posterior.log_prob(latents.z).double()
        information = own - self._penalised_or_rewarded(latents, size, log_q)
        return {"mutual_information": information, **self.marginal_terms(latents, log_q, size)}

    # A reward would be paid for the bias of the stratified estimate, which is up. InfoNCE is a lower bound.
    def _penalised_or_rewarded(self, latents: LocalLatents, size: int, log_q: Tensor) -> Tensor:
        weight = self._resolved_weights().terms["mutual_information"].everywhere
        if size == latents.batch_size or (not isinstance(weight, Tensor) and weight >= 0):
            return log_q
        plain = log_mixture(latents, latents.batch_size)
        return torch.where(weight < 0, plain, log_q) if isinstance(weight, Tensor) else plain

    def _resolved_weights(self) -> ResolvedWeights:
        found = super()._resolved_weights()
        like = {name: found.terms[other] for name, other in self.weighted_like.items()}
        return found._replace(terms={**found.terms, **like})

    def _check_returned(self, weights: ResolvedWeights, costs: set[str]) -> None:
        super()._check_returned(weights, costs | set(self.weighted_like))


def log_mixture(latents: LocalLatents, data_size: int) -> Tensor:
    """log q̂(z_i) of the minibatch's draws, (batch,), with the weight 1/N for each one's own component."""
    mixture = BatchMixture(latents.posterior, data_size=data_size)
    return mixture.log_prob(latents.z[None])[0]


def log_marginals(latents: LocalLatents, data_size: int) -> Tensor:
    """The same of every latent dimension by itself, (batch, latent)."""
    mixture = BatchMixture(latents.posterior, data_size=data_size)
    return mixture.log_prob_marginals(latents.z[None])[0]


def _parts_by_dimension(latents: LocalLatents, log_q_product: Tensor) -> dict[str, Tensor]:
    """Σ_j KL[q(z_j) ‖ p(z_j)], and what the prior's own dependence adds where it is no product."""
    log_p = latents.prior.log_prob(latents.z).double()
    if is_factorised(latents.prior):
        return {"dimensionwise_kl": log_q_product - log_p}
    log_p_product = marginals_of(latents.prior).log_prob(latents.z).double().sum(-1)
    return {"dimensionwise_kl": log_q_product - log_p_product, "prior_dependence": log_p_product - log_p}


# ---- Information, total correlation, dimension-wise KL.


@final
class DecomposedELBO(AggregateELBO):
    r"""The ELBO with a weight on each of the three parts of the rate.

    .. math:: w_D D + w_I\, \mathrm{I}[X; Z]
        + w_{TC}\, \mathrm{KL}\Bigl[q(z) \Big\| \prod_j q(z_j)\Bigr]
        + w_{KL} \sum_j \mathrm{KL}[q(z_j) \| p(z_j)]

    of the representation joint :math:`q(z \mid x)\, p_D(x)` with its aggregate posterior q(z). With all
    weights 1 it is the negative ELBO, at every draw. All latent sites of the data plate are one vector z, and
    j runs over the dimensions of all of them.

    The mixture q(z) of N data is estimated from a minibatch of B by minibatch stratified sampling,
    symmetrised (:class:`~pyro_infomax.information.BatchMixture`). It is unbiased, its logarithm is not: the
    information is biased up, by 0 to ln N − I, the sum of the other two down by as much, the total
    correlation either way. With B = N, the mixture is exact. **A negative weight rewards information**, and
    then InfoNCE takes the place of the stratified estimate, a lower bound of at most ln B: a training would
    exploit the bias of the other one. Rewards of the other two are refused, as nothing bounds them.

    ``terms`` holds ``mutual_information``, ``total_correlation`` and ``dimensionwise_kl`` as they were
    estimated; where the prior is no product of its dimensions also ``prior_dependence``,
    :math:`\mathrm{E}_{q(z)} [\sum_j \log p(z_j) - \log p(z)]`, which counts as often as the total correlation
    (Esmaeili et al., 2019).

    References:
        Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
        autoencoders.
        Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence lower
        bound.
        van den Oord, Li and Vinyals (2018), Representation learning with contrastive predictive coding.

    Args:
        mutual_information: its weight: any number or tensor, or a schedule.
        total_correlation, dimensionwise_kl: their weights, >= 0.
        distortion: its weight, >= 0, also by observed site.
        data_size: N. It is taken from the data plate where that is larger than the minibatch, as
            ``pyro.plate("data", N, subsample_size=len(x))`` is; a plate of ``len(x)`` does not say it.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, but ``vectorize_particles``.

    Raises:
        ValueError: if a weight is out of range; if N is neither in the plate nor passed, or is both and
            differs.
        NotImplementedError: for guide sites that are not reparameterised, relaxed, masked, point masses, or
            drawn given each other (draws are followed through writes, and what is read as a number counts as
            given to all later sites); for a prior that differs from datum to datum; for families whose
            marginals are not known, as those of flows (:class:`MarginalELBO` does without).

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = DecomposedELBO(mutual_information=2.0, data_size=1000)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(100))
        >>> terms = elbo.terms
        >>> abs(loss - (terms.distortion + 2 * terms.mutual_information + terms.dimensionwise_kl)) < 1e-6
        True
    """

    weighted_like = {"prior_dependence": "total_correlation"}

    def __init__(
        self,
        *,
        mutual_information: WeightsLike = 1.0,
        total_correlation: WeightsLike = 1.0,
        dimensionwise_kl: WeightsLike = 1.0,
        distortion: WeightsLike = 1.0,
        data_size: int | None = None,
        **kwargs: object,
    ) -> None:
        weights = {
            "total_correlation": total_correlation,
            "dimensionwise_kl": dimensionwise_kl,
            "distortion": distortion,
        }
        super().__init__(information=mutual_information, weights=weights, data_size=data_size, **kwargs)

    def marginal_terms(self, latents: LocalLatents, log_q: Tensor, data_size: int) -> Mapping[str, Tensor]:
        log_q_product = log_marginals(latents, data_size).sum(-1)
        return {
            "total_correlation": log_q - log_q_product,
            **_parts_by_dimension(latents, log_q_product),
        }


def beta_tcvae(beta: WeightsLike = 6.0, *, data_size: int | None = None, **kwargs: object) -> DecomposedELBO:
    r"""The beta-TCVAE objective.

    .. math:: D + \mathrm{I}[X; Z] + \beta\, \mathrm{TC} + \sum_j \mathrm{KL}[q(z_j) \| p(z_j)]

    Reference: Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
    autoencoders.

    Args:
        beta: the weight of the total correlation, >= 0.
        data_size, further arguments: those of :class:`DecomposedELBO`, whose ``mutual_information`` is the
            paper's α, and ``dimensionwise_kl`` its γ.

    Example:
        >>> dict(beta_tcvae(6.0, data_size=1000).weights)["total_correlation"]
        6.0
    """
    return DecomposedELBO(total_correlation=beta, data_size=data_size, **kwargs)  # type: ignore[arg-type]


# ---- Information and the marginal KL as a whole.


@final
class MarginalELBO(AggregateELBO):
    r"""The ELBO with a weight on the information and one on the KL of the aggregate posterior.

    .. math:: w_D D + w_I\, \mathrm{I}[X; Z] + w_{KL}\, \mathrm{KL}[q(z) \| p(z)]

    It is :class:`DecomposedELBO` with one weight for total correlation and dimension-wise KL, and asks for no
    marginals. What is said there of the estimates, of the sign of :math:`w_I` and of N holds here.

    The posterior may be a flow that scores the draws of other data: ``AmortizedFlow``, a ``TransformFlow`` of
    the data, or Pyro's transforms that can be inverted and are not conditioned by hand, such as
    ``affine_coupling``, ``affine_autoregressive`` and ``spline``. It is scored in the type of its parameters.
    One with a context is inverted B² times for a minibatch of B data. The prior may be a flow too.

    Reference: Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence
    lower bound.

    Args:
        mutual_information: its weight, of any sign.
        marginal_kl: its weight, >= 0.
        distortion, data_size, further arguments: as for :class:`DecomposedELBO`.

    Raises:
        ValueError, NotImplementedError: as :class:`DecomposedELBO`, but where marginals are unknown.
            NotImplementedError too for flows that cannot be inverted, as ``planar`` and ``radial``, that are
            conditioned by hand, or that take a minibatch together, as ``batchnorm``.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = MarginalELBO(marginal_kl=10.0, data_size=1000)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(100))
        >>> terms = elbo.terms
        >>> abs(loss - (terms.distortion + terms.mutual_information + 10 * terms.marginal_kl)) < 1e-6
        True
    """

    def __init__(
        self,
        *,
        mutual_information: WeightsLike = 1.0,
        marginal_kl: WeightsLike = 1.0,
        distortion: WeightsLike = 1.0,
        data_size: int | None = None,
        **kwargs: object,
    ) -> None:
        weights = {"marginal_kl": marginal_kl, "distortion": distortion}
        super().__init__(information=mutual_information, weights=weights, data_size=data_size, **kwargs)

    def marginal_terms(
        self,
        latents: LocalLatents,
        log_q: Tensor,
        data_size: int,  # noqa: ARG002
    ) -> Mapping[str, Tensor]:
        return {"marginal_kl": log_q - latents.prior.log_prob(latents.z).double()}


def infovae(
    alpha: float = 0.0, lam: float = 1.0, *, data_size: int | None = None, **kwargs: object
) -> MarginalELBO:
    r"""The InfoVAE objective with the KL divergence of the aggregate posterior.

    .. math:: D + (1 - \alpha)\, \mathrm{KL}[q(z \mid x) \| p(z)] + (\alpha + \lambda - 1)\,
        \mathrm{KL}[q(z) \| p(z)] = D + (1 - \alpha)\, \mathrm{I}[X; Z] + \lambda\, \mathrm{KL}[q(z) \| p(z)]

    α = 0 and λ = 1 give the ELBO, α = 1 leaves the information free, α > 1 rewards it. λ is not the InfoMax
    weight here but that of the marginal KL. With a kernel in place of the KL it is ``MMDELBO``.

    Reference: Zhao, Song and Ermon (2019), InfoVAE: balancing learning and inference in variational
    autoencoders.

    Args:
        alpha: α, a number.
        lam: λ, a number >= 0.
        data_size, further arguments: those of :class:`MarginalELBO`.

    Example:
        >>> dict(infovae(alpha=1.0, lam=10.0, data_size=1000).weights)
        {'mutual_information': 0.0, 'marginal_kl': 10.0, 'distortion': 1.0}
    """
    return MarginalELBO(mutual_information=1 - alpha, marginal_kl=lam, data_size=data_size, **kwargs)  # type: ignore[arg-type]


# ---- Total correlation between groups of sites and within them.


@final
class GroupedELBO(AggregateELBO):
    r"""The ELBO with a weight on the dependence between groups of latent sites, and on that within a group.

    .. math:: w_D D + w_I\, \mathrm{I}[X; Z] + \beta\, \mathrm{KL}\Bigl[q(z) \Big\| \prod_g q(z_g)\Bigr]
        + \gamma \sum_g \mathrm{KL}\Bigl[q(z_g) \Big\| \prod_{j \in g} q(z_j)\Bigr]
        + w_{KL} \sum_j \mathrm{KL}[q(z_j) \| p(z_j)]

    The two total correlations add up to that of :class:`DecomposedELBO`, of whose estimates, sign of
    :math:`w_I` and N all holds here. A ``prior_dependence`` is one within groups, since sites whose priors
    depend on each other are refused, and weighs γ.

    Reference: Esmaeili, Wu, Jain, Bozkurt, Siddharth, Paige, Brooks, Dy and van de Meent (2019), Structured
    disentangled representations.

    Args:
        groups: names of latent sites, group by group; every local site in one of at least two groups. None
            for every site as a group.
        mutual_information, dimensionwise_kl, distortion, data_size, further arguments: as for
            :class:`DecomposedELBO`.
        total_correlation_between: β, >= 0.
        total_correlation_within: γ, >= 0.

    Raises:
        ValueError, NotImplementedError: as :class:`DecomposedELBO`, and for groups that are not of the local
            latent sites, each once.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         a = pyro.sample("a", dist.Normal(0.0, 1.0))
        ...         b = pyro.sample("b", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("a", dist.Normal(x / 3, 0.8))
        ...         pyro.sample("b", dist.Normal(x / 3, 0.8))
        >>> elbo = GroupedELBO(total_correlation_between=10.0, data_size=1000)
        >>> _ = elbo.loss(model, guide, torch.randn(50))
        >>> abs(elbo.terms.total_correlation_within) < 1e-3  # a group has one dimension
        True
    """

    weighted_like = {"prior_dependence": "total_correlation_within"}

    def __init__(
        self,
        *,
        groups: Sequence[Sequence[str]] | None = None,
        mutual_information: WeightsLike = 1.0,
        total_correlation_between: WeightsLike = 1.0,
        total_correlation_within: WeightsLike = 1.0,
        dimensionwise_kl: WeightsLike = 1.0,
        distortion: WeightsLike = 1.0,
        data_size: int | None = None,
        **kwargs: object,
    ) -> None:
        weights = {
            "total_correlation_between": total_correlation_between,
            "total_correlation_within": total_correlation_within,
            "dimensionwise_kl": dimensionwise_kl,
            "distortion": distortion,
        }
        super().__init__(information=mutual_information, weights=weights, data_size=data_size, **kwargs)
        self.groups = None if groups is None else tuple(map(tuple, groups))

    def marginal_terms(self, latents: LocalLatents, log_q: Tensor, data_size: int) -> Mapping[str, Tensor]:
        groups = self._groups_of(latents)
        log_q_groups = sum(log_mixture(latents.only(group), data_size) for group in groups)
        log_q_product = log_marginals(latents, data_size).sum(-1)
        return {
            "total_correlation_between": log_q - log_q_groups,
            "total_correlation_within": log_q_groups - log_q_product,
            **_parts_by_dimension(latents, log_q_product),
        }

    def _groups_of(self, latents: LocalLatents) -> tuple[tuple[str, ...], ...]:
        groups = tuple((name,) for name in latents.names) if self.groups is None else self.groups
        named = [name for group in groups for name in group]
        if len(groups) < 2 or sorted(named) != sorted(latents.names) or not all(groups):
            raise ValueError(
                f"Expected each of the latent sites {list(latents.names)} in one of at least two groups but "
                f"got {[list(group) for group in groups]}; use beta_tcvae for a single one"
            )
        return groups


def hfvae(
    beta: WeightsLike = 6.0,
    gamma: WeightsLike = 1.0,
    *,
    groups: Sequence[Sequence[str]] | None = None,
    data_size: int | None = None,
    **kwargs: object,
) -> GroupedELBO:
    """The HFVAE objective: β on the dependence between groups of latent sites, γ on that within a group.

    Reference: Esmaeili, Wu, Jain, Bozkurt, Siddharth, Paige, Brooks, Dy and van de Meent (2019), Structured
    disentangled representations.

    Args:
        beta, gamma: the two weights, >= 0.
        groups, data_size, further arguments: those of :class:`GroupedELBO`.

    Example:
        >>> elbo = hfvae(6.0, groups=[("digit",), ("slant", "width")], data_size=1000)
        >>> dict(elbo.weights)["total_correlation_between"]
        6.0
    """
    return GroupedELBO(
        groups=groups,
        total_correlation_between=beta,
        total_correlation_within=gamma,
        data_size=data_size,
        **kwargs,  # type: ignore[arg-type]
    )


# ---- Information and the prior alone: the InfoMax objective before any decoder exists.


@final
class DirectInfoMax(AggregateELBO):
    r"""The InfoMax objective without a decoder: a representation that tells of the data and fills the prior.

    .. math:: \mathrm{KL}[q(z) \| p(z)] - \lambda\, \mathrm{I}[X; Z]
        = -(1 + \lambda)\, \mathrm{H}[Z] - \mathrm{E}_{q(z)} \log p(z) + \lambda\, \mathrm{H}[Z|X]

    of the representation joint alone: no likelihood is asked for. The model needs the prior in a data plate;
    its observed sites, where there are any, are run and count nothing, so that a model without them is
    quicker.

    **What is rewarded is a lower bound.** The information is InfoNCE, at most ln B of a minibatch of B data.
    The marginal KL is taken by minibatch stratified sampling, which is biased down where B < N, or replaced
    by a squared maximum mean discrepancy, which is not (``mmd``). With all data in the minibatch both nats
    are exact but for the draws.

    **When it is well posed.** With N data it is at least −λ ln N: any N codes that do not overlap have
    I = ln N, and the marginal KL is what their mixture misses of the prior. For a population with continuous
    codes it is unbounded below: a code of variance 1 − σ² with noise of variance σ² keeps q(z) = N(0, 1), and
    I = −½ ln σ² a dimension grows without end as the noise goes. So fix the noise, as a channel would: then
    H[Z|X] is a constant, and the optimum over all encoders is the tempered prior
    :math:`q(z) \propto p(z)^{1/(1+\lambda)}`, for a standard normal N(0, 1 + λ), wherever noise of that kind
    leaves room for it. Bounded codes with fixed noise are well posed too, where the prior has a density
    wherever the noise takes them. Minibatches bound the estimate as well, by ln B, but not for a reason that
    lies in the data. Where the account says that I is near ln N, it counts data and informs of nothing else.

    **What it cannot give is content.** The value does not change when the data are permuted among the codes.
    What a code has to do with its datum comes from the encoder's own smoothness, and from nothing here
    (``docs/infomax_alone.md``).

    ``terms`` holds ``mutual_information`` (InfoNCE where λ > 0) and ``marginal_kl``, or ``mmd`` in the units
    of the kernel.

    References:
        Linsker (1988), Self-organization in a perceptual network.
        Bell and Sejnowski (1995), An information-maximization approach to blind separation and blind
        deconvolution.
        van den Oord, Li and Vinyals (2018), Representation learning with contrastive predictive coding.
        Tschannen, Djolonga, Rubenstein, Gelly and Lucic (2020), On mutual information maximization for
        representation learning.

    Args:
        lam: λ, any number or tensor, or a schedule; below 0 it penalises information.
        mmd: the weight, >= 0, of a squared maximum mean discrepancy between q(z) and p(z) in the place of the
            KL divergence; None for the KL.
        kernel: of the discrepancy, from (m, d) and (n, d) to (m, n);
            :class:`~pyro_infomax.information.InverseMultiquadric` of scale 2d by default, which fits a
            standard normal prior.
        data_size, further arguments: as for :class:`DecomposedELBO`.

    Raises:
        ValueError, NotImplementedError: as :class:`DecomposedELBO`, but where marginals are unknown.
            ValueError too for a kernel without a weight of its discrepancy.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def prior(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        >>> def encoder(x):
        ...     with pyro.plate("data", len(x)):
        ...         gain = pyro.param("gain", torch.tensor(0.1))
        ...         pyro.sample("z", dist.Normal(gain * x, 0.3).to_event(1))
        >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> objective = DirectInfoMax(lam=1.0, data_size=200)
        >>> svi = pyro.infer.SVI(prior, encoder, pyro.optim.Adam({"lr": 0.05}), objective)
        >>> for _ in range(100):
        ...     _ = svi.step(x)
        >>> 1.8 < float(pyro.param("gain").detach() ** 2 * x.var() + 0.3**2) < 2.2  # N(0, 1 + λ)
        True
        >>> pyro.clear_param_store()
    """

    def __init__(
        self,
        lam: WeightsLike = 1.0,
        *,
        mmd: WeightsLike | None = None,
        kernel: Kernel | None = None,
        data_size: int | None = None,
        **kwargs: object,
    ) -> None:
        if kernel is not None and not callable(kernel):
            raise ValueError(
                f"Expected kernel to be a function of two points, as RBF(1.0), but got {kernel!r}."
            )
        if kernel is not None and mmd is None:
            raise ValueError(
                "Expected a weight of the discrepancy by this kernel but got none: pass mmd too."
            )
        weights: dict[str, WeightsLike] = {"marginal_kl": 1.0} if mmd is None else {"mmd": mmd}
        super().__init__(
            information=TermWeight("lam", lam, above=-float("inf")),
            weights={**weights, "distortion": 0.0},
            data_size=data_size,
            **kwargs,
        )
        self.kernel = kernel

    @property
    def lam(self) -> WeightsLike:
        """The InfoMax weight λ, as it was given."""
        return self.weights["mutual_information"]

    @lam.setter
    def lam(self, value: WeightsLike) -> None:
        self.weights["mutual_information"] = value

    def marginal_terms(self, latents: LocalLatents, log_q: Tensor, data_size: int) -> Mapping[str, Tensor]:
        if "mmd" in self.weights:
            kernel = self.kernel or InverseMultiquadric(2.0 * latents.z.shape[1])
            again = cast(Distribution, latents.posterior).rsample().double()
            u = latents.draws_of_prior()
            return {"mmd": batch_mmd(latents.z, again, u, kernel=kernel, data_size=data_size)}
        return {"marginal_kl": log_q - latents.prior.log_prob(latents.z).double()}

    def _resolved_weights(self) -> ResolvedWeights:
        found = super()._resolved_weights()
        lam = found.terms["mutual_information"]
        reward = SiteWeights(-lam.everywhere, lam.by_name)
        return found._replace(terms={**found.terms, "mutual_information": reward})

    # Without observed sites the plate of the latent ones says how many data the loss stands for
    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        traces = super()._get_trace(model, guide, args, kwargs)
        if not any(site["is_observed"] for site in sample_sites(traces[0])):
            self._subsampled = subsampled_data(traces[0], args, lambda _: True)
        return traces
