"""The local latent sites of a program, by name or side by side in one vector."""

from collections.abc import Mapping
from typing import TypeAlias, final

import torch

from pyro_infomax.poutine import SiteLayout

__all__ = ["LatentSpace", "Sites"]

Sites: TypeAlias = Mapping[str, torch.Tensor]


@final
class LatentSpace:
    """Local latent sites in the order of their program.

    Args:
        layouts: of each site, see :class:`~pyro_infomax.poutine.SiteLayout`.
    """

    def __init__(self, layouts: Mapping[str, SiteLayout]) -> None:
        self.layouts = dict(layouts)

    @property
    def size(self) -> int:
        """The number of latent dimensions, all sites together."""
        return sum(layout.size for layout in self.layouts.values())

    def checked(self, z: Sites | torch.Tensor) -> dict[str, torch.Tensor]:
        """The sites of z, each (M, *shape); a bare tensor is the value of the only site.

        Raises:
            ValueError: if sites are missing, unknown or of another shape.
        """
        if isinstance(z, torch.Tensor):
            if len(self.layouts) != 1:
                raise ValueError(
                    f"Expected a dict with the sites {list(self.layouts)} but got a tensor; name the sites"
                )
            z = {next(iter(self.layouts)): z}
        if missing := self.layouts.keys() - z.keys():
            raise ValueError(f"Expected values of the sites {list(self.layouts)} but {sorted(missing)} lack")
        return {name: self._checked(layout, z[name]) for name, layout in self.layouts.items()}

    def _checked(self, layout: SiteLayout, value: torch.Tensor) -> torch.Tensor:
        if value.dim() == 0 or tuple(value.shape[1:]) != layout.shape:
            raise ValueError(
                f"Expected {layout.name!r} of shape (M, {', '.join(map(str, layout.shape))}) "
                f"but got {tuple(value.shape)}"
            )
        return value

    def flatten(self, sites: Sites) -> torch.Tensor:
        """The sites side by side, (..., size), in float64."""
        parts = []
        for name, layout in self.layouts.items():
            value = sites[name].double()
            lead = value.shape[: value.dim() - len(layout.shape)]
            parts.append(value.reshape(*lead, layout.size))
        return torch.cat(parts, -1)

    def unflatten(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """The sites of a vector, each (..., *shape)."""
        parts = flat.split([layout.size for layout in self.layouts.values()], -1)
        return {
            name: part.reshape(*flat.shape[:-1], *layout.shape)
            for (name, layout), part in zip(self.layouts.items(), parts, strict=True)
        }
