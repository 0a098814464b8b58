"""Critics: networks that score whether several parts, such as a datum and a latent, belong together.

Trained to tell draws of one joint distribution from draws of another, a critic estimates the logarithm of
the ratio of their densities, also where neither density is known.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Self, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_infomax._checks import whole_number
from pyro_infomax.nn._encoders import MLP, Activation, as_parameters, batch_axes, to_shape

# ---- What critics share: parts whose axes of one datum are flattened, and whose leading axes broadcast.

PartShape: TypeAlias = int | Sequence[int]


class _Critic(nn.Module, ABC):
    def __init__(self, *part_shapes: PartShape) -> None:
        super().__init__()
        if not part_shapes:
            raise ValueError("Expected the shape of each part, such as data and latents, but got none.")
        self.part_shapes = [to_shape(shape, "part_shapes") for shape in part_shapes]
        self.sizes = [prod(shape) for shape in self.part_shapes]

    def forward(self, *parts: Tensor) -> Tensor:
        r"""The scores, (...), of parts whose leading axes broadcast: (..., \*part_shape) each.

        ``critic(x[:, None], y[None])`` scores all pairs, (batch, batch).
        """
        expected = [("...", *shape) for shape in self.part_shapes]
        found = [tuple(part.shape) for part in parts]
        if len(parts) != len(expected) or any(
            part.shape[part.dim() - len(shape) :] != shape or part.dim() < len(shape)
            for part, shape in zip(parts, self.part_shapes, strict=True)
        ):
            raise ValueError(
                f"Expected parts of the shapes {_in_words(expected)} but got {_in_words(found)}: build "
                f"the {type(self).__name__} with the shapes of one datum."
            )
        rows = [
            as_parameters(part, self).reshape(*batch_axes(part, shape), size)
            for part, shape, size in zip(parts, self.part_shapes, self.sizes, strict=True)
        ]
        return self._scores(rows)

    @abstractmethod
    def _scores(self, rows: Sequence[Tensor]) -> Tensor:
        """The scores, (...), of flattened parts, (..., size) each."""


def _in_words(shapes: Sequence[Sequence[object]]) -> str:
    return " and ".join(f"({', '.join(map(str, shape))})" for shape in shapes)


def _joined(rows: Sequence[Tensor]) -> Tensor:
    """The parts in one, (..., sum of the sizes)."""
    leading = torch.broadcast_shapes(*(row.shape[:-1] for row in rows))
    return torch.cat([row.expand(*leading, row.shape[-1]) for row in rows], dim=-1)


# ---- The critics.


@final
class MLPCritic(_Critic):
    r"""A multilayer perceptron on all parts together: the most general critic.

    Scoring all pairs of a minibatch runs the network on each of the batch² pairs; :class:`SeparableCritic`
    runs on each part alone.

    Args:
        *part_shapes: the shape of one datum of each part, such as ``(28, 28), 10`` for images and latents.
        hidden: sizes of the layers between.
        activation: builds one activation.

    Raises:
        ValueError: for a size that is no integer above 0, and for parts of other shapes.

    Example:
        >>> critic = MLPCritic((28, 28), 10, hidden=(16,))
        >>> critic(torch.zeros(5, 28, 28), torch.zeros(5, 10)).shape
        torch.Size([5])
        >>> critic(torch.zeros(5, 1, 28, 28), torch.zeros(4, 10)).shape  # all pairs
        torch.Size([5, 4])
    """

    def __init__(
        self, *part_shapes: PartShape, hidden: Sequence[int] = (256, 256), activation: Activation = nn.ReLU
    ) -> None:
        super().__init__(*part_shapes)
        self.layers = MLP(sum(self.sizes), 1, hidden=hidden, activation=activation)

    def _scores(self, rows: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.layers(_joined(rows)).squeeze(-1)
        return scores


@final
class SeparableCritic(_Critic):
    r"""The inner product of features of x and features of y, and a constant: quick for all pairs.

    .. math:: T(x, y) = f(x)^\top g(y) + c

    Args:
        x_shape: the shape of one datum of the first part.
        y_shape: that of the second part.
        features: how many features the inner product is over.
        hidden: sizes of the layers of both networks.
        activation: builds one activation.

    Raises:
        ValueError: for a size that is no integer above 0, and for parts of other shapes.

    Example:
        >>> critic = SeparableCritic(3, 2, features=8, hidden=(16,))
        >>> critic(torch.zeros(5, 1, 3), torch.zeros(4, 2)).shape  # all pairs
        torch.Size([5, 4])
    """

    def __init__(
        self,
        x_shape: PartShape,
        y_shape: PartShape,
        *,
        features: int = 32,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__(x_shape, y_shape)
        whole_number("features", features, at_least=1)
        x_size, y_size = self.sizes
        self.x_layers = MLP(x_size, features, hidden=hidden, activation=activation)
        self.y_layers = MLP(y_size, features, hidden=hidden, activation=activation)
        self.constant = nn.Parameter(torch.zeros(()))

    def _scores(self, rows: Sequence[Tensor]) -> Tensor:
        x, y = rows
        # Sizes of 1 stay: of all pairs this is one matrix product
        products = torch.einsum("...k,...k->...", self.x_layers(x), self.y_layers(y))
        return products + self.constant


@final
class QuadraticCritic(_Critic):
    r"""All quadratic functions of the parts, which hold the log-ratio of any two Gaussians.

    .. math:: T(v) = v^\top A v + b^\top v + c, \qquad v = (x, y, \dots)

    So it can be the optimal critic wherever both joint distributions are Gaussian, as those of a linear VAE
    on Gaussian data are. It starts at 0.

    Args:
        *part_shapes: the shape of one datum of each part.

    Raises:
        ValueError: for a size that is no integer above 0, and for parts of other shapes.

    Example:
        >>> critic = QuadraticCritic(1, 1)
        >>> pair = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
        >>> apart = MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> x = torch.tensor([[0.5, 1.0]])
        >>> score = critic.to_log_ratio(pair, apart)(x[:, :1], x[:, 1:])
        >>> bool(torch.allclose(score, pair.log_prob(x) - apart.log_prob(x), atol=1e-6))
        True
    """

    def __init__(self, *part_shapes: PartShape) -> None:
        super().__init__(*part_shapes)
        size = sum(self.sizes)
        self.matrix = nn.Parameter(torch.zeros(size, size))
        self.vector = nn.Parameter(torch.zeros(size))
        self.constant = nn.Parameter(torch.zeros(()))

    def _scores(self, rows: Sequence[Tensor]) -> Tensor:
        # Part by part, so that scores of all pairs are sums of what each part costs, and matrix products
        vectors = self.vector.split(self.sizes)
        blocks = [row.split(self.sizes, dim=1) for row in self.matrix.split(self.sizes)]
        scores = self.constant
        for k, row in enumerate(rows):
            scores = scores + ((row @ blocks[k][k] + vectors[k]) * row).sum(-1)
            for j in range(k):
                across = row @ (blocks[k][j] + blocks[j][k].T)
                scores = scores + torch.einsum("...i,...i->...", across, rows[j])
        return scores

    @torch.no_grad()
    def to_log_ratio(self, first: MultivariateNormal, second: MultivariateNormal) -> Self:
        """Becomes the log-ratio of two Gaussians over all parts, side by side: the optimal critic of the two.

        Args:
            first: event shape (sum of the parts' sizes,); its draws score high.
            second: the same for those that score low.
        """
        size = len(self.vector)
        for each in (first, second):
            if (*each.batch_shape, *each.event_shape) != (size,):
                raise ValueError(
                    f"Expected Gaussians of shape ({size},), over all parts, but got batch shape "
                    f"{tuple(each.batch_shape)} and event shape {tuple(each.event_shape)}."
                )
        difference = first.precision_matrix - second.precision_matrix
        means = [each.precision_matrix @ each.loc for each in (first, second)]
        zero = torch.zeros_like(first.loc)
        self.matrix.copy_(-difference / 2)
        self.vector.copy_(means[0] - means[1])
        self.constant.copy_(first.log_prob(zero) - second.log_prob(zero))
        return self
