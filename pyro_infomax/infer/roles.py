"""Messengers that weigh a model and its guide, each by its role.

One messenger for both would be wrong: a factor in a guide is observed to Pyro, yet belongs to the rate.
"""

from collections.abc import Callable
from typing import Any, final

from pyro import poutine
from pyro.poutine.util import site_is_subsample

from pyro_infomax.infer.objective_weight import ResolvedWeights
from pyro_infomax.poutine import SiteWeightMessenger, Weight

__all__ = ["GuideRole", "ModelRole"]


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
