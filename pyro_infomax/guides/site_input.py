"""What the head of a site sees: features in the axes of the site's plates, and the sites before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

from pyro_infomax.guides.prototype import DataPlate, InnerPlate, LatentSite
from pyro_infomax.guides.supports import number_of_categories

__all__ = ["CellFeatures", "EarlierSite", "SiteInput", "laid_out"]

_MAX_WIDTH: Final = 64


def laid_out(features: Tensor, data_dim: int, dims: Sequence[int]) -> Tensor:
    """Features with the data and the cells of inner plates in the axes of these plates.

    Args:
        features: (batch, \\*cells, features).
        data_dim: the axis of the data plate, counted from the right of a batch shape.
        dims: the axes of the inner plates, in the order of ``cells``.

    Returns:
        (\\*axes of the plates, features), with axes of size 1 where no plate is.

    Example:
        >>> laid_out(torch.zeros(5, 4, 7), -1, [-3]).shape
        torch.Size([4, 1, 5, 7])
    """
    axes = [data_dim, *dims]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    shape = [1] * -min(axes)
    for axis, size in zip(axes, features.shape, strict=False):
        shape[axis] = size
    return features.permute(*order, -1).reshape(*shape, features.shape[-1])


@final
class CellFeatures(nn.Module):
    """Features of each cell of inner plates, from the features of a datum by a linear map of its own.

    Args:
        in_features: number of features.
        cells: sizes of the plates.
    """

    def __init__(self, in_features: int, cells: Sequence[int]) -> None:
        super().__init__()
        self.cells = torch.Size(cells)
        self.linear = nn.Linear(in_features, prod(cells) * in_features)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, features) to (batch, \\*cells, features)."""
        return self.linear(features).reshape(len(features), *self.cells, features.shape[-1])


@final
@dataclass(frozen=True)
class EarlierSite:
    """A site that a later one depends on, and what is seen of it there.

    Args:
        site: the earlier one.
        beyond: its inner plates that the later one is not inside of: all of their cells are seen.
    """

    site: LatentSite
    beyond: tuple[InnerPlate, ...]

    @classmethod
    def of(cls, site: LatentSite, later: LatentSite) -> "EarlierSite":
        """As the later site sees it."""
        shared = {plate.name for plate in later.plates}
        return cls(site, tuple(plate for plate in site.plates if plate.name not in shared))

    @property
    def size(self) -> int:
        """Number of numbers that are seen of it."""
        categories = number_of_categories(self.site.support) or 1
        return self.site.event_shape.numel() * categories * prod(plate.size for plate in self.beyond)

    def seen(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """(..., \\*event) to (..., size), categories one-hot.

        Raises:
            ValueError: if an inner plate has another number of cells than at first.
            NotImplementedError: if the site is enumerated, so that its cells have no values together.
        """
        categories = number_of_categories(self.site.support)
        numbers = one_hot(value.long(), categories) if categories else value.unsqueeze(-1)
        lead = value.dim() - len(self.site.event_shape)
        flat = numbers.to(dtype).reshape(*value.shape[:lead], -1)  # (..., numbers)
        for plate in self.beyond:
            flat = self._gathered(flat, plate)
        return flat

    def _gathered(self, flat: Tensor, plate: InnerPlate) -> Tensor:
        """Moves the cells of a plate to the last axis, and leaves an axis of size 1 behind."""
        size = flat.shape[plate.dim - 1] if flat.dim() > -plate.dim else 1
        if size == 1 < plate.size:
            raise NotImplementedError(
                f"Latent site {self.site.name!r} is enumerated within plate {plate.name!r}, so that a later "
                "site outside of the plate cannot depend on all of its cells: use structured=False."
            )
        if size != plate.size:
            raise ValueError(
                f"Expected {plate.size} cells in plate {plate.name!r}, as in the guide's first run, since "
                f"later sites depend on each of them, but got {size}: use structured=False."
            )
        axis = flat.dim() + plate.dim - 1
        return flat.unsqueeze(axis).movedim(axis + 1, -1).flatten(-2)


@final
class SiteInput(nn.Module):
    """The input of one site's head.

    .. math:: u = [A h + B z_< + a,\\ \\mathrm{relu}(C h + D z_< + c)]

    of the features h and the values of earlier sites, so that a linear head can follow both linearly and
    beyond; the features alone where there are no earlier sites. What is done with the features is done once
    a datum, not for each pair of a value and a datum, of which an account scores very many; for its sake u is
    not wide either.

    Args:
        site: the latent site.
        data: the plate of the data.
        in_features: number of features.
        earlier: the sites that it depends on.
        per_cell: the inner plates of which the encoder gives features cell by cell, in their order.
    """

    def __init__(
        self,
        site: LatentSite,
        data: DataPlate,
        in_features: int,
        *,
        earlier: Sequence[LatentSite] = (),
        per_cell: Sequence[InnerPlate] = (),
    ) -> None:
        super().__init__()
        self.dims = [plate.dim for plate in site.plates]
        self.data_dim = data.dim
        own = {plate.name for plate in site.plates}
        self.foreign = [axis + 1 for axis, plate in enumerate(per_cell) if plate.name not in own]
        spread = site.plates and not per_cell
        self.cells = CellFeatures(in_features, [plate.size for plate in site.plates]) if spread else None
        self.earlier = [EarlierSite.of(each, site) for each in earlier]
        self.out_features = in_features
        if self.earlier:
            # the linear half must let through a location and a scale of each element
            width = max(min(in_features, _MAX_WIDTH), 2 * site.event_shape.numel())
            self.out_features = 2 * width
            self.of_features = nn.Linear(in_features, 2 * width)
            self.of_earlier = nn.Linear(sum(each.size for each in self.earlier), 2 * width, bias=False)

    def forward(self, features: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The input of the head.

        Args:
            features: of the encoder, (batch, features), or (batch, \\*cells, features) with the cells of all
                inner plates.
            values: of the earlier sites, (..., \\*plates, \\*event).

        Returns:
            (..., \\*plates, out_features).
        """
        if self.cells is not None:
            features = self.cells(features)
        elif self.foreign:
            features = features.mean(self.foreign)
        features = laid_out(features, self.data_dim, self.dims)
        if not self.earlier:
            return features
        parts = [each.seen(values[each.site.name], features.dtype) for each in self.earlier]
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        seen = torch.cat([part.expand(*lead, -1) for part in parts], -1)
        straight, bent = (self.of_features(features) + self.of_earlier(seen)).chunk(2, dim=-1)
        return torch.cat([straight, relu(bent)], -1)
