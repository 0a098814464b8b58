"""The rooms and the order in which they may import each other, held as data and checked on every file."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest

import pyro_infomax

PACKAGE = "pyro_infomax"
# A room may import rooms of earlier lines only; rooms of one line do not import each other.
LINES: tuple[frozenset[str], ...] = (
    frozenset({"_checks", "_pairs", "_progress", "_recording", "_types", "_version"}),
    frozenset({"_data", "_native", "_random", "_ranks", "_weights"}),
    frozenset({"_from_weights"}),
    frozenset({"schedules", "poutine", "distributions", "datasets", "oracles"}),
    frozenset({"nn", "information", "disentanglement"}),
    frozenset({"priors", "programs", "guides"}),
    frozenset({"vae", "infer", "joint"}),
    frozenset({"capture"}),
    frozenset({"training"}),
    frozenset({"sweeps"}),
    frozenset({"diagnostics"}),
    frozenset({"plots"}),
    frozenset({"report"}),
)
LINE_OF = {room: line for line, rooms in enumerate(LINES) for room in rooms}
# An oracle must not know what it judges; how arguments are checked and progress is shown is not judged.
IMPORT_NO_ROOM = frozenset({"oracles"})
JUDGED_BY_NO_ORACLE = frozenset({"_checks", "_progress"})
# What a room does without: in its own imports, wherever in a file they stand.
FOREIGN_BANS = {
    "information": {"pyro", "sklearn", "pandas", "xarray"},
    "_native": {"torch", "pyro"},
    "_weights": {"torch", "pyro"},
    "_from_weights": {"torch", "pyro"},
    "disentanglement": {"torch", "pyro"},
    "plots": {"torch", "pyro"},
}
# What importing a room, or the package itself (""), must not load, in whatever file the import stands;
# tests/information/test_imports.py looks at what information loads when it is used, too. They are imported in
# this order by one process, so a ban is one of the rooms before it, too.
LOAD_BANS = {
    "": {"torch", "pyro", "numpy", "scipy", "sklearn", "pandas", "xarray", "arviz", "matplotlib"},
    "_native": {"torch", "pyro", "arviz", "sklearn"},
    "_from_weights": {"torch", "pyro", "arviz", "sklearn"},
    "disentanglement": {"torch", "pyro"},
    "plots": {"torch"},
}
MOST_FILES = 14
MOST_LINES = 900
# A private file of fewer lines belongs inside its importer, if it has only one.
FEWEST_LINES = 150
# Names that may stand twice and small files with one importer that may stand alone, each with its reason.
SHARED_NAMES: dict[str, str] = {}
CRUMBS: dict[str, str] = {}
TESTS_OF_THE_WHOLE = frozenset(
    {
        "test_architecture.py",
        "test_captured_training.py",
        "test_docs.py",
        "test_examples.py",
        "test_guides_against_truth.py",
        "test_guides_and_objectives.py",
        "test_known_truth.py",
        "test_optimum.py",
        "test_two_processes.py",
    }
)
# Folders of tests that are of the whole package.
FOLDERS_OF_THE_WHOLE = frozenset({"fuzz"})
# Tests go through public names. These reach behind them, each for what no public name shows precisely.
PRIVATE_TESTS = {
    "capture/test_many_steps.py": "the step of an optimiser as operations, and a training that is stopped",
    "capture/test_recorded_graph.py": "what a recorded graph folds, frees and refuses",
    "conftest.py": "processes that are threads",
    "diagnostics/test_annealed_joint.py": "densities and gradients of the path between prior and joint",
    "diagnostics/test_rank_tests.py": "p-values of ranks against all samples there are",
    "disentanglement/test_algorithms.py": "boosted trees, tiles of mixtures, draws of interventions",
    "distributions/test_rational_spline.py": "the arithmetic of a spline in single precision",
    "fuzz/faults.py": "faults that are planted where the library does its work",
    "guides/test_site_input.py": "shapes and order of what a head sees",
    "infer/programs.py": "an objective's evaluation as a graph",
    "information/test_control_variates.py": "which variates are solved for, and their coefficients",
    "information/test_mixture_engine.py": "tiles that are skipped, and what that costs",
    "test_native.py": "how arrays become groups, for the ArviZ that has no torch beside it",
    "test_progress.py": "when a bar, or a line, appears",
    "test_ranks.py": "what processes say to each other",
    "training/test_distributed.py": "the share of each process, without starting any",
    "training/test_threads.py": "how a number of threads is chosen from times",
}
ROOT = Path(__file__).resolve().parents[1]


# ---- reading the tree


def parsed(file: Path) -> ast.Module:
    return parsed_text(file.read_text())


parsed_text = cache(ast.parse)  # each rule reads every file


@cache
def importing(text: str) -> list[ast.AST]:
    """The nodes that may import something."""
    return [
        node
        for node in ast.walk(parsed_text(text))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)
    ]


def modules(root: Path) -> dict[str, Path]:
    """Map from dotted name to file; a room's ``__init__`` bears the room's name."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    return {dotted(file.relative_to(root)): file for file in files}


def dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """``pyro_infomax.infer.beta`` is in ``infer``; the package's own ``__init__`` is in no room."""
    return [*module.split("."), ""][1]


def imports(module: str, file: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of each import in the file, wherever in the file it stands.

    ``from a import b`` gives ``a.b``, which may name a module or something inside ``a``.
    """
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in importing(file.read_text()):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = absolute(source or "", level, package)
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if is_importer(func):
                yield node.lineno, absolute(name.lstrip("."), len(name) - len(name.lstrip(".")), package)


def is_importer(func: ast.expr) -> bool:
    name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    return name in {"import_module", "__import__"}


def absolute(name: str, level: int, package: str) -> str:
    if level == 0:
        return name
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - level + 1], *filter(None, [name])])


def resolve(name: str, known: Iterable[str]) -> str:
    """The module that an imported name comes from: the longest prefix that is a file of the package."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def public_names(folder: Path) -> set[str]:
    """What a room offers: what its ``__init__`` lists, or else what its files define."""
    files = sorted(folder.glob("*.py"))
    bodies = {file.stem: parsed(file).body for file in files}
    defined = {node.name for body in bodies.values() for node in body if isinstance(node, ast.FunctionDef)}
    names = listed(bodies.get("__init__", [])) or defined
    return {name for name in names if not name.startswith("_")}


def listed(body: list[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for node in body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="__all__")], value=ast.List(elts=items) | ast.Tuple(elts=items)
            ):
                names |= {item.value for item in items if isinstance(item, ast.Constant)}
    return names


# ---- the rules: each yields one sentence for each breach


def unknown_rooms(root: Path) -> Iterator[str]:
    for room in sorted({room_of(module) for module in modules(root)} - {""} - LINE_OF.keys()):
        yield f"{PACKAGE}/{room} is in no line of the table of rooms"


def wrong_imports(root: Path) -> Iterator[str]:
    files = modules(root)
    for module, file in files.items():
        if room := room_of(module):
            for line, name in imports(module, file):
                if reason := objection(room, name, files):
                    yield f"{file.relative_to(root)}:{line} imports {name}: {reason}"


def objection(room: str, name: str, known: Iterable[str]) -> str | None:
    top = name.split(".")[0]
    if top != PACKAGE:
        return f"{room} does without {top}" if top in FOREIGN_BANS.get(room, ()) else None
    # A missing file is still an import of that room.
    other = room_of(resolve(name, known)) or (room_of(name) if room_of(name) in LINE_OF else "")
    if other == room:
        return None
    if not other:
        return "a room does not import from the package's own __init__"
    if room in IMPORT_NO_ROOM and other not in JUDGED_BY_NO_ORACLE:
        return f"{room} imports nothing of the package"
    if LINE_OF.get(other, len(LINES)) >= LINE_OF.get(room, -1):
        return f"{other} does not come before {room}"
    return None


def walls(root: Path) -> Iterator[str]:
    """Imports from a module behind another room's ``__init__``."""
    files = modules(root)
    for module, file in files.items():
        for line, name in imports(module, file):
            source = resolve(name, files)
            if source.count(".") > 1 and room_of(source) != room_of(module):
                place = f"{file.relative_to(root)}:{line}"
                yield f"{place} imports from {source}, behind the __init__ of {room_of(source)}"


def crowds(root: Path) -> Iterator[str]:
    for folder in sorted({file.parent for file in modules(root).values()} - {root / PACKAGE}):
        files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        if len(files) > MOST_FILES:
            yield f"{folder.relative_to(root)} has {len(files)} files, more than {MOST_FILES}"


def long_files(root: Path) -> Iterator[str]:
    for file in modules(root).values():
        if (lines := len(file.read_text().splitlines())) > MOST_LINES:
            yield f"{file.relative_to(root)} has {lines} lines, more than {MOST_LINES}"


def crumbs(root: Path) -> Iterator[str]:
    """Small private files of which a room offers nothing, with one importer."""
    files = modules(root)
    importers: dict[str, set[str]] = {module: set() for module in files}
    for module, file in files.items():
        for source in {resolve(name, files) for _, name in imports(module, file)} - {""}:
            importers[source].add(module)
    for module, file in files.items():
        small = (
            file.stem.startswith("_")
            and file.stem != "__init__"
            and len(file.read_text().splitlines()) < FEWEST_LINES
        )
        match sorted(importers[module]):
            case [one] if small and files[one].name != "__init__.py" and module not in CRUMBS:
                yield f"{file.relative_to(root)} is small and has one importer, {one}: it belongs there"


def shared_names(root: Path) -> Iterator[str]:
    """One name for two things: classes anywhere, public functions, and aliases that are not private."""
    places: dict[str, list[str]] = {}
    for file in modules(root).values():
        public = public_names(file.parent)
        for name in names_of_things(parsed(file).body, public) - SHARED_NAMES.keys():
            places.setdefault(name, []).append(str(file.relative_to(root)))
    for name, files in sorted(places.items()):
        if len(files) > 1:
            yield f"{name} is defined in {' and '.join(sorted(files))}"


def names_of_things(body: list[ast.stmt], public: set[str]) -> set[str]:
    names: set[str] = set()
    for node in body:
        match node:
            case ast.ClassDef(name=name):
                names.add(name.lstrip("_"))
            case ast.FunctionDef(name=name) if name in public:
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]) if (
                name[0].isupper() and not name.isupper()
            ):
                names.add(name)
    return names


def cycles(root: Path) -> Iterator[str]:
    """Cycles between the files of one room, its ``__init__`` among them."""
    files = modules(root)
    for room in sorted({room_of(module) for module in files} - {""}):
        inside = {module: file for module, file in files.items() if room_of(module) == room}
        graph = {
            module: {resolve(name, inside) for _, name in imports(module, file)} - {"", module}
            for module, file in inside.items()
        }
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            yield "cycle of imports: " + " -> ".join(error.args[1])


def shadowed_files(root: Path) -> Iterator[str]:
    """A file that bears the name of a public function of its folder: importing it would hide the function."""
    for folder in sorted({file.parent for file in modules(root).values()}):
        # The package may list its rooms themselves.
        own_rooms = LINE_OF.keys() if folder == root / PACKAGE else set()
        for name in sorted(public_names(folder) - own_rooms):
            if (folder / f"{name}.py").exists() or (folder / name).is_dir():
                yield f"{folder.relative_to(root) / name} bears the name of the public function {name}"


def stray_tests(root: Path) -> Iterator[str]:
    """A test stands in the folder of its room, or is of a room that is one file, or of the whole."""
    rooms = {room_of(module) for module in modules(root)} - {""}
    for test in sorted((root / "tests").rglob("test_*.py")):
        place = test.relative_to(root / "tests")
        if len(place.parts) > 1:
            if place.parts[0] not in rooms | FOLDERS_OF_THE_WHOLE:
                yield f"tests/{place} mirrors nothing: there is no {PACKAGE}/{place.parts[0]}"
        elif place.name not in TESTS_OF_THE_WHOLE and not {place.stem[4:], place.stem[5:]} & rooms:
            yield f"tests/{place} mirrors nothing: there is no {PACKAGE}/{place.stem[5:]}.py"


def private_imports_of_tests(root: Path) -> Iterator[str]:
    for file in sorted((root / "tests").rglob("*.py")):
        if not PRIVATE_WORD.search(file.read_text()):
            continue  # to parse all of them takes long
        place = file.relative_to(root / "tests").as_posix()
        for line, name in imports("tests", file):
            if is_private(name) and place not in PRIVATE_TESTS:
                yield f"tests/{place}:{line} imports {name}, which is private"


PRIVATE_WORD = re.compile(r"\b_[^\W_]")


def is_private(name: str) -> bool:
    top, *rest = name.split(".")
    return top == PACKAGE and any(part.startswith("_") and not part.startswith("__") for part in rest)


def banned_loads(root: Path) -> Iterator[str]:
    """Libraries that an import loads after all, through whatever it imports."""
    bans = {f"{PACKAGE}.{room}".rstrip("."): libraries for room, libraries in LOAD_BANS.items()}
    there = [module for module in bans if module in modules(root)]
    for module, libraries in zip(there, loaded(there, root), strict=True):
        for library in sorted(bans[module] & libraries):
            yield f"import {module} loads {library}"


def loaded(names: Sequence[str], root: Path) -> list[set[str]]:
    """The top names that each import adds to ``sys.modules`` of one fresh process."""
    program = "".join(f"import {name}; print(*sys.modules)\n" for name in names)
    found = [
        {name.split(".")[0] for name in line.split()}
        for line in fresh_python(f"import sys\n{program}", root).splitlines()
    ]
    return [after - before for before, after in pairwise([set(), *found])]


def fresh_python(program: str, root: Path, *, warnings: str = "ignore") -> str:
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", program], capture_output=True, cwd=root, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


RULES = (
    unknown_rooms,
    wrong_imports,
    walls,
    cycles,
    crowds,
    long_files,
    crumbs,
    shared_names,
    banned_loads,
    shadowed_files,
    stray_tests,
    private_imports_of_tests,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule):
    assert list(rule(ROOT)) == []


def test_the_tree_is_read():
    assert f"{PACKAGE}._version" in modules(ROOT)
    assert len(modules(ROOT)) > 2


# ---- each rule fails where it should, and only there


@pytest.fixture
def plant(tmp_path):
    """Write files of a synthetic tree and return its root."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    rooms = ("infer/__init__.py", "joint.py", "nn/__init__.py")
    write({f"pyro_infomax/{room}": "" for room in rooms})
    write({"pyro_infomax/__init__.py": "__all__ = ['BetaELBO', 'infer']\n"})
    return write


def test_a_lawful_tree_has_no_breach(plant):
    root = plant(
        {
            "pyro_infomax/infer/weighted.py": "from ..schedules import Linear\nfrom .. import nn",
            "pyro_infomax/infer/beta.py": "from pyro_infomax.infer.weighted import X\nfrom . import weighted",
            "pyro_infomax/infer/__init__.py": "from .beta import Y\n__all__ = ['Y']\n",
            "pyro_infomax/information/__init__.py": "import torch",
            "pyro_infomax/schedules.py": "import torch\n",
            "torch/__init__.py": "",  # the real one takes long
            "tests/infer/test_anything.py": "",
            "tests/test_schedules.py": "",
            "tests/test_docs.py": "",
        }
    )
    assert [breach for rule in RULES for breach in rule(root)] == []


@pytest.mark.parametrize(
    "statement",
    [
        "import pyro_infomax.infer",
        "from pyro_infomax.infer import BetaELBO",
        "from pyro_infomax import infer",
        "from pyro_infomax.infer.missing import x",
        "from ..infer import BetaELBO",
        "from .. import infer",
        "def late():\n    from ..infer import BetaELBO",
        "import typing\nif typing.TYPE_CHECKING:\n    import pyro_infomax.infer as i",
        "import importlib\nimportlib.import_module('pyro_infomax.infer')",
        "import importlib\nimportlib.import_module('..infer', __package__)",
    ],
)
def test_an_import_from_a_later_line_is_found(plant, statement):
    (breach,) = wrong_imports(plant({"pyro_infomax/nn/mlp.py": statement}))
    assert "infer does not come before nn" in breach
    assert breach.startswith("pyro_infomax/nn/mlp.py:")


def test_an_import_within_a_line_is_found(plant):
    (breach,) = wrong_imports(
        plant({"pyro_infomax/infer/beta.py": "from pyro_infomax.joint import generative"})
    )
    assert "joint does not come before infer" in breach


@pytest.mark.parametrize(
    "statement", ["import pyro_infomax", "from pyro_infomax import BetaELBO", "from .. import VAE"]
)
def test_an_import_of_the_whole_package_is_found(plant, statement):
    (breach,) = wrong_imports(plant({"pyro_infomax/training/fitting.py": statement}))
    assert "own __init__" in breach


def test_an_oracle_that_imports_an_earlier_line_is_found(plant):
    (breach,) = wrong_imports(
        plant({"pyro_infomax/oracles/gauss.py": "from pyro_infomax._version import __version__"})
    )
    assert "oracles imports nothing of the package" in breach


@pytest.mark.parametrize(
    ("room", "statement"),
    [
        ("information", "import pyro.distributions as dist"),
        ("information", "def f():\n    from pyro import sample"),
        ("disentanglement", "import torch"),
        ("disentanglement", "from pyro.infer import SVI"),
    ],
)
def test_a_banned_library_is_found(plant, room, statement):
    (breach,) = wrong_imports(plant({f"pyro_infomax/{room}/score.py": statement}))
    assert f"{room} does without" in breach


def test_a_library_with_a_similar_name_is_not_banned(plant):
    assert not list(
        wrong_imports(plant({"pyro_infomax/information/score.py": "import torchvision, pyrometer"}))
    )


def test_a_room_outside_the_table_is_found(plant):
    root = plant({"pyro_infomax/utils.py": "", "pyro_infomax/attic/__init__.py": ""})
    assert [breach.split()[0] for breach in unknown_rooms(root)] == [
        "pyro_infomax/attic",
        "pyro_infomax/utils",
    ]


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "from .b import x", "b.py": "from .a import y"},
        {"a.py": "from .b import x", "b.py": "from .c import x", "c.py": "def f():\n    from . import a"},
        {"a.py": "from pyro_infomax.infer import B", "__init__.py": "from .a import B"},
    ],
    ids=["two", "three, one hidden", "through __init__"],
)
def test_a_cycle_within_a_room_is_found(plant, files):
    (breach,) = cycles(plant({f"pyro_infomax/infer/{name}": text for name, text in files.items()}))
    assert "pyro_infomax.infer.a" in breach


@pytest.mark.parametrize(
    "files",
    [
        {"pyro_infomax/infer/fit.py": "def fit(): ..."},
        {"pyro_infomax/infer/fit.py": "", "pyro_infomax/infer/loops.py": "def fit(): ..."},
        {"pyro_infomax/infer/fit.py": "", "pyro_infomax/infer/__init__.py": "__all__ = ['fit']"},
        {"pyro_infomax/fit.py": "", "pyro_infomax/__init__.py": "__all__ = ['fit']"},
        {"pyro_infomax/fit/__init__.py": "", "pyro_infomax/__init__.py": "__all__ = ('fit',)"},
    ],
)
def test_a_file_with_the_name_of_a_function_is_found(plant, files):
    (breach,) = shadowed_files(plant(files))
    assert "public function fit" in breach


@pytest.mark.parametrize(
    "files",
    [
        {"pyro_infomax/infer/_fit.py": "def _fit(): ..."},
        {
            "pyro_infomax/infer/fit.py": "def fit(): ...",
            "pyro_infomax/infer/__init__.py": "__all__ = ['Fit']",
        },
    ],
    ids=["private", "not offered by the room"],
)
def test_a_function_that_is_not_public_shadows_nothing(plant, files):
    assert not list(shadowed_files(plant(files)))


@pytest.mark.parametrize("statement", ["from ..nn import _mlp", "from pyro_infomax.nn._mlp import MLP"])
def test_an_import_from_behind_a_wall_is_found(plant, statement):
    root = plant({"pyro_infomax/nn/_mlp.py": "class MLP: ...", "pyro_infomax/infer/beta.py": statement})
    (breach,) = walls(root)
    assert "infer/beta.py:1 imports from pyro_infomax.nn._mlp" in breach


def test_a_room_imports_from_its_own_files_and_from_rooms(plant):
    statements = "from pyro_infomax.infer._x import y\nfrom pyro_infomax.nn import MLP"
    root = plant({"pyro_infomax/infer/_x.py": "", "pyro_infomax/infer/beta.py": statements})
    assert not list(walls(root))


def test_too_many_files_in_a_room_are_found(plant):
    root = plant({f"pyro_infomax/infer/_{i}.py": "" for i in range(MOST_FILES)})
    assert not list(crowds(root))
    (breach,) = crowds(plant({"pyro_infomax/infer/_one_more.py": ""}))
    assert breach.startswith("pyro_infomax/infer has")


@pytest.mark.parametrize(
    ("first", "second"),
    [("class Draws: ...", "class Draws: ..."), ("class Draws: ...", "class _Draws: ...")],
)
def test_one_name_for_two_classes_is_found(plant, first, second):
    (breach,) = shared_names(plant({"pyro_infomax/infer/_a.py": first, "pyro_infomax/nn/_b.py": second}))
    assert breach.startswith("Draws is defined in")


def test_one_name_for_two_public_functions_is_found(plant):
    text = "def rate_distortion(): ..."
    root = plant({"pyro_infomax/infer/_a.py": text, "pyro_infomax/nn/_b.py": text})
    (breach,) = shared_names(root)
    assert breach.startswith("rate_distortion is defined in")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Values = dict[str, int]", "Values = list[int]"),
        ("Values: TypeAlias = dict[str, int]", "Values = list[int]"),
        ("class Values: ...", "Values: TypeAlias = list[int]"),
    ],
)
def test_one_name_for_two_aliases_is_found(plant, first, second):
    (breach,) = shared_names(plant({"pyro_infomax/infer/_a.py": first, "pyro_infomax/nn/_b.py": second}))
    assert breach.startswith("Values is defined in")


@pytest.mark.parametrize("text", ["_Values = list[int]", "VALUES = 1", "T = TypeVar('T')", "values = 1"])
def test_a_constant_or_a_private_alias_may_stand_twice(plant, text):
    assert not list(shared_names(plant({"pyro_infomax/infer/_a.py": text, "pyro_infomax/nn/_b.py": text})))


def test_a_name_with_a_reason_may_stand_twice(plant, monkeypatch):
    monkeypatch.setitem(SHARED_NAMES, "Values", "a reason")
    text = "Values = list[int]"
    assert not list(shared_names(plant({"pyro_infomax/infer/_a.py": text, "pyro_infomax/nn/_b.py": text})))


def test_a_long_file_is_found(plant):
    root = plant({"pyro_infomax/infer/_a.py": "\n" * MOST_LINES})
    assert not list(long_files(root))
    (breach,) = long_files(plant({"pyro_infomax/infer/_a.py": "\n" * (MOST_LINES + 1)}))
    assert breach.startswith("pyro_infomax/infer/_a.py has")


def test_a_crumb_is_found(plant, monkeypatch):
    root = plant(
        {
            "pyro_infomax/infer/_small.py": "\n" * (FEWEST_LINES - 1),
            "pyro_infomax/infer/_beta.py": "from pyro_infomax.infer._small import x",
        }
    )
    (breach,) = crumbs(root)
    assert breach.startswith("pyro_infomax/infer/_small.py is small")
    monkeypatch.setitem(CRUMBS, "pyro_infomax.infer._small", "a reason")
    assert not list(crumbs(root))


@pytest.mark.parametrize(
    "others",
    [
        {"pyro_infomax/infer/_small.py": "\n" * FEWEST_LINES},
        {"pyro_infomax/infer/_gamma.py": "from pyro_infomax.infer import _small"},
        {"pyro_infomax/infer/__init__.py": "from pyro_infomax.infer._small import x"},
    ],
    ids=["not small", "two importers", "offered by the room"],
)
def test_what_is_no_crumb_is_not_found(plant, others):
    files = {
        "pyro_infomax/infer/_small.py": "",
        "pyro_infomax/infer/_beta.py": "from pyro_infomax.infer._small import x",
    }
    assert not list(crumbs(plant(files | others)))


@pytest.mark.parametrize(
    ("files", "breach"),
    [
        ({"__init__.py": "import torch"}, "import pyro_infomax loads torch"),
        ({"plots/__init__.py": "import torch"}, "import pyro_infomax.plots loads torch"),
        (
            {"plots/__init__.py": "import pyro_infomax.nn", "nn/__init__.py": "import torch.nn"},
            "import pyro_infomax.plots loads torch",
        ),
    ],
    ids=["by the package", "directly", "through another room"],
)
def test_a_library_that_an_import_loads_is_found(plant, files, breach):
    # The real libraries are no part of this rule, and take long.
    files = {f"pyro_infomax/{name}": text for name, text in files.items()}
    root = plant(files | {"torch/__init__.py": "", "torch/nn.py": ""})
    assert breach in list(banned_loads(root))


def test_a_library_loaded_on_demand_is_not_found(plant):
    root = plant({"pyro_infomax/plots/__init__.py": "def history():\n    import torch"})
    assert not list(banned_loads(root))


@pytest.mark.parametrize("test", ["tests/test_nothing.py", "tests/attic/test_docs.py"])
def test_a_test_that_mirrors_nothing_is_found(plant, test):
    (breach,) = stray_tests(plant({test: ""}))
    assert breach.startswith(f"{test} mirrors nothing")


@pytest.mark.parametrize(
    "statement",
    [
        "from pyro_infomax.nn import _mlp",
        "from pyro_infomax.nn._mlp import MLP",
        "import pyro_infomax._ranks",
    ],
)
def test_a_test_of_something_private_is_found(plant, statement, monkeypatch):
    root = plant({"tests/nn/test_mlp.py": f"from pyro_infomax import __version__\n{statement}"})
    (breach,) = private_imports_of_tests(root)
    assert breach.startswith("tests/nn/test_mlp.py:2 imports")
    monkeypatch.setitem(PRIVATE_TESTS, "nn/test_mlp.py", "a reason")
    assert not list(private_imports_of_tests(root))


@pytest.mark.parametrize("place", PRIVATE_TESTS)
def test_what_may_be_private_is(place):
    assert any(is_private(name) for _, name in imports("tests", ROOT / "tests" / place))


# ---- the top of the package


def test_every_name_of_the_package_is_the_one_of_its_room():
    for name in set(pyro_infomax.__all__) - {"__version__"}:
        room = import_module(f"{PACKAGE}.{pyro_infomax._MODULE_OF[name]}")
        assert getattr(pyro_infomax, name) is getattr(room, name)
        assert name in getattr(room, "__all__", dir(room))


def test_every_room_is_an_attribute():
    rooms = {room for room in map(room_of, modules(ROOT)) if room and not room.startswith("_")}
    assert {room: getattr(pyro_infomax, room).__name__ for room in rooms} == {
        room: f"{PACKAGE}.{room}" for room in rooms
    }
    assert {*pyro_infomax.__all__, *rooms} <= set(dir(pyro_infomax))


def test_a_room_is_an_attribute_of_the_bare_package():
    program = "import pyro_infomax; print(pyro_infomax.schedules.__name__)"
    assert fresh_python(program, ROOT).strip() == "pyro_infomax.schedules"


def test_type_checkers_see_the_names_and_rooms_that_the_package_offers():
    rooms = {name for name in dir(pyro_infomax) if name in LINE_OF and not name.startswith("_")}
    body = parsed(ROOT / PACKAGE / "__init__.py").body
    block = next(node for node in body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen == {*pyro_infomax.__all__, *rooms} - {"__version__"}


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'pyro_infomax' has no attribute 'nothing'"):
        _ = pyro_infomax.nothing
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from pyro_infomax import nothing")


# ---- importing leaves no trace

WITNESS = """
import random
import numpy, pyro, torch
from pyro.infer.util import is_validation_enabled
def state():
    return (
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.distributions.Distribution._validate_args, is_validation_enabled(),
        torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state()),
        dict(pyro.get_param_store()),
    )
before = state()
import pyro_infomax
for name in dir(pyro_infomax):
    getattr(pyro_infomax, name)
assert state() == before
import sys
import xarray as xr
assert "arviz" not in sys.modules
pyro_infomax.diagnostics.to_native({"posterior": xr.Dataset()})
assert "arviz" in sys.modules
"""


def test_importing_changes_no_global_state_and_leaves_arviz_and_its_announcement_for_later(
    tmp_path, monkeypatch
):
    # with an empty cache folder ArviZ has not announced its successor today
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # else all fonts are looked at
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    fresh_python(WITNESS, ROOT, warnings="error::FutureWarning")
