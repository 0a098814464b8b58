"""Weights of an objective's terms as users write them, and the messengers that bring them to the sites."""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, TypeAlias, final

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample

from pyro_infomax._recording import is_recording
from pyro_infomax._types import Program, Site
from pyro_infomax.poutine import SiteWeightMessenger, Weight, checked_weight, is_deterministic

# ---- One weight: a number, a tensor, a schedule, or one of these a site.

WeightLike: TypeAlias = Weight | Callable[[int], float]
WeightsLike: TypeAlias = WeightLike | Mapping[str, WeightLike]

# What pyro.sample(..., obs_mask=...) appends to the name of a site that it splits.
_SPLIT = ("_observed", "_unobserved")


class SiteWeights(NamedTuple):
    """What one term counts for at each site: by its name, or else the same everywhere."""

    everywhere: Weight
    by_name: Mapping[str, Weight]

    def of(self, name: str) -> Weight:
        """The weight at a site; a name covers both halves of a site that was split by ``obs_mask``."""
        return _named(name, self.by_name, self.everywhere)


def _named(name: str, by_name: Mapping[str, Weight], otherwise: Weight) -> Weight:
    for candidate in (name, *(name.removesuffix(end) for end in _SPLIT)):
        if candidate in by_name:
            return by_name[candidate]
    return otherwise


@final
class TermWeight:
    r"""The weight of one term, :math:`\text{offset} + v`, possibly one for each site or scheduled.

    The sum has to be greater than ``above``: None for at least 0, −inf for any finite number. The offset is 1
    for the InfoMax weight. Errors call the weight by its label, ``"beta"`` or ``"lam"``.
    """

    def __init__(
        self, label: str, value: WeightsLike, *, above: float | None = None, offset: float = 0.0
    ) -> None:
        self.label = label
        self.value = value
        self._above, self._offset = above, offset
        self._names = {f"{label}[{site!r}]": site for site in value} if isinstance(value, Mapping) else {}
        self._items: dict[str, WeightLike] = (
            {name: value[site] for name, site in self._names.items()}
            if isinstance(value, Mapping)
            else {label: value}
        )
        for step in (0, self.duration):
            self.at(step, check_tensors=True)

    def replaced(self, value: WeightsLike) -> "TermWeight":
        """The same weight with another value."""
        return TermWeight(self.label, value, above=self._above, offset=self._offset)

    @property
    def sites(self) -> frozenset[str]:
        """The sites that a mapping names; none for a bare weight."""
        return frozenset(self._names.values())

    def ambiguous(self, name: str, sites: Iterable[str]) -> list[str]:
        """The sites that only look like halves of a named site that was not split."""
        halves = {name + end for end in _SPLIT}
        return [site for site in sites if site in halves and site not in self.sites]

    @property
    def duration(self) -> int:
        """The number of training steps after which every schedule stands at its end value."""
        return max((getattr(item, "duration", 0) for item in self._items.values()), default=0)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the weights are called."""
        return tuple(self._items)

    @property
    def is_constant(self) -> bool:
        """Whether it is made of numbers alone."""
        return all(isinstance(item, int | float) for item in self._items.values())

    def variable(self, step: int, *, numbers: bool = False) -> dict[str, torch.Tensor]:
        """The weights that may change from step to step, schedules and tensors; with ``numbers``, all."""
        return {
            label: _as_tensor(self._resolve(label, item, step, check_tensors=False))
            for label, item in self._items.items()
            if numbers or not isinstance(item, int | float)
        }

    def ahead(self, step: int, steps: int, *, numbers: bool = False) -> dict[str, Sequence[torch.Tensor]]:
        """The same for each of so many training steps from ``step`` on."""
        return {
            label: self._ahead(label, item, step, steps)
            for label, item in self._items.items()
            if numbers or not isinstance(item, int | float)
        }

    def _ahead(self, label: str, item: WeightLike, step: int, steps: int) -> Sequence[torch.Tensor]:
        if not callable(item) or isinstance(item, torch.Tensor):
            return [_as_tensor(self._resolve(label, item, step, check_tensors=False))] * steps
        values = [self._resolve(label, item, each, False) for each in range(step, step + steps)]
        if any(isinstance(value, torch.Tensor) for value in values):
            return list(map(_as_tensor, values))
        return torch.tensor(values, dtype=torch.float64).unbind()

    def at(
        self, step: int, *, check_tensors: bool = False, given: Mapping[str, torch.Tensor] | None = None
    ) -> SiteWeights:
        """The weights after ``step`` training steps; checking a tensor's value waits for its device.

        Values that are given take the place of those of :meth:`variable`.
        """
        given = given or {}
        weights = {
            label: given[label] if label in given else self._resolve(label, item, step, check_tensors)
            for label, item in self._items.items()
        }
        if isinstance(self.value, Mapping):
            # Sites that a mapping does not name keep weight 1
            return SiteWeights(1.0, {self._names[label]: weight for label, weight in weights.items()})
        return SiteWeights(weights[self.label], {})

    def _resolve(self, label: str, item: WeightLike, step: int, check_tensors: bool) -> Weight:
        value = item(step) if callable(item) and not isinstance(item, torch.Tensor) else item
        if check_tensors or not isinstance(value, torch.Tensor):
            checked_weight(label, value, above=self._above)
        # Descending on a learnable weight would only drive it to where the objective is smallest.
        return self._offset + (value.detach() if isinstance(value, torch.Tensor) else value)


# Without axes, it leaves the dtype of what it weighs alone, as a number does.
def _as_tensor(value: Weight) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)


# ---- The weights of all terms of an objective.


class ResolvedWeights(NamedTuple):
    """The weights of one evaluation: those that messengers bring to the sites, and those of further terms."""

    observed: Weight
    latent: Weight
    by_name: Mapping[str, Weight]
    terms: Mapping[str, SiteWeights] = {}

    def of(self, name: str, *, observed: bool) -> Weight:
        """What a site counts for, by its name or else its role."""
        return _named(name, self.by_name, self.observed if observed else self.latent)

    def of_term(self, term: str, name: str) -> Weight:
        """What a term counts for at a site; 1 where no weight is given."""
        return self.terms[term].of(name) if term in self.terms else 1.0


@final
class TermWeights(MutableMapping[str, WeightsLike]):
    """The weights of an objective by term, as they were given; a term can be given another weight.

    Args:
        given: a weight for each term that has one.
        rate_by_sites: whether the rate's weight is brought to the sites by messengers, as the distortion's
            is, or left to whoever computes the rate.

    Raises:
        ValueError: where a weight is out of range.

    Example:
        >>> weights = TermWeights({"rate": TermWeight("beta", 4.0)})
        >>> weights["rate"] = 2.0
        >>> dict(weights)
        {'rate': 2.0}
        >>> weights["rate"] = -1.0
        Traceback (most recent call last):
        ValueError: Expected beta >= 0 but got -1.0
    """

    def __init__(
        self, given: Mapping[str, "TermWeight | WeightsLike"], *, rate_by_sites: bool = True
    ) -> None:
        self._by_term: dict[str, TermWeight] = {}
        self._rate_by_sites = rate_by_sites
        self._constant: ResolvedWeights | None = None
        for term, weight in given.items():
            self._set(term, weight)
        self._settle()

    def __getitem__(self, term: str) -> WeightsLike:
        if is_recording():
            raise RuntimeError(
                f"an objective reads its weight of {term!r}, which a recorded step would keep for ever: "
                "leave weighting to the objective, or read an attribute"
            )
        return self._by_term[term].value

    def __setitem__(self, term: str, value: "TermWeight | WeightsLike") -> None:
        if term not in self._by_term:
            raise KeyError(f"Expected one of the weighted terms {list(self)} but got {term!r}.")
        self._set(term, value)
        self._settle()

    def __contains__(self, term: object) -> bool:
        return term in self._by_term

    def __delitem__(self, term: str) -> None:
        raise TypeError(f"The terms of an objective are fixed: give {term!r} the weight 0.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_term)

    def __len__(self) -> int:
        return len(self._by_term)

    @property
    def all(self) -> tuple[TermWeight, ...]:
        """The weight of each term, another object for each that was ever set."""
        return tuple(self._by_term.values())

    @property
    def labels(self) -> tuple[str, ...]:
        """What the weights are called."""
        return tuple(label for each in self.all for label in each.labels)

    @property
    def label_of_sites(self) -> str:
        """What the weight is called by which a mapping would weigh sites."""
        return next((self._by_term[term].label for term in ("rate", "distortion") if term in self), "weights")

    @property
    def duration(self) -> int:
        """The number of training steps after which every schedule stands at its end value."""
        return max((each.duration for each in self.all), default=0)

    def variable(self, step: int, *, numbers: bool = False) -> dict[str, torch.Tensor]:
        """The weights that may change from step to step; with ``numbers``, all weights."""
        return {
            label: value for each in self.all for label, value in each.variable(step, numbers=numbers).items()
        }

    def ahead(self, step: int, steps: int, *, numbers: bool = False) -> list[tuple[torch.Tensor, ...]]:
        """For each of so many training steps from ``step`` on the values of :meth:`variable`."""
        columns = {
            label: column
            for each in self.all
            for label, column in each.ahead(step, steps, numbers=numbers).items()
        }
        return list(zip(*columns.values(), strict=True)) if columns else [()] * steps

    def at(
        self, step: int, *, check_tensors: bool = False, given: Mapping[str, torch.Tensor] | None = None
    ) -> ResolvedWeights:
        """The weights after ``step`` training steps; given values replace those of :meth:`variable`."""
        if self._constant is not None and not given:
            return self._constant
        terms = {
            term: each.at(step, check_tensors=check_tensors, given=given)
            for term, each in self._by_term.items()
        }
        by_sites = [term for term in ("distortion", "rate")[: 1 + self._rate_by_sites] if term in terms]
        roles = {term: terms.pop(term) for term in by_sites}
        by_name = {name: weight for each in roles.values() for name, weight in each.by_name.items()}
        observed, latent = (
            roles[term].everywhere if term in roles else 1.0 for term in ("distortion", "rate")
        )
        return ResolvedWeights(observed, latent, by_name, terms)

    def _set(self, term: str, given: TermWeight | WeightsLike) -> None:
        if not isinstance(given, TermWeight):
            before = self._by_term.get(term)
            above = None if term in ("distortion", "rate") else -float("inf")
            given = before.replaced(given) if before else TermWeight(term, given, above=above)
        # One site has one weight for each of the two, whoever brings it there
        other = self._by_term.get({"distortion": "rate", "rate": "distortion"}.get(term, ""))
        if other is not None and (twice := given.sites & other.sites):
            raise ValueError(f"Expected one weight a site but got two for {sorted(twice)}.")
        self._by_term[term] = given

    def _settle(self) -> None:
        self._constant = None
        if all(each.is_constant for each in self.all):
            self._constant = self.at(0)


# ---- Messengers that weigh a model and its guide, each by its role.
#
# One messenger for both would be wrong: a factor in a guide is observed to Pyro, yet belongs to the rate.


@final
class GuideRole(SiteWeightMessenger):
    """Weighs every site of a guide as latent.

    A guide that is itself a messenger runs the model within it, so that its observed sites are the model's.
    ``refuse_enumeration`` is the sentence to raise where a site asks for it, None where it is done.
    """

    def __init__(self, weights: ResolvedWeights, guide: Program, *, refuse_enumeration: str | None) -> None:
        super().__init__()
        self.weights = weights
        self.runs_model = isinstance(poutine.unwrap(guide), poutine.messenger.Messenger)
        self.refuse_enumeration = refuse_enumeration
        self.sites: dict[str, Site] = {}

    def site_weight(self, msg: Site) -> Weight:
        return self.weights.of(msg["name"], observed=self.runs_model and msg["is_observed"])

    def _pyro_sample(self, msg: Site) -> None:
        latent = not (msg["is_observed"] or site_is_subsample(msg))
        if self.refuse_enumeration and latent and msg["infer"].get("enumerate"):
            raise NotImplementedError(self.refuse_enumeration.format(site=msg["name"]))
        super()._pyro_sample(msg)

    # What handlers around the guide make of a site stands only now
    def _pyro_post_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg):
            self.sites[msg["name"]] = msg


@final
class ModelRole(SiteWeightMessenger):
    """Weighs the sites of a model, and sees that the guide, run before, draws all its latent sites alone."""

    def __init__(self, weights: ResolvedWeights, guide: GuideRole) -> None:
        super().__init__()
        self.weights = weights
        self.guide = guide
        self.sites: set[str] = set()

    def site_weight(self, msg: Site) -> Weight:
        return self.weights.of(msg["name"], observed=msg["is_observed"])

    def __exit__(self, kind: Any, *error: Any) -> None:
        super().__exit__(kind, *error)
        if kind is None:
            self._check_guide()

    def _pyro_sample(self, msg: Site) -> None:
        if not (msg["is_observed"] or site_is_subsample(msg)):
            twin = self.guide.sites.get(msg["name"])
            if twin is None:
                self._check_enumerated(msg)
            elif twin["is_observed"]:
                raise ValueError(
                    f"Expected the guide to draw {msg['name']!r} or to leave it out but it is observed "
                    "there: leave it out of the guide, and condition the model alone"
                )
        super()._pyro_sample(msg)

    def _pyro_post_sample(self, msg: Site) -> None:
        self.sites.add(msg["name"])
        twin = self.guide.sites.get(msg["name"])
        if twin is not None:
            check = _check_left_to_the_model if msg["is_observed"] else _check_same_plates
            check(msg, twin)

    def _check_enumerated(self, msg: Site) -> None:
        name = msg["name"]
        if not msg["infer"].get("enumerate"):
            how = f"enumerate it in the model and use a TraceEnum objective{_how_to_enumerate(name)}"
            raise ValueError(
                f"Expected the guide to sample every latent site of the model but it lacks {name!r}: "
                f"sample it in the guide, or {how}"
            )
        if self.guide.refuse_enumeration:
            raise NotImplementedError(self.guide.refuse_enumeration.format(site=name))

    def _check_guide(self) -> None:
        for name, site in self.guide.sites.items():
            if (
                name not in self.sites
                and not site["infer"].get("is_auxiliary")
                and not is_deterministic(site)
            ):
                raise ValueError(
                    f"Expected every site of the guide to be one of the model or auxiliary but {name!r} is "
                    "neither: mark it infer={'is_auxiliary': True}, or leave it out where the model does"
                )


# The guide would pay for its draw, which the model does not see
def _check_left_to_the_model(site: Site, twin: Site) -> None:
    name = site["name"]
    if is_deterministic(site) and is_deterministic(twin):
        return
    does = "has it too" if twin["is_observed"] else "draws it"
    if is_deterministic(site):
        raise ValueError(
            f"Expected the guide to draw latent sites of the model but {name!r} is computed there and the "
            f"guide {does}: draw what it is computed from (with obs_mask, '{name}_unobserved' under its mask)"
        )
    raise ValueError(
        f"Expected the guide to leave out what the model observes but {name!r} is observed and the guide "
        f"{does}: let the guide sample {name!r} only in calls in which the model does, `if y is None: ...`; "
        "an amortised guide does so where it is made from this very model, pyro.condition included"
    )


# Pyro compares sizes alone, and only in validation
def _check_same_plates(site: Site, twin: Site) -> None:
    found, expected = _plates(twin), _plates(site)
    if found != expected:
        raise ValueError(
            f"Expected {site['name']!r} in the same plates in both programs but got, as (axis, size, full "
            f"size), {sorted(expected)} in the model and {sorted(found)} in the guide: use the same plates "
            "in both, with the same subsample_size"
        )


def _plates(site: Site) -> set[tuple[int, int, int]]:
    frames = site["cond_indep_stack"]
    return {
        (f.dim or 0, f.size, f.full_size or f.size) for f in frames if f.vectorized or f.full_size != f.size
    }


def _how_to_enumerate(name: str) -> str:
    # Pyro drops the infer= of a site with an obs_mask
    return " (beside obs_mask by pyro.infer.config_enumerate(model))" if name.endswith(_SPLIT[1]) else ""
