"""A differentiable loss of any objective."""

from typing import Any

from pyro.infer import ELBO

from pyro_infomax.infer.tensor_loss import Program, SurrogateLoss, particle_losses
from pyro_infomax.infer.weighted_elbo import WeightedELBO

__all__ = ["surrogate_loss"]


def surrogate_loss(elbo: ELBO, model: Program, guide: Program, *args: Any, **kwargs: Any) -> SurrogateLoss:
    """Evaluates an objective in tensors alone, without a step of its schedules.

    No tensor becomes a number of Python on the way, so that the evaluation can be recorded as a graph of
    tensor operations. Validation reads values; switch it off while recording.

    Args:
        elbo: an objective of this package, or Pyro's Trace, TraceMeanField or TraceGraph ELBO.
        model: the model.
        guide: the guide.
        *args: what both are called with.
        **kwargs: the same by keyword.

    Returns:
        The loss, a surrogate that has its gradients, and the unweighted terms, in nats.

    Raises:
        NotImplementedError: for an objective that has no such evaluation.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyro_infomax.infer import TraceMeanField_BetaELBO
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> found = surrogate_loss(TraceMeanField_BetaELBO(beta=4.0), model, guide, torch.tensor([-1.0, 1.0]))
        >>> bool((found.loss - (found.distortion + 4 * found.rate)).abs() < 1e-4)
        True
    """
    if isinstance(elbo, WeightedELBO):
        return elbo.surrogate(model, guide, *args, **kwargs)
    return SurrogateLoss(*particle_losses(elbo, model, guide, args, kwargs))
