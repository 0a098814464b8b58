"""The VAE on finite alphabets: every nat of the pair by enumeration, and its optima."""

from collections.abc import Iterator
from typing import Final, Self, final

import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_infomax._checks import whole_number
from pyro_infomax.oracles._checks import (
    cross_entropy,
    divergence,
    entropy,
    generator_at,
    in_float64,
    log_where,
    positive_number,
    probabilities,
    shaped,
)
from pyro_infomax.oracles._rate_distortion import Reproduction, maximise

_INDEPENDENT: Final = 1e-12  # nats of dependence that are rounding


@final
class DiscreteVAE:
    r"""A VAE whose data and latents take finitely many values, given by its tables.

    The shape of the prior is that of the latent: a table (3,) is one site "z" of three states, a table (2, 3)
    is two sites "z_0" and "z_1", of two and three states, dependent or not. In the formulae z is all of them.
    Every property is a float64 tensor, in nats per datum, differentiable in the tables, whose rows are
    normalised first. The empirical distribution of N distinct data is a uniform ``data_distribution`` of N
    symbols; here p_D and p(x|z) are both probabilities, so that the decoder gap exists. Probabilities of zero
    are allowed; in the programs torch's Categorical scores them as its smallest ones.

    References:
        Hoffman and Johnson (2016), *ELBO Surgery: Yet Another Way to Carve up the Variational Evidence Lower
        Bound*.
        Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), *Fixing a Broken ELBO*.

    Args:
        prior: p(z), (\*states).
        likelihood: p(x|z), (\*states, symbols).
        encoder: q(z|x), (symbols, \*states).
        data_distribution: p_D(x), (symbols,); uniform by default.

    Raises:
        ValueError: If shapes do not fit, or a table is not one of probabilities.

    Example:
        >>> pair = DiscreteVAE(
        ...     prior=[0.5, 0.5],
        ...     likelihood=[[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]],
        ...     encoder=[[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]],
        ... )
        >>> print(f"{pair.rate:.4f} = {pair.mutual_information:.4f} + {pair.marginal_kl:.4f}")
        0.2454 = 0.2454 + 0.0000
        >>> gap = pair.distortion - (pair.data_entropy - pair.mutual_information + pair.decoder_gap)
        >>> bool(gap.abs() < 1e-12)
        True
    """

    def __init__(
        self,
        prior: ArrayLike | Tensor,
        likelihood: ArrayLike | Tensor,
        encoder: ArrayLike | Tensor,
        data_distribution: ArrayLike | Tensor | None = None,
    ) -> None:
        self.prior = _prior(prior)  # (*states)
        self.likelihood = _likelihood(likelihood, self.states)  # (*states, symbols)
        self.data_distribution = _data(data_distribution, self.likelihood)  # (symbols,)
        table = shaped("encoder", in_float64(encoder), (self.symbols, *self.states))
        self.encoder = probabilities("encoder", table, axes=self.latent_dim)  # (symbols, *states)

    @classmethod
    def optimal_encoder(
        cls,
        prior: ArrayLike | Tensor,
        likelihood: ArrayLike | Tensor,
        beta: float,
        data_distribution: ArrayLike | Tensor | None = None,
    ) -> Self:
        r"""The pair with the encoder that minimises distortion + beta rate, for this prior and decoder.

        .. math::

            q^*(z|x) \propto p(z)\, p(x|z)^{1/\beta}, \qquad
            \min_q\; D + \beta R = -\beta\, E_{p_D(x)} \ln \sum_z p(z)\, p(x|z)^{1/\beta}

        At beta = 1 it is the true posterior.

        Args:
            prior, likelihood, data_distribution: as :class:`DiscreteVAE`.
            beta: weight of the rate, positive.

        Raises:
            ValueError: If an argument is out of range, or a symbol that occurs has no state to come from.

        Example:
            >>> noisy = [[0.9, 0.1], [0.1, 0.9]]
            >>> pair = DiscreteVAE.optimal_encoder([0.5, 0.5], noisy, beta=1.0)
            >>> print(f"{pair.log_evidence - pair.elbo:.4f}")
            0.0000
        """
        p_z = _prior(prior)
        table = _likelihood(likelihood, tuple(p_z.shape))
        p_x = _data(data_distribution, table)
        scores = _log(p_z) + _tempered(table, beta)  # (symbols, *states)
        _check_reachable(scores.detach() > -torch.inf, p_x)
        return cls(p_z, table, _normalised(scores), p_x)

    @classmethod
    def optimum(
        cls,
        likelihood: ArrayLike | Tensor,
        beta: float,
        data_distribution: ArrayLike | Tensor | None = None,
        *,
        tolerance: float = 1e-10,
        max_iterations: int = 200,
    ) -> Self:
        r"""The pair that minimises distortion + beta rate over encoder and prior, for this decoder.

        The best prior is the aggregate posterior. By the iteration of Blahut and Arimoto

        .. math:: p(z) \leftarrow E_{p_D(x)}\, q^*(z|x),

        the pair comes to lie on Shannon's rate-distortion curve of p_D under the distortion
        :math:`-\ln p(x|z)`, where :math:`dR/dD = -1/\beta` and R = I.

        Reference: Blahut (1972), *Computation of Channel Capacity and Rate-Distortion Functions*.

        Args:
            likelihood, data_distribution: as :class:`DiscreteVAE`.
            beta: weight of the rate, positive.
            tolerance: how far the loss, divided by beta, may be above its minimum, in nats.
            max_iterations: of the iteration, before Newton's steps.

        Raises:
            ValueError: As :meth:`optimal_encoder`.
            RuntimeError: If the loss cannot be certified to the tolerance.

        Example:
            >>> pair = DiscreteVAE.optimum([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]], beta=0.5)
            >>> print(f"D = {pair.distortion:.4f}, R = I = {pair.rate:.4f}, p(z_2) = {pair.prior[2]:.4f}")
            D = 0.1322, R = I = 0.6273, p(z_2) = 0.0000
        """
        table = in_float64(likelihood)
        table = _likelihood(table, tuple(table.shape[:-1]))
        p_x = _data(data_distribution, table)
        prior = _best_prior(_tempered(table.detach(), beta), p_x, tolerance, max_iterations)
        return cls.optimal_encoder(prior, table, beta, p_x)

    @property
    def states(self) -> tuple[int, ...]:
        """How many states each latent dimension has."""
        return tuple(self.prior.shape)

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions."""
        return self.prior.dim()

    @property
    def symbols(self) -> int:
        """How many values a datum can take."""
        return self.likelihood.shape[-1]

    @property
    def representation_joint(self) -> Tensor:
        r"""q(z|x) p_D(x), (symbols, \*states)."""
        return self.encoder * self._aligned(self.data_distribution)

    @property
    def generative_joint(self) -> Tensor:
        r"""p(z) p(x|z), (symbols, \*states)."""
        return self.prior * self.likelihood.movedim(-1, 0)

    @property
    def aggregate(self) -> Tensor:
        r"""The aggregate posterior q(z), (\*states)."""
        return self.representation_joint.sum(0)

    @property
    def rate(self) -> Tensor:
        r""":math:`R = E\,KL[q(z|x) \| p(z)]`."""
        return divergence(self.representation_joint, self._aligned(self.data_distribution) * self.prior)

    @property
    def distortion(self) -> Tensor:
        r""":math:`D = -E \ln p(x|z)`."""
        return cross_entropy(self.representation_joint, self.likelihood.movedim(-1, 0))

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound, minus distortion minus rate."""
        return -self.distortion - self.rate

    @property
    def log_evidence(self) -> Tensor:
        r""":math:`E \ln p(x)`, of the data under the generative marginal."""
        return -cross_entropy(self.data_distribution, self._generative_marginal)

    @property
    def data_entropy(self) -> Tensor:
        r""":math:`H[X] = -E \ln p_D(x)`."""
        return entropy(self.data_distribution)

    @property
    def mutual_information(self) -> Tensor:
        r"""Mutual information of the representation, :math:`I = E\,KL[q(z|x) \| q(z)]`."""
        return divergence(self.representation_joint, self._aligned(self.data_distribution) * self.aggregate)

    @property
    def marginal_kl(self) -> Tensor:
        r""":math:`KL[q(z) \| p(z)]`."""
        return divergence(self.aggregate, self.prior)

    @property
    def total_correlation(self) -> Tensor:
        r""":math:`TC = KL[q(z) \| \prod_j q(z_j)]`."""
        return divergence(self.aggregate, _product(self.aggregate, self.latent_dim))

    @property
    def conditional_total_correlation(self) -> Tensor:
        r""":math:`TC(Z|X) = E\,KL[q(z|x) \| \prod_j q(z_j|x)]`, 0 for an encoder that factorises."""
        apart = _product(self.encoder, self.latent_dim)
        return divergence(self.representation_joint, self._aligned(self.data_distribution) * apart)

    @property
    def dimensionwise_kl(self) -> Tensor:
        r""":math:`KL[q(z_j) \| p(z_j)]`, (latent,)."""
        pairs = zip(self._margins(self.aggregate), self._margins(self.prior), strict=True)
        return torch.stack([divergence(q, p) for q, p in pairs])

    @property
    def prior_dependence(self) -> Tensor:
        r""":math:`E_{q(z)}[\sum_j \ln p(z_j) - \ln p(z)]`, 0 for a prior that factorises.

        It is nan where q(z) has a state that not even the margins of the prior have.
        """
        apart = cross_entropy(self.aggregate, _product(self.prior, self.latent_dim))
        return cross_entropy(self.aggregate, self.prior) - apart

    @property
    def decoder_gap(self) -> Tensor:
        r""":math:`G = E_{q(z)} KL[q(x|z) \| p(x|z)]`, what the variational bound on the information loses."""
        return divergence(self.representation_joint, self.aggregate * self.likelihood.movedim(-1, 0))

    @property
    def kl_representation_generative(self) -> Tensor:
        """KL[q(z|x) p_D(x) || p(z) p(x|z)]."""
        return divergence(self.representation_joint, self.generative_joint)

    @property
    def kl_generative_representation(self) -> Tensor:
        """KL[p(z) p(x|z) || q(z|x) p_D(x)]; infinite where the representation lacks a pair."""
        return divergence(self.generative_joint, self.representation_joint)

    def loss(self, beta: Tensor | float) -> Tensor:
        """Distortion + beta rate, the loss of a beta-VAE per datum.

        Args:
            beta: Weight of the rate, at least zero.

        Raises:
            ValueError: If beta is negative.
        """
        if not beta >= 0:
            raise ValueError(f"Expected beta >= 0 but got {float(beta)}.")
        return self.distortion + beta * self.rate

    def sample(self, n: int, *, exact: bool = False, seed: int | None = None) -> Tensor:
        """Draws of x from the data distribution.

        Args:
            n: Number of draws.
            exact: Whether each symbol shall come up in exactly its share, in random order. Then every
                property holds for this sample without sampling error.
            seed: Isolates the draws from torch's global generator; None draws from it.

        Returns:
            The symbols, (n,), integers from 0.

        Raises:
            ValueError: If the sample is exact and some share of n is no whole number.

        Example:
            >>> pair = DiscreteVAE.optimum([[0.9, 0.1], [0.1, 0.9]], beta=1.0)
            >>> pair.sample(6, exact=True, seed=0).bincount()
            tensor([3, 3])
        """
        n, generator = whole_number("n", n, at_least=1), generator_at(seed)
        p = self.data_distribution.detach()
        if not exact:
            return torch.multinomial(p, n, replacement=True, generator=generator)
        counts = (n * p).round()
        if (n * p - counts).abs().max() > 1e-9 * n:
            raise ValueError(f"Expected n of which every symbol has a whole share but got {n}.")
        drawn = torch.arange(self.symbols).repeat_interleave(counts.long())
        return drawn[torch.randperm(n, generator=generator)]

    def model(self, x: Tensor) -> None:
        """The generative joint as a Pyro program: the latent sites and "x" in the plate "data".

        Args:
            x: The data, (n,), integers from 0.
        """
        with pyro.plate("data", len(x), dim=-1):
            z = _sample_sites(self.prior, self.latent_dim, ())
            pyro.sample("x", dist.Categorical(self.likelihood[z]), obs=x)

    def guide(self, x: Tensor) -> None:
        """The encoder as a Pyro program: the latent sites in the plate "data". It has no parameters to train.

        Args:
            x: The data, (n,), integers from 0.
        """
        with pyro.plate("data", len(x), dim=-1):
            _sample_sites(self.encoder, self.latent_dim, (x,))

    @property
    def _generative_marginal(self) -> Tensor:
        return self.generative_joint.flatten(1).sum(1)  # (symbols,)

    def _aligned(self, per_symbol: Tensor) -> Tensor:
        """(symbols, 1, ..., 1), beside a table (symbols, *states)."""
        return per_symbol.reshape(-1, *(1 for _ in self.states))

    def _margins(self, table: Tensor) -> Iterator[Tensor]:
        """p(z_j) of each latent dimension, (states of j,)."""
        for kept in range(self.latent_dim):
            yield _margin(table, kept, self.latent_dim).flatten()


def _margin(table: Tensor, kept: int, latent_dim: int) -> Tensor:
    """The sum over all latent axes but one, which stay as axes of length one."""
    others = tuple(axis - latent_dim for axis in range(latent_dim) if axis != kept)
    return table.sum(others, keepdim=True) if others else table


def _product(table: Tensor, latent_dim: int) -> Tensor:
    """The product of the margins of the last axes."""
    product = torch.ones_like(table)
    for kept in range(latent_dim):
        product = product * _margin(table, kept, latent_dim)
    return product


def _sample_sites(table: Tensor, latent_dim: int, context: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Samples the sites one after the other, from a table (*context, *states).

    Independent sites are sampled from their margins, so that they are seen to be independent.
    """
    is_product = divergence(table, _product(table, latent_dim)).item() < _INDEPENDENT
    sites: tuple[Tensor, ...] = ()
    for index in range(latent_dim):
        summed = [j - latent_dim for j in range(latent_dim) if j > index or (is_product and j < index)]
        remaining = table.sum(summed) if summed else table
        weights = remaining[context if is_product else (*context, *sites)]  # (..., states of index)
        # a state that never occurs has no successors; any will do
        weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, 1.0)
        name = f"z_{index}" if latent_dim > 1 else "z"
        sites = (*sites, pyro.sample(name, dist.Categorical(weights)))
    return sites


def _tempered(likelihood: Tensor, beta: float) -> Tensor:
    """ln p(x|z) / beta, (symbols, *states)."""
    return _log(likelihood.movedim(-1, 0)) / positive_number("beta", beta)


def _log(p: Tensor) -> Tensor:
    """ln p, where zeros take no part in the gradient."""
    return torch.where(p > 0, log_where(p > 0, p), -torch.inf)


def _normalised(scores: Tensor) -> Tensor:
    """exp(scores), normalised over the states; uniform where all are impossible."""
    flat = scores.flatten(1)
    is_possible = (flat.detach() > -torch.inf).any(1, keepdim=True)
    return torch.where(is_possible, flat, 0.0).softmax(1).reshape(scores.shape)


def _best_prior(tempered: Tensor, p_x: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """The prior of the least loss, (*states)."""
    scores = tempered.flatten(1)  # (symbols, state)
    _check_reachable(scores > -torch.inf, p_x)
    with torch.no_grad():
        affinity = (scores - scores.max(1, keepdim=True).values).exp()
        function = Reproduction(p_x, affinity)
        weights = maximise(function, tolerance=tolerance, max_iterations=max_iterations)
        return weights.reshape(tempered.shape[1:])


def _check_reachable(is_possible: Tensor, p_x: Tensor) -> None:
    lost = ~is_possible.flatten(1).any(1) & (p_x.detach() > 0)
    if lost.any():
        raise ValueError(
            f"Expected every symbol that occurs to be possible but symbol {int(lost.nonzero()[0])} has "
            "probability 0 in every state."
        )


def _prior(value: ArrayLike | Tensor) -> Tensor:
    table = in_float64(value)
    return probabilities("prior", table, axes=max(1, table.dim()))


def _likelihood(value: ArrayLike | Tensor, states: tuple[int, ...]) -> Tensor:
    table = in_float64(value)
    if not states or table.shape[:-1] != states:
        raise ValueError(f"Expected likelihood of shape {(*states, 'symbols')} but got {tuple(table.shape)}.")
    return probabilities("likelihood", table)


def _data(value: ArrayLike | Tensor | None, likelihood: Tensor) -> Tensor:
    symbols = likelihood.shape[-1]
    if value is None:
        return likelihood.new_full((symbols,), 1 / symbols)
    return shaped("data_distribution", probabilities("data_distribution", value), (symbols,))
