"""Estimates by name, as a frame and as lines to print: all of them, or the few that are read first."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten, wrap
from typing import Final, TypeAlias, final

import pandas as pd
import torch

from pyro_infomax.information import Estimate

Estimates: TypeAlias = Mapping[str, Estimate]

_COLUMNS: Final = ["value", "standard_error", "population_standard_error", "bound", "target"]
_WIDTHS: Final = {"value": 12, "standard_error": 10, "population_standard_error": 11}
_HEADINGS: Final = {"value": "value", "standard_error": "s.e.", "population_standard_error": "pop. s.e."}
_UNIT: Final = "nats per datum"
_TEXT_WIDTH: Final = 100
_LONGEST_REASON: Final = 2 * _TEXT_WIDTH


def frame_of(estimates: Estimates, facts: Mapping[str, tuple[float, str]]) -> pd.DataFrame:
    """A row a quantity, in nats per datum: value, its two standard errors, bound and target.

    Facts are values that have no error, and what they are.
    """
    rows: dict[str, dict[str, object]] = {name: _row(estimate) for name, estimate in estimates.items()}
    rows |= {name: {"value": value, "target": meaning} for name, (value, meaning) in facts.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS)
    return frame.rename_axis("quantity")


def side_by_side(training: pd.DataFrame, holdout: pd.DataFrame) -> pd.DataFrame:
    """Two frames as one, the columns of the second with the prefix ``holdout_``."""
    return pd.concat([training, holdout.add_prefix("holdout_")], axis=1).rename_axis("quantity")


# ---- Lines.


@final
@dataclass(frozen=True)
class Total:
    """The sum of estimates. Its error is known where they have none; how else they vary together is not."""

    value: torch.Tensor
    standard_error: torch.Tensor | None
    bound: str | None
    population_standard_error: None = None

    @classmethod
    def of(cls, estimates: Sequence[Estimate]) -> "Total":
        values = torch.stack([each.value.double() for each in estimates])
        errors = torch.stack([each.standard_error.double() for each in estimates])
        return cls(values.sum(), None if bool((errors != 0).any()) else errors.sum(), estimates[0].bound)


def lines_of(
    accounts: Mapping[str, Mapping[str, Estimate | Total]], remarks: Mapping[str, Sequence[str]] | None = None
) -> Iterator[str]:
    """A line a quantity, the accounts beside each other; a lone one goes without its heading.

    Remarks on a quantity stand below its line.
    """
    names = list(dict.fromkeys(name for estimates in accounts.values() for name in estimates))
    width = max(map(len, [_UNIT, *names]))
    if len(accounts) > 1:
        yield (" " * width + "".join(f"{each:>{sum(_WIDTHS.values())}}" for each in accounts)).rstrip()
    headings = "".join(f"{_HEADINGS[column]:>{wide}}" for column, wide in _WIDTHS.items())
    yield f"{_UNIT:<{width}}{headings * len(accounts)}  bound"
    for name in names:
        found = [estimates.get(name) for estimates in accounts.values()]
        bound = next(estimate.bound for estimate in found if estimate is not None)
        yield f"{name:<{width}}{''.join(map(_cells, found))}  {bound}"
        for remark in (remarks or {}).get(name, ()):
            yield from _in_width(remark, indent="  ")


def _in_width(text: str, indent: str = "") -> Iterator[str]:
    """Lines of at most a hundred characters, those after the first set in further."""
    further = indent + "  "
    yield from wrap(
        text, _TEXT_WIDTH, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False
    )


def _cells(estimate: Estimate | Total | None) -> str:
    """Blank for what does not exist or is not claimed."""
    numbers = {name: None if estimate is None else getattr(estimate, name) for name in _WIDTHS}
    return "".join(f"{_cell(numbers[name], wide - 1):>{wide}}" for name, wide in _WIDTHS.items())


def _cell(number: torch.Tensor | None, width: int) -> str:
    if number is None:
        return ""
    cell = f"{float(number):z.4f}"
    return cell if len(cell) <= width else f"{float(number):.2e}"


def noted_lines(estimates: Mapping[str, Estimate | None]) -> Iterator[str]:
    """A line a note, with all the estimates that it is on."""
    notes = {name: each.note for name, each in estimates.items() if each is not None}
    for note in dict.fromkeys(filter(None, notes.values())):
        yield f"{', '.join(name for name, each in notes.items() if each == note)}: {note}"


def shared_first(lines: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What is said of all accounts, then what is said of one, under its name."""
    shared = [line for line in next(iter(lines.values())) if all(line in each for each in lines.values())]
    yield from shared
    for name, each in lines.items():
        yield from (f"{name}: {line}" for line in each if line not in shared)


def missing_lines(unavailable: Mapping[str, str]) -> Iterator[str]:
    """A line a reason, with all that is missing for it."""
    for reason in dict.fromkeys(unavailable.values()):
        names = ", ".join(name for name, each in unavailable.items() if each == reason)
        yield f"not available: {names} ({reason.rstrip('.')})"


# ---- Sites that differ by a number, as z_0, z_1, ...

_FEWEST_SITES: Final = 4
_LONG_NAME: Final = 12  # characters, beyond which the second of two says where it differs


def families_of(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names in their order, where four or more that differ in one number only go together under one label.

    >>> families_of(["top", "z_0", "z_1", "z_2", "z_10"])
    {'top': ('top',), 'z_0…z_10': ('z_0', 'z_1', 'z_2', 'z_10')}
    """
    # What stands around each number of a name
    around = {
        name: [(name[: found.start()], name[found.end() :]) for found in re.finditer(r"\d+", name)]
        for name in names
    }
    sizes = Counter(each for several in around.values() for each in several)
    members: dict[tuple[str, str], list[str]] = {}
    for name, several in around.items():
        # of several numbers the one that most names differ in, the last of these
        chosen = max(reversed(several), key=sizes.__getitem__, default=(name, name))
        members.setdefault(chosen, []).append(name)
    families: dict[str, tuple[str, ...]] = {}
    for (start, end), some in members.items():
        if len(some) < _FEWEST_SITES:
            families |= {name: (name,) for name in some}
        else:
            ordered = sorted(some, key=lambda name: int(name[len(start) : len(name) - len(end)]))
            last = ordered[-1] if len(ordered[-1]) <= _LONG_NAME else ordered[-1][len(start) :]
            families[f"{ordered[0]}…{last}"] = tuple(ordered)
    return dict(sorted(families.items(), key=lambda family: min(map(names.index, family[1]))))


# ---- What is read first, with what to do where it is bad.

_FIRST: Final = (
    "distortion",
    "rate",
    "elbo",
    "mutual_information",
    "mutual_information_upper",
    "marginal_kl",
    "total_correlation",
    "dimensionwise_kl",
    "prior_dependence",
    "decoder_gap",
)
_WHERE_KNOWN: Final = ("prior_dependence", "decoder_gap")  # most pairs have none, which needs no reason
_OF_SEVERAL: Final = ("total_correlation", "dimensionwise_kl")  # trivial for a single dimension
_MOST_SITES: Final = 4  # with lines of their own
_COLLAPSED: Final = 0.05  # nats of all latents
_COLLAPSED_PART: Final = 0.01  # nats of a dimension or a site
_NOTHING_IN: Final = {
    "rate": "the posteriors hardly differ from the prior",
    "mutual_information": "z tells next to nothing about x",
}
_FEW_DATA: Final = 20  # fewer hold little information, and have uncertain errors, whatever the pair
_WORTH: Final = 0.1  # nats
_SHARE: Final = 0.1  # of the information
_CLEAR: Final = 3.0  # standard errors


@final
@dataclass(frozen=True)
class Summary:
    """An account as far as its first lines need it.

    Attributes:
        estimates: all of its estimates by name.
        latent_names: the latent dimensions.
        site_names: the latent sites.
        data_size: N.
        ceiling: ln N, the most that the information of so many data can be.
        saturated: whether the information is within a nat of that; None where there is none.
        active_units: the number of latent dimensions in use, None where it is not known.
        global_values: the values of global latents, given which the rest holds.
        num_global_draws: of how many draws of global latents the estimates are means; 0 for none.
        global_spread: the standard deviations of quantities over these draws.
        unavailable: names of quantities to the reason why they are missing.
    """

    estimates: Estimates
    latent_names: Sequence[str]
    site_names: Sequence[str]
    data_size: int
    ceiling: float
    saturated: bool | None
    active_units: int | None
    global_values: Mapping[str, torch.Tensor]
    num_global_draws: int
    global_spread: Mapping[str, float]
    unavailable: Mapping[str, str]

    def facts(self) -> Iterator[str]:
        """What the account is of."""
        latent = len(self.latent_names)
        units = latent if self.active_units is None else f"{self.active_units} active of {latent}"
        yield f"{units} latent dimensions, {self.data_size} data (ln N = {self.ceiling:.4f})"
        if self.global_values:
            yield f"given global latents: {', '.join(map(_shown, self.global_values.items()))}"
        if self.num_global_draws:
            names = ("rate", "distortion", "mutual_information")
            spread = (
                f"{name} {self.global_spread[name]:.4f}" for name in names if name in self.global_spread
            )
            yield (
                f"means over {self.num_global_draws} draws of the global latents, over which the standard "
                f"deviations are: {', '.join(spread)}"
            )

    def rows(self) -> dict[str, list[Estimate]]:
        """The lines that are read first, and the estimates that each sums up."""
        rows = {}
        for name in self._first():
            found = self.of_parts(name, self.latent_names) if name == "dimensionwise_kl" else [name]
            estimates = [self.estimates[each] for each in found if each in self.estimates]
            if estimates:
                rows[name if len(estimates) == 1 else f"{name}, sum of {len(estimates)}"] = estimates
        return rows | self._sites()

    def _first(self) -> list[str]:
        return [name for name in _FIRST if len(self.latent_names) > 1 or name not in _OF_SEVERAL]

    def _sites(self) -> dict[str, list[Estimate]]:
        families = families_of([each for each in self.site_names if f"site_rate[{each}]" in self.estimates])
        if len(families) > _MOST_SITES:
            return {}
        return {
            f"site_rate[{label}]" + (f", sum of {len(sites)}" if len(sites) > 1 else ""): [
                self.estimates[each] for each in self.of_parts("site_rate", sites)
            ]
            for label, sites in families.items()
        }

    def of_parts(self, quantity: str, parts: Sequence[str]) -> list[str]:
        """The names of a quantity's estimates for these dimensions or sites."""
        return [f"{quantity}[{each}]" for each in parts]

    def missing(self) -> dict[str, str]:
        """What is missing of the first lines, and why."""
        wanted = [name for name in self._first() if name not in _WHERE_KNOWN]
        return {name: self.unavailable[name] for name in wanted if name in self.unavailable}


def summary_lines(training: Summary, holdout: Summary | None, headings: tuple[str, str]) -> Iterator[str]:
    """The lines that are read first, each with what to do below it where it is bad, and where the rest is.

    Args:
        training: the account of the training data.
        holdout: that of held-out data, where there is one.
        headings: what to call the two.
    """
    accounts = {headings[0]: training} | ({} if holdout is None else {headings[1]: holdout})
    said = {heading: list(_remarks(account)) for heading, account in accounts.items()}
    remarks: dict[str, list[str]] = {}
    for heading, each in said.items():
        for name, remark in each:
            of_all = all((name, remark) in others for others in said.values())
            text = remark if of_all else f"{heading}: {remark}"
            if text not in remarks.setdefault(name, []):
                remarks[name].append(text)
    for name, remark in _remarks_on_both(training, holdout):
        remarks.setdefault(name, []).append(remark)
    shown = {
        heading: {name: some[0] if len(some) == 1 else Total.of(some) for name, some in each.rows().items()}
        for heading, each in accounts.items()
    }
    yield from lines_of(shown, remarks)
    for heading, account in accounts.items():
        if account is training or account.missing() != training.missing():
            said_of = "" if account is training else f"{heading}: "
            for line in missing_lines(account.missing()):
                yield from _in_width(shorten(said_of + line, _LONGEST_REASON, placeholder=" …"))
    for fact in shared_first({heading: list(each.facts()) for heading, each in accounts.items()}):
        yield from _in_width(fact)
    yield f"all {len(training.estimates)} quantities: .table() as text, .to_frame() as a frame"


def _shown(site: tuple[str, torch.Tensor]) -> str:
    name, value = site
    return f"{name} = {float(value):.4g}" if value.numel() == 1 else f"{name} {tuple(value.shape)}"


def _remarks(account: Summary) -> Iterator[tuple[str, str]]:
    """What is bad in one account: the line, and what to do."""
    found = account.estimates
    # Whatever speaks against a value or an error that is shown, at the first line that it is on
    noted: dict[str, str] = {}
    for line, estimates in account.rows().items():
        shown = estimates if len(estimates) == 1 else [each for each in estimates if not math.isfinite(each)]
        for each in shown:
            if each.note is not None:
                noted.setdefault(each.note, line)
    yield from ((line, note) for note, line in noted.items())
    # More than so many data can show
    if account.saturated:
        yield (
            "mutual_information",
            f"saturated: N = {account.data_size} data can show at most ln N = {account.ceiling:.4f}; use "
            "more data, or read mutual_information_upper",
        )
    # Codes that tell nothing, all or some of them
    judged = ["rate"] if account.data_size < _FEW_DATA else ["rate", "mutual_information"]
    collapsed = [each for each in judged if each in found and _is_nothing(found[each], _COLLAPSED)]
    if collapsed:
        yield (
            collapsed[0],
            f"collapsed: {_NOTHING_IN[collapsed[0]]}; lower beta or raise it slowly, hold a rate "
            "(FreeBitsELBO, ConstrainedELBO), or take a weaker decoder",
        )
        return
    yield from _collapsed_parts(account)
    # Codes that depend on each other where the prior has them independent, beyond what few data make of it
    independent = "prior_dependence" not in found and "prior_dependence" not in account.unavailable
    if independent and account.saturated is False and "total_correlation" in found:
        worth = max(_WORTH, _SHARE * float(found["mutual_information"]))
        if _clearly_above(found["total_correlation"], worth):
            yield (
                "total_correlation",
                "the dimensions depend on each other; where they should not, weight total_correlation "
                "(DecomposedELBO) or train by FactorVAE",
            )


def _collapsed_parts(account: Summary) -> Iterator[tuple[str, str]]:
    """Dimensions without a rate, or sites where the rates of dimensions are not known."""
    for quantity, parts, kind in (
        ("dimensionwise_rate", account.latent_names, "dimensions"),
        ("site_rate", account.site_names, "sites"),
    ):
        rates = dict(zip(parts, account.of_parts(quantity, parts), strict=True))
        known = {part: account.estimates[name] for part, name in rates.items() if name in account.estimates}
        if not known:
            continue
        idle = [part for part, rate in known.items() if _is_nothing(rate, _COLLAPSED_PART)]
        if idle and len(known) > 1:
            names = ", ".join([*idle[:3], *(["…"] if len(idle) > 3 else [])])
            yield (
                "rate",
                f"{len(idle)} of {len(known)} {kind} collapsed ({names}: rate below {_COLLAPSED_PART} nats); "
                "harmless where the others suffice, else lower beta, use free bits (FreeBitsELBO) or a "
                "weaker decoder",
            )
        return


def _remarks_on_both(training: Summary, holdout: Summary | None) -> Iterator[tuple[str, str]]:
    """What is bad in the training data, as far as held-out data bear it out where there are any."""
    if holdout is not None and min(training.data_size, holdout.data_size) >= _FEW_DATA:
        lost = float(training.estimates["elbo"]) - float(holdout.estimates["elbo"])
        error = math.hypot(*(_error(each.estimates["elbo"]) for each in (training, holdout)))
        if lost > _WORTH and lost > _CLEAR * error:
            yield (
                "elbo",
                f"held-out data lose {lost:.2f} nats: overfitted, or data of another kind; stop earlier "
                "(EarlyStopping), use a smaller model or more data",
            )
    # A prior that the codes miss. In a saturated account the gap is due to the number of data
    gap, of_which = training.estimates.get("prior_gain"), "data that it was not fitted to"
    if gap is None and holdout is not None:
        gap, of_which = holdout.estimates.get("prior_gap"), "held-out data"
    if gap is None and not training.saturated:
        gap, of_which = training.estimates.get("prior_gap"), "these data"
    size = training.data_size if holdout is None else min(training.data_size, holdout.data_size)
    if gap is not None and size >= _FEW_DATA and _clearly_above(gap, _WORTH):
        most = "up to" if of_which == "these data" else "at least"
        yield (
            "marginal_kl",
            f"a better prior (pyro_infomax.priors) would gain {most} {float(gap):.2f} nats on {of_which}",
        )


def _is_nothing(estimate: Estimate, least: float) -> bool:
    return abs(float(estimate)) + _CLEAR * _error(estimate) < least


def _clearly_above(estimate: Estimate, least: float) -> bool:
    return float(estimate) - _CLEAR * _error(estimate) > least


def _error(estimate: Estimate) -> float:
    population = estimate.population_standard_error
    return float(estimate.standard_error if population is None else population)


def _row(estimate: Estimate) -> dict[str, object]:
    population = estimate.population_standard_error
    return {
        "value": float(estimate.value),
        "standard_error": float(estimate.standard_error),
        "population_standard_error": math.nan if population is None else float(population),
        "bound": estimate.bound,
        "target": estimate.target,
    }
