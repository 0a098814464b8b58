"""A ready-made pair: encoder, decoder, likelihood and prior as two Pyro programs over the sites z and x."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.parameter import is_lazy

from pyro_infomax._checks import explain_wrong_arguments, shown, whole_number
from pyro_infomax._data import as_arguments, as_tensor
from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import State
from pyro_infomax.guides import Head, LatentSite, build_head, check_posterior, infer_of, is_head, median_of
from pyro_infomax.nn import (
    InstanceName,
    Likelihood,
    adopt,
    check_features,
    drop_weak_references,
    evaluation_mode,
    merge_batch,
    prototype_features,
    register,
    to_likelihood,
)
from pyro_infomax.poutine import plain_errors
from pyro_infomax.priors import check_prior, to_prior

__all__ = ["VAE"]


@final
class VAE(nn.Module):
    r"""A variational autoencoder, as a generative and a representation joint over the sites ``z`` and ``x``.

    .. math::
        p(z)\, p_\theta(x \mid z), \qquad
        q_\psi(z \mid x) = \mathcal{N}\bigl(z;\, \mu(x), \mathrm{diag}\, \sigma(x)^2\bigr)

    :meth:`model` and :meth:`guide` are Pyro programs for SVI and any ELBO; the other methods work outside
    of inference. The two networks end in features and in parameters: the head that makes a Normal, or
    another posterior, of the encoder's features belongs to the VAE, and the likelihood makes a distribution
    of the decoder's output. Where the encoder has no attribute ``out_features``, the head is built by one
    call at first use.

    Every instance has parameter names of its own in Pyro's store (``VAE``, ``VAE_2``, …), so that two of
    them train independently. Values that were loaded into the store are taken over.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes".

    Args:
        encoder: module from the data (and any further positional data: labels, covariates) to features
            (batch, h).
        decoder: module from latents (batch, latent_dim) to the likelihood's parameters (batch, ...).
        latent_dim: number of latent dimensions.
        likelihood: ``"bernoulli"``, ``"gaussian"``, ``"continuous_bernoulli"``, ``"categorical"``, a
            :class:`~pyro_infomax.nn.Likelihood` such as ``Gaussian(scale=0.1)``, or a callable from the
            decoder's output to a Pyro distribution.
        prior: p(z), by default the standard Normal: a Pyro distribution with event shape (latent_dim,), or
            a module or function that returns one; a module's parameters train. A module whose attribute
            ``follows_posterior`` is true, as that of a :class:`~pyro_infomax.priors.VampPrior`, is called
            with the posterior of this VAE, in which encoder and head are in evaluation mode.
        head: q(z|x), by default the diagonal Normal: what the guides take in ``heads=`` for a site, which
            is a family such as :class:`~pyro_infomax.guides.AmortizedMultivariateNormal` or
            ``partial(AmortizedFlow, flow=...)``, on the support of the prior; a class of
            ``pyro.distributions``; or a module from features (..., h) to a distribution of batch shape (...)
            and event shape (latent_dim,).

    Raises:
        ValueError: for a latent_dim below 1, an unknown likelihood, a prior of another shape, or what is no
            head; at use, for features, parameters or posteriors whose shape does not fit the data, and,
            while Pyro's validation is on, for data that the likelihood cannot give.
        NotImplementedError: for a family that does not cover the support of the prior.

    Example:
        >>> from pyro_infomax.nn import MLPDecoder, MLPEncoder
        >>> vae = VAE(MLPEncoder((8, 8)), MLPDecoder(2, (8, 8)), latent_dim=2)
        >>> x = torch.rand(5, 8, 8)
        >>> vae.encode(x).batch_shape, vae.decode(torch.zeros(3, 5, 2)).event_shape
        (torch.Size([5]), torch.Size([8, 8]))
        >>> pyro.clear_param_store()
        >>> svi = pyro.infer.SVI(
        ...     vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.TraceMeanField_ELBO()
        ... )
        >>> svi.step(x) > 0
        True
        >>> vae.sample(4, seed=0).shape, vae.reconstruct(x).shape
        (torch.Size([4, 8, 8]), torch.Size([5, 8, 8]))

        The full covariance of the posterior is one argument:

        >>> from pyro_infomax.guides import AmortizedMultivariateNormal
        >>> encoder, decoder = MLPEncoder((8, 8)), MLPDecoder(2, (8, 8))
        >>> vae = VAE(encoder, decoder, latent_dim=2, head=AmortizedMultivariateNormal)
        >>> vae.encode(x).covariance_matrix.shape
        torch.Size([5, 2, 2])
        >>> pyro.clear_param_store()
    """

    head: nn.Module | None
    likelihood: Likelihood
    prior: nn.Module

    def __init__(
        self,
        encoder: Callable[..., Tensor],
        decoder: Callable[[Tensor], Tensor],
        *,
        latent_dim: int,
        likelihood: str | Callable[[Tensor], object] = "bernoulli",
        prior: dist.Distribution | Callable[[], object] | None = None,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            if not callable(network):
                raise TypeError(f"Expected the {name} to be a module or function but got {shown(network)}.")
        self.latent_dim = whole_number("latent_dim", latent_dim, at_least=1)
        self._name = InstanceName("VAE")
        self.encoder = encoder
        self.decoder = decoder
        # What a user built stays as it is; what is built here joins the networks
        self.likelihood = to_likelihood(likelihood)
        if isinstance(likelihood, str):
            _join(self.likelihood, decoder)
        self.prior = to_prior(prior, self.latent_dim)
        if prior is None:
            _join(self.prior, decoder)
        # A head of the user's is to follow device, dtype and mode before it is built, too
        self.head = head if is_head(head) else None
        # In a tuple, since the instance of a family would be registered here
        self._own_head = (head,)
        self._site = LatentSite("z", constraints.real_vector, torch.Size([self.latent_dim]))
        self._has_head = is_head(head) and not any(is_lazy(each) for each in head.parameters())
        features = getattr(encoder, "out_features", None)
        if isinstance(features, int):
            self._make_head(features, _reference(encoder))

    def model(self, x: Tensor, *_: object) -> Tensor:
        """The generative joint p(z) p(x|z), as a Pyro program with ``x`` observed.

        Args:
            x: data, (batch, ...).
            *_: further data, which only the encoder sees.

        Returns:
            The latents, (batch, latent_dim).
        """
        x = x if isinstance(x, Tensor) else as_tensor("x", x)
        for part in ("decoder", "likelihood", "prior"):
            register(f"{self._name}.{part}", getattr(self, part))
        prior = self._prior(register)
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", prior)
            pyro.sample("x", self._observation(z, x), obs=x)
        return z

    def guide(self, x: Tensor, *rest: object) -> Tensor:
        """The posterior q(z|x), as a Pyro program.

        Args:
            x: data, (batch, ...).
            *rest: further data, which the encoder gets after ``x``.

        Returns:
            The latents, (batch, latent_dim).
        """
        x = x if isinstance(x, Tensor) else as_tensor("x", x)
        register(f"{self._name}.encoder", self.encoder)
        self._build_head(x, *rest)
        register(f"{self._name}.head", self.head)
        with pyro.plate("data", len(x), dim=-1):
            posterior = self._posterior(x, *rest)
            z: Tensor = pyro.sample("z", posterior, infer=infer_of(self.head))
        return z

    def encode(self, x: Tensor, *rest: object) -> dist.TorchDistribution:
        """The posterior q(z|x).

        Args:
            x: data, (batch, ...).
            *rest: further data, which the encoder gets after ``x``.

        Returns:
            A distribution with batch shape (batch,) and event shape (latent_dim,).
        """
        x, rest = as_tensor("x", x), as_arguments(rest)
        self._adopt("encoder")
        with plain_errors():
            self._build_head(x, *rest)
            self._adopt("head")
            return self._posterior(x, *rest)

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """The likelihood p(x|z).

        Args:
            z: latents, (..., latent_dim).

        Returns:
            A distribution with batch shape (...) and the shape of one datum as event shape.
        """
        z = as_tensor("z", z)
        self._adopt("decoder", "likelihood")
        with plain_errors():
            return self._likelihood(z, self._decoded(z))

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Data drawn from the generative joint.

        Args:
            n: number of draws.
            seed: isolates the draws from torch's random state; None draws from that state.

        Returns:
            Data, (n, ...).
        """
        n = whole_number("n", n, at_least=1)
        self._adopt("prior")
        with nullcontext() if seed is None else isolated_random_state(seed):
            x: Tensor = self.decode(self._prior(adopt).expand([n]).sample()).sample()
        return x

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *rest: object) -> Tensor:
        """The mean of p(x|z) at the mean of q(z|x); the most probable class for categorical data.

        Where q(z|x) tells no mean, as a flow does not, its median stands in, element by element.

        Args:
            x: data, (batch, ...).
            *rest: further data, which the encoder gets after ``x``.

        Returns:
            Reconstructions, (batch, ...).
        """
        posterior = self.encode(x, *rest)
        try:
            z = posterior.mean
        except NotImplementedError:
            z = median_of(posterior)
        return self.likelihood.centre(self.decode(z))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters, once there are all of them.

        Raises:
            RuntimeError: before the heads are built, since an optimiser made now would never train them.
        """
        if not self._has_head:
            raise RuntimeError(
                "Expected the heads of the VAE before its parameters are asked for, but they are built at "
                "first use; call vae.encode(x) once, or give the encoder an attribute out_features."
            )
        return super().named_parameters(prefix, recurse, remove_duplicate)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads a state, for which it builds the head where it is not there yet."""
        weight = state_dict.get("head.linear.weight")
        if self.head is None and weight is not None:
            self._make_head(weight.shape[1], weight)
        found = super().load_state_dict(state_dict, strict, assign)
        self._has_head = self.head is not None and not any(map(is_lazy, self.head.parameters()))
        return found

    def __getstate__(self) -> State:
        drop_weak_references(self)
        return self.__dict__.copy()

    def _adopt(self, *parts: str) -> None:
        for part in parts:
            adopt(f"{self._name}.{part}", getattr(self, part))

    def _build_head(self, x: Tensor, *rest: object) -> None:
        if not self._has_head:
            with isolated_random_state():
                features = prototype_features(self.encoder, x, *rest)
                self._make_head(features.shape[-1], features)

    def _make_head(self, in_features: int, like: Tensor) -> None:
        (own,) = self._own_head
        site = replace(self._site, support=self._support(own))
        self.head = build_head(own, site, in_features, like=like, model=self.model, training=self.training)
        self._own_head, self._has_head = (None,), True

    def _support(self, own: Head | None) -> Constraint:
        """That of the prior, for what makes a head for a support: the default is a Normal."""
        if own is None or is_head(own) or getattr(self.prior, "follows_posterior", False):
            return self._site.support
        with pyro.poutine.block(), torch.no_grad(), isolated_random_state():
            support = self._prior(adopt).support
        return self._site.support if support is None else support

    def _prior(self, link: Callable[[str, object], None]) -> dist.TorchDistribution:
        follows = getattr(self.prior, "follows_posterior", False)
        prior = self.prior(partial(self._pseudo_posterior, link)) if follows else self.prior()
        return check_prior(prior, self.latent_dim)

    def _pseudo_posterior(self, link: Callable[[str, object], None], *data: Tensor) -> dist.TorchDistribution:
        link(f"{self._name}.encoder", self.encoder)
        self._build_head(*data)
        link(f"{self._name}.head", self.head)
        # Batch statistics are those of the data
        assert self.head is not None
        with evaluation_mode(self.encoder, self.head):
            return self._posterior(*data)

    def _posterior(self, x: Tensor, *rest: object) -> dist.TorchDistribution:
        assert self.head is not None
        features = check_features(self.encoder(x, *rest), len(x))
        return check_posterior(self.head(features), self._site, features.shape[:-1])

    def _decoded(self, z: Tensor) -> Tensor:
        # Any decoder takes (batch, latent)
        rows = merge_batch(z, (self.latent_dim,), name="latents", fix="see the VAE's latent_dim")
        parameters = self.decoder(rows)
        if parameters.shape[:1] != rows.shape[:1]:
            raise ValueError(
                f"Expected the decoder to return one row a latent, ({len(rows)}, ...), but got "
                f"{tuple(parameters.shape)}: keep the first axis of its input."
            )
        return parameters.reshape(z.shape[:-1] + parameters.shape[1:])

    def _likelihood(self, z: Tensor, parameters: Tensor) -> dist.TorchDistribution:
        distribution = self.likelihood(parameters)
        batch = z.shape[:-1]
        if distribution.batch_shape[: len(batch)] != batch:
            raise ValueError(
                f"Expected the likelihood to have a batch shape that starts with {tuple(batch)} but got "
                f"{tuple(distribution.batch_shape)}: keep the leading axes of the decoder's output."
            )
        return distribution.to_event(len(distribution.batch_shape) - len(batch))

    def _observation(self, z: Tensor, x: Tensor) -> dist.TorchDistribution:
        parameters = self._decoded(z)
        distribution = self._likelihood(z, parameters)
        if distribution.event_shape != x.shape[1:]:
            raise ValueError(
                f"Expected data of shape (batch, {', '.join(map(str, distribution.event_shape))}), as the "
                f"decoder gives, but got x of shape {tuple(x.shape)}: reshape the data or build the decoder "
                f"for one datum of shape {tuple(x.shape[1:])}."
            )
        if is_validation_enabled():
            self.likelihood.check(x, parameters)
        return distribution


def _reference(network: object) -> Tensor:
    """A tensor in the dtype and on the device of a network's parameters."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    found = next((each for each in parameters if each.is_floating_point()), None)
    return torch.empty(0) if found is None or is_lazy(found) else found


def _join(module: nn.Module, network: object) -> None:
    """Brings a module to the dtype and device of a network."""
    reference = _reference(network)
    module.to(reference.device, reference.dtype)


explain_wrong_arguments(__name__)
