"""The latent sites of the data plate side by side, for terms that are of all of them together."""

import operator
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import cached_property, partial
from itertools import compress
from types import FrameType, FunctionType
from typing import Any, NamedTuple, Self, TypeAlias, TypeGuard, cast, final

import numpy as np
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.distributions import (
    ComposeTransform,
    Distribution,
    Independent,
    IndependentTransform,
    Transform,
    TransformedDistribution,
)
from torch.distributions.transforms import _InverseTransform
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from pyro_infomax._random import isolated_random_state
from pyro_infomax._recording import DispatchMode, holds
from pyro_infomax._types import Args, Frame, Kwargs, Program, Site
from pyro_infomax.distributions import (
    FlowDistribution,
    Posterior,
    batch_mapped,
    factors_of,
    family_name,
    full_name,
    in_double,
    is_called,
    is_plain,
    is_point_mass,
    joined,
    marginals_of,
    shared,
    tensors_of,
    vector_of,
)
from pyro_infomax.nn import modules_behind
from pyro_infomax.poutine import frames_of, is_deterministic, minibatch_frame, plain_errors, sample_sites
from pyro_infomax.programs import SiteLayout, factors_by_datum, is_masked

# ---- Which sites of a guide are drawn given which others.


@final
class DependenceMessenger(Messenger):
    """Notes at each site of a guide, as ``depends_on``, which sites in plates it is drawn given.

    It follows the memory of their draws through all tensor operations of the guide, writes into other
    tensors among them. What is read as numbers, by ``numpy``, ``tolist``, ``item`` or an ``if``, is lost
    sight of: all sites from there on count as drawn given it. It may thus find more than there is, as for
    two halves of one tensor, of which one is written. What distributions read to validate parameters and
    values only raises errors, and does not count. It adds nothing to what the guide does.
    """

    def __enter__(self) -> Self:
        self._origins = _Origins()
        self._modes = ExitStack()
        self._modes.enter_context(self._origins)
        self._modes.enter_context(_Reads(self._origins))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._modes.close()
        super().__exit__(*error)

    def _pyro_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg):
            held = [each for _, each in tensors_of(msg["fn"])]
            msg["depends_on"] = {*self._origins.of(held), *self._origins.read}

    def _pyro_post_sample(self, msg: Site) -> None:
        if site_is_subsample(msg):
            return
        # What a distribution hides, as in a function, shows in its draws. The trace has this very set already
        msg["depends_on"] |= self._origins.of([msg["value"]])
        if frames_of(msg) and not is_deterministic(msg):
            # The tensor that a point mass is made of is no draw
            msg["value"] = msg["value"].clone() if is_point_mass(msg["fn"]) else msg["value"]
            self._origins.mark([msg["value"]], {msg["name"]})


@final
class _Origins(DispatchMode):
    """The sites that the memory of a tensor has something of; what has none is not known here."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[int, frozenset[str]] = {}
        self._kept: list[Tensor] = []  # so that their memory is not that of others later
        self.read: set[str] = set()

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if self._names and (names := self.of((*args, *kwargs.values()))):
            self.mark(found, names)
            # A number, or a shape that follows from values
            reads = isinstance(found, bool | int | float) or torch.Tag.dynamic_output_shape in func.tags
            if reads and not _validates():
                self.read |= names
            if func._schema.is_mutable:
                self.mark(_written(func, args, kwargs), names)
        return found

    def of(self, values: object) -> frozenset[str]:
        """Of all tensors in lists and tuples."""
        known = (self._names.get(_memory(each)) for each in _tensors(values))
        return frozenset().union(*(each for each in known if each))

    def mark(self, values: object, names: Collection[str]) -> None:
        """Adds the names to those of all tensors in lists and tuples."""
        for each in _tensors(values):
            memory = _memory(each)
            self._names[memory] = self._names.get(memory, frozenset()).union(names)
            self._kept.append(each)


@final
class _Reads(TorchFunctionMode):
    """Notes what is read without an operation."""

    def __init__(self, origins: _Origins) -> None:
        super().__init__()
        self._origins = origins

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        if func in _READS:
            self._origins.read |= self._origins.of(args)
        before = {*self._origins.read} if func in _SHOWS else None
        found = func(*args, **(kwargs or {}))
        if before is not None:
            self._origins.read = before
        return found


_READS = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__}
_SHOWS = {Tensor.__repr__, Tensor.__format__}


def _validates() -> bool:
    """Whether a distribution is looking at its parameters, or at a value that it is to score."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        room = frame.f_globals.get("__name__", "")
        if frame.f_code.co_name in _CHECKS and room.startswith(
            ("torch.distributions.", "pyro.distributions.")
        ):
            return True
        frame = frame.f_back
    return False


_CHECKS = {"__init__", "_validate_sample"}


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for each in values:
            yield from _tensors(each)


def _memory(tensor: Tensor) -> int:
    """What tensors on the same memory share, views of each other for one."""
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def _written(func: OpOverload, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that an operation writes to."""
    arguments = func._schema.arguments
    given = dict(zip((each.name for each in arguments), args, strict=False)) | kwargs
    written = [each.name for each in arguments if each.alias_info is not None and each.alias_info.is_write]
    return [given.get(name) for name in written]


# ---- Which sites are in the data plate.


@final
class LocalSites:
    """The plate of the data, and which sites of both programs it holds.

    Plates side by side share an axis, and may be of one size, so that the plate goes by its name in the
    model, also for the guide's site of the same name, whose plate may have another one.

    Args:
        model_trace: of a model that was called with the data.

    Attributes:
        frame: the plate's.
    """

    def __init__(self, model_trace: Trace) -> None:
        self.frame = data_plate(model_trace)
        frames = {site["name"]: frames_of(site) for site in sample_sites(model_trace)}
        self._holds = {site: any(f.name == self.frame.name for f in each) for site, each in frames.items()}
        self._others = {f.name for each in frames.values() for f in each} - {self.frame.name}

    def holds(self, site: Site) -> bool:
        """Whether a site of the model or of the guide is in the plate."""
        if site["name"] in self._holds:
            return self._holds[site["name"]]
        place = self.frame.dim, self.frame.size
        own = [f for f in frames_of(site) if f.name not in self._others]
        return any(f.name == self.frame.name or (f.dim, f.size) == place for f in own)


# ---- All latent sites of the data plate as one vector.


@final
class LocalLatents:
    r"""The latent sites of the data plate side by side, :math:`z = (z_1, \dots, z_d)`, from a step's traces.

    It is what :meth:`~TraceMeanField_WeightedELBO.joint_cost` makes its terms of. Sites outside the data
    plate are global: they are the same for all data, and no part of z. Nor is what only the guide samples.
    A latent site is in the data plate where the model has it there, by the name of the plate.

    Args:
        model_trace, guide_trace: those that ``joint_cost`` is given.

    Attributes:
        names: the sites, in the order of the guide.
        auxiliary: the sites of the data plate that only the guide samples.
        sizes: how many of the dimensions of z each of them has.
        batch_size: the number of data in the minibatch.
        plate_size: the number of data that the plate is of: larger where it says that it subsamples.

    Raises:
        NotImplementedError: with vectorised particles, and for sites that are masked, or in a further plate
            that subsamples.
        ValueError: if it cannot be told which plate holds the data, or no latent site is in it.

    Example:
        >>> from pyro_infomax.infer import TraceMeanField_WeightedELBO
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> class Whitened(TraceMeanField_WeightedELBO):
        ...     def joint_cost(self, model_trace, guide_trace):
        ...         z = LocalLatents(model_trace, guide_trace).z  # (batch, latent)
        ...         return {"whitening": (z.T.cov() - torch.eye(z.shape[1])).square().sum()}
        >>> pair = LinearGaussian(S=[2.0, 1.0], W=torch.eye(2), s2=1.0, V=torch.eye(2) / 2, Delta=[0.5, 0.5])
        >>> elbo = Whitened(weights={"whitening": 3.0})
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(100))
        >>> abs(loss - (elbo.terms.distortion + elbo.terms.rate + 3 * elbo.terms.whitening)) < 1e-6
        True
    """

    def __init__(self, model_trace: Trace, guide_trace: Trace) -> None:
        plate = LocalSites(model_trace)
        frame = plate.frame
        self.batch_size: int = frame.size
        self.plate_size: int = frame.full_size or frame.size
        self._dim: int = frame.dim
        latent = {site["name"]: site for site in sample_sites(model_trace) if not site["is_observed"]}
        sites = [site for site in sample_sites(guide_trace) if not is_deterministic(site)]
        local = [site for site in sites if plate.holds(site)]
        self._guide_sites = [site for site in local if site["name"] in latent]
        self._model_sites = [latent[site["name"]] for site in self._guide_sites]
        self.auxiliary = tuple(site["name"] for site in local if site["name"] not in latent)
        self.names = tuple(site["name"] for site in self._guide_sites)
        self._left_out: list[str] = []
        if not self.names:
            raise ValueError(
                f"Expected latent sites in the data plate {frame.name!r} but found none, and so no aggregate "
                "posterior: draw z in the plate"
            )
        for site in (*self._guide_sites, *self._model_sites):
            if is_masked(site):
                raise NotImplementedError(
                    f"the latent site {site['name']!r} is masked, so that q(z|x) is no density of all of z "
                    "and has no place in the mixture q(z): leave the mask out, or use BetaELBO"
                )
            _refuse_part(site, frame)
        depth = max(-f.dim for site in (*self._guide_sites, *self._model_sites) for f in frames_of(site))
        self._layouts = [_layout(site, frame, depth) for site in self._guide_sites]
        self.sizes = tuple(layout.size for layout in self._layouts)

    def only(self, names: Collection[str]) -> "LocalLatents":
        """The same of some of the sites, in the order of the guide.

        Raises:
            ValueError: for a name of no local latent site.
        """
        if unknown := sorted(set(names) - {*self.names}):
            raise ValueError(f"Expected some of the latent sites {list(self.names)} but got {unknown}.")
        kept = [name in names for name in self.names]
        twin = copy(self)
        for each in ("z", "posterior", "prior"):
            vars(twin).pop(each, None)
        for each in ("names", "sizes"):
            setattr(twin, each, tuple(compress(getattr(self, each), kept)))
        for each in ("_guide_sites", "_model_sites", "_layouts"):
            setattr(twin, each, list(compress(getattr(self, each), kept)))
        twin._left_out = [*self._left_out, *(name for name in self.names if name not in names)]
        return twin

    @cached_property
    def z(self) -> Tensor:
        """The draws, (batch, latent), in float64, with their gradients."""
        pairs = zip(self._guide_sites, self._layouts, strict=True)
        rows = [layout.rows(site["value"], self.batch_size)[0] for site, layout in pairs]
        return torch.cat([each.double().reshape(self.batch_size, -1) for each in rows], -1)

    @cached_property
    def posterior(self) -> Posterior:
        """q(z|x_n) of the minibatch: batch shape (batch,), event shape (latent,).

        Raises:
            NotImplementedError: for a point mass, which has no density; for sites that depend on each other
                in the guide, since each datum's density of the others' draws would take a run of the guide;
                and for distributions that are neither products nor vectors.
        """
        for site in self._guide_sites:
            self._refuse_dependence(site)
            if is_point_mass(site["fn"]):
                raise NotImplementedError(
                    f"q(z|x) of the site {site['name']!r} is a point mass, of whose mixture q(z) there is no "
                    "density: let the guide add noise"
                )
        return _together(
            [self._by_datum(*pair) for pair in zip(self._guide_sites, self._layouts, strict=True)]
        )

    @cached_property
    def prior(self) -> Posterior:
        """p(z), the same for all data: batch shape (), event shape (latent,).

        Raises:
            NotImplementedError: if it depends on the data or on other local sites. While a step is recorded,
                what cannot be told from the shape of its parameters becomes a RuntimeError of the graph.
        """
        return _together([self._first(*pair) for pair in zip(self._model_sites, self._layouts, strict=True)])

    def draws_of_prior(self) -> Tensor:
        """Draws of p(z), as many as there are data, (batch, latent), with the gradients of a learned prior.

        Raises:
            NotImplementedError: as :attr:`prior`, and for one that is learned but not reparameterised.
        """
        prior = cast(Distribution, self.prior)
        size = torch.Size([self.batch_size])
        if getattr(prior, "has_rsample", False):
            return prior.rsample(size).double()
        if torch.is_grad_enabled() and any(each.requires_grad for _, each in tensors_of(prior)):
            raise NotImplementedError(
                f"the prior ({full_name(prior)}) is learned but its draws pass no gradient on to its "
                "parameters: give it fixed parameters or one with rsample, or use MarginalELBO, which scores "
                "draws by it"
            )
        return prior.sample(size).double()

    def _refuse_dependence(self, site: Site) -> None:
        on, local = site.get("depends_on"), {*self.names, *self._left_out, *self.auxiliary}
        if on is None and len(local) > 1:
            raise NotImplementedError(
                "a guide that is itself a messenger does not show whether its sites depend on each other: "
                "use a guide with a single local site, or a function"
            )
        if found := sorted(set(on or ()) & local):
            raise NotImplementedError(
                f"the guide draws {site['name']!r} given {found}, so that the density of a draw under "
                "another datum takes another run of the guide: draw each of them given the data alone, or "
                "draw one site from their joint distribution"
            )

    def _by_datum(self, site: Site, layout: SiteLayout) -> Distribution:
        """Univariate factors (batch, size), or vectors of batch shape (batch,)."""
        fn = site["fn"]
        runs_networks = _runs_networks(fn)
        factors = None if runs_networks else factors_of(fn)
        if factors is not None:
            return factors_by_datum(factors, layout, self.batch_size)
        fn, axis = vector_of(fn), len(fn.batch_shape) + self._dim
        others = {*fn.batch_shape[:axis], *fn.batch_shape[axis:][1:]}
        # Further plates of one cell leave a vector what it is
        if fn.batch_shape[axis] == self.batch_size and others <= {1} and len(fn.event_shape) == 1:
            own = _InOwnPrecision(fn, site["name"], site["value"].dtype) if runs_networks else in_double(fn)
            found = cast(Distribution, own)
            if not others:
                return found
            if runs_networks or isinstance(fn, TransformedDistribution):
                return cast(Distribution, _OverData(found, axis))
            axes, rows = len(fn.batch_shape), self.batch_size
            return batch_mapped(
                [found], [rows], lambda tensors: tensors[0].reshape(rows, *tensors[0].shape[axes:])
            )
        raise NotImplementedError(
            f"the site {site['name']!r} ({family_name(fn)}, batch shape {tuple(fn.batch_shape)}, event shape "
            f"{tuple(fn.event_shape)}) is neither a product of univariate factors nor a vector for each "
            "datum: draw it as one of these"
        )

    def _first(self, site: Site, layout: SiteLayout) -> Distribution:
        """The distribution of a datum, where those of all data are the same."""
        found = self._by_datum(site, layout)
        depends = (
            f"Expected one prior p(z) for all data but that of {site['name']!r} differs from datum to datum, "
            "as it depends on the data or on other local sites: give it a fixed prior, or use BetaELBO"
        )
        of_vectors = len(found.event_shape) == 1
        if not of_vectors and not self._is_expanded(site["fn"]):
            of_data = [each for _, each in tensors_of(found) if each.shape[:1] == (self.batch_size,)]
            alike = [(each == each[:1]).all() for each in of_data]
            if alike and not holds(torch.stack(alike).all(), depends):
                raise NotImplementedError(depends)
        first = _first_of(found, depends)
        if of_vectors:
            z = layout.rows(site["value"], self.batch_size)[0].detach().reshape(self.batch_size, -1)
            tolerance = 1e-5 if z.dtype == torch.float64 else 1e-4
            with torch.no_grad():
                one, other = first.log_prob(z), found.log_prob(z)
            if not holds(torch.isclose(one, other, rtol=tolerance, atol=tolerance).all(), depends):
                raise NotImplementedError(depends)
        return first

    def _is_expanded(self, fn: Distribution) -> bool:
        """Whether the plate has made the rows of what the model gave it once."""
        factors = cast(Distribution, factors_of(fn))
        axis = len(fn.batch_shape) + self._dim
        expanded = []

        # Those of transforms broadcast with the batch, and come here in its whole shape
        def seen(tensors: list[Tensor]) -> Tensor:
            expanded.append(tensors[0].shape[axis] == 1 or tensors[0].stride(axis) == 0)
            return tensors[0]

        batch_mapped([factors], factors.batch_shape, seen)
        return all(expanded)


def _first_of(found: Distribution, depends: str) -> Distribution:
    """The distribution of the first datum, where what maps vectors has no rows of its own."""
    if isinstance(found, _OverData):
        return _first_of(found.base_dist, depends)
    if isinstance(found, _InOwnPrecision):
        return cast(Distribution, found.of(_first_of(found.base_dist, depends)))
    if found.event_shape and isinstance(found, TransformedDistribution):
        # A module has no rows of data, what was made of one given the data is refused elsewhere
        steps = [
            each if isinstance(each, nn.Module) else shared(each)
            for each in _steps(ComposeTransform(found.transforms))
        ]
        if None in steps:
            raise NotImplementedError(depends)
        base = _first_of(found.base_dist, depends)
        return TransformedDistribution(base, cast(list[Transform], steps), validate_args=False)
    axes = len(found.batch_shape) if found.event_shape else 1
    return batch_mapped([found], found.batch_shape[axes:], lambda tensors: tensors[0][(0,) * axes])


_PARTICLES = "num_particles_vectorized"


def data_plate(model_trace: Trace) -> Frame:
    """The plate of the data in the trace of a model, which was called with them."""
    frames = {f.name: f for site in sample_sites(model_trace) for f in frames_of(site)}
    if _PARTICLES in frames:
        raise NotImplementedError(
            "vectorised particles put several draws into the minibatch, whose data are compared with each "
            "other: leave out vectorize_particles, and particles are evaluated one after the other"
        )
    given = model_trace.nodes["_INPUT"]
    arguments = (*given["args"], *given["kwargs"].values())
    rows = next((len(each) for each in arguments if isinstance(each, Tensor) and each.dim()), None)
    if rows is not None:
        return minibatch_frame(model_trace, rows)
    if len(frames) == 1:
        return next(iter(frames.values()))
    raise ValueError(
        f"Expected to know which plate of the model holds the data but it has {sorted(frames)} and no tensor "
        "as an argument: call it with the data"
    )


def _refuse_part(site: Site, data: Frame) -> None:
    """Refuses a site of whose dimensions a minibatch shows some."""
    for frame in frames_of(site):
        if frame.dim != data.dim and (frame.full_size or frame.size) > frame.size:
            raise NotImplementedError(
                f"the plate {frame.name!r} around the latent site {site['name']!r} subsamples, so that there "
                "is only a part of the z of a datum, of which nothing follows for the whole: take all of its "
                "rows, or use BetaELBO"
            )


def _layout(site: Site, data: Frame, depth: int) -> SiteLayout:
    inner = sorted((f.dim, f.size) for f in frames_of(site) if f.dim != data.dim)
    event = tuple(site["fn"].event_shape)
    value = site["value"]
    return SiteLayout(
        site["name"], data.dim, tuple(inner), event, depth, value.dim() - len(event), value.dtype
    )


# ---- Flows.


def _steps(transform: Transform) -> Iterator[Transform]:
    """What a transform is composed of."""
    if isinstance(transform, ComposeTransform):
        for part in transform.parts:
            yield from _steps(part)
    else:
        yield transform


def _all_steps(fn: Distribution) -> Iterator[Transform]:
    """The transforms in all wrappers of a distribution, without their own."""
    if isinstance(fn, TransformedDistribution):
        for step in _steps(ComposeTransform(fn.transforms)):
            while isinstance(step, IndependentTransform | _InverseTransform):
                step = step.inv if isinstance(step, _InverseTransform) else step.base_transform
            yield step
    if isinstance(fn, TransformedDistribution | Independent):
        yield from _all_steps(fn.base_dist)


def _runs_networks(fn: Distribution) -> bool:
    """Whether parameters of its own, or what is no number, decide the type and shape of what it scores."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if isinstance(fn, TransformedDistribution):
        return not all(map(is_plain, fn.transforms)) or _runs_networks(fn.base_dist)
    return isinstance(fn, FlowDistribution)


@final
class _InOwnPrecision:
    """A flow over vectors, scored in the type that its parameters have, with all that follows in float64."""

    def __init__(self, fn: Distribution, name: str, dtype: torch.dtype) -> None:
        self.base_dist, self.name, self.dtype = fn, name, dtype
        self.batch_shape, self.event_shape = fn.batch_shape, fn.event_shape
        self.has_rsample = fn.has_rsample
        self.steps = list(_all_steps(fn))
        for step in self.steps:
            self._refuse_unfit(step)

    def of(self, fn: Distribution) -> "_InOwnPrecision":
        """Another one of the same site."""
        return _InOwnPrecision(fn, self.name, self.dtype)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """(*sample_shape, *batch, latent)."""
        return self.base_dist.sample(torch.Size(sample_shape)).double()

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """The same with gradients."""
        return self.base_dist.rsample(torch.Size(sample_shape)).double()

    def log_prob(self, z: Tensor) -> Tensor:
        """(..., *batch), in nats."""
        try:
            return self.base_dist.log_prob(z.to(self.dtype)).double()
        except KeyError as error:  # Pyro's word for a draw that it has not made itself
            raise NotImplementedError(self._refusal("cannot be inverted")) from error

    def log_prob_marginals(self, z: Tensor) -> Tensor:
        """(..., *batch, latent), in nats."""
        return marginals_of(self.base_dist).log_prob(z.to(self.dtype)).double()

    def _refuse_unfit(self, step: Transform) -> None:
        if is_called(step, "BatchNorm"):
            raise NotImplementedError(self._refusal("scores a draw by the others of its batch", step))
        # Pyro binds the context to the network, or to a function that makes the parameters
        if any(isinstance(each, partial | FunctionType) for each in vars(step).values()):
            raise NotImplementedError(self._refusal("is conditioned on data row by row", step))

    def _refusal(self, why: str, *steps: Transform) -> str:
        named = ", ".join(type(each).__name__ for each in steps or self.steps) or full_name(self.base_dist)
        return (
            f"the flow of the site {self.name!r} ({named}) {why}, so that it cannot score the draw of "
            "another datum: take transforms that can be inverted, as affine_coupling or "
            "affine_autoregressive; conditional ones by TransformFlow([...], latent_dim)(context) or "
            "AmortizedFlow"
        )


@final
class _OverData:
    """Vectors whose batch shape has axes of size 1 beside that of the data, without these."""

    def __init__(self, fn: Distribution, axis: int) -> None:
        self.base_dist, self.axis = fn, axis
        self.batch_shape, self.event_shape = fn.batch_shape[axis : axis + 1], fn.event_shape
        self.has_rsample = fn.has_rsample

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """(*sample_shape, batch, latent)."""
        return self._without(self.base_dist.sample(torch.Size(sample_shape)), 1)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """The same with gradients."""
        return self._without(self.base_dist.rsample(torch.Size(sample_shape)), 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """(..., batch), in nats."""
        return self._without(self.base_dist.log_prob(self._with(z)), 0)

    def log_prob_marginals(self, z: Tensor) -> Tensor:
        """(..., batch, latent), in nats."""
        return self._without(marginals_of(self.base_dist).log_prob(self._with(z)), 1)

    def _with(self, z: Tensor) -> Tensor:
        before, after = self.axis, len(self.base_dist.batch_shape) - self.axis - 1
        *more, rows, latent = z.shape
        return z.reshape(*more, *(1,) * before, rows, *(1,) * after, latent)

    def _without(self, found: Tensor, events: int) -> Tensor:
        axes = len(self.base_dist.batch_shape) + events
        lead, event = found.shape[: found.dim() - axes], found.shape[found.dim() - events :]
        return found.reshape(*lead, *self.batch_shape, *event)


# ---- Sites that do not depend on each other, as one distribution.


def _together(parts: Sequence[Distribution]) -> Posterior:
    """Univariate factors (*batch, size) and vectors, of batch shape (*batch,), side by side."""
    if not any(part.event_shape for part in parts):
        return Independent(joined(parts), 1)
    vectors = [part if part.event_shape else Independent(part, 1) for part in parts]
    return vectors[0] if len(vectors) == 1 else _Product(vectors)


@final
class _Product:
    """Independent vectors side by side, of which some are no products of univariate factors."""

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = parts
        self.sizes = [part.event_shape[0] for part in parts]
        self.batch_shape = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        self.event_shape = torch.Size([sum(self.sizes)])
        self.has_rsample = all(part.has_rsample for part in parts)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """(*sample_shape, *batch, latent)."""
        return torch.cat([part.sample(torch.Size(sample_shape)).double() for part in self.parts], -1)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """The same with gradients."""
        return torch.cat([part.rsample(torch.Size(sample_shape)).double() for part in self.parts], -1)

    def log_prob(self, z: Tensor) -> Tensor:
        """(..., *batch), in nats."""
        pieces = zip(self.parts, z.split(self.sizes, -1), strict=True)
        return sum((part.log_prob(piece).double() for part, piece in pieces), start=torch.zeros(()))

    def log_prob_marginals(self, z: Tensor) -> Tensor:
        """(..., *batch, latent), in nats."""
        pieces = zip(self.parts, z.split(self.sizes, -1), strict=True)
        return torch.cat([marginals_of(part).log_prob(piece).double() for part, piece in pieces], -1)


# ---- A run of the model that draws data too, and whether it draws or reads them.


@final
class TakenRowsMessenger(Messenger):
    """Keeps which rows the programs take of each plate, which Pyro removes from the traces that it scores."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = Trace()

    def _pyro_post_sample(self, msg: Site) -> None:
        if site_is_subsample(msg) and msg["name"] not in self.taken:
            self.taken.add_node(msg["name"], **msg.copy())


class GuideRun(NamedTuple):
    """A run of the guide, and what it takes to run the model.

    Args:
        model: the model.
        guide_trace: what the guide has drawn.
        rows: which rows of each plate were taken.
        args, kwargs: what both are called with.
        both: whether draws of both distributions are asked for.
    """

    model: Program
    guide_trace: Trace
    rows: Trace
    args: Args
    kwargs: Kwargs
    both: bool


def simulate(run: GuideRun, *, data: bool = True) -> Trace:
    """A run of the model, on the rows that were taken of each plate.

    Args:
        run: of the guide.
        data: whether observed sites are drawn too, or observed as they are.
    """
    with plain_errors():
        program = poutine.replay(poutine.uncondition(run.model) if data else run.model, trace=run.rows)
        return poutine.trace(program).get_trace(*run.args, **run.kwargs)


def given_rows(args: Args, kwargs: Kwargs) -> list[object]:
    """Whatever the programs are given that has axes, within containers and objects too."""
    leaves = tree_leaves((args, kwargs))
    held = [each for leaf in leaves for each in tree_leaves(_held_by(leaf))]
    return [each for each in (*leaves, *held) if getattr(each, "ndim", 0)]


# What torch takes for one leaf although it holds others
def _held_by(leaf: object) -> list[object]:
    if hasattr(leaf, "ndim") or callable(leaf) or isinstance(leaf, (str, bytes, range)):
        return []
    if isinstance(leaf, Mapping):
        return list(leaf.values())
    return list(leaf) if isinstance(leaf, Collection) else list(getattr(leaf, "__dict__", {}).values())


KnownModels: TypeAlias = tuple[tuple[object, ...], ...]


def check_generates(ours: str, model: Program, args: Args, kwargs: Kwargs, known: KnownModels) -> KnownModels:
    """Refuses a model whose draws of data follow the data that it is given; asks once for a model and mode.

    Args:
        ours: the objective, for messages.
        model: the model, which has created its parameters.
        args, kwargs: what it is called with.
        known: the models that were asked about, as this returns them.
    """
    modes = (each.training for root in modules_behind(model) for each in root.modules())
    parts = (getattr(model, "__self__", model), getattr(model, "__func__", model), *modes)
    if any(all(map(operator.is_, parts, each)) for each in known):
        return known
    found = _sites_that_follow_data(model, args, kwargs)
    if found.sites:
        raise NotImplementedError(
            f"{ours} draws data from the model, but what it draws of {found.sites} depends on the data that "
            "it is given: let it depend on parameters and on what was sampled alone"
        )
    if not found.reached:
        warnings.warn(
            f"{ours} draws data from the model, which is not given them as tensors, and may read them "
            "unseen: let it depend on parameters and on what was sampled alone",
            stacklevel=3,
        )
    # Two are kept, as training and evaluation take turns
    return (*known[-1:], parts) if found.varied or not found.reached else known


class _FollowedData(NamedTuple):
    """What was seen of a model whose data were changed.

    Args:
        sites: those of which it draws other values then.
        varied: whether each tensor of more than one row was changed, where there is any; rows that are all
            alike do not tell.
        reached: whether all rows that it is given were in reach: tensors and arrays, not within objects.
    """

    sites: list[str]
    varied: bool
    reached: bool


def _sites_that_follow_data(model: Program, args: Args, kwargs: Kwargs) -> _FollowedData:
    """The sites of which a model without observations draws other values where its data are others.

    The others have the same rows in another order, and then one half of the rows, and the other, which are
    other samples to what reads statistics of the minibatch, its extremes too. It runs in the mode that it is
    in, as a model may read data in one mode alone.
    """
    given = args, dict(kwargs)
    others = [tree_map(partial(_in_other_rows, order=order), given) for order in _ORDERS]
    leaves = tree_leaves(given)
    rows = list(map(_has_rows, leaves))
    reached = any(rows) and sum(rows) == len(given_rows(args, kwargs))
    pairs = list(compress(zip(leaves, tree_leaves(others[0]), strict=True), rows))
    alike = [_is_same(*pair) for pair in pairs if len(pair[0]) > 1]
    if all(alike):
        return _FollowedData([], False, reached)
    with _copies_of_buffers(model):
        first, *drawn = (_drawn_by(model, *each) for each in (given, *others))
    sites = [
        name
        for name in first
        if any(name not in other or not _alike(first[name], other[name]) for other in drawn)
    ]
    return _FollowedData(sites, not any(alike), reached)


_ORDERS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda rows: rows.roll(1),
    lambda rows: rows // 2,
    lambda rows: len(rows) - 1 - rows % max(len(rows) // 2, 1),
)


@contextmanager
def _copies_of_buffers(model: Program) -> Iterator[None]:
    """Runs the modules of a model on copies of their buffers; to write into them would spoil graphs."""
    own: dict[nn.Module, dict[str, Tensor | None]] = {}

    def copied(module: nn.Module, _: object = None) -> None:
        if module not in own:
            own[module] = dict(module._buffers)
            module._buffers.update({n: None if b is None else b.clone() for n, b in own[module].items()})

    for root in modules_behind(model):
        for module in root.modules():
            copied(module)
    # What a function closes over is seen when it runs
    handle = register_module_forward_pre_hook(copied)
    try:
        yield
    finally:
        handle.remove()
        for module, buffers in own.items():
            module._buffers.update(buffers)


def _drawn_by(model: Program, args: Args, kwargs: Kwargs) -> dict[str, Tensor]:
    with torch.no_grad(), isolated_random_state():
        trace = simulate(GuideRun(model, Trace(), Trace(), args, kwargs, both=True))
    return {site["name"]: torch.as_tensor(site["value"]) for site in sample_sites(trace)}


def _has_rows(each: object) -> TypeGuard[Tensor | np.ndarray]:
    return isinstance(each, (Tensor, np.ndarray)) and each.ndim > 0


def _in_other_rows(each: object, order: Callable[[Tensor], Tensor]) -> object:
    if not _has_rows(each):
        return each
    rows = order(torch.arange(len(each)))
    return each[rows] if isinstance(each, Tensor) else each[rows.numpy()]


def _is_same(one: object, other: object) -> bool:
    return one is other or bool((one == other).all())  # type: ignore[attr-defined]


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether values are the same but for what the order of operations may change."""
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    near = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one, other, rtol=near, atol=near)
