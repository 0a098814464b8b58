"""Every example runs from the command line, leaves what it promises, and stands in the gallery."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
# What a run leaves in its folder, pictures apart.
PROMISED = {
    "digits.py": {"decomposition.csv", "history.csv", "posterior.nc"},
    "own_model.py": {"decomposition.csv"},
}
PICTURES = {"digits.py": 5, "explaining_away.py": 1, "own_model.py": 1}


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path):
    done = run(name, "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example prints its result"
    left = {path.name for path in tmp_path.iterdir() if path.stat().st_size > 0}
    assert PROMISED.get(name, set()) <= left
    assert sum(file.endswith(".png") for file in left) >= PICTURES.get(name, 0)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_is_in_the_gallery(name):
    assert f"examples/{name}" in (ROOT / "docs" / "examples.md").read_text()


@pytest.mark.parametrize("name", sorted(PROMISED.keys() | PICTURES.keys()))
def test_a_promise_is_about_an_example_that_exists(name):
    assert name in EXAMPLES
