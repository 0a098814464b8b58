"""Likelihoods p(x|z): from the output of a decoder to a distribution over data, with a check of the data."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class Likelihood(nn.Module, ABC):
    """From the output of a decoder to one distribution for each element of the data.

    The axes that belong to one datum are made event axes by whoever knows where the batch ends.
    """

    @abstractmethod
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution of each element.

        Args:
            parameters: output of the decoder.
        """

    def check(self, x: Tensor, parameters: Tensor) -> None:
        """Raises ValueError if data cannot come from this likelihood.

        Args:
            x: data.
            parameters: output of the decoder.
        """

    def centre(self, distribution: dist.TorchDistribution) -> Tensor:
        """The value that stands for the distribution in a reconstruction: its mean.

        Args:
            distribution: what :meth:`forward` returned.
        """
        return distribution.mean


@final
class Bernoulli(Likelihood):
    r"""Binary data, with the decoder's output as logits :math:`\ell`.

    .. math:: \log p(x \mid \ell) = x \ell - \log(1 + e^{\ell})

    Grey values between 0 and 1 are accepted, as is common: the formula is then the expectation over
    binary images with these means, and no density of the grey image itself.

    Raises:
        ValueError: on data outside [0, 1], from :meth:`check`.

    Example:
        >>> float(Bernoulli()(torch.tensor(0.0)).log_prob(torch.tensor(0.5)).exp())
        0.5
    """

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        # torch would refuse grey values
        return dist.Bernoulli(logits=parameters, validate_args=False)

    def check(self, x: Tensor, _: Tensor) -> None:
        _check_range(x, 0, 1, "the Bernoulli likelihood", "divide by the maximum, or use 'gaussian'")


@final
class ContinuousBernoulli(Likelihood):
    r"""Data in [0, 1], with the decoder's output as logits :math:`\ell`.

    .. math:: p(x \mid \ell) = C(\ell)\, e^{x \ell}

    A proper density of grey values (Loaiza-Ganem and Cunningham, 2019, "The continuous Bernoulli: fixing a
    pervasive error in variational autoencoders").

    Raises:
        ValueError: on data outside [0, 1], from :meth:`check`.

    Example:
        >>> float(ContinuousBernoulli()(torch.tensor(0.0)).log_prob(torch.tensor(0.3)).exp())
        1.0
    """

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.ContinuousBernoulli(logits=parameters)

    def check(self, x: Tensor, _: Tensor) -> None:
        _check_range(
            x, 0, 1, "the continuous Bernoulli likelihood", "divide by the maximum, or use 'gaussian'"
        )


@final
class Gaussian(Likelihood):
    r"""Real data, with the decoder's output as the mean.

    .. math:: p(x \mid \mu) = \mathcal{N}(x;\, \mu, \sigma^2)

    Args:
        scale: standard deviation σ in units of the data; None learns one for all elements, from 1 on, through
            its logarithm (Rybkin, Daniilidis and Levine, 2021, "Simple and effective VAE training with
            calibrated decoders").

    Raises:
        ValueError: unless scale > 0, and on nan or infinite data, from :meth:`check`.

    Example:
        >>> Gaussian(scale=0.5)(torch.zeros(3)).stddev
        tensor([0.5000, 0.5000, 0.5000])
    """

    log_scale: Tensor

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        if scale is not None and not 0 < scale < inf:
            raise ValueError(f"Expected a finite scale > 0 but got {scale}: None learns it.")
        log_scale = torch.tensor(1.0 if scale is None else scale, dtype=torch.get_default_dtype()).log()
        if scale is None:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def scale(self) -> Tensor:
        """The standard deviation, a scalar."""
        return self.log_scale.exp()

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Normal(parameters, self.scale)

    def check(self, x: Tensor, _: Tensor) -> None:
        if not torch.isfinite(x).all():
            raise ValueError(
                f"Expected finite data for the Gaussian likelihood but got {_found(x)}: "
                "remove those rows or fill them in."
            )


@final
class Categorical(Likelihood):
    r"""Classes 0 … K − 1, with the decoder's output (..., \*x.shape, K) as logits.

    .. math:: \log p(x \mid \ell) = \ell_x - \log \sum_k e^{\ell_k}

    Raises:
        ValueError: on data that are not integers 0 … K − 1, from :meth:`check`.

    Example:
        >>> Categorical()(torch.zeros(5, 8, 8, 4)).batch_shape
        torch.Size([5, 8, 8])
    """

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=parameters)

    def check(self, x: Tensor, parameters: Tensor) -> None:
        classes = parameters.shape[-1]
        fix = f"the last axis of the decoder's output counts the classes, here {classes}"
        _check_range(x, 0, classes - 1, "the categorical likelihood", fix)
        if x.is_floating_point() and not torch.equal(x, x.round()):
            raise ValueError(
                f"Expected integer classes for the categorical likelihood but got fractions such as "
                f"{float(x[x != x.round()][0]):g}: round them, or use 'gaussian'."
            )

    def centre(self, distribution: dist.TorchDistribution) -> Tensor:
        """The most probable class; a mean of classes has no meaning.

        Args:
            distribution: what :meth:`forward` returned.
        """
        return distribution.mode


@final
class _Custom(Likelihood):
    """A user's callable as a likelihood."""

    def __init__(self, build: Callable[[Tensor], object]) -> None:
        super().__init__()
        self._build = build

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        distribution = self._build(parameters)
        if not isinstance(distribution, dist.torch_distribution.TorchDistributionMixin):
            raise ValueError(
                f"Expected the likelihood to return a distribution of pyro.distributions but got "
                f"{type(distribution).__name__}."
            )
        return distribution


_BY_NAME: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "continuous_bernoulli": ContinuousBernoulli,
    "categorical": Categorical,
}


def to_likelihood(likelihood: object) -> Likelihood:
    """The likelihood that a name, an object or a callable stands for.

    Args:
        likelihood: ``"bernoulli"``, ``"gaussian"`` (learned scale), ``"continuous_bernoulli"``,
            ``"categorical"``; a :class:`Likelihood`; or a callable from the decoder's output to a Pyro
            distribution. The parameters of a module train.

    Raises:
        ValueError: for anything else.

    Example:
        >>> to_likelihood("bernoulli")
        Bernoulli()
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if isinstance(likelihood, str) and likelihood in _BY_NAME:
        return _BY_NAME[likelihood]()
    if callable(likelihood):
        return _Custom(likelihood)
    raise ValueError(
        f"Expected likelihood to be one of {', '.join(map(repr, _BY_NAME))}, a Likelihood or a callable from "
        f"parameters to a distribution, but got {likelihood!r}."
    )


def _check_range(x: Tensor, low: float, high: float, owner: str, fix: str) -> None:
    smallest, largest = x.aminmax()  # nan, if there is one
    if not (smallest >= low and largest <= high):
        raise ValueError(f"Expected data in [{low}, {high}] for {owner} but got {_found(x)}: {fix}.")


def _found(x: Tensor) -> str:
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        return f"{bad} values that are nan or infinite"
    return f"values from {float(x.min()):g} to {float(x.max()):g}"
