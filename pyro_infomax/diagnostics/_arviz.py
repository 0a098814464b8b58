"""The posterior of a pair as ArviZ reads it."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from pyro import poutine
from torch import nn

from pyro_infomax._checks import whole_number
from pyro_infomax._data import Data, Tensors, rows_of
from pyro_infomax._progress import patiently
from pyro_infomax._random import seeded_draws
from pyro_infomax._types import Array, Program
from pyro_infomax._version import creation_attributes
from pyro_infomax.diagnostics._decompose import Decomposition, account_of
from pyro_infomax.diagnostics._pair import Pair
from pyro_infomax.information import Estimate
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.programs import FixedMessenger, LocalProgram, global_values
from pyro_infomax.training import History

# ---- Groups of arrays as the installed ArviZ's native type.


def to_native(groups: Mapping[str, xr.Dataset]) -> Any:
    """Wraps groups as ``InferenceData`` before ArviZ 1 and as ``DataTree`` from 1 on.

    Args:
        groups: names of groups (``posterior``, ``observed_data``, also custom ones) to their datasets.

    Returns:
        The native object; its ``to_netcdf`` and ``arviz.from_netcdf`` are the way to disk and back.

    Example:
        >>> native = to_native({"posterior": xr.Dataset({"z": (("chain", "draw"), [[0.5, 1.5]])})})
        >>> float(native["posterior"]["z"].mean())
        1.0
    """
    az = _arviz()
    # 1.1 and later have an attribute InferenceData too, so that only the version tells.
    if int(az.__version__.split(".")[0]) >= 1:
        return xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
    return az.InferenceData(**groups)


def _arviz() -> ModuleType:
    """ArviZ, imported at first use: it takes as long as all the rest, and few runs convert."""
    with warnings.catch_warnings():
        # 0.23 announces its successor on import, which must not end a program that makes errors of warnings
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        import arviz
    return arviz


# ---- Names of dimensions, and of what stands along them.

_DATUM = "datum"


@final
class Labels:
    """Makes labelled datasets of tensors; event dimensions are called ``z_dim_0`` and so on by default."""

    def __init__(
        self,
        data_size: int,
        *,
        coords: Mapping[str, Sequence[object]],
        dims: Mapping[str, Sequence[str]],
    ) -> None:
        self.coords = {name: _plain(name, each) for name, each in coords.items()}
        self.dims = dict(dims)
        self._unused = set(self.coords) | set(self.dims)
        if _DATUM in coords:
            _check_number(_DATUM, len(self.coords[_DATUM]), data_size)

    def dataset(self, arrays: Mapping[str, torch.Tensor], lead: Sequence[str]) -> xr.Dataset:
        """Arrays (*lead, *event) as one labelled dataset."""
        taken = {*arrays, *lead}
        for name in arrays:
            own = self.dims.get(name, ())
            if clash := [dim for dim in own if dim in taken or list(own).count(dim) > 1]:
                raise ValueError(
                    f"Expected names of dimensions for {name!r} that no site and no other dimension has but "
                    f"got {clash}; call them otherwise, as {name}_dim"
                )
        return xr.Dataset({name: self._array(name, each, lead) for name, each in arrays.items()})

    def check_used(self) -> None:
        """Raises ValueError for names that no array and no dimension has had."""
        if self._unused:
            raise ValueError(
                f"Expected coords and dims of what is converted but nothing is called {sorted(self._unused)};"
                " coords take the names of dimensions, dims those of sites"
            )

    def _array(self, name: str, values: torch.Tensor, lead: Sequence[str]) -> xr.DataArray:
        dims = [*lead, *self._event_dims(name, values.dim() - len(lead))]
        self._unused -= {name, *dims}
        array = values.detach().cpu().numpy()
        along = {dim: self._along(dim, size) for dim, size in zip(dims, array.shape, strict=True)}
        return xr.DataArray(array, dims=dims, coords=along)

    def _event_dims(self, name: str, number: int) -> Sequence[str]:
        names = self.dims.get(name, [f"{name}_dim_{i}" for i in range(number)])
        if len(names) != number:
            raise ValueError(f"Expected {number} names of dimensions for {name!r} but got {list(names)}")
        return names

    def _along(self, dim: str, size: int) -> Sequence[object] | Array:
        labels: Sequence[object] | Array = self.coords.get(dim, np.arange(size))
        if dim == _DATUM:
            return labels[:size]
        _check_number(dim, len(labels), size)
        return labels


def _plain(name: str, labels: Any) -> Array:
    """Labels as a plain array, which can be written to a file: pandas has types that cannot."""
    index = labels if isinstance(labels, pd.Index) else pd.Index(labels)
    if bool(pd.isna(np.asarray(index)).any()):
        raise ValueError(f"Expected a label for each place along {name!r} but some are missing")
    if isinstance(index, pd.MultiIndex):
        return np.array([", ".join(map(str, each)) for each in index])
    array = np.asarray(index)
    return array if array.dtype != object else np.array([str(each) for each in array])


def _check_number(dim: str, labels: int, size: int) -> None:
    if labels != size:
        raise ValueError(f"Expected {size} labels for the dimension {dim!r} but got {labels}")


# ---- What is known of a pair, as groups.

_PREDICTIVE_DATA: Final = 100


def to_arviz(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_samples: int = 100,
    history: History | pd.DataFrame | None = None,
    coords: Mapping[str, Sequence[object]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    seed: int | None = None,
    data_plate: str | None = None,
    predictive_data: int | None = _PREDICTIVE_DATA,
    decomposition: Decomposition | None = None,
    progress: bool = True,
) -> Any:
    """Draws from the posterior of every datum, and what is known about them, for ArviZ.

    Groups: ``posterior`` and ``prior`` (the latent sites, global ones and those that the model enumerates
    included; those of the posterior are nan where a mask leaves them out), ``sample_stats`` (``log_weight``
    = log p(x, z) − log q(z|x)), ``posterior_predictive``, ``observed_data``, ``constant_data`` (arguments
    that are not observed), ``svi`` (the history) and ``information`` (the decomposition). There is no
    ``log_likelihood``: with local latents ``arviz.loo`` would be wrong, since leaving a datum out leaves its
    latent the prior.

    Args:
        model, guide, data, seed, data_plate: as for :func:`decompose`.
        num_samples: draws per datum.
        history: of the training (:class:`~pyro_infomax.training.History`, or a DataFrame with a row an
            epoch).
        coords: names of dimensions to their labels; ``datum`` is the data's.
        dims: site names to the names of their event dimensions.
        predictive_data: the number of data, from the first on, with posterior predictive draws; None for all.
        decomposition: an account made before; None to make one.
        progress: show a bar where draws take more than a few seconds.

    Returns:
        ``InferenceData`` before ArviZ 1, ``DataTree`` from 1 on. Dimensions are (chain, draw, datum, event…).

    Raises:
        ValueError: for the errors of :func:`decompose`, labels whose number is not that of their dimension,
            and names of nothing that is converted.
        NotImplementedError: for those of :func:`decompose`, and for observed sites that cannot be drawn.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> x = oracle.sample(10, seed=0)
        >>> idata = to_arviz(oracle.model, oracle.guide, x, num_samples=5, dims={"z": ["axis"]}, seed=0)
        >>> dict(idata.posterior["z"].sizes)
        {'chain': 1, 'draw': 5, 'datum': 10, 'axis': 2}
    """
    whole_number("num_samples", num_samples, at_least=1)
    if predictive_data is not None:
        whole_number("predictive_data", predictive_data, at_least=0)
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(seed):
        pair = Pair(model, guide, data, data_plate=data_plate, progress=progress)
        labels = Labels(pair.data_size, coords=coords or {}, dims=dims or {})
        groups = _groups(pair, num_samples, predictive_data, labels, progress=progress)
        groups["information"] = _information(decomposition or account_of(pair))
    if history is not None:
        groups["svi"] = _svi(history)
    labels.check_used()
    return to_native({name: group.assign_attrs(creation_attributes()) for name, group in groups.items()})


_DRAWS = ("chain", "draw")


@final
@dataclass(frozen=True)
class _PosteriorDraws:
    """Draws from the posterior of every datum, and what follows from them."""

    sites: dict[str, torch.Tensor]  # (samples, data, *shape), what the model sums out included
    shared: dict[str, torch.Tensor]  # global latents, (samples, *shape)
    log_weight: torch.Tensor  # (samples, data)
    predicted: dict[str, torch.Tensor]  # (samples, few, *shape)


def _groups(
    pair: Pair, num_samples: int, predictive: int | None, labels: Labels, *, progress: bool
) -> dict[str, xr.Dataset]:
    few = pair.data_size if predictive is None else min(predictive, pair.data_size)
    drawn = _posterior(pair, num_samples, few, progress=progress)
    prior, shared_prior = _prior(pair, num_samples)
    observed, constant = _arguments(pair)
    of_draws, of_data = (*_DRAWS, "datum"), ("datum",)
    groups = {
        "posterior": labels.dataset(_one_chain(drawn.sites), of_draws).merge(
            labels.dataset(_one_chain(drawn.shared), _DRAWS)
        ),
        "sample_stats": labels.dataset(_one_chain({"log_weight": drawn.log_weight}), of_draws),
        "prior": labels.dataset(_one_chain(prior | shared_prior), _DRAWS),
        "posterior_predictive": labels.dataset(_one_chain(drawn.predicted), of_draws),
        "observed_data": labels.dataset(observed, of_data),
        "constant_data": labels.dataset(constant, of_data),
    }
    return {name: group for name, group in groups.items() if group}


def _one_chain(arrays: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: array[None] for name, array in arrays.items()}


def _posterior(pair: Pair, num_samples: int, few: int, *, progress: bool) -> _PosteriorDraws:
    """Draws of all latents together: local ones given a draw of the global ones each."""
    if not pair.global_values:
        return _draws(pair, num_samples, few)
    rounds, shared = [], []
    for _ in patiently(range(num_samples), "global latents", progress=progress):
        at = pair.at(pair.draw_global_values())
        rounds.append(_draws(at, 1, few))
        shared.append(at.global_sites)
    return _PosteriorDraws(
        sites=_end_to_end([each.sites for each in rounds]),
        shared={name: torch.stack([each[name] for each in shared]) for name in shared[0]},
        log_weight=torch.cat([each.log_weight for each in rounds]),
        predicted=_end_to_end([each.predicted for each in rounds]),
    )


def _end_to_end(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _draws(pair: Pair, num_samples: int, few: int) -> _PosteriorDraws:
    z = _as_stored(pair, pair.draw(num_samples))
    sites = _sites(pair, z)
    if pair.program.summed:
        each = [{name: value[s] for name, value in sites.items()} for s in range(num_samples)]
        recovered = [pair.program.recovered(pair.data, values) for values in each]
        sites |= {name: torch.stack([part[name] for part in recovered]) for name in recovered[0]}
    predicted = _predicted(pair, sites, few)
    return _PosteriorDraws(_absent_as_nan(pair, sites), {}, pair.score(z).log_weight, predicted)


def _sites(pair: Pair, z: torch.Tensor) -> dict[str, torch.Tensor]:
    """The sites of flat draws, in the types that the programs hold."""
    return {name: each.to(pair.space.layouts[name].dtype) for name, each in pair.space.unflatten(z).items()}


def _as_stored(pair: Pair, z: torch.Tensor) -> torch.Tensor:
    """Draws in the precision in which the posterior group keeps them, so that the weights are theirs."""
    return pair.space.flatten(_sites(pair, z))


def _absent_as_nan(pair: Pair, sites: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a mask leaves out has no posterior, and what was drawn for it says nothing."""
    found = dict(sites)
    for name, present in pair.program.presence(pair.data).items():
        value = sites[name] if sites[name].is_floating_point() else sites[name].double()
        found[name] = value.masked_fill(~present, torch.nan)
    return found


def _prior(pair: Pair, num_samples: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Draws of local and of global latent sites from the model, (samples, *shape).

    None if factors make it no program to draw from. The rows of the data are taken in turn.
    """
    program, data = pair.program, pair.data
    if any(not layout.size for layout in program.observed.values()):
        return {}, {}
    if not program.given:
        return _rows_in_turn(program, data, num_samples), {}
    model = pair.programs[0]
    shared = [global_values(model, data, program.given) for _ in range(num_samples)]
    local = [
        _rows_in_turn(program.running(FixedMessenger(values)(model)), data, 1, first=number)
        for number, values in enumerate(shared)
    ]
    together = {name: torch.stack([each[name] for each in shared]) for name in program.given}
    return _end_to_end(local), together


def _rows_in_turn(
    program: LocalProgram, data: Tensors, number: int, *, first: int = 0
) -> dict[str, torch.Tensor]:
    """Latent sites drawn from a model, (number, *shape)."""
    rows = torch.arange(first, first + number) % len(data[0])
    if program.takes_any_rows:
        return program.draw(rows_of(data, rows), summed=True)
    rounds = [program.draw(data, summed=True) for _ in range(-(-number // len(data[0])))]
    drawn = _end_to_end(rounds)
    return {name: each[first % len(data[0]) :][:number] for name, each in drawn.items()}


def _arguments(pair: Pair) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The observed sites with their values, and the arguments that are none of them by their names."""
    observed = pair.program.observations(pair.data)
    constant = {
        f"{name}_argument" if name in observed else name: each
        for name, each in zip(_argument_names(pair), pair.data, strict=True)
        if not any(each.shape == value.shape and torch.equal(each, value) for value in observed.values())
    }
    return observed, constant


def _argument_names(pair: Pair) -> list[str]:
    model: Any = poutine.unwrap(pair.programs[0])
    # a module passes on whatever its __call__ gets
    inner = model.forward if isinstance(model, nn.Module) else model
    parameters = inspect.signature(inner).parameters.values()
    named = [each.name for each in parameters if each.kind in _POSITIONAL]
    return [*named, *(f"data_{i}" for i in range(len(named), len(pair.data)))][: len(pair.data)]


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _predicted(pair: Pair, sites: Mapping[str, torch.Tensor], few: int) -> dict[str, torch.Tensor]:
    """Draws of the observed sites of the first data, (samples, few, *event)."""
    if not few:
        return {}
    # a program made for all of its data has no shorter run
    size = few if pair.program.follows else pair.data_size
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
    return {name: torch.stack([run[name][:few] for run in runs]) for name in runs[0]}


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


def _svi(history: History | pd.DataFrame) -> xr.Dataset:
    """The history with its training steps as dimension."""
    frame = history if isinstance(history, pd.DataFrame) else history.to_frame()
    named = frame.index.name is not None and frame.index.name not in frame
    numbers = frame.reset_index(drop=not named).select_dtypes("number")
    if "step" not in numbers:
        numbers = numbers.assign(step=np.arange(1, len(numbers) + 1))
    return xr.Dataset.from_dataframe(numbers.set_index("step"))
