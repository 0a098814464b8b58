"""Fully connected networks, as encoders and decoders of data of any shape."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, final

from torch import Tensor, nn

from pyro_infomax.nn.shapes import as_parameters, batch_axes, merge_batch, to_shape

Activation = Callable[[], nn.Module]


@final
class MLP(nn.Sequential):
    """A multilayer perceptron: linear layers with an activation between them, none after the last.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        hidden: sizes of the layers between; none makes a linear map.
        activation: builds one activation.

    Example:
        >>> import torch
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
        sizes = [in_features, *hidden, out_features]
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation())]
        super().__init__(*layers[:-1])


@final
class MLPEncoder(nn.Module):
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
        ValueError: on data of another shape.

    Example:
        >>> import torch
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
        super().__init__()
        self.input_shape = to_shape(input_shape, "input_shape")
        sizes = [prod(self.input_shape), *hidden]
        self.out_features = sizes[-1]
        self.layers = nn.Sequential(
            *(layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation()))
        )

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        """The features of data.

        Args:
            x: data, (..., \\*input_shape), of any dtype.
            *_: further data that travel along, such as labels, which this encoder passes over.

        Returns:
            Features, (..., out_features).
        """
        fix = "build the encoder with that input_shape or reshape the data"
        rows = as_parameters(merge_batch(x, self.input_shape, name="data", fix=fix), self)
        features: Tensor = self.layers(rows.flatten(1))
        return features.reshape(*batch_axes(x, self.input_shape), self.out_features)


@final
class MLPDecoder(nn.Module):
    """Computes the parameters of a likelihood from latents: (..., latent_dim) to (..., \\*output_shape).

    Args:
        latent_dim: size of the last axis of a latent.
        output_shape: shape of the parameters of one datum; that of the datum for most likelihoods.
        hidden: sizes of the layers between; none makes a linear decoder.
        activation: builds one activation.

    Raises:
        ValueError: on latents of another size.

    Example:
        >>> import torch
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
        super().__init__()
        self.latent_shape = to_shape(latent_dim, "latent_dim")
        self.output_shape = to_shape(output_shape, "output_shape")
        self.layers = MLP(latent_dim, prod(self.output_shape), hidden=hidden, activation=activation)

    def forward(self, z: Tensor) -> Tensor:
        """The parameters of the likelihood.

        Args:
            z: latents, (..., latent_dim).

        Returns:
            Parameters, (..., \\*output_shape).
        """
        rows = merge_batch(z, self.latent_shape, name="latents", fix="build the decoder with that latent_dim")
        parameters: Tensor = self.layers(rows)
        return parameters.reshape(z.shape[:-1] + self.output_shape)
