"""Arguments checked once, with a sentence that says what was expected and what came."""

import inspect
import linecache
import math
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from itertools import islice
from numbers import Real
from pathlib import Path
from traceback import walk_tb
from types import FunctionType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

LARGEST_NUMPY_SEED: Final = 2**32 - 1
# What to do about a minibatch of too few data
WHERE_FEW_ARE_LEFT: Final = (
    "where an epoch leaves so few for its last minibatch, take another batch_size, or a DataLoader with "
    "drop_last=True"
)
_TORCH_SEEDS: Final = (-(2**63), 2**64 - 1)


def whole_number(name: str, value: object, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """An argument that has to be an integer, as an ``int``; NumPy's integers count, booleans do not."""
    number = int(value) if is_integer(value) else None  # type: ignore[call-overload]
    too_small = number is not None and at_least is not None and number < at_least
    too_large = number is not None and at_most is not None and number > at_most
    if number is None or too_small or too_large:
        bound = "" if at_least is None else f" >= {at_least}"
        bound += "" if at_most is None else f"{' and' if bound else ''} <= {at_most}"
        raise ValueError(f"Expected {name} to be an integer{bound} but got {shown(value)}.")
    return number


def real_number(
    name: str, value: object, *, at_least: float | None = None, above: float | None = None
) -> float:
    """An argument that has to be a finite number, as a ``float``; booleans and strings do not count."""
    is_real = isinstance(value, Real | np.floating | np.integer) and not isinstance(value, bool)
    number = float(value) if is_real else math.nan  # type: ignore[arg-type]
    wrong = not math.isfinite(number)
    wrong |= at_least is not None and number < at_least
    wrong |= above is not None and number <= above
    if wrong:
        bound = f" >= {at_least}" if at_least is not None else f" > {above}" if above is not None else ""
        raise ValueError(f"Expected {name} to be a finite number{bound} but got {shown(value)}.")
    return number


def seed_number(seed: object) -> int:
    """The seed of a generator of torch's, as an ``int``; NumPy's integers count."""
    lowest, highest = _TORCH_SEEDS
    if not is_integer(seed) or not lowest <= int(seed) <= highest:  # type: ignore[call-overload]
        raise ValueError(
            f"Expected seed to be an integer that torch.manual_seed takes but got {shown(seed)}."
        )
    return int(seed)  # type: ignore[call-overload,no-any-return]


def random_state(seed: object) -> np.random.RandomState:
    """NumPy's legacy generator at a seed; at one of the system's choice for None."""
    if seed is None:
        return np.random.RandomState()
    return np.random.RandomState(whole_number("seed", seed, at_least=0, at_most=LARGEST_NUMPY_SEED))


def one_of(name: str, value: object, allowed: Iterable[object]) -> None:
    """Checks an argument that names one of a few things."""
    options = list(allowed)
    if not any(type(value) is type(each) and value == each for each in options):
        choices = " or ".join(repr(each) for each in options)
        raise ValueError(f"Expected {name} to be {choices} but got {shown(value)}.")


def is_integer(value: object) -> bool:
    """Whether a value is a Python or NumPy integer and no boolean."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value in a sentence: short ones as they are, others by their type and shape."""
    text = repr(value)
    if len(text) <= 60 and "\n" not in text:
        return text
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if isinstance(shape, tuple) else "")


# ---- Errors of public functions, told of the arguments that are to blame.

_TOLD: Final = (TypeError, ValueError, RuntimeError, NotImplementedError)
_UNTOLD: Final = (AttributeError, LookupError, NameError, AssertionError, ArithmeticError)
_KINDS: Final = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
    object: "anything",
    type(None): "None",
    "Tensor": "a tensor",
    "ndarray": "an array",
    "PathLike": "a path",
    "Callable": "a function",
    "Mapping": "a mapping",
    "Sequence": "a sequence",
    "Iterable": "an iterable",
}
_MOST_ELEMENTS: Final = 100
# Of what overrides a method of torch or Pyro: what users call, and what torch calls on their behalf
_ALWAYS: Final = frozenset({"__init__", "forward", "sample", "_call"})
_MARK: Final = "explains_wrong_arguments"
_PACKAGE: Final = Path(__file__).parent
_LIBRARIES: Final = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")})


def explain_wrong_arguments(module_name: str, names: Iterable[str] | None = None) -> None:
    """Has functions and classes of a module, all public ones by default, name what they failed with.

    Wrong arguments fail somewhere deep, as an AttributeError or an error of torch's. Where a call has failed
    so, and only then, its arguments are compared with the annotations, and the error becomes a sentence.
    Sentences of the package, and errors out of a user's own functions, stay as they are.
    """
    module = sys.modules[module_name]
    for name in module.__all__ if names is None else names:
        thing = vars(module).get(name)  # none where it is loaded later
        if isinstance(thing, type):
            for kind in filter(_is_own, thing.__mro__):
                _explain_methods(kind)
        elif isinstance(thing, FunctionType) and not hasattr(thing, _MARK):
            told = _explained(thing)
            # Under both names, so that pickle finds the function where it says it is
            setattr(module, name, told)
            setattr(sys.modules[thing.__module__], name, told)


def _explain_methods(kind: type) -> None:
    if issubclass(kind, BaseException) or getattr(kind, "_is_protocol", False):
        return
    # What overrides a method of torch or Pyro runs at each step, or is asked for what it lacks
    foreign = {name for base in kind.__mro__ if not _is_own(base) for name in vars(base)}
    left_alone = (foreign | {"model", "guide"}) - _ALWAYS
    for name, method in list(vars(kind).items()):
        if name in left_alone or (name.startswith("_") and name not in _ALWAYS | {"__call__"}):
            continue
        is_bound = isinstance(method, classmethod | staticmethod)
        function = method.__func__ if is_bound else method
        if isinstance(function, FunctionType) and not hasattr(function, _MARK):
            told = _explained(function)
            setattr(kind, name, type(method)(told) if is_bound else told)


def _is_own(kind: type) -> bool:
    return kind.__module__.startswith("pyro_infomax")


def _explained(function: FunctionType) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        try:
            return function(*args, **kwargs)
        except (*_TOLD, *_UNTOLD) as error:
            told = None if _is_said(error) else _told(error, function, args, kwargs)
            if told is None:
                raise
            raise told from error

    setattr(call, _MARK, True)
    return call


def _is_said(error: Exception) -> bool:
    """Whether a statement of the package has raised it, and no operation of torch's, which has no frame."""
    *_, (frame, line) = walk_tb(error.__traceback__)
    file = Path(frame.f_code.co_filename)
    if _PACKAGE not in file.parents:
        return False
    return str(error).startswith("Expected ") or linecache.getline(str(file), line).lstrip().startswith(
        "raise"
    )


def _told(
    error: Exception, function: FunctionType, args: tuple[object, ...], kwargs: dict[str, object]
) -> Exception | None:
    """The error with a sentence about the arguments; None where they are not to blame."""
    try:
        signature = inspect.signature(function)
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:  # says itself which argument is missing, or one too many
        return None
    if (wrong := _blamed(function, signature, given)) is not None:
        return TypeError(wrong)
    if _is_of_users(error):
        return None
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.get_default_device().type == "meta":
        return ValueError(
            f"Expected a default device that holds values but torch's is meta: call {function.__qualname__} "
            "outside of torch.device('meta')."
        )
    named = ", ".join(f"{name}={shown(value)}" for name, value in given.items() if name != "self")
    sentence = (
        f"Expected arguments of {function.__qualname__} that go together but it fails with {named}: "
        f"{type(error).__name__}: {error}"
    )
    if not isinstance(error, _TOLD):
        return ValueError(sentence)
    try:
        return type(error)(sentence)
    except TypeError:  # it is made of more than a sentence
        return next(kind for kind in _TOLD if isinstance(error, kind))(sentence)


def _is_of_users(error: Exception) -> bool:
    """Whether the error has come through a function that is neither ours nor a library's."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    ours = [file for file in files if _PACKAGE in Path(file).parents]
    return any(not file.startswith(("<frozen", *_LIBRARIES)) for file in files if file not in ours)


def _blamed(function: FunctionType, signature: inspect.Signature, given: Mapping[str, object]) -> str | None:
    """What is wrong with the first argument that is not of the kind of its annotation."""
    try:
        hints = get_type_hints(function)
    except (TypeError, NameError):  # what only type checkers import
        return None
    for name, value in given.items():
        kind = signature.parameters[name].kind
        several = {kind.VAR_POSITIONAL: list, kind.VAR_KEYWORD: dict.values}.get(kind)
        for each in [value] if several is None else several(value):  # type: ignore[operator]
            hint = hints.get(name, object)
            if not _fits(each, hint):
                return f"Expected {name} to be {' or '.join(_kinds_of(hint))} but got {shown(each)}."
    return None


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of the kind that an annotation says; where that cannot be known, it is."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if hint is None:
        return value is None
    if hint is int:
        return is_integer(value)
    if hint is float:
        is_text = isinstance(value, bool | np.bool_ | str | bytes | complex)
        return hasattr(value, "__float__") and not is_text and not getattr(value, "ndim", 0)
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    kind = origin if isinstance(origin, type) else hint
    # Any is a class, too
    if hint is Any or not isinstance(kind, type) or kind is object or getattr(kind, "_is_protocol", False):
        return True
    if not isinstance(value, kind) or (isinstance(value, str | bytes) and kind not in (str, bytes, object)):
        return False
    return _elements_fit(value, kind, inner)


def _elements_fit(value: Any, kind: type, inner: tuple[Any, ...]) -> bool:
    if not inner or kind is type or callable(value):
        return True
    if issubclass(kind, Mapping):
        key, element = inner
        return all(_fits(each, key) and _fits(value[each], element) for each in value)
    if issubclass(kind, tuple) and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    # What is no collection could be used up by looking at it
    is_collection = issubclass(kind, Collection) and not isinstance(value, str | bytes | np.ndarray)
    return not is_collection or all(_fits(each, inner[0]) for each in islice(value, _MOST_ELEMENTS))


def _kinds_of(hint: Any) -> list[str]:
    if get_origin(hint) in (Union, UnionType):
        return list(dict.fromkeys(kind for each in get_args(hint) for kind in _kinds_of(each)))
    if get_origin(hint) is Literal:
        return [repr(each) for each in get_args(hint)]
    origin = get_origin(hint) or hint
    name = getattr(origin, "__name__", str(origin))
    return [_KINDS.get(origin) or _KINDS.get(name) or f"a {name}"]
