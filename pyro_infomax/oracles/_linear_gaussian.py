"""The linear-Gaussian VAE: every nat of the pair, and its global optimum, in closed form."""

import math
from typing import Self, final

import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_infomax._checks import whole_number
from pyro_infomax.oracles._checks import (
    finite,
    generator_at,
    of_rank,
    positive_number,
    round_off,
    shaped,
    spectrum_of,
)


@final
class LinearGaussian:
    r"""A VAE whose two joint distributions are both Gaussian.

    .. math::

        p_D(x) = N(\mu, S), \quad
        p(z) = N(0, I), \quad
        p(x \mid z) = N(W z + \mu, s^2 I), \quad
        q(z \mid x) = N(V (x - \mu), \Delta)

    Every property is a float64 tensor, in nats per datum, differentiable in the arguments. ``rate``,
    ``distortion``, ``elbo``, ``log_evidence`` and ``loss`` hold for any data with mean :math:`\mu` and
    covariance :math:`S`; the other properties need the data to be Gaussian. A singular :math:`S` is allowed:
    its data have no density, so ``data_entropy`` is minus infinity, and ``decoder_gap`` and both divergences
    are infinite.

    References:
        Tipping and Bishop (1999), *Probabilistic Principal Component Analysis*.
        Lucas, Tucker, Grosse and Norouzi (2019), *Don't Blame the ELBO! A Linear VAE Perspective on Posterior
        Collapse*.

    Args:
        S: Covariance of the data, (dim, dim), or its diagonal, (dim,). Positive semi-definite.
        W: Weights of the decoder, (dim, latent).
        s2: Variance of the decoder, a positive number.
        V: Weights of the encoder, (latent, dim).
        Delta: Covariance of the encoder, (latent, latent), or its diagonal, (latent,). Positive definite. It
            is kept as a matrix.
        mu: Mean of the data, (dim,); zero by default.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or a covariance is not one.

    Example:
        >>> pair = LinearGaussian(S=[2.0, 1.0], W=[[1.0], [0.0]], s2=1.0, V=[[0.5, 0.0]], Delta=[0.5])
        >>> print(f"{pair.rate:.4f} = {pair.mutual_information:.4f} + {pair.marginal_kl:.4f}")
        0.3466 = 0.3466 + 0.0000
        >>> bool((pair.log_evidence - pair.elbo).abs() < 1e-12)  # the encoder is the true posterior
        True
    """

    def __init__(
        self,
        S: ArrayLike,
        W: ArrayLike,
        s2: Tensor | float,
        V: ArrayLike,
        Delta: ArrayLike,
        mu: ArrayLike | None = None,
    ) -> None:
        self.W = of_rank("W", finite("W", W), "dim, latent")  # (dim, latent)
        self.dim, self.latent_dim = self.W.shape
        self.S = _covariance("S", S, self.dim)  # (dim, dim)
        self.s2 = positive_number("s2", s2)  # ()
        self.V = shaped("V", finite("V", V), (self.latent_dim, self.dim))
        self.Delta = _covariance("Delta", Delta, self.latent_dim)  # (latent, latent)
        if not torch.linalg.eigvalsh(self.Delta.detach()).min() > 0:
            raise ValueError("Expected Delta to be positive definite but got a singular matrix.")
        mean = torch.zeros(self.dim, dtype=torch.float64) if mu is None else finite("mu", mu)
        self.mu = shaped("mu", mean, (self.dim,))

    @classmethod
    def optimum(
        cls, eigenvalues: ArrayLike, beta: float, latent_dim: int, s2: Tensor | float | None = None
    ) -> Self:
        r"""The global minimiser of distortion + beta rate, in the eigenbasis of the data's covariance.

        With the eigenvalues :math:`\lambda_1 \ge \lambda_2 \ge \dots` and the water level
        :math:`\theta = \beta s^2`, latent dimension :math:`j` is active if and only if
        :math:`\lambda_j > \theta`:

        .. math::

            w_j^2 = \lambda_j - \theta, \quad v_j = w_j / \lambda_j, \quad \Delta_j = \theta / \lambda_j,

        and an inactive one has collapsed to its prior: :math:`w_j = v_j = 0`, :math:`\Delta_j = 1`. The
        aggregate posterior is N(0, I) at every beta. A learned variance, with :math:`k` active dimensions, is
        :math:`s^2 = \sum_{j > k} \lambda_j / (\mathrm{dim} - k \beta)`. All dimensions collapse once
        :math:`\beta \ge \lambda_1 / \bar\lambda`.

        References:
            Lucas et al. (2019), *Don't Blame the ELBO!*, for beta = 1; Cover and Thomas (2006), *Elements of
            Information Theory*, chapter 10, for the reverse water-filling.

        Args:
            eigenvalues: Of the data's covariance, (dim,), at least zero, in any order; they are sorted,
                largest first, and become the diagonal of ``S``.
            beta: Weight of the rate, positive.
            latent_dim: Number of latent dimensions.
            s2: Variance of the decoder; None means that it is learned too.

        Raises:
            ValueError: If an argument is out of range, or the loss with a learned variance is unbounded
                below: at ``latent_dim`` :math:`\ge` rank :math:`S` and beta < dim / rank :math:`S`.

        Example:
            >>> best = LinearGaussian.optimum([4.0, 2.0, 0.5], beta=2.0, latent_dim=3, s2=0.5)
            >>> [round(w**2, 9) for w in best.W.diagonal().tolist()]  # above the level beta * s2 = 1
            [3.0, 1.0, 0.0]
            >>> print(f"{LinearGaussian.optimum([4.0, 2.0, 0.5], beta=1.0, latent_dim=2).s2:.4f}")
            0.5000
        """
        spectrum = spectrum_of("eigenvalues", eigenvalues).sort(descending=True).values  # (dim,)
        beta = positive_number("beta", beta).item()
        if latent_dim < 1:
            raise ValueError(f"Expected latent_dim >= 1 but got {latent_dim}.")
        variance = _learned_variance(spectrum, beta, latent_dim) if s2 is None else positive_number("s2", s2)
        used = min(len(spectrum), latent_dim)
        level = beta * variance
        excess = (spectrum[:used] - level).clamp(min=0)  # (used,)
        w = excess.sqrt()
        W = spectrum.new_zeros(len(spectrum), latent_dim)
        V = spectrum.new_zeros(latent_dim, len(spectrum))
        Delta = spectrum.new_ones(latent_dim)
        W.diagonal()[:used] = w
        V.diagonal()[:used] = torch.where(excess > 0, w / spectrum[:used], 0)
        Delta[:used] = torch.where(excess > 0, level / spectrum[:used], 1)
        return cls(spectrum, W, variance, V, Delta)

    @property
    def C(self) -> Tensor:
        """Covariance of the aggregate posterior q(z) = N(0, C), (latent, latent)."""
        return _push(self.V, self.S) + self.Delta

    @property
    def rate(self) -> Tensor:
        r""":math:`R = E\,KL[q(z|x) \| p(z)] = \tfrac12 [tr\,C - d - \ln|\Delta|]`."""
        return _expected_kl(self.Delta, _eye(self.latent_dim), spread=_push(self.V, self.S))

    @property
    def distortion(self) -> Tensor:
        r""":math:`D = -E \ln p(x|z) = \tfrac n2 \ln 2\pi s^2 + E|x - \mu - Wz|^2 / 2s^2`."""
        residual = _eye(self.dim) - self.W @ self.V  # (dim, dim)
        error = _push(residual, self.S).trace() + _push(self.W, self.Delta).trace()
        return 0.5 * (self.dim * torch.log(2 * math.pi * self.s2) + error / self.s2)

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound, minus distortion minus rate."""
        return -self.distortion - self.rate

    @property
    def log_evidence(self) -> Tensor:
        r""":math:`E \ln p(x)`, under the generative marginal :math:`N(\mu, W W^T + s^2 I)`."""
        marginal = self._generative_marginal
        fit = torch.linalg.solve(marginal, self.S).trace()
        return -0.5 * (self.dim * math.log(2 * math.pi) + torch.logdet(marginal) + fit)

    @property
    def data_entropy(self) -> Tensor:
        r""":math:`H[X] = \tfrac12 \ln|2\pi e S|`."""
        if self._is_singular:
            return torch.tensor(-math.inf, dtype=torch.float64)
        return 0.5 * (self.dim * math.log(2 * math.pi * math.e) + torch.logdet(self.S))

    @property
    def mutual_information(self) -> Tensor:
        r"""Mutual information of the representation, :math:`I = \tfrac12 [\ln|C| - \ln|\Delta|]`."""
        return 0.5 * (torch.logdet(self.C) - torch.logdet(self.Delta))

    @property
    def marginal_kl(self) -> Tensor:
        r""":math:`KL[q(z) \| p(z)] = \tfrac12 [tr\,C - d - \ln|C|]`."""
        return _expected_kl(self.C, _eye(self.latent_dim))

    @property
    def total_correlation(self) -> Tensor:
        r""":math:`TC = KL[q(z) \| \prod_j q(z_j)] = \tfrac12 [\sum_j \ln C_{jj} - \ln|C|]`."""
        return 0.5 * (self.C.diagonal().log().sum() - torch.logdet(self.C))

    @property
    def dimensionwise_kl(self) -> Tensor:
        r""":math:`KL[q(z_j) \| p(z_j)] = \tfrac12 [C_{jj} - 1 - \ln C_{jj}]`, (latent,)."""
        variance = self.C.diagonal()  # (latent,)
        return 0.5 * (variance - 1 - variance.log())

    @property
    def decoder_gap(self) -> Tensor:
        r""":math:`G = E_{q(z)} KL[q(x|z) \| p(x|z)]`, what the variational bound on the information loses."""
        if self._is_singular:
            return torch.tensor(math.inf, dtype=torch.float64)
        back = torch.linalg.solve(self.C, self.V @ self.S).T  # (dim, latent), E_q[x - mu | z] = back z
        # Joseph's form: S - back C back' would lose all digits when z says nearly everything about x
        inverted = _push(_eye(self.dim) - back @ self.V, self.S) + _push(back, self.Delta)
        return _expected_kl(inverted, self.s2 * _eye(self.dim), spread=_push(back - self.W, self.C))

    @property
    def kl_representation_generative(self) -> Tensor:
        """KL[q(z|x) p_D(x) || p(z) p(x|z)]: by the chain rule, first z, then x given z."""
        return self.marginal_kl + self.decoder_gap

    @property
    def kl_generative_representation(self) -> Tensor:
        """KL[p(z) p(x|z) || q(z|x) p_D(x)]: by the chain rule, first x, then z given x."""
        if self._is_singular:
            return torch.tensor(math.inf, dtype=torch.float64)
        marginal = self._generative_marginal
        exact = torch.linalg.solve(marginal, self.W).T  # (latent, dim), E_p[z | x] = exact (x - mu)
        posterior = _push(_eye(self.latent_dim) - exact @ self.W, _eye(self.latent_dim))
        posterior = posterior + self.s2 * exact @ exact.T
        encoder = _expected_kl(posterior, self.Delta, spread=_push(exact - self.V, marginal))
        return _expected_kl(marginal, self.S) + encoder

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
            exact: Whether the sample's own mean and covariance (normalised by 1/n) shall equal ``mu`` and
                ``S``. Then rate, distortion, evidence and ELBO hold for this sample without sampling error.
            seed: Isolates the draws from torch's global generator; None draws from it.

        Returns:
            The draws, (n, dim), float64.

        Raises:
            ValueError: If the sample is exact and n <= dim: fewer points cannot have this covariance.

        Example:
            >>> x = LinearGaussian.optimum([4.0, 1.0], beta=1.0, latent_dim=1).sample(5, exact=True, seed=0)
            >>> bool(torch.allclose(x.T @ x / 5, torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))))
            True
        """
        n, generator = whole_number("n", n, at_least=1), generator_at(seed)
        noise = torch.randn(n, self.dim, dtype=torch.float64, generator=generator)  # (n, dim)
        if exact:
            noise = _whiten(noise)
        variances, axes = torch.linalg.eigh(self.S.detach())
        return self.mu.detach() + noise * variances.clamp(min=0).sqrt() @ axes.T

    def model(self, x: Tensor) -> None:
        """The generative joint as a Pyro program: sites "z" and "x" in the plate "data".

        Args:
            x: The data, (n, dim), float64.
        """
        zero = torch.zeros(self.latent_dim, dtype=torch.float64)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))  # (..., n, latent)
            pyro.sample("x", dist.Normal(z @ self.W.T + self.mu, self.s2.sqrt()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """The encoder as a Pyro program: site "z" in the plate "data". It has no parameters to train.

        Args:
            x: The data, (n, dim), float64.
        """
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self._posterior((x - self.mu) @ self.V.T))

    def _posterior(self, loc: Tensor) -> dist.TorchDistribution:
        variances = self.Delta.diagonal()
        if torch.equal(self.Delta, variances.diag()):
            return dist.Normal(loc, variances.sqrt()).to_event(1)
        return dist.MultivariateNormal(loc, covariance_matrix=self.Delta)

    @property
    def _generative_marginal(self) -> Tensor:
        return self.W @ self.W.T + self.s2 * _eye(self.dim)

    @property
    def _is_singular(self) -> bool:
        variances = torch.linalg.eigvalsh(self.S.detach())
        return bool(variances[0] <= round_off(variances))


def _eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def _push(linear: Tensor, covariance: Tensor) -> Tensor:
    """Covariance of the linear map of a variable."""
    return linear @ covariance @ linear.T


def _expected_kl(covariance: Tensor, reference: Tensor, spread: Tensor | None = None) -> Tensor:
    """E KL[N(m, covariance) || N(m', reference)], where m - m' has mean zero and covariance `spread`."""
    second_moment = covariance if spread is None else covariance + spread
    ratio = torch.linalg.solve(reference, second_moment).trace()
    return 0.5 * (ratio - len(covariance) - torch.logdet(covariance) + torch.logdet(reference))


def _whiten(noise: Tensor) -> Tensor:
    n, dim = noise.shape
    if n <= dim:
        raise ValueError(f"Expected n > {dim} draws for an exact covariance in {dim} dimensions but got {n}.")
    centred = noise - noise.mean(0)
    factor = torch.linalg.cholesky(centred.T @ centred / n)
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


def _learned_variance(spectrum: Tensor, beta: float, latent_dim: int) -> Tensor:
    """The best s2: the smallest number of active dimensions whose variance leaves the next one inactive."""
    dim, rank = len(spectrum), int((spectrum > 0).sum())
    if latent_dim >= rank and beta * rank < dim:
        raise ValueError(
            f"Expected latent_dim < {rank}, the rank of S, or beta >= {dim}/{rank} but got "
            f"latent_dim={latent_dim}, beta={beta}: the loss falls without bound as s2 -> 0, so give s2."
        )
    tail = spectrum.flip(0).cumsum(0).flip(0)  # (dim,), tail[k] = what the first k dimensions leave over
    active = 0
    variance = tail[0] / dim
    # the slack keeps ties, where the loss is flat in s2, from running on to the singular solution
    while active < latent_dim and spectrum[active] > beta * variance * (1 + 1e-12):
        active += 1
        variance = tail[active] / (dim - active * beta)
    return variance


def _covariance(name: str, value: ArrayLike, size: int) -> Tensor:
    matrix = finite(name, value)
    matrix = matrix.diag() if matrix.dim() == 1 else matrix
    shaped(name, matrix, (size, size))
    if (matrix - matrix.T).abs().max() > 1e-6 * matrix.abs().max():
        raise ValueError(f"Expected {name} to be symmetric but it differs from its transpose.")
    variances = torch.linalg.eigvalsh(matrix.detach())
    if variances[0] < -round_off(variances):
        raise ValueError(
            f"Expected {name} to be a covariance but its least eigenvalue is {variances[0].item():.4g}."
        )
    return (matrix + matrix.T) / 2
