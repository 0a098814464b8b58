"""The families of amortised guides: each names the heads that it gives to the sites of a model."""

from collections.abc import Callable
from typing import ClassVar, Unpack, final

from torch import Tensor, nn

from pyro_infomax._checks import whole_number
from pyro_infomax._types import Program
from pyro_infomax.guides._amortized import AmortizedGuide, GuideOptions
from pyro_infomax.guides._prototype import LatentSite, check_continuous, check_discrete
from pyro_infomax.nn import (
    DeltaHead,
    FlowHead,
    LowRankNormalHead,
    MultivariateNormalHead,
    NormalHead,
    Temperature,
    check_discrete_options,
    check_init_scale,
    discrete_head,
)

# ---- The base of the families on continuous supports.


class ContinuousGuideOptions(GuideOptions, total=False):
    """The options of every family of continuous sites; see :class:`ContinuousGuide`."""

    init_scale: float


class ContinuousGuide(AmortizedGuide):
    """A family whose heads serve continuous sites, reached from the reals by a bijection. Abstract.

    A subclass names its :attr:`head_class`, called with the number of features and the event shape of a site,
    and by keyword with its support and with :attr:`options`, to which the subclass adds what else that takes.
    """

    head_class: ClassVar[Callable[..., nn.Module]]

    def __init__(
        self,
        model: Program,
        encoder: Callable[..., Tensor],
        *,
        init_scale: float = 0.5,
        **options: Unpack[GuideOptions],
    ) -> None:
        check_init_scale(init_scale)
        super().__init__(model, encoder, **options)
        self.options: dict[str, object] = {"init_scale": init_scale}

    def make_head(self, site: LatentSite, in_features: int) -> nn.Module:
        check_continuous(site, type(self).__name__)
        return type(self).head_class(in_features, site.event_shape, support=site.support, **self.options)


# ---- The diagonal Normal family of amortised guides.


@final
class AmortizedNormal(ContinuousGuide):
    r"""Diagonal Normal posteriors whose locations and scales come from an encoder.

    .. math:: q_\psi(z \mid x) = \prod_s \mathcal{N}\bigl(z_s;\, \mu_s(x), \mathrm{diag}\, \sigma_s(x)^2\bigr)

    It covers every continuous latent site inside the data plate, whatever its event shape, in models that
    take whole data or minibatches, or that subsample themselves by ``pyro.plate(..., subsample_size=...)``.
    A real site is a plain Normal under its own name, so that closed-form KL terms apply. A site with another
    support is a Normal through a bijection, with its exact density: LogNormal for positive ones,
    logit-Normal for intervals, by stick breaking for the simplex.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes"; Rezende, Mohamed and Wierstra,
    2014, "Stochastic backpropagation and approximate inference in deep generative models".

    Args:
        model, encoder, heads, structured, create_plates: as :class:`AmortizedGuide`.
        init_scale: standard deviation of every latent at first, in units of the latent, or of the real
            variable behind it.

    Raises:
        ValueError: unless init_scale > 0; see :class:`AmortizedGuide`.
        NotImplementedError: for discrete sites, and as :class:`AmortizedGuide`.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_infomax.nn import MLPEncoder
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         loc = z.sum(-1, keepdim=True) * torch.ones(4)
        ...         pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
        >>> guide = AmortizedNormal(model, MLPEncoder(4))
        >>> guide(torch.zeros(5, 4))["z"].shape
        torch.Size([5, 2])
        >>> guide.posterior(torch.zeros(3, 4))["z"].stddev[0]
        tensor([0.5000, 0.5000], grad_fn=...)
        >>> pyro.clear_param_store()
    """

    head_class = NormalHead


# ---- The full-covariance Normal family of amortised guides.


@final
class AmortizedMultivariateNormal(ContinuousGuide):
    r"""Normal posteriors with full covariances, which come from an encoder.

    .. math:: q_\psi(z \mid x) = \prod_s \mathcal{N}\bigl(z_s;\, \mu_s(x), L_s(x) L_s(x)^\top\bigr)

    with a covariance over all elements of a site. Sites are independent of each other given the data, unless
    ``structured=True``. Supports other than the reals are reached through a bijection. A site of n elements
    takes n (n + 1) / 2 numbers a datum for its covariance:
    :class:`~pyro_infomax.guides.AmortizedLowRankNormal` takes fewer.

    Reference: Rezende, Mohamed and Wierstra, 2014, "Stochastic backpropagation and approximate inference in
    deep generative models".

    Args:
        model, encoder, heads, structured, create_plates, init_scale: as :class:`AmortizedNormal`.

    Raises:
        ValueError, NotImplementedError: as :class:`AmortizedNormal`.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_infomax.nn import MLPEncoder
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 0.1).to_event(1), obs=x)
        >>> guide = AmortizedMultivariateNormal(model, MLPEncoder(1))
        >>> guide.posterior(torch.zeros(3, 1))["z"].covariance_matrix.shape
        torch.Size([3, 2, 2])
        >>> pyro.clear_param_store()
    """

    head_class = MultivariateNormalHead


# ---- The low-rank Normal family of amortised guides.


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
        model, encoder, heads, structured, create_plates, init_scale: as :class:`AmortizedNormal`.
        rank: columns of W, at most the number of elements of the smallest site; None for the square root of
            the number of elements, rounded up.

    Raises:
        ValueError: unless rank >= 1, and as :class:`AmortizedNormal`.
        NotImplementedError: as :class:`AmortizedNormal`.

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
        model: Program,
        encoder: Callable[..., Tensor],
        *,
        rank: int | None = None,
        **options: Unpack[ContinuousGuideOptions],
    ) -> None:
        super().__init__(model, encoder, **options)
        self.options["rank"] = None if rank is None else whole_number("rank", rank, at_least=1)


# ---- The family of amortised guides by normalising flows.


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
        model, encoder, heads, structured, create_plates, init_scale: as :class:`AmortizedNormal`.
        flow: called as ``flow(elements, features)`` for each site, it gives what
            :func:`~pyro_infomax.distributions.to_flow` takes: a conditional transform of Pyro, a list of
            them, or a flow of zuko: ``zuko.flows.NSF`` as it is, after ``pip install pyro_infomax[flows]``.
            None for the flow of :class:`~pyro_infomax.nn.FlowHead`.

    Raises:
        ValueError: for a flow that is no function, and as :class:`AmortizedNormal`.
        NotImplementedError: as :class:`AmortizedNormal`.

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
        model: Program,
        encoder: Callable[..., Tensor],
        *,
        flow: Callable[..., object] | None = None,
        **options: Unpack[ContinuousGuideOptions],
    ) -> None:
        if flow is not None and not callable(flow):
            raise ValueError(f"Expected flow to be a function of sizes that builds a flow but got {flow!r}.")
        super().__init__(model, encoder, **options)
        self.options["flow"] = flow


# ---- The discrete family of amortised guides.


@final
class AmortizedDiscrete(AmortizedGuide):
    r"""Bernoulli, Categorical and one-hot posteriors whose logits come from an encoder.

    .. math:: q_\psi(z \mid x) = \prod_s \mathrm{Cat}\bigl(z_s;\, \mathrm{softmax}\, \ell_s(x)\bigr)

    There are three ways to their gradient. By default each site asks to be enumerated, and a TraceEnum
    objective sums over its values exactly. With ``enumerate=False`` the site is drawn, and a Trace or
    TraceGraph objective takes the score function. With a ``temperature`` the draw is still exactly discrete,
    and its gradient that of a relaxed draw, which is biased, and less so the lower the temperature; a
    TraceMeanField objective then takes the KL in closed form. In a guide of another family, it serves the
    discrete sites: ``AmortizedNormal(model, encoder, heads={"y": AmortizedDiscrete})``.

    References:
        Jang, Gu and Poole, 2017, "Categorical reparameterization with Gumbel-softmax".
        Maddison, Mnih and Teh, 2017, "The concrete distribution".

    Args:
        model, encoder, heads, structured, create_plates: as :class:`AmortizedGuide`.
        enumerate: whether the sites ask for enumeration; None if there is no temperature.
        temperature: of the relaxed gradient, a number above 0, or a function without arguments that gives
            one at each call; None for no relaxation.

    Raises:
        ValueError: unless temperature > 0, and for a temperature with ``enumerate=True``; and as
            :class:`AmortizedGuide`.
        NotImplementedError: for continuous sites, infinite supports, and events with axes that are to be
            enumerated; and as :class:`AmortizedGuide`.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_infomax.nn import MLPEncoder
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         y = pyro.sample("y", dist.Categorical(torch.ones(3)))
        ...         pyro.sample("x", dist.Normal(y.to(x.dtype), 1.0), obs=x[..., 0])
        >>> guide = AmortizedDiscrete(model, MLPEncoder(1))
        >>> guide.posterior(torch.zeros(5, 1))["y"].probs.shape
        torch.Size([5, 3])
        >>> pyro.clear_param_store()
    """

    def __init__(
        self,
        model: Program,
        encoder: Callable[..., Tensor],
        *,
        enumerate: bool | None = None,
        temperature: Temperature | None = None,
        **options: Unpack[GuideOptions],
    ) -> None:
        check_discrete_options(enumerate, temperature)
        super().__init__(model, encoder, **options)
        self._enumerate = enumerate
        self._temperature = temperature

    def make_head(self, site: LatentSite, in_features: int) -> nn.Module:
        check_discrete(site, type(self).__name__)
        return discrete_head(
            site.support,
            site.event_shape,
            in_features,
            enumerate=self._enumerate,
            temperature=self._temperature,
        )


# ---- The family of amortised guides that give points.


@final
class AmortizedDelta(AmortizedGuide):
    r"""Point estimates whose values come from an encoder: amortised maximum a posteriori.

    .. math:: q_\psi(z \mid x) = \prod_s \delta\bigl(z_s - t_s(\mu_s(x))\bigr)

    with t a bijection onto the support, the identity for the reals. A point has no density, so that rate and
    information of such a guide are infinite: :func:`~pyro_infomax.decompose` refuses it.

    Reference: Bishop, 2006, "Pattern recognition and machine learning", section 4.1, for point estimates; the
    autoencoder is the oldest amortised one.

    Args:
        model, encoder, heads, structured, create_plates: as :class:`AmortizedGuide`.

    Raises:
        ValueError: see :class:`AmortizedGuide`.
        NotImplementedError: for discrete sites, and as :class:`AmortizedGuide`.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_infomax.nn import MLPEncoder
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 0.1).to_event(1), obs=x)
        >>> guide = AmortizedDelta(model, MLPEncoder(1))
        >>> x = torch.zeros(3, 1)
        >>> bool((guide(x)["z"] == guide.median(x)["z"]).all())
        True
        >>> pyro.clear_param_store()
    """

    def make_head(self, site: LatentSite, in_features: int) -> nn.Module:
        check_continuous(site, type(self).__name__)
        return DeltaHead(in_features, site.event_shape, support=site.support)
