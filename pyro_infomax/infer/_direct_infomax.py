"""Information and the prior alone: the InfoMax objective before any decoder exists."""

from collections.abc import Mapping
from typing import Any, cast, final

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_infomax._types import Args, Kwargs, Program
from pyro_infomax.infer._decomposed import AggregateELBO
from pyro_infomax.infer._elbo import subsampled_data
from pyro_infomax.infer._latents import LocalLatents
from pyro_infomax.infer._weights import ResolvedWeights, SiteWeights, TermWeight, WeightsLike
from pyro_infomax.information import InverseMultiquadric, Kernel
from pyro_infomax.poutine import sample_sites


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
    leaves room for it. With bounded codes it is well posed whatever the prior. Minibatches bound the estimate
    too, by ln B, but not for a reason that lies in the data. Where the account says that I is near ln N, it
    counts data and informs of nothing else.

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
        data_size, **kwargs: as for :class:`DecomposedELBO`.

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
            return {"mmd": minibatch_mmd(latents, kernel, data_size)}
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


def minibatch_mmd(latents: LocalLatents, kernel: Kernel, data_size: int) -> Tensor:
    r"""The squared maximum mean discrepancy between q(z) of N data and p(z), without bias over minibatches,
    ().

    Two draws of q(z) are of one datum once in N times. A minibatch holds its data once each, and pairs of
    different data alone would misstate the discrepancy. So, as in minibatch stratified sampling, pairs of one
    datum count 1/N, by a second draw of each, and pairs of different data the rest.
    """
    z, size = latents.z, latents.batch_size
    if size < 2:
        raise ValueError(f"Expected a minibatch of at least 2 data but got {size}.")
    posterior, prior = cast(Any, latents.posterior), cast(Any, latents.prior)
    again = posterior.rsample().double()
    has_gradient = getattr(prior, "has_rsample", False)
    u = (prior.rsample if has_gradient else prior.sample)(torch.Size([size])).double()
    same = kernel(z, again).diagonal().mean()
    of_posterior = same / data_size + _of_others(kernel(z, z)) * (1 - 1 / data_size)
    return of_posterior + _of_others(kernel(u, u)) - 2 * kernel(z, u).mean()


def _of_others(pairs: Tensor) -> Tensor:
    """The mean over pairs of different points, of (points, points)."""
    size = len(pairs)
    off = ~torch.eye(size, dtype=torch.bool, device=pairs.device)
    return torch.where(off, pairs, 0.0).sum() / (size * (size - 1))
