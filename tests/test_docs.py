"""The code of the pages runs as it stands, and every page can be reached."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.glob("*.md"))
# What the programs of these pages promise to leave behind.
LEFT = {"README.md": {"posterior.nc"}, "docs/quickstart.md": {"latents.png", "posterior.nc"}}
# Where a reader finds how to train, and is to find the quick way.
CAPTURED = {"README.md", "docs/quickstart.md", "docs/training.md", "docs/plots.md"}


def python_blocks(text: str) -> Iterator[tuple[int, str]]:
    """Each fenced ``python`` block and the line before its first."""
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, block.start(1)), block[1]


# A page is one program: its blocks run in order, in one namespace. What is not to be run is fenced as ``py``.
PROGRAMS = [
    page
    for page in ["README.md", *(f"docs/{page}.md" for page in PAGES)]
    if list(python_blocks((ROOT / page).read_text()))
]


def run_page(path: Path) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": path.stem}
    for line, source in python_blocks(path.read_text()):
        # The empty lines make a traceback point into the page.
        exec(compile("\n" * line + source, str(path), "exec"), namespace)
    return namespace


@pytest.fixture
def as_a_reader(tmp_path, monkeypatch):
    """What a reader starts from: an empty folder and torch's own default dtype."""
    monkeypatch.chdir(tmp_path)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield tmp_path
    torch.set_default_dtype(dtype)


def toctree_entries(text: str) -> list[str]:
    lines = [
        line.strip()
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    return [line for line in lines if line and not line.startswith(":")]


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_page_runs(page, as_a_reader):
    namespace = run_page(ROOT / page)
    assert page not in CAPTURED or namespace["svi"].captured
    left = {path.name for path in as_a_reader.iterdir() if path.stat().st_size > 0}
    assert LEFT.get(page, set()) <= left


def test_the_pages_of_which_more_is_expected_have_programs():
    assert LEFT.keys() | CAPTURED <= set(PROGRAMS)


def test_every_page_is_in_the_toctree_once():
    entries = toctree_entries((DOCS / "index.md").read_text())
    assert sorted(entries) == [page for page in PAGES if page != "index"]


def test_a_failing_page_is_reported_at_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n```python\nx = 1\n```\n\n```py\nraise KeyError\n```\n\n```python\nx / 0\n```\n"
    )
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(page)
    assert caught.traceback[-1].lineno + 1 == 12
