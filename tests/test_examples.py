"""Every example runs from the command line, leaves what it promises, and stands in the gallery."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
# What a run leaves in its folder, pictures apart.
PROMISED = {
    "digits.py": {"convergence.csv", "decomposition.csv", "history.csv", "posterior.nc"},
    "estimators.py": {"estimators.csv"},
    "im_algorithm.py": {"im_algorithm.csv"},
    "own_model.py": {"decomposition.csv"},
    "rate_distortion.py": {"rate_distortion.csv"},
}
PICTURES = {
    "digits.py": 6,
    "estimators.py": 1,
    "explaining_away.py": 1,
    "im_algorithm.py": 1,
    "own_model.py": 1,
    "rate_distortion.py": 3,
}


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


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


WRONG = {
    "no known array": ({"a": np.zeros((5, 8, 8))}, [], "images"),
    "images out of range": ({"images": np.full((5, 8, 8), 16.0)}, [], r"\[0, 1\]"),
    "nan": ({"images": np.full((5, 8, 8), np.nan)}, [], "nan"),
    "labels of another length": ({"images": np.zeros((5, 8, 8)), "labels": np.zeros(4, int)}, [], "labels"),
    "negative beta": (None, ["--objective", "beta", "--beta", "-1"], "Expected beta >= 0 but got -1"),
    "lambda too small": (None, ["--lam", "-1"], "Expected lam > -1 but got -1"),
    "a weight for another objective": (None, ["--beta", "2"], "--objective beta"),
    "no file": (None, ["--data", "nowhere.npz"], "nowhere.npz"),
    "no epochs": (None, ["--epochs", "0"], "epochs"),
    "too few latents": (None, ["--latent-dim", "1"], "--latent-dim >= 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gives_one_sentence(case, tmp_path, capsys):
    arrays, arguments, expected = WRONG[case]
    if arrays is not None:
        arguments = ["--data", str(saved(tmp_path / "images.npz", **arrays))]
    digits = load_example("digits")
    with pytest.raises(SystemExit) as stopped:
        digits.main([*arguments, "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert re.search(expected, message), message
    assert message.count("\n") == 1


def test_the_table_of_a_sweep_adds_up(tmp_path):
    arguments = ["--smoke", "--only", "linear-gaussian", "--betas", "0.25", "4", "--out", str(tmp_path)]
    load_example("rate_distortion").main(arguments)
    table = pd.read_csv(tmp_path / "rate_distortion.csv")
    assert table["latent_dim"].tolist() == [5, 5, 2, 2]
    assert table["beta"].tolist() == [4, 0.25, 4, 0.25]
    assert table["lambda"].tolist() == [-0.75, 3, -0.75, 3]
    assert np.allclose(table["rate"], table["mutual_information"] + table["marginal_kl"])
    assert np.allclose(table["marginal_kl"], table["total_correlation"] + table["dimensionwise_kl"])
    # five dimensions under the noise variance 1/4
    nats = 2.5 * np.log(2 * np.pi * 0.25) + table["squared_error"] / (2 * 0.25)
    assert np.allclose(table["distortion"], nats)
    assert np.allclose(table["gap"], table["rate"] - table["gaussian_rate"])
    assert (table["gap"] > -4 * table["gap_error"]).all()


@pytest.mark.parametrize("beta", ["0", "-1", "nan"])
def test_a_weight_that_is_not_positive_gives_one_sentence(beta, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_example("rate_distortion").main(["--betas", "1", beta, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"Expected --betas > 0 but got {beta}." in capsys.readouterr().err


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
