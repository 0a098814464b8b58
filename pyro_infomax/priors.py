"""Priors as modules: their parameters train, and they follow a model to its device and dtype."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_infomax._checks import explain_wrong_arguments, whole_number
from pyro_infomax._types import State
from pyro_infomax.distributions import FlowDistribution, to_flow
from pyro_infomax.nn import drop_weak_references

__all__ = ["FlowPrior", "MixturePrior", "Prior", "VampPrior", "to_prior"]

# ---- What is given as a prior: made a module, and checked where it is used.


def to_prior(prior: object, latent_dim: int) -> nn.Module:
    """A module that is called without arguments and returns the prior p(z).

    Args:
        prior: None for the standard Normal; a Pyro distribution with batch shape () and event shape
            (latent_dim,); or a module or a function that returns one.
        latent_dim: size of the latent.

    Raises:
        ValueError: for anything else, and for a distribution of another shape.

    Example:
        >>> to_prior(None, 3)().event_shape
        torch.Size([3])
    """
    if prior is None:
        return _StandardNormal(latent_dim)
    if isinstance(prior, torch.distributions.Distribution):
        return _GivenPrior(check_prior(prior, latent_dim))
    if isinstance(prior, nn.Module):
        return prior
    if callable(prior) and not isinstance(prior, type):
        return _GivenPrior(prior)
    raise ValueError(
        f"Expected prior to be None, a Pyro distribution, or a module or function that returns one, "
        f"but got {prior!r}."
    )


def check_prior(prior: object, latent_dim: int) -> dist.TorchDistribution:
    """The prior, if it is a Pyro distribution over one latent.

    Args:
        prior: what was given or returned as prior.
        latent_dim: size of the latent.

    Raises:
        ValueError: otherwise.
    """
    if not isinstance(prior, dist.torch_distribution.TorchDistributionMixin):
        raise ValueError(
            f"Expected the prior to be a distribution of pyro.distributions but got {type(prior).__name__}."
        )
    if prior.batch_shape != () or prior.event_shape != (latent_dim,):
        raise ValueError(
            f"Expected a prior with batch shape () and event shape ({latent_dim},) but got "
            f"{tuple(prior.batch_shape)} and {tuple(prior.event_shape)}: use .to_event(1) and latent_dim."
        )
    return prior


@final
class _StandardNormal(nn.Module):
    origin: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.origin, torch.ones_like(self.origin)).to_event(1)


@final
class _GivenPrior(nn.Module):
    """A distribution, or a function that returns one, as a module."""

    def __init__(self, prior: dist.TorchDistribution | Callable[[], object]) -> None:
        super().__init__()
        self._prior = prior

    def forward(self) -> object:
        return self._prior if isinstance(self._prior, torch.distributions.Distribution) else self._prior()


# ---- The base of priors with parameters.


class Prior(nn.Module):
    """A module that is called in a Pyro program and returns p(z)."""

    @abstractmethod
    def forward(self) -> dist.TorchDistribution:
        """The prior.

        Returns:
            A distribution with batch shape () and event shape (latent,).
        """
        raise NotImplementedError

    def __getstate__(self) -> State:
        drop_weak_references(self)
        return self.__dict__.copy()


# ---- A mixture of Normals as prior.

# Of the variance 1 at first, the part that lies between the components
_BETWEEN: Final = 0.5


@final
class MixturePrior(Prior):
    r"""A mixture of diagonal Normals with learnable weights, means and scales.

    .. math:: p(z) = \sum_k w_k\, \mathcal{N}\bigl(z;\, m_k, \mathrm{diag}(s_k)^2\bigr)

    At first the weights are equal and the means are spread at random, such that the mixture as a whole has
    mean 0 and variance 1 in each dimension, as the standard Normal has. Its marginals are known, so that the
    account of it is complete.

    Reference: Dilokthanakul, Mediano, Garnelo, Lee, Salimbeni, Arulkumaran and Shanahan, 2016, "Deep
    unsupervised clustering with Gaussian mixture variational autoencoders"; Tomczak and Welling, 2018, "VAE
    with a VampPrior", where it is the mixture of Gaussians that the VampPrior is compared with.

    Args:
        latent_dim: number of latent dimensions.
        num_components: number of Normals.

    Raises:
        ValueError: unless both are integers above 0.

    Example:
        >>> prior = MixturePrior(3, num_components=5)
        >>> prior().batch_shape, prior().event_shape
        (torch.Size([]), torch.Size([3]))
        >>> torch.allclose(prior().variance, torch.ones(3))
        True
    """

    def __init__(self, latent_dim: int, *, num_components: int = 10) -> None:
        super().__init__()
        latent_dim = whole_number("latent_dim", latent_dim, at_least=1)
        num_components = whole_number("num_components", num_components, at_least=1)
        loc = _spread(num_components, latent_dim)
        scale = (1 - loc.square().mean(0)).sqrt().expand_as(loc)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(loc)  # (component, latent)
        self.raw_scale = nn.Parameter(scale.expm1().log())

    def forward(self) -> dist.MixtureSameFamily:
        """The prior.

        Returns:
            A mixture with batch shape () and event shape (latent_dim,).
        """
        components = dist.Normal(self.loc, softplus(self.raw_scale)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


def _spread(components: int, latent_dim: int) -> torch.Tensor:
    """Random means around 0, (component, latent), of a fixed variance; 0 for a single one."""
    loc = torch.randn(components, latent_dim)
    loc = loc - loc.mean(0)
    deviation = loc.square().mean(0).sqrt().clamp_min(torch.finfo(loc.dtype).tiny)
    return _BETWEEN**0.5 * loc / deviation


# ---- The variational mixture of posteriors as prior.


@final
class VampPrior(Prior):
    r"""The mixture of the posteriors of pseudo-inputs, which are learned.

    .. math:: p(z) = \sum_{k=1}^{K} w_k\, q_\psi(z \mid u_k)

    Of all priors the aggregate posterior gives the highest ELBO. It is the mixture over all data; this prior
    is a mixture over K points that are trained to stand for them, so that it moves with the encoder.
    With all data as pseudo-inputs and equal weights it is the aggregate posterior.

    In a :class:`~pyro_infomax.vae.VAE` it takes the VAE's own posterior. In any other model it needs
    ``posterior``, whose parameters belong to the guide and are not those of the prior.

    Reference: Tomczak and Welling, 2018, "VAE with a VampPrior".

    Args:
        pseudo_inputs: where the K pseudo-inputs start, (K, ...), such as rows of the data; several tensors
            where the encoder takes several. Floating-point ones are trained, others (labels) stay.
        posterior: from the pseudo-inputs to a distribution with batch shape (K,) and event shape (latent,).
        learn_weights: whether the weights are trained; otherwise each is 1/K.

    Raises:
        ValueError: if the pseudo-inputs are not rows of tensors, or none is floating-point; at use, if the
            posterior returns anything else, or there is none.

    Example:
        >>> encoder = nn.Linear(4, 2)
        >>> prior = VampPrior(torch.zeros(5, 4), lambda u: dist.Normal(encoder(u), 1.0).to_event(1))
        >>> prior().batch_shape, prior().event_shape
        (torch.Size([]), torch.Size([2]))
    """

    logits: Tensor

    def __init__(
        self,
        pseudo_inputs: Tensor | Sequence[Tensor],
        posterior: Callable[..., object] | None = None,
        *,
        learn_weights: bool = False,
    ) -> None:
        super().__init__()
        inputs = _rows_of_each(pseudo_inputs)
        self._trained = [each.is_floating_point() for each in inputs]
        for index, (each, trained) in enumerate(zip(inputs, self._trained, strict=True)):
            start = each.detach().clone()
            if trained:
                self.register_parameter(f"pseudo_inputs_{index}", nn.Parameter(start))
            else:
                self.register_buffer(f"pseudo_inputs_{index}", start)
        # in a tuple, since a module would be registered here, where it does not belong
        self._posterior = (posterior,)
        logits = torch.zeros_like(inputs[self._trained.index(True)].flatten(1)[:, 0])
        if learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    @property
    def pseudo_inputs(self) -> tuple[Tensor, ...]:
        """The pseudo-inputs, (K, ...) each."""
        return tuple(getattr(self, f"pseudo_inputs_{index}") for index in range(len(self._trained)))

    @property
    def follows_posterior(self) -> bool:
        """Whether the prior has no posterior of its own and is to be called with one."""
        return self._posterior[0] is None

    def forward(self, posterior: Callable[..., object] | None = None) -> dist.MixtureSameFamily:
        """The prior.

        Args:
            posterior: used where the prior has none of its own.

        Returns:
            A mixture with batch shape () and event shape (latent,).
        """
        build = posterior if self._posterior[0] is None else self._posterior[0]
        if build is None:
            raise ValueError(
                "Expected a posterior for the pseudo-inputs but this VampPrior has none: give it one, "
                "VampPrior(u, posterior=lambda u: head(encoder(u))), or pass it to a VAE as prior, which "
                "lends its own."
            )
        components = _components(build(*self.pseudo_inputs), len(self.logits))
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


def _rows_of_each(pseudo_inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The pseudo-inputs as a tuple, with the same number of rows in each."""
    is_several = isinstance(pseudo_inputs, Sequence)
    inputs = tuple(pseudo_inputs) if is_several else (pseudo_inputs,)
    if not inputs or not all(isinstance(each, Tensor) and each.dim() > 0 for each in inputs):
        raise ValueError("Expected pseudo_inputs to be a tensor (K, ...), or several, as data[:50] is.")
    sizes = [len(each) for each in inputs]
    if min(sizes) < 1 or min(sizes) != max(sizes):
        raise ValueError(f"Expected the same K >= 1 rows in all pseudo_inputs but got {sizes}.")
    if not any(each.is_floating_point() for each in inputs):
        raise ValueError(
            f"Expected floating-point pseudo_inputs, which are trained, but got {inputs[0].dtype}: pass "
            "pseudo_inputs.float()."
        )
    return inputs


def _components(components: object, size: int) -> torch.distributions.Distribution:
    """The posterior of the pseudo-inputs, if it is a distribution of one site for each of them."""
    if not isinstance(components, torch.distributions.Distribution):
        raise ValueError(
            f"Expected the posterior to return a distribution but got {type(components).__name__}: return "
            "that of one site, posterior=lambda u: head(encoder(u))."
        )
    if components.batch_shape != (size,) or len(components.event_shape) != 1:
        raise ValueError(
            f"Expected a posterior with batch shape ({size},), that of the pseudo-inputs, and event shape "
            f"(latent,) but got {tuple(components.batch_shape)} and {tuple(components.event_shape)}."
        )
    return components


# ---- A normalising flow as prior.


@final
class FlowPrior(Prior):
    r"""A flow that turns z into standard Normal noise, with an exact density.

    .. math::
        \log p(z) = \log \mathcal{N}\bigl(T(z);\, 0, 1\bigr)
            + \log \Bigl| \det \frac{\partial T}{\partial z} \Bigr|

    A prior is scored in training and drawn from afterwards: T leads from z to noise, so that scoring is the
    fast direction of autoregressive transforms. The default is fast in both, and is the standard Normal at
    first. The marginals of a flow are not known, so that the account has no dimension-wise KL of it.

    Reference: Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever and Abbeel, 2017, "Variational
    lossy autoencoder"; Papamakarios, Pavlakou and Murray, 2017, "Masked autoregressive flow for density
    estimation".

    Args:
        latent_dim: number of latent dimensions.
        flow: what :func:`pyro_infomax.distributions.to_flow` takes: a function of the latent dimension that
            returns Pyro's transforms, as ``dist.transforms.affine_autoregressive`` does, or a flow of zuko,
            as ``zuko.flows.NSF`` does (``pip install pyro_infomax[flows]``); None for
            :class:`~pyro_infomax.distributions.CouplingFlow`.

    Raises:
        ValueError: unless latent_dim is an integer above 0, and for what is no flow without context.

    Example:
        >>> prior = FlowPrior(3)
        >>> prior().log_prob(torch.zeros(3))
        tensor(-2.7568, grad_fn=...)
    """

    def __init__(self, latent_dim: int, *, flow: Callable[..., object] | None = None) -> None:
        super().__init__()
        self.flow = to_flow(flow, whole_number("latent_dim", latent_dim, at_least=1), to_noise=True)

    def forward(self) -> FlowDistribution:
        """The prior.

        Returns:
            A distribution with batch shape () and event shape (latent_dim,).
        """
        return self.flow()


explain_wrong_arguments(__name__)
