"""Encoders and decoders: fully connected ones for data of any shape, convolutional ones for images."""

from abc import ABC
from collections.abc import Callable, Iterable, Sequence, Sized
from itertools import pairwise
from math import prod
from typing import TypeAlias, cast, final

import torch
from torch import Tensor, nn

from pyro_infomax._checks import whole_number
from pyro_infomax._random import isolated_random_state
from pyro_infomax.nn._modules import evaluation_mode

# ---- Shapes of one datum, checked where networks take and give tensors.


def to_shape(shape: int | Sequence[int], name: str) -> torch.Size:
    """The shape of one datum as a :class:`torch.Size`; an integer means one axis."""
    if not isinstance(shape, Iterable):
        return torch.Size([whole_number(name, shape, at_least=1)])
    return torch.Size([whole_number(f"each size of {name}", size, at_least=1) for size in shape])


def merge_batch(x: Tensor, event_shape: Sequence[int], *, name: str, fix: str) -> Tensor:
    """Flattens the leading axes of a batch: (..., \\*event) becomes (batch, \\*event)."""
    split = x.dim() - len(event_shape)
    if split < 0 or tuple(x.shape[split:]) != tuple(event_shape):
        expected = ", ".join(["...", *map(str, event_shape)])
        raise ValueError(f"Expected {name} of shape ({expected}) but got {tuple(x.shape)}: {fix}.")
    return x.reshape(prod(x.shape[:split]), *event_shape)


def batch_axes(x: Tensor, event_shape: Sequence[int]) -> torch.Size:
    """The leading axes of a tensor, which come before one datum."""
    return x.shape[: x.dim() - len(event_shape)]


def as_parameters(x: Tensor, module: nn.Module) -> Tensor:
    """Data in the dtype that a module computes in; any floating-point one where it has no parameters."""
    parameter = next(module.parameters(), None)
    if parameter is None:
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return x.to(parameter.dtype)


# ---- What encoders and decoders of one datum share: any leading axes, and shapes that are checked.


class DatumEncoder(nn.Module, ABC):
    """Features of each datum: (..., \\*input_shape) to (..., out_features). A subclass builds the layers."""

    layers: nn.Module

    def __init__(self, input_shape: Sequence[int], row_shape: Sequence[int], out_features: int) -> None:
        super().__init__()
        self.input_shape = torch.Size(input_shape)
        self.out_features = out_features
        self._row_shape = torch.Size(row_shape)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        """Features, (..., out_features), of data (..., \\*input_shape) of any dtype.

        Further data that travel along, such as labels, are passed over.
        """
        fix = "build the encoder with that input_shape or reshape the data"
        rows = as_parameters(merge_batch(x, self.input_shape, name="data", fix=fix), self)
        features: Tensor = self.layers(rows.reshape(-1, *self._row_shape))  # (batch, features)
        return features.reshape(*batch_axes(x, self.input_shape), self.out_features)


class DatumDecoder(nn.Module, ABC):
    """Parameters of each datum: (..., latent_dim) to (..., \\*output_shape). A subclass builds the layers."""

    layers: nn.Module

    def __init__(self, latent_dim: int, output_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.latent_shape = to_shape(latent_dim, "latent_dim")
        self.output_shape = to_shape(output_shape, "output_shape")

    def forward(self, z: Tensor) -> Tensor:
        """The parameters of the likelihood, (..., \\*output_shape), of latents (..., latent_dim)."""
        rows = merge_batch(z, self.latent_shape, name="latents", fix="build the decoder with that latent_dim")
        parameters: Tensor = self.layers(rows)
        return parameters.reshape(z.shape[:-1] + self.output_shape)


# ---- Fully connected networks.

Activation: TypeAlias = Callable[[], nn.Module]


@final
class MLP(nn.Sequential):
    """A multilayer perceptron: linear layers with an activation between them, none after the last.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        hidden: sizes of the layers between; none makes a linear map.
        activation: builds one activation.

    Raises:
        ValueError: for a size that is no integer above 0.

    Example:
        >>> MLP(4, 3, hidden=(16, 16))(torch.zeros(5, 2, 4)).shape
        torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int] = (256,),
        activation: Activation = nn.ReLU,
    ) -> None:
        sizes = [
            whole_number("in_features", in_features, at_least=1),
            *to_shape(hidden, "hidden"),
            whole_number("out_features", out_features, at_least=1),
        ]
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation())]
        super().__init__(*layers[:-1])


@final
class MLPEncoder(DatumEncoder):
    """Flattens a datum and computes features from it: (..., \\*input_shape) to (..., out_features).

    Heads make a distribution of the features, so the last hidden layer has its activation. Without hidden
    layers the features are the flattened datum and the encoder as a whole is linear.

    Args:
        input_shape: shape of one datum.
        hidden: sizes of the layers; the last is the number of features.
        activation: builds one activation.

    Attributes:
        out_features: number of features.

    Raises:
        ValueError: for a size that is no integer above 0, and on data of another shape.

    Example:
        >>> encoder = MLPEncoder((8, 8), hidden=(32,))
        >>> encoder(torch.zeros(5, 8, 8)).shape, encoder.out_features
        (torch.Size([5, 32]), 32)
    """

    def __init__(
        self,
        input_shape: int | Sequence[int],
        *,
        hidden: Sequence[int] = (256,),
        activation: Activation = nn.ReLU,
    ) -> None:
        shape = to_shape(input_shape, "input_shape")
        sizes = [prod(shape), *to_shape(hidden, "hidden")]
        super().__init__(shape, sizes[:1], sizes[-1])
        self.layers = nn.Sequential(
            *(layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation()))
        )


@final
class MLPDecoder(DatumDecoder):
    """Computes the parameters of a likelihood from latents: (..., latent_dim) to (..., \\*output_shape).

    Args:
        latent_dim: size of the last axis of a latent.
        output_shape: shape of the parameters of one datum; that of the datum for most likelihoods.
        hidden: sizes of the layers between; none makes a linear decoder.
        activation: builds one activation.

    Raises:
        ValueError: for a size that is no integer above 0, and on latents of another size.

    Example:
        >>> MLPDecoder(2, (8, 8), hidden=(32,))(torch.zeros(7, 5, 2)).shape
        torch.Size([7, 5, 8, 8])
    """

    def __init__(
        self,
        latent_dim: int,
        output_shape: int | Sequence[int],
        *,
        hidden: Sequence[int] = (256,),
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__(latent_dim, output_shape)
        self.layers = MLP(latent_dim, prod(self.output_shape), hidden=hidden, activation=activation)


# ---- Convolutional encoder and decoder for images of any size from 4 x 4.

_SMALLEST = 4


@final
class ConvEncoder(DatumEncoder):
    """Computes features of images: (..., \\*input_shape) to (..., out_features).

    Each convolution halves the image: a 3 x 3 convolution with stride 2 maps a side of n
    pixels to :math:`\\lceil n / 2 \\rceil`.

    Args:
        input_shape: shape of one image, (channels, height, width) or (height, width).
        channels: output channels of each convolution.
        out_features: number of features, computed by a last linear layer; an attribute too.
        activation: builds one activation.

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
        shape = to_shape(input_shape, "input_shape")
        image = _image_shape(shape, "input_shape")
        super().__init__(shape, image, whole_number("out_features", out_features, at_least=1))
        sizes = [image[0], *to_shape(channels, "channels")]
        layers = [
            layer
            for a, b in pairwise(sizes)
            for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), activation())
        ]
        height, width = _halved(image, len(channels))[-1]
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(sizes[-1] * height * width, out_features), activation()
        )


@final
class ConvDecoder(DatumDecoder):
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
        super().__init__(latent_dim, output_shape)
        image = _image_shape(self.output_shape, "output_shape")
        sides = _halved(image, len(channels))[::-1]
        channels, hidden = to_shape(channels, "channels"), whole_number("hidden", hidden, at_least=1)
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


# ---- What an encoder gives: features of shape (batch, h).


def check_features(features: object, batch: int, *, plates: Sequence[str] = ()) -> Tensor:
    """The features, if they are real and have a row a datum, or also a row for each cell of these plates."""
    if not isinstance(features, Tensor):
        raise ValueError(
            f"Expected the encoder to return a tensor of features (batch, h) but got "
            f"{type(features).__name__}: return the features alone, the heads are added to them."
        )
    if not features.is_floating_point():
        raise ValueError(
            f"Expected real features but the encoder returned {features.dtype}: return floating-point "
            "numbers, such as x.float()."
        )
    if features.dim() not in (2, 2 + len(plates)) or len(features) != batch:
        per_cell = f", or (batch, {', '.join(plates)}, h)," if plates else ""
        raise ValueError(
            f"Expected features of shape (batch, h){per_cell} with batch = len(data) = {batch} but the "
            f"encoder returned {tuple(features.shape)}: give one row of features a datum."
        )
    return features


def prototype_features(encoder: Callable[..., object], *data: object, plates: Sequence[str] = ()) -> Tensor:
    """One call of an encoder that leaves no trace, to learn the number, dtype and device of its features.

    No gradient, batch statistics, training mode or random state is touched. Lazy layers are built.
    """
    with torch.no_grad(), isolated_random_state(), evaluation_mode(encoder):
        return check_features(encoder(*data), len(cast(Sized, data[0])), plates=plates)
