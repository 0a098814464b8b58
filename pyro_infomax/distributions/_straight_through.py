"""Discrete distributions whose exact draws carry the gradient of relaxed ones."""

from collections.abc import Sequence
from numbers import Real
from typing import Self, final

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_infomax._checks import shown

_NO_SHAPE = torch.Size()


class _StraightThrough(Distribution):
    """What the classes share: a temperature beside the parameters of the discrete distribution."""

    has_rsample = True
    relaxed = True

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not all(each is None or isinstance(each, Tensor | Real) for each in (probs, logits)):
            raise TypeError(
                f"Expected probs or logits, a tensor, but got {shown(probs if logits is None else logits)}."
            )
        super().__init__(probs=probs, logits=logits, validate_args=validate_args)  # type: ignore[call-arg]
        # Reading a tensor's value would stop the capture of a step, for which validation is off
        if self._validate_args or not isinstance(temperature, Tensor):
            check_temperature(temperature)
        self.temperature = temperature

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        new.temperature = self.temperature
        return super().expand(torch.Size(batch_shape), _instance=new)


@final
class StraightThroughBernoulli(_StraightThrough, dist.Bernoulli):
    r"""A Bernoulli distribution that draws zeros and ones with the gradient of numbers in between.

    .. math:: z = \mathbb{1}[\ell + \epsilon > 0], \qquad \frac{\partial z}{\partial \ell} :=
        \frac{\partial}{\partial \ell}\, \sigma\Bigl(\frac{\ell + \epsilon}{\tau}\Bigr), \qquad
        \epsilon \sim \mathrm{Logistic}

    Draws and ``log_prob`` are exact; the gradient is biased, less so and noisier the lower the temperature
    τ is. It differs from Pyro's ``RelaxedBernoulliStraightThrough`` in that ``log_prob`` is the probability
    of the value, so that rates are in nats of the discrete variable and their closed form is known.

    Reference: Bengio, Léonard and Courville, 2013, "Estimating or propagating gradients through stochastic
    neurons for conditional computation"; Maddison, Mnih and Teh, 2017, "The concrete distribution".

    Args:
        temperature: τ > 0, a number or a tensor without axes.
        probs: probabilities of 1.
        logits: log-odds of 1, instead of ``probs``.

    Attributes:
        relaxed: True, in common with other classes whose draws carry a relaxed gradient.

    Raises:
        ValueError: unless temperature > 0.

    Example:
        >>> logits = torch.zeros(1000, requires_grad=True)
        >>> z = StraightThroughBernoulli(0.5, logits=logits).rsample()
        >>> z.unique()
        tensor([0., 1.], grad_fn=...)
        >>> z.sum().backward()
        >>> bool(logits.grad.mean() > 0)
        True
    """

    def rsample(self, sample_shape: Sequence[int] = _NO_SHAPE) -> Tensor:
        logits = self.logits.expand(self._extended_shape(torch.Size(sample_shape)))
        u = _uniform(logits)
        noisy = logits + u.log() - (-u).log1p()
        return _straight_through((noisy > 0).to(noisy.dtype), (noisy / self.temperature).sigmoid())


@final
class StraightThroughOneHotCategorical(_StraightThrough, dist.OneHotCategorical):
    r"""A one-hot distribution that draws corners of the simplex with the gradient of points inside.

    .. math:: z = \mathrm{onehot}\bigl(\arg\max_k (\ell_k + g_k)\bigr), \qquad
        \frac{\partial z}{\partial \ell} := \frac{\partial}{\partial \ell}\,
        \mathrm{softmax}\Bigl(\frac{\ell + g}{\tau}\Bigr), \qquad g_k \sim \mathrm{Gumbel}

    Draws are exact; the gradient is biased, less so and noisier the lower the temperature τ is. ``log_prob``
    is the probability of the value, :math:`\sum_k z_k \log p_k`, differentiable in the value too.
    Attributes and errors are those of :class:`StraightThroughBernoulli`.

    Reference: Jang, Gu and Poole, 2017, "Categorical reparameterization with Gumbel-softmax".

    Args:
        temperature: τ > 0, a number or a tensor without axes.
        probs: probabilities, (..., K).
        logits: log-probabilities up to a constant, instead of ``probs``.

    Example:
        >>> q = StraightThroughOneHotCategorical(0.5, logits=torch.zeros(5, 3))
        >>> q.rsample().sum(-1)
        tensor([1., 1., 1., 1., 1.])
    """

    def rsample(self, sample_shape: Sequence[int] = _NO_SHAPE) -> Tensor:
        logits = self.logits.expand(self._extended_shape(torch.Size(sample_shape)))  # (..., category)
        noisy = logits - (-_uniform(logits).log()).log()
        hard = torch.zeros_like(noisy).scatter(-1, noisy.argmax(-1, keepdim=True), 1.0)
        return _straight_through(hard, (noisy / self.temperature).softmax(-1))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # 0 times minus infinity is no 0
        logits = self.logits.clamp(min=torch.finfo(self.logits.dtype).min)
        return (value * logits).sum(-1)


def check_temperature(temperature: Tensor | float) -> None:
    """Raises ValueError unless the temperature is above 0."""
    number = (isinstance(temperature, Tensor) and temperature.dim() == 0) or isinstance(temperature, Real)
    if not number or not temperature > 0:
        raise ValueError(f"Expected temperature > 0 but got {shown(temperature)}: 1 or 0.5 are common.")


def _uniform(like: Tensor) -> Tensor:
    # The logarithm of 0 would give gradients that are nan
    return torch.rand_like(like).clamp(min=torch.finfo(like.dtype).tiny)


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of the one with the gradient of the other; exactly so, since a number minus itself is 0."""
    return hard + (soft - soft.detach())
