"""The family of amortised guides by normalising flows."""

from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor

from pyro_infomax.guides.amortized_guide import Head, Plates
from pyro_infomax.guides.continuous_guide import ContinuousGuide
from pyro_infomax.nn import FlowHead


@final
class AmortizedFlow(ContinuousGuide):
    r"""Posteriors by conditional normalising flows, for shapes that no Normal has.

    .. math:: z_s = \mu_s(x) + \sigma_s(x)\, T_s(\varepsilon;\, x), \qquad \varepsilon \sim \mathcal{N}(0, 1)

    with an invertible T that the encoder's features steer. Supports other than the reals are reached through
    a further bijection. Densities are exact.

    References:
        Rezende and Mohamed, 2015, "Variational inference with normalizing flows".
        Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, 2016, "Improved variational inference with
        inverse autoregressive flow".
        Durkan, Bekasov, Murray and Papamakarios, 2019, "Neural spline flows".

    Args:
        model: the Pyro model. Its positional arguments are the data, one datum a row of the first axis.
        encoder: from the same positional arguments to features (batch, h), such as
            :class:`~pyro_infomax.nn.MLPEncoder`.
        flow: called as ``flow(elements, features)`` for each site, it gives a conditional transform of
            :mod:`pyro.distributions.transforms`, a list of them, or a flow of zuko: ``zuko.flows.NSF`` as it
            is, after ``pip install pyro_infomax[flows]``. None for the flow of
            :class:`~pyro_infomax.nn.FlowHead`.
        init_scale: standard deviation of every latent at first, in units of the latent, or of the real
            variable behind it.
        heads: site names to what serves these sites instead of the family; see :class:`AmortizedGuide`.
        structured: whether each site depends on those that the model samples before it.
        create_plates: from the arguments to the plates of the guide.

    Raises:
        ValueError: unless init_scale > 0, and for a flow that is no function; see :class:`AmortizedGuide`.
        NotImplementedError: for discrete sites, and as :class:`AmortizedGuide`.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_infomax.nn import MLPEncoder
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...         pyro.sample("x", dist.Poisson(rate), obs=x[..., 0])
        >>> guide = AmortizedFlow(model, MLPEncoder(1))
        >>> bool((guide(torch.ones(5, 1))["rate"] > 0).all())
        True
        >>> pyro.clear_param_store()
    """

    head_class = FlowHead

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[..., Tensor],
        *,
        flow: Callable[..., Any] | None = None,
        init_scale: float = 0.5,
        heads: Mapping[str, Head] | None = None,
        structured: bool = False,
        create_plates: Callable[..., Plates] | None = None,
    ) -> None:
        if flow is not None and not callable(flow):
            raise ValueError(f"Expected flow to be a function of sizes that builds a flow but got {flow!r}.")
        super().__init__(
            model,
            encoder,
            init_scale=init_scale,
            heads=heads,
            structured=structured,
            create_plates=create_plates,
        )
        self.options["flow"] = flow
