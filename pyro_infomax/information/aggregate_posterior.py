"""The exact aggregate posterior."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final, final

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_infomax.information.dense import Dense
from pyro_infomax.information.families import diagonal_normal, in_double, is_normal, name, shapes
from pyro_infomax.information.marginals import marginals_of
from pyro_infomax.information.mixture import Evaluation, Mixture
from pyro_infomax.information.tiles import TiledNormal

_SCORES_PER_SECOND: Final = 2e8
_PATIENCE: Final = 3.0  # seconds without a progress bar


@final
class AggregatePosterior:
    r"""The mixture of the posteriors of all N data.

    .. math:: q(z) = \frac1N \sum_{n=1}^N q(z \mid x_n)

    It is evaluated exactly, in float64, at every point against every component. Diagonal Normals are scored
    in tiles, in memory that stays flat as points and components grow; any other posterior goes through its
    own ``log_prob``, as many points at once as fit. With gradients enabled, results are differentiable in z
    and in the posterior's parameters, and autograd then keeps the scores of all pairs.

    Reference: Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence
    lower bound.

    Args:
        posterior: a torch or Pyro distribution, or an object with the same ``batch_shape`` (N,),
            ``event_shape`` (d,) and ``log_prob``. Marginals are taken from its ``log_prob_marginals(z)`` if
            it has one, from the factors of ``Independent``, from a multivariate Normal, or from a mixture of
            these.
        progress: show a bar when the evaluation is expected to take more than a few seconds.

    Raises:
        ValueError: for another batch or event shape, and for a diagonal Normal whose means are not finite or
            whose scales are not positive and finite.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> aggregate = AggregatePosterior(Independent(Normal(means, 0.5), 1))
    >>> z = torch.tensor([[1.0]], dtype=torch.float64)
    >>> aggregate.log_prob(z)
    tensor([-0.9186], dtype=torch.float64)
    >>> aggregate.log_prob_leave_one_out(z, torch.tensor([1]))
    tensor([-8.2258], dtype=torch.float64)
    """

    def __init__(self, posterior: Any, *, progress: bool = False) -> None:
        _check_shapes(posterior)
        self.posterior = in_double(posterior)
        self.progress = progress
        self._parameters = diagonal_normal(self.posterior)
        _check_parameters(self._parameters)

    @property
    def data_size(self) -> int:
        """N, the number of components."""
        return self.posterior.batch_shape[0]

    @property
    def latent_dim(self) -> int:
        """d, the number of latent dimensions."""
        return self.posterior.event_shape[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z).

        Args:
            z: (M, d).

        Returns:
            (M,), float64, in nats.
        """
        return self.evaluate(z).joint.log_prob

    def log_prob_marginals(self, z: Tensor) -> Tensor:
        """log q(z_j) for every latent dimension j.

        Args:
            z: (M, d).

        Returns:
            (M, d), float64, in nats.

        Raises:
            NotImplementedError: where the marginals of the posterior are not known.
        """
        marginals_of(self.posterior)
        return self._evaluate_marginals(self._checked(z)).log_prob

    def log_prob_leave_one_out(self, z: Tensor, index: Tensor) -> Tensor:
        r"""The log-density without each point's own component.

        .. math:: \log \frac{1}{N-1} \sum_{n \ne i} q(z \mid x_n)

        Args:
            z: (M, d).
            index: (M,), integers: the datum i whose component is dropped for each point.

        Returns:
            (M,), float64, in nats.

        Raises:
            ValueError: for N = 1, where nothing would be left, and for an index out of range.
        """
        check_leave_one_out(self.data_size)
        left = self.evaluate(z, index=index).joint.leave_one_out
        assert left is not None
        return left

    def evaluate(self, z: Tensor, *, index: Tensor | None = None, marginals: bool = False) -> Evaluation:
        """Everything at once, in one pass over the components: cheaper than one call for each.

        Args:
            z: (M, d).
            index: (M,), each point's own datum; without it nothing is left out.
            marginals: whether to score the latent dimensions one by one too.
        """
        z = self._checked(z)
        index = None if index is None else self._checked_index(index, len(z))
        if marginals:
            marginals_of(self.posterior)
        engine = self._engine(z)
        return Evaluation.cat(
            [engine.evaluate(*part, marginals) for part in self._parts(z, index, engine.rows)]
        )

    def _evaluate_marginals(self, z: Tensor) -> Mixture:
        engine = self._engine(z)
        if isinstance(engine, Dense):
            return Mixture.cat(
                [engine.evaluate_marginals(*part) for part in self._parts(z, None, engine.rows)]
            )
        found = self.evaluate(z, marginals=True).marginals
        assert found is not None
        return found

    def _engine(self, z: Tensor) -> TiledNormal | Dense:
        """Tiles are overwritten in place, which autograd does not allow."""
        if self._parameters is None or _needs_gradient(z, *self._parameters):
            return self._dense
        return TiledNormal(*self._parameters)

    @cached_property
    def _dense(self) -> Dense:
        return Dense(self.posterior)

    def _parts(self, z: Tensor, index: Tensor | None, rows: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        seconds = len(z) * self.data_size * self.latent_dim / _SCORES_PER_SECOND
        starts = range(0, max(1, len(z)), rows)
        bar = tqdm(starts, desc="aggregate posterior", disable=not self.progress or seconds < _PATIENCE)
        for start in bar:
            part = slice(start, start + rows)
            yield z[part], None if index is None else index[part]

    def _checked(self, z: Tensor) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"Expected z of shape (M, {self.latent_dim}) but got {tuple(z.shape)}.")
        return z.double() if is_normal(self.posterior) else z

    def _checked_index(self, index: Tensor, points: int) -> Tensor:
        if index.shape != (points,) or index.is_floating_point() or index.is_complex():
            raise ValueError(
                f"Expected index of shape ({points},), an integer for each point, "
                f"but got shape {tuple(index.shape)} of {index.dtype}."
            )
        if points and not 0 <= int(index.min()) <= int(index.max()) < self.data_size:
            raise ValueError(
                f"Expected index from 0 to {self.data_size - 1} but got "
                f"{int(index.min())} to {int(index.max())}."
            )
        return index.long()


def check_leave_one_out(data_size: int) -> None:
    """Refuse a mixture that would be left without a component."""
    if data_size < 2:
        raise ValueError(f"Expected at least 2 data to leave one out but got {data_size}.")


def _check_shapes(posterior: Any) -> None:
    if len(posterior.batch_shape) == 1 and len(posterior.event_shape) == 1 and posterior.batch_shape[0]:
        return
    raise ValueError(
        f"Expected a posterior of batch shape (N,) and event shape (d,) but got {name(posterior)} of "
        f"{shapes(posterior)}; declare the latent axis as the event, as Independent(..., 1) or .to_event(1)."
    )


def _check_parameters(parameters: tuple[Tensor, Tensor] | None) -> None:
    if parameters is None:
        return
    loc, scale = parameters
    if not bool(loc.isfinite().all()):
        raise ValueError(
            "Expected finite means of the posterior but got nan or infinite ones; check the encoder."
        )
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError(
            "Expected positive, finite scales of the posterior but got "
            f"{float(scale.min())} to {float(scale.max())}; check the encoder."
        )


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
