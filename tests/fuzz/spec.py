"""Descriptions of small pairs of programs, drawn at random: plain data, to build and to solve them from.

A pair is a conditional linear-Gaussian network. A discrete site has a table of probabilities, with an axis a
discrete parent; a Normal one has a table of locations, to which its Normal parents are added. Probabilities
in guides are quarters, so that a small population of draws represents them exactly.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

Level = Literal["global", "row", "inner"]
LEVELS: Final = ("global", "row", "inner")
DISCRETE: Final = ("bernoulli", "categorical")
_QUARTERS: Final = {2: ((1, 3), (2, 2), (3, 1)), 3: ((1, 1, 2), (1, 2, 1), (2, 1, 1))}


@dataclass(frozen=True)
class Site:
    """A sample site of one of the two programs.

    Attributes:
        values: how many a discrete site has; 1 for a Normal.
        parents: discrete ones first, each drawn before.
        table: probabilities, (class of the datum if by_data, discrete parents..., values), or locations.
        by_data: whether the first axis of the table is the class of the datum, by the sign of its feature.
        slope: of a Normal's location along the datum's feature.
        weights: of the Normal parents.
        tilt: what the parameter is multiplied with before it is added to location or logits.
        scale: of a poutine.scale around the site.
        masked: whether the mask of its level is laid on it, by ``mask_style``.
        enumerated: ``"parallel"`` or ``"sequential"``.
    """

    name: str
    family: Literal["bernoulli", "categorical", "normal"]
    level: Level
    values: int
    table: tuple
    parents: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    by_data: bool = False
    slope: float = 0.0
    tilt: float = 0.0
    sd: float = 1.0
    scale: float = 1.0
    masked: bool = False
    mask_style: Literal["poutine", "dist", "never"] = "poutine"
    gained: bool = False  # whether a poutine.scale of the rows' ``gain`` is around it
    event: float | None = None  # by how much the second element of a vector of two is off the first
    enumerated: str | None = None
    correlation: float = 0.0  # of the two elements of a vector
    observed: bool = False
    auxiliary: bool = False
    complement: bool = False  # whether its mask is the other way round
    redrawn: bool = False  # whether the guide draws what the model observes

    @property
    def column(self) -> str:
        """The argument that an observed site's values stand in."""
        return self.name.removesuffix("_observed")

    @property
    def discrete(self) -> bool:
        return self.family in DISCRETE


@dataclass(frozen=True)
class Factor:
    """A factor in the plates of a site: offset + 0.3 feature + weight · value + tilt · parameter."""

    name: str
    site: str
    level: Level
    offset: float
    weight: float
    tilt: float
    has_rsample: bool | None = None  # None in a model


@dataclass(frozen=True)
class Pair:
    """A model, a guide and data.

    Attributes:
        plate: how the data plate is written: as long as its data, as the ``total`` that they are a batch of,
            or with a subsample of ``batch`` rows that is drawn.
        inner_total: of what the inner plate is a subsample.
        inner_first: whether the inner plate has the leftmost of the two dimensions.
        conditioned: observed sites whose values come by ``pyro.condition``.
        expanded: whether sites that depend on nothing are expanded by hand.
        decorated: whether the guide is enumerated by ``config_enumerate``.
        deterministic: whether there are deterministic sites in between.
        sequential: whether the data plate is a loop, and each row has sites of its own.
        indexed: whether a plate of ``total`` rows is given their numbers.
        gain: what each row counts for at sites that are ``gained``.
    """

    seed: int
    rows: int
    model: tuple[Site, ...]
    guide: tuple[Site, ...]
    data: dict[str, tuple]
    inner: int = 0
    plate: Literal["length", "whole", "subsample"] = "length"
    total: int = 0
    batch: int = 0
    inner_total: int = 0
    inner_first: bool = False
    model_factor: Factor | None = None
    guide_factor: Factor | None = None
    program_scale: float = 1.0
    keep: tuple = ()
    keep_inner: tuple = ()
    modules: bool = False
    conditioned: bool = False
    nesting_given: bool = False
    expanded: bool = False
    decorated: bool = False
    deterministic: bool = False
    indexed: bool = False
    sequential: bool = False
    gain: tuple = ()
    theta: float = 0.0

    @property
    def latents(self) -> tuple[Site, ...]:
        return tuple(site for site in self.model if not site.observed)

    @property
    def observed(self) -> tuple[Site, ...]:
        return tuple(site for site in self.model if site.observed)

    @property
    def nesting(self) -> int:
        if self.sequential:
            return 0
        return 2 if self.inner else 1

    @property
    def masks(self) -> bool:
        return any(site.masked for site in (*self.model, *self.guide))

    @property
    def shown(self) -> int:
        """The rows of one evaluation."""
        return self.batch if self.plate == "subsample" else self.rows

    @property
    def row_scale(self) -> float:
        return {"length": 1.0, "whole": self.total / self.rows, "subsample": self.rows / max(1, self.batch)}[
            self.plate
        ]

    @property
    def inner_scale(self) -> float:
        return self.inner_total / self.inner if self.inner_total else 1.0

    def scale_of(self, site: "Site | Factor") -> float:
        """What a site counts for, by contexts and plates."""
        scale = self.program_scale * getattr(site, "scale", 1.0)
        if site.level != "global":
            scale *= self.row_scale
        if site.level == "inner":
            scale *= self.inner_scale
        return scale

    def of_guide(self, name: str) -> Site | None:
        return next((site for site in self.guide if site.name == name), None)

    def factor_sites(self, factor: Factor) -> tuple[str, ...]:
        """The scalar sites that a factor adds up."""
        names = {site.name for site in (*self.model, *self.guide)}
        return (factor.site,) if factor.site in names else (f"{factor.site}~0", f"{factor.site}~1")

    def _has_children(self, site: Site) -> bool:
        return any(site.name in each.parents for each in (*self.model, *self.guide))

    @property
    def counted_otherwise(self) -> bool:
        """Whether a latent site has another scale or mask in the guide than in the model."""
        pairs = [(site, self.of_guide(site.name)) for site in self.latents]
        return any(twin and (twin.scale, twin.masked) != (site.scale, site.masked) for site, twin in pairs)

    @property
    def half_seen(self) -> bool:
        """Whether a site is given for the rows of ``keep`` only, by ``obs_mask``."""
        return any(site.name.endswith("_observed") for site in self.model)

    @property
    def enumerated_in_model(self) -> tuple[Site, ...]:
        return tuple(site for site in self.latents if site.enumerated and self.of_guide(site.name) is None)

    @property
    def features(self) -> frozenset[str]:
        """What is out of the ordinary, by name."""
        sites = (*self.model, *self.guide)
        found = {
            "global": any(site.level == "global" for site in sites),
            "inner": self.inner > 0,
            "inner subsampled": self.inner_total > 0,
            "plate whole": self.plate == "whole",
            "plate subsample": self.plate == "subsample",
            "masked latent": any(site.masked and not site.observed for site in sites),
            "masked observed": any(site.masked and site.observed for site in sites),
            "scaled site": any(site.scale != 1.0 for site in sites),
            "scaled program": self.program_scale != 1.0,
            "model factor": self.model_factor is not None,
            "guide factor": self.guide_factor is not None,
            "auxiliary": any(site.auxiliary for site in self.guide),
            "other order": [s.name for s in self.guide if not s.auxiliary and not s.redrawn]
            != [s.name for s in self.latents],
            "enumerated in guide": any(site.enumerated for site in self.guide),
            "enumerated in model": bool(self.enumerated_in_model),
            "module": self.modules,
            "conditioned": self.conditioned,
            "expanded": self.expanded,
            "decorated": self.decorated,
            "deterministic": self.deterministic,
            "indexed": self.indexed,
            "sequential": self.sequential,
            "gain of rows": any(site.gained for site in sites),
            "correlated": any(site.correlation for site in sites),
            "event": any(site.event is not None for site in sites),
            "covariates": any(site.by_data for site in self.latents),
            "given latent": any(map(self._has_children, self.observed)),
            "half seen": self.half_seen,
            "redrawn": any(site.redrawn for site in self.guide),
            "counted otherwise": self.counted_otherwise,
        }
        return frozenset(name for name, there in found.items() if there)


# ---- Drawing a pair.


def draw(seed: int) -> Pair:
    """The pair of a seed."""
    return Drawing(seed).pair()


class Drawing:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = np.random.default_rng([seed, 14])
        # half of the pairs have few features at once, which tells faults apart
        self.rate = float(self.rng.choice([0.08, 0.25, 0.5]))

    def chance(self, rate: float | None = None) -> bool:
        return bool(self.rng.random() < (self.rate if rate is None else rate))

    def choice(self, items):
        return items[int(self.rng.integers(len(items)))]

    def number(self, low: float, high: float) -> float:
        return round(float(self.rng.uniform(low, high)), 2)

    def pair(self) -> Pair:
        kind = self.choice(["finite", "finite", "gaussian", "gaussian", "mixed"])
        rows = self.choice([2, 3, 4])
        # equal sizes leave it open which plate the data's is
        sizes = [2, 3] if self.chance(0.1) else [size for size in (2, 3) if size != rows]
        inner = self.choice(sizes) if self.chance() else 0
        plate = "subsample" if self.chance(self.rate / 2) else "whole" if self.chance() else "length"
        rows = 4 if plate == "subsample" else rows
        latents = self._latents(kind, inner)
        observed = self._observed(latents, inner)
        model = (*latents, *observed)
        guide = self._guide(latents)
        guide = self._with_auxiliary(guide)
        pair = Pair(
            seed=self.seed,
            rows=rows,
            model=model,
            guide=guide,
            data={},
            inner=inner if any(site.level == "inner" for site in model) else 0,
            plate=plate,
            total=self.choice([10, 12, 100]) if plate == "whole" else 0,
            batch=2 if plate == "subsample" else 0,
            inner_first=self.chance(0.3),
            keep=tuple(self.chance(0.6) for _ in range(rows)),
            modules=self.chance(0.2),
            nesting_given=self.chance(0.5),
            theta=0.0,
            program_scale=self.choice([0.5, 2.0]) if self.chance(self.rate / 2) else 1.0,
        )
        keep_inner = tuple(tuple(self.chance(0.6) for _ in range(pair.inner)) for _ in range(rows))
        pair = replace(pair, keep_inner=keep_inner, data=self._data(pair))
        return self._with_features(pair)

    def _data(self, pair: Pair) -> dict[str, tuple]:
        shapes = {"row": (pair.rows,), "inner": (pair.rows, pair.inner)}
        found = {}
        for site in pair.observed:
            shape = shapes[site.level]
            if site.discrete:
                values = self.rng.integers(site.values, size=shape)
            else:
                values = self.rng.normal(0.0, 1.5, size=shape).round(2)
            found[site.column] = as_tuple(values)
        return found

    # ---- the sites

    def _latents(self, kind: str, inner: int) -> tuple[Site, ...]:
        number = self.choice([1, 1, 2, 2, 3, 4] if kind != "gaussian" else [1, 2, 2, 3, 4])
        bits, sites = 0, []
        for name in "abcd"[:number]:
            family = self.choice(
                {"finite": ["bernoulli", "categorical"], "gaussian": ["normal"]}.get(
                    kind, ["bernoulli", "categorical", "normal"]
                )
            )
            bits += 1 if family == "normal" else 2
            if bits > 7:
                break
            levels = ["row"] * 6 + (["inner"] * 6 if inner else [])
            level = "global" if self.chance(self.rate / 4) else self.choice(levels)
            sites.append(self.site(name, family, level, sites, in_guide=False))
        return tuple(sites)

    def _observed(self, latents: tuple[Site, ...], inner: int) -> tuple[Site, ...]:
        number = 1 if self.chance(0.7) else 2
        normal = any(not site.discrete for site in latents)
        found = []
        for name in "xy"[:number]:
            family = "normal" if normal and self.chance(0.7) else self.choice(["normal", *DISCRETE])
            level = "inner" if inner and self.chance(0.6) else "row"
            site = self.site(name, family, level, latents, in_guide=False, most_parents=3)
            found.append(replace(site, observed=True))
        return tuple(found)

    def _guide(self, latents: tuple[Site, ...]) -> tuple[Site, ...]:
        order = list(latents)
        if self.chance(0.4):
            self.rng.shuffle(order)
            # a discrete site has discrete parents only, which may be drawn in any order
        found: list[Site] = []
        for site in order:
            found.append(self.site(site.name, site.family, site.level, found, in_guide=True, like=site))
        return tuple(found)

    def _with_auxiliary(self, guide: tuple[Site, ...]) -> tuple[Site, ...]:
        if not self.chance(self.rate / 2) or sum(1 if s.family == "normal" else 2 for s in guide) > 5:
            return guide
        family = "normal" if any(not site.discrete for site in guide) else self.choice(DISCRETE)
        level = self.choice([site.level for site in guide])
        before = int(self.rng.integers(len(guide) + 1))
        first = list(guide[:before])
        extra = replace(self.site("u", family, level, first, in_guide=True), auxiliary=True)
        rest = [
            self.site(site.name, site.family, site.level, [*first, extra, *guide[before:n]], True, like=site)
            for n, site in enumerate(guide[before:], before)
        ]
        return (*first, extra, *rest)

    def site(
        self,
        name: str,
        family: str,
        level: Level,
        earlier,
        in_guide: bool,
        like: Site | None = None,
        most_parents: int = 2,
    ) -> Site:
        above = LEVELS[: LEVELS.index(level) + 1]
        fit = [site for site in earlier if site.level in above and (site.discrete or family == "normal")]
        parents = [site for site in fit if self.chance(0.6 if not in_guide else 0.4)][-most_parents:]
        parents.sort(key=lambda site: not site.discrete)
        discrete = [site for site in parents if site.discrete]
        normal = [site for site in parents if not site.discrete]
        values = like.values if like else {"bernoulli": 2, "categorical": self.choice([2, 3])}.get(family, 1)
        by_data = in_guide and level != "global" and self.chance(0.7)
        axes = [2] * by_data + [site.values for site in discrete]
        if family == "normal":
            table = self._locations(axes)
        else:
            table = self._probabilities(axes, values, quarters=in_guide)
        return Site(
            name=name,
            family=family,
            level=level,
            values=values,
            table=table,
            parents=tuple(site.name for site in parents),
            weights=tuple(self.number(-1.0, 1.0) for _ in normal),
            by_data=by_data,
            slope=self.number(-0.8, 0.8) if in_guide and family == "normal" and level != "global" else 0.0,
            tilt=self.choice([0.0, 1.0, -0.5]),
            sd=self.number(0.4, 1.5),
        )

    def _locations(self, axes: list[int]) -> tuple:
        return as_tuple(self.rng.uniform(-1.0, 1.0, size=axes).round(2))

    def _probabilities(self, axes: list[int], values: int, *, quarters: bool) -> tuple:
        cells = []
        for _ in itertools.product(*map(range, axes)):
            if quarters:
                cells.append([each / 4 for each in self.choice(_QUARTERS[values])])
            else:
                raw = self.rng.uniform(0.2, 1.0, size=values)
                cell = (raw / raw.sum()).round(2)
                cell[0] = round(1.0 - float(cell[1:].sum()), 2)
                cells.append([float(each) for each in cell])
        return as_tuple(np.array(cells).reshape(*axes, values))

    # ---- what is laid on them

    def _with_features(self, pair: Pair) -> Pair:
        for feature in (
            self._half_seen,
            self._given,
            self._redrawn,
            self._covariates,
            self._events,
            self._gain,
            self._scales,
            self._masks,
            self._factors,
            self._enumeration,
            self._inner_subsample,
            self._conditioned,
            self._written_otherwise,
            self._alone,
        ):
            pair = feature(pair)
        return pair

    def _alone(self, pair: Pair) -> Pair:
        """Normal latents that are drawn for themselves, as what compares them with each other needs it."""
        other = np.random.default_rng([self.seed, 15])  # so that the rest stays as it was
        if any(site.discrete for site in pair.guide) or pair.half_seen or other.random() < 0.5:
            return pair
        names = {site.name for site in (*pair.latents, *pair.guide) if site.level != "global"}
        names -= {site.name for site in pair.observed}
        model = tuple(site if site.observed else _without_parents(site, names) for site in pair.model)
        model = tuple(
            replace(site, by_data=False, table=site.table[0]) if site.by_data and not site.observed else site
            for site in model
        )
        guide = tuple(
            site if site.auxiliary or site.redrawn else _without_parents(site, names) for site in pair.guide
        )
        return replace(pair, model=model, guide=guide)

    def _half_seen(self, pair: Pair) -> Pair:
        site = pair.observed[0]
        if site.level != "row" or not self.chance(self.rate / 2):
            return pair
        seen = replace(site, name=f"{site.name}_observed", masked=True)
        filled = replace(seen, name=f"{site.name}_unobserved", observed=False, complement=True)
        model = tuple(each for one in pair.model for each in ((seen, filled) if one is site else (one,)))
        drawn = self.site(filled.name, site.family, "row", pair.guide, in_guide=True, like=site)
        drawn = replace(drawn, masked=self.chance(0.8), complement=True)
        at = int(self.rng.integers(len(pair.guide) + 1)) if not drawn.parents else len(pair.guide)
        return replace(pair, model=model, guide=(*pair.guide[:at], drawn, *pair.guide[at:]))

    def _given(self, pair: Pair) -> Pair:
        """A latent whose values the call passes, which the guide then does not draw."""
        fit = [site for site in pair.latents if site.level != "global" and not site.complement]
        if pair.half_seen or len(fit) < 2 or not self.chance(self.rate / 2):
            return pair
        name = self.choice(fit).name
        model = tuple(replace(s, observed=True) if s.name == name else s for s in pair.model)
        guide = tuple(site for site in pair.guide if site.name != name)
        pair = replace(pair, model=model, guide=guide)
        return replace(pair, data=self._data(pair))

    def _covariates(self, pair: Pair) -> Pair:
        """A prior that depends on the datum."""
        fit = [s for s in pair.latents if s.level != "global" and not s.complement]
        if not fit or not self.chance(self.rate / 2):
            return pair
        chosen = self.choice(fit)
        other = (
            _reversed(chosen.table)
            if chosen.discrete
            else _mapped(chosen.table, lambda location: round(location + 0.4, 2))
        )
        changed = replace(chosen, by_data=True, table=(chosen.table, other))
        return replace(pair, model=tuple(changed if site is chosen else site for site in pair.model))

    def _events(self, pair: Pair) -> Pair:
        """Vectors of two for scalars."""
        names = [site.name for site in pair.latents if not site.discrete and not site.complement]
        names = [name for name in names if pair.of_guide(name)]
        bits = sum(1 if site.family == "normal" else 2 for site in pair.guide)
        if not names or bits > 6 or not self.chance(self.rate / 2):
            return pair
        name = self.choice(names)
        of_model, of_guide = (self.choice([0.0, 0.0, 0.6, -0.8]) for _ in range(2))
        model, guide = (
            tuple(replace(s, event=off, correlation=rho) if s.name == name else s for s in sites)
            for sites, off, rho in ((pair.model, 0.4, of_model), (pair.guide, -0.3, of_guide))
        )
        return replace(pair, model=model, guide=guide)

    def _gain(self, pair: Pair) -> Pair:
        fit = [s.name for s in pair.model if s.level != "global" and s.column == s.name and not s.complement]
        if not fit or not self.chance(self.rate / 3):
            return pair
        names = {self.choice(fit)} if self.chance(0.5) else set(fit)
        gain = tuple(self.choice([0.5, 1.0, 2.0, 3.0]) for _ in range(pair.rows))
        return replace(_on_both(pair, names, gained=True), gain=gain)

    def _written_otherwise(self, pair: Pair) -> Pair:
        asked = [site.enumerated for site in pair.guide if site.discrete and not site.redrawn]
        every = bool(asked) and all(how == "parallel" for how in asked)
        bits = sum(1 if site.family == "normal" else 2 for site in pair.guide)
        plain = not (pair.inner or pair.half_seen or pair.conditioned or pair.plate != "length")
        plain = plain and pair.rows == 2 and bits <= 3
        if plain and all(site.level == "row" for site in (*pair.model, *pair.guide)) and self.chance(0.3):
            return replace(pair, sequential=True)
        return replace(
            pair,
            expanded=self.chance(self.rate / 2),
            deterministic=self.chance(self.rate / 3),
            indexed=pair.plate == "whole" and self.chance(self.rate / 2),
            decorated=every and not pair.modules and self.chance(0.5),
        )

    def _redrawn(self, pair: Pair) -> Pair:
        if pair.half_seen or not self.chance(self.rate / 8):
            return pair
        site = self.choice(pair.observed)
        drawn = self.site(site.name, site.family, site.level, pair.guide, in_guide=True, like=site)
        return replace(pair, guide=(*pair.guide, replace(drawn, redrawn=True)))

    def _scales(self, pair: Pair) -> Pair:
        if not self.chance():
            return pair
        chosen = self.choice(
            [site for site in pair.model if site.column == site.name and not site.complement]
        ).name
        scale = self.choice([0.5, 2.0, 3.0])
        return self._laid_on(pair, {chosen}, scale=scale)

    def _laid_on(self, pair: Pair, names: set[str], **changes) -> Pair:
        both = _on_both(pair, names, **changes)
        one = self.choice(["model", "guide"]) if self.chance(0.15) else None
        return both if one is None else replace(pair, **{one: getattr(both, one)})

    def _masks(self, pair: Pair) -> Pair:
        if not self.chance():
            return pair
        sites = [site for site in pair.model if site.level != "global" and not site.masked]
        if not sites:
            return pair
        kind = self.choice(["observed", "latent", "all", "one"])
        names = {
            site.name
            for site in sites
            if kind == "all" or (site.observed == (kind == "observed") and kind != "one")
        } or {self.choice(sites).name}
        return self._laid_on(
            pair, names, masked=True, mask_style=self.choice(["poutine", "poutine", "dist", "dist", "never"])
        )

    def _factors(self, pair: Pair) -> Pair:
        if self.chance(self.rate / 2):
            pair = replace(
                pair, model_factor=self._factor("m", tuple(s for s in pair.latents if not s.complement), None)
            )
        if self.chance(self.rate / 2):
            pair = replace(
                pair,
                guide_factor=self._factor(
                    "q", tuple(s for s in pair.guide if not s.redrawn), self.chance(0.5)
                ),
            )
        return pair

    def _factor(self, name: str, sites: tuple[Site, ...], has_rsample: bool | None) -> Factor:
        site = self.choice(sites)
        # no reparameterised value and no parameter may enter one that says it has none
        has_rsample = has_rsample if has_rsample is None or site.discrete else True
        tilt = 0.0 if has_rsample is False else self.choice([0.0, 1.0])
        return Factor(name, site.name, site.level, self.number(-1, 1), self.number(-1, 1), tilt, has_rsample)

    def _enumeration(self, pair: Pair) -> Pair:
        discrete = [site.name for site in pair.guide if site.discrete and not site.redrawn]
        if not discrete or not self.chance(0.35):
            return pair
        how = "sequential" if self.chance(0.2) else "parallel"
        one = {self.choice(discrete)} if self.chance(0.5) else set(discrete)
        if self.chance(0.5) and how == "parallel":
            return self._summed_out(pair, one)
        guide = tuple(replace(s, enumerated=how) if s.name in one else s for s in pair.guide)
        return replace(pair, guide=guide)

    def _summed_out(self, pair: Pair, names: set[str]) -> Pair:
        """Sites that the model enumerates and the guide lacks; those of one level."""
        level = next((site.level for site in pair.model if site.name in names), "global")
        names = {site.name for site in pair.latents if site.name in names and site.level == level}
        used = {parent for site in pair.guide if site.name not in names for parent in site.parents}
        factors = [factor.site for factor in (pair.model_factor, pair.guide_factor) if factor]
        auxiliary = any(site.auxiliary for site in pair.guide)
        # what is inside the logarithm of their sum has to be finite, and to be of one element of a plate
        together = [site for site in pair.model if names & {site.name, *site.parents}]
        drawn = [pair.of_guide(parent) for site in together for parent in (site.name, *site.parents)]
        apart = any(site and (site.level != level or not site.discrete) for site in drawn if site)
        apart = apart or any(not site.discrete and not site.observed for site in together)
        if used & names or names & set(factors) or auxiliary or level == "global" or pair.half_seen:
            return pair
        if apart and any(site and site.name not in names for site in drawn):
            return pair
        model = tuple(replace(s, enumerated="parallel") if s.name in names else s for s in pair.model)
        guide = tuple(site for site in pair.guide if site.name not in names)
        return replace(pair, model=model, guide=guide)

    def _inner_subsample(self, pair: Pair) -> Pair:
        if not pair.inner or not self.chance():
            return pair
        if pair.enumerated_in_model and any(site.scale != 1.0 for site in pair.model):
            return pair  # the two scales could be equal by accident
        return replace(pair, inner_total=pair.inner * self.choice([2, 3]))

    def _conditioned(self, pair: Pair) -> Pair:
        if pair.plate == "subsample" or pair.half_seen or (pair.masks and not self.chance(0.5)):
            return pair
        return replace(pair, conditioned=self.chance(self.rate / 2))


def _on_both(pair: Pair, names: set[str], **changes) -> Pair:
    model = tuple(replace(site, **changes) if site.name in names else site for site in pair.model)
    guide = tuple(replace(site, **changes) if site.name in names else site for site in pair.guide)
    return replace(pair, model=model, guide=guide)


def _without_parents(site: Site, names: set[str]) -> Site:
    """A site without some of its Normal parents."""
    discrete = len(site.parents) - len(site.weights)
    normal = zip(site.parents[discrete:], site.weights, strict=True)
    kept = [(name, weight) for name, weight in normal if name not in names]
    parents = (*site.parents[:discrete], *(name for name, _ in kept))
    return replace(site, parents=parents, weights=tuple(weight for _, weight in kept))


def _reversed(table: tuple) -> tuple:
    """Probabilities for the values in the other order."""
    return tuple(map(_reversed, table)) if isinstance(table[0], tuple) else table[::-1]


def _mapped(table, change):
    """Locations changed one by one."""
    return tuple(_mapped(each, change) for each in table) if isinstance(table, tuple) else change(table)


def flat(pair: Pair) -> Pair:
    """The pair with two scalar sites, ``a~0`` and ``a~1``, for each vector ``a``."""
    vectors = {site.name for site in (*pair.model, *pair.guide) if site.event is not None}
    if not vectors:
        return pair

    def parents(site: Site) -> Site:
        discrete = len(site.parents) - len(site.weights)
        names, weights = list(site.parents[:discrete]), []
        for name, weight in zip(site.parents[discrete:], site.weights, strict=True):
            each = [f"{name}~0", f"{name}~1"] if name in vectors else [name]
            names += each
            weights += [weight] * len(each)
        return replace(site, parents=tuple(names), weights=tuple(weights))

    def scalars(sites: tuple[Site, ...]) -> tuple[Site, ...]:
        found = []
        for site in map(parents, sites):
            if site.event is None:
                found.append(site)
                continue
            first = replace(site, name=f"{site.name}~0", event=None)
            found += [first, _second(site, first.name)]
        return tuple(found)

    return replace(pair, model=scalars(pair.model), guide=scalars(pair.guide))


def _second(site: Site, first: str) -> Site:
    """The second element of a vector given the first: m + e + r (first − m) = (1 − r) m + e + r first."""
    assert site.event is not None
    r = site.correlation
    rest = replace(
        site,
        name=f"{site.name}~1",
        event=None,
        table=_mapped(site.table, lambda location: (1 - r) * location + site.event),
        slope=(1 - r) * site.slope,
        tilt=(1 - r) * site.tilt,
        weights=tuple((1 - r) * weight for weight in site.weights),
        sd=site.sd * (1 - r * r) ** 0.5,
    )
    if not r:
        return rest
    return replace(rest, parents=(*rest.parents, first), weights=(*rest.weights, r))


def as_tuple(array) -> tuple:
    """Nested tuples of plain numbers."""
    if isinstance(array, np.ndarray | np.generic):
        return as_tuple(array.tolist())
    return tuple(as_tuple(each) for each in array) if isinstance(array, list) else array
