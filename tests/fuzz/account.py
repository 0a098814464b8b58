"""The account of a pair, and its evidence, by tables of all latent values: NumPy alone.

Discrete latents are enumerated, up to two Normal ones are put on a grid.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tests.fuzz.oracle import Oracle
from tests.fuzz.spec import Pair, Site, flat

_MOST_CELLS: Final = 200_000
_REACH: Final = 9.0
_OF_ROWS: Final = ("conditional_total_correlation",)


@dataclass(frozen=True)
class Account:
    """Nats per datum; what could not be tabulated is None."""

    distortion: float
    rate: float
    mutual_information: float | None = None
    marginal_kl: float | None = None
    total_correlation: float | None = None
    prior_dependence: float | None = None
    conditional_total_correlation: float | None = None
    data_entropy: float | None = None
    site_rate: dict[str, float] | None = None
    site_distortion: dict[str, float] | None = None
    dimensionwise_rate: dict[str, float] | None = None
    # the variance of the posterior means of each dimension
    mean_variance: dict[str, float] | None = None
    dimensionwise_kl: dict[str, float] | None = None
    log_evidence: tuple[float, ...] | None = None
    # the variance of each datum's weights, relative to the square of their mean
    weight_variance: tuple[float, ...] | None = None


def account_of(pair: Pair, given: Mapping[str, float] | None = None) -> Account:
    """Masked latents are absent: what is said of q(z) is said given which are present.

    Args:
        pair: the pair.
        given: values of its global latents, whose account is not asked for.
    """
    given = dict(given or {})
    costs = Oracle(pair, scaled=False, given=given).costs()
    size = pair.shown
    found = Account(
        costs.distortion / size,
        costs.rate / size,
        data_entropy=_data_entropy(pair),
        site_rate={name: cost / size for name, cost in costs.latent.items()},
        site_distortion={name: cost / size for name, cost in costs.observed.items()},
    )
    known = not (
        pair.guide_factor
        or pair.enumerated_in_model
        or any(site.auxiliary or site.redrawn for site in pair.guide)
        or any(site.level == "global" and site.name not in given for site in (*pair.model, *pair.guide))
    )
    if not known or not _tabulable(pair):
        return found
    return _tabulated(pair, found, given)


def _data_entropy(pair: Pair) -> float:
    """Of the observed values, as if nothing else were known of a datum."""
    columns = [pair.data[site.column] for site in pair.observed]
    counts = np.array(list(Counter(zip(*columns, strict=True)).values())) / pair.rows
    return float(-(counts * np.log(counts)).sum())


def _tabulable(pair: Pair) -> bool:
    masks = {site.name: _mask_of(site) for site in pair.latents}
    # what is absent may be left out only where nothing that is present depends on it
    depends = any(
        masks.get(parent) not in (None, _mask_of(site))
        for site in (*pair.model, *pair.guide)
        for parent in site.parents
    )
    depends = depends or bool(pair.model_factor and masks[pair.model_factor.site])
    odd = any(bool(pair.of_guide(s.name).masked) != s.masked for s in pair.latents)
    return not odd and not depends and _cells(_axes(pair)) <= _MOST_CELLS


def _mask_of(site: Site) -> tuple | None:
    return (site.level, site.complement, site.mask_style == "never") if site.masked else None


Axis = tuple[str, int, np.ndarray, np.ndarray]  # site, inner element, values, weights


def _axes(pair: Pair) -> list[Axis]:
    local = [site for site in flat(pair).guide if site.level != "global"]
    elements = [(site, m) for site in local for m in range(pair.inner if site.level == "inner" else 1)]
    normal = sum(not site.discrete for site, _ in elements)
    points = {0: 0, 1: 800, 2: 220}.get(normal, 10**6)
    grid = np.linspace(-_REACH, _REACH, points) if 0 < points < 10**6 else np.zeros(points)
    step = grid[1] - grid[0] if 0 < points < 10**6 else 0.0
    return [
        (site.name, m, np.arange(float(site.values)), np.ones(site.values))
        if site.discrete
        else (site.name, m, grid, np.full(len(grid), step))
        for site, m in elements
    ]


def _cells(axes: list[Axis]) -> int:
    return int(np.prod([float(len(values)) for _, _, values, _ in axes]))


def _tabulated(pair: Pair, found: Account, given: Mapping[str, float]) -> Account:
    axes = _axes(pair)
    oracle = Oracle(pair, scaled=False)
    names = [_name(pair, axis) for axis in axes]
    pair = oracle.pair
    shape = tuple(len(values) for _, _, values, _ in axes)
    mesh = np.meshgrid(*[values for _, _, values, _ in axes], indexing="ij")
    cell = np.ones(shape)
    for axis, (_, _, _, weights) in enumerate(axes):
        cell = cell * weights.reshape([-1 if n == axis else 1 for n in range(len(axes))])
    values = {**oracle.data, **{name: np.full((1, 1, 1), value) for name, value in given.items()}}
    local = [site for site in pair.guide if site.name not in given]
    for site in local:
        columns = [mesh[n].reshape(-1) for n, (name, _, _, _) in enumerate(axes) if name == site.name]
        values[site.name] = np.stack(columns, -1)[:, None, :]  # (cells, 1, inner or 1)
    log_q = _joint(oracle, local, values, 0.0)  # by site, (cells, rows or 1, elements)
    log_p = _joint(oracle, [s for s in pair.latents if s.name not in given], values, pair.theta)
    patterns = _patterns(pair, axes)  # (rows, axes): which latents a datum has
    log_x = sum(
        oracle.counted(site, oracle._whole(site, oracle.log_density(site, values, pair.theta))).sum(2)
        for site in pair.observed
    )
    if pair.model_factor and pair.model_factor.level != "global":
        factor = oracle.factor(pair.model_factor, values, pair.theta)
        log_x = log_x + oracle._whole(pair.model_factor, factor).sum(2)
    parts = []
    means = np.zeros((pair.rows, len(axes)))
    evidence, variances = np.zeros(pair.rows), np.zeros(pair.rows)
    for pattern in sorted({tuple(row) for row in patterns.tolist()}):
        rows = [n for n in range(pair.rows) if tuple(patterns[n]) == pattern]
        present = [n for n, there in enumerate(pattern) if there]
        tables = _Tables(pair, axes, shape, cell, present)
        q = np.stack([tables.density(log_q, n) for n in rows])
        p = tables.density(log_p, 0)
        parts.append((len(rows) / pair.rows, _terms(tables, q, p)))
        for n, table in zip(rows, q, strict=True):
            for k, axis in enumerate(present):
                _, _, points, cells = axes[axis]
                means[n, axis] = (tables.marginal(table, k) * points * cells).sum()
            log_x_of = np.broadcast_to(log_x, (log_x.shape[0], pair.rows))[:, n]
            weights = tables.density_with(log_p, log_x_of, n)
            evidence[n] = np.log((weights * tables.cell).sum())
            ratio = np.where(table > 1e-300, weights**2 / np.maximum(table, 1e-300), 0.0)
            variances[n] = (ratio * tables.cell).sum() / np.exp(2 * evidence[n]) - 1
    mean = {
        key: sum(share * terms[key] for share, terms in parts)
        for key in ("mutual_information", "marginal_kl", "total_correlation", "prior_dependence", *_OF_ROWS)
    }
    if any(logs.shape[1] > 1 for logs in log_p.values()):
        # there is no one prior
        known = ("mutual_information", "total_correlation", *_OF_ROWS)
        mean = dict.fromkeys(mean) | {key: mean[key] for key in known}
    has_prior = mean["marginal_kl"] is not None
    by_dimension, rates = (
        {name: sum(share * terms[key].get(n, 0.0) for share, terms in parts) for n, name in enumerate(names)}
        for key in ("dimensions", "rates")
    )
    whole = len(parts) == 1 and len(names) == len(parts[0][1]["dimensions"])
    return replace(
        found,
        **mean,
        dimensionwise_kl=by_dimension if has_prior else None,
        dimensionwise_rate=rates if has_prior else None,
        mean_variance=dict(zip(names, means.var(0), strict=True)) if whole else None,
        log_evidence=tuple(evidence),
        weight_variance=tuple(variances),
    )


def _joint(oracle: Oracle, sites, values, parameter: float) -> dict[str, np.ndarray]:
    found = {}
    for site in sites:
        logs = oracle.log_density(site, values, parameter)
        found[site.name] = np.broadcast_to(logs, (values[site.name].shape[0], *logs.shape[1:]))
    return found


def _patterns(pair: Pair, axes: list[Axis]) -> np.ndarray:
    patterns = np.ones((pair.rows, len(axes)), dtype=bool)
    for n, (name, m, _, _) in enumerate(axes):
        site = pair.of_guide(name)
        if site.masked:
            if site.mask_style == "never":
                patterns[:, n] = False
                continue
            there = [row[m] for row in pair.keep_inner] if site.level == "inner" else pair.keep
            patterns[:, n] = [each != site.complement for each in there]
    return patterns


class _Tables:
    """Densities over the latents that are present, on the grid of these."""

    def __init__(self, pair: Pair, axes: list[Axis], shape, cell: np.ndarray, present: list[int]) -> None:
        self.axes, self.shape, self.present = axes, shape, present
        self.pair = pair
        absent = tuple(n for n in range(len(axes)) if n not in present)
        # nothing that is present depends on what is absent: one value of it stands for all
        self.first = tuple(slice(None) if n in present else 0 for n in range(len(axes)))
        self.absent = absent
        weights = np.ones([shape[n] for n in present])
        for k, n in enumerate(present):
            weights = weights * axes[n][3].reshape([-1 if j == k else 1 for j in range(len(present))])
        self.cell = weights

    def _logs(self, logs: dict[str, np.ndarray], row: int) -> np.ndarray:
        total = np.zeros(int(np.prod(self.shape)))
        for n in self.present:
            name, m, _, _ = self.axes[n]
            table = logs[name]
            total = total + table[:, min(row, table.shape[1] - 1), min(m, table.shape[2] - 1)]
        return total

    def density(self, logs: dict[str, np.ndarray], row: int) -> np.ndarray:
        return np.exp(self._logs(logs, row)).reshape(self.shape)[self.first]

    def density_with(self, logs: dict[str, np.ndarray], more: np.ndarray, row: int) -> np.ndarray:
        return np.exp(self._logs(logs, row) + more).reshape(self.shape)[self.first]

    def marginal(self, density: np.ndarray, k: int) -> np.ndarray:
        """The density of the k-th present latent."""
        others = tuple(j for j in range(len(self.present)) if j != k)
        weights = self.axes[self.present[k]][3]
        return (density * self.cell).sum(others) / weights


def _terms(tables: _Tables, q: np.ndarray, p: np.ndarray) -> dict:
    mean = q.mean(0)
    information = np.mean([_divergence(each, mean, tables.cell) for each in q])
    product_q, product_p, dimensions, rates = np.ones_like(mean), np.ones_like(mean), {}, {}
    products = np.ones_like(q)
    for k, n in enumerate(tables.present):
        shape = [-1 if j == k else 1 for j in range(len(tables.present))]
        of_q, of_p = tables.marginal(mean, k), tables.marginal(p, k)
        product_q = product_q * of_q.reshape(shape)
        product_p = product_p * of_p.reshape(shape)
        of_rows = np.stack([tables.marginal(each, k) for each in q])
        products = products * of_rows.reshape(len(q), *shape)
        rates[n] = float(np.mean([_divergence(each, of_p, tables.axes[n][3]) for each in of_rows]))
        dimensions[n] = _divergence(of_q, of_p, tables.axes[n][3])
    return {
        "mutual_information": float(information),
        "marginal_kl": _divergence(mean, p, tables.cell),
        "total_correlation": _divergence(mean, product_q, tables.cell),
        "prior_dependence": float((mean * tables.cell * (_log(product_p) - _log(p))).sum()),
        "conditional_total_correlation": float(
            np.mean(
                [_divergence(each, product, tables.cell) for each, product in zip(q, products, strict=True)]
            )
        ),
        "dimensions": dimensions,
        "rates": rates,
    }


def _divergence(q: np.ndarray, p: np.ndarray, cell: np.ndarray) -> float:
    return float((q * cell * (_log(q) - _log(p))).sum())


def _log(density: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(density, 1e-300))


def _name(pair: Pair, axis: Axis) -> str:
    name, m, _, _ = axis
    name, _, element = name.partition("~")
    index = [str(m)] if pair.of_guide(name).level == "inner" else []
    index += [element] if element else []
    return f"{name}[{','.join(index)}]" if index else name
