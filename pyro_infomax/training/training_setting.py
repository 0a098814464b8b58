"""What has to stay the same for a training that is resumed to be the same training."""

from collections.abc import Sized
from typing import Any

from pyro.infer import SVI
from torch.utils.data import DataLoader

from pyro_infomax.training.batches import Data
from pyro_infomax.training.tally import objective


def training_setting(
    svi: SVI,
    data: Data,
    *,
    validation: Data | None,
    batch_size: int | None,
    seed: int | None,
    processes: int,
) -> dict[str, Any]:
    """The kinds of optimiser and objective, the amount of data, and the arguments of ``fit``, by their names.

    Example:
        >>> import pyro, torch
        >>> svi = SVI(print, print, pyro.optim.Adam({}), pyro.infer.Trace_ELBO())
        >>> setting = training_setting(
        ...     svi, torch.zeros(5, 2), validation=None, batch_size=2, seed=0, processes=1)
        >>> setting["len(data)"], setting["optimizer"], setting["objective"]
        (5, 'PyroOptim of Adam', 'Trace_ELBO')
    """
    return {
        "batch_size": batch_size if not isinstance(data, DataLoader) else data.batch_size,
        "len(data)": _length(data),
        "len(validation)": None if validation is None else _length(validation),
        "seed": seed,
        "number of processes": processes,
        "optimizer": _kind_of_optimizer(svi.optim),
        "objective": type(objective(svi)).__name__,
    }


def _length(data: Any) -> int | None:
    if isinstance(data, DataLoader):
        return _length(data.dataset)
    if isinstance(data, tuple):
        return _length(data[0])
    return len(data) if isinstance(data, Sized) or hasattr(data, "__len__") else None


def _kind_of_optimizer(optim: Any) -> str:
    constructor = optim.pt_optim_constructor
    return f"{type(optim).__name__} of {getattr(constructor, '__name__', type(constructor).__name__)}"
