"""The generative joint p(z) p(x|z) of a model."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, cast, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_infomax._checks import whole_number
from pyro_infomax._data import Data, SiteValues, Tensors, as_data
from pyro_infomax._random import isolated_random_state, simulated_draws
from pyro_infomax._types import Program, Site
from pyro_infomax.joint._latent_space import (
    LatentSpace,
    aligned,
    cycled,
    lone_marginal,
    number_of_values,
    site_scores,
    total,
)
from pyro_infomax.joint._product import lone_vector, of_any_datum, product_of_sites
from pyro_infomax.programs import LocalProgram, Placeholder, needs_data, no_placeholder_parameters

# ---- A prior that is scored by running its model.

_ROUNDING: Final = 30  # units in the last place of the largest score, which priors of one kind may differ by


@final
class LocalPrior:
    """The prior of a model over all latent dimensions, as :mod:`pyro_infomax.information` takes priors."""

    def __init__(
        self,
        space: LatentSpace,
        *,
        log_prior: Callable[[SiteValues], Tensor],
        draw: Callable[[int], SiteValues],
    ) -> None:
        self.space = space
        self.batch_shape = torch.Size()
        self.event_shape = torch.Size([space.size])
        self._log_prior = log_prior
        self._draw = draw

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), (...), of z (..., latent)."""
        flat = z.reshape(-1, self.space.size)
        return self._log_prior(self.space.unflatten(flat)).reshape(z.shape[:-1])

    @property
    def log_prob_marginals(self) -> Callable[[Tensor], Tensor]:
        """log p(z_j), (..., latent), where there is one latent dimension: z itself."""
        return lone_marginal(self)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """z ~ p(z), (*sample_shape, latent)."""
        shape = torch.Size(sample_shape)
        return self.space.flatten(self._draw(shape.numel())).reshape(*shape, self.space.size)


# ---- The generative joint of a model.


def generative(model: Program, *, data_plate: str | None = None) -> "GenerativeJoint":
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

    Scales (subsampling, :func:`pyro.poutine.scale`, weights) do not enter a density; masks and factors do.
    Observed sites outside the data plate, such as global latents under :func:`pyro.poutine.condition`, are
    given: their own density does not enter. Log-densities are float64 and differentiable, those of the model
    as it is at each call. Calling the joint runs the model.

    Args:
        model, data_plate: as :func:`generative`.
        kept: the latent sites that stay, as those of a guide; what the model enumerates beside these, by
            ``infer={"enumerate": "parallel"}``, is summed out. None to take none out.
    """

    def __init__(
        self, model: Program, *, data_plate: str | None = None, kept: Collection[str] | None = None
    ) -> None:
        self.model = model
        self.data_plate = data_plate
        self.kept = kept
        self._program: LocalProgram | None = None
        self._kind: tuple[object, ...] = ()
        self._data: Tensors | None = None
        self._first: Tensors | None = None
        self._batch_size = 1024

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.model(*args, **kwargs)

    def program(self, data: Data, *, batch_size: int | None = None) -> LocalProgram:
        """The model read datum by datum, on data like these.

        Args:
            data: of the model.
            batch_size: the most rows of a run, from now on; None to leave it as it is, at first 1024.

        Raises:
            ValueError: if it has no data plate, or several.
            NotImplementedError: if a latent site is outside the data plate.
        """
        data = as_data(data)
        self._batch_size = self._batch_size if batch_size is None else batch_size
        kind = (self._batch_size, *((each.shape[1:], each.dtype, each.device) for each in data))
        known = self._program
        if known is None or kind != self._kind or not (known.follows or known.data_size == len(data[0])):
            self._program = LocalProgram(
                self.model,
                data,
                role="model",
                data_plate=self.data_plate,
                batch_size=self._batch_size,
                kept=self.kept,
            )
            self._kind, self._first = kind, data
        self._data = data
        assert self._program is not None
        self._check_rows(self._program, data)
        return self._program

    def _check_rows(self, program: LocalProgram, data: Tensors) -> None:
        """What a model has for each row of its plate is for the data that it was first read on, in turn."""
        if program.whole_size is None or self._first is None or self._first is data:
            return
        own = cycled(self._first, len(data[0]))
        if all(map(torch.equal, own, data)) or not program.is_bound_to_rows(self._first):
            return
        raise ValueError(
            f"Expected the {program.data_size} data of the plate {program.plate!r}, in their order, but got "
            f"{len(data[0])} others, and the model has values of its own for each row of the plate"
        )

    def sample(self, num_samples: int, *args: Tensor, seed: int | None = None) -> dict[str, Tensor]:
        """Draws of latent and observed sites together.

        Args:
            num_samples: M.
            *args: data of the model, whose rows are used in turn, for their shapes and as covariates. They
                may be left out once the joint has seen data.
            seed: isolates the draws from torch's global state.

        Returns:
            Site names to (M, *event).

        Raises:
            ValueError: if num_samples is below 1, or no data are known.
            NotImplementedError: if the model has factors, by which its sites do not make up a density.
        """
        num_samples = whole_number("num_samples", num_samples, at_least=1)
        data = self._known_data(args)
        program = self.program(data)
        _check_no_factors(program)
        with torch.no_grad(), simulated_draws(seed):
            if program.follows:
                return _drawn(program, cycled(data, num_samples))
            rounds = [_drawn(program, data) for _ in range(-(-num_samples // len(data[0])))]
        return {name: torch.cat([each[name] for each in rounds])[:num_samples] for name in rounds[0]}

    def _known_data(self, args: Tensors) -> Tensors:
        if args:
            return as_data(args)
        if self._data is None:
            raise ValueError("Expected data of the model but got none; pass some, as in sample(10, x)")
        return self._data

    def log_prob(self, sites: SiteValues, *args: Tensor) -> Tensor:
        """log p(z) p(x|z).

        Args:
            sites: the values of all latent and observed sites, (M, *event) each.
            *args: data of the model, M rows or one, for covariates; they may be left out for a model of one
                observed site and one argument.

        Returns:
            (M,), in nats.

        Raises:
            ValueError: if sites are missing, unknown or of another shape, or if data are needed.
        """
        data = aligned(as_data(args if args else self._observed_in(sites)), number_of_values(sites))
        program = self.program(data)
        valued = {name: each for name, each in program.observed.items() if each.size}
        values = LatentSpace(program.latents | valued).checked(sites)
        return total(site_scores(program, data, values, [*program.latents, *program.observed]))

    def _observed_in(self, sites: SiteValues) -> Tensor:
        program = self._program or self._prior_program(number_of_values(sites))
        rest = [name for name in sites if name not in program.latents]
        if len(rest) != 1 or _number_of_arguments(self.model) != 1:
            raise ValueError(
                f"Expected the data of the model but got the sites {list(sites)} alone; pass them, as in "
                "log_prob(sites, x)"
            )
        return sites[rest[0]]

    def log_prior(self, z: SiteValues | Tensor, *args: Tensor) -> Tensor:
        """log p(z).

        Args:
            z: site names to (M, *event), or a tensor for a single site.
            *args: data of the model, M rows or one; needed only where the prior depends on them.

        Returns:
            (M,), in nats.

        Raises:
            ValueError: if the prior depends on data and none are given, or if the sites are not the model's
                or of another shape.
        """
        size = number_of_values(z)
        if not args:
            return self._log_prior_alone(z, size)
        data = aligned(as_data(args), size)
        program = self.program(data)
        sites = LatentSpace(program.latents).checked(z, others=program.observed)
        return total(site_scores(program, data, sites, list(sites)))

    def _log_prior_alone(self, z: SiteValues | Tensor, size: int) -> Tensor:
        program = self._prior_program(size)
        known = self._program or program
        unknown = not isinstance(z, Tensor) and z.keys() - program.latents.keys()
        if program.error is not None and unknown:
            raise needs_data(program.error)
        sites = LatentSpace(program.latents).checked(z, others=known.observed)
        try:
            with no_placeholder_parameters():
                log_prior = total(site_scores(program, self._placeholders(size), sites, list(sites)))
        except Exception as error:
            raise needs_data(error) from error
        if isinstance(log_prior, Placeholder):
            raise needs_data()
        return log_prior

    def _prior_program(self, size: int) -> LocalProgram:
        with no_placeholder_parameters():
            return LocalProgram(
                self.model,
                self._placeholders(size),
                role="prior",
                data_plate=self.data_plate,
                kept=self.kept,
            )

    def _placeholders(self, size: int) -> Tensors:
        if self._data is not None:
            return tuple(Placeholder.of((size, *each.shape[1:]), dtype=each.dtype) for each in self._data)
        return tuple(Placeholder.of((size, 1)) for _ in range(_number_of_arguments(self.model)))

    def log_likelihood(self, x: Data, z: SiteValues | Tensor) -> Tensor:
        """log p(x|z), of each datum with its own z.

        Args:
            x: data of the model, M rows, or one for all z.
            z: site names to (M, *event), or one for all x, or a tensor for a single site.

        Returns:
            (M,), in nats.

        Raises:
            ValueError: if the sites are not the model's or of another shape, or if x and z differ in number.
        """
        return self.log_terms(x, z)[1]

    def log_terms(self, x: Data, z: SiteValues | Tensor) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x|z) of one run of the model; see :meth:`log_likelihood`.

        Returns:
            (M,) each, in nats.
        """
        scores = self.site_terms(x, z)
        assert self._program is not None
        return _sum_of(scores, self._program.latents), _sum_of(scores, self._program.observed)

    def site_terms(self, x: Data, z: SiteValues | Tensor) -> dict[str, Tensor]:
        """The log-densities of all latent and observed sites, each given those before it in the model.

        Args:
            x: data of the model, M rows, or one for all z.
            z: site names to (M, *event), or one for all x, or a tensor for a single site.

        Returns:
            Site names to (M,), in nats. Those of the latent sites sum to log p(z), the others to log p(x|z).

        Raises:
            ValueError: if the sites are not the model's or of another shape, or if x and z differ in number.
        """
        data = aligned(as_data(x), number_of_values(z))
        program = self.program(data)
        sites = LatentSpace(program.latents).checked(z, others=program.observed)
        return site_scores(program, data, sites, [*program.latents, *program.observed])

    def prior(self, space: LatentSpace, data: Data) -> Distribution | LocalPrior:
        """The prior over all local latent dimensions.

        Args:
            space: the latent sites in the order wanted.
            data: data of the model.

        Returns:
            A product of univariate distributions, such as a diagonal Normal, or the distribution of a lone
            vector, such as a multivariate Normal, where it is one; else an object that scores by running the
            model: batch shape (), event shape (latent,).

        Raises:
            NotImplementedError: if it depends on the data, or is masked.
        """
        data = as_data(data)
        if masked := [name for name in self.program(data).presence(data) if name in space.layouts]:
            raise NotImplementedError(
                f"the latent sites {masked} are masked for some of the data, for which the model has no "
                "density of them"
            )
        each = self.prior_of_each(space, data)
        common = None if each is None else of_any_datum(each)
        if common is not None:
            return common
        if self._prior_depends_on(data):
            raise NotImplementedError("the prior depends on the data, so that there is no one p(z)")
        return LocalPrior(
            space,
            log_prior=lambda sites: self._log_prior_in_turn(sites, data),
            draw=lambda size: self.sample(size, *data),
        )

    @torch.no_grad()
    def prior_of_each(self, space: LatentSpace, data: Data) -> Distribution | None:
        """The prior of each datum over all latent dimensions, which may depend on covariates: batch (N,).

        Args:
            space: the latent sites in the order wanted.
            data: data of the model.

        Returns:
            A product of univariate distributions, or the distribution of a lone vector; None where it is
            neither.
        """
        data = as_data(data)
        program = self.program(data)
        if program.latents.keys() != space.layouts.keys() or program.mixes_latents:
            return None
        own = LatentSpace({name: program.latents[name] for name in space.layouts})
        product = product_of_sites(program, data, own)
        if product is not None or len(own.layouts) > 1 or not program.runs_whole(len(data[0])):
            return product
        (name,) = own.layouts
        with isolated_random_state():
            trace = program.trace(data, stop_after=[name])
        return lone_vector(cast(Site, trace.nodes[name]), len(data[0]))

    @torch.no_grad()
    def _prior_depends_on(self, data: Tensors) -> bool:
        """Whether the values of one row have another density in the next one."""
        program = self.program(data)
        with isolated_random_state():
            z = program.draw(data)
        here = total(site_scores(program, data, z, list(z)))
        moved = {name: each.roll(1, 0) for name, each in z.items()}
        there = total(site_scores(program, data, moved, list(z))).roll(-1, 0)
        # A score may be a small sum of large terms, and is no more exact than they are
        dtypes = {each.dtype for each in z.values() if each.is_floating_point()}
        eps = max(torch.finfo(dtype).eps for dtype in dtypes or {torch.get_default_dtype()})
        rounding = _ROUNDING * eps * float(here.nan_to_num(0.0, 0.0, 0.0).abs().max())
        return not torch.allclose(here, there, rtol=1e-6, atol=rounding, equal_nan=True)

    def _log_prior_in_turn(self, sites: SiteValues, data: Tensors) -> Tensor:
        """log p(z) of any number of values, where the prior does not depend on the data."""
        program = self.program(data)
        size = number_of_values(sites)
        piece = min(program.piece, size) if program.follows else len(data[0])
        part = cycled(data, piece)
        starts = range(0, size, piece)
        pieces = ((torch.arange(start, start + piece).clamp(max=size - 1)) for start in starts)
        values = ({name: each[rows] for name, each in sites.items()} for rows in pieces)
        return torch.cat([total(site_scores(program, part, each, list(each))) for each in values])[:size]


def _drawn(program: LocalProgram, data: Tensors) -> dict[str, Tensor]:
    """Latent and observed sites, (M, *shape) each, as many as there are data."""
    local = program.generating()
    layouts = local.latents | local.observed

    def run(rows: Tensor) -> dict[str, Tensor]:
        return local.values(local.trace(data, rows), len(rows), layouts)

    return local.together(len(data[0]), run)


def _check_no_factors(program: LocalProgram) -> None:
    factors = [name for name, layout in program.observed.items() if not layout.size]
    if factors:
        raise NotImplementedError(
            f"The model has factors, {factors}, so that its sites cannot be drawn one by one"
        )


def _sum_of(scores: Mapping[str, Tensor], names: Iterable[str]) -> Tensor:
    """The sum of some scores, zeros for none of them."""
    zeros = torch.zeros_like(next(iter(scores.values())))
    return sum((scores[name] for name in names), start=zeros)


def _number_of_arguments(model: Program) -> int:
    """The number of positional arguments that a model needs, at least 1."""
    inner = model.forward if isinstance(model, nn.Module) else model
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(inner).parameters.values()
    return max(1, sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters))
