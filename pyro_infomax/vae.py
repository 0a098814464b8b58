"""A ready-made pair: encoder, decoder, likelihood and prior as two Pyro programs over the sites z and x."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyro_infomax._random import isolated_random_state
from pyro_infomax.nn import (
    InstanceName,
    Likelihood,
    NormalHead,
    adopt,
    check_features,
    drop_weak_references,
    evaluation_mode,
    merge_batch,
    prototype_features,
    register,
    to_likelihood,
)
from pyro_infomax.priors import check_prior, to_prior


@final
class VAE(nn.Module):
    r"""A variational autoencoder, as a generative and a representation joint over the sites ``z`` and ``x``.

    .. math::
        p(z)\, p_\theta(x \mid z), \qquad
        q_\psi(z \mid x) = \mathcal{N}\bigl(z;\, \mu(x), \mathrm{diag}\, \sigma(x)^2\bigr)

    :meth:`model` and :meth:`guide` are Pyro programs for SVI and any ELBO; the other methods work outside
    of inference. The two networks end in features and in parameters: the heads that make a Normal of the
    encoder's features belong to the VAE, and the likelihood makes a distribution of the decoder's output.
    Where the encoder has no attribute ``out_features``, the heads are built by one call at first use.

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
            with the posterior of this VAE, in which the encoder is in evaluation mode.

    Raises:
        ValueError: for a latent_dim below 1, an unknown likelihood or a prior of another shape; at use, for
            features or parameters whose shape does not fit the data, and, while Pyro's validation is on,
            for data that the likelihood cannot give.

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
    """

    head: NormalHead | None
    likelihood: Likelihood

    def __init__(
        self,
        encoder: Callable[..., Tensor],
        decoder: Callable[[Tensor], Tensor],
        *,
        latent_dim: int,
        likelihood: str | Callable[[Tensor], Any] = "bernoulli",
        prior: dist.Distribution | Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(latent_dim, int) or latent_dim < 1:
            raise ValueError(f"Expected latent_dim to be an integer >= 1 but got {latent_dim!r}.")
        self._name = InstanceName("VAE")
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.decoder = decoder
        # What a user built stays as it is; what is built here joins the decoder
        own = _like if isinstance(likelihood, str) else _as_it_is
        self.likelihood = own(to_likelihood(likelihood), decoder)
        self.prior = (_like if prior is None else _as_it_is)(to_prior(prior, latent_dim), decoder)
        self.head = None
        features = getattr(encoder, "out_features", None)
        if isinstance(features, int):
            self.head = _like(NormalHead(features, (latent_dim,)), encoder)

    def model(self, x: Tensor, *_: Any) -> Tensor:
        """The generative joint p(z) p(x|z), as a Pyro program with ``x`` observed.

        Args:
            x: data, (batch, ...).
            *_: further data, which only the encoder sees.

        Returns:
            The latents, (batch, latent_dim).
        """
        for part in ("decoder", "likelihood", "prior"):
            register(f"{self._name}.{part}", getattr(self, part))
        prior = self._prior(register)
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", prior)
            pyro.sample("x", self._observation(z, x), obs=x)
        return z

    def guide(self, x: Tensor, *rest: Any) -> Tensor:
        """The posterior q(z|x), as a Pyro program.

        Args:
            x: data, (batch, ...).
            *rest: further data, which the encoder gets after ``x``.

        Returns:
            The latents, (batch, latent_dim).
        """
        register(f"{self._name}.encoder", self.encoder)
        self._build_head(x, *rest)
        register(f"{self._name}.head", self.head)
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", self._posterior(x, *rest))
        return z

    def encode(self, x: Tensor, *rest: Any) -> dist.TorchDistribution:
        """The posterior q(z|x).

        Args:
            x: data, (batch, ...).
            *rest: further data, which the encoder gets after ``x``.

        Returns:
            A distribution with batch shape (batch,) and event shape (latent_dim,).
        """
        self._adopt("encoder")
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
        self._adopt("decoder", "likelihood")
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
        self._adopt("prior")
        with nullcontext() if seed is None else isolated_random_state(seed):
            x: Tensor = self.decode(self._prior(adopt).expand([n]).sample()).sample()
        return x

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *rest: Any) -> Tensor:
        """The mean of p(x|z) at the mean of q(z|x); the most probable class for categorical data.

        Args:
            x: data, (batch, ...).
            *rest: further data, which the encoder gets after ``x``.

        Returns:
            Reconstructions, (batch, ...).
        """
        return self.likelihood.centre(self.decode(self.encode(x, *rest).mean))

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters, once there are all of them.

        Raises:
            RuntimeError: before the heads are built, since an optimiser made now would never train them.
        """
        if self.head is None:
            raise RuntimeError(
                "Expected the heads of the VAE before its parameters are asked for, but they are built at "
                "first use; call vae.encode(x) once, or give the encoder an attribute out_features."
            )
        return super().named_parameters(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Loads a state, for which it builds the heads where they are not there yet."""
        weight = state_dict.get("head.linear.weight")
        if self.head is None and weight is not None:
            self.head = NormalHead(weight.shape[1], (self.latent_dim,)).to(weight.device, weight.dtype)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        drop_weak_references(self)
        return self.__dict__.copy()

    def _adopt(self, *parts: str) -> None:
        for part in parts:
            adopt(f"{self._name}.{part}", getattr(self, part))

    def _build_head(self, x: Tensor, *rest: Any) -> None:
        if self.head is None:
            with isolated_random_state():
                features = prototype_features(self.encoder, x, *rest)
                head = NormalHead(features.shape[-1], (self.latent_dim,))
            self.head = head.to(features.device, features.dtype)

    def _prior(self, link: Callable[[str, object], None]) -> dist.TorchDistribution:
        follows = getattr(self.prior, "follows_posterior", False)
        prior = self.prior(partial(self._pseudo_posterior, link)) if follows else self.prior()
        return check_prior(prior, self.latent_dim)

    def _pseudo_posterior(self, link: Callable[[str, object], None], *data: Any) -> dist.TorchDistribution:
        link(f"{self._name}.encoder", self.encoder)
        self._build_head(*data)
        link(f"{self._name}.head", self.head)
        # Batch statistics are those of the data
        with evaluation_mode(self.encoder):
            return self._posterior(*data)

    def _posterior(self, x: Tensor, *rest: Any) -> dist.TorchDistribution:
        assert self.head is not None
        return self.head(check_features(self.encoder(x, *rest), len(x)))

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


def _as_it_is(module: Any, _: object) -> Any:
    return module


def _like(module: Any, other: object) -> Any:
    """Brings a module to the dtype and device of another's parameters."""
    parameters = other.parameters() if isinstance(other, nn.Module) else iter(())
    reference = next((p for p in parameters if p.is_floating_point()), None)
    lazy = isinstance(reference, nn.parameter.UninitializedParameter)
    return module if reference is None or lazy else module.to(reference.device, reference.dtype)
