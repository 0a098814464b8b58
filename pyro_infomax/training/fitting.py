"""Training a pair of programs: epochs of SVI steps, their history, and a clean stop."""

import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from pyro.infer import SVI

from pyro_infomax.random_state import isolated_random_state
from pyro_infomax.training.batches import Batches, Data, to_batches
from pyro_infomax.training.callbacks import TrainingState
from pyro_infomax.training.checkpoint import Checkpoint
from pyro_infomax.training.data_parallel import DataParallel
from pyro_infomax.training.execution import Execution, SingleProcess
from pyro_infomax.training.history import History
from pyro_infomax.training.random_streams import RandomStreams
from pyro_infomax.training.tally import objective
from pyro_infomax.training.training_run import TrainingRun
from pyro_infomax.training.training_setting import training_setting


def fit(
    svi: SVI,
    data: Data,
    *,
    epochs: int,
    batch_size: int | None = 128,
    validation: Data | None = None,
    callbacks: Iterable[Callable[[TrainingState], None]] = (),
    progress: bool | str = True,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    resume: bool = False,
    fabric: Any = None,
    seed: int | None = None,
) -> History:
    r"""Trains the programs of an SVI on data.

    Each epoch takes one ``svi.step`` a minibatch. A loss is the sum over its minibatch, as Pyro has it; the
    history reports, for the batches :math:`b` of an epoch,
    :math:`\sum_b \mathrm{loss}_b \big/ \sum_b |b|`, in nats per datum, and the objective's unweighted
    distortion, rate and ELBO in the same way where it records them.

    Validation evaluates the same objective after each epoch without gradients. It steps neither the optimiser
    nor a schedule, runs the modules behind the programs in evaluation mode, and draws from a copy of the
    random state, so that a training is the same to the bit with and without it.

    A loss that is nan or infinite ends the training: the parameters and the buffers of modules go back to
    the end of the last good epoch, and the optimiser forgets its moments, which the step has spoiled. On
    a KeyboardInterrupt they stay as the last step left them.

    With a checkpoint, a training that was killed goes on exactly where the file has it: it ends with the same
    parameters, to the bit, the same history and the same random state as one that was never stopped.

    Args:
        svi: model, guide, optimiser and objective.
        data: a tensor or a memory-mapped array (``numpy.memmap``), or a tuple of these, whose first axis is
            the data; they become the positional arguments of model and guide. Or a Dataset whose items are a
            tensor or a tuple of them, or a DataLoader, whose own batches and order are used.
        epochs: how often to go through the data.
        batch_size: number of data a step; the last batch of an epoch may be smaller. None passes the
            whole data each step, for models that subsample themselves.
        validation: data of the same kinds, held out.
        callbacks: called with the :class:`TrainingState` after each epoch.
        progress: whether to show a bar on stderr; a string shows it under that title.
        checkpoint: a file in which the training is kept, as a path or a :class:`Checkpoint`.
        resume: whether to go on from that file, if it is there. A training that has ended returns at once,
            or goes on for the further epochs that are asked for.
        fabric: a ``Fabric`` of Lightning's that was launched; its processes, which all call this function
            with the same arguments, share each batch. None trains in this process alone.
        seed: makes the training reproducible and leaves torch's random state as it was; None draws from
            that state. Neither networks, which were initialised before, nor a DataLoader's own generator
            follow it.

    Returns:
        The history, a row an epoch.

    Raises:
        ValueError: for an svi that is none, epochs or a batch size below 1, data of another kind, empty data,
            tensors of different lengths, and nan in a tensor; for a checkpoint that exists without
            resume, and for a file that is no checkpoint of this training.
        NotImplementedError: for a Fabric that splits models or scales losses, and, with several processes,
            for objectives and programs whose loss is no sum over the data.
        NonFiniteLossError: when the loss or the parameters are no longer finite.

    Warns:
        UserWarning: if the schedules of the objective have not reached their end value, and if the
            checkpoint holds more epochs than were asked for.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> pyro.clear_param_store()
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.zeros((), dtype=torch.float64))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
        >>> data = torch.full((20,), 3.0, dtype=torch.float64)
        >>> history = fit(svi, data, epochs=40, batch_size=10, progress=False, seed=0)
        >>> len(history), history.steps
        (40, 80)
        >>> bool((pyro.param("loc") - 3.0).abs() < 0.1)
        True
    """
    _check_svi(svi)
    _check_epochs(epochs)
    kept = _checkpoint(checkpoint, resume)
    after_epoch = _checked_callbacks(callbacks)
    execution = _execution(fabric)
    batches, held_out = execution.ranks.together(lambda: _both_batches(data, validation, batch_size))
    run = TrainingRun(
        svi,
        epochs=epochs,
        batches=batches,
        held_out=held_out,
        callbacks=after_epoch,
        execution=execution,
        streams=RandomStreams(data, validation),
    )
    with nullcontext() if seed is None else isolated_random_state(seed):
        if kept is not None:
            setting = training_setting(
                svi,
                data,
                validation=validation,
                batch_size=batch_size,
                seed=seed,
                processes=execution.ranks.world_size,
            )
            run.keep_in(kept, resume=resume, setting=setting)
        run.train(progress=progress)
    _warn_unfinished_schedules(svi, run.state.step)
    return run.state.history


def _checkpoint(checkpoint: Checkpoint | str | os.PathLike[str] | None, resume: bool) -> Checkpoint | None:
    if checkpoint is None and resume:
        raise ValueError("Expected a checkpoint to resume from but got resume=True without one.")
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        return checkpoint
    return Checkpoint(checkpoint)


def _both_batches(
    data: Data, validation: Data | None, batch_size: int | None
) -> tuple[Batches, Batches | None]:
    batches = to_batches(data, batch_size=batch_size)
    if validation is None:
        return batches, None
    return batches, to_batches(validation, batch_size=batch_size, name="validation")


def _execution(fabric: Any) -> Execution:
    return SingleProcess() if fabric is None else DataParallel(fabric)


def _warn_unfinished_schedules(svi: SVI, steps: int) -> None:
    missing = getattr(objective(svi), "pending_steps", 0)
    if missing:
        warnings.warn(
            f"The warm-up is not finished: the schedules of the objective need {missing} more steps to "
            f"reach their end value, after {steps} in this training. "
            "Train for more epochs or shorten the schedule.",
            UserWarning,
            stacklevel=3,
        )


def _check_svi(svi: object) -> None:
    if not isinstance(svi, SVI):
        raise ValueError(f"Expected a pyro.infer.SVI but got {type(svi).__name__}.")


def _checked_callbacks(callbacks: object) -> tuple[Callable[[TrainingState], None], ...]:
    found = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
    if not all(callable(each) for each in found):
        raise ValueError(f"Expected callbacks to be a list of callables but got {callbacks!r}.")
    return found


def _check_epochs(epochs: object) -> None:
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"Expected epochs to be an integer >= 1 but got {epochs!r}.")
