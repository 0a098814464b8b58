"""Statistics of single data, by which replicated data are compared with observed ones."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from pyro_infomax._checks import whole_number

Statistic = Callable[[Any], Tensor]
"""From data (batch, ...), or a mapping of these by site, to numbers (batch,) or (batch, k)."""

# ---- Vectors.


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).double()


def _mean(x: Tensor) -> Tensor:
    return _flat(x).mean(-1)


def _spread(x: Tensor) -> Tensor:
    return _flat(x).std(-1, correction=0)


def _smallest(x: Tensor) -> Tensor:
    return _flat(x).amin(-1)


def _largest(x: Tensor) -> Tensor:
    return _flat(x).amax(-1)


def _zeros(x: Tensor) -> Tensor:
    return (_flat(x) == 0).double().mean(-1)


def vector_statistics() -> dict[str, Statistic]:
    """Statistics of a vector: mean, standard deviation, smallest and largest element, share of zeros.

    ``elements`` is the vector itself, a statistic an element, so that the mean and standard deviation of each
    over the data are compared too. :func:`predictive_check` takes these by default for sites that are no
    images, but ``elements`` for short vectors only, and the share of zeros where data have some.

    Example:
        >>> {name: statistic(torch.tensor([[0.0, 3.0]])).tolist()
        ...  for name, statistic in vector_statistics().items()}  # doctest: +NORMALIZE_WHITESPACE
        {'mean': [1.5], 'sd': [1.5], 'minimum': [0.0], 'maximum': [3.0], 'zeros': [0.5],
         'elements': [[0.0, 3.0]]}
    """
    return {
        "mean": _mean,
        "sd": _spread,
        "minimum": _smallest,
        "maximum": _largest,
        "zeros": _zeros,
        "elements": _flat,
    }


# ---- Images.

_AXES: Final = 2
_HALF: Final = 0.5
_ROUNDING: Final = 1e-12


def image_statistics(shape: Sequence[int] | None = None) -> dict[str, Statistic]:
    r"""Statistics of an image whose ink is high and whose paper is 0: how much of it there is, and where.

    ==============  =========================================================================================
    ``ink``         the sum of the pixels
    ``bright``      the share of pixels above one half
    ``row``         the centre of mass, in pixels from the top
    ``column``      and from the left
    ``height``      the extent: the standard deviation of the ink over the rows, in pixels
    ``width``       and over the columns
    ``neighbours``  the correlation of the pixels with their neighbours to the right and below
    ==============  =========================================================================================

    Channels are averaged. Places weigh each pixel by its ink, negative pixels by 0. An image without ink has
    its centre in the middle and no extent; one of a single grey has correlation 0.

    Args:
        shape: (H, W) or (C, H, W), where the site holds images as flat vectors; None where it holds them in
            their shape.

    Raises:
        ValueError: for another number of axes.

    Example:
        >>> image = torch.zeros(1, 4, 4)
        >>> image[0, 1, 1:3] = 1.0  # a stroke of two pixels in the second row
        >>> {name: float(statistic(image)) for name, statistic in image_statistics().items()
        ...  if name in ("ink", "row", "column", "height", "width")}
        {'ink': 2.0, 'row': 1.0, 'column': 1.5, 'height': 0.0, 'width': 0.5}
    """
    sizes = None if shape is None else tuple(whole_number("shape", size, at_least=1) for size in shape)
    if sizes is not None and len(sizes) not in (_AXES, _AXES + 1):
        raise ValueError(f"Expected shape to be (H, W) or (C, H, W) but got {sizes}.")
    functions: Mapping[str, Callable[[Tensor], Tensor]] = {
        "ink": _ink,
        "bright": _bright,
        "row": partial(_centre, axis=-2),
        "column": partial(_centre, axis=-1),
        "height": partial(_extent, axis=-2),
        "width": partial(_extent, axis=-1),
        "neighbours": _neighbours,
    }
    return {name: partial(_of_images, function, sizes) for name, function in functions.items()}


def is_image(shape: Sequence[int]) -> bool:
    """Whether a datum of this shape is taken for an image: (H, W) or (C, H, W), of 4 by 4 pixels at least."""
    return len(shape) in (_AXES, _AXES + 1) and min(shape[-_AXES:]) >= _FEWEST_PIXELS


_FEWEST_PIXELS: Final = 4


def _of_images(function: Callable[[Tensor], Tensor], shape: tuple[int, ...] | None, x: Tensor) -> Tensor:
    """A function of grey images (batch, H, W) of what may be flat, and have channels."""
    images = x.double() if shape is None else x.double().reshape(len(x), *shape)
    if images.dim() not in (_AXES + 1, _AXES + 2):
        raise ValueError(
            f"Expected images of shape (H, W) or (C, H, W) but got {tuple(images.shape[1:])}; for flat "
            "images pass image_statistics(shape=(H, W))"
        )
    return function(images.mean(1) if images.dim() == _AXES + 2 else images)


def _ink(images: Tensor) -> Tensor:
    return images.sum((-2, -1))


def _bright(images: Tensor) -> Tensor:
    return (images > _HALF).double().mean((-2, -1))


def _profile(images: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The shares of the ink along one axis, (batch, size), and the places, (size,)."""
    along = images.clamp(min=0).sum(-1 if axis == -2 else -2)
    total = along.sum(-1, keepdim=True)
    even = torch.full_like(along, 1 / along.shape[-1])
    return torch.where(total > 0, along / total, even), torch.arange(along.shape[-1]).to(along)


def _centre(images: Tensor, axis: int) -> Tensor:
    shares, places = _profile(images, axis)
    return (shares * places).sum(-1)


def _extent(images: Tensor, axis: int) -> Tensor:
    shares, places = _profile(images, axis)
    centre = (shares * places).sum(-1, keepdim=True)
    extent = (shares * (places - centre).square()).sum(-1).clamp(min=0).sqrt()
    return extent * (images.clamp(min=0).sum((-2, -1)) > 0)


def _neighbours(images: Tensor) -> Tensor:
    """Pearson's correlation over all pairs of neighbours, each pair taken both ways round."""
    right = images[:, :, :-1], images[:, :, 1:]
    below = images[:, :-1], images[:, 1:]
    here, there = (torch.cat([a.flatten(1), b.flatten(1)], -1) for a, b in zip(right, below, strict=True))
    a, b = torch.cat([here, there], -1), torch.cat([there, here], -1)  # (batch, pairs)
    centred = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    variance = centred[0].square().mean(-1)
    covariance = (centred[0] * centred[1]).mean(-1)
    varies = variance > _ROUNDING * a.square().mean(-1)
    return torch.where(varies, covariance / variance, 0.0)
