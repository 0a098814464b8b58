"""The exact aggregate posterior."""

from functools import cached_property
from typing import cast, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_infomax._recording import is_recording
from pyro_infomax.distributions import (
    Density,
    Posterior,
    check_parameters,
    coordinates_of,
    full_name,
    in_double,
    is_normal,
    marginals_of,
    shapes_in_words,
)
from pyro_infomax.information._mixture_engine import (
    Dense,
    MarginalMixtures,
    MixtureScores,
    NormalMixture,
    normal_components,
)


@final
class AggregatePosterior:
    r"""The mixture of the posteriors of all N data.

    .. math:: q(z) = \frac1N \sum_{n=1}^N q(z \mid x_n)

    It is evaluated exactly, in float64. Normals, diagonal or not, are scored by matrix products in tiles, in
    memory that stays flat as points and components grow; tiles are skipped where their components provably
    change the log-density by less than :math:`10^{-12}`. The marginals of many Normals are interpolated where
    that is quicker, to some :math:`10^{-6}`. Normals behind an invertible transform that is the same for all
    data (``LogNormal``, or ``TransformedDistribution`` with stick breaking) are scored as Normals; where the
    transform reaches no such z, their density is 0. Any other posterior goes through its own ``log_prob``, as
    many points at once as fit. With gradients enabled, results are differentiable in z and in the posterior's
    parameters, and autograd then keeps the scores of all pairs.

    Reference: Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence
    lower bound.

    Args:
        posterior: a torch or Pyro distribution, or any other
            :class:`~pyro_infomax.distributions.Posterior`, batch shape (N,), event shape (d,); it need not
            have ``sample`` here. Marginals are taken from its ``log_prob_marginals(z)`` if
            it has one, from the factors of ``Independent``, from a multivariate Normal, or from a mixture of
            these.
        progress: show a bar when an evaluation takes more than a few seconds.

    Raises:
        ValueError: for another batch or event shape, for means that are not finite, scales that are not
            positive and finite, and any other parameter that is not finite or breaks its constraint.

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

    def __init__(self, posterior: Posterior, *, progress: bool = True) -> None:
        _check_shapes(posterior)
        if not is_recording():
            check_parameters(posterior, "posterior")
        self.posterior = in_double(posterior)
        self.progress = progress
        self.coordinates = coordinates_of(self.posterior)
        self._normal = _normal(self.coordinates.base)

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
        return self.evaluate(z).log_prob

    def log_prob_marginals(self, z: Tensor) -> Tensor:
        """log q(z_j) for every latent dimension j.

        Args:
            z: (M, d).

        Returns:
            (M, d), float64, in nats.

        Raises:
            NotImplementedError: where the marginals of the posterior are not known.
        """
        return self.evaluate_marginals(z).log_prob

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
        left = self.evaluate(z, index=index).leave_one_out
        assert left is not None
        return left

    def evaluate(self, z: Tensor, *, index: Tensor | None = None) -> MixtureScores:
        """log q(z) and, where each point's own datum is named, the leave-one-out of the same pass.

        Args:
            z: (M, d).
            index: (M,), each point's own datum; without it nothing is left out.
        """
        z = self._in_shape(z)
        index = None if index is None else self._own_data(index, len(z))
        u, stretch = self.coordinates.at(z)
        found = self._joint(u).evaluate(u, index, progress=self.progress)
        return found.less(stretch.sum(-1) if stretch.dim() > 1 else stretch)

    def evaluate_marginals(self, z: Tensor, *, index: Tensor | None = None) -> MixtureScores:
        """The same of every latent dimension by itself, (M, d).

        Args:
            z: (M, d).
            index: (M,), each point's own datum; without it nothing is left out.

        Raises:
            NotImplementedError: where the marginals of the posterior are not known.
        """
        marginals_of(self.posterior)
        z = self._in_shape(z)
        index = None if index is None else self._own_data(index, len(z))
        u, stretch = self.coordinates.at(z)
        quick = self._normal is not None and not self._needs_gradient(u)
        evaluate = self._normal_marginals.evaluate if quick else self._dense.evaluate_marginals
        return evaluate(u, index, progress=self.progress).less(stretch)

    def _joint(self, z: Tensor) -> NormalMixture | Dense:
        """Tiles are overwritten in place, which autograd does not allow."""
        return self._dense if self._normal is None or self._needs_gradient(z) else self._normal

    def _needs_gradient(self, z: Tensor) -> bool:
        normal = cast(Distribution, self.coordinates.base)
        tensors = z, normal.mean, normal.stddev
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)

    @cached_property
    def _dense(self) -> Dense:
        return Dense(self.coordinates.base)

    @cached_property
    @torch.no_grad()
    def _normal_marginals(self) -> MarginalMixtures:
        normal = cast(Distribution, self.coordinates.base)
        return MarginalMixtures(normal.mean, normal.stddev)

    def _in_shape(self, z: Tensor) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"Expected z of shape (M, {self.latent_dim}) but got {tuple(z.shape)}.")
        return z.double() if is_normal(self.coordinates.base) else z

    def _own_data(self, index: Tensor, points: int) -> Tensor:
        unfit = index.is_floating_point() or index.is_complex() or index.dtype == torch.bool
        if index.shape != (points,) or unfit:
            raise ValueError(
                f"Expected index of shape ({points},), an integer for each point, "
                f"but got shape {tuple(index.shape)} of {index.dtype}."
            )
        if points and not is_recording() and not 0 <= int(index.min()) <= int(index.max()) < self.data_size:
            raise ValueError(
                f"Expected index from 0 to {self.data_size - 1} but got "
                f"{int(index.min())} to {int(index.max())}."
            )
        return index.long()


def check_leave_one_out(data_size: int) -> None:
    """Refuse a mixture that would be left without a component."""
    if data_size < 2:
        raise ValueError(f"Expected at least 2 data to leave one out but got {data_size}.")


def _check_shapes(posterior: Posterior) -> None:
    batch, event = (getattr(posterior, each, torch.Size()) for each in ("batch_shape", "event_shape"))
    if len(batch) == 1 and len(event) == 1 and batch[0] and event[0]:
        return
    raise ValueError(
        f"Expected a posterior of batch shape (N,) and event shape (d,) but got {full_name(posterior)} of "
        f"{shapes_in_words(posterior)}; declare the latent axis as the event, as Independent(..., 1) or "
        ".to_event(1)."
    )


@torch.no_grad()
def _normal(posterior: Density) -> NormalMixture | None:
    components = normal_components(posterior)
    return None if components is None else NormalMixture(components)
