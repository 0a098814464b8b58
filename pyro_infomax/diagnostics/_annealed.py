"""What annealed importance sampling of a model takes.

In the order of need: latent sites as unconstrained vectors, the path that chains follow over them, simulated
data with exact draws for chains that run backwards, and the runs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self, final

import pyro
import torch
from pyro.distributions import constraints
from torch.distributions import Transform, VonMises, biject_to
from torch.distributions.constraints import Constraint

from pyro_infomax._data import SiteValues, Tensors, as_data, rows_of
from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import Program, Site
from pyro_infomax.diagnostics._pair import Pair
from pyro_infomax.distributions import Posterior, in_dtype_of
from pyro_infomax.information import (
    AnnealedState,
    Annealing,
    ImportanceWeights,
)
from pyro_infomax.joint import GenerativeJoint, LatentSpace, cycled
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.programs import LocalProgram, SiteLayout

# ---- Local latent sites as one vector without constraints.


@final
class UnconstrainedSpace:
    """The continuous local latent sites of a model, mapped one to one onto vectors of real numbers."""

    def __init__(self, layouts: Mapping[str, SiteLayout], transforms: Mapping[str, Transform]) -> None:
        self.layouts = dict(layouts)
        self.transforms = {name: transforms[name] for name in layouts}
        self._shapes = {
            name: self.transforms[name].inverse_shape(torch.Size(layout.shape))
            for name, layout in self.layouts.items()
        }

    @classmethod
    def of(cls, program: LocalProgram, data: Tensors, layouts: Mapping[str, SiteLayout]) -> Self:
        """The space of a model's latent sites, in the order of the layouts.

        Discrete sites and point masses have none, nor supports that are not the same for all data.
        """
        if not layouts:
            raise ValueError(
                "Expected a model with latent sites but got none; without them the log-evidence is the "
                "log-likelihood"
            )
        if program.point_masses:
            raise NotImplementedError(
                f"The latent sites {program.point_masses} are Deltas, which have no density to anneal; use "
                "pyro.deterministic for what follows from other sites"
            )
        # the bounds of a support that depends on data or other sites differ between rows
        rows = torch.arange(max(2, min(len(data[0]), program.piece))) % len(data[0])
        part = rows_of(data, rows) if program.follows else data
        with torch.no_grad(), isolated_random_state():
            trace = program.trace(part, next(program.pieces(len(part[0]))), stop_after=list(layouts))
        found = {name: _transform(trace.nodes[name], layout) for name, layout in layouts.items()}
        return cls(layouts, found)

    @property
    def size(self) -> int:
        """The number of real numbers for one datum."""
        return sum(shape.numel() for shape in self._shapes.values())

    def constrain(self, u: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Sites (M, *shape) of vectors (M, size), and the log of the volume each is stretched by, (M,)."""
        sites, stretched = {}, torch.zeros_like(u[:, 0])
        for name, part in self._parts(u):
            transform = self.transforms[name]
            sites[name] = transform(part)
            log_jacobian = transform.log_abs_det_jacobian(part, sites[name])
            stretched = stretched + log_jacobian.reshape(len(u), -1).sum(1)
        return sites, stretched

    def unconstrain(self, sites: SiteValues) -> torch.Tensor:
        """Vectors (M, size), float64, of sites (M, *shape)."""
        parts = [self.transforms[name].inv(sites[name].double()) for name in self.layouts]
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1)

    def _parts(self, u: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        sizes = [shape.numel() for shape in self._shapes.values()]
        for (name, shape), part in zip(self._shapes.items(), u.split(sizes, 1), strict=True):
            yield name, part.reshape(len(u), *shape)


def _transform(site: Site, layout: SiteLayout) -> Transform:
    support = site["fn"].support
    if support.is_discrete:
        raise NotImplementedError(
            f"The latent site {layout.name!r} is discrete, which has no gradient to anneal along; sum it out "
            "in the model, as TraceEnum_ELBO does, and anneal the continuous sites"
        )
    if _is_circular(site["fn"]):
        raise NotImplementedError(
            f"The latent site {layout.name!r} is an angle, whose chains would leave the one turn that its "
            "density is normalised on; use its importance-weighted evidence instead"
        )
    try:
        return biject_to(_for_one_datum(support, site, layout))
    except NotImplementedError as error:
        raise NotImplementedError(
            f"The latent site {layout.name!r} cannot be annealed on its support {support}: {error}; write it "
            "as a transform of a site with fixed bounds"
        ) from error


def _is_circular(fn: object) -> bool:
    # torch gives angles the real numbers as their support
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, VonMises)


def _for_one_datum(support: Constraint, site: Site, layout: SiteLayout) -> Constraint:
    """The support without the plates around the site."""
    if isinstance(support, constraints.independent):
        base = _for_one_datum(support.base_constraint, site, layout)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    names = [name for name in ("lower_bound", "upper_bound") if hasattr(support, name)]
    if not names:
        return support
    rebuild: Callable[..., Constraint] = type(support)
    return rebuild(*(_common_bound(getattr(support, name), site, layout) for name in names))


def _common_bound(bound: torch.Tensor | float, site: Site, layout: SiteLayout) -> torch.Tensor | float:
    """A bound that every datum has: (*shape), or a number."""
    if not isinstance(bound, torch.Tensor) or not bound.dim():
        return float(bound)
    wide = bound.expand(site["value"].shape)
    (size,) = (frame.size for frame in site["cond_indep_stack"] if frame.dim == layout.data_dim)
    rows = layout.rows(wide, size)[0].double()  # (rows, *shape)
    if not torch.equal(rows, rows[:1].expand_as(rows)):
        raise NotImplementedError("its bounds differ from datum to datum")
    return rows[0]


# ---- The two ends of the annealed path of a model, scored with their gradients.


@final
class AnnealedJoint:
    """From the prior, or from a guide's posterior, to p(z, x) for fixed x, over unconstrained z.

    Both ends carry the Jacobian of the constraints. Calling it scores states, with one run of the model for
    values and gradients of all of them together.
    """

    def __init__(self, joint: GenerativeJoint, data: Tensors, *, pair: Pair | None, batch_size: int) -> None:
        self.joint = joint
        self.data = data
        self._program = joint.program(data, batch_size=batch_size)
        layouts = self._program.latents if pair is None else pair.space.layouts
        self._sites = LatentSpace(layouts)
        self.space = UnconstrainedSpace.of(self._program, data, layouts)
        self._pair = pair
        self._posterior = None if pair is None else pair.posterior

    @property
    def data_size(self) -> int:
        """N."""
        return len(self.data[0])

    def draw(self, num_chains: int) -> torch.Tensor:
        """Draws of the start, (chains, data, latent)."""
        if self._pair is None:
            return torch.stack([self.flat(self._program.draw(self.data)) for _ in range(num_chains)])
        z = self._pair.draw(num_chains)
        return torch.stack([self.flat(self._sites.unflatten(each)) for each in z])

    def flat(self, sites: SiteValues) -> torch.Tensor:
        """Unconstrained vectors, (M, latent), of sites (M, *event)."""
        return self.space.unconstrain(sites)

    def __call__(self, z: torch.Tensor) -> AnnealedState:
        # values that a trajectory runs away to are rejected, which is no error of the program
        with pyro.validation_enabled(False):
            prior, target, prior_gradient, target_gradient = self._scored(z)
            if self._posterior is None:
                return AnnealedState(z, prior, target, prior_gradient, target_gradient)
            start, start_gradient = self._scored_by(self._posterior, z)
        return AnnealedState(z, start, target, start_gradient, target_gradient)

    def _scored(self, z: torch.Tensor) -> list[torch.Tensor]:
        """Log-densities of prior and joint, (chains, data), and their gradients, (chains, data, latent)."""
        flat = z.flatten(0, 1)
        parts = [self._scored_rows(flat[rows], rows % self.data_size) for rows in self._pieces(len(flat))]
        together = (torch.cat(each) for each in zip(*parts, strict=True))
        return [each.unflatten(0, z.shape[:2]) for each in together]

    def _pieces(self, rows: int) -> Iterator[torch.Tensor]:
        """The rows of each run: graphs are freed piece by piece."""
        # what a program keeps for each row of its plate belongs to all of the data, in their order
        most = self._program.piece if self._program.takes_any_rows else self.data_size
        yield from torch.arange(rows).split(most)

    def _scored_rows(self, z: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        data = rows_of(self.data, rows)

        def densities(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            sites, stretched = self.space.constrain(u)
            log_prior, log_likelihood = self.joint.log_terms(data, sites)
            start = log_prior + stretched
            return start, start + log_likelihood

        return _with_gradients(densities, z)

    def _scored_by(self, posterior: Posterior, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The posterior's log-density, (chains, data), and its gradient, (chains, data, latent)."""

        def density(u: torch.Tensor) -> tuple[torch.Tensor]:
            sites, stretched = self.space.constrain(u.flatten(0, 1))
            flat = self._sites.flatten(sites).unflatten(0, u.shape[:2])
            score = posterior.log_prob(in_dtype_of(posterior, flat)).double()
            return (score + stretched.unflatten(0, u.shape[:2]),)

        value, gradient = _with_gradients(density, z)
        return value, gradient


def _with_gradients(
    densities: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], z: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The values of densities, then their gradients in z."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        values = densities(z)
        # a flat density, such as a uniform prior's, may not be connected to z at all
        sums = [value.sum() + 0 * z.sum() for value in values]
    # gradients of parameters are neither computed nor left behind
    gradients = [torch.autograd.grad(each, z, retain_graph=True)[0] for each in sums]
    return *(value.detach() for value in values), *gradients


# ---- Data that were simulated from a model, with the latents that they came from.

# what single precision leaves of sums over many sites
_RELATIVE: Final = 1e-4
_ABSOLUTE: Final = 1e-4


@final
class Simulated:
    r"""Data drawn from a model, :math:`(z, x) \sim p(z) p(x \mid z)`, together with their latents.

    Each z is an exact draw from the posterior :math:`p(z \mid x)` of its own x. No real datum comes with one,
    which is why only these data have an upper bound on their log-evidence, see
    :func:`evidence`.

    Reference: Grosse, Ancha and Roy (2016), Measuring the reliability of MCMC inference with bidirectional
    Monte Carlo.

    Args:
        model: the Pyro program, whose observed sites are arguments of it.
        num_data: how many to draw.
        *args: data of the model, whose rows are used in turn, for their shapes and as covariates.
        seed: isolates the draws from torch's global state.
        data_plate: the name of the data plate, where it is not the only candidate.

    Attributes:
        model: what they were drawn from.
        data: the arguments of the model with the observed ones drawn, a tuple of tensors.
        latents: site names to (num_data, *event).

    Raises:
        ValueError: if an observed site is no argument of the model, if the prior follows the observed data,
            if the model has no latent site, if what it draws has a density of nan, or if ``args`` are
            missing.
        NotImplementedError: if the model has factors or global latents.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=1, s2=0.5)
        >>> simulated = Simulated(oracle.model, 5, torch.zeros(1, 2, dtype=torch.float64), seed=0)
        >>> simulated.data[0].shape, simulated.latents["z"].shape
        (torch.Size([5, 2]), torch.Size([5, 1]))
    """

    def __init__(
        self,
        model: Program,
        num_data: int,
        *args: torch.Tensor,
        seed: int | None = None,
        data_plate: str | None = None,
    ) -> None:
        self.model = model
        joint = GenerativeJoint(model, data_plate=data_plate)
        self._data_plate = data_plate
        with evaluation_mode(model), torch.no_grad():
            sites = joint.sample(num_data, *args, seed=seed)
            given = cycled(as_data(args), num_data)
            program = joint.program(given)
            if not program.latents:
                raise ValueError("Expected a model with latent sites but got none; x alone has no posterior")
            self.latents = {name: sites[name] for name in program.latents}
            self.data = _observed_in(program, given, sites)
            self._log_prob = sum(joint.log_terms(self.data, self.latents), start=torch.zeros(()))
            self._check_reproduces(joint.log_prob(sites, *given))

    def _check_reproduces(self, drawn: torch.Tensor) -> None:
        if wrong := int(drawn.isnan().sum()):
            raise ValueError(
                f"Expected a model that scores what it draws but the log-density of {wrong} of {len(drawn)} "
                "simulated data is nan; look for parameters of its distributions that are nan"
            )
        if not _are_close(self._log_prob, drawn):
            raise ValueError(
                "Expected a model whose latents and likelihood follow its observed arguments by their sites "
                "alone, but it scores the simulated data otherwise than it drew them; pass what it "
                "conditions on as an argument of its own"
            )

    def check_origin(self, model: Program) -> None:
        """Refuses what these data were not drawn from.

        Args:
            model: the one that they are to come from.

        Raises:
            ValueError: if it is another model, or if model, data or latents have changed since the draw.
        """
        if model != self.model:
            raise ValueError(
                "Expected data simulated from this very model but got some of another one, whose latents are "
                "no draws of this one's posterior; simulate them from it, as Simulated(model, n, x)"
            )
        # of all latent sites, also those that a pair sums out
        joint = GenerativeJoint(model, data_plate=self._data_plate)
        found = sum(joint.log_terms(self.data, self.latents), start=torch.zeros(()))
        if not _are_close(found, self._log_prob):
            raise ValueError(
                "Expected simulated data as they were drawn but their density under the model is another one "
                "now, since parameters, data or latents have changed; simulate them again"
            )


def _are_close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=_RELATIVE, atol=_ABSOLUTE)


@torch.no_grad()
def _observed_in(program: LocalProgram, given: Tensors, sites: SiteValues) -> Tensors:
    """The arguments, with the values of the observed sites in them where no mask hides these."""
    first = next(program.pieces(len(given[0])))
    part = rows_of(given, first) if program.follows else given
    with isolated_random_state():
        nodes = program.trace(part, None if program.follows else first).nodes
    data = list(given)
    present = program.observed_presence(given)
    for name, layout in program.observed.items():
        position = _position(layout, nodes[name]["value"], part)
        own = given[position]
        drawn = sites[name].to(own.dtype)
        if name in present:
            # what a guide sees in place of what is missing stays what it is in these data
            drawn = torch.where(present[name], drawn, own.reshape(drawn.shape))
        data[position] = drawn.reshape(own.shape)
    return tuple(data)


def _position(layout: SiteLayout, value: torch.Tensor, arguments: Tensors) -> int:
    """Which argument an observed value is: the one whose memory it shares, or else the one that it equals."""
    whole = [i for i, each in enumerate(arguments) if each.numel() == value.numel()]
    shared = [i for i in whole if _memory(arguments[i]) == _memory(value)]
    equal = [i for i in whole if torch.equal(arguments[i].reshape(-1).to(value.dtype), value.reshape(-1))]
    found = shared or equal
    if len(found) != 1:
        raise ValueError(
            f"Expected each observed site of the model to be one of its arguments but {layout.name!r} is "
            f"{'none' if not found else 'any'} of them; write obs=x with an argument x of its own"
        )
    return found[0]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# ---- Annealing.

_PILOT_CHAINS: Final = 8


@final
@dataclass(frozen=True)
class AnnealedWeights:
    """What annealing the chains of each datum leaves.

    Attributes:
        weights: of the chains from the start.
        upper_per_datum: an upper bound of each simulated datum, (data,), in nats; None for real data.
        acceptance: the mean probability of acceptance at each inner temperature, (temperatures - 2,).
        temperatures: from 0 to 1, (temperatures,).
    """

    weights: ImportanceWeights
    upper_per_datum: torch.Tensor | None
    acceptance: torch.Tensor
    temperatures: torch.Tensor


def annealed(
    path: AnnealedJoint,
    exact: SiteValues | None,
    num_chains: int,
    temperatures: torch.Tensor,
    *,
    num_leapfrog: int,
    progress: bool,
) -> AnnealedWeights:
    """Runs chains from the start of a path to its end, and from exact draws of the end back to the start.

    Args:
        path: the two ends.
        exact: draws of the posterior of each datum, by site; None where none are known.
        num_chains: chains for each datum.
        temperatures: from 0 to 1.
        num_leapfrog: leapfrog steps of a transition.
        progress: show bars where this takes more than a few seconds.
    """
    weights = ImportanceWeights(num_chains, path.data_size)
    # Step sizes come from chains of their own: tuned on the weighed ones they would break the bounds
    annealing = Annealing.tuned(
        path,
        path.draw(_PILOT_CHAINS),
        temperatures=temperatures,
        num_leapfrog=num_leapfrog,
        progress=progress,
    )
    # Forwards from the start: the mean weight is unbiased for p(x), its logarithm a lower bound
    run = annealing.forward(path.draw(num_chains))
    weights.add(run.log_weight)
    # Backwards from an exact draw of the posterior: the mean inverse weight is unbiased for 1 / p(x)
    upper = None if exact is None else _upper(annealing, path.flat(exact), num_chains)
    return AnnealedWeights(weights, upper, run.acceptance, temperatures)


def _upper(annealing: Annealing, exact: torch.Tensor, num_chains: int) -> torch.Tensor:
    """The upper bound of each datum, (data,), by inverse weights of chains that share their start."""
    weights = ImportanceWeights(num_chains, len(exact))
    weights.add(-annealing.reverse(exact.expand(num_chains, -1, -1)).log_weight)
    return -weights.log_mean
