"""The low-rank Normal family of amortised guides."""

from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor

from pyro_infomax.guides.amortized_guide import Head, Plates
from pyro_infomax.guides.continuous_guide import ContinuousGuide
from pyro_infomax.nn import LowRankNormalHead


@final
class AmortizedLowRankNormal(ContinuousGuide):
    r"""Normal posteriors whose covariances are of low rank plus a diagonal.

    .. math:: q_\psi(z \mid x) = \prod_s
        \mathcal{N}\bigl(z_s;\, \mu_s(x), W_s(x) W_s(x)^\top + \mathrm{diag}\, D_s(x)\bigr)

    It stands between :class:`~pyro_infomax.guides.AmortizedNormal` and
    :class:`~pyro_infomax.guides.AmortizedMultivariateNormal`: n (rank + 2) numbers a datum for a site of n
    elements.

    Reference: Rezende, Mohamed and Wierstra, 2014, "Stochastic backpropagation and approximate inference in
    deep generative models".

    Args:
        model: the Pyro model. Its positional arguments are the data, one datum a row of the first axis.
        encoder: from the same positional arguments to features (batch, h), such as
            :class:`~pyro_infomax.nn.MLPEncoder`.
        rank: columns of W, at most the number of elements of the smallest site; None for the square root of
            the number of elements, rounded up.
        init_scale: standard deviation of every latent at first, in units of the latent, or of the real
            variable behind it.
        heads: site names to what serves these sites instead of the family; see :class:`AmortizedGuide`.
        structured: whether each site depends on those that the model samples before it.
        create_plates: from the arguments to the plates of the guide.

    Raises:
        ValueError: unless init_scale > 0 and rank >= 1; see :class:`AmortizedGuide`.
        NotImplementedError: for discrete sites, and as :class:`AmortizedGuide`.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_infomax.nn import MLPEncoder
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(9), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 0.1).to_event(1), obs=x)
        >>> guide = AmortizedLowRankNormal(model, MLPEncoder(1), rank=2)
        >>> guide.posterior(torch.zeros(3, 1))["z"].cov_factor.shape
        torch.Size([3, 9, 2])
        >>> pyro.clear_param_store()
    """

    head_class = LowRankNormalHead

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[..., Tensor],
        *,
        rank: int | None = None,
        init_scale: float = 0.5,
        heads: Mapping[str, Head] | None = None,
        structured: bool = False,
        create_plates: Callable[..., Plates] | None = None,
    ) -> None:
        if rank is not None and rank < 1:
            raise ValueError(f"Expected rank >= 1 but got {rank}.")
        super().__init__(
            model,
            encoder,
            init_scale=init_scale,
            heads=heads,
            structured=structured,
            create_plates=create_plates,
        )
        self.options["rank"] = rank
