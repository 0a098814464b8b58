"""The account and the evidence that the library reports, against the tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pyro
import torch

from pyro_infomax import decompose
from pyro_infomax.diagnostics import evidence
from tests.fuzz.account import Account, account_of
from tests.fuzz.checks import SILENT, Outcome, outcome
from tests.fuzz.emit import built
from tests.fuzz.spec import Pair

_SIGMAS: Final = 6.0
_SEEDS: Final = 3


def _globals_of(pair: Pair) -> dict[str, torch.Tensor]:
    """Values of the global latents that are not those of the guide's median."""
    return {
        site.name: torch.tensor(0.0 if site.discrete else 0.25 if site.event is None else [0.25, -0.5])
        for site in pair.guide
        if site.level == "global" and not site.auxiliary
    }


def _scalars(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The values by name, those of a vector one by one."""
    found = {}
    for name, value in values.items():
        elements = (
            [(name, value)] if value.numel() == 1 else [(f"{name}~{n}", v) for n, v in enumerate(value)]
        )
        found |= {one: float(element) for one, element in elements}
    return found


@dataclass(frozen=True)
class AccountCheck:
    """``decompose`` of a pair; chance alone does not fail three times.

    Attributes:
        given: whether values of the global latents are passed, not left to the guide's median.
    """

    validate: bool
    num_samples: int = 60
    given: bool = False

    def __call__(self, pair: Pair) -> Outcome:
        for seed in range(_SEEDS):
            found = outcome("decompose", lambda seed=seed: self._compared(pair, seed))
            if found.kind != SILENT:
                return found
        return found

    def simpler(self) -> "Iterator[AccountCheck]":
        if not self.validate:
            yield replace(self, validate=True)

    def script(self) -> str:
        return """
from pyro_infomax import decompose

print(decompose(model, guide, data, num_samples=1000, seed=0))
"""

    def _compared(self, pair: Pair, seed: int) -> dict[str, tuple[Any, float, float]]:
        made = built(pair)
        draws = self.num_samples * 4**seed
        options: dict[str, Any] = {}
        if self.given and (values := _globals_of(pair)):
            options["global_values"] = values
        with pyro.validation_enabled(self.validate):
            account = decompose(made.model, made.guide, made.data, num_samples=draws, seed=seed, **options)
        exact = account_of(pair, _scalars(account.global_values))
        found = {
            "distortion": _against(account.distortion, exact.distortion),
            "rate": _against(account.rate, exact.rate),
            "elbo": _against(account.elbo, -exact.distortion - exact.rate),
        }
        names = (
            "mutual_information",
            "marginal_kl",
            "total_correlation",
            "prior_dependence",
            "conditional_total_correlation",
            "data_entropy",
        )
        for name in names:
            value = getattr(exact, name)
            if value is not None:
                found[name] = _against(getattr(account, name), value)
        if exact.total_correlation is not None and exact.conditional_total_correlation is not None:
            redundancy = exact.total_correlation - exact.conditional_total_correlation
            found["redundancy"] = _against(account.redundancy, redundancy)
        if account.decoder_gap is not None and exact.mutual_information is not None:
            gap = exact.distortion - exact.data_entropy + exact.mutual_information
            found["decoder_gap"] = _against(account.decoder_gap, gap)
        for name in ("dimensionwise_kl", "dimensionwise_rate", "site_rate", "site_distortion"):
            estimates, right = getattr(account, name), getattr(exact, name)
            if estimates is None or right is None:
                continue
            for label, estimate in zip(account.axis(name)[1], estimates, strict=True):
                if label in right:  # what is summed out together has one cost
                    found[f"{name}[{label}]"] = _against(estimate, right[label])
        if exact.mean_variance is not None and account.active_units is not None:
            variances = exact.mean_variance.values()
            if all(abs(each - 0.01) > 0.003 for each in variances):
                found["active_units"] = (account.active_units, sum(each > 0.01 for each in variances), 0.0)
        if _summed_with_latents(pair):
            # the account divides such a sum into p(z) and p(x|z), the oracle leaves it whole
            return {"elbo": found["elbo"]}
        return found


def _summed_with_latents(pair: Pair) -> bool:
    """Whether the model sums over a site that a latent site of the guide depends on."""
    enumerated = {site.name for site in pair.enumerated_in_model}
    return any(enumerated & set(site.parents) and pair.of_guide(site.name) for site in pair.latents)


def _against(estimate: Any, exact: float) -> tuple[Any, float, float]:
    if estimate is None:
        return None, exact, 0.0
    error = float(estimate.standard_error)
    if not error:  # a grid is right to six digits
        return float(estimate.value), exact, 1e-5
    # a grid is right to some digits, and rare values are missed by few draws
    return float(estimate.value), exact, _SIGMAS * error + 2e-4 * (error > 0)


@dataclass(frozen=True)
class EvidenceCheck:
    """``evidence`` of a pair, a lower bound in expectation."""

    validate: bool
    num_samples: int = 400

    def __call__(self, pair: Pair) -> Outcome:
        exact = account_of(pair, _scalars(_globals_of(pair)))
        for seed in range(_SEEDS):
            found = outcome("evidence", lambda seed=seed: self._compared(pair, exact, seed))
            if found.kind != SILENT:
                return found
        return found

    def simpler(self) -> "Iterator[EvidenceCheck]":
        if not self.validate:
            yield replace(self, validate=True)

    def script(self) -> str:
        return """
from pyro_infomax.diagnostics import evidence

print(evidence(model, guide, data, num_samples=2000, seed=0).per_datum)
"""

    def _compared(self, pair: Pair, exact: Account, seed: int) -> dict[str, tuple[Any, float, float]]:
        made = built(pair)
        values = _globals_of(pair)
        options = {"global_values": values} if values else {}
        number = self.num_samples if pair.plate == "length" else 100  # which may take a run a draw
        with pyro.validation_enabled(self.validate):
            bounds = evidence(made.model, made.guide, made.data, num_samples=number, seed=seed, **options)
        found = {}
        for n, value in enumerate(exact.log_evidence or ()):
            assert exact.weight_variance is not None
            variance = max(0.0, exact.weight_variance[n])
            if variance > 20:  # weights of which a sample tells little
                continue
            error = (variance / number) ** 0.5
            tolerance = _SIGMAS * error + variance / number + 1e-6
            found[f"log_evidence[{n}]"] = (float(bounds.per_datum[n]), value, tolerance)
        return found
