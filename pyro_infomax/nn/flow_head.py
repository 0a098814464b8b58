"""The head that makes a normalising flow of features."""

from collections.abc import Callable, Sequence
from typing import Any, Final, final

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_infomax.flows import FlowDistribution, to_flow
from pyro_infomax.nn.bijections import Softplus
from pyro_infomax.nn.normal_head import location_scale_layer
from pyro_infomax.nn.site_transform import SiteTransform

_MAX_CONTEXT: Final = 64


@final
class FlowHead(nn.Module):
    r"""Features to a flow over an event.

    .. math:: z = \mathrm{constrain}\bigl(m(h) + s(h) \odot T(\varepsilon; C h)\bigr), \qquad
        \varepsilon \sim \mathcal{N}(0, 1)

    with m linear, s the softplus of a linear layer, and T a flow in the context C h. At first every scale
    is ``init_scale``, the locations are small, and T is the identity where the flow begins there, as the
    default does. More than 64 features are compressed to a context of 64 by a linear layer: a flow sees the
    context at every pair of a value and a datum when it scores many values under all data, as the exact
    aggregate posterior does.

    Drawing and scoring the draw is one pass. Flows whose inverse is slow (autoregressive ones of Pyro)
    therefore train at full speed and are slow in the account; the default is fast in both.

    Reference: Rezende and Mohamed, 2015, "Variational inference with normalizing flows".

    Args:
        in_features: number of features.
        event_shape: shape of one latent; ``()`` for a scalar.
        flow: what :func:`pyro_infomax.flows.to_flow` takes: a function of (event size, context size) that
            returns Pyro's conditional transforms or a flow of zuko (``pip install pyro_infomax[flows]``);
            None for :class:`~pyro_infomax.flows.CouplingFlow`.
        init_scale: standard deviation at first, in units of the unconstrained latent.
        support: constraint of the latent.

    Raises:
        ValueError: unless init_scale > 0; for what is no flow, or one whose draws carry no gradient.
        NotImplementedError: for supports that are discrete or have no bijection from the reals.

    Example:
        >>> import torch
        >>> q = FlowHead(16, (3,), support=constraints.simplex)(torch.zeros(5, 16))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([3]))
        >>> z = q.rsample()
        >>> torch.allclose(z.sum(-1), torch.ones(5)), q.log_prob(z).shape
        (True, torch.Size([5]))
    """

    def __init__(
        self,
        in_features: int,
        event_shape: Sequence[int],
        *,
        flow: Callable[..., Any] | None = None,
        init_scale: float = 0.5,
        support: Constraint = constraints.real,
    ) -> None:
        super().__init__()
        self.site = SiteTransform.of(support, event_shape)
        self.event_shape = self.site.event_shape
        self.linear = location_scale_layer(in_features, self.site.size, init_scale)
        size = min(in_features, _MAX_CONTEXT)
        self.context = nn.Identity() if size == in_features else nn.Linear(in_features, size, bias=False)
        self.flow = to_flow(flow, self.site.size, size)
        if not self.flow.has_rsample:
            raise ValueError(
                "Expected a flow whose draws carry gradients but its distribution has no rsample: "
                "use it as a prior."
            )

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The distribution.

        Args:
            features: (..., in_features).

        Returns:
            A distribution with batch shape (...) and the event shape of the head.
        """
        loc, raw = self.linear(features).chunk(2, dim=-1)  # (..., size)
        context, batch = self.context(features), features.shape[:-1]
        base = FlowDistribution(self.flow, context, batch_shape=batch, loc=loc, scale=Softplus()(raw))
        return self.site.distribution(base)
