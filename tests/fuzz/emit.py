"""The source of a pair: Pyro as a user would write it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from tests.fuzz.spec import Factor, Pair, Site

HEADER = """\
import pyro
import pyro.distributions as dist
import torch
from torch import nn

"""


def source_of(pair: Pair) -> str:
    """Two programs and their data, as text: ``model``, ``guide`` and the tuple ``data``."""
    return "\n".join([*_program(pair, "model"), "", "", *_program(pair, "guide"), "", "", *_data(pair)])


def built(pair: Pair) -> SimpleNamespace:
    """The programs and their data."""
    names: dict[str, Any] = {"pyro": pyro, "dist": dist, "torch": torch, "nn": nn}
    exec(compile(source_of(pair), f"pair {pair.seed}", "exec"), names)
    return SimpleNamespace(model=names["model"], guide=names["guide"], data=names["data"])


# ---- data


def arguments(pair: Pair) -> list[str]:
    found = [site.column for site in pair.observed]
    sites = (*pair.model, *pair.guide)
    masked = [site for site in sites if site.masked and site.mask_style != "never"]
    if any(site.level == "row" for site in masked) or pair.half_seen:
        found.append("keep")
    if any(site.level == "inner" for site in masked):
        found.append("keep_inner")
    if any(site.gained for site in sites):
        found.append("gain")
    return found


def _data(pair: Pair) -> Iterator[str]:
    columns = {**pair.data, "keep": pair.keep, "keep_inner": pair.keep_inner, "gain": pair.gain}
    for name in arguments(pair):
        is_bernoulli = any(s.column == name and s.family == "bernoulli" for s in pair.observed)
        dtype = ", dtype=torch.get_default_dtype()" if is_bernoulli else ""
        yield f"{name} = torch.tensor({_listed(columns[name])}{dtype})"
    yield f"data = ({', '.join(arguments(pair))},)"


def _listed(values: Any) -> str:
    return f"[{', '.join(map(_listed, values))}]" if isinstance(values, tuple) else repr(values)


# ---- programs


def _program(pair: Pair, role: str) -> Iterator[str]:
    names = ", ".join(arguments(pair))
    parameter = {"model": "theta", "guide": "phi"}[role]
    start = f"torch.tensor({pair.theta if role == 'model' else 0.0})"
    body = list(_body(pair, role))
    conditioned = role == "model" and pair.conditioned
    called = "unconditioned" if conditioned else role
    if pair.modules:
        yield f"class {called.title()}(nn.Module):"
        yield "    def __init__(self):"
        yield "        super().__init__()"
        yield f"        self.{parameter} = nn.Parameter({start})"
        yield ""
        yield f"    def forward(self, {names}):"
        yield f'        pyro.module("{role}", self)'
        yield f"        {parameter} = self.{parameter}"
        yield from ("    " + line for line in body)
        yield ""
        yield ""
        yield f"{called} = {called.title()}()"
    else:
        yield f"def {called}({names}):"
        yield f'    {parameter} = pyro.param("{parameter}", lambda: {start})'
        yield from body
        if role == "guide" and pair.decorated:
            yield ""
            yield ""
            yield "guide = pyro.infer.config_enumerate(guide)"
    if conditioned:
        values = ", ".join(f'"{s.name}": {_column(pair, s.name, s.level)}' for s in pair.observed)
        yield ""
        yield ""
        yield f"def model({names}):"
        yield f"    return pyro.condition(unconditioned, data={{{values}}})({names})"


def _body(pair: Pair, role: str) -> Iterator[str]:
    sites = pair.model if role == "model" else pair.guide
    factor = pair.model_factor if role == "model" else pair.guide_factor
    lines = list(_plates(pair))
    first = True
    for site in (*sites, *([factor] if factor else [])):
        if role == "model" and site.name.endswith("_unobserved"):
            continue  # obs_mask makes it
        text = _factor(pair, factor, role) if isinstance(site, Factor) else site_source(pair, site, role)
        if site.level == "global":
            lines += text
            continue
        heading = "with rows_plate as rows:" if pair.plate == "subsample" else "with rows_plate:"
        lines.append("for row in rows_plate:" if pair.sequential else heading)
        if first:
            lines += ("    " + line for line in _columns(pair, role))
            first = False
        if site.level == "inner":
            lines.append("    with inner_plate:")
        lines += (
            "        " * (site.level == "inner") + "    " * (site.level == "row") + line for line in text
        )
    lines = list(_joined(lines))
    if pair.program_scale != 1.0:
        lines = [f"with pyro.poutine.scale(scale={pair.program_scale}):", *("    " + line for line in lines)]
    yield from ("    " + line for line in lines)


def _joined(lines: list[str]) -> Iterator[str]:
    """The lines, those of one plate under one heading."""
    opened: list[str] = []
    for line in lines:
        depth = (len(line) - len(line.lstrip())) // 4
        if line.lstrip().startswith(("with rows_plate", "with inner_plate", "for row in")):
            if opened[depth : depth + 1] == [line]:
                continue
            opened = [*opened[:depth], line]
        else:
            opened = opened[:depth]
        yield line


def _plates(pair: Pair) -> Iterator[str]:
    sites = (*pair.model, *pair.guide)
    name = pair.observed[0].column
    size = {
        "length": f"len({name})",
        "whole": f"{pair.total}, subsample=torch.arange(len({name}))"
        if pair.indexed
        else f"{pair.total}, subsample_size=len({name})",
        "subsample": f"{pair.rows}, subsample_size={pair.batch}",
    }[pair.plate]
    if pair.sequential:
        yield f'rows_plate = pyro.plate("data", len({name}))'
        yield f"columns = ({', '.join(arguments(pair))},)"
        return
    dim = -2 if pair.inner and not pair.inner_first else -1
    yield f'rows_plate = pyro.plate("data", {size}, dim={dim})'
    if any(site.level == "inner" for site in sites):
        size = f"{pair.inner_total}, subsample_size={pair.inner}" if pair.inner_total else str(pair.inner)
        yield f'inner_plate = pyro.plate("inner", {size}, dim={-2 if pair.inner_first else -1})'


def _columns(pair: Pair, role: str) -> Iterator[str]:
    """What the first lines within the data plate make of the arguments."""
    first = pair.observed[0]
    if pair.sequential:
        yield f"{', '.join(arguments(pair))}, = (column[row] for column in columns)"
    if pair.plate == "subsample":
        names = arguments(pair)
        yield f"{', '.join(names)} = {', '.join(f'{name}[rows]' for name in names)}"
    sites = pair.guide if role == "guide" else pair.latents
    if any(s.slope or s.by_data for s in sites) or _factor_needs(pair, role):
        yield f"feature = {_feature(pair, first.column, first.level)}"
        if first.level == "inner":
            yield f"features = {_column(pair, first.column, 'inner')}"
    used = {parent for site in pair.guide for parent in site.parents} if role == "guide" else set()
    for site in pair.observed:
        if site.name in used and (column := _column(pair, site.name, site.level)) != site.name:
            yield f"{site.name} = {column}"


def _factor_needs(pair: Pair, role: str) -> bool:
    factor = pair.model_factor if role == "model" else pair.guide_factor
    return factor is not None and factor.level != "global"


def _feature(pair: Pair, name: str, level: str) -> str:
    """What stands for a datum in the guide: its first observed site, or the first element of that."""
    value = f"{name}[:, 0]" if level == "inner" else name
    return f"{value}[:, None]" if pair.inner and not pair.inner_first else value


def _column(pair: Pair, name: str, level: str) -> str:
    """An argument in the dimensions of its plates."""
    if not pair.inner:
        return name
    if level == "row":
        return name if pair.inner_first else f"{name}[:, None]"
    return f"{name}.T" if pair.inner_first else name


def site_source(pair: Pair, site: Site, role: str) -> Iterator[str]:
    """The lines that sample a site, in the plates around it."""
    fn = _distribution(pair, site, role)
    contexts = []
    mask = _column(pair, "keep_inner" if site.level == "inner" else "keep", site.level)
    mask = f"~{mask}" if site.complement else "False" if site.mask_style == "never" else mask
    if site.observed and pair.half_seen and site.name != site.column:
        call = f'"{site.column}", {fn}, obs={_column(pair, site.column, site.level)}, obs_mask={mask}'
        yield f"pyro.sample({call})"
        return
    if pair.expanded and not (site.parents or site.by_data or site.slope or site.event):
        fn += f".expand([{_shape(pair, site)}])"
    if site.masked and site.mask_style == "dist":
        fn += f".mask({mask})"
    elif site.masked:
        contexts.append(f"pyro.poutine.mask(mask={mask})")
    if site.gained:
        contexts.append(f"pyro.poutine.scale(scale={_column(pair, 'gain', 'row')})")
    if site.scale != 1.0:
        contexts.append(f"pyro.poutine.scale(scale={site.scale})")
    infer: dict[str, Any] = {}
    if site.enumerated and not (role == "guide" and pair.decorated):
        infer["enumerate"] = site.enumerated
    if site.auxiliary:
        infer["is_auxiliary"] = True
    name = f'f"{site.name}_{{row}}"' if pair.sequential else f'"{site.name}"'
    call = f"{name}, {fn}"
    if site.observed and not pair.conditioned:
        call += f", obs={_column(pair, site.column, site.level)}"
    if infer:
        call += f", infer={infer}"
    used = (not site.observed and not site.redrawn) or any(site.name in each.parents for each in pair.model)
    left = f"{site.name} = " if used else ""
    if contexts:
        yield f"with {', '.join(contexts)}:"
        yield f"    {left}pyro.sample({call})"
    else:
        yield f"{left}pyro.sample({call})"
    if pair.deterministic and role == "model" and not site.observed:
        assert not pair.sequential
        yield f'pyro.deterministic("{site.name}_twice", 2 * {site.name})'


def _shape(pair: Pair, site: Site) -> str:
    """The sizes of the plates around a site."""
    rows = "" if site.level == "global" else "rows_plate.subsample_size"
    if site.level == "global" or not pair.inner:
        return rows
    inner = str(pair.inner) if site.level == "inner" else "1"
    sizes = (inner, rows) if pair.inner_first else (rows, inner)
    return ", ".join(sizes if site.level == "inner" or not pair.inner_first else sizes[1:])


def _distribution(pair: Pair, site: Site, role: str) -> str:
    discrete = [p for p in site.parents if _parent(pair, p, role).discrete]
    normal = [p for p in site.parents if not _parent(pair, p, role).discrete]
    index = [f"({_feature_of(pair, site)} > 0).long()"] if site.by_data else []
    index += [f"{name}.long()" for name in discrete]
    at = f"[{', '.join(index)}]" if index else ""
    parameter = {"model": "theta", "guide": "phi"}[role]
    if site.family == "normal":
        terms = [f"torch.tensor({_listed(site.table)}){at}"]
        if site.slope:
            terms.append(f"{site.slope} * {_feature_of(pair, site)}")
        for weight, name in zip(site.weights, normal, strict=True):
            vector = _parent(pair, name, role).event is not None
            terms.append(f"{weight} * {name}" + ".sum(-1)" * vector)
        if site.tilt:
            terms.append(f"{site.tilt} * {parameter}")
        location = " + ".join(terms)
        if site.event is not None:
            location = f"({location})[..., None] + torch.tensor([0.0, {site.event}])"
            if site.correlation:
                r = site.correlation
                tril = f"{site.sd} * torch.tensor([[1.0, 0.0], [{r}, {(1 - r * r) ** 0.5}]])"
                return f"dist.MultivariateNormal({location}, scale_tril={tril})"
            return f"dist.Normal({location}, {site.sd}).to_event(1)"
        return f"dist.Normal({location}, {site.sd})"
    table = f"torch.tensor({_listed(site.table)}){at}.log()"
    if site.tilt:
        table += f" + {site.tilt} * {parameter} * torch.arange({site.values})"
    if site.family == "categorical":
        return f"dist.Categorical(logits={table})"
    table = f"torch.tensor({_listed(_ones(site.table))}){at}"
    shift = f" + {site.tilt} * {parameter}" if site.tilt else ""
    return f"dist.Bernoulli(logits=torch.logit({table}){shift})"


def _ones(table: Any) -> Any:
    """The probability of a one, of a table with both."""
    return tuple(map(_ones, table)) if isinstance(table[0], tuple) else table[1]


def _parent(pair: Pair, name: str, role: str) -> Site:
    sites = (*pair.model, *pair.guide) if role == "model" else (*pair.guide, *pair.model)
    return next(site for site in sites if site.name == name)


def _feature_of(pair: Pair, site: Site | Factor) -> str:
    return "features" if site.level == "inner" and pair.observed[0].level == "inner" else "feature"


def _factor(pair: Pair, factor: Factor, role: str) -> Iterator[str]:
    parameter = {"model": "theta", "guide": "phi"}[role]
    terms = [f"{factor.offset}"]
    if factor.level != "global":
        terms.append(f"0.3 * {_feature_of(pair, factor)}")
    vector = _parent(pair, factor.site, role).event is not None
    terms.append(f"{factor.weight} * {factor.site}" + ".sum(-1)" * vector)
    if factor.tilt:
        terms.append(f"{factor.tilt} * {parameter}")
    how = "" if factor.has_rsample is None else f", has_rsample={factor.has_rsample}"
    name = f'f"{factor.name}_{{row}}"' if pair.sequential else f'"{factor.name}"'
    yield f"pyro.factor({name}, {' + '.join(terms)}{how})"
