"""What a family needs to know about the support of a site."""

from typing import Any

from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_infomax.guides.prototype import LatentSite
from pyro_infomax.nn.site_transform import unwrapped

__all__ = ["check_continuous", "check_discrete", "number_of_categories"]


def check_continuous(site: LatentSite, family: str) -> None:
    """Refuses a discrete site.

    Args:
        site: a latent site.
        family: the name of the family that was asked to serve it.

    Raises:
        NotImplementedError: if the site is discrete.
    """
    if not site.support.is_discrete:
        return
    name = (
        f"Latent site {site.name!r} is discrete, with support {site.support}, which {family} does not cover"
    )
    own = f"give the site a head of its own, {family}(model, encoder, heads={{{site.name!r}: %s}})"
    if not _is_finite(site.support):
        raise NotImplementedError(f"{name}: {own % 'dist.Poisson'}, or another distribution on its support.")
    raise NotImplementedError(
        f"{name}: {own % 'AmortizedDiscrete'}, or hide it by pyro.poutine.block(model, hide=[{site.name!r}]) "
        "and enumerate it in the model, with a TraceEnum objective."
    )


def check_discrete(site: LatentSite, family: str) -> None:
    """Refuses a continuous site.

    Args:
        site: a latent site.
        family: the name of the family that was asked to serve it.

    Raises:
        NotImplementedError: if the site is continuous.
    """
    if not site.support.is_discrete:
        raise NotImplementedError(
            f"Latent site {site.name!r} is continuous, with support {site.support}, which {family} does not "
            f"cover: use AmortizedNormal, with heads={{name: {family}}} for the discrete sites."
        )


def _is_finite(support: Constraint) -> bool:
    base = unwrapped(support)
    named = isinstance(base, type(constraints.boolean) | type(constraints.one_hot))
    return named or isinstance(base, constraints.integer_interval)


def number_of_categories(support: Constraint) -> int | None:
    """K of a site whose values are the integers from 0 to K − 1; None for values that are numbers.

    Args:
        support: of the site.

    Example:
        >>> from torch.distributions import constraints
        >>> number_of_categories(constraints.integer_interval(0, 4))
        5
    """
    base = unwrapped(support)
    lower, upper = (getattr(base, name, None) for name in ("lower_bound", "upper_bound"))
    if not base.is_discrete or lower is None or upper is None or int(_least(lower)) != 0:
        return None
    return int(_most(upper)) + 1


def _least(bound: Any) -> Any:
    return bound.min() if hasattr(bound, "min") else bound


def _most(bound: Any) -> Any:
    return bound.max() if hasattr(bound, "max") else bound
