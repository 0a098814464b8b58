"""Runs the checks of many pairs, counts what came of them, and makes scripts of those that failed."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tests.fuzz.channel import ChannelCheck, channel_checks, draw_channel
from tests.fuzz.checks import RAW, REFUSED, RIGHT, SILENT, UNKNOWN, Objective, Outcome, objective_checks
from tests.fuzz.critic_checks import CriticCheck, critic_checks
from tests.fuzz.diagnostics_checks import AccountCheck, EvidenceCheck
from tests.fuzz.discrepancy_checks import discrepancy_checks
from tests.fuzz.emit import HEADER, source_of
from tests.fuzz.family_checks import SleepCheck, family_checks
from tests.fuzz.more_checks import CaptureCheck, RenyiCheck, bound_checks
from tests.fuzz.shrink import shrunk
from tests.fuzz.spec import Pair, draw

KINDS = (RIGHT, REFUSED, UNKNOWN, RAW, SILENT)
CHANNELS = 10  # one for so many pairs


@dataclass(frozen=True)
class Failure:
    """A pair that gave a wrong number without a word."""

    seed: int
    check: Any
    outcome: Outcome

    @property
    def line(self) -> str:
        return f"{SILENT} (pair {self.seed}): {self.outcome.check}: {self.outcome.reason}"

    @property
    def family(self) -> str:
        """Failures of one family are likely one fault."""
        return f"{self.outcome.check.split('_')[0]} {self.outcome.reason}"


@dataclass
class Tally:
    """What came of some pairs."""

    pairs: int = 0
    counts: Counter = field(default_factory=Counter)  # by check and kind
    reasons: Counter = field(default_factory=Counter)  # by kind, check and reason
    features: Counter = field(default_factory=Counter)
    seeds: dict[Any, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def add(self, seed: int, check: Any, found: Outcome) -> None:
        name = found.check.split(".")[0].removesuffix(" of two")
        self.counts[name, found.kind] += 1
        if found.kind in (REFUSED, RAW):
            key = (found.kind, _without_names(found.reason))
            self.reasons[key] += 1
            self.seeds.setdefault(key, seed)
        if found.kind == SILENT:
            self.failures.append(Failure(seed, check, found))

    def update(self, other: "Tally") -> None:
        self.pairs += other.pairs
        self.counts += other.counts
        self.reasons += other.reasons
        self.features += other.features
        self.seeds = other.seeds | self.seeds
        self.failures += other.failures


def _without_names(reason: str) -> str:
    """One reason for all sites and classes."""
    for name in ("Trace_", "TraceMeanField_", "TraceGraph_", "TraceEnum_", "Renyi_"):
        for objective in ("BetaELBO", "InfoMaxELBO", "WeightedELBO"):
            reason = reason.replace(f"{name}{objective}", f"{name}…")
    for site in (*"abcduxy",):
        reason = reason.replace(f"'{site}'", "'…'")
    return re.sub(r"\[[^\]]*\]|\{[^}]*\}|\d+", "…", reason)[:160]


def checks_of(pair: Pair, *, objectives: int = 3, everything: bool = False) -> Iterator[Any]:
    """The checks of a pair: a few of all, by its seed."""
    rng = np.random.default_rng([pair.seed, 41])
    checks = list(objective_checks(pair, rng))
    shares = np.array([_share(pair, check.objective) for check in checks])
    order = rng.choice(len(checks), size=len(checks), replace=False, p=shares / shares.sum())
    yield from (checks[n] for n in (order if everything else order[:objectives]))
    validate = bool(rng.random() < 0.5)
    if everything or rng.random() < 0.35:
        yield AccountCheck(validate, given=bool(rng.random() < 0.5))
    if everything or rng.random() < 0.1:
        yield EvidenceCheck(validate)
    alpha, lam = float(rng.choice([0.0, 0.5, 2.0])), float(rng.choice([0.0, 1.0]))
    two = rng.random() < 0.3
    if not pair.sequential and (everything or rng.random() < 0.3):
        yield RenyiCheck(alpha, lam, validate, two=bool(two))
    if everything or rng.random() < 0.03:
        yield CaptureCheck(checks[int(order[0])].objective, validate)
    others = np.random.default_rng([pair.seed, 42])
    kinds = (family_checks, bound_checks, discrepancy_checks, critic_checks)
    family = [check for kind in kinds for check in kind(pair, others)]
    chosen = others.permutation(len(family))
    yield from (family[n] for n in (chosen if everything else chosen[: (objectives + 1) // 2]))
    captured = [family[n] for n in chosen if not isinstance(family[n], (RenyiCheck, SleepCheck, CriticCheck))]
    if captured and (everything or others.random() < 0.03):
        yield CaptureCheck(captured[0], validate)


def objective_of(check: Any) -> str | None:
    """The public name of the objective that a check is of; None for one of something else."""
    cls = getattr(getattr(check, "objective", check), "cls", None)
    return cls or getattr(check, "source", "").split("(")[0] or None


def _share(pair: Pair, objective: Objective) -> float:
    """How often an objective is tried: seldom where it is slow, or is sure to refuse."""
    enumerated = any(site.enumerated for site in (*pair.model, *pair.guide))
    if enumerated and not objective.enumerates:
        return 0.1
    if objective.cls.startswith("TraceMeanField") and any(site.discrete for site in pair.guide):
        return 0.1
    return 0.4 if objective.cls.startswith("TraceGraph") else 1.0


def settle() -> None:
    """The state of torch and Pyro in which all checks run."""
    logging.getLogger("pyro").setLevel(logging.WARNING)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)


def run_seeds(seeds: range) -> Tally:
    """The checks of the pairs of these seeds."""
    settle()
    tally = Tally()
    for seed in seeds:
        pair = draw(seed)
        tally.pairs += 1
        tally.features.update(pair.features)
        torch.manual_seed(seed)
        for check in checks_of(pair):
            tally.add(seed, check, check(pair))
        if seed % CHANNELS == 0:
            for check in channel_checks(seed):
                tally.add(seed, check, check())
    return tally


def run(first: int, number: int, *, jobs: int, progress: Any = None) -> Tally:
    """The checks of many pairs, in several processes; those made so far where it is interrupted."""
    tally = Tally()
    size = max(1, min(25, number // max(1, jobs)))
    parts = [range(n, min(n + size, first + number)) for n in range(first, first + number, size)]
    with ExitStack() as stack:
        stack.enter_context(suppress(KeyboardInterrupt))
        pool = stack.enter_context(ProcessPoolExecutor(jobs)) if jobs > 1 else None
        for found in map(run_seeds, parts) if pool is None else pool.map(run_seeds, parts):
            tally.update(found)
            if progress:
                progress(tally)
    return tally


# ---- what is printed


def table_of(tally: Tally) -> Iterator[str]:
    names = sorted({name for name, _ in tally.counts})
    yield f"{tally.pairs} pairs"
    yield f"{'':28}" + "".join(f"{kind:>14}" for kind in KINDS)
    for name in names:
        yield f"{name:28}" + "".join(f"{tally.counts[name, kind]:>14}" for kind in KINDS)
    sums = [sum(tally.counts[name, kind] for name in names) for kind in KINDS]
    yield f"{'all':28}" + "".join(f"{total:>14}" for total in sums)
    yield ""
    for kind in (REFUSED, RAW):
        for (found, reason), count in tally.reasons.most_common():
            if found == kind:
                yield f"{count:7} {kind} (pair {tally.seeds[found, reason]}): {reason}"
    for failure in tally.failures:
        yield failure.line
    yield ""
    yield "pairs with: " + ", ".join(f"{name} {count}" for name, count in tally.features.most_common())


def shrunk_failure(failure: Failure) -> tuple[Pair, Any, Outcome]:
    """The simplest pair and check that fail in the same way."""
    settle()
    if isinstance(failure.check, ChannelCheck):  # which is small as it is
        return draw_channel(failure.seed), failure.check, failure.outcome
    check = failure.check
    wrong = set(failure.outcome.details)

    def fails(candidate: Pair, check: Any = check) -> bool:
        found = check(candidate)
        return found.kind == SILENT and bool(wrong & set(found.details))

    pair = shrunk(draw(failure.seed), fails)
    while (simpler := next((each for each in check.simpler() if fails(pair, each)), None)) is not None:
        check = simpler
    return pair, check, check(pair)


def script_of(pair: Pair, check: Any, found: Outcome) -> str:
    """A script that shows a failure: the programs, the exact value and the library's."""
    lines = [
        f"# {name}: the library says {values[0]!r}, right is {values[1]!r}"
        for name, values in found.details.items()
    ]
    head = f"# {found.check} on pair {pair.seed} ({', '.join(sorted(pair.features)) or 'plain'})"
    if isinstance(check, ChannelCheck):
        return "\n".join([head, *lines, check.script()])
    body = HEADER + "torch.set_default_dtype(torch.float64)\n\n\n" + source_of(pair) + "\n" + check.script()
    return "\n".join([head, *lines, body])


# ---- planted faults


def pairs_until_found(plant: Any, *, most: int = 2000) -> tuple[int, Failure] | None:
    """How many pairs it takes to find a fault, and what it showed by; None if it is not found."""
    for seed in range(most):
        with plant():
            failures = run_seeds(range(seed, seed + 1)).failures
        known = (
            {str(failure.check) for failure in run_seeds(range(seed, seed + 1)).failures}
            if failures
            else set()
        )
        for failure in failures:
            if str(failure.check) not in known:
                return seed + 1, failure
    return None
