"""Sweeps: a function of a point, at every point of a grid, stored as it goes."""

import inspect
import os
import pickle
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
import xarray as xr
from joblib import Parallel, delayed, effective_n_jobs

from pyro_infomax._checks import whole_number
from pyro_infomax._progress import Bar, bar
from pyro_infomax._random import is_within_one_thread
from pyro_infomax._types import Program
from pyro_infomax.sweeps._grid import FAILURE, Point, axes_of, points_of
from pyro_infomax.sweeps._isolation import PointState, Settings
from pyro_infomax.sweeps._results import Failure, PointOutcome, Store, as_dataset, assemble, store_at

# ---- One point of a sweep, wherever it runs.

_FIRST: Final = 5
_NOT_RUN: Final = "NotRun"


@final
@dataclass(frozen=True)
class Worker:
    """Computes points, wherever it is sent."""

    run: Program
    store: Store
    settings: Settings  # of the caller, which a new process does not know

    def __call__(self, point: Point) -> PointOutcome:
        """The outcome of the point: what another sweep on this store has found meanwhile, or else its own."""
        found = self.store.read(point)
        if found is not None and not isinstance(found, Failure):
            return found
        outcome = self._compute(point)
        self.store.write(point, outcome)
        return outcome

    def _compute(self, point: Point) -> PointOutcome:
        with _trainings_by_themselves(), PointState(point.seed, settings=self.settings).in_force():
            try:
                result = self.run(**point.arguments)
            except Exception as error:
                return Failure(type(error).__name__, str(error), traceback.format_exc())
            # A result of another kind is the same mistake at every point, and is raised
            return as_dataset(result, taken={*point.arguments, FAILURE})


@contextmanager
def _trainings_by_themselves() -> Iterator[None]:
    """Has trainings of this sweep take their own steps, also within a point of a stacked one."""
    if not is_within_one_thread():
        yield
        return
    # It loads what trains, which other sweeps need not
    from pyro_infomax.training import stand_in

    token = stand_in.set(None)
    try:
        yield
    finally:
        stand_in.reset(token)


# ---- The sweep.


def sweep(
    run: Program,
    grid: Mapping[str, object],
    *,
    seeds: int | Sequence[int] = 1,
    n_jobs: int | None = None,
    store: str | os.PathLike[str] | None = None,
    retry_failed: bool = True,
    threads: int = 1,
    progress: bool | str = True,
    stacked: bool = False,
) -> xr.Dataset:
    r"""Calls a function at every point of a grid, for every seed, and gathers what it returns.

    The function is called as ``run(beta=4.0, seed=0)``: by keywords, the names of the grid and ``seed``.
    Every call finds what it would find in a new process after ``pyro.set_rng_seed(seed)``: the generators of
    torch, NumPy and Python start from the seed, Pyro's parameter store is empty and gradients are recorded.
    The caller's own settings hold, in all processes: torch's default dtype and device, its determinism,
    Pyro's settings (as whether it validates), what NumPy does about division by zero, warning filters and
    working directory. What a call changes of them ends with it. So a result is the same to the bit in
    whichever order, place and number of jobs the points run, and the caller's own generators and parameters
    are left as they were. The function makes what it trains, networks included: those that were made before
    would come to a point as another has left them.

    What a call returns becomes variables of the Dataset:

    - a mapping: a variable a name. A number or string has no dimension beyond the grid's, an array
      ``name_dim_0`` and so on, a DataArray its own, with their labels. None leaves the variable out;
    - an :class:`~pyro_infomax.information.Estimate` under a name: the value, ``name_standard_error`` and,
      where known, ``name_population_standard_error``; bound, target and units are attributes;
    - what has named quantities of its own, such as a :class:`~pyro_infomax.diagnostics.Decomposition`, a
      :class:`History`, a frame or a Dataset: all of them. In a mapping its name becomes their prefix, as in
      ``history_loss``;
    - a tuple: all that its parts give.

    Arrays may differ in length between points: labels are matched, and what a point lacks is nan.

    A call that raises an exception is a failing point: it is nan in the Dataset, its message stands in the
    variable ``failure``, which is empty elsewhere, and the rest goes on. Five points, or as many as there are
    jobs, are run first, spread over the grid from its first point to its last. Where all of them fail alike,
    by the same exception at the same line, the rest is not run.

    With a ``store`` each outcome is a file, written by the process that has found it. A sweep that was killed
    or extended finds them, and calls the function at the points that are missing. The store knows points,
    not functions: another function, or a changed one, needs another folder.

    Where points differ in weights, seeds and learning rates alone, ``stacked=True`` runs their trainings as
    one, by :func:`torch.func.vmap` over a step that is recorded once. The functions run in threads, one at a
    time, as far as the first step of their :func:`~pyro_infomax.training.fit`, each with its own generators
    and parameter store, and go on with what it has come to, equal to a training alone up to rounding. So they
    are interleaved, and must not change what others see, such as global tensors; ``history.threads`` is None.
    What cannot be stacked is refused by name: most of it before the second step, and what shows later, in a
    comparison or a second ``fit``, when it shows. Then only points that have ended are kept, in the store.

    Points run in parallel by joblib: in processes here, or where a surrounding ``joblib.parallel_config``
    says, which may be a Ray or Dask cluster.

    Args:
        run: the function. Other processes get it through cloudpickle, with what it refers to.
        grid: names to their values: numbers, strings, booleans, None or tuples of these, in a list; or
            anything, in a mapping from label to value, where the label stands for the value in coordinates
            and store.
        seeds: how many, which are then 0, 1, …, or which.
        n_jobs: processes at once, as joblib has it: -1 for a processor each, None for what a surrounding
            ``joblib.parallel_config`` says, or else one, which is the caller's own process.
        store: a folder for the outcomes; None keeps them in memory only.
        retry_failed: whether points that have failed before are called again.
        threads: torch's threads for a point. More than one may round differently.
        progress: whether to show a bar over the points on stderr, or a line now and then where that is no
            terminal; a string is its title.
        stacked: whether to run the trainings of all points as one, in this process. On a KeyboardInterrupt
            the function that runs has a second to end.

    Returns:
        Dimensions: the grid's in their order, ``seed``, then those of the results. Coordinates: the values,
        as strings where they are not all numbers or all booleans.

    Raises:
        NotImplementedError: for trainings that cannot be stacked, and for ``stacked=True`` within a sweep, a
            training or a block with a seed.
        ValueError: for a grid that is empty, values that come twice or have no stable name, a grid with the
            name ``seed``, a function that does not take the point, cannot be sent to a process, or returns
            another kind of result, and a store that is a file.

    Warns:
        UserWarning: if points have failed: how many, and the first. With ``stacked=True``, if no point has
            called ``fit``, and if functions go on after an interrupt.

    Example:
        >>> def run(scale, seed):
        ...     return {"mean": (scale * torch.randn(1000)).mean(), "scale_is_large": scale > 1}
        >>> ds = sweep(run, {"scale": [0.5, 2.0]}, seeds=3, progress=False)
        >>> dict(ds["mean"].sizes)
        {'scale': 2, 'seed': 3}
        >>> ds["scale_is_large"].sel(scale=2.0).values.tolist()
        [True, True, True]
    """
    axes = axes_of(grid, seeds)
    points = points_of(axes)
    _check_takes(run, points[0])
    threads = whole_number("threads", threads, at_least=1)
    kept = store_at(store)
    found = _found(points, kept, retry_failed=retry_failed)
    missing = [point for point in points if point.key not in found]
    worker = Worker(run, kept, replace(Settings.present(), threads=threads))
    with bar(len(points), unit="point", progress=progress, initial=len(found)) as shown:
        if stacked:
            found |= _compute_stacked(worker, missing, n_jobs=n_jobs, shown=shown)
            missing = []
        # As many as run at once, so that no process waits for the first ones alone
        first = max(_FIRST, effective_n_jobs(n_jobs))
        for some in _in_turn(missing, first):
            failures = [found[point.key] for point in missing if point.key in found]
            stopped = _failed_alike(failures)
            made = (
                _compute(worker, some, n_jobs=n_jobs, shown=shown)
                if stopped is None
                else [stopped] * len(some)
            )
            found |= {point.key: outcome for point, outcome in zip(some, made, strict=True)}
    outcomes = [found[point.key] for point in points]
    _warn_failures(points, outcomes, kept)
    return assemble(axes, outcomes)


def _in_turn(points: list[Point], first: int) -> Iterator[list[Point]]:
    """So many points first, which differ in every name of the grid, then the rest."""
    if len(points) <= first:
        yield points
        return
    # The ends of the grid have different values of each of its names
    places = [round(place) for place in np.linspace(0, len(points) - 1, first)]
    yield [points[place] for place in places]
    yield [point for place, point in enumerate(points) if place not in places]


def _failed_alike(outcomes: Sequence[PointOutcome]) -> Failure | None:
    """What stands for points that are not run, since those before have all failed by one error."""
    failures = [each for each in outcomes if isinstance(each, Failure)]
    if len(failures) < max(_FIRST, len(outcomes)) or len({each.origin for each in failures}) > 1:
        return None
    return Failure(
        _NOT_RUN, f"{len(failures)} other points failed alike: {failures[0]}", failures[0].traceback
    )


@final
class _WatchedParallel(Parallel):
    """Moves a bar as tasks are done, also with backends that return all results at the end, as Ray's does."""

    def __init__(self, shown: Bar, *, n_jobs: int | None) -> None:
        # batches would hold results back from the bar
        super().__init__(n_jobs=n_jobs, batch_size=1)
        self._shown = shown
        self._before = shown.n

    def print_progress(self) -> None:
        self._shown.update(self._before + self.n_completed_tasks - self._shown.n)


def _compute(worker: Worker, points: list[Point], *, n_jobs: int | None, shown: Bar) -> list[PointOutcome]:
    if not points:
        return []
    try:
        return list(_WatchedParallel(shown, n_jobs=n_jobs)(delayed(worker)(point) for point in points))
    except pickle.PicklingError as error:
        # the cause is a whole traceback in words, whose last line has the reason
        reason = str(error.__cause__ or error).strip('"\n ').splitlines()[-1]
        raise ValueError(
            f"Expected a run and values of the grid that can be sent to processes but got {reason}; make "
            "what cannot be sent inside run, or use n_jobs=1."
        ) from error


def _compute_stacked(
    worker: Worker, points: list[Point], *, n_jobs: int | None, shown: Bar
) -> dict[str, PointOutcome]:
    if n_jobs not in (None, 1):
        raise ValueError(
            f"Expected n_jobs=1 with stacked=True, which runs in one process, but got {n_jobs!r}."
        )
    if is_within_one_thread():
        raise NotImplementedError(
            "Expected a call with stacked=True by itself but got one within a sweep, a training or a block "
            "with a seed, which holds the generators that its points need: leave stacked=True out."
        )
    # It loads what trains, which other sweeps need not
    from pyro_infomax.sweeps._stacked import compute_stacked

    found: dict[str, PointOutcome] = {}

    def done(point: Point, outcome: PointOutcome) -> None:
        found[point.key] = outcome
        worker.store.write(point, outcome)
        shown.update()

    def show(sentence: str) -> None:
        shown.set_postfix_str(sentence, True)

    compute_stacked(worker.run, points, settings=worker.settings, done=done, show=show)
    return found


def _found(points: list[Point], store: Store, *, retry_failed: bool) -> dict[str, PointOutcome]:
    read = {point.key: store.read(point) for point in points}
    return {
        key: outcome
        for key, outcome in read.items()
        if outcome is not None and not (retry_failed and isinstance(outcome, Failure))
    }


def _check_takes(run: object, point: Point) -> None:
    if not callable(run):
        raise ValueError(f"Expected run to be a function but got {run!r}.")
    try:
        signature = inspect.signature(run)
    except ValueError:  # some builtins have none
        return
    try:
        signature.bind(**point.arguments)
    except TypeError as error:
        names = ", ".join(point.arguments)
        raise ValueError(f"Expected run to take the keyword arguments {names} but got: {error}.") from error


def _warn_failures(points: list[Point], outcomes: list[PointOutcome], store: Store) -> None:
    failed = [pair for pair in zip(points, outcomes, strict=True) if isinstance(pair[1], Failure)]
    if not failed:
        return
    point, failure = failed[0]
    assert isinstance(failure, Failure)
    not_run = sum(isinstance(each, Failure) and each.kind == _NOT_RUN for each in outcomes)
    rest = f"The other {not_run} were not run, since these failed alike. " if not_run else ""
    warnings.warn(
        f"{len(failed) - not_run} of {len(points)} points failed; the first, at {point}, with {failure}. "
        f"{rest}{store.where(point, failure)}",
        UserWarning,
        stacklevel=4,
    )
