"""Progress of what takes long: a bar in a terminal or notebook, elsewhere a line now and then."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import Final, Protocol, Self, TextIO, TypeVar, cast, final

from tqdm.auto import tqdm

_PATIENCE: Final = 3.0  # seconds without a bar, or a first line
_DISTANCE: Final = 30.0  # seconds between lines
_TICK: Final = 1.0  # seconds between what a terminal is told of a wait
_Item = TypeVar("_Item")


class Bar(Protocol):
    """What a bar and lines have in common."""

    n: int

    def update(self, n: int = 1) -> object: ...

    def set_postfix_str(self, s: str, refresh: bool, /) -> object: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> object: ...


def bar(
    total: int | None,
    *,
    unit: str,
    progress: bool | str,
    initial: int = 0,
    name: str = "",
    patient: bool = False,
    file: TextIO | None = None,
) -> Bar:
    """A bar over ``total`` units, or lines where there is no terminal.

    Args:
        total: how many there are, where it is known.
        unit: what one of them is called, such as "epoch".
        progress: False for silence; a string is the title.
        initial: how many are done already.
        name: the title where none is given.
        patient: keep silent for some seconds, and leave nothing in a terminal.
        file: where to write; None for stderr.
    """
    title = progress if isinstance(progress, str) else name
    out = sys.stderr if file is None else file
    if progress is not False and not _shows_bars(out):
        return _Lines(out, title, total, unit, initial=initial, patient=patient)
    shown = tqdm(
        desc=title or None,
        total=total,
        unit=unit,
        initial=initial,
        disable=progress is False,
        delay=_PATIENCE if patient else 0.0,
        leave=not patient,
        file=out,
    )
    return cast(Bar, shown)


def patiently(
    items: Iterable[_Item],
    name: str,
    *,
    progress: bool | str = True,
    total: int | None = None,
    file: TextIO | None = None,
) -> Iterator[_Item]:
    """The items, under a bar of this name once they have taken a few seconds.

    Their number is needed for an estimate of the rest: ``total`` says it where they have no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(total, unit="it", progress=progress, name=name, patient=True, file=file) as shown:
        for item in items:
            yield item
            shown.update()


@contextmanager
def waiting(message: str, *, progress: bool | str, file: TextIO | None = None) -> Iterator[None]:
    """One line for a long wait in its block, with the seconds that have passed where it can be updated.

    Args:
        message: what is waited for, such as "compiling the training step, some 15 s the first time".
        progress: False for silence; a string stands before the message.
        file: where to write; None for stderr.
    """
    out = sys.stderr if file is None else file
    text = f"{progress}: {message}" if isinstance(progress, str) else message
    if progress is False:
        yield
    elif not _shows_bars(out):
        _write(out, text)
        yield
    else:
        with _ticking(text, out):
            yield


@contextmanager
def _ticking(text: str, out: TextIO) -> Iterator[None]:
    # under the bar of a training, where there is one, from which it goes away at the end
    line = tqdm(desc=text, bar_format="{desc} [{elapsed}]", leave=None, file=out)
    done = threading.Event()

    def tick() -> None:
        while not done.wait(_TICK):
            line.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        line.close()


def _shows_bars(out: TextIO | None) -> bool:
    """Whether a line can be written over: in a terminal, or a notebook, whose streams deny to be one."""
    isatty = getattr(out, "isatty", None)
    with suppress(OSError, ValueError):  # of a stream that was closed
        if isatty is not None and isatty():
            return True
    if out is not sys.stderr or "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _write(out: TextIO | None, line: str) -> None:
    if out is None:  # as stderr is where there is no console
        return
    # A terminal that is gone, a full disk or a closed stream is no reason to end what takes long
    with suppress(OSError, ValueError):
        out.write(line + "\n")
        out.flush()


@final
class _Lines:
    """What logs are told: a first line after some seconds, then one now and then, and the end."""

    def __init__(
        self, out: TextIO | None, title: str, total: int | None, unit: str, *, initial: int, patient: bool
    ) -> None:
        self.n = initial
        self._out = out
        self._title = title
        self._total = total
        self._unit = "" if unit == "it" else f" {unit}s"
        self._initial = initial
        self._patient = patient
        self._postfix = ""
        self._start = self._since = time.monotonic()
        self._from = initial  # how many were done at the time ``since``, which the estimate starts from
        self._next = self._start + _PATIENCE
        self._written = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        now = time.monotonic()
        # What was patient and quick has said nothing, and has nothing to end
        if self._written or not self._patient or now >= self._next:
            done = not any(exception) and self.n >= (self._total or 0)
            self._line(f"{'in' if done else 'ended after'} {_clock(now - self._start)}")

    def set_postfix_str(self, s: str, refresh: bool, /) -> None:
        self._postfix = s
        if refresh:
            self._line_if_due(time.monotonic())

    def update(self, n: int = 1) -> None:
        self.n += n
        now = time.monotonic()
        self._line_if_due(now)
        if self._from == self._initial:
            # The first of them may have waited for compilers and caches, and says nothing of the others
            self._from, self._since = self.n, now

    def _line_if_due(self, now: float) -> None:
        if now >= self._next and self.n != self._total:
            self._next = now + _DISTANCE
            self._line(f"{_clock(now - self._start)} so far{self._rest(now)}")

    def _rest(self, now: float) -> str:
        done, seconds = self.n - self._from, now - self._since
        if self._total is None or not done:
            return ""
        return f", about {_clock(seconds / done * (self._total - self.n))} left"

    def _line(self, what: str) -> None:
        title = f"{self._title}: " if self._title else ""
        total = "" if self._total is None else f"/{self._total}"
        postfix = f", {self._postfix}" if self._postfix else ""
        _write(self._out, f"{title}{self.n}{total}{self._unit}, {what}{postfix}")
        self._written = True


def _clock(seconds: float) -> str:
    """As in 1:05:00 or 00:42."""
    return tqdm.format_interval(seconds)
