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
import pyro
import pytest
import torch
import xarray as xr
from torch.distributions import Normal

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
# What a run leaves in its folder, pictures apart.
PROMISED = {
    "digits.py": {"convergence.csv", "decomposition.csv", "history.csv", "posterior.nc"},
    "digits_guides.py": {"digits_guides.csv", "evidence.csv", "runs.csv"},
    "distributed.py": {"decomposition.csv", "history.csv"},
    "estimators.py": {"estimators.csv"},
    "fast_steps.py": {"fast_steps.csv"},
    "guides.py": {
        f"{model}{what}.csv"
        for model in ("ppca", "counts", "clusters", "layers", "topics")
        for what in ("", "_account")
    },
    "im_algorithm.py": {"im_algorithm.csv"},
    "own_model.py": {"decomposition.csv"},
    "rate_distortion.py": {"rate_distortion.csv"},
    "resume.py": {"history.csv", "training.pt"},
    "sweep.py": {"sweep.csv", "sweep.nc"},
}
PICTURES = {
    "digits.py": 6,
    "digits_guides.py": 1,
    "estimators.py": 1,
    "explaining_away.py": 1,
    "fast_steps.py": 1,
    "guides.py": 5,
    "im_algorithm.py": 1,
    "own_model.py": 1,
    "rate_distortion.py": 3,
    "sweep.py": 2,
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


def test_two_processes_leave_what_one_does(tmp_path):
    pytest.importorskip("lightning_fabric")
    done = run("distributed.py", "--smoke", "--devices", "2", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes:") == 1
    account = pd.read_csv(tmp_path / "decomposition.csv", index_col=0)
    assert account.loc["data_size", "value"] == 200


def test_digits_with_another_guide_and_prior(tmp_path):
    done = run("digits.py", "--smoke", "--guide", "flow", "--prior", "vamp", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    # single dimensions have no rate there, and so no picture
    assert sum(path.suffix == ".png" for path in tmp_path.iterdir()) == PICTURES["digits.py"] - 1
    account = pd.read_csv(tmp_path / "decomposition.csv", index_col=0)
    assert account.loc["prior_gap", "value"] < account.loc["rate", "value"]


def test_a_training_that_vanished_goes_on_in_a_new_process(tmp_path):
    undisturbed = run("resume.py", "--smoke", "--out", str(tmp_path / "undisturbed"))
    out = tmp_path / "resumed"
    gone = run("resume.py", "--smoke", "--stop-after", "30", "--every-steps", "4", "--out", str(out))
    assert (gone.returncode, gone.stdout) == (1, "")
    assert [file.name for file in out.iterdir()] == ["training.pt"]
    resumed = run("resume.py", "--smoke", "--out", str(out))
    assert resumed.returncode == 0, resumed.stderr
    # with the fingerprint of all parameters
    assert resumed.stdout == undisturbed.stdout
    histories = [pd.read_csv(folder / "history.csv") for folder in (out, tmp_path / "undisturbed")]
    pd.testing.assert_frame_equal(*(each.drop(columns="seconds") for each in histories), check_exact=True)


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


def test_a_sweep_goes_on_with_what_is_missing(tmp_path):
    main = load_example("sweep").main
    main(["--smoke", "--out", str(tmp_path), "--betas", "2", "0.5", "--seeds", "1"])
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("points/*/*.npz")}
    main(["--smoke", "--out", str(tmp_path), "--betas", "0.5", "--seeds", "2"])
    assert {path: path.stat().st_mtime_ns for path in stored} == stored
    assert len(list(tmp_path.glob("points/*/*.npz"))) == 3
    ds = xr.load_dataset(tmp_path / "sweep.nc", engine="h5netcdf")
    table = pd.read_csv(tmp_path / "sweep.csv").set_index("quantity")
    assert (ds["failure"] == "").all()
    assert np.allclose(table["mean"]["rate"], ds["rate"].mean())
    assert np.allclose(table["spread"]["rate"], abs(np.diff(ds["rate"])) / 2**0.5)
    assert np.allclose(ds["rate"], ds["mutual_information"] + ds["marginal_kl"])


@pytest.mark.parametrize("beta", ["0", "-1", "nan"])
def test_a_weight_that_is_not_positive_gives_one_sentence(beta, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_example("rate_distortion").main(["--betas", "1", beta, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"Expected --betas > 0 but got {beta}." in capsys.readouterr().err


def test_gains_are_paired_image_by_image(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    index = pd.MultiIndex.from_product([[0, 1], [0, 1]], names=["fold", "image"])
    baseline = np.array([-10.0, -20.0, -30.0, -40.0])
    evidence = pd.DataFrame(
        {"normal + standard": baseline, "full + vamp": baseline + np.array([2, 4, 0, -2])}, index=index
    )
    runs = pd.DataFrame(
        {"rate": [5.0, 6.0, 7.0, 8.0]},
        index=pd.MultiIndex.from_product([[0, 1], evidence.columns], names=["fold", "pair"]),
    )
    won = load_example("digits_guides").compare(runs, evidence).loc["full + vamp"]
    assert won["gain"] == 1
    # folds win 3 and -1: standard deviations over the root of their number
    assert won["error_folds"] == pytest.approx(2)
    assert won["error_images"] == pytest.approx((20 / 3) ** 0.5 / 2)
    assert won["folds_won"] == 1
    assert won["rate"] == 7


def test_folds_hold_out_every_image_once(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    deal = load_example("digits_guides").deal
    images = torch.arange(100)
    splits = [deal(images, fold, seed=0) for fold in range(6)]
    assert torch.equal(torch.cat([split.holdout for split in splits]).sort().values, images)
    for split in splits:
        assert torch.equal(torch.cat(split).sort().values, images)


def test_one_model_of_the_guides_alone(tmp_path):
    load_example("guides").main(["--smoke", "--model", "ppca", "--epochs", "1", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"ppca.csv", "ppca.png", "ppca_account.csv"}


@torch.no_grad()
def test_the_exact_posterior_that_a_guide_is_held_against():
    weight, loc, scale = torch.randn(8, 3), torch.randn(8), torch.tensor(0.7)
    for name, value in (("weight", weight), ("loc", loc), ("scale", scale)):
        pyro.param(name, value)
    x, z = torch.randn(20, 8), torch.randn(20, 3)
    joint = Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(z @ weight.T + loc, scale).log_prob(x).sum(-1)
    guides = load_example("guides")
    # Bayes' rule, at any z
    evidence = (joint - guides.ppca_posterior(x).log_prob(z)).mean()
    assert guides.ppca_evidence(x) == pytest.approx(float(evidence), abs=1e-9)


def test_epochs_below_one_give_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_example("guides").main(["--epochs", "0", "--out", str(tmp_path)])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "Expected --epochs >= 1 but got 0." in message
    assert message.count("\n") == 1


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
