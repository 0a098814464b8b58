r"""The aggregate posterior matched to the prior by samples and moments, where densities are not asked for.

Each objective here adds a discrepancy between q(z) and p(z) to distortion and rate: by a kernel, along random
directions, or of the covariances. They are numbers of the minibatch and count for each datum.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal, cast, final

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution

from pyro_infomax._checks import WHERE_FEW_ARE_LEFT, one_of, whole_number
from pyro_infomax._recording import holds
from pyro_infomax._types import Site
from pyro_infomax.distributions import (
    Posterior,
    family_name,
    is_point_mass,
    known_covariance,
    known_mean,
)
from pyro_infomax.infer._decomposed import SizedELBO
from pyro_infomax.infer._latents import LocalLatents
from pyro_infomax.infer._weights import TermWeight, WeightsLike
from pyro_infomax.information import (
    InverseMultiquadric,
    Kernel,
    batch_mmd,
    batch_sliced_wasserstein,
    directions_like,
)

# ---- What they share: weights that are no rewards, and what may be a point mass.


class DiscrepancyELBO(SizedELBO):
    """The base of objectives with a discrepancy between q(z) and p(z), which a subclass measures.

    Its terms are added to distortion and rate. They are not in nats, and stand for themselves in ``terms``.

    Args:
        discrepancy: the weights, >= 0, of its terms.
        rate, distortion: their weights, >= 0, also by site.
        data_size: N; None where the plate says it, or where it is not needed.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`.

    Raises:
        ValueError: if a weight is out of range.
        NotImplementedError: where data have scales of their own.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> class Centred(DiscrepancyELBO):
        ...     def __init__(self, *, centre=1.0):
        ...         super().__init__(discrepancy={"centre": centre}, rate=1.0, distortion=1.0)
        ...
        ...     def discrepancies(self, latents, guide_trace):
        ...         return {"centre": (latents.z.mean(0) - latents.draws_of_prior().mean(0)).square().sum()}
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = Centred(centre=3.0)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> abs(loss - (elbo.terms.distortion + elbo.terms.rate + 3 * elbo.terms.centre)) < 1e-6
        True
    """

    def __init__(
        self,
        *,
        discrepancy: Mapping[str, WeightsLike],
        rate: WeightsLike,
        distortion: WeightsLike,
        data_size: int | None = None,
        **kwargs: object,
    ) -> None:
        weights: dict[str, WeightsLike | TermWeight] = {
            name: TermWeight(name, each) for name, each in discrepancy.items()
        }
        weights |= {"rate": rate, "distortion": distortion}
        super().__init__(weights=weights, data_size=data_size, **kwargs)

    @abstractmethod
    def discrepancies(self, latents: LocalLatents, guide_trace: Trace) -> Mapping[str, Tensor]:
        """The terms by name, numbers of the minibatch, () each."""

    @final
    def joint_cost(self, model_trace: Trace, guide_trace: Trace) -> Mapping[str, Tensor]:
        return self.discrepancies(LocalLatents(model_trace, guide_trace), guide_trace)


def _has_only_point_masses(latents: LocalLatents, guide_trace: Trace) -> bool:
    """Whether every latent site is a function of the data, as in an autoencoder without noise."""
    sites: list[Site] = [guide_trace.nodes[name] for name in latents.names]
    masses = [is_point_mass(site["fn"]) for site in sites]
    if not any(masses):
        return False
    noisy = [site["name"] for site, mass in zip(sites, masses, strict=True) if not mass]
    # What a point mass depends on, as on an auxiliary site, it hides
    hidden = [site["name"] for site in sites if not set(site.get("depends_on") or ()) <= {*latents.names}]
    unknown = [site["name"] for site in sites if site.get("depends_on") is None]
    if noisy or hidden or unknown:
        name = next(site["name"] for site, mass in zip(sites, masses, strict=True) if mass)
        beside = f"beside {noisy} that are not" if noisy else f"of sites it does not show, {hidden or 'any'}"
        raise NotImplementedError(
            f"q(z|x) of the site {name!r} is a point mass {beside}, so that no second draw of all of z can "
            "be had: make all latent sites functions of the data, or none"
        )
    return True


# ---- By a kernel.


@final
class MMDELBO(DiscrepancyELBO):
    r"""The ELBO with a squared maximum mean discrepancy between aggregate posterior and prior.

    .. math:: w_D D + w_R R + w\, \mathrm{MMD}^2[q(z), p(z)] , \qquad
        \mathrm{MMD}^2 = \mathrm{E}\, [k(z, z') + k(u, u') - 2 k(z, u)] ,
        \quad z, z' \sim q(z), \quad u, u' \sim p(z)

    of the representation joint :math:`q(z \mid x)\, p_D(x)`. With R = I + KL[q(z) ‖ p(z)], it penalises
    information as often as the rate counts, and the difference between q(z) and p(z) by both. A rate of
    weight 0 leaves the information free:

    ===================================  ==========================================  =================
    objective                            weights                                     function
    ===================================  ==========================================  =================
    InfoVAE, α ≤ 1 and λ ≥ 1 − α         ``rate=1 - alpha, mmd=alpha + lam - 1``     :func:`mmd_vae`
    Wasserstein autoencoder (WAE-MMD)    ``rate=0, mmd=lam``                         :func:`wae`
    ===================================  ==========================================  =================

    **The estimate is without bias over draws and minibatches**, for the N data as the whole distribution:
    pairs of one datum, by a second draw of its posterior, count 1/N, pairs of different data the rest. It
    may be negative. It is a number of the minibatch that counts for each datum, so that the weight
    means the same for every size of batch: ``terms.mmd``, like the loss, is N · MMD² *in units of the
    kernel, not in nats*. A bounded kernel of values up to 1 gives at most 2 for each datum, where rate and
    distortion have tens or hundreds of nats: weights of 10 to 1,000 are common.

    Guides without noise (a Delta) are welcome: q(z) is a mixture of points then. Their ``rate`` is
    −E log p(z), so give it the weight 0.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test.
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders.
        Zhao, Song and Ermon (2019), InfoVAE: balancing learning and inference in variational autoencoders.

    Args:
        mmd: its weight, >= 0.
        rate, distortion: their weights, >= 0, also by site.
        kernel: from (m, d) and (n, d) to (m, n); a sum over scales,
            :class:`~pyro_infomax.information.InverseMultiquadric` of scale 2d, by default, which fits a
            standard normal prior. :meth:`RBF.median(prior) <pyro_infomax.information.RBF.median>` fits
            any prior.
        data_size: N. It is taken from the data plate where that is larger than the minibatch, as
            ``pyro.plate("data", N, subsample_size=len(x))`` is; a plate of ``len(x)`` does not say it.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, but ``vectorize_particles``.

    Raises:
        ValueError: if a weight is out of range; if N is neither in the plate nor passed, or is both and
            differs; for a minibatch of one datum; for a kernel that does not score all pairs.
        NotImplementedError: for guide sites that are discrete, relaxed, masked, or drawn given each other;
            for a prior that differs from datum to datum, or that is learned and not reparameterised.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = MMDELBO(mmd=100.0, rate=0.0, data_size=1000)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(50))
        >>> abs(loss - (elbo.terms.distortion + 100 * elbo.terms.mmd)) < 1e-6
        True
    """

    def __init__(
        self,
        *,
        mmd: WeightsLike = 100.0,
        rate: WeightsLike = 1.0,
        distortion: WeightsLike = 1.0,
        kernel: Kernel | None = None,
        data_size: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(
            discrepancy={"mmd": mmd}, rate=rate, distortion=distortion, data_size=data_size, **kwargs
        )
        self.kernel = kernel

    def discrepancies(self, latents: LocalLatents, guide_trace: Trace) -> Mapping[str, Tensor]:
        kernel = self.kernel or InverseMultiquadric(2.0 * latents.z.shape[1])
        if _has_only_point_masses(latents, guide_trace):
            again = latents.z
        else:
            again = cast(Distribution, latents.posterior).rsample().double()
        u = latents.draws_of_prior()
        return {"mmd": batch_mmd(latents.z, again, u, kernel=kernel, data_size=self.size_of(latents))}


def mmd_vae(
    alpha: float = 1.0,
    lam: float = 100.0,
    *,
    kernel: Kernel | None = None,
    data_size: int | None = None,
    **kwargs: object,
) -> MMDELBO:
    r"""The InfoVAE objective with the discrepancy by a kernel: MMD-VAE.

    .. math:: D + (1 - \alpha)\, \mathrm{KL}[q(z \mid x) \| p(z)]
        + (\alpha + \lambda - 1)\, \mathrm{MMD}^2[q(z), p(z)]

    in the paper's own weights. :func:`infovae` has the KL divergence in the place of the discrepancy, in
    nats; there α > 1 is possible, which would reward the rate here, without an upper bound.

    Reference: Zhao, Song and Ermon (2019), InfoVAE: balancing learning and inference in variational
    autoencoders.

    Args:
        alpha: α <= 1, a number; at 1, as in the paper's experiments, the information is free.
        lam: λ >= 1 − α, a number.
        kernel, data_size: those of :class:`MMDELBO`.
        **kwargs: the same.

    Raises:
        ValueError: where a weight would be negative.

    Example:
        >>> dict(mmd_vae(alpha=0.5, lam=10.0).weights)
        {'mmd': 9.5, 'rate': 0.5, 'distortion': 1.0}
    """
    if alpha > 1 or alpha + lam < 1:
        raise ValueError(
            f"Expected alpha <= 1 and lam >= 1 - alpha but got alpha={alpha}, lam={lam}: the rate would "
            f"count {1 - alpha:g} times, the discrepancy {alpha + lam - 1:g} times, and a negative weight "
            "rewards it"
        )
    weights = {"mmd": alpha + lam - 1, "rate": 1 - alpha}
    return MMDELBO(**weights, kernel=kernel, data_size=data_size, **kwargs)  # type: ignore[arg-type]


def wae(
    lam: WeightsLike = 100.0,
    *,
    kernel: Kernel | None = None,
    data_size: int | None = None,
    **kwargs: object,
) -> MMDELBO:
    r"""The objective of a Wasserstein autoencoder with the kernel penalty, WAE-MMD.

    .. math:: D + \lambda\, \mathrm{MMD}^2[q(z), p(z)]

    With a Normal likelihood of variance s² the distortion is the squared error over 2s², and a constant.

    Reference: Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders.

    Args:
        lam: λ >= 0.
        kernel, data_size: those of :class:`MMDELBO`.
        **kwargs: the same.

    Example:
        >>> dict(wae(10.0).weights)
        {'mmd': 10.0, 'rate': 0.0, 'distortion': 1.0}
    """
    return MMDELBO(mmd=lam, rate=0.0, kernel=kernel, data_size=data_size, **kwargs)  # type: ignore[arg-type]


# ---- Along random directions.


@final
class SlicedWassersteinELBO(DiscrepancyELBO):
    r"""The ELBO with a squared sliced Wasserstein distance between aggregate posterior and prior.

    .. math:: w_D D + w_R R + w\, \mathrm{SW}_2^2[q(z), p(z)] , \qquad
        \mathrm{SW}_2^2 = \mathrm{E}_\theta\, W_2^2(\theta^\top z, \theta^\top u)

    over directions θ, uniform on the sphere and drawn anew in each step. On a line :math:`W_2^2` is the mean
    squared difference of quantiles. It takes draws alone: no kernel, no density, and guides whose sites
    depend on each other or hide their noise.

    **It is biased up**, as the B draws of either side are sorted and compared: for Normals on a line its
    expectation is :math:`(m - m')^2 + s^2 + s'^2 - 2 c_B s s'`, where
    :math:`c_B = \frac1B \sum_i (\mathrm{E}\, \epsilon_{(i)})^2` is of B sorted standard normal draws. So it
    is least at :math:`s = c_B s'`, and narrows q(z): c is .32, .959, .989 for B = 2, 64, 256. Use large
    minibatches, or :class:`MMDELBO`, which has no bias. N is not needed.

    ``terms.sliced_wasserstein`` is a number of the minibatch that counts for each datum, summed like the
    loss, *in squared units of z and not in nats*.

    References:
        Kolouri, Pope, Martin and Rohde (2019), Sliced-Wasserstein autoencoders.
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders.

    Args:
        sliced_wasserstein: its weight, >= 0.
        rate, distortion: their weights, >= 0, also by site.
        num_projections: directions a step.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, but ``vectorize_particles``.

    Raises:
        ValueError: if a weight is out of range; for a minibatch of one datum.
        NotImplementedError: for guide sites that are discrete, relaxed or masked; for a prior that differs
            from datum to datum, or that is learned and not reparameterised.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = SlicedWassersteinELBO(sliced_wasserstein=10.0)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(50))
        >>> terms = elbo.terms
        >>> abs(loss - (terms.distortion + terms.rate + 10 * terms.sliced_wasserstein)) < 1e-6
        True
    """

    def __init__(
        self,
        *,
        sliced_wasserstein: WeightsLike = 10.0,
        rate: WeightsLike = 1.0,
        distortion: WeightsLike = 1.0,
        num_projections: int = 50,
        **kwargs: object,
    ) -> None:
        discrepancy = {"sliced_wasserstein": sliced_wasserstein}
        super().__init__(discrepancy=discrepancy, rate=rate, distortion=distortion, data_size=None, **kwargs)
        self.num_projections = whole_number("num_projections", num_projections, at_least=1)

    def discrepancies(self, latents: LocalLatents, guide_trace: Trace) -> Mapping[str, Tensor]:  # noqa: ARG002
        if latents.batch_size < 2:
            raise ValueError(
                f"Expected a minibatch of at least 2 data but got {latents.batch_size}: {WHERE_FEW_ARE_LEFT}"
            )
        z, u = latents.z, latents.draws_of_prior()
        directions = directions_like(z.detach(), self.num_projections)
        return {"sliced_wasserstein": batch_sliced_wasserstein(z, u, directions)}


# ---- By the covariance.


@final
class DIPELBO(DiscrepancyELBO):
    r"""The ELBO with penalties on the covariance of the latents: DIP-VAE I and II.

    .. math:: w_D D + w_R R + \lambda_{od} \sum_{i \ne j} (C_{ij} - P_{ij})^2
        + \lambda_d \sum_i (C_{ii} - P_{ii})^2

    with the covariance P of the prior, the identity for a standard normal one, and

    .. math:: C^{\mathrm{I}} = \mathrm{Cov}_{p_D(x)}[\mu(x)] , \qquad
        C^{\mathrm{II}} = \mathrm{Cov}_{q(z)}[z] = C^{\mathrm{I}} + \mathrm{E}_{p_D(x)} \Sigma(x)

    for encoders of mean μ(x) and covariance Σ(x), over the N data. II is the covariance of the aggregate
    posterior. Where q(z) and p(z) are Gaussian with one mean, it is 0 if and only if the marginal KL is, and
    its part off the diagonal if and only if the total correlation is; elsewhere latents may be uncorrelated
    and depend on each other. I makes the *means* as wide as the prior, so that q(z) gets wider than p(z) by
    the noise. The mean of q(z) is left to the rate.

    **The squares are estimated without bias over minibatches.** The covariance of a minibatch of B data is
    noisy, and the mean of its square is larger by its variance, :math:`C_{ii} C_{jj} / B` for each pair of
    independent Gaussian latents, which narrows all of them. Here a square is a product over pairs of pairs of
    data, those that share data counting as often as among N (a U-statistic). It may be negative. With
    B = N it is the exact value; the covariance divides by N.

    ``terms`` holds ``off_diagonal`` and ``diagonal``, numbers of the minibatch that count for each datum,
    summed like the loss, *in the fourth power of the units of z and not in nats*.

    Reference: Kumar, Sattigeri and Balakrishnan (2018), Variational inference of disentangled latent
    concepts from unlabeled observations.

    Args:
        off_diagonal: λ_od >= 0.
        diagonal: λ_d >= 0. The paper takes it ten times λ_od for I, and equal to it for II.
        covariance: ``"aggregate"`` for II, ``"means"`` for I.
        rate, distortion: their weights, >= 0, also by site.
        data_size: N, as for :class:`MMDELBO`.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`, but ``vectorize_particles``.

    Raises:
        ValueError: if a weight is out of range; if N is neither in the plate nor passed, or is both and
            differs; for a minibatch of fewer than 4 of more data.
        NotImplementedError: for guide sites that are discrete, relaxed, masked, or drawn given each other;
            for a prior that differs from datum to datum; for families whose mean and covariance are not known
            or not finite, as those of flows (:class:`SlicedWassersteinELBO` does without).

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(
        ...     S=[2.0, 1.0], W=torch.eye(2), s2=1.0, V=[[0.5, 0.3], [0.1, 0.4]], Delta=[0.5, 0.5]
        ... )
        >>> elbo = DIPELBO(data_size=50)
        >>> _ = elbo.loss(pair.model, pair.guide, pair.sample(50, exact=True))
        >>> abs(elbo.terms.off_diagonal / 50 - float(2 * pair.C[0, 1] ** 2)) < 1e-6
        True
    """

    def __init__(
        self,
        *,
        off_diagonal: WeightsLike = 10.0,
        diagonal: WeightsLike = 10.0,
        covariance: Literal["means", "aggregate"] = "aggregate",
        rate: WeightsLike = 1.0,
        distortion: WeightsLike = 1.0,
        data_size: int | None = None,
        **kwargs: object,
    ) -> None:
        one_of("covariance", covariance, ["means", "aggregate"])
        discrepancy = {"off_diagonal": off_diagonal, "diagonal": diagonal}
        super().__init__(
            discrepancy=discrepancy, rate=rate, distortion=distortion, data_size=data_size, **kwargs
        )
        self.covariance = covariance

    def discrepancies(self, latents: LocalLatents, guide_trace: Trace) -> Mapping[str, Tensor]:
        _, target = _moments(latents, "prior")
        if _has_only_point_masses(latents, guide_trace):
            mean, within = latents.z, torch.zeros_like(target)
        else:
            mean, within = _moments(latents, "posterior")
        within = within if self.covariance == "aggregate" else torch.zeros_like(target)
        squares = _squared_covariance(mean, within - target, self.size_of(latents))  # (latent, latent)
        diagonal = squares.diagonal().sum()
        return {"off_diagonal": squares.sum() - diagonal, "diagonal": diagonal}


def _squared_covariance(mean: Tensor, rest: Tensor, data_size: int) -> Tensor:
    r"""The squares of the elements of Cov[μ] + E r over N data, (latent, latent).

    .. math:: g_{ij} = \frac{N - 1}{2N} (\mu_i - \mu_j)(\mu_i - \mu_j)^\top + \frac12 (r_i + r_j)

    has it as its mean over pairs of different data. Its square is the mean of :math:`g_{ij} g_{kl}` over
    pairs of pairs, which have both, one or none of their data in common, and a minibatch shows the mean of
    each kind without bias.

    Args:
        mean: μ, (batch, latent).
        rest: r, (batch, latent, latent), or (latent, latent) for all data.
        data_size: N.
    """
    size, factor = len(mean), 1 - 1 / data_size
    if size < 2 or (size < 4 and size < data_size):
        raise ValueError(
            f"Expected a minibatch of at least 4 of {data_size} data but got {size}: the square of a "
            f"covariance compares two pairs of data; {WHERE_FEW_ARE_LEFT}"
        )
    y = mean - mean.mean(0)
    product = y[:, :, None] * y[:, None, :]  # (batch, latent, latent)
    rest = rest.expand_as(product)
    total, total_rest = product.sum(0), rest.sum(0)
    of_means = (size * product + total) / 2  # summed over the second of each pair
    by_row = factor * of_means + ((size - 2) * rest + total_rest) / 2
    whole = by_row.sum(0) / 2  # over pairs, (latent, latent)
    pairs = size * (size - 1) / 2
    if size == data_size:
        return (whole / pairs).square()
    variance = total.diagonal()
    fourth = (
        size * product.square().sum(0) + variance[:, None] * variance + 2 * total.square()
    ) / 4  # of the means' products
    sums = ((size - 2) * rest.square().sum(0) + total_rest.square()) / 4
    both = factor**2 * fourth + factor * (rest * of_means).sum(0) + sums
    one = by_row.square().sum(0) - 2 * both
    none = whole.square() - one - both
    shown, all_ = _numbers_of_pairs(size), _numbers_of_pairs(data_size)
    shares = [number / sum(all_) / count for number, count in zip(all_, shown, strict=True)]
    return shares[0] * both + shares[1] * one + shares[2] * none


def _numbers_of_pairs(size: int) -> tuple[float, float, float]:
    """How many ordered pairs of pairs of so many data have both, one or none in common."""
    both = size * (size - 1) / 2
    one = both * 2 * (size - 2)
    return both, one, both**2 - both - one


def _moments(latents: LocalLatents, of: Literal["posterior", "prior"]) -> tuple[Tensor, Tensor]:
    """Mean (*batch, latent) and covariance (*batch, latent, latent) of sites that are independent."""
    parts = [_moments_of(getattr(latents.only([name]), of), name) for name in latents.names]
    mean = torch.cat([each for each, _ in parts], -1)
    if len(parts) == 1:
        return parts[0]
    covariance = mean.new_zeros((*mean.shape, mean.shape[-1]))
    start = 0
    for _, block in parts:
        end = start + block.shape[-1]
        covariance[..., start:end, start:end] = block
        start = end
    return mean, covariance


def _moments_of(distribution: Posterior, name: str) -> tuple[Tensor, Tensor]:
    unknown = (
        f"Expected distributions of {name!r} with a mean and a covariance but {family_name(distribution)} "
        "has none that is known and finite: take a Normal of any covariance, or SlicedWassersteinELBO"
    )
    mean, covariance = known_mean(distribution), known_covariance(distribution)
    if mean is None or covariance is None:
        raise NotImplementedError(unknown)
    if covariance.dim() == mean.dim():
        covariance = covariance.diag_embed()
    finite = mean.isfinite().all() & covariance.isfinite().all()
    if not holds(finite, unknown):
        raise NotImplementedError(unknown)
    return mean, covariance
