"""The representation joint q(z|x) p_D(x) of a guide and its data."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, final

import torch
from torch.distributions import Distribution, Independent

from pyro_infomax.information import AggregatePosterior
from pyro_infomax.joint.latent_space import LatentSpace, Sites
from pyro_infomax.joint.local_posterior import LocalPosterior
from pyro_infomax.joint.normal_sites import NormalParameters, flat_parameters, normal_over
from pyro_infomax.poutine import Data, LocalProgram, as_data, rows_of

__all__ = ["Draw", "RepresentationJoint", "representation"]


def representation(
    guide: Callable[..., Any], data: Data, *, data_plate: str | None = None
) -> "RepresentationJoint":
    """The representation joint of a guide and its data.

    Args:
        guide: a Pyro program whose latent sites are inside the data plate, the plate of full size len(data).
        data: a tensor or a tuple of tensors, whose first axis is the data: the guide's positional arguments.
        data_plate: the name of the plate, where several are of that size.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
        >>> joint = representation(guide, torch.tensor([[-1.0], [1.0]]))
        >>> joint.log_inverted(torch.zeros(1, 1)).exp()
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    return RepresentationJoint(guide, data, data_plate=data_plate)


@final
class Draw(dict[str, torch.Tensor]):
    """Latent sites of M draws, (M, *event) each, with the data that they were drawn for.

    Attributes:
        index: (M,), the rows of the data.
        data: the data in these rows, a tuple of tensors.
    """

    def __init__(self, sites: Sites, index: torch.Tensor, data: tuple[torch.Tensor, ...]) -> None:
        super().__init__(sites)
        self.index = index
        self.data = data


@final
class RepresentationJoint:
    r"""The density :math:`q_\psi(z \mid x) p_D(x)` of a guide, with :math:`p_D` uniform over N data.

    Calling the joint runs the guide, on its own data if no others are given.

    Args:
        guide: the Pyro program.
        data: the data.
        data_plate: the name of the guide's data plate, None to find it.
        batch_size: the most data that the guide is run on at once, where it follows the length of its
            arguments.
    """

    def __init__(
        self,
        guide: Callable[..., Any],
        data: Data,
        *,
        data_plate: str | None = None,
        batch_size: int = 1024,
    ) -> None:
        self.guide = guide
        self.data = as_data(data)
        self.program = LocalProgram(
            guide, self.data, role="guide", data_plate=data_plate, batch_size=batch_size
        )
        self.space = LatentSpace(self.program.latents)
        if not self.space.size:
            raise ValueError("Expected a guide with latent sites inside its data plate but found none")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.guide(*(args or self.data), **kwargs)

    @property
    def data_size(self) -> int:
        """N."""
        return len(self.data[0])

    @cached_property
    def posterior(self) -> Distribution | LocalPosterior:
        """q(z|x_n) of all N data over all latent dimensions, as it is now: batch shape (N,), event shape
        (latent,).

        A torch distribution in float64 where the guide gives one, else an object that scores by running the
        guide.
        """
        normal = self._normal()
        if normal is not None:
            return normal_over(normal)
        with torch.random.fork_rng():
            trace = self.program.trace(self.data, None) if self._runs_whole() else None
        lone = None if trace is None else self._lone_distribution(trace)
        return lone or LocalPosterior(self.program, self.data, trace)

    def _runs_whole(self) -> bool:
        return self.program.follows or self.program.piece >= self.data_size

    def _normal(self) -> NormalParameters | None:
        """The parameters of all sites if they are diagonal Normals that do not depend on each other."""
        parts = []
        for rows in self.program.pieces(self.data_size):
            with torch.random.fork_rng():
                first = flat_parameters(self.program, self.program.trace(self.data, rows), len(rows))
                again = self._again(rows) if len(self.space.layouts) > 1 else first
            if first is None or again is None or not all(map(torch.equal, first, again)):
                return None
            parts.append((rows, first))
        loc, scale = (parts[0][1][i].new_empty(self.data_size, self.space.size) for i in range(2))
        for rows, (some_loc, some_scale) in parts:
            loc[rows], scale[rows] = some_loc, some_scale
        return loc, scale

    # The sites of a second run take other values: what a site's parameters do not follow, it does not depend
    # on.
    def _again(self, rows: torch.Tensor) -> NormalParameters | None:
        return flat_parameters(self.program, self.program.trace(self.data, rows), len(rows))

    def _lone_distribution(self, trace: Any) -> Distribution | None:
        """The distribution of a lone site whose batch is the data and whose event is a vector."""
        if len(self.space.layouts) != 1:
            return None
        (name,) = self.space.layouts
        site = trace.nodes[name]
        fn = site["fn"]
        plain = site["mask"] is None and fn.batch_shape == (self.data_size,) and len(fn.event_shape) == 1
        vector = isinstance(fn, Distribution) and (
            not isinstance(fn, Independent) or not fn.base_dist.event_shape
        )
        return fn if plain and vector else None

    @cached_property
    def aggregate(self) -> AggregatePosterior:
        """q(z), the mixture of the posteriors of all data."""
        return AggregatePosterior(self.posterior)

    def sample(self, num_samples: int, *, seed: int | None = None) -> Draw:
        """Draws of a datum and of its latent sites.

        Args:
            num_samples: M.
            seed: isolates the draws from torch's global state.

        Returns:
            Site names to (M, *event), with the rows of the data in ``.index`` and the data in ``.data``.
        """
        if num_samples < 1:
            raise ValueError(f"Expected num_samples >= 1 but got {num_samples}")
        with torch.no_grad(), torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            index = torch.randint(self.data_size, (num_samples,))
            flat = self._drawn_for(index)
        dtypes = {name: layout.dtype for name, layout in self.space.layouts.items()}
        sites = {name: each.to(dtypes[name]) for name, each in self.space.unflatten(flat).items()}
        return Draw(sites, index, rows_of(self.data, index))

    def _drawn_for(self, index: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.posterior, LocalPosterior) and self._normal_parameters is not None:
            loc, scale = self._normal_parameters
            return torch.normal(loc[index], scale[index])
        # the k-th time that a row comes up takes its k-th draw
        turn = torch.tensor([int((index[:i] == row).sum()) for i, row in enumerate(index)])
        draws = self.posterior.sample((int(turn.max()) + 1,))
        return draws[turn, index]

    @property
    def _normal_parameters(self) -> NormalParameters | None:
        base = getattr(self.posterior, "base_dist", None)
        return (base.loc, base.scale) if isinstance(base, torch.distributions.Normal) else None

    def log_posterior(self, z: Sites | torch.Tensor, x: Data) -> torch.Tensor:
        """log q(z|x), of each z with its own datum.

        Args:
            z: site names to (M, *event), or one for all x, or a tensor for a single site.
            x: M data, or one for all z.

        Returns:
            (M,), in nats.
        """
        data = as_data(x)
        sites = self.space.checked(z)
        size = max(len(data[0]), *(len(each) for each in sites.values()))
        if len(data[0]) == 1:
            data = rows_of(data, torch.zeros(size, dtype=torch.long))
        scores = []
        for rows in self.program.pieces(size):
            values = {name: (each[rows] if len(each) > 1 else each)[None] for name, each in sites.items()}
            trace = self.program.trace(data, rows, values=values)
            pairs = [self.program.log_prob(trace.nodes[n], len(rows), z=each) for n, each in values.items()]
            scores.append(sum(pairs, start=torch.zeros(1, len(rows), dtype=torch.float64))[0])
        return torch.cat(scores)

    def log_aggregate(self, z: Sites | torch.Tensor) -> torch.Tensor:
        r"""log q(z) = log :math:`\frac1N \sum_n q(z \mid x_n)`.

        Args:
            z: site names to (M, *event), or a tensor for a single site.

        Returns:
            (M,), in nats.
        """
        return self.aggregate.log_prob(self.space.flatten(self.space.checked(z)))

    def log_inverted(self, z: Sites | torch.Tensor) -> torch.Tensor:
        """log q(x_n|z) = log q(z|x_n) − log N − log q(z), the inverted posterior over the data.

        Args:
            z: site names to (M, *event), or a tensor for a single site.

        Returns:
            (M, N), in nats; each row sums to one in probability.
        """
        flat = self.space.flatten(self.space.checked(z))
        joint = self.aggregate.posterior.log_prob(flat[:, None, :]) - math.log(self.data_size)  # (M, N)
        return joint - joint.logsumexp(-1, keepdim=True)
