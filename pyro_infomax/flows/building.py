"""From what a user gives as flow to a flow."""

from collections.abc import Callable
from typing import Any

from pyro.distributions.conditional import ConditionalTransform
from torch import nn
from torch.distributions import Transform

from pyro_infomax.flows.coupling_flow import CouplingFlow
from pyro_infomax.flows.flow import Flow
from pyro_infomax.flows.lazy_flow import LazyFlow
from pyro_infomax.flows.transform_flow import TransformFlow

__all__ = ["to_flow"]


def to_flow(
    flow: Callable[..., Any] | None, event_size: int, context_size: int = 0, *, to_noise: bool = False
) -> Flow:
    """A flow over vectors, from a function that builds one.

    It is called as ``flow(event_size, context_size)``, or as ``flow(event_size)`` where there is no context,
    and returns

    - transforms of Pyro, one or a list, such as ``dist.transforms.conditional_affine_autoregressive``;
    - a flow of zuko, such as ``zuko.flows.NSF`` or ``functools.partial(zuko.flows.NSF, transforms=2)``
      (``pip install pyro_infomax[flows]``), or any module from a context to a torch distribution;
    - a :class:`Flow` of this package, such as ``functools.partial(CouplingFlow, layers=8)``.

    Args:
        flow: the function; None for :class:`CouplingFlow`.
        event_size: number of elements of a vector.
        context_size: number of elements of a context; 0 for none.
        to_noise: Pyro's transforms lead from vectors to noise, so that scores of any vector are their fast
            direction. The other two are what they are.

    Raises:
        ValueError: if ``flow`` is no function, or returns anything else.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> build = lambda size: [dist.transforms.spline(size), dist.transforms.affine_autoregressive(size)]
        >>> to_flow(build, 3)().sample().shape
        torch.Size([3])
        >>> to_flow(None, 3, 5)(torch.zeros(4, 5)).sample().shape
        torch.Size([4, 3])
    """
    if flow is None:
        return CouplingFlow(event_size, context_size)
    if not callable(flow) or isinstance(flow, nn.Module | Transform):
        raise ValueError(
            f"Expected flow to be a function of the sizes that builds a flow but got {flow!r}: pass "
            "zuko.flows.NSF rather than a flow that it built, or lambda *sizes: the flow."
        )
    made = flow(event_size, context_size) if context_size else flow(event_size)
    if isinstance(made, Flow):
        return made
    transforms = _transforms(made)
    if transforms is not None:
        return _of_transforms(transforms, event_size, context_size, to_noise=to_noise)
    if isinstance(made, nn.Module):
        return LazyFlow(made, event_size, context_size)
    raise ValueError(
        "Expected the flow to be transforms of Pyro, one or a list, or a module that returns a distribution, "
        f"but got {made!r}."
    )


def _transforms(made: Any) -> list[Any] | None:
    if isinstance(made, Transform | ConditionalTransform):
        return [made]
    is_list = isinstance(made, list | tuple | nn.ModuleList)
    return (
        list(made) if is_list and all(isinstance(t, Transform | ConditionalTransform) for t in made) else None
    )


def _of_transforms(
    transforms: list[Any], event_size: int, context_size: int, *, to_noise: bool
) -> TransformFlow:
    flow = TransformFlow(transforms, event_size, to_noise=to_noise)
    if flow.is_conditional and not context_size:
        raise ValueError(
            "Expected transforms without a context, since a prior has none, but got conditional ones: take "
            "dist.transforms.affine_autoregressive rather than conditional_affine_autoregressive."
        )
    return flow
