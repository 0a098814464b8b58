"""Calls every public function with arguments of which one or two are wrong, and says how each call ends.

The valid calls are those of the docstrings' examples. Before each is made, a child process makes it several
times with one or two of its arguments replaced, and reports how that ended:

- fine: it returned, or was still at work after its time;
- clear: it raised an error of this package that says what was wrong with a sentence;
- torch: it never reached this package, as a call of an ``nn.Sequential``, or torch's validation refused it;
- program: it raised inside the program that the example itself defines;
- raw: anything else, such as an AttributeError from deep inside torch.

``make fuzz-calls N=5000``, or ``python tests/fuzz/calls.py -n 5000 --only training``.
"""

import argparse
import ast
import doctest
import importlib
import inspect
import json
import os
import pkgutil
import random
import resource
import signal
import sys
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyro
import torch

import pyro_infomax

Args = tuple[object, ...]
Kwargs = dict[str, object]

PACKAGE: Final = Path(pyro_infomax.__file__).parent
INTERNAL: Final = "programs"  # for sister modules, not for users
EXAMPLE: Final = "<example>"
MOST_EACH: Final = 3  # calls of one function in one docstring
SECONDS: Final = 5.0
MEMORY: Final = 4 * 2**30
KINDS: Final = (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError, OSError)
# What Python, torch and NumPy say of a number of bytes is clear enough
OF_PYRO: Final = ("pyro/poutine/trace_struct.py", "pyro/util.py")
# torch's own checks of parameters and values
OF_TORCH: Final = "torch/distributions/"
OF_MEMORY: Final = ("allocate memory", "Unable to allocate", "cannot allocate", "Storage size calculation")

# ---- Values that are wrong.


def hostile(value: object) -> dict[str, Callable[[], object]]:
    """Wrong values by what they are, for the place of a valid one."""
    found: dict[str, Callable[[], object]] = {
        "None": lambda: None,
        "str": lambda: "a word",
        "empty str": lambda: "",
        "0": lambda: 0,
        "-1": lambda: -1,
        "1.5": lambda: 1.5,
        "nan": lambda: float("nan"),
        "inf": lambda: float("inf"),
        "2**70": lambda: 2**70,
        "True": lambda: True,
        "np.int64": lambda: np.int64(3),
        "np.float64": lambda: np.float64(2.5),
        "complex": lambda: 1j,
        "bytes": lambda: b"ab",
        "empty tuple": lambda: (),
        "empty list": list,
        "empty dict": dict,
        "dict": lambda: {"a": 1},
        "list of None": lambda: [None, None],
        "list": lambda: [1.0, 2.0],
        "set": lambda: {1, 2},
        "object": object,
        "type": lambda: dict,
        "function of anything": lambda: lambda *_, **__: None,
        "module": lambda: torch.nn.Linear(2, 2),
        "scalar tensor": lambda: torch.tensor(3),
        "tensor": lambda: torch.ones(3, 2),
        "nan tensor": lambda: torch.full((3, 2), torch.nan),
        "empty tensor": lambda: torch.ones(0),
        "array": lambda: np.ones((3, 2)),
        "array of words": lambda: np.array(["a", "b"]),
        "array of objects": lambda: np.array([None, 1], dtype=object),
        "frame": lambda: pd.DataFrame({"a": [1.0, 2.0]}),
        "meta": lambda: torch.ones(3, 2, device="meta"),
    }
    if isinstance(value, torch.Tensor):
        found |= {
            "as array": lambda: value.detach().numpy(),
            "as list": lambda: value.detach().tolist(),
            "double": lambda: value.detach().double(),
            "integer": lambda: value.detach().long(),
            "boolean": lambda: value.detach().bool(),
            "nan": lambda: torch.full_like(value, torch.nan) if value.is_floating_point() else value - 7,
            "no rows": lambda: value[:0] if value.dim() else value,
            "one axis more": lambda: value[..., None],
            "flat": lambda: value.reshape(-1),
            "first": lambda: value[0] if value.dim() and len(value) else value,
            "on meta": lambda: value.detach().to("meta"),
        }
    if isinstance(value, np.ndarray):
        found |= {
            "as tensor": lambda: torch.as_tensor(value.copy()),
            "as list": lambda: value.tolist(),
            "no rows": lambda: value[:0] if value.ndim else value,
            "one axis more": lambda: value[..., None],
            "flat": lambda: value.reshape(-1),
            "as words": lambda: value.astype(str),
        }
    return found


def slots(function: object, args: Args, kwargs: Kwargs) -> list[int | str]:
    """The places of a call: of its positional arguments, and the names of all that it takes by name."""
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    return [*range(len(args)), *dict.fromkeys([*kwargs, *named])]


def mutated(rng: random.Random, function: object, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs, str]:
    """The call with one or two arguments replaced, and words that say which."""
    places = slots(function, args, kwargs)
    new, named, words = list(args), dict(kwargs), []
    for place in rng.sample(places, min(len(places), rng.choice([1, 1, 2]))):
        value = args[place] if isinstance(place, int) else kwargs.get(place)
        options = hostile(value)
        label = rng.choice(list(options))
        words.append(f"{place}={label}")
        if isinstance(place, int):
            new[place] = options[label]()
        else:
            named[place] = options[label]()
    return tuple(new), named, ", ".join(words)


# ---- How a call ends.


class _OutOfTime(BaseException):
    """Raised by the clock; no ``except Exception`` takes it."""


def ending(function: Callable[..., object], args: Args, kwargs: Kwargs) -> dict[str, str]:
    """How the call ends."""

    def stop(*_: object) -> None:
        raise _OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*args, **kwargs)
    except _OutOfTime:
        return {"end": "fine", "why": "time"}
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        return {"end": _end(error), "why": _told(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"end": "fine", "why": ""}


def _end(error: BaseException) -> str:
    if is_clear(error):
        return "clear"
    if _is_of_example(error):
        return "program"
    files = [each.filename for each in traceback.extract_tb(error.__traceback__)]
    # torch's validation of a value, before a distribution of ours is asked
    is_checked_by_torch = any(file.endswith(f"{OF_TORCH}distribution.py") for file in files)
    is_ours = any(PACKAGE in Path(file).parents for file in files)
    return "raw" if is_ours and not is_checked_by_torch else "torch"


def is_clear(error: BaseException) -> bool:
    """Whether an error says with a sentence of this package, or as clearly, what was wrong."""
    said = str(error)
    if isinstance(error, MemoryError) or any(words in said for words in OF_MEMORY):
        return True
    if not isinstance(error, KINDS) or len(said) < 12:
        return False
    return _is_ours(error)


def _is_ours(error: BaseException) -> bool:
    """Whether the package raised it by a statement of its own."""
    frames = list(traceback.walk_tb(error.__traceback__))
    frame, line = frames[-1]
    if OF_TORCH in frame.f_code.co_filename:
        return True
    file = Path(frame.f_code.co_filename)
    if PACKAGE not in file.parents:
        return False
    source = file.read_text().splitlines()
    # The statement may span lines, of which the traceback names the first or the last
    return any(each.strip().startswith("raise") for each in source[max(0, line - 4) : line])


def _is_of_example(error: BaseException) -> bool:
    # Pyro scores the sites of the program after it has run, and names the site
    files = {each.filename for each in traceback.extract_tb(error.__traceback__)}
    return EXAMPLE in files or any(file.endswith(OF_PYRO) for file in files)


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if str(PACKAGE) in each.filename]
    place = f"{Path(ours[-1].filename).relative_to(PACKAGE)}:{ours[-1].lineno}" if ours else "?"
    last = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    said = str(error).split("\n")[0][:160]
    return f"{type(error).__name__}: {said} [{place} -> {last}]"


# ---- The valid calls, out of the docstrings.


def rooms(only: str) -> list[types.ModuleType]:
    """The modules of the package, or the one of this name."""
    found = [info.name for info in pkgutil.iter_modules(pyro_infomax.__path__)]
    names = [name for name in found if name[0] != "_" and name != INTERNAL and only in ("", name)]
    return [importlib.import_module(f"pyro_infomax.{name}") for name in names]


def docstrings(room: types.ModuleType) -> Iterator[doctest.DocTest]:
    """The examples of a module and of its files."""
    files = pkgutil.iter_modules(getattr(room, "__path__", []), f"{room.__name__}.")
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in [room, *(importlib.import_module(info.name) for info in files)]:
        yield from (test for test in finder.find(module, module.__name__) if test.examples)


class _Calls(ast.NodeTransformer):
    """Sends each call through a function that is given the callable and its arguments."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            return node
        name = ast.Name("__called__", ast.Load())
        return ast.copy_location(ast.Call(name, [node.func, *node.args], node.keywords), node)


def run_example(source: str, space: dict[str, Any], called: Callable[..., object]) -> None:
    """Runs an example with its calls going through ``called``."""
    tree = ast.fix_missing_locations(_Calls().visit(ast.parse(source)))
    space["__called__"] = called
    exec(compile(tree, EXAMPLE, "exec"), space)


def exported(modules: list[types.ModuleType]) -> set[object]:
    """The functions and classes that the modules list, with the classes that these derive from."""
    found: set[object] = set()
    for module in modules:
        for name in module.__all__:
            thing = getattr(module, name)
            found |= set(thing.__mro__) if isinstance(thing, type) else {thing} if callable(thing) else set()
    return {thing for thing in found if getattr(thing, "__module__", "").startswith("pyro_infomax.")}


def is_public(function: object, public: set[object]) -> bool:
    """Whether a callable is a public function, class, method or instance of the package."""
    if isinstance(function, type | types.FunctionType):
        return function in public
    if isinstance(function, types.MethodType):
        owner = function.__self__
        kind = owner if isinstance(owner, type) else type(owner)
        return kind in public and not function.__name__.startswith("_")
    return type(function) in public


def name_of(function: object) -> str:
    """The name of a callable in a report."""
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__.split('.')[1]}.{owner.__qualname__}"  # type: ignore[attr-defined]


# ---- All of it.


class Fuzzer:
    """Counts how mutated calls end, each batch of them in a child process of its own."""

    def __init__(self, public: set[object], *, seed: int, each: int) -> None:
        self.rng = random.Random(seed)
        self.each = each
        self.ends: Counter[str] = Counter()
        self.raw: list[str] = []
        self.public = public
        self.called: Counter[str] = Counter()
        self.here: Counter[str] = Counter()
        self._depth = 0

    def __call__(self, function: Callable[..., Any], *args: object, **kwargs: object) -> object:
        """Tries the call with wrong arguments, and then makes it."""
        if self._depth == 0 and is_public(function, self.public):
            self._try(function, args, kwargs)
        self._depth += 1
        try:
            return function(*args, **kwargs)
        finally:
            self._depth -= 1

    def _try(self, function: Callable[..., Any], args: Args, kwargs: Kwargs) -> None:
        if not slots(function, args, kwargs):
            return
        name, seed = name_of(function), self.rng.random()
        self.called[name] += 1
        self.here[name] += 1
        if self.here[name] > MOST_EACH:
            return
        for report in in_child(lambda: self._reports(function, args, kwargs, random.Random(seed))):
            self.ends[report["end"]] += 1
            if report["end"] == "raw":
                self.raw.append(f"{name}({report['words']}): {report['why']}")

    def _reports(
        self,
        function: Callable[..., Any],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        rng: random.Random,
    ) -> Iterator[dict[str, str]]:
        for _ in range(self.each):
            new, named, words = mutated(rng, function, args, kwargs)
            yield {"words": words, "end": "raw", "why": "the process died"}
            yield {"words": words, **ending(function, new, named)}


def in_child(reports: Callable[[], Iterator[dict[str, str]]]) -> list[dict[str, str]]:
    """The reports that a child process yields in pairs, what to say if it dies and how it ended."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        torch.set_num_threads(1)  # of the parent's other threads none has come along
        with os.fdopen(send, "w") as pipe, Path(os.devnull).open("w") as nowhere:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                for report in reports():
                    pipe.write(json.dumps(report) + "\n")
                    pipe.flush()
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        lines = [json.loads(line) for line in pipe]
    os.waitpid(child, 0)
    return lines[1::2] + (lines[-1:] if len(lines) % 2 else [])


def fuzz(*, number: int, seed: int = 0, only: str = "", each: int = 10) -> Fuzzer:
    """Fuzzes the examples of the package, or of one of its modules, until so many calls were made."""
    modules = rooms(only)
    fuzzer = Fuzzer(exported(modules), seed=seed, each=each)
    tests = [test for room in modules for test in docstrings(room)]
    while sum(fuzzer.ends.values()) < number:
        before = sum(fuzzer.ends.values())
        for test in tests:
            run_docstring(test, fuzzer)
            if sum(fuzzer.ends.values()) >= number:
                break
        if sum(fuzzer.ends.values()) == before:
            break
    return fuzzer


def run_docstring(test: doctest.DocTest, fuzzer: Fuzzer) -> None:
    """Runs the examples of a docstring in order."""
    pyro.clear_param_store()
    fuzzer.here.clear()
    space = dict(test.globs)
    with redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for example in test.examples:
            try:
                run_example(example.source, space, fuzzer)
            except Exception as error:
                if example.exc_msg is None:
                    raise RuntimeError(f"the example of {test.name} fails: {example.source}") from error


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("-n", type=int, default=5000, help="how many calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="one module, such as training")
    parser.add_argument("--each", type=int, default=10, help="wrong calls for each valid one")
    options = parser.parse_args()
    fuzzer = fuzz(number=options.n, seed=options.seed, only=options.only, each=options.each)
    for line in sorted(fuzzer.raw):
        print(line)
    total = sum(fuzzer.ends.values())
    ends = ", ".join(f"{count} {end}" for end, count in fuzzer.ends.items())
    print(f"{total} calls of {len(fuzzer.called)} functions: {ends}")
    sys.exit(bool(fuzzer.ends["raw"]))


if __name__ == "__main__":
    main()
