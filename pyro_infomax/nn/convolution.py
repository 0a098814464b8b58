"""Convolutional encoder and decoder for images of any size from 4 x 4."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn

from pyro_infomax.nn.mlp import Activation
from pyro_infomax.nn.shapes import as_parameters, batch_axes, merge_batch, to_shape

_SMALLEST = 4


@final
class ConvEncoder(nn.Module):
    """Computes features of images: (..., \\*input_shape) to (..., out_features).

    Each convolution halves the image: a 3 x 3 convolution with stride 2 maps a side of n
    pixels to :math:`\\lceil n / 2 \\rceil`.

    Args:
        input_shape: shape of one image, (channels, height, width) or (height, width).
        channels: output channels of each convolution.
        out_features: number of features, computed by a last linear layer.
        activation: builds one activation.

    Attributes:
        out_features: number of features.

    Raises:
        ValueError: for a shape that is no image of at least 4 x 4, and on data of another shape.

    Example:
        >>> encoder = ConvEncoder((8, 8), channels=(4, 8), out_features=32)
        >>> encoder(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        out_features: int = 256,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.input_shape = to_shape(input_shape, "input_shape")
        self.out_features = out_features
        self._image = _image_shape(self.input_shape, "input_shape")
        sizes = [self._image[0], *channels]
        layers = [
            layer
            for a, b in pairwise(sizes)
            for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), activation())
        ]
        height, width = _halved(self._image, len(channels))[-1]
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(sizes[-1] * height * width, out_features), activation()
        )

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        """The features of images.

        Args:
            x: images, (..., \\*input_shape), of any dtype.
            *_: further data that travel along, such as labels, which this encoder passes over.

        Returns:
            Features, (..., out_features).
        """
        fix = "build the encoder with that input_shape or reshape the data"
        rows = as_parameters(merge_batch(x, self.input_shape, name="data", fix=fix), self)
        features: Tensor = self.layers(rows.reshape(-1, *self._image))  # (batch, channels, height, width)
        return features.reshape(*batch_axes(x, self.input_shape), self.out_features)


@final
class ConvDecoder(nn.Module):
    """The mirror of :class:`ConvEncoder`: (..., latent_dim) to (..., \\*output_shape).

    Args:
        latent_dim: size of the last axis of a latent.
        output_shape: shape of the parameters of one image, (channels, height, width) or (height, width).
        channels: input channels of each transposed convolution, first the one at the smallest size.
        hidden: size of the linear layer after the latent.
        activation: builds one activation.

    Raises:
        ValueError: for a shape that is no image of at least 4 x 4, and on latents of another size.

    Example:
        >>> decoder = ConvDecoder(2, (3, 9, 8), channels=(8, 4), hidden=32)
        >>> decoder(torch.zeros(7, 5, 2)).shape
        torch.Size([7, 5, 3, 9, 8])
    """

    def __init__(
        self,
        latent_dim: int,
        output_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 32),
        hidden: int = 256,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.latent_shape = to_shape(latent_dim, "latent_dim")
        self.output_shape = to_shape(output_shape, "output_shape")
        image = _image_shape(self.output_shape, "output_shape")
        sides = _halved(image, len(channels))[::-1]
        first = (channels[0] if channels else image[0], *sides[0])
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, hidden),
            activation(),
            nn.Linear(hidden, torch.Size(first).numel()),
            nn.Unflatten(1, first),
        ]
        for (a, b), (small, large) in zip(pairwise([*channels, image[0]]), pairwise(sides), strict=True):
            layers += [activation(), _doubling(a, b, small, large)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """The parameters of the likelihood.

        Args:
            z: latents, (..., latent_dim).

        Returns:
            Parameters, (..., \\*output_shape).
        """
        rows = merge_batch(z, self.latent_shape, name="latents", fix="build the decoder with that latent_dim")
        images: Tensor = self.layers(rows)
        return images.reshape(z.shape[:-1] + self.output_shape)


def _image_shape(shape: torch.Size, name: str) -> tuple[int, int, int]:
    if len(shape) not in (2, 3) or min(shape[-2:]) < _SMALLEST:
        raise ValueError(
            f"Expected {name} to be (channels, height, width) or (height, width) with sides >= {_SMALLEST} "
            f"but got {tuple(shape)}: use an MLP for other data."
        )
    channels, height, width = (1, *shape)[-3:]
    return channels, height, width


def _halved(image: tuple[int, int, int], times: int) -> list[tuple[int, int]]:
    """The sides of the image, then of each layer after it."""
    sides = [image[1:]]
    for _ in range(times):
        sides.append(((sides[-1][0] + 1) // 2, (sides[-1][1] + 1) // 2))
    return sides


def _doubling(a: int, b: int, small: tuple[int, int], large: tuple[int, int]) -> nn.Module:
    # A side of n comes from 2n - 1 as well as from 2n pixels; the padding says which
    padding = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)
    return nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=padding)
