"""Evaluation mode for the modules behind a pair of programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn


def modules_behind(program: Callable[..., Any]) -> list[nn.Module]:
    """The modules that a program visibly runs on.

    These are the program itself, the object of a bound method, and what a partial (a Pyro handler around
    a program is one) holds. What a plain function closes over stays unseen.

    Args:
        program: a model or a guide.

    Returns:
        Each module found, once and without its submodules.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> [module is layer for module in modules_behind(partial(layer.forward))]
        [True]
    """
    return list(dict.fromkeys(_walk(program)))


@contextmanager
def evaluation_mode(*programs: Callable[..., Any]) -> Iterator[None]:
    """Puts the modules behind programs in evaluation mode, and back into the mode of each afterwards.

    Args:
        *programs: models and guides.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluation_mode(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    roots = [module for program in programs for module in modules_behind(program)]
    modes = {module: module.training for root in roots for module in root.modules()}
    for root in roots:
        root.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _walk(program: Callable[..., Any]) -> Iterator[nn.Module]:
    if isinstance(program, nn.Module):
        yield program
    elif isinstance(program, partial):
        for part in (program.func, *program.args, *program.keywords.values()):
            yield from _walk(part)
    elif isinstance(owner := getattr(program, "__self__", None), nn.Module):
        yield owner
