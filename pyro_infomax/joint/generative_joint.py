"""The generative joint p(z) p(x|z) of a model."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from pyro import poutine
from torch.distributions import Distribution

from pyro_infomax.joint.latent_space import LatentSpace, Sites
from pyro_infomax.joint.local_prior import LocalPrior
from pyro_infomax.joint.normal_sites import flat_parameters, normal_over
from pyro_infomax.poutine import Data, LocalProgram, as_data, rows_of

__all__ = ["GenerativeJoint", "generative"]

_FEW = 64  # rows that show whether a prior depends on its data
Tensors = tuple[torch.Tensor, ...]


def generative(model: Callable[..., Any], *, data_plate: str | None = None) -> "GenerativeJoint":
    """The generative joint of a model.

    Args:
        model: a Pyro program whose latent sites are inside the data plate, the plate around its observed
            sites.
        data_plate: the name of that plate, where it is not the only candidate.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)
        >>> joint = generative(model)
        >>> joint.log_likelihood(torch.zeros(3, 1), torch.zeros(3, 2))
        tensor([-0.9189, -0.9189, -0.9189], dtype=torch.float64)
    """
    return GenerativeJoint(model, data_plate=data_plate)


@final
class GenerativeJoint:
    r"""The density :math:`p(z) p_\theta(x \mid z)` of a model, datum by datum.

    Scales (subsampling, :func:`pyro.poutine.scale`, weights) do not enter a density; masks do. Log-densities
    are float64 and differentiable. Calling the joint runs the model.

    Args:
        model: the Pyro program.
        data_plate: the name of its data plate, None to find it.
    """

    def __init__(self, model: Callable[..., Any], *, data_plate: str | None = None) -> None:
        self.model = model
        self.data_plate = data_plate
        self._program: LocalProgram | None = None
        self._shapes: tuple[Any, ...] = ()
        self._data: Tensors | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def program(self, data: Data, *, batch_size: int = 1024) -> LocalProgram:
        """The model read datum by datum, on data of these shapes.

        Raises:
            ValueError: if it has no data plate, or several.
            NotImplementedError: if a site is outside the data plate.
        """
        data = as_data(data)
        shapes = (batch_size, *(each.shape for each in data))
        if self._program is None or self._shapes != shapes:
            plate = self.data_plate
            self._program = LocalProgram(
                self.model, data, role="model", data_plate=plate, batch_size=batch_size
            )
            self._shapes, self._data = shapes, data
        return self._program

    def sample(self, num_samples: int, *args: torch.Tensor) -> dict[str, torch.Tensor]:
        """Draws of latent and observed sites together.

        Args:
            num_samples: M.
            *args: data of the model, whose rows are used in turn, for their shapes and as covariates. They
                may be left out once the joint has seen data.

        Returns:
            Site names to (M, *event).

        Raises:
            NotImplementedError: if the model has factors, by which its sites do not make up a density.
        """
        if num_samples < 1:
            raise ValueError(f"Expected num_samples >= 1 but got {num_samples}")
        data = _cycled(self._known_data(args), num_samples)
        program = self.program(data)
        _check_no_factors(program)
        local = program.running(poutine.uncondition(self.model))
        out: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for rows in local.pieces(num_samples):
                trace = local.trace(data, rows)
                for name, layout in (local.latents | local.observed).items():
                    value = layout.rows(trace.nodes[name]["value"], len(rows))[0]
                    out.setdefault(name, value.new_empty(num_samples, *layout.shape))[rows] = value
        return out

    def _known_data(self, args: Tensors) -> Tensors:
        if args:
            return as_data(args)
        if self._data is None:
            raise ValueError("Expected data of the model but got none; pass some, as in sample(10, x)")
        return self._data

    def log_prob(self, sites: Sites, *args: torch.Tensor) -> torch.Tensor:
        """log p(z) p(x|z).

        Args:
            sites: the values of all latent and observed sites, (M, *event) each.
            *args: data of the model, M rows, for covariates; left out, the observed values are passed.

        Returns:
            (M,), in nats.
        """
        data = as_data(args) if args else self._observed_as_data(sites)
        program = self.program(data)
        observed = {name: sites[name] for name in program.observed if name in sites}
        z = LatentSpace(program.latents).checked(sites)
        scores = self._scores(program, data, {**z, **observed})
        return sum(scores.values(), start=torch.zeros(len(data[0]), dtype=torch.float64))

    def _observed_as_data(self, sites: Sites) -> Tensors:
        names = (
            list(self._program.observed) if self._program is not None else _observed_names(self.model, sites)
        )
        if len(names) != 1 or names[0] not in sites:
            raise ValueError(
                "Expected the data of the model, as in log_prob(sites, x), since its observed sites are not its only "
                f"argument but got the sites {list(sites)} alone"
            )
        return as_data(sites[names[0]])

    def log_prior(self, z: Sites | torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        """log p(z).

        Args:
            z: site names to (M, *event), or a tensor for a single site.
            *args: data of the model, M rows; needed only where the prior depends on them.

        Returns:
            (M,), in nats.

        Raises:
            ValueError: if the prior depends on data and none are given.
        """
        size = len(z if isinstance(z, torch.Tensor) else next(iter(z.values())))
        if args:
            data = as_data(args)
            return self._log_prior(self.program(data), data, z)
        data = self._placeholders(size)
        try:
            program = LocalProgram(self.model, data, role="prior", data_plate=self.data_plate)
            return self._log_prior(program, data, z)
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(
                "Expected data of the model, as in log_prior(z, x), since its prior cannot be run without them "
                f"({str(error).splitlines()[0]})"
            ) from error

    def _log_prior(self, program: LocalProgram, data: Tensors, z: Sites | torch.Tensor) -> torch.Tensor:
        sites = LatentSpace(program.latents).checked(z)
        scores = self._scores(program, data, sites, latent_only=True)
        return sum(scores.values(), start=torch.zeros(len(data[0]), dtype=torch.float64))

    # Tensors without values: a program that computes with them fails, and so its prior is known to need data.
    def _placeholders(self, size: int) -> Tensors:
        if self._data is not None:
            return tuple(each.new_empty((size, *each.shape[1:]), device="meta") for each in self._data)
        return tuple(torch.empty((size, 1), device="meta") for _ in range(_number_of_arguments(self.model)))

    def log_likelihood(self, x: Data, z: Sites | torch.Tensor) -> torch.Tensor:
        """log p(x|z), of each datum with its own z.

        Args:
            x: data of the model, M rows, or one for all z.
            z: site names to (M, *event), or one for all x, or a tensor for a single site.

        Returns:
            (M,), in nats.
        """
        return self.log_terms(x, z)[1]

    def log_terms(self, x: Data, z: Sites | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log p(z) and log p(x|z) of one run of the model; see :meth:`log_likelihood`.

        Returns:
            (M,) each, in nats.
        """
        data = as_data(x)
        size = len(z if isinstance(z, torch.Tensor) else next(iter(z.values())))
        data = _cycled(data, size) if len(data[0]) == 1 else data
        program = self.program(data)
        scores = self._scores(program, data, LatentSpace(program.latents).checked(z))
        zero = torch.zeros(len(data[0]), dtype=torch.float64)
        latent = [scores[name] for name in program.latents]
        observed = [scores[name] for name in program.observed]
        return sum(latent, start=zero), sum(observed, start=zero)

    def _scores(
        self, program: LocalProgram, data: Tensors, sites: Sites, *, latent_only: bool = False
    ) -> dict[str, torch.Tensor]:
        """The log-density of each site, (M,)."""
        size = len(data[0])
        names = list(program.latents) if latent_only else [*program.latents, *program.observed]
        pieces: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        done = 0
        for rows in program.pieces(size):
            values = {name: (each[rows] if len(each) > 1 else each)[None] for name, each in sites.items()}
            trace = program.trace(data, rows, values=values, stop_after=names if latent_only else None)
            for name in names:
                score = program.log_prob(trace.nodes[name], len(rows), z=values.get(name))[0]
                pieces[name].append(score[done - int(rows[0]) :])
            done = int(rows[-1]) + 1
        return {name: torch.cat(each) for name, each in pieces.items()}

    def prior(self, space: LatentSpace, data: Data) -> Distribution | LocalPrior:
        """The prior over all local latent dimensions.

        Args:
            space: the latent sites in the order wanted.
            data: data of the model.

        Returns:
            A diagonal Normal where it is one, else an object that scores by running the model: batch shape
            (), event shape (latent,).

        Raises:
            NotImplementedError: if it depends on the data.
        """
        data = as_data(data)
        few = rows_of(data, slice(0, _FEW))
        if self._prior_depends_on(few):
            raise NotImplementedError("the prior depends on the data, so that there is no one p(z)")
        return self._normal_prior(space, few) or LocalPrior(
            space,
            log_prior=lambda sites: self._log_prior_in_turn(sites, few),
            draw=lambda size: self.sample(size, *few),
        )

    def _log_prior_in_turn(self, sites: Sites, data: Tensors) -> torch.Tensor:
        return self.log_prior(sites, *_cycled(data, len(next(iter(sites.values())))))

    @torch.no_grad()
    def _prior_depends_on(self, data: Tensors) -> bool:
        if len(data[0]) == 1:
            return False
        program = self.program(data)
        with torch.random.fork_rng():
            trace = program.trace(data, stop_after=list(program.latents))
        size = len(data[0])
        z = {
            name: layout.rows(trace.nodes[name]["value"], size)[0] for name, layout in program.latents.items()
        }
        there, elsewhere = (
            self.log_prior(z, *each) for each in (data, tuple(tensor.roll(1, 0) for tensor in data))
        )
        return not torch.equal(there, elsewhere)

    @torch.no_grad()
    def _normal_prior(self, space: LatentSpace, data: Tensors) -> Distribution | None:
        program = self.program(data)
        if set(program.latents) != set(space.layouts):
            return None
        with torch.random.fork_rng():
            trace = program.trace(data, stop_after=list(program.latents))
        ordered = program.running(program.program)
        ordered.latents = {name: program.latents[name] for name in space.layouts}
        parameters = flat_parameters(ordered, trace, len(data[0]))
        if parameters is None or any(not torch.equal(each, each[:1].expand_as(each)) for each in parameters):
            return None
        # with one datum nothing shows whether a site follows another one
        if len(data[0]) == 1 and len(space.layouts) > 1:
            return None
        return normal_over((parameters[0][0], parameters[1][0]))


def _cycled(data: Tensors, size: int) -> Tensors:
    return rows_of(data, torch.arange(size) % len(data[0]))


def _check_no_factors(program: LocalProgram) -> None:
    factors = [name for name, layout in program.observed.items() if layout.event_shape == (0,)]
    if factors:
        raise NotImplementedError(
            f"The model has factors, {factors}, so that its sites cannot be drawn one by one"
        )


def _number_of_arguments(model: Callable[..., Any]) -> int:
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(model).parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [p for p in parameters.values() if p.kind in kinds and p.default is inspect.Parameter.empty]
    return max(1, len(wanted))


def _observed_names(model: Callable[..., Any], sites: Sites) -> list[str]:
    """The observed sites of a model of one argument, by running it with each candidate."""
    if _number_of_arguments(model) != 1:
        return []
    for value in sites.values():
        try:
            program = LocalProgram(model, as_data(value), role="model")
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue
        if program.observed.keys() <= sites.keys():
            return list(program.observed)
    return []
