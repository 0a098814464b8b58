"""The base of amortised guides: the heads of the sites, made at the first call, and their posteriors."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any, Final, Self, TypeAlias, TypedDict, TypeGuard, TypeVar, cast, final

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from pyro.poutine.runtime import InferDict, Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_infomax._checks import is_integer, whole_number
from pyro_infomax._data import as_arguments
from pyro_infomax._random import isolated_random_state, seeded_draws
from pyro_infomax._types import Args, Kwargs, Program, Site, State
from pyro_infomax.distributions import check_levels, closed_quantiles, sorted_quantiles
from pyro_infomax.guides._prototype import (
    CallKind,
    DataPlate,
    InnerPlate,
    LatentSite,
    Layout,
    Seen,
    SiteInput,
    check_latent,
    check_masks,
    check_same_ancestors,
    check_same_plate,
    check_same_site,
    check_serves,
    find_data_plate,
    has_masks,
    kind_of_call,
    may_be_called,
    merged,
    read_sites,
)
from pyro_infomax.nn import (
    DistributionFamily,
    DistributionHead,
    InstanceName,
    NormalHead,
    begins_linearly,
    check_features,
    does_forward_alone,
    drop_weak_references,
    evaluation_mode,
    prototype_features,
    register,
)
from pyro_infomax.poutine import plain_errors

Plates: TypeAlias = pyro.plate | Iterable[pyro.plate]
Head: TypeAlias = nn.Module | type[object] | partial[object]
"""A module, or a distribution class or a family of guides, perhaps with some of its arguments."""
Sites: TypeAlias = dict[str, Tensor]
Distributions: TypeAlias = dict[str, dist.TorchDistribution]
Turn: TypeAlias = tuple[LatentSite, dist.TorchDistribution, InferDict]
_T = TypeVar("_T")

_DRAWS: Final = 1000
# A model with a counter among its arguments is called in another way at each step
_MOST_KINDS: Final = 1000
# What obs_mask appends to the name of a site that it splits
OBSERVED, UNOBSERVED = "_observed", "_unobserved"

# ---- The arguments of a guide: data first, each with a row a datum.


def data_size(args: Args) -> int:
    """The number of data; refuses a first argument that is no tensor with a row a datum."""
    if not args or not isinstance(args[0], Tensor) or args[0].dim() == 0:
        got = type(args[0]).__name__ if args else "no positional argument"
        raise ValueError(
            f"Expected the data as first positional argument, a tensor with a row a datum, but got {got}."
        )
    return len(args[0])


def rows(arg: _T, size: int, indices: slice | Tensor) -> _T | Tensor:
    """The rows of what is data; other arguments stay whole."""
    if isinstance(arg, Tensor) and arg.shape[:1] == (size,):
        return arg[indices]
    return arg


def first_rows(args: Args, plate: DataPlate) -> Iterator[object]:
    """As many rows as the plate takes: an encoder of subsamples need not fit all data into memory."""
    few = slice(plate.subsample_size)
    return (rows(arg, data_size(args), few) for arg in args)


def split_count(args: Args, num_samples: int | None) -> tuple[Args, int]:
    """The data, and the number of samples, which may come last."""
    # a flag of the model is an int too
    last = args[-1] if args else None
    if num_samples is None and is_integer(last):
        args, num_samples = args[:-1], last  # type: ignore[assignment]
    return args, whole_number("num_samples", 1 if num_samples is None else num_samples, at_least=1)


# ---- The head of a site: made of what a user gives for it, and what it has to return.


def is_head(own: object) -> TypeGuard[nn.Module]:
    """Whether it is a head already, and not what one is made of."""
    return isinstance(own, nn.Module) and not isinstance(own, AmortizedGuide)


def build_head(
    own: Head | None,
    site: LatentSite,
    in_features: int,
    *,
    like: Tensor,
    model: Program,
    training: bool = True,
) -> nn.Module:
    """The head of one site.

    A module is the head itself; a distribution class, a family of guides, a partial of either or an instance
    of a family makes it, with the dtype and device of ``like``; None makes a diagonal Normal.
    """
    if is_head(own):
        head = own
    else:
        with _naming(site):
            head = _new_head(own, site, in_features, model)
        head = head.to(like.device, like.dtype).train(training)
    is_own = own is not None and not isinstance(own, AmortizedGuide)
    if is_own or any(is_lazy(parameter) for parameter in head.parameters()):
        with evaluation_mode(head), torch.no_grad():
            check_serves(site, head(like.new_zeros(1, in_features)))
    return head


def _new_head(own: Head | None, site: LatentSite, in_features: int, model: Program) -> nn.Module:
    if own is None:
        return NormalHead(in_features, site.event_shape, support=site.support)
    if isinstance(own, AmortizedGuide):
        return own.make_head(site, in_features)
    kind = own.func if isinstance(own, partial) else own
    if isinstance(kind, type) and issubclass(kind, AmortizedGuide):
        return cast(type[AmortizedGuide], own)(model, _no_encoder).make_head(site, in_features)
    if isinstance(kind, type) and issubclass(kind, torch.distributions.Distribution):
        return DistributionHead(in_features, site.event_shape, cast(DistributionFamily, own))
    raise ValueError(
        f"Expected the head of {site.name!r} to be a module from features to a distribution, a "
        f"distribution class or a family of guides but got {own!r}."
    )


@contextmanager
def _naming(site: LatentSite) -> Iterator[None]:
    """Says which site an error is about, since heads know no names."""
    try:
        yield
    except (NotImplementedError, ValueError) as error:
        if repr(site.name) in str(error):
            raise
        raise type(error)(f"Latent site {site.name!r}: {error}") from error


def _no_encoder(*_: object) -> Tensor:
    raise AssertionError("a family that makes a head for another guide does not encode")


def infer_of(head: object) -> InferDict:
    """What :func:`pyro.sample` is told about the site of a head."""
    return cast(InferDict, dict(getattr(head, "infer", {})))


def check_posterior(posterior: object, site: LatentSite, batch: torch.Size) -> dist.TorchDistribution:
    """The distribution that a head gave, expanded to the leading axes of its features."""
    if not isinstance(posterior, dist.torch_distribution.TorchDistributionMixin):
        raise ValueError(
            f"Expected the head of {site.name!r} to return a distribution of pyro.distributions but got "
            f"{type(posterior).__name__}."
        )
    if posterior.event_shape != site.event_shape:
        raise ValueError(
            f"Expected the head of {site.name!r} to return a distribution of event shape "
            f"{tuple(site.event_shape)} but got {tuple(posterior.event_shape)}: use .to_event(...)."
        )
    if posterior.batch_shape == batch:
        return posterior
    try:
        return posterior.expand(batch)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"Expected the head of {site.name!r} to return a distribution of batch shape {tuple(batch)}, the "
            f"leading axes of its features, but got {tuple(posterior.batch_shape)}."
        ) from error


@torch.no_grad()
def median_of(posterior: dist.TorchDistribution) -> Tensor:
    """The median of each element, exact or that of draws which are always the same."""
    level = torch.full((1,), 0.5)
    closed = closed_quantiles(posterior, level)
    if closed is not None:
        return closed[0]
    with isolated_random_state(0):
        return sorted_quantiles(posterior.sample((_DRAWS,)), level)[0]


# ---- The guide.


class GuideOptions(TypedDict, total=False):
    """The options of every guide; see :class:`AmortizedGuide`."""

    heads: Mapping[str, Head] | None
    structured: bool
    create_plates: Callable[..., Plates] | None


class AmortizedGuide(AutoGuide):
    r"""An encoder with one head for each local latent site of a model.

    .. math:: q_\psi(z \mid x) = \prod_s q_s\bigl(z_s \mid \mathrm{head}_s(\mathrm{encoder}(x))\bigr)

    With ``structured=True`` each head also sees the sites that the model samples before,
    :math:`q_\psi(z \mid x) = \prod_s q_s(z_s \mid z_{<s}, \mathrm{encoder}(x))`.

    The first call runs the model once, without gradient and on a copy of the random state, to find the
    data plate and the latent sites; later calls run the encoder alone. A call of another kind, with None in
    place of labels, another flag or rows of another shape, runs the model once more: what it observes is not
    drawn then. Masks of the model are taken over in each call. A family is a subclass that implements
    :meth:`make_head`.

    Args:
        model: the Pyro model. Its positional arguments are the data, one datum a row of the first axis.
        encoder: from the same positional arguments to features (batch, h). Where latents are inside further
            plates, it may give features of every cell of them, (batch, \\*cells, h).
        heads: site names to what serves these sites instead of the family: a module from features (..., h)
            to a distribution of batch shape (...); a distribution class, such as ``dist.Gamma``, whose
            parameters are then computed from the features; or another family, such as
            :class:`~pyro_infomax.guides.AmortizedDiscrete`.
        structured: whether each site depends on those that the model samples before it.
        create_plates: from the arguments to the plates of the guide, for data that are a part of a larger
            plate. By default the guide makes the model's data plate anew at each call, with the size of
            the data and the model's subsample size.

    Raises:
        ValueError: at the first call of a kind, if the model has no data plate, several, or no latent site,
            heads name another site, or a site is another than in calls before; at any call, if the number
            of features' rows is not the number of data, or a head gives a distribution of another shape.
        NotImplementedError: at the first call, for global latents, inner plates that subsample or are
            sequential, masks that depend on what is drawn, and supports that the family or a head does not
            cover.
    """

    heads: nn.ModuleList
    inputs: nn.ModuleList

    def __init__(
        self,
        model: Program,
        encoder: Callable[..., Tensor],
        *,
        heads: Mapping[str, Head] | None = None,
        structured: bool = False,
        create_plates: Callable[..., Plates] | None = None,
    ) -> None:
        super().__init__(model, create_plates=create_plates)
        self._name = InstanceName(type(self).__name__)
        self._pyro_name = self._name
        self.encoder = encoder
        self._own_heads = dict(heads or {})
        # Until the first call; the user's modules are to follow the guide's device, dtype and mode before too
        self.heads = nn.ModuleList(each for each in self._own_heads.values() if is_head(each))
        self.structured = structured
        self._is_learning = False
        self._layouts: dict[CallKind, Layout] = {}  # the first of them is that of the first call
        self._known: dict[str, LatentSite] = {}  # the sites that have a head, in the order of the heads
        self._per_cell: tuple[
            InnerPlate, ...
        ] = ()  # the plates of which the encoder gives features cell by cell

    @abstractmethod
    def make_head(self, site: LatentSite, in_features: int) -> nn.Module:
        """A module from features to the distribution of one site; the one hook of a family.

        Args:
            site: a latent site inside the data plate.
            in_features: number of features.

        Returns:
            A module that maps features (..., in_features) to a Pyro distribution with batch shape (...)
            and the event shape of the site. An attribute ``infer`` of it goes to :func:`pyro.sample`.

        Raises:
            NotImplementedError: if the family does not cover the support of the site.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement make_head(site, in_features).")

    def forward(self, *args: object, **kwargs: object) -> Sites:
        """The guide as a Pyro program, with the arguments of the model.

        Args:
            *args: the data, which the encoder gets too.
            **kwargs: further arguments of the model, which the guide passes over.

        Returns:
            The latents by site name, each (..., batch, \\*event).
        """
        layout = self._layout(*args, **kwargs)
        if not layout.sites:
            return {}
        plates = self._plates_of(layout, *args, **kwargs)
        self._register()
        data_plate = plates[layout.plate.name]
        features = self._features(layout, *self._subsample(data_plate, args))
        self._create_inner_plates(layout, plates, features)
        seen = self._seen(layout, layout.masked, args, kwargs, rows={data_plate.name: data_plate.indices})
        values = self._observed(layout, seen)
        drawn: Sites = {}
        for site, posterior, infer in self._in_turn(layout, features, values):
            masks = seen[site.name].masks if site.name in seen else ()
            if not seen:
                _check_mask(site, posterior)
            with ExitStack() as stack:
                for name in (data_plate.name, *(plate.name for plate in site.plates)):
                    stack.enter_context(plates[name])
                for mask, axes in masks:
                    if axes:
                        posterior = _masked_within(site, posterior, mask, axes)
                    else:
                        stack.enter_context(pyro.poutine.mask(mask=cast(torch.BoolTensor, mask)))
                drawn[site.name] = pyro.sample(site.name, posterior, infer=infer)
            values[site.name] = _filled_in(site, drawn[site.name], seen)
        return drawn

    def posterior(
        self, *args: object, given: Mapping[str, Tensor] | None = None, **kwargs: object
    ) -> Distributions:
        """The distribution of each site, for all data and outside of inference.

        Args:
            *args: the data.
            given: in a structured guide, values of earlier sites, (..., batch, \\*event) each. A site that
                depends on sites without a value is given their medians.
            **kwargs: further arguments of the model, for its first run.

        Returns:
            Distributions by site name, each with batch shape (..., batch), or (..., batch, 1, ...) where the
            model has its data plate further to the left, and the cells of inner plates in their axes.

        Raises:
            ValueError: for values of other sites, or of another shape.
        """
        found: Distributions = {}
        with self._outside_of_inference(*args, **kwargs) as (layout, features, seen):
            values = self._observed(layout, seen) | self._known_values(layout, given or {}, len(features))
            for site, posterior, _ in self._in_turn(layout, features, values):
                found[site.name] = posterior
                if self.structured and site is not layout.sites[-1] and site.name not in values:
                    values[site.name] = _filled_in(site, median_of(posterior), seen)
        return found

    @torch.no_grad()
    def encoded(self, *args: object) -> "EncodedData | None":
        """What scores values of the sites under data that are encoded once.

        None where sites have plates or masks of their own, or some are observed, and where the guide, or what
        makes the input of a head, has hooks: these take a run.
        """
        if not (does_forward_alone(self) and all(map(does_forward_alone, self._module("inputs")))):
            return None
        with self._outside_of_inference(*args) as (layout, features, seen):
            if seen or layout.masked or layout.inner or layout.plate.dim != -1:
                return None
            parts = {site.name: (own, head) for site, own, head in self._parts()}
            return EncodedData([(site, *parts[site.name]) for site in layout.sites], features)

    @torch.no_grad()
    def sample(
        self, *args: object, num_samples: int | None = None, seed: int | None = None, **kwargs: object
    ) -> Sites:
        """Draws from the posterior of all data, jointly over the sites.

        Args:
            *args: the data; the number of samples may follow them, as in ``guide.sample(x, 100)``.
            num_samples: draws for each datum, 1 by default.
            seed: isolates the draws from torch's random state; None draws from that state.
            **kwargs: further arguments of the model, for its first run.

        Returns:
            Draws by site name, each (num_samples, batch, \\*event).

        Raises:
            ValueError: for a number of samples below 1.
        """
        args, size = split_count(args, num_samples)
        with self._outside_of_inference(*args, **kwargs) as (layout, features, seen):
            return self._drawn(layout, features, seen, size, seed)

    def median(
        self, *args: object, num_samples: int = 1000, seed: int | None = None, **kwargs: object
    ) -> Sites:
        """The median of each latent's posterior, element by element; see :meth:`quantiles`.

        Args:
            *args: the data.
            num_samples: as in :meth:`quantiles`, and so is the seed.
            seed: isolates the draws.
            **kwargs: further arguments of the model, for its first run.

        Returns:
            Medians by site name, each (batch, \\*event).
        """
        return self.quantiles(0.5, *args, num_samples=num_samples, seed=seed, **kwargs)

    @torch.no_grad()
    def quantiles(
        self,
        q: float | Sequence[float] | Tensor,
        *args: object,
        num_samples: int = 1000,
        seed: int | None = None,
        **kwargs: object,
    ) -> Sites:
        """Quantiles of each latent's posterior, element by element.

        They are exact where the distribution has them in closed form, and else those of draws. Of categorical
        variables, they are those of the index.

        Args:
            q: a level from 0 to 1, or several.
            *args: the data.
            num_samples: draws for each datum, where there is no closed form, as for sites that depend on
                earlier ones, simplices and flows.
            seed: isolates these draws from torch's random state; None draws from that state.
            **kwargs: further arguments of the model, for its first run.

        Returns:
            Quantiles by site name, each (len(q), batch, \\*event), or (batch, \\*event) for a single level.

        Raises:
            ValueError: for levels outside of [0, 1] or a number of samples below 1.
        """
        levels = check_levels(q)
        flat = levels.reshape(-1)
        args, size = split_count(args, num_samples)
        with self._outside_of_inference(*args, **kwargs) as (layout, features, seen):
            alone = self._marginals(layout, features, seen)
            closed = ((name, closed_quantiles(each, flat)) for name, each in alone)
            found = {name: each for name, each in closed if each is not None}
            if len(found) < len(layout.sites):
                draws = self._drawn(layout, features, seen, size, seed)
                found = {name: sorted_quantiles(each, flat) for name, each in draws.items()} | found
        return {name: each if levels.dim() else each[0] for name, each in found.items()}

    def _load_from_state_dict(self, state_dict: State, prefix: str, *args: object) -> None:
        heads = (f"{prefix}heads.", f"{prefix}inputs.")
        if not self._layouts and any(key.startswith(heads) for key in state_dict):
            raise ValueError(
                "Expected a guide with heads to load their state but this one has not run: call "
                "guide.posterior(data) once before."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> State:
        """The state without the model, which need not be picklable, and which the first call has read."""
        drop_weak_references(self)
        return self.__dict__ | {"_model": (None,), "master": None, "plates": {}, "_own_heads": {}}

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """A guide of the same model with parameters of its own."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        twin._model = self._model
        twin._own_heads = copy.deepcopy(self._own_heads, memo)
        return twin

    # ---- what the model has in a call

    def _ensure_prototype(self, *args: object, **kwargs: object) -> None:
        self._layout(*args, **kwargs)

    def _layout(self, *args: object, **kwargs: object) -> Layout:
        """What the model has in this call; it runs where it has not been called so yet."""
        kind = kind_of_call(args, kwargs, data_size(args))
        found = self._layouts.get(kind)
        return self._learned(kind, args, kwargs) if found is None else found

    def _learned(self, kind: CallKind, args: Args, kwargs: Kwargs) -> Layout:
        if self._is_learning:
            raise RuntimeError(
                "The model asks its own guide for a posterior before the guide has seen the model: make "
                "encoder and head first and give them to both, heads={name: head} and "
                "VampPrior(u, posterior=lambda u: head(encoder(u)))."
            )
        if self.model is None:
            raise ValueError(
                "Expected a guide that has run with arguments of this kind but this one was pickled before, "
                "which leaves its model behind: let it run once more before, or build it anew."
            )
        self._is_learning = True
        try:
            self._setup_prototype(*args, **kwargs)
        finally:
            self._is_learning = False
        return self._layouts[kind]

    def _setup_prototype(self, *args: object, **kwargs: object) -> None:
        size = data_size(args)
        with torch.inference_mode(False), torch.no_grad(), isolated_random_state(), plain_errors():
            trace = self._run_model(*args, **kwargs)
            plate = find_data_plate(trace, size, own_plates=self._own_plates(*args, **kwargs))
            layout = Layout.of(trace, plate, self._own_heads)
            if not self._layouts:
                check_latent(layout)
            self._check_masks(layout, args, kwargs)
            self._make_heads(layout, *first_rows(args, plate))
        _forget_values(trace)
        while len(self._layouts) >= _MOST_KINDS:
            del self._layouts[list(self._layouts)[1]]
        self._layouts[kind_of_call(args, kwargs, size)] = layout

    @staticmethod
    def _prototype_hide_fn(msg: "Message[..., object]") -> bool:
        # Observed sites are kept, unlike in Pyro's autoguides: they tell which plate holds the data
        return msg["type"] != "sample" or site_is_subsample(msg)

    def _run_model(self, *args: object, **kwargs: object) -> Trace:
        # Unlike the method of the base, without a memory of the sizes of plates, which are made at each call
        model = pyro.poutine.block(self.model, self._prototype_hide_fn)
        trace = pyro.poutine.block(pyro.poutine.trace(model).get_trace)(*args, **kwargs)
        if self.master is not None and not self._layouts:
            self.master()._check_prototype(trace)
        self.prototype_trace = trace
        return trace

    def _check_masks(self, layout: Layout, args: Args, kwargs: Kwargs) -> None:
        if not layout.masked:
            return
        size = layout.plate.subsample_size
        device = cast(Tensor, args[0]).device
        rows = {} if size is None else {layout.plate.name: torch.arange(size, device=device)}
        with pyro.poutine.block():
            runs = [
                read_sites(self.model, layout.masked, rows, args, kwargs, draw=draw) for draw in (False, True)
            ]
        check_masks(*runs)

    def _make_heads(self, layout: Layout, *data: object) -> None:
        """Heads for the sites that have none yet; refuses what those that there are do not serve."""
        names = [*layout.names, *self._known]
        served = {site.name for site in layout.served}
        if unknown := sorted(self._own_heads.keys() - served.union(names, map(_whole, names))):
            raise ValueError(f"Expected heads for the latent sites {names} but got {unknown}.")
        first = next(iter(self._layouts.values()), layout)
        check_same_plate(first.plate, layout.plate)
        for site, seen, _ in self._parts() if self._known else ():
            if site.name in layout.names:
                present = layout.sites[layout.names.index(site.name)]
                check_same_site(site, present, per_cell=bool(self._per_cell))
                if self.structured:
                    check_same_ancestors(site.name, layout, [each.site.name for each in seen.earlier])
        new = [site for site in layout.served if site.name not in self._known]
        if not new:
            return
        plates = layout.inner
        features = prototype_features(self._module("encoder"), *data, plates=[each.name for each in plates])
        if not self._known:
            self._per_cell = plates if features.dim() > 2 else ()
        parts = {site.name: (seen, head) for site, seen, head in self._parts()} if self._known else {}
        for site in new:
            earlier = layout.served[: layout.served.index(site)] if self.structured else ()
            seen = SiteInput(site, layout.plate, features.shape[-1], earlier=earlier, per_cell=self._per_cell)
            own = self._own_heads.get(site.name, self._own_heads.get(_whole(site.name), self))
            head = build_head(
                own, site, seen.out_features, like=features, model=self.model, training=self.training
            )
            parts[site.name] = seen.to(features.device, features.dtype), head
        # In the order of the model, so that it is the same whichever call came first
        known = {site.name: site for site in (*self._known.values(), *new)}
        order = merged(list(self._known), [site.name for site in layout.served])
        self._known = {name: known[name] for name in order}
        self.inputs, self.heads = (nn.ModuleList(parts[name][k] for name in order) for k in (0, 1))

    # ---- what the model shows in a call before it draws

    def _seen(
        self, layout: Layout, wanted: Collection[str], args: Args, kwargs: Kwargs, rows: Sites
    ) -> dict[str, Seen]:
        """The masks of latent sites, and what the model observes of those that others depend on."""
        if self.structured:
            earlier = {each.site.name for _, seen, _ in self._parts() for each in seen.earlier}
            halves = {_whole(name) + OBSERVED for name in earlier if name.endswith(UNOBSERVED)}
            wanted = {*wanted, *((earlier | halves) & layout.observed)}
            if halves & layout.observed:
                wanted |= layout.masked & earlier
        if self.model is None and (unseen := sorted(set(wanted) & layout.observed)):
            raise ValueError(
                f"Expected the model to tell the values of {unseen} but this guide was pickled, which leaves "
                "its model behind: build it anew, and load its state."
            )
        if not wanted or self.model is None:
            return {}
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            isolated_random_state(),
            pyro.poutine.block(),
        ):
            return read_sites(self.model, wanted, rows, args, kwargs)

    def _observed(self, layout: Layout, seen: Mapping[str, Seen]) -> Sites:
        """The values of sites that have a head and are observed in this call."""
        return {
            name: each.value for name, each in seen.items() if name in self._known and name in layout.observed
        }

    def _own_plates(self, *args: object, **kwargs: object) -> frozenset[str]:
        """The names of the plates that the user makes."""
        guide = self if self.master is None else self.master()
        if guide.create_plates is None:
            return frozenset()
        with pyro.poutine.block():
            plates = guide.create_plates(*args, **kwargs)
        return frozenset(each.name for each in ([plates] if isinstance(plates, pyro.plate) else plates))

    def _plates_of(self, layout: Layout, *args: object, **kwargs: object) -> dict[str, pyro.plate]:
        plates: dict[str, pyro.plate] = self._create_plates(*args, **kwargs)
        if layout.plate.name not in plates:
            plates[layout.plate.name] = layout.plate.create(data_size(args))
        return plates

    def _create_inner_plates(self, layout: Layout, plates: dict[str, pyro.plate], features: Tensor) -> None:
        """The plates within that of the data, as long as the encoder says, else as they are in the model."""
        sizes = features.shape[1:-1] or [plate.size for plate in layout.inner]
        for plate, size in zip(layout.inner, sizes, strict=True):
            if plate.name not in plates:
                plates[plate.name] = pyro.plate(plate.name, size, dim=plate.dim)

    def _subsample(self, plate: pyro.plate, args: Args) -> Iterator[object]:
        size = data_size(args)
        if size not in (plate.size, plate.subsample_size):
            raise ValueError(
                f"Expected len(data) = {plate.size} or {plate.subsample_size}, the sizes of plate "
                f"{plate.name!r}, but got {size}: pass create_plates=lambda x: pyro.plate({plate.name!r}, "
                "len(x), dim=-1), in an AutoGuideList to the list."
            )
        if plate.subsample_size == size:
            return iter(args)
        return (rows(arg, size, plate.indices) for arg in args)

    def _features(self, layout: Layout, *data: object) -> Tensor:
        names = [plate.name for plate in layout.inner]
        return check_features(self._module("encoder")(*data), data_size(data), plates=names)

    def _in_turn(self, layout: Layout, features: Tensor, values: Sites) -> Iterator[Turn]:
        """Each site with its distribution and its ``infer``, given the values of the sites before."""
        parts = {site.name: (seen, head) for site, seen, head in self._parts()}
        for site in layout.sites:
            seen, head = parts[site.name]
            inputs = seen(features, values)
            posterior = check_posterior(head(inputs), site, inputs.shape[:-1])
            yield site, posterior, infer_of(head)

    @contextmanager
    def _outside_of_inference(
        self, *args: object, **kwargs: object
    ) -> Iterator[tuple[Layout, Tensor, dict[str, Seen]]]:
        """The features of all data, in a run of its own, so that no handler around sees the parameters."""
        args = as_arguments(args)
        with pyro.poutine.block(), self._pyro_context:
            layout = self._layout_outside(*args, **kwargs)
            self._register()
            features = self._features(layout, *args) if layout.sites else torch.empty(data_size(args), 0)
            seen = self._seen(layout, (), args, kwargs, rows={})
            _check_whole(layout, seen, data_size(args))
            yield layout, features, seen

    def _layout_outside(self, *args: object, **kwargs: object) -> Layout:
        """As in inference, but that what the model alone takes may be left out, as if it were as before."""
        kind = kind_of_call(args, kwargs, data_size(args))
        if kind not in self._layouts and (self.model is None or not may_be_called(self.model, args, kwargs)):
            for known, layout in self._layouts.items():
                if known[: len(args)] == kind[: len(args)]:
                    return layout
        return self._layout(*args, **kwargs)

    def _marginals(
        self, layout: Layout, features: Tensor, seen: Mapping[str, Seen]
    ) -> Iterator[tuple[str, dist.TorchDistribution]]:
        """The sites whose distribution depends on the data alone."""
        sites = self._in_turn(layout, features, self._observed(layout, seen))
        alone = islice(sites, 1 if self.structured else None)
        return ((site.name, posterior) for site, posterior, _ in alone)

    def _drawn(
        self, layout: Layout, features: Tensor, seen: Mapping[str, Seen], size: int, seed: int | None
    ) -> Sites:
        """Joint draws of all sites, (size, batch, \\*event) each."""
        drawn: Sites = {}
        values = self._observed(layout, seen)
        with seeded_draws(seed):
            for site, posterior, _ in self._in_turn(layout, features, values):
                # what depends on earlier sites has their draws in its batch shape
                drawn[site.name] = posterior.sample(() if self.structured and drawn else (size,))
                values[site.name] = _filled_in(site, drawn[site.name], seen)
        return drawn

    def _known_values(self, layout: Layout, given: Mapping[str, Tensor], batch: int) -> Sites:
        """Values of sites on which others depend."""
        sites = {site.name: site for site in layout.sites[:-1]} if self.structured else {}
        if unknown := sorted(given.keys() - sites.keys()):
            raise ValueError(
                f"Expected values of the sites that others depend on, {list(sites)}, but got {unknown}."
            )
        for name, value in given.items():
            _check_value(name, value, sites[name].event_shape, layout.plate.dim, batch)
        return dict(given)

    def _register(self) -> None:
        register(f"{self._name}.encoder", self._module("encoder"))
        for site, seen, head in self._parts():
            register(f"{self._name}.{site.name}.input", seen)
            register(f"{self._name}.{site.name}", head)

    def _parts(self) -> Iterator[tuple[LatentSite, SiteInput, nn.Module]]:
        """Each site with what makes its input, and its head."""
        return zip(self._known.values(), self._module("inputs"), self._module("heads"), strict=True)

    def _module(self, name: str) -> Any:
        # Plain attribute access of a PyroModule would register the module once more, under another name
        return self._modules[name] if name in self._modules else getattr(self, name)


@final
class EncodedData:
    """Some data as the heads of a guide see them, encoded once for however many values of the sites.

    Attributes:
        alone: the distributions of the sites that depend on the data alone, of batch shape (batch,).
    """

    def __init__(self, turns: Sequence[tuple[LatentSite, SiteInput, nn.Module]], features: Tensor) -> None:
        told = [(site, seen, head, seen.told(features)) for site, seen, head in turns]
        self.alone = {
            site.name: check_posterior(head(known), site, known.shape[:-1])
            for site, seen, head, known in told
            if not seen.earlier
        }
        self._others = [each for each in told if each[1].earlier]

    def given(self, values: Mapping[str, Tensor]) -> Distributions:
        """Those of the others, of batch shape (..., batch).

        Args:
            values: of all sites, (..., batch or 1, \\*event): where they are the same for all data, only
                what joins them to a datum is computed for each pair.
        """
        found = {}
        for site, seen, head, known in self._others:
            inputs = (seen.paired if begins_linearly(head) else seen.joined)(known, values)
            found[site.name] = check_posterior(head(inputs), site, inputs.shape[:-1])
        return found


def _check_mask(site: LatentSite, posterior: dist.TorchDistribution) -> None:
    if site.masked and not has_masks(posterior, pyro.poutine.get_mask()):
        raise NotImplementedError(
            f"Latent site {site.name!r} is masked in the model but not in the guide, which was pickled and "
            "has no model to ask for the mask: run it inside pyro.poutine.mask too, or build it anew and "
            "load its state."
        )


def _check_value(name: str, value: Tensor, event_shape: torch.Size, data_dim: int, batch: int) -> None:
    lead = value.dim() - len(event_shape)
    axis = lead + data_dim  # of the data
    if lead < 0 or value.shape[lead:] != event_shape or (axis >= 0 and value.shape[axis] not in (1, batch)):
        raise ValueError(
            f"Expected values of {name!r} for {batch} data, in axis {data_dim} before the event shape "
            f"{tuple(event_shape)}, but got shape {tuple(value.shape)}."
        )


def _check_whole(layout: Layout, seen: Mapping[str, Seen], size: int) -> None:
    part = layout.plate.subsample_size
    if seen and part is not None and part != size:
        raise NotImplementedError(
            f"The guide reads {sorted(seen)} from the model, which draws {part} of {size} rows: pass {part} "
            "rows at a time."
        )


def _whole(name: str) -> str:
    """The site that ``obs_mask`` splits, as a model calls it."""
    return name.removesuffix(UNOBSERVED)


# Handlers do not reach the elements of an event
def _masked_within(
    site: LatentSite, posterior: dist.TorchDistribution, mask: Tensor | bool, axes: int
) -> dist.TorchDistribution:
    """The posterior with a mask on elements of its event, as the model has it."""
    independent = getattr(posterior, "reinterpreted_batch_ndims", 0)
    if independent < axes:
        raise NotImplementedError(
            f"Latent site {site.name!r} is masked in the model element by element, which "
            f"{type(posterior).__name__} is not made of: give the site a head that returns "
            "distribution.mask(...).to_event(...)."
        )
    base = posterior.base_dist.to_event(independent - axes)
    masked: dist.TorchDistribution = base.mask(mask).to_event(axes)
    return masked


def _filled_in(site: LatentSite, value: Tensor, seen: Mapping[str, Seen]) -> Tensor:
    """The value that later sites see: what the model observes of a site that obs_mask splits is known."""
    half = seen.get(_whole(site.name) + OBSERVED) if site.name.endswith(UNOBSERVED) else None
    if half is None or site.name not in seen:
        return value
    for mask, axes in seen[site.name].masks:
        hidden = torch.as_tensor(mask, device=value.device)
        hidden = hidden.reshape(hidden.shape + (1,) * (len(site.event_shape) - axes))
        value = torch.where(hidden, value, half.value)
    return value


def _forget_values(trace: Trace) -> None:
    # The guide would carry the data, and priors with parameters, into copies and pickles
    latent = set(trace.stochastic_nodes)
    for name in [name for name in trace.nodes if name not in latent]:
        trace.remove_node(name)
    for site in cast(dict[str, Site], trace.nodes).values():
        site.update(fn=None, value=None)
