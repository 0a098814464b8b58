"""The posterior of a pair as ArviZ reads it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import numpy as np
import pandas as pd
import pyro
import torch
import xarray as xr
from pyro import poutine

from pyro_infomax._version import __version__
from pyro_infomax.diagnostics.arviz_groups import to_native
from pyro_infomax.diagnostics.decomposition import Decomposition, decompose
from pyro_infomax.diagnostics.pair import Pair
from pyro_infomax.poutine import Data, SiteLayout, evaluation_mode, rows_of

__all__ = ["to_arviz"]

_PREDICTIVE_DATA: Final = 100


def to_arviz(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    *,
    num_samples: int = 100,
    history: Any = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    seed: int | None = None,
    data_plate: str | None = None,
    predictive_data: int | None = _PREDICTIVE_DATA,
    decomposition: Decomposition | None = None,
) -> Any:
    """Draws from the posterior of every datum, and what is known about them, for ArviZ.

    Groups: ``posterior`` and ``prior`` (the latent sites), ``sample_stats`` (``log_weight`` = log p(x, z) −
    log q(z|x)), ``posterior_predictive``, ``observed_data``, ``constant_data`` (arguments that are not
    observed), ``svi`` (the history) and ``information`` (the decomposition). There is no ``log_likelihood``:
    with local latents ``arviz.loo`` would be wrong, since leaving a datum out leaves its latent the prior.

    Args:
        model: a Pyro program with a plate around its observed sites.
        guide: a Pyro program over the same local latent sites.
        data: a tensor or a tuple of tensors, whose first axis is the data.
        num_samples: draws per datum.
        history: of the training (:class:`~pyro_infomax.training.History`, or a DataFrame with a row an
            epoch).
        coords: names of dimensions to their labels; ``datum`` is the data's.
        dims: site names to the names of their event dimensions.
        seed: isolates the draws from torch's global state.
        data_plate: the name of the data plate, where it is not the only candidate.
        predictive_data: the number of data, from the first on, with posterior predictive draws; None for all.
        decomposition: an account made before; None to make one.

    Returns:
        ``InferenceData`` before ArviZ 1, ``DataTree`` from 1 on. Dimensions are (chain, draw, datum, event…).

    Raises:
        ValueError: for the errors of :func:`decompose`, and labels whose number is not that of their
            dimension.
        NotImplementedError: for global latents.
    """
    if num_samples < 1:
        raise ValueError(f"Expected num_samples >= 1 but got {num_samples}")
    with evaluation_mode(model, guide), torch.no_grad(), torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        pair = Pair(model, guide, data, data_plate=data_plate)
        account = decomposition or decompose(model, guide, data, data_plate=data_plate)
        label = _Labels(dict(coords or {}), dict(dims or {}))
        groups = _groups(pair, num_samples, predictive_data, label)
    groups["information"] = _information(account)
    if history is not None:
        groups["svi"] = _svi(history)
    return to_native({name: group.assign_attrs(_attributes()) for name, group in groups.items()})


@final
class _Labels:
    """Names of dimensions and of what stands along them."""

    def __init__(self, coords: dict[str, Sequence[Any]], dims: dict[str, Sequence[str]]) -> None:
        self.coords = coords
        self.dims = dims

    def array(self, name: str, values: torch.Tensor, lead: Sequence[str]) -> xr.DataArray:
        """(*lead, *event) as a labelled array."""
        events = values.dim() - len(lead)
        own = list(self.dims.get(name, [f"{name}_dim_{i}" for i in range(events)]))
        if len(own) != events:
            raise ValueError(f"Expected {events} names of dimensions for {name!r} but got {own}")
        array = xr.DataArray(values.detach().cpu().numpy(), dims=[*lead, *own])
        return array.assign_coords({dim: self._labels(dim, size) for dim, size in array.sizes.items()})

    def _labels(self, dim: Any, size: int) -> Any:
        labels = self.coords.get(dim)
        if labels is None:
            return np.arange(size)
        if len(labels) < size or (len(labels) > size and dim != "datum"):
            raise ValueError(f"Expected {size} labels for the dimension {dim!r} but got {len(labels)}")
        return labels[:size]


_DRAWS = ["chain", "draw"]


def _groups(pair: Pair, num_samples: int, predictive: int | None, label: _Labels) -> dict[str, xr.Dataset]:
    z = pair.draw(num_samples)
    scored = pair.score(z)
    sites = _typed(pair.space.unflatten(z), pair.space.layouts)
    prior = pair.generative.sample(num_samples, *pair.data)
    observed, constant = _arguments(pair)
    few = len(pair.data[0]) if predictive is None else min(predictive, len(pair.data[0]))
    groups = {
        "posterior": {n: label.array(n, each[None], [*_DRAWS, "datum"]) for n, each in sites.items()},
        "sample_stats": {
            "log_weight": label.array("log_weight", scored.log_weight[None], [*_DRAWS, "datum"])
        },
        "prior": {n: label.array(n, prior[n][None], _DRAWS) for n in sites},
        "posterior_predictive": {
            n: label.array(n, each[None], [*_DRAWS, "datum"]) for n, each in _predicted(pair, z, few).items()
        },
        "observed_data": {n: label.array(n, each, ["datum"]) for n, each in observed.items()},
        "constant_data": {n: label.array(n, each, ["datum"]) for n, each in constant.items()},
    }
    return {name: xr.Dataset(arrays) for name, arrays in groups.items() if arrays}


def _typed(sites: dict[str, torch.Tensor], layouts: Mapping[str, SiteLayout]) -> dict[str, torch.Tensor]:
    return {name: each.to(layouts[name].dtype) for name, each in sites.items()}


def _arguments(pair: Pair) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The observed sites with their values, and the arguments that are none of them by their names."""
    program, size = pair.program, len(pair.data[0])
    observed: dict[str, torch.Tensor] = {}
    for rows in program.pieces(size):
        trace = program.trace(pair.data, rows)
        for name, layout in program.observed.items():
            value = layout.rows(trace.nodes[name]["value"], len(rows))[0]
            if layout.size:
                observed.setdefault(name, value.new_empty(size, *layout.shape))[rows] = value
    seen = list(observed.values())
    constant = {
        name if name not in observed else f"{name}_argument": each
        for name, each in zip(_names(pair), pair.data, strict=True)
        if not any(each.shape == value.shape and torch.equal(each, value) for value in seen)
    }
    return observed, constant


def _names(pair: Pair) -> list[str]:
    parameters = list(inspect.signature(pair.generative.model).parameters)
    return [parameters[i] if i < len(parameters) else f"data_{i}" for i in range(len(pair.data))]


def _predicted(pair: Pair, z: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    """Draws of the observed sites, (samples, data, *event)."""
    program = pair.program.running(poutine.uncondition(pair.generative.model))
    data = rows_of(pair.data, slice(0, size)) if program.follows else pair.data
    wanted = {name: layout for name, layout in program.observed.items() if layout.size}
    out: dict[str, torch.Tensor] = {}
    for draw, each in enumerate(z[:, :size]):
        values = {name: site[None] for name, site in pair.space.unflatten(each).items()}
        for rows in program.pieces(size):
            own = {name: site[:, rows] for name, site in values.items()}
            trace = program.trace(data, rows, values=own)
            for name, layout in wanted.items():
                value = layout.rows(trace.nodes[name]["value"], len(rows))[0]
                out.setdefault(name, value.new_empty(len(z), size, *layout.shape))[draw, rows] = value
    return out


def _information(account: Decomposition) -> xr.Dataset:
    arrays: dict[str, Any] = {}
    for name, estimate in vars(account).items():
        if not hasattr(estimate, "standard_error"):
            continue
        dims = ["latent"] if estimate.value.dim() else []
        attrs = {"bound": estimate.bound, "target": estimate.target, "units": "nats per datum"}
        arrays[name] = xr.DataArray(estimate.value.numpy(), dims=dims, attrs=attrs)
        for error in ("standard_error", "population_standard_error"):
            value = getattr(estimate, error)
            if value is not None:
                arrays[f"{name}_{error}"] = xr.DataArray(value.numpy(), dims=dims)
    for name in ("active_units", "data_size", "saturated"):
        if getattr(account, name) is not None:
            arrays[name] = xr.DataArray(int(getattr(account, name)))
    return xr.Dataset(arrays, coords={"latent": list(account.latent_names)})


def _svi(history: Any) -> xr.Dataset:
    """The history with its training steps as dimension."""
    frame: pd.DataFrame = history if isinstance(history, pd.DataFrame) else history.to_frame()
    numbers = frame.reset_index().select_dtypes("number")
    if "step" not in numbers:
        numbers = numbers.assign(step=np.arange(1, len(numbers) + 1))
    return xr.Dataset.from_dataframe(numbers.set_index("step"))


def _attributes() -> dict[str, str]:
    return {
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
        "creation_library": "pyro_infomax",
        "creation_library_version": __version__,
    }
