"""Draws from the posteriors, and every log-density that the quantities are made of."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_infomax._checks import is_integer, shown, whole_number
from pyro_infomax._random import seeded_draws
from pyro_infomax.distributions import (
    Coordinates,
    Density,
    Marginals,
    Posterior,
    SideBySide,
    check_parameters,
    factors_of,
    full_name,
    in_double,
    in_dtype_of,
    is_angular,
    is_normal,
    marginals_of,
    shapes_in_words,
)
from pyro_infomax.information._mixture_engine import MixtureScores
from pyro_infomax.information._sites import AggregateScorer, WholeAggregate


@final
class Draws:
    r"""S draws :math:`z_{si} \sim q(z \mid x_i)` for each datum, scored lazily under all that is compared.

    The aggregate posterior is evaluated when first asked for, and its marginals likewise, once for however
    many quantities follow. Everything is float64 and without gradients.

    Args:
        posterior: batch shape (N,), event shape (d,), as in :class:`AggregatePosterior`.
        prior: batch shape (), event shape (d,); None where no quantity needs it.
        z: (S, N, d), draws that were made before; None to draw here.
        num_samples: S, where they are drawn here.
        seed: isolates the draws from torch's global state.
        site_sizes: the number of latent dimensions of each site, one after the other, where there are several
            and each is to be scored by itself.
        mixtures: what scores the draws under the aggregate posterior of these very data; None for one process
            that does so by itself.
        progress: show a bar when an evaluation takes more than a few seconds.

    Raises:
        ValueError: for shapes that do not fit, parameters or draws that are not finite, and for fewer than
            one draw.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> draws = Draws(Independent(Normal(means, 0.5), 1), num_samples=3, seed=0)
    >>> draws.log_posterior.shape, draws.log_aggregate_marginals.shape
    (torch.Size([3, 2]), torch.Size([3, 2, 1]))
    """

    def __init__(
        self,
        posterior: Posterior,
        prior: Density | None = None,
        *,
        z: Tensor | None = None,
        num_samples: int = 1,
        seed: int | None = None,
        site_sizes: Sequence[int] | None = None,
        mixtures: AggregateScorer | None = None,
        progress: bool = True,
    ) -> None:
        if isinstance(mixtures, WholeAggregate):
            whole = mixtures
        else:
            whole = WholeAggregate(posterior, site_sizes=site_sizes, progress=progress)
        self.mixtures = mixtures or whole
        self.aggregate = whole.aggregate
        self.posterior = self.aggregate.posterior
        self.site_sizes = site_sizes
        self._sites = whole.sites
        check_prior(prior, self.aggregate.latent_dim)
        if site_sizes is not None:
            _check_site_sizes(site_sizes, self.aggregate.latent_dim)
        if is_angular(prior):
            _check_angles(self.posterior, prior)
        self.prior = in_double(prior)
        with torch.no_grad():
            self.z = draws_of(self.posterior, num_samples, seed) if z is None else self._finite_draws(z)

    @property
    def data_size(self) -> int:
        """N."""
        return self.aggregate.data_size

    @property
    def coordinates(self) -> Coordinates:
        """Those in which the posteriors are Normal, else those of z."""
        return self.aggregate.coordinates

    @cached_property
    @torch.no_grad()
    def log_posterior(self) -> Tensor:
        """log q(z_si | x_i), (samples, batch)."""
        if self.site_sizes is not None:
            return self.log_posterior_sites.sum(-1)
        return self.posterior.log_prob(self.z).double()

    @cached_property
    @torch.no_grad()
    def log_posterior_sites(self) -> Tensor:
        """log q(z_sik | z_sil for l < k, x_i) of each site k, (samples, batch, sites)."""
        return self._sites.log_prob(self.z)

    @property
    def log_aggregate_prefixes(self) -> Tensor:
        """log q of the first sites of z_si, (samples, batch, sites)."""
        return self._in_shape(self._prefixes.log_prob)

    @property
    def log_leave_one_out_prefixes(self) -> Tensor:
        """The same without the own component; nan for a single datum."""
        return self._in_shape(_left_of(self._prefixes))

    @cached_property
    @torch.no_grad()
    def log_posterior_marginals(self) -> Tensor:
        """log q(z_sij | x_i), (samples, batch, latent)."""
        return self.posterior_marginals.log_prob(self.z).double()

    @property
    def log_aggregate(self) -> Tensor:
        """log q(z_si), (samples, batch)."""
        return self._in_shape(self._joint.log_prob)

    @property
    def log_leave_one_out(self) -> Tensor:
        """log q(z_si) without the own component, (samples, batch); nan for a single datum."""
        return self._in_shape(_left_of(self._joint))

    @property
    def log_aggregate_marginals(self) -> Tensor:
        """log q(z_sij), (samples, batch, latent)."""
        return self._in_shape(self._marginals.log_prob)

    @property
    def log_leave_one_out_marginals(self) -> Tensor:
        """log q(z_sij) without the own component, (samples, batch, latent); nan for a single datum."""
        return self._in_shape(_left_of(self._marginals))

    @cached_property
    @torch.no_grad()
    def log_prior(self) -> Tensor:
        """log p(z_si), (samples, batch)."""
        prior = self._required_prior
        return prior.log_prob(in_dtype_of(prior, self.z)).double()

    @cached_property
    @torch.no_grad()
    def log_prior_marginals(self) -> Tensor:
        """log p(z_sij), (samples, batch, latent)."""
        return self.prior_marginals.log_prob(in_dtype_of(self._required_prior, self.z)).double()

    @property
    def posterior_marginals(self) -> Marginals:
        """q(z_j | x_n); raises NotImplementedError, with the reason, where it is not to be had."""
        return marginals_of(self.posterior)

    @property
    def prior_marginals(self) -> Marginals:
        """p(z_j); raises NotImplementedError, with the reason, where it is not to be had."""
        return marginals_of(self._required_prior)

    @property
    def _required_prior(self) -> Density:
        if self.prior is None:
            raise ValueError("Expected a prior for this quantity but got None; pass prior=... to the draws.")
        return self.prior

    @cached_property
    @torch.no_grad()
    def _joint(self) -> MixtureScores:
        if self.site_sizes is not None:
            return self._prefixes.last
        return self.mixtures.joint(self.z.flatten(0, 1), self._own)

    @cached_property
    @torch.no_grad()
    def _prefixes(self) -> MixtureScores:
        return self.mixtures.prefixes(self.z.flatten(0, 1), self._own)

    @cached_property
    @torch.no_grad()
    def _marginals(self) -> MixtureScores:
        return self.mixtures.marginals(self.z.flatten(0, 1), self._own)

    @property
    def _own(self) -> Tensor:
        return torch.arange(self.data_size, device=self.z.device).repeat(len(self.z))

    def _in_shape(self, flat: Tensor) -> Tensor:
        return flat.unflatten(0, self.z.shape[:2])

    def _finite_draws(self, z: Tensor) -> Tensor:
        check_draws(z, self.posterior)
        return finite(z.detach().double() if is_normal(self.posterior) else z.detach())


def _left_of(mixture: MixtureScores) -> Tensor:
    assert mixture.leave_one_out is not None
    return mixture.leave_one_out


def draws_of(posterior: Posterior, num_samples: int, seed: int | None) -> Tensor:
    """(samples, batch, latent), finite, and reparametrised where gradients are enabled."""
    num_samples = whole_number("num_samples", num_samples, at_least=1)
    with seeded_draws(seed):
        draw = cast(Distribution, posterior).rsample if torch.is_grad_enabled() else posterior.sample
        return finite(draw((num_samples,)))


def check_draws(z: Tensor, posterior: Posterior) -> None:
    """Refuse what does not hold each draw in the column of its own datum."""
    batch, latent = posterior.batch_shape[0], posterior.event_shape[0]
    if z.dim() != 3 or not len(z) or z.shape[1:] != (batch, latent):
        raise ValueError(f"Expected draws of shape (S, {batch}, {latent}) but got {tuple(z.shape)}.")


def finite(z: Tensor, *, of: str = "the posterior") -> Tensor:
    """Draws without nan and infinity."""
    if not bool(z.isfinite().all()):
        raise ValueError(
            f"Expected finite draws from {of} but got {int((~z.isfinite()).sum())} that are not; "
            "check the encoder."
        )
    return z


def check_prior(prior: Density | None, latent_dim: int) -> None:
    """Refuse a prior of another shape than the posterior's event, or with parameters that are none."""
    if prior is None:
        return
    if getattr(prior, "batch_shape", None) != () or prior.event_shape != (latent_dim,):
        raise ValueError(
            f"Expected a prior of batch shape () and event shape ({latent_dim},) but got "
            f"{full_name(prior)} of {shapes_in_words(prior)}; declare its axes as the event, as "
            "Independent(..., 1) or .to_event(1) do."
        )
    check_parameters(prior, "prior")


def _check_angles(posterior: object, prior: object) -> None:
    """Refuse posteriors that count every turn, of which an angle's prior knows a single one."""
    pairs: Sequence[tuple[object, object]] = _side_by_side(posterior, prior) or [(posterior, prior)]
    for q, p in pairs:
        if is_angular(p) and not is_angular(q) and _is_real(q):
            raise ValueError(
                f"Expected posteriors of angles, such as VonMises, under the prior {full_name(p)} but got "
                f"{full_name(q)}: it counts every turn, and has no divergence from a density of one turn; "
                "heads={name: VonMises} makes an amortised guide draw angles."
            )


def _side_by_side(posterior: object, prior: object) -> list[tuple[Distribution, Distribution]]:
    q, p = factors_of(posterior), factors_of(prior)
    if isinstance(q, SideBySide) and isinstance(p, SideBySide) and q.sizes == p.sizes:
        return list(zip(q.parts, p.parts, strict=True))
    return []


def _is_real(posterior: object) -> bool:
    """Whether all reals are drawn, as far as it is told."""
    try:
        support: Any = cast(Distribution, posterior).support
    except (NotImplementedError, AttributeError):
        return True
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real


def _check_site_sizes(sizes: Sequence[int], latent_dim: int) -> None:
    whole = isinstance(sizes, Sequence) and all(is_integer(each) and each > 0 for each in sizes)
    if not whole or sum(sizes) != latent_dim:
        raise ValueError(
            f"Expected site_sizes, the latent dimensions of each site, of sum {latent_dim} but got "
            f"{shown(sizes)}."
        )
