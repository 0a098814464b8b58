"""The representation joint q(z|x) p_D(x) of a guide and its data."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch.distributions import Distribution, Independent

from pyro_infomax.information import AggregatePosterior
from pyro_infomax.information.dense import points_at_once
from pyro_infomax.information.families import in_double, is_normal
from pyro_infomax.joint.latent_space import LatentSpace, Sites, number_of_values
from pyro_infomax.joint.local_posterior import LocalPosterior, broadcasts
from pyro_infomax.joint.product_of_sites import product_of_sites
from pyro_infomax.joint.scoring import aligned, site_scores, total
from pyro_infomax.poutine import Data, LocalProgram, as_data, rows_of
from pyro_infomax.random_state import isolated_random_state, seeded_draws

__all__ = ["Draw", "RepresentationJoint", "representation"]


def representation(
    guide: Callable[..., Any], data: Data, *, data_plate: str | None = None
) -> "RepresentationJoint":
    """The representation joint of a guide and its data.

    Args:
        guide: a Pyro program whose latent sites are inside the data plate, the plate of full size len(data).
        data: a tensor or a tuple of tensors, whose first axis is the data: the guide's positional arguments.
        data_plate: the name of the plate, where several are of that size.

    Raises:
        ValueError: if the data are none, or there is no data plate, or several.
        NotImplementedError: if a latent site is global or auxiliary, or the guide has factors.

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

    Its densities are those of the guide as it is at each call, in the mode (training or evaluation) that its
    modules are in. Calling the joint runs the guide, on its own data if no others are given.

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

    @property
    def posterior(self) -> Distribution | LocalPosterior:
        """q(z|x_n) of all N data over all latent dimensions: batch shape (N,), event shape (latent,).

        The data are encoded at each access. A torch distribution where the guide gives one (in float64 if
        it is Normal or its dimensions are independent), else an object that scores by running the guide.
        """
        product = product_of_sites(self.program, self.data, self.space)
        if product is not None:
            return product
        if len(self.space.layouts) > 1 or self.program.subsamples:
            return LocalPosterior(self.program, self.data)
        with isolated_random_state():
            trace = self.program.trace(self.data, stop_after=list(self.space.layouts))
        return self._lone_distribution(trace) or LocalPosterior(self.program, self.data, trace)

    def _lone_distribution(self, trace: Any) -> Distribution | None:
        """The distribution of a lone site whose batch is the data and whose event is a vector."""
        (name,) = self.space.layouts
        site = trace.nodes[name]
        fn = in_double(site["fn"]) if is_normal(site["fn"]) else site["fn"]
        plain = site["mask"] is None and fn.batch_shape == (self.data_size,) and len(fn.event_shape) == 1
        vector = isinstance(fn, Distribution) and (
            not isinstance(fn, Independent) or not fn.base_dist.event_shape
        )
        if not (plain and vector):
            return None
        with isolated_random_state(), torch.no_grad():
            z = torch.stack([fn.sample().double() for _ in range(2)])  # (2, data, latent)
        return fn if broadcasts(fn.log_prob, z) else None

    @property
    def aggregate(self) -> AggregatePosterior:
        """q(z), the mixture of the posteriors of all data, encoded at each access."""
        return AggregatePosterior(self.posterior)

    def sample(self, num_samples: int, *, seed: int | None = None) -> Draw:
        """Draws of a datum and of its latent sites.

        Args:
            num_samples: M.
            seed: isolates the draws from torch's global state.

        Returns:
            Site names to (M, *event), with the rows of the data in ``.index`` and the data in ``.data``.

        Raises:
            ValueError: if num_samples is below 1.
        """
        if num_samples < 1:
            raise ValueError(f"Expected num_samples >= 1 but got {num_samples}")
        with torch.no_grad(), seeded_draws(seed):
            index = torch.randint(self.data_size, (num_samples,))
            sites = self._drawn_for(index)
        return Draw(sites, index, rows_of(self.data, index))

    def _drawn_for(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.program.follows:
            return self.program.draw(rows_of(self.data, index))
        # a guide that is made for all data draws for all of them: the k-th time that a row comes up takes the
        # k-th draw
        turn = _turns(index)
        draws = [self.program.draw(self.data) for _ in range(int(turn.max()) + 1)]
        return {name: torch.stack([draw[name] for draw in draws])[turn, index] for name in draws[0]}

    def log_posterior(self, z: Sites | torch.Tensor, x: Data) -> torch.Tensor:
        """log q(z|x), of each z with its own datum.

        Args:
            z: site names to (M, *event), or one for all x, or a tensor for a single site.
            x: M data, or one for all z.

        Returns:
            (M,), in nats.

        Raises:
            ValueError: if the sites are not the guide's or of another shape, if z and x differ in number, or
                if x are not the joint's data and the guide's parameters belong to these.
        """
        sites = self.space.checked(z)
        data = aligned(as_data(x), number_of_values(sites))
        self._check_own(data)
        return total(site_scores(self.program, data, sites, list(sites)))

    def _check_own(self, data: tuple[torch.Tensor, ...]) -> None:
        """Parameters that belong to the rows of the data say nothing about other data."""
        if self.program.follows or _are_equal(data, self.data):
            return
        if not self.program.subsamples or self._is_bound_to_rows():
            raise ValueError(
                f"Expected the joint's own {self.data_size} data but got others, for which the guide has no "
                "parameters; score with joint.data as x"
            )

    @torch.no_grad()
    def _is_bound_to_rows(self) -> bool:
        """Whether the same data in other rows of a subsampling plate have other posteriors."""
        rows = torch.arange(self.program.piece)
        with isolated_random_state():
            z = self.program.values(self.program.trace(self.data, rows), len(rows))
        here = self._scored(z, self.data, rows)
        moved = tuple(each.roll(1, 0) for each in self.data)
        return not torch.allclose(here, self._scored(z, moved, (rows + 1) % self.data_size))

    def _scored(self, z: Sites, data: tuple[torch.Tensor, ...], rows: torch.Tensor) -> torch.Tensor:
        trace = self.program.trace(data, rows, values={name: each[None] for name, each in z.items()})
        return total({name: self.program.log_prob(trace.nodes[name], len(rows)) for name in z})

    def log_aggregate(self, z: Sites | torch.Tensor) -> torch.Tensor:
        r"""log q(z) = log :math:`\frac1N \sum_n q(z \mid x_n)`.

        Args:
            z: site names to (M, *event), or a tensor for a single site.

        Returns:
            (M,), in nats.
        """
        return self.aggregate.log_prob(self._flat(z))

    def log_inverted(self, z: Sites | torch.Tensor) -> torch.Tensor:
        """log q(x_n|z) = log q(z|x_n) − log N − log q(z), the inverted posterior over the data.

        Args:
            z: site names to (M, *event), or a tensor for a single site.

        Returns:
            (M, N), in nats; each row sums to one in probability.
        """
        posterior = self.aggregate.posterior
        few = self._flat(z).split(points_at_once(posterior))
        scores = torch.cat([posterior.log_prob(each[:, None, :]).double() for each in few])
        return scores - scores.logsumexp(-1, keepdim=True)  # (M, N)

    def _flat(self, z: Sites | torch.Tensor) -> torch.Tensor:
        return self.space.flatten(self.space.checked(z))


def _turns(index: torch.Tensor) -> torch.Tensor:
    """How often each entry has come up before."""
    ordered, order = index.sort(stable=True)
    turn = torch.empty_like(index)
    turn[order] = torch.arange(len(index)) - torch.searchsorted(ordered, ordered)
    return turn


def _are_equal(data: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    return len(data) == len(others) and all(
        each.shape == other.shape and torch.equal(each, other)
        for each, other in zip(data, others, strict=True)
    )
