"""The weight of an objective as users write it: a number, a tensor, a schedule, or one of these a site."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias, final

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample

from pyro_infomax.poutine import SiteWeightMessenger, Weight, checked_weight

# ---- objective weight

WeightLike: TypeAlias = Weight | Callable[[int], float]
WeightsLike: TypeAlias = WeightLike | Mapping[str, WeightLike]

# What pyro.sample(..., obs_mask=...) appends to the name of a site that it splits.
_SPLIT = ("_observed", "_unobserved")


class ResolvedWeights(NamedTuple):
    """The weights of one evaluation, by role and by name."""

    observed: Weight
    latent: Weight
    by_name: Mapping[str, Weight]

    def of(self, name: str, *, observed: bool) -> Weight:
        """What a site counts for; a name covers both halves of a site that was split by ``obs_mask``."""
        for candidate in (name, *(name.removesuffix(end) for end in _SPLIT)):
            if candidate in self.by_name:
                return self.by_name[candidate]
        return self.observed if observed else self.latent

    def ambiguous(self, name: str, sites: Iterable[str]) -> list[str]:
        """The sites that only look like halves of a named site that was not split."""
        halves = {name + end for end in _SPLIT}
        return [site for site in sites if site in halves and site not in self.by_name]


@final
class ObjectiveWeight:
    r"""One weight :math:`\text{offset} + v`, or one a site, each possibly a function of the training step.

    Args:
        name: how the weight is called in errors, ``"beta"`` or ``"lam"``.
        value: what the user gave.
        role: the sites that a bare weight is for, ``"observed"`` or ``"latent"``.
        offset: what is added to v: 1 for the InfoMax weight, whose v must be > -1.

    Raises:
        ValueError: where v is no number, not finite, or offset + v is outside the range where the objective
            is bounded.
    """

    def __init__(self, name: str, value: WeightsLike, *, role: str, offset: float = 0.0) -> None:
        self.name = name
        self.value = value
        self._role = role
        self._offset = offset
        self._names = {f"{name}[{site!r}]": site for site in value} if isinstance(value, Mapping) else {}
        self._items: dict[str, WeightLike] = (
            {label: value[site] for label, site in self._names.items()}
            if isinstance(value, Mapping)
            else {name: value}
        )
        self._numbers: ResolvedWeights | None = None
        resolved = [self.at(step, check_tensors=True) for step in (0, self.duration)]
        if all(isinstance(item, int | float) for item in self._items.values()):
            self._numbers = resolved[0]

    @property
    def sites(self) -> frozenset[str]:
        """The sites that a mapping names; none for a bare weight."""
        return frozenset(self._names.values())

    @property
    def duration(self) -> int:
        """The number of training steps after which every schedule stands at its end value."""
        return max((getattr(item, "duration", 0) for item in self._items.values()), default=0)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the weights are called."""
        return tuple(self._items)

    def variable(self, step: int, *, numbers: bool = False) -> dict[str, torch.Tensor]:
        """The weights that may change from step to step, schedules and tensors, as :meth:`at` takes them.

        With ``numbers``, all weights.
        """
        return {
            label: _as_tensor(self._resolve(label, item, step, check_tensors=False))
            for label, item in self._items.items()
            if numbers or not isinstance(item, int | float)
        }

    def at(
        self, step: int, *, check_tensors: bool = False, given: Mapping[str, torch.Tensor] | None = None
    ) -> ResolvedWeights:
        """The weights after ``step`` training steps; checking a tensor's value waits for its device.

        Values that are given take the place of those of :meth:`variable`.
        """
        given = given or {}
        if self._numbers is not None and not given:
            return self._numbers
        weights = {
            label: given[label] if label in given else self._resolve(label, item, step, check_tensors)
            for label, item in self._items.items()
        }
        if self._names:
            return ResolvedWeights(1.0, 1.0, {self._names[label]: w for label, w in weights.items()})
        bare = weights.get(self.name, 1.0)  # an empty mapping weighs nothing
        return ResolvedWeights(bare, 1.0, {}) if self._role == "observed" else ResolvedWeights(1.0, bare, {})

    def _resolve(self, label: str, item: WeightLike, step: int, check_tensors: bool) -> Weight:
        value = item(step) if callable(item) and not isinstance(item, torch.Tensor) else item
        if check_tensors or not isinstance(value, torch.Tensor):
            checked_weight(label, value, above=-self._offset if self._offset else None)
        # Descending on a learnable weight would only drive it to where the objective is smallest.
        return self._offset + (value.detach() if isinstance(value, torch.Tensor) else value)


# Without axes, it leaves the dtype of what it weighs alone, as a number does.
def _as_tensor(value: Weight) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)


# ---- Messengers that weigh a model and its guide, each by its role.
#
# One messenger for both would be wrong: a factor in a guide is observed to Pyro, yet belongs to the rate.


@final
class GuideRole(SiteWeightMessenger):
    """Weighs every site of a guide as latent.

    A guide that is itself a messenger runs the model within it, so that its observed sites are the model's.

    Args:
        weights: the weights of this evaluation.
        guide: the program to be weighed.
        refuse_enumeration: the sentence to raise where a site asks for enumeration, None where the estimator
            enumerates.
    """

    def __init__(
        self, weights: ResolvedWeights, guide: Callable[..., Any], *, refuse_enumeration: str | None
    ) -> None:
        super().__init__()
        self.weights = weights
        self.runs_model = isinstance(poutine.unwrap(guide), poutine.messenger.Messenger)
        self.refuse_enumeration = refuse_enumeration
        self.sites: set[str] = set()

    def site_weight(self, msg: Any) -> Weight:
        return self.weights.of(msg["name"], observed=self.runs_model and msg["is_observed"])

    def _pyro_sample(self, msg: Any) -> None:
        self.sites.add(msg["name"])
        latent = not (msg["is_observed"] or site_is_subsample(msg))
        if self.refuse_enumeration and latent and msg["infer"].get("enumerate"):
            raise NotImplementedError(self.refuse_enumeration.format(site=msg["name"]))
        super()._pyro_sample(msg)


@final
class ModelRole(SiteWeightMessenger):
    """Weighs the sites of a model, and sees that the guide, which ran before, has sampled every latent one.

    Args:
        weights: the weights of this evaluation.
        guide: the role of the guide that the model is replayed against.
    """

    def __init__(self, weights: ResolvedWeights, guide: GuideRole) -> None:
        super().__init__()
        self.weights = weights
        self.guide = guide

    def site_weight(self, msg: Any) -> Weight:
        return self.weights.of(msg["name"], observed=msg["is_observed"])

    def _pyro_sample(self, msg: Any) -> None:
        if not (msg["is_observed"] or site_is_subsample(msg) or msg["name"] in self.guide.sites):
            self._check_enumerated(msg)
        super()._pyro_sample(msg)

    def _check_enumerated(self, msg: Any) -> None:
        if not msg["infer"].get("enumerate"):
            raise ValueError(
                f"Expected the guide to sample every latent site of the model but it lacks {msg['name']!r}: "
                "sample it in the guide, or enumerate it in the model and use a TraceEnum objective"
            )
        if self.guide.refuse_enumeration:
            raise NotImplementedError(self.guide.refuse_enumeration.format(site=msg["name"]))
