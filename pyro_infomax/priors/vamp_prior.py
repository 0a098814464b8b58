"""The variational mixture of posteriors as prior."""

from collections.abc import Callable, Sequence
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_infomax.priors.prior import Prior

__all__ = ["VampPrior"]


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
        posterior: Callable[..., Any] | None = None,
        *,
        learn_weights: bool = False,
    ) -> None:
        super().__init__()
        inputs = _checked(pseudo_inputs)
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

    def forward(self, posterior: Callable[..., Any] | None = None) -> dist.MixtureSameFamily:
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
        components = build(*self.pseudo_inputs)
        _check_components(components, len(self.logits))
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


def _checked(pseudo_inputs: Any) -> tuple[Tensor, ...]:
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


def _check_components(components: Any, size: int) -> None:
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
