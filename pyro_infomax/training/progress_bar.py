"""The bar of a training: its epochs, and what the last of them gave."""

from types import TracebackType
from typing import Final, Self, final

from tqdm import tqdm

from pyro_infomax.training.history import History, Row

_SHOWN: Final = ("loss", "distortion", "rate", "validation_loss")


@final
class ProgressBar:
    """A bar on stderr with a step an epoch.

    Args:
        epochs: how many there will be.
        progress: whether to show it; a string is its title.
    """

    def __init__(self, epochs: int, *, progress: bool | str) -> None:
        title = progress if isinstance(progress, str) else None
        self._bar = tqdm(desc=title, total=epochs, unit="epoch", disable=progress is False)

    def follow(self, history: History) -> None:
        """Shows the history as it is now."""
        if len(history):
            self._bar.set_postfix_str(_summary(history.rows[-1]), refresh=False)
            self._bar.update(len(history) - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def _summary(row: Row) -> str:
    return ", ".join(f"{name}={row[name]:.4g}" for name in _SHOWN if name in row)
