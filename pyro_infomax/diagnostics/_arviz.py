"""The posterior of a pair as ArviZ reads it."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from pyro import poutine
from torch import nn

from pyro_infomax._checks import shown, whole_number
from pyro_infomax._data import Data, Tensors, rows_of
from pyro_infomax._native import (
    DATUM,
    HOLDOUT,
    OF_DATA,
    OF_DRAWS,
    OF_HOLDOUT,
    Labels,
    NativeFile,
    NativeParts,
    as_integers,
    history_group,
    in_chains,
)
from pyro_infomax._progress import patiently
from pyro_infomax._random import seeded_draws
from pyro_infomax._types import Array, Program
from pyro_infomax._version import creation_attributes
from pyro_infomax.diagnostics._decompose import Decomposition, account_of
from pyro_infomax.diagnostics._pair import Pair, held_out_pair
from pyro_infomax.information import Estimate
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.programs import FixedMessenger, LocalProgram, global_values
from pyro_infomax.training import History

_PREDICTIVE_DATA: Final = 100
_ACCOUNT_DATA: Final = 10_000  # the most of which an account is made unasked
_ELEMENTS: Final = 2**21  # numbers of one round of draws


def to_arviz(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_samples: int = 100,
    num_chains: int = 1,
    history: History | pd.DataFrame | None = None,
    coords: Mapping[str, Sequence[object]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    stack: Mapping[str, str] | None = None,
    datum: slice | Sequence[int] | None = None,
    holdout: Data | None = None,
    path: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    data_plate: str | None = None,
    predictive_data: int | None = _PREDICTIVE_DATA,
    decomposition: Decomposition | bool | None = None,
    progress: bool = True,
) -> Any:
    """Draws from the posterior of every datum, and what is known about them, for ArviZ.

    Groups: ``posterior`` and ``prior`` (the latent sites, global ones and those that the model enumerates
    included; those of the posterior are nan where a mask leaves them out), ``sample_stats`` (``log_weight``
    = log p(x, z) − log q(z|x)), ``posterior_predictive``, ``observed_data``, ``constant_data`` (arguments
    that are not observed), ``svi`` (the history) and ``information`` (the decomposition); of held-out data
    ``predictions`` (latent sites given these data, and new draws of the observed ones) and
    ``predictions_constant_data`` (the held-out data themselves). There is no ``log_likelihood``: with local
    latents ``arviz.loo`` would be wrong, since leaving a datum out leaves its latent the prior.

    Values of discrete local sites are integers, also where the programs keep them as floats, as Bernoulli
    does; observed ones only if all of them are whole.

    Args:
        model, guide, data, seed, data_plate: as for :func:`decompose`.
        num_samples: draws per datum and chain.
        num_chains: the number of chains. Draws from a guide are independent, so that chains are parts of one
            sample: R-hat is 1 but for noise whatever the guide is, and no sign that it is right.
        history: of the training (:class:`~pyro_infomax.training.History`, or a DataFrame with a row an
            epoch).
        coords: names of dimensions to their labels; ``datum`` is the data's, ``holdout`` that of held-out
            data.
        dims: site names to the names of their event dimensions.
        stack: names of families of sites to the name of a dimension: ``{"z": "time"}`` makes one variable
            ``z`` of the sites ``z_0``, ``z_1``, … (or ``z0``, ``z1``, …), which have one shape.
        datum: the data that are converted, a slice or their numbers; None for all. They keep their labels,
            and the account is that of all data.
        holdout: further data of the same kind. All of them are predicted.
        path: a netCDF file (``.nc``) or zarr store (``.zarr``, where zarr is installed), to which the draws
            go a few at a time, so that they are never in memory together. What is returned reads from there.
        predictive_data: the number of data, from the first on, with posterior predictive draws; None for all.
        decomposition: an account made before; True to make one, False to leave it out, None to make one of up
            to 10,000 data: its time grows with the square of their number.
        progress: show a bar where draws take more than a few seconds.

    Returns:
        ``InferenceData`` before ArviZ 1, ``DataTree`` from 1 on. Dimensions are (chain, draw, datum, event…).

    Raises:
        ValueError: for the errors of :func:`decompose`, labels whose number is not that of their dimension,
            names of nothing that is converted or of two things, families that cannot be stacked, and data
            that do not exist.
        NotImplementedError: for those of :func:`decompose`, and for observed sites that cannot be drawn.
        ModuleNotFoundError: for a zarr store where zarr is not installed.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> x = oracle.sample(10, seed=0)
        >>> idata = to_arviz(oracle.model, oracle.guide, x, num_samples=5, dims={"z": ["axis"]}, seed=0)
        >>> dict(idata.posterior["z"].sizes)
        {'chain': 1, 'draw': 5, 'datum': 10, 'axis': 2}
    """
    whole_number("num_samples", num_samples, at_least=1)
    whole_number("num_chains", num_chains, at_least=1)
    if predictive_data is not None:
        whole_number("predictive_data", predictive_data, at_least=0)
    if not (decomposition is None or isinstance(decomposition, Decomposition | bool)):
        raise ValueError(
            f"Expected decomposition to be an account by decompose, True, False or None but got "
            f"{shown(decomposition)}"
        )
    with (
        NativeParts() if path is None else NativeFile(path) as native,
        evaluation_mode(model, guide),
        torch.no_grad(),
        seeded_draws(seed),
    ):
        build = partial(Pair, model, guide, data_plate=data_plate, progress=progress)
        pair = build(data)
        rows = None if datum is None else _row_numbers(datum, pair.data_size)
        conversion = _Conversion(pair, build, rows=rows, holdout=holdout, predictive=predictive_data)
        labels = Labels(
            {"chain": num_chains, "draw": num_samples} | conversion.sizes,
            coords=coords,
            dims=dims,
            stack=stack,
            rows=None if rows is None else rows.numpy(),
        )
        step = max(1, conversion.draws_at_once // num_chains)
        for first in patiently(range(0, num_samples, step), "draws for ArviZ", progress=progress):
            size = min(step, num_samples - first)
            groups = conversion.drawn(size, num_chains, labels, first=first)
            if not first:
                groups |= conversion.given(labels)
                labels.check_used()  # before all the other draws
            native.add(_with_attributes(groups))
        rest = _account_group(pair, decomposition)
        if history is not None:
            rest["svi"] = history_group(history if isinstance(history, pd.DataFrame) else history.to_frame())
        native.add(_with_attributes(rest))
        return native.finish()


def _with_attributes(groups: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The groups that hold something, each saying where it comes from."""
    return {name: group.assign_attrs(creation_attributes()) for name, group in groups.items() if group}


def _row_numbers(datum: Any, size: int) -> torch.Tensor:
    """The numbers of the data that are asked for."""
    if isinstance(datum, slice):
        numbers = list(range(size)[datum])
    else:
        asked = np.asarray(datum)
        if asked.dtype == bool and asked.shape == (size,):
            asked = np.flatnonzero(asked)
        is_list = asked.ndim == 1 and (asked.dtype.kind in "iu" or not asked.size)
        if not is_list or ((asked < -size) | (asked >= size)).any():
            raise ValueError(
                f"Expected datum to be a slice, or numbers of the {size} data, but got {shown(datum)}"
            )
        numbers = [int(each) % size for each in asked]
    if not numbers or len(set(numbers)) < len(numbers):
        which = "some more than once" if numbers else "none"
        raise ValueError(f"Expected datum to name data, each once, but it names {which}: {shown(datum)}")
    return torch.tensor(numbers)


# ---- What is drawn, and what is given.

_DRAWS_OF_GLOBALS: Final = 16  # at once: for each the programs are read anew


@final
@dataclass(frozen=True)
class _PosteriorDraws:
    """Draws from the posterior of every datum, and what follows from them."""

    sites: dict[str, torch.Tensor]  # (samples, data, *shape), what the model sums out included
    log_weight: torch.Tensor  # (samples, data)
    predicted: dict[str, torch.Tensor]  # (samples, few, *shape)

    @staticmethod
    def end_to_end(parts: "Sequence[_PosteriorDraws]") -> "_PosteriorDraws":
        return _PosteriorDraws(
            _end_to_end([each.sites for each in parts]),
            torch.cat([each.log_weight for each in parts]),
            _end_to_end([each.predicted for each in parts]),
        )


@final
class _ConvertedRows:
    """The data of a pair that are converted, and of these the first that are predicted."""

    def __init__(self, pair: Pair, rows: torch.Tensor | None, predictive: int | None) -> None:
        self.all = rows is None
        self.rows = torch.arange(pair.data_size) if rows is None else rows
        self.predicted = self.rows[:predictive]

    def of(self, values: torch.Tensor, axis: int = 0) -> torch.Tensor:
        return values if self.all else values.index_select(axis, self.rows.to(values.device))


@final
class _Conversion:
    """Groups of draws from a pair, a few draws at a time, and groups of its data.

    Args:
        pair: of all data.
        build: makes a pair of other data.
        rows: the data that are converted; None for all.
        holdout: further data.
        predictive: the number of data with predictive draws; None for all.
    """

    def __init__(
        self,
        pair: Pair,
        build: Callable[..., Pair],
        *,
        rows: torch.Tensor | None,
        holdout: Data | None,
        predictive: int | None,
    ) -> None:
        self._whole = pair
        self._chosen = slice(None) if rows is None else rows
        given = partial(build, global_values=pair.global_values)
        if rows is not None and _takes_any_rows(pair):
            # the plate by its name, since few data may be as many as another plate has
            pair, rows = given(rows_of(pair.data, rows), data_plate=pair.program.plate), None
        self._pair = pair
        self._rows = _ConvertedRows(pair, rows, predictive)
        self.sizes = {DATUM: self._whole.data_size}
        self._held_out = None if holdout is None else held_out_pair(self._whole, given, holdout)
        if self._held_out is not None:
            # there is nothing to see of held-out data but what is predicted
            self._held_out_rows = _ConvertedRows(self._held_out, None, 0 if predictive == 0 else None)
            self.sizes[HOLDOUT] = self._held_out.data_size
        program = pair.program
        self._discrete = {
            name
            for name, layout in (program.latents | program.summed | program.observed).items()
            if layout.discrete
        }
        self._shared = list(pair.global_sites)

    @property
    def draws_at_once(self) -> int:
        """As many as keep the memory in bounds, whatever the number of data."""
        numbers = self._numbers(self._pair, self._rows)
        if self._held_out is not None:
            numbers += self._numbers(self._held_out, self._held_out_rows)
        draws = max(1, _ELEMENTS // max(1, numbers))
        return min(draws, _DRAWS_OF_GLOBALS) if self._pair.global_values else draws

    @staticmethod
    def _numbers(pair: Pair, rows: _ConvertedRows) -> int:
        """How many there are in one draw."""
        observed = sum(layout.size for layout in pair.program.observed.values())
        return pair.data_size * sum(pair.site_sizes) + len(rows.predicted) * observed

    def drawn(self, size: int, chains: int, labels: Labels, *, first: int) -> dict[str, xr.Dataset]:
        """The groups of draws.

        Args:
            size: the number of draws of each chain.
            chains: the number of chains.
            labels: of the dimensions.
            first: the number of draws of each chain that came before.
        """
        posterior, shared, held_out = self._posterior(size * chains)
        prior, shared_prior = _prior(self._whole, size * chains, first=first * chains)

        def group(values: Mapping[str, torch.Tensor], lead: Sequence[str]) -> xr.Dataset:
            arrays = {name: in_chains(each, chains) for name, each in self._arrays(values).items()}
            return labels.dataset(arrays, lead, first_draw=first)

        groups = {
            "posterior": group(posterior.sites, OF_DATA).merge(group(shared, OF_DRAWS)),
            "sample_stats": group({"log_weight": posterior.log_weight}, OF_DATA),
            "prior": group(prior | shared_prior, OF_DRAWS),
            "posterior_predictive": group(posterior.predicted, OF_DATA),
        }
        if held_out is not None:
            groups["predictions"] = group(held_out.sites | held_out.predicted, OF_HOLDOUT)
        return groups

    def given(self, labels: Labels) -> dict[str, xr.Dataset]:
        """The groups of data."""
        observed, constant = _arguments(self._whole)
        groups = {
            name: labels.dataset(self._arrays(each, self._chosen), [DATUM])
            for name, each in (("observed_data", observed), ("constant_data", constant))
        }
        if self._held_out is not None:
            observed, constant = _arguments(self._held_out, constant)
            groups["predictions_constant_data"] = labels.dataset(self._arrays(observed | constant), [HOLDOUT])
        return groups

    def _arrays(
        self, values: Mapping[str, torch.Tensor], rows: torch.Tensor | slice = slice(None)
    ) -> dict[str, Array]:
        arrays = {name: each.detach()[rows].cpu().numpy() for name, each in values.items()}
        return {name: as_integers(each) if name in self._discrete else each for name, each in arrays.items()}

    def _posterior(
        self, number: int
    ) -> tuple[_PosteriorDraws, dict[str, torch.Tensor], _PosteriorDraws | None]:
        """Draws of all latents together: local ones given a draw of the global ones each.

        Those of the data, the global ones, and those of held-out data.
        """
        pair, held_out = self._pair, self._held_out
        if not pair.global_values:
            further = None if held_out is None else _draws(held_out, number, self._held_out_rows)
            return _draws(pair, number, self._rows), {}, further
        rounds, shared, of_held_out = [], [], []
        for _ in range(number):
            values = self._whole.draw_global_values()  # which some of the data would tell otherwise
            rounds.append(_draws(pair.at(values), 1, self._rows))
            shared.append({name: values[name] for name in self._shared})
            if held_out is not None:
                of_held_out.append(_draws(held_out.at(values), 1, self._held_out_rows))
        return (
            _PosteriorDraws.end_to_end(rounds),
            {name: torch.stack([each[name] for each in shared]) for name in self._shared},
            _PosteriorDraws.end_to_end(of_held_out) if of_held_out else None,
        )


def _takes_any_rows(pair: Pair) -> bool:
    """Whether a pair of some of the data is the same as that part of the pair."""
    programs = pair.program, pair.representation.program
    return all(each.takes_any_rows for each in programs) and programs[0].plate == programs[1].plate


def _end_to_end(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _draws(pair: Pair, num_samples: int, rows: _ConvertedRows) -> _PosteriorDraws:
    z = _as_stored(pair, pair.draw(num_samples))
    sites = pair.space.as_held(z)
    if pair.program.summed:
        each = [{name: value[s] for name, value in sites.items()} for s in range(num_samples)]
        recovered = [pair.program.recovered(pair.data, values) for values in each]
        sites |= {name: torch.stack([part[name] for part in recovered]) for name in recovered[0]}
    predicted = _predicted(pair, sites, rows.predicted)
    kept = {name: rows.of(value, 1) for name, value in _absent_as_nan(pair, sites).items()}
    return _PosteriorDraws(kept, rows.of(pair.score(z).log_weight, 1), predicted)


def _as_stored(pair: Pair, z: torch.Tensor) -> torch.Tensor:
    """Draws in the precision in which the posterior group keeps them, so that the weights are theirs."""
    return pair.space.flatten(pair.space.as_held(z))


def _absent_as_nan(pair: Pair, sites: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a mask leaves out has no posterior, and what was drawn for it says nothing."""
    found = dict(sites)
    for name, present in pair.program.presence(pair.data).items():
        value = sites[name] if sites[name].is_floating_point() else sites[name].double()
        found[name] = value.masked_fill(~present, torch.nan)
    return found


def _prior(
    pair: Pair, num_samples: int, *, first: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Draws of local and of global latent sites from the model, (samples, *shape).

    None if factors make it no program to draw from. The rows of the data are taken in turn.
    """
    program, data = pair.program, pair.data
    if any(not layout.size for layout in program.observed.values()):
        return {}, {}
    if not program.given:
        return _rows_in_turn(program, data, num_samples, first=first), {}
    model = pair.programs[0]
    shared = [global_values(model, data, program.given) for _ in range(num_samples)]
    local = [
        _rows_in_turn(program.running(FixedMessenger(values)(model)), data, 1, first=number)
        for number, values in enumerate(shared, first)
    ]
    together = {name: torch.stack([each[name] for each in shared]) for name in program.given}
    return _end_to_end(local), together


def _rows_in_turn(
    program: LocalProgram, data: Tensors, number: int, *, first: int
) -> dict[str, torch.Tensor]:
    """Latent sites drawn from a model, (number, *shape)."""
    rows = torch.arange(first, first + number) % len(data[0])
    if program.takes_any_rows:
        return program.draw(rows_of(data, rows), summed=True)
    rounds = [program.draw(data, summed=True) for _ in range(-(-number // len(data[0])))]
    drawn = _end_to_end(rounds)
    return {name: each[first % len(data[0]) :][:number] for name, each in drawn.items()}


def _arguments(
    pair: Pair, constant: Mapping[str, object] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The observed sites with their values, and the arguments that are none of them by their names.

    Those of other data are called as in the second argument.
    """
    observed = pair.program.observations(pair.data)
    arguments = {
        f"{name}_argument" if name in observed else name: each
        for name, each in zip(_argument_names(pair), pair.data, strict=True)
    }
    if constant is not None:
        return observed, {name: arguments[name] for name in constant}
    return observed, {
        name: each
        for name, each in arguments.items()
        if not any(each.shape == value.shape and torch.equal(each, value) for value in observed.values())
    }


def _argument_names(pair: Pair) -> list[str]:
    model: Any = poutine.unwrap(pair.programs[0])
    # a module passes on whatever its __call__ gets
    inner = model.forward if isinstance(model, nn.Module) else model
    parameters = inspect.signature(inner).parameters.values()
    named = [each.name for each in parameters if each.kind in _POSITIONAL]
    return [*named, *(f"data_{i}" for i in range(len(named), len(pair.data)))][: len(pair.data)]


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _predicted(pair: Pair, sites: Mapping[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Draws of the observed sites of some data, (samples, rows, *event)."""
    if not len(rows):
        return {}
    # a program made for all of its data has no shorter run
    size = int(rows.max()) + 1 if pair.program.follows else pair.data_size
    data, program = rows_of(pair.data, slice(0, size)), pair.program.generating()
    number = len(next(iter(sites.values())))
    try:
        runs = [
            program.observations(data, {name: each[s, :size] for name, each in sites.items()})
            for s in range(number)
        ]
    except NotImplementedError as error:
        raise NotImplementedError(
            f"Expected observed sites, {pair.observed_names}, that can be drawn for posterior_predictive but "
            f"got {str(error) or 'one without a method sample'}; pass predictive_data=0 to leave them out"
        ) from error
    return {name: torch.stack([run[name][rows.to(run[name].device)] for run in runs]) for name in runs[0]}


# ---- The account.


def _account_group(pair: Pair, decomposition: Decomposition | bool | None) -> dict[str, xr.Dataset]:
    if decomposition is False:
        return {}
    if isinstance(decomposition, Decomposition):
        return {"information": _information(decomposition)}
    if decomposition is None and pair.data_size > _ACCOUNT_DATA:
        reason = (
            f"an account of {pair.data_size} data takes long, and none of more than {_ACCOUNT_DATA} is made "
            "unasked: pass decomposition=True, or an account that was made before"
        )
        attributes = {"account_unavailable": reason}
        return {"information": xr.Dataset({"data_size": pair.data_size}, attrs=attributes)}
    return {"information": _information(account_of(pair))}


def _information(account: Decomposition) -> xr.Dataset:
    """The account, and that of held-out data with the prefix ``holdout_``."""
    arrays, reasons = _arrays(account)
    if account.holdout is not None:
        held_out, missing = _arrays(account.holdout)
        arrays |= {f"holdout_{name}": each for name, each in held_out.items()}
        reasons |= {f"holdout_{name}": each for name, each in missing.items()}
    used = {str(dim) for each in arrays.values() for dim in each.dims}
    coords = {along: list(names) for along, names in map(account.axis, arrays) if along in used}
    return xr.Dataset(arrays, coords={"latent": list(account.latent_names)} | coords, attrs=reasons)


def _arrays(account: Decomposition) -> tuple[dict[str, xr.DataArray], dict[str, str]]:
    """Arrays by their names, and the reasons why others are missing."""
    arrays: dict[str, xr.DataArray] = {}
    for name, estimate in vars(account).items():
        if isinstance(estimate, Estimate):
            arrays |= _with_errors(name, estimate, account.axis(name)[0])
    for name in ("active_units", "data_size", "saturated"):
        if getattr(account, name) is not None:
            arrays[name] = xr.DataArray(int(getattr(account, name)))
    return arrays, {f"{name}_unavailable": reason for name, reason in account.unavailable.items()}


def _with_errors(name: str, estimate: Estimate, along: str) -> dict[str, xr.DataArray]:
    dims = [along] if estimate.value.dim() else []
    attrs = {"bound": estimate.bound, "target": estimate.target, "units": "nats per datum"}
    arrays = {name: xr.DataArray(estimate.value.numpy(), dims=dims, attrs=attrs)}
    for error in ("standard_error", "population_standard_error"):
        if (value := getattr(estimate, error)) is not None:
            arrays[f"{name}_{error}"] = xr.DataArray(value.numpy(), dims=dims)
    return arrays
