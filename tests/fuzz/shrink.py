"""A pair that fails, made simpler for as long as it still fails in the same way."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fuzz.spec import Factor, Pair, Site

Failing = Callable[[Pair], bool]


def shrunk(pair: Pair, fails: Failing, *, most: int = 300) -> Pair:
    """The smallest pair on the way down that still fails."""
    tried = 0
    moved = True
    while moved and tried < most:
        moved = False
        for simpler in simplifications(pair):
            tried += 1
            if tried > most:
                break
            if _is_whole(simpler) and fails(simpler):
                pair, moved = simpler, True
                break
    return pair


def _is_whole(pair: Pair) -> bool:
    """Whether sites have their parents before them, and plates their members."""
    for sites in (pair.model, pair.guide):
        seen = {site.name for site in pair.observed} if sites is pair.guide else set()
        for site in sites:
            if not set(site.parents) <= seen:
                return False
            seen.add(site.name)
    known = {site.name for site in pair.latents}
    guide = {site.name for site in pair.guide}
    if any(
        f and f.site not in names for f, names in ((pair.model_factor, known), (pair.guide_factor, guide))
    ):
        return False
    return bool(pair.observed)


def simplifications(pair: Pair) -> Iterator[Pair]:
    """Pairs that are a step simpler, the largest steps first."""
    for site in pair.latents:
        yield _without(pair, site.name)
    for site in pair.observed:
        if len(pair.observed) > 1:
            data = {name: values for name, values in pair.data.items() if name != site.column}
            yield replace(pair, model=tuple(s for s in pair.model if s.name != site.name), data=data)
    for site in pair.guide:
        if site.auxiliary or site.redrawn:
            yield _without(pair, site.name)
    yield from _plain(pair)
    if pair.rows > 1 and pair.plate != "subsample":
        for row in range(pair.rows):
            yield _without_row(pair, row)
    for role in ("model", "guide"):
        sites = getattr(pair, role)
        for n, site in enumerate(sites):
            if role == "model" and site.name.endswith(("_observed", "_unobserved")):
                continue  # the two are one
            twin = pair.of_guide(site.name) if role == "model" else site.auxiliary
            for simpler in _simpler_sites(site, alone=not twin or site.observed or site.auxiliary):
                yield replace(pair, **{role: (*sites[:n], simpler, *sites[n + 1 :])})
    names = [site.name for site in pair.latents if pair.of_guide(site.name) and not site.complement]
    for name in names:
        plain = ({"scale": 1.0}, {"masked": False}, {"enumerated": None}, {"gained": False}, {"event": None})
        for change in plain:
            yield _on_both(pair, name, **change)
    order = [site.name for site in pair.latents]
    ordered = sorted(pair.guide, key=lambda s: order.index(s.name) if s.name in order else -1)
    yield replace(pair, guide=tuple(ordered))


def _plain(pair: Pair) -> Iterator[Pair]:
    plain = {
        "plate": "length",
        "inner_total": 0,
        "model_factor": None,
        "guide_factor": None,
        "program_scale": 1.0,
        "modules": False,
        "expanded": False,
        "decorated": False,
        "deterministic": False,
        "indexed": False,
        "sequential": False,
        "conditioned": False,
        "nesting_given": False,
        "inner_first": False,
        "theta": 0.0,
    }
    for name, value in plain.items():
        if getattr(pair, name) != value:
            yield replace(pair, **{name: value})
    if pair.inner:
        yield _without_inner(pair)
    if pair.masks and not all(pair.keep):
        yield replace(pair, keep=(True,) * pair.rows)


def _simpler_sites(site: Site, *, alone: bool) -> Iterator[Site]:
    for n in range(len(site.parents)):
        yield _without_parent(site, site.parents[n])
    if site.by_data:
        yield replace(site, by_data=False, table=site.table[0])
    plain: dict[str, object] = {"slope": 0.0, "tilt": 0.0}
    if alone:  # else both programs change together, or another fault than the first would come of it
        plain |= {"scale": 1.0, "masked": False, "enumerated": None, "gained": False}
    for name, value in plain.items():
        if getattr(site, name) != value:
            yield replace(site, **{name: value})
    if not site.discrete and site.sd != 1.0:
        yield replace(site, sd=1.0)
    if site.mask_style != "poutine" and site.masked:
        yield replace(site, mask_style="poutine")


def _on_both(pair: Pair, name: str, **changes: object) -> Pair:
    def changed(sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(replace(site, **changes) if site.name == name else site for site in sites)

    return replace(pair, model=changed(pair.model), guide=changed(pair.guide))


def _without(pair: Pair, name: str) -> Pair:
    def rest(sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(_without_parent(site, name) for site in sites if site.name != name)

    def kept(factor: Factor | None) -> Factor | None:
        return None if factor and factor.site == name else factor

    return replace(
        pair,
        model=rest(pair.model),
        guide=rest(pair.guide),
        model_factor=kept(pair.model_factor),
        guide_factor=kept(pair.guide_factor),
    )


def _without_parent(site: Site, name: str) -> Site:
    if name not in site.parents:
        return site
    at = site.parents.index(name)
    discrete = len(site.parents) - len(site.weights)
    parents = tuple(parent for parent in site.parents if parent != name)
    if at >= discrete:
        weights = tuple(w for n, w in enumerate(site.weights) if n != at - discrete)
        return replace(site, parents=parents, weights=weights)
    return replace(site, parents=parents, table=_first(site.table, at + site.by_data))


def _first(table: tuple, axis: int) -> tuple:
    return table[0] if axis == 0 else tuple(_first(each, axis - 1) for each in table)


def _without_row(pair: Pair, row: int) -> Pair:
    def rest(values: tuple) -> tuple:
        return tuple(each for n, each in enumerate(values) if n != row)

    return replace(
        pair,
        rows=pair.rows - 1,
        data={name: rest(values) for name, values in pair.data.items()},
        keep=rest(pair.keep),
        keep_inner=rest(pair.keep_inner),
        gain=rest(pair.gain),
    )


def _without_inner(pair: Pair) -> Pair:
    def moved(sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(replace(site, level="row") if site.level == "inner" else site for site in sites)

    def factor(each: Factor | None) -> Factor | None:
        return replace(each, level="row") if each and each.level == "inner" else each

    inner = {site.column for site in pair.observed if site.level == "inner"}
    data = {
        name: tuple(row[0] for row in values) if name in inner else values
        for name, values in pair.data.items()
    }
    return replace(
        pair,
        inner=0,
        inner_total=0,
        inner_first=False,
        model=moved(pair.model),
        guide=moved(pair.guide),
        data=data,
        keep_inner=tuple(() for _ in range(pair.rows)),
        model_factor=factor(pair.model_factor),
        guide_factor=factor(pair.guide_factor),
    )
