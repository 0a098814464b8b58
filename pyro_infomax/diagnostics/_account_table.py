"""Estimates by name, as a frame and as lines to print: all of them, or the few that are read first."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Final, TypeAlias, final

import pandas as pd
import torch

from pyro_infomax.information import Estimate

Estimates: TypeAlias = Mapping[str, Estimate]

_COLUMNS: Final = ["value", "standard_error", "population_standard_error", "bound", "target"]
_WIDTHS: Final = {"value": 12, "standard_error": 10, "population_standard_error": 11}
_HEADINGS: Final = {"value": "value", "standard_error": "s.e.", "population_standard_error": "pop. s.e."}
_UNIT: Final = "nats per datum"
_REMARK_WIDTH: Final = 100


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
    """What the sites of a family sum to, whose joint error is not known."""

    value: torch.Tensor
    bound: str | None
    standard_error: None = None
    population_standard_error: None = None


Row: TypeAlias = Estimate | Total


def lines_of(
    accounts: Mapping[str, Mapping[str, Row]], remarks: Mapping[str, Sequence[str]] | None = None
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
            yield from wrap(remark, _REMARK_WIDTH, initial_indent="  ", subsequent_indent="    ")


def _cells(estimate: Row | None) -> str:
    """Blank for what does not exist or is not claimed."""
    numbers = {name: None if estimate is None else getattr(estimate, name) for name in _WIDTHS}
    cells = {name: "" if number is None else f"{float(number):z.4f}" for name, number in numbers.items()}
    return "".join(f"{cells[name]:>{wide}}" for name, wide in _WIDTHS.items())


# ---- Sites that differ by a number, as z_0, z_1, ...

_FEWEST_SITES: Final = 4
_NUMBERED: Final = re.compile(r"(.*?)(\d+)((?:\[.*\])?)")


def in_families(estimates: Estimates) -> dict[str, Row]:
    """Rows with those of one quantity over numbered sites, four or more, summed up to one.

    ``site_rate[z_0]``, …, ``site_rate[z_19]`` become ``site_rate[z_0…z_19]``, and so do the dimensions of
    these sites.
    """
    members: dict[tuple[str, str], dict[str, int]] = {}
    family_of: dict[str, tuple[str, str]] = {}
    for name in estimates:
        quantity, _, site = name.removesuffix("]").partition("[")
        found = _NUMBERED.fullmatch(site)
        if found:
            family_of[name] = quantity, found[1]
            members.setdefault(family_of[name], {})[name] = int(found[2])
    rows: dict[str, Row] = {}
    for name, estimate in estimates.items():
        numbers = members.get(family_of.get(name, ("", "")), {})
        if len(set(numbers.values())) < _FEWEST_SITES:
            rows[name] = estimate
            continue
        quantity, stem = family_of[name]
        label = f"{quantity}[{stem}{min(numbers.values())}…{stem}{max(numbers.values())}]"
        if label not in rows:
            values = torch.stack([estimates[each].value.double() for each in numbers])
            rows[label] = Total(values.sum(), estimate.bound)
    return rows


# ---- What is read first, with what to do where it is bad.

_FIRST: Final = ("distortion", "rate", "elbo", "mutual_information", "marginal_kl", "total_correlation")
_AND_WHERE_KNOWN: Final = ("decoder_gap",)
_MOST_SITES: Final = 4  # with lines of their own
_COLLAPSED: Final = 0.05  # nats
_FEW_DATA: Final = 20  # whose information is small by itself
_WORTH: Final = 0.1  # nats
_SHARE: Final = 0.1  # of the information
_CLEAR: Final = 3.0  # standard errors


@final
@dataclass(frozen=True)
class Summary:
    """An account as far as its first lines need it.

    Attributes:
        estimates: all of its estimates by name.
        data_size: N.
        ceiling: ln N, the most that the information of so many data can be.
        saturated: whether the information is within a nat of that; None where there is none.
        unavailable: names of quantities to the reason why they are missing.
    """

    estimates: Estimates
    data_size: int
    ceiling: float
    saturated: bool | None
    unavailable: Mapping[str, str]


def summary_lines(accounts: Mapping[str, Summary]) -> Iterator[str]:
    """The lines that are read first, each with what to do below it where it is bad.

    Args:
        accounts: that of the training data, and that of held-out data where there is one.
    """
    training, *others = accounts.values()
    remarks: dict[str, list[str]] = {}
    for heading, account in accounts.items():
        said_of = f"{heading}: " if others else ""
        for name, remark in _remarks(account):
            remarks.setdefault(name, []).append(said_of + remark)
    for holdout in others:
        for name, remark in _remarks_on_both(training, holdout):
            remarks.setdefault(name, []).append(remark)
    # the bound beside the information that it belongs to, of both accounts where one needs it
    with_upper = any(account.saturated for account in accounts.values())
    shown = {heading: _first_rows(account, with_upper=with_upper) for heading, account in accounts.items()}
    yield from lines_of(shown, remarks)
    for heading, account in accounts.items():
        if account is training or _missing(account) != _missing(training):
            said_of = "" if account is training else f"{heading}: "
            yield from (said_of + line for line in missing_lines(_missing(account)))


def _missing(account: Summary) -> dict[str, str]:
    return {name: account.unavailable[name] for name in _FIRST if name in account.unavailable}


def missing_lines(unavailable: Mapping[str, str]) -> Iterator[str]:
    """A line a reason, with all that it keeps away."""
    for reason in dict.fromkeys(unavailable.values()):
        names = ", ".join(name for name, each in unavailable.items() if each == reason)
        yield f"not available: {names} ({reason.rstrip('.')})"


def _first_rows(account: Summary, *, with_upper: bool) -> dict[str, Row]:
    names = [name for name in (*_FIRST, *_AND_WHERE_KNOWN) if name in account.estimates]
    if with_upper and "mutual_information_upper" in account.estimates:
        names.insert(names.index("mutual_information") + 1, "mutual_information_upper")
    rows: dict[str, Row] = {name: account.estimates[name] for name in names}
    sites = in_families({n: each for n, each in account.estimates.items() if n.startswith("site_rate[")})
    return rows | sites if 1 < len(sites) <= _MOST_SITES else rows


def _remarks(account: Summary) -> Iterator[tuple[str, str]]:
    """What is bad in one account: the quantity, and what to do."""
    found = account.estimates
    information = found.get("mutual_information")
    # Whatever speaks against a value or its error, once
    notes = {name: found[name].note for name in (*_FIRST, *_AND_WHERE_KNOWN) if name in found}
    for note in dict.fromkeys(notes.values()):
        if note is not None:
            yield next(name for name, each in notes.items() if each == note), note
    # Codes that tell nothing, or more than so many data can show
    if account.saturated:
        yield (
            "mutual_information",
            f"saturated: within a nat of ln N = {account.ceiling:.4f}, the most that so many data show; the "
            "population's lies between this and the next line, and more data bring the two together",
        )
        return
    name = "rate" if information is None else "mutual_information"
    if account.data_size >= _FEW_DATA and float(found[name]) + _CLEAR * _error(found[name]) < _COLLAPSED:
        yield (
            name,
            "collapsed: the codes tell next to nothing; lower beta, raise it slowly, hold a rate "
            "(ConstrainedELBO, FreeBitsELBO), or take a weaker decoder",
        )
        return
    # A prior that the codes miss
    gain, gap = found.get("prior_gain"), found.get("prior_gap")
    if gain is not None and _clearly_above(gain, _WORTH):
        yield "marginal_kl", f"another prior (priors) would win at least {float(gain):.2f} nats of new data"
    elif gain is None and gap is not None and "marginal_kl" in found and _clearly_above(gap, _WORTH):
        yield "marginal_kl", f"another prior (priors) would win up to {float(gap):.2f} nats of these data"
    # Codes that repeat each other
    repeated = found.get("total_correlation")
    if repeated is not None and information is not None:
        worth = max(_WORTH, _SHARE * float(information))
        if _clearly_above(repeated, worth):
            yield (
                "total_correlation",
                "the dimensions depend on each other; where they should not, weight total_correlation "
                "(DecomposedELBO) or train FactorVAE",
            )


def _remarks_on_both(training: Summary, holdout: Summary) -> Iterator[tuple[str, str]]:
    """What is bad in held-out data beside training data."""
    lost = float(training.estimates["elbo"]) - float(holdout.estimates["elbo"])
    error = math.hypot(_error(training.estimates["elbo"]), _error(holdout.estimates["elbo"]))
    if lost > max(_WORTH, _CLEAR * error):
        yield (
            "elbo",
            f"held-out data lose {lost:.2f} nats: overfitted, or data of another kind; stop earlier "
            "(EarlyStopping), take a smaller model or more data",
        )


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
