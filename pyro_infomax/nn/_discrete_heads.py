"""Heads on discrete supports: from the features of an encoder to logits, exact or with relaxed draws."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, TypeAlias, final

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_infomax._checks import whole_number
from pyro_infomax.distributions import (
    StraightThroughBernoulli,
    StraightThroughOneHotCategorical,
    check_temperature,
    unwrapped,
)

Temperature: TypeAlias = float | Tensor | Callable[[], float | Tensor]

_Boolean = type(constraints.boolean)
_OneHot = type(constraints.one_hot)
# Logits differ a little at first, or mixtures would never break their symmetry
_INIT_WEIGHT: Final = 0.1


class DiscreteHead(nn.Module, ABC):
    """Logits that are linear in the features, and near 0 at first. Abstract.

    The last ``variable_axes`` axes of an event make one variable; the distribution is a product over the
    others. A variable has the logits of its elements, or as many as there are ``_categories`` if its values
    are integers.
    """

    variable_axes: ClassVar[int] = 0
    _categories: tuple[int, ...] = ()

    def __init__(
        self,
        in_features: int,
        event_shape: Sequence[int],
        *,
        enumerate: bool | None = None,
        temperature: Temperature | None = None,
    ) -> None:
        super().__init__()
        if len(event_shape) < self.variable_axes:
            raise ValueError("Expected an event shape (..., K) for one-hot vectors but got ().")
        self.event_shape = torch.Size(event_shape)
        self.enumerate = temperature is None if enumerate is None else enumerate
        self.temperature = temperature
        self._independent = len(event_shape) - self.variable_axes
        check_discrete_options(self.enumerate, self.temperature)
        self._check_enumerable()
        self._logits_shape = torch.Size([*event_shape, *self._categories])
        self.linear = nn.Linear(in_features, self._logits_shape.numel())
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.weight.mul_(_INIT_WEIGHT)

    @property
    def infer(self) -> dict[str, str]:
        """What :func:`pyro.sample` is told about the site."""
        return {"enumerate": "parallel"} if self.enumerate else {}

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The distribution, of batch shape (...), of features (..., in_features)."""
        logits = self.linear(features).reshape(features.shape[:-1] + self._logits_shape)
        temperature = self.temperature() if callable(self.temperature) else self.temperature
        factors = self._exact(logits) if temperature is None else self._relaxed(logits, temperature)
        return factors.to_event(self._independent)

    @abstractmethod
    def _exact(self, logits: Tensor) -> dist.TorchDistribution:
        """The distribution without a gradient of its draws."""

    def _relaxed(self, logits: Tensor, temperature: Tensor | float) -> dist.TorchDistribution:
        """The distribution whose draws have a relaxed gradient, for heads that take a temperature."""
        raise NotImplementedError(f"{type(self).__name__} has no relaxation.")

    def _check_enumerable(self) -> None:
        if self.enumerate and self._independent:
            raise NotImplementedError(
                f"Expected one discrete variable to enumerate but got event shape {tuple(self.event_shape)}, "
                "whose combinations Pyro does not enumerate: let the model sample the elements in a plate, "
                "or pass a temperature, or enumerate=False for a score-function objective."
            )


def check_discrete_options(enumerate: bool | None, temperature: Temperature | None) -> None:
    """Refuses a temperature that is none, and one for a site that is to be enumerated."""
    if temperature is not None and not callable(temperature):
        check_temperature(temperature)
    if enumerate and temperature is not None:
        raise ValueError(
            f"Expected either enumerate=True or a temperature but got both, with temperature {temperature}: "
            "an enumerated site draws nothing that could be relaxed."
        )


@final
class BernoulliHead(DiscreteHead):
    r"""Features to Bernoulli variables.

    .. math:: q(z \mid h) = \prod_i \mathrm{Bernoulli}\bigl(z_i;\, \sigma(A_i h + a_i)\bigr)

    Args:
        in_features: number of features.
        event_shape: shape of one latent; only a scalar, ``()``, can be enumerated.
        enumerate: whether a ``TraceEnum`` objective sums over both values; None if there is no temperature.
        temperature: above 0, or a function without arguments that gives one, read at each call: draws then
            have a relaxed gradient, :class:`~pyro_infomax.distributions.StraightThroughBernoulli`.

    Raises:
        ValueError: unless temperature > 0, and for a temperature with ``enumerate=True``.
        NotImplementedError: if an event with axes is to be enumerated.

    Example:
        >>> BernoulliHead(16, ()).infer
        {'enumerate': 'parallel'}
        >>> BernoulliHead(16, (3,), temperature=0.5)(torch.zeros(5, 16)).rsample().shape
        torch.Size([5, 3])
    """

    def _exact(self, logits: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=logits)

    def _relaxed(self, logits: Tensor, temperature: Tensor | float) -> dist.TorchDistribution:
        return StraightThroughBernoulli(temperature, logits=logits)


@final
class CategoricalHead(DiscreteHead):
    r"""Features to categorical variables with values 0, ..., K − 1.

    .. math:: q(z = k \mid h) = \mathrm{softmax}(A h + a)_k

    Args:
        in_features, event_shape, enumerate: as :class:`BernoulliHead`.
        num_categories: K.
        temperature: refused, since integers carry no gradient.

    Raises:
        ValueError: unless num_categories >= 1.
        NotImplementedError: if an event with axes is to be enumerated, and for a temperature.

    Example:
        >>> CategoricalHead(16, (), num_categories=4)(torch.zeros(5, 16)).probs[0]
        tensor([0.2500, 0.2500, 0.2500, 0.2500], grad_fn=...)
    """

    def __init__(
        self,
        in_features: int,
        event_shape: Sequence[int],
        *,
        num_categories: int,
        enumerate: bool | None = None,
        temperature: Temperature | None = None,
    ) -> None:
        self._categories = (whole_number("num_categories", num_categories, at_least=1),)
        if temperature is not None:
            raise NotImplementedError(
                "Expected no temperature for a categorical site, whose integers carry no gradient, but got "
                f"{temperature}: let the model sample it from a OneHotCategorical, or enumerate it."
            )
        super().__init__(in_features, event_shape, enumerate=enumerate)

    def _exact(self, logits: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=logits)


@final
class OneHotHead(DiscreteHead):
    r"""Features to one-hot vectors.

    .. math:: q(z = e_k \mid h) = \mathrm{softmax}(A h + a)_k

    Args:
        in_features, enumerate, temperature: as :class:`BernoulliHead`, with
            :class:`~pyro_infomax.distributions.StraightThroughOneHotCategorical`.
        event_shape: shape of one latent, with the K categories along the last axis; only a single vector,
            (K,), can be enumerated.

    Raises:
        ValueError: unless temperature > 0, for a temperature with ``enumerate=True``, and for an event
            without axes.
        NotImplementedError: if an event of several vectors is to be enumerated.

    Example:
        >>> OneHotHead(16, (4,), temperature=0.5)(torch.zeros(5, 16)).rsample().sum(-1)
        tensor([1., 1., 1., 1., 1.], grad_fn=...)
    """

    variable_axes = 1

    def _exact(self, logits: Tensor) -> dist.TorchDistribution:
        return dist.OneHotCategorical(logits=logits)

    def _relaxed(self, logits: Tensor, temperature: Tensor | float) -> dist.TorchDistribution:
        return StraightThroughOneHotCategorical(temperature, logits=logits)


def discrete_head(
    support: Constraint,
    event_shape: Sequence[int],
    in_features: int,
    *,
    enumerate: bool | None = None,
    temperature: Temperature | None = None,
) -> DiscreteHead:
    """The discrete head for a support.

    Args:
        support: constraint of the site's prior, with or without ``independent`` around it.
        event_shape: shape of one latent.
        in_features, enumerate, temperature: as :class:`BernoulliHead`.

    Raises:
        ValueError: unless temperature > 0, and for a temperature with ``enumerate=True``.
        NotImplementedError: for a support that is not boolean, one-hot or an interval of integers from 0 that
            is the same for all data, and for what the head of the support refuses.

    Example:
        >>> type(discrete_head(constraints.integer_interval(0, 3), (), 16)).__name__
        'CategoricalHead'
    """
    base = unwrapped(support)
    match base:
        case _Boolean():
            return BernoulliHead(in_features, event_shape, enumerate=enumerate, temperature=temperature)
        case _OneHot():
            return OneHotHead(in_features, event_shape, enumerate=enumerate, temperature=temperature)
        case constraints.integer_interval():
            return CategoricalHead(
                in_features,
                event_shape,
                num_categories=_num_categories(base),
                enumerate=enumerate,
                temperature=temperature,
            )
    raise NotImplementedError(
        f"Expected a support that is boolean, one-hot or an interval of integers but got {base}: give the "
        "site a distribution on its support, heads={name: ...}, such as dist.Poisson for counts or "
        "dist.Gamma for positive numbers."
    )


def _num_categories(support: constraints.integer_interval) -> int:
    lower, upper = (torch.as_tensor(bound) for bound in (support.lower_bound, support.upper_bound))
    if bool((lower != 0).any()) or bool((upper != upper.flatten()[0]).any()):
        raise NotImplementedError(
            f"Expected integers from 0 to the same number for all data but got {support}: let the model "
            "shift the site, and give the numbers that are not possible a probability of 0."
        )
    return int(upper.flatten()[0]) + 1
