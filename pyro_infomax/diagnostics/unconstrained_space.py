"""Local latent sites as one vector without constraints."""

from collections.abc import Iterator, Mapping
from typing import Any, Self, final

import torch
from pyro.distributions import constraints
from torch.distributions import Transform, VonMises, biject_to

from pyro_infomax.joint.latent_space import Sites
from pyro_infomax.poutine import LocalProgram, SiteLayout, rows_of
from pyro_infomax.random_state import isolated_random_state

__all__ = ["UnconstrainedSpace"]

Tensors = tuple[torch.Tensor, ...]


@final
class UnconstrainedSpace:
    """The continuous local latent sites of a model, mapped one to one onto vectors of real numbers.

    Args:
        layouts: of the sites in the order wanted.
        transforms: of the same sites, from real numbers onto each support.

    Example:
        >>> layout = SiteLayout("r", -1, (), (), depth=1, rank=1, dtype=torch.float32)
        >>> space = UnconstrainedSpace({"r": layout}, {"r": biject_to(constraints.positive)})
        >>> sites, log_jacobian = space.constrain(torch.tensor([[0.0], [1.0]]))
        >>> sites["r"], log_jacobian
        (tensor([1.0000, 2.7183]), tensor([0., 1.]))
    """

    def __init__(self, layouts: Mapping[str, SiteLayout], transforms: Mapping[str, Transform]) -> None:
        self.layouts = dict(layouts)
        self.transforms = {name: transforms[name] for name in layouts}
        self._shapes = {
            name: self.transforms[name].inverse_shape(torch.Size(layout.shape))
            for name, layout in self.layouts.items()
        }

    @classmethod
    def of(cls, program: LocalProgram, data: Tensors, layouts: Mapping[str, SiteLayout]) -> Self:
        """The space of a model's latent sites.

        Args:
            program: the model read datum by datum.
            data: of the model.
            layouts: its sites in the order wanted.

        Raises:
            ValueError: if there are no sites.
            NotImplementedError: if a site is discrete or a point mass, or its support is not the same for all
                data or cannot be mapped.
        """
        if not layouts:
            raise ValueError(
                "Expected a model with latent sites but got none; without them the log-evidence is the "
                "log-likelihood"
            )
        if program.point_masses:
            raise NotImplementedError(
                f"The latent sites {program.point_masses} are Deltas, which have no density to anneal; use "
                "pyro.deterministic for what follows from other sites"
            )
        # the bounds of a support that depends on data or other sites differ between rows
        rows = torch.arange(max(2, min(len(data[0]), program.piece))) % len(data[0])
        part = rows_of(data, rows) if program.follows else data
        with torch.no_grad(), isolated_random_state():
            trace = program.trace(part, next(program.pieces(len(part[0]))), stop_after=list(layouts))
        found = {name: _transform(trace.nodes[name], layout) for name, layout in layouts.items()}
        return cls(layouts, found)

    @property
    def size(self) -> int:
        """The number of real numbers for one datum."""
        return sum(shape.numel() for shape in self._shapes.values())

    def constrain(self, u: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Sites (M, *shape) of vectors (M, size), and the log of the volume each is stretched by, (M,)."""
        sites, stretched = {}, torch.zeros_like(u[:, 0])
        for name, part in self._parts(u):
            transform = self.transforms[name]
            sites[name] = transform(part)
            log_jacobian = transform.log_abs_det_jacobian(part, sites[name])
            stretched = stretched + log_jacobian.reshape(len(u), -1).sum(1)
        return sites, stretched

    def unconstrain(self, sites: Sites) -> torch.Tensor:
        """Vectors (M, size), float64, of sites (M, *shape)."""
        parts = [self.transforms[name].inv(sites[name].double()) for name in self.layouts]
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1)

    def _parts(self, u: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        sizes = [shape.numel() for shape in self._shapes.values()]
        for (name, shape), part in zip(self._shapes.items(), u.split(sizes, 1), strict=True):
            yield name, part.reshape(len(u), *shape)


def _transform(site: Any, layout: SiteLayout) -> Transform:
    support = site["fn"].support
    if support.is_discrete:
        raise NotImplementedError(
            f"The latent site {layout.name!r} is discrete, which has no gradient to anneal along; sum it out "
            "in the model, as TraceEnum_ELBO does, and anneal the continuous sites"
        )
    if _is_circular(site["fn"]):
        raise NotImplementedError(
            f"The latent site {layout.name!r} is an angle, whose chains would leave the one turn that its "
            "density is normalised on; use its importance-weighted evidence instead"
        )
    try:
        return biject_to(_for_one_datum(support, site, layout))
    except NotImplementedError as error:
        raise NotImplementedError(
            f"The latent site {layout.name!r} cannot be annealed on its support {support}: {error}; write it "
            "as a transform of a site with fixed bounds"
        ) from error


def _is_circular(fn: Any) -> bool:
    # torch gives angles the real numbers as their support
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, VonMises)


def _for_one_datum(support: Any, site: Any, layout: SiteLayout) -> Any:
    """The support without the plates around the site."""
    if isinstance(support, constraints.independent):
        base = _for_one_datum(support.base_constraint, site, layout)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    names = [name for name in ("lower_bound", "upper_bound") if hasattr(support, name)]
    if not names:
        return support
    return type(support)(*(_common_bound(getattr(support, name), site, layout) for name in names))


def _common_bound(bound: Any, site: Any, layout: SiteLayout) -> torch.Tensor | float:
    """A bound that every datum has: (*shape), or a number."""
    if not isinstance(bound, torch.Tensor) or not bound.dim():
        return float(bound)
    wide = bound.expand(site["value"].shape)
    (size,) = (frame.size for frame in site["cond_indep_stack"] if frame.dim == layout.data_dim)
    rows = layout.rows(wide, size)[0].double()  # (rows, *shape)
    if not torch.equal(rows, rows[:1].expand_as(rows)):
        raise NotImplementedError("its bounds differ from datum to datum")
    return rows[0]
