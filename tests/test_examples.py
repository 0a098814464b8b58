"""Every example runs from the command line, leaves what it promises, and stands in the gallery."""

import importlib.util
import io
import itertools
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import matplotlib
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
import xarray as xr
from scipy.stats import multivariate_hypergeom
from torch.distributions import Normal

from pyro_infomax.datasets import Sprites
from pyro_infomax.diagnostics import decompose
from pyro_infomax.oracles import ExplainingAway

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
# What a run leaves in its folder, pictures apart.
PROMISED = {
    "calibration.py": {"calibration.csv", "calibration.nc"},
    "compare.py": {"beside.csv", "compare.csv"},
    "digits.py": {"convergence.csv", "decomposition.csv", "history.csv", "posterior.nc"},
    "digits_guides.py": {"digits_guides.csv", "evidence.csv", "runs.csv"},
    "distributed.py": {"decomposition.csv", "history.csv"},
    "estimators.py": {"estimators.csv"},
    "factor_analysis.py": {"account.csv", "posterior.nc"},
    "family.py": {"family.csv", "family.nc"},
    "fast_steps.py": {"fast_steps.csv"},
    "guides.py": {
        f"{model}{what}.csv"
        for model in ("ppca", "counts", "clusters", "layers", "topics")
        for what in ("", "_account")
    },
    "im_algorithm.py": {"im_algorithm.csv"},
    "infomax_alone.py": {"alone.csv", "alone.nc", "decoded.csv", "decoded.nc", "known.nc"},
    "marginal_or_conditional.py": {
        "associations.csv",
        "matched.csv",
        "study.nc",
        "summary.csv",
        "variance.csv",
    },
    "own_model.py": {"decomposition.csv"},
    "own_objective.py": {"own_objective.csv"},
    "predictive_checks.py": {"predictive_checks.csv"},
    "rate_distortion.py": {"rate_distortion.csv"},
    "refine.py": {"posterior.nc", "refined.csv", "summary.csv"},
    "resume.py": {"history.csv", "training.pt"},
    "sprites.py": {
        "decomposition.csv",
        "history.csv",
        "importance.csv",
        "information.csv",
        "scores.csv",
        "traversals.gif",
    },
    "sweep.py": {"sweep.csv", "sweep.nc"},
    "targets.py": {"targets.csv"},
}
PICTURES = {
    "calibration.py": 1,
    "compare.py": 1,
    "digits.py": 6,
    "digits_guides.py": 1,
    "estimators.py": 1,
    "explaining_away.py": 1,
    "factor_analysis.py": 1,
    "family.py": 2,
    "fast_steps.py": 1,
    "guides.py": 5,
    "im_algorithm.py": 1,
    "infomax_alone.py": 3,
    "marginal_or_conditional.py": 7,
    "own_model.py": 1,
    "own_objective.py": 1,
    "predictive_checks.py": 3,
    "rate_distortion.py": 3,
    "refine.py": 1,
    "sprites.py": 5,
    "sweep.py": 2,
    "targets.py": 1,
}


def process_of(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The example in a process of its own."""
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


@pytest.fixture
def command(monkeypatch) -> Callable[..., str]:
    """Runs an example in this process as the command line does, and gives what it prints.

    To import torch, Pyro and ArviZ anew costs more than most examples compute.
    """
    monkeypatch.syspath_prepend(ROOT / "examples")

    def run(name: str, *arguments: object) -> str:
        script, printed = str(ROOT / "examples" / name), io.StringIO()
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        dtype, modules = torch.get_default_dtype(), set(sys.modules)
        torch.set_default_dtype(torch.float32)
        pyro.clear_param_store()
        try:
            with matplotlib.rc_context(), pyro.validation_enabled(), redirect_stdout(printed):
                runpy.run_path(script, run_name="__main__")
        finally:
            torch.set_default_dtype(dtype)
            # those of its folder, which is on no path later
            for imported in set(sys.modules) - modules:
                if Path(getattr(sys.modules[imported], "__file__", None) or "").parent.name == "examples":
                    del sys.modules[imported]
        return printed.getvalue()

    return run


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, command, tmp_path):
    assert command(name, "--smoke", "--out", tmp_path).strip(), "an example prints its result"
    left = {path.name for path in tmp_path.iterdir() if path.stat().st_size > 0}
    assert PROMISED.get(name, set()) <= left
    assert sum(file.endswith(".png") for file in left) >= PICTURES.get(name, 0)


def test_digits_with_another_guide_and_prior(command, tmp_path):
    command("digits.py", "--smoke", "--guide", "flow", "--prior", "vamp", "--out", tmp_path)
    # single dimensions have no rate there, and so no picture
    assert sum(path.suffix == ".png" for path in tmp_path.iterdir()) == PICTURES["digits.py"] - 1
    account = pd.read_csv(tmp_path / "decomposition.csv", index_col=0)
    assert account.loc["prior_gap", "value"] < account.loc["rate", "value"]


def test_a_training_that_vanished_goes_on_in_a_new_process(command, tmp_path):
    undisturbed = command("resume.py", "--smoke", "--out", tmp_path / "undisturbed")
    out = tmp_path / "resumed"
    gone = process_of("resume.py", "--smoke", "--stop-after", "30", "--every-steps", "4", "--out", str(out))
    assert (gone.returncode, gone.stdout) == (1, ""), gone.stderr
    assert [file.name for file in out.iterdir()] == ["training.pt"]
    # with the fingerprint of all parameters
    assert command("resume.py", "--smoke", "--out", out) == undisturbed
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
    "bytes that are not 0 to 255": ({"x": np.full((5, 8, 8), 16, dtype=np.uint8)}, [], "white=16"),
    "a key that is not there": ({"a": np.zeros((5, 8, 8))}, ["--images-key", "b"], "named 'b'"),
    "keys without a file": (None, ["--images-key", "b"], "--images-key beside --data"),
    "labels of an IDX file for an npz": ({"x": np.zeros((5, 8))}, ["--labels", "b"], "but got --labels"),
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
        arguments = ["--data", str(saved(tmp_path / "images.npz", **arrays)), *arguments]
    digits = load_example("digits")
    with pytest.raises(SystemExit) as stopped:
        digits.main([*arguments, "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert re.search(expected, message), message
    assert message.count("\n") == 1


def test_the_digits_may_be_those_of_keras_or_of_scikit_learn_or_idx_files(tmp_path):
    digits, pixels = load_example("digits"), np.tile([[0, 4], [9, 16]], (5, 1, 1)).astype(np.uint8)
    path = str(saved(tmp_path / "mnist.npz", x_train=pixels, y_train=np.arange(5)[:, None]))
    header = bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0, 2])
    (tmp_path / "images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    (tmp_path / "labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 5, *range(5)]))
    keys = ["--data", path, "--images-key", "x_train", "--labels-key", "y_train"]
    files = ["--data", tmp_path / "images-idx3-ubyte", "--labels", tmp_path / "labels-idx1-ubyte"]
    for arguments in (keys, files):
        data = digits.load(digits.parser().parse_args([*map(str, arguments), "--white", "16"]))
        assert data.images[4].tolist() == [[0, 0], [1, 1]]
        assert data.labels.tolist() == [0, 1, 2, 3, 4]


WRONG_SPRITES = {
    "negative beta": (["--beta", "-1"], "Expected beta >= 0 but got -1"),
    "a weight for another objective": (["--lam", "1"], "--objective infomax"),
    "too few latents": (["--latent-dim", "1"], "Expected --latent-dim >= 2 but got 1"),
    "no epochs": (["--epochs", "0"], "Expected --epochs >= 1 but got 0"),
    "no learning": (["--lr", "nan"], "Expected --lr > 0 but got nan"),
    "a factor of one value": (["--orientations", "1"], "--orientations >= 2 but got 1"),
    "images too small": (["--size", "4"], "Expected size to be an integer >= 8 but got 4"),
    "no correlation": (["--correlated", "0"], "Expected --correlated > 0 but got 0"),
    "grey pixels that are to be binary": (["--paint", "grey", "--likelihood", "bernoulli"], "--paint grey"),
    "no device": (["--device", "abacus"], "Expected a --device that is there but got abacus"),
    "no file": (["--data", "nowhere.npz"], "nowhere.npz"),
    "a grid for a file": (["--data", "nowhere.npz", "--size", "16"], "without --full, --paint or a grid"),
}


@pytest.mark.parametrize("case", WRONG_SPRITES)
def test_wrong_options_of_the_sprites_give_one_sentence(case, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    arguments, expected = WRONG_SPRITES[case]
    with pytest.raises(SystemExit) as stopped:
        load_example("sprites").main([*arguments, "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert expected in message
    assert message.count("\n") == 1


def test_sprites_of_a_file_that_come_unevenly(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    sprites = Sprites(scales=2, orientations=2, endpoint=False, positions=4, size=16)
    images, factors = sprites.images_and_factors()
    classes = np.column_stack([np.zeros(len(factors), int), factors])
    file = saved(tmp_path / "dsprites.npz", imgs=images.byte().numpy(), latents_classes=classes)
    arguments = ["--data", file, "--correlated", "0.3", "--missing", "--guide", "full", "--resume"]
    load_example("sprites").main(["--smoke", *map(str, arguments), "--out", str(tmp_path / "out")])
    # hearts of the right half are left out of the training, not of the scores
    assert "160 images" in capsys.readouterr().out
    assert (tmp_path / "out" / "training.pt").exists()
    assert pd.read_csv(tmp_path / "out" / "scores.csv").columns[:2].tolist() == ["name", "score"]
    shares = pd.read_csv(tmp_path / "out" / "information.csv", index_col=0)
    assert tuple(shares.columns) == sprites.factor_names


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


@pytest.fixture(scope="module")
def study():
    return load_example("marginal_or_conditional")


def curves(study, **quantities) -> pd.DataFrame:
    """A table of trainings from arrays (encoder, beta, seed)."""
    shape = next(iter(quantities.values())).shape
    index = pd.MultiIndex.from_product(
        [["diagonal", "full"], 2.0 ** np.arange(shape[1]), range(shape[2])], names=["encoder", "beta", "seed"]
    )
    table = pd.DataFrame({name: each.ravel() for name, each in quantities.items()}, index=index)
    table = table.sample(frac=1, random_state=0).reset_index().assign(dataset="sprites")
    return table.assign(encoder=pd.Categorical(table["encoder"], ["diagonal", "full"]))


def test_trainings_find_their_place_whatever_their_order(study):
    values = np.random.RandomState(0).randn(2, 3, 4)
    assert np.array_equal(study.cube(curves(study, mig=values), "mig"), values)


def test_the_variance_of_scores_is_shared_out(study):
    random_state = np.random.RandomState(0)
    encoder, beta = np.array([-1.0, 1.0])[:, None, None], np.array([-1.0, 0.0, 1.0])[None, :, None]
    noise = random_state.randn(2, 3, 4)
    noise -= noise.mean(2, keepdims=True)
    parts = {"encoder": encoder, "beta": 2 * beta, "both": 3 * encoder * beta, "seed": noise}
    squares = {name: np.square(np.broadcast_to(part, noise.shape)).sum() for name, part in parts.items()}
    shares = study.explained(5 + sum(parts.values()))
    assert shares == pytest.approx({name: each / sum(squares.values()) for name, each in squares.items()})
    assert np.isnan(study.explained(np.ones((2, 3, 4)))["beta"])


def test_curves_are_read_at_the_same_rate(study):
    rate = np.array([[[9.0, 6.0], [4.0, 3.0], [0.0, 1.0]]]).repeat(2, axis=0)  # (encoder, beta, seed)
    scores = 2 * rate + np.array([0.0, 1.0])[:, None, None]
    assert np.allclose(study.common_rates(rate, 3), [1, 6**0.5, 6])
    assert np.allclose(study.common_rates(rate - 1, 2), [0.1, 5])
    rates = np.arange(1.0, 7.0)
    read = study.at_rates(rate, scores, rates)  # (encoder, seed, rate)
    assert read.shape == (2, 2, 6)
    assert np.allclose(read[0], 2 * rates)
    assert np.allclose(read[1] - read[0], 1)
    assert np.isnan(study.at_rates(rate, scores, np.array([7.0]))[:, 1]).all()


def test_what_full_covariances_win_at_matched_rate(study):
    rate = np.random.RandomState(0).rand(2, 5, 3).cumsum(1)
    gain = np.array([0.1, 0.2, 0.3])
    scores = np.broadcast_to([np.zeros(3), gain], (5, 2, 3)).swapaxes(0, 1)
    rows = study.matched(curves(study, rate=rate, mig=scores))
    assert len(rows) == 3
    assert np.allclose(rows["difference"], 0.2)
    # the t-quantile for two degrees of freedom, and the error of three numbers
    assert np.allclose(rows["high"] - rows["difference"], 4.302653 * 0.1 / 3**0.5)


def test_partial_rank_correlation(study):
    random_state = np.random.RandomState(0)
    rate = random_state.randn(400)
    first, second = rate + 0.5 * random_state.randn(400), rate + 0.5 * random_state.randn(400)
    # both follow the rate, and nothing else
    assert abs(study.partial_spearman(np.exp(first), second, rate**3)) < 4 / 400**0.5
    table = pd.DataFrame({"first": first, "second": second, "rate": rate}).rank()
    inverse = np.linalg.inv(table.corr().to_numpy())
    expected = -inverse[0, 1] / (inverse[0, 0] * inverse[1, 1]) ** 0.5
    assert study.partial_spearman(first, second, rate) == pytest.approx(expected, abs=1e-10)
    assert study.partial_spearman(first, first, rate) == pytest.approx(1)
    assert np.isnan(study.partial_spearman(np.ones(400), second, rate))
    assert np.isnan(study.partial_spearman(2 * rate, second, rate))


def test_a_bootstrap_draws_whole_seeds(study):
    values = np.broadcast_to([1.0, 2.0, 3.0, 4.0, 5.0], (2, 9, 5))
    mean, low, high = study.over_seeds(np.mean, values)
    assert mean == 3
    # means of five draws from five numbers; single trainings would give an interval of ± 0.29
    assert 1.4 <= low <= 2.2
    assert 3.8 <= high <= 4.6


def test_dependence_of_the_true_factors_given_the_data(study):
    axes, variances = study.axes_of("oblique")
    assert np.allclose(axes.T @ axes, 0.5 + 0.5 * np.eye(4))
    joint = np.block(
        [[np.diag(variances), (axes * variances).T], [axes * variances, study.covariance_of("oblique")]]
    )
    shown = joint[:4, :4] - joint[:4, 4:] @ np.linalg.solve(joint[4:, 4:], joint[4:, :4])
    expected = 0.5 * (np.log(np.diag(shown)).sum() - np.linalg.slogdet(shown)[1])
    assert study.posterior_correlation("oblique", 1.0) == pytest.approx(expected, rel=1e-9)
    assert study.posterior_correlation("orthogonal", 1.0) == pytest.approx(0, abs=1e-12)


def test_dependence_by_counting(study):
    causes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert study.counted_correlation(causes) == pytest.approx(0)
    # either cause explains the effect: the example of ExplainingAway, weighed by P(C = 1)
    known = ExplainingAway(0.5, 0.5, [[0.0, 1.0], [1.0, 1.0]]).conditional_mutual_information
    given = study.counted_correlation(causes, given=causes.any(1).astype(int))
    assert given == pytest.approx(0.75 * float(known))
    # what is told apart by the data cannot depend given them
    assert study.counted_correlation(causes, given=np.arange(4)) == pytest.approx(0)


def test_the_sample_has_the_covariance_of_the_population(study):
    problem = study.linear("oblique", 320)
    assert np.allclose(np.cov(problem.x.numpy().T, bias=True), study.covariance_of("oblique"), atol=1e-5)
    assert (np.bincount(problem.factors[:, 0]) == 32).all()


def test_correlated_sprites_are_a_part_of_all(study):
    every, part, grey = (study.sprites(name, 1, 2, 4, 16) for name in ("sprites", "correlated", "nuisance"))
    places = part.factors[:, 3:]
    assert len(every.x) == 3 * 2 * 16 == len(grey.x)
    assert len(part.x) == 3 * 2 * (4 + 3 + 3)
    assert abs(places[:, 0] - places[:, 1]).max() == 1
    assert np.array_equal(grey.factors, every.factors)
    assert every.x.unique().tolist() == [0, 1]
    assert len(grey.x.unique()) == 6


def test_one_factor_is_scored_by_how_explicit_it_is(study):
    problem = study.digits(200, steps=1)
    scores = study.scores_of(problem.x[:, 18:26].double().numpy(), problem.factors, study.SCORES)
    assert list(scores) == ["explicitness"]


def test_means_that_hardly_move_are_not_scored(study):
    means = np.random.RandomState(0).randn(1000, 2) * [1.0, 0.05]
    assert np.array_equal(study.active(means), means * [1, 0])


def test_an_invertible_code_can_have_the_prior_as_aggregate(study):
    white = study.whitened(study.linear("orthogonal", 320).x.double().numpy(), study.DIM)
    means, scale = study.solutions(np.arange(320), white)["whitened, turned"]
    account = study.in_closed_form(means, scale)
    assert account["marginal_kl"] == pytest.approx(0, abs=1e-5)
    assert account["total_correlation"] == pytest.approx(0, abs=1e-5)
    assert account["mutual_information"] == pytest.approx(-study.DIM * np.log(study.TINY), abs=1e-5)
    nothing = study.by_mixture(*study.solutions(np.arange(320), white)["prior"])
    assert max(map(abs, nothing.values())) < 1e-9
    book = study.by_mixture(*study.solutions(np.arange(320), white)["code book"])
    assert np.log(320) - 0.2 < book["mutual_information"] <= np.log(320)
    assert book["marginal_kl"] == pytest.approx(book["rate"] - book["mutual_information"])
    # what looks the same has one place
    alike = study.by_mixture(*study.solutions(np.arange(320) // 2, white)["code book"])
    assert np.log(160) - 0.2 < alike["mutual_information"] <= np.log(160)


def test_a_trained_linear_pair_has_a_closed_form(study):
    problem = study.linear("orthogonal", 320, steps=100)
    for encoder in ("diagonal", "full"):
        pyro.clear_param_store()
        vae, guide = study.train(problem, encoder, 1.0)
        trained = study.as_linear_gaussian("orthogonal", vae, guide)
        account = decompose(vae.model, guide, problem.x, seed=0)
        assert float(trained.rate) == pytest.approx(float(account.rate), abs=1e-3)
        assert study.in_population("orthogonal", trained, 1.0)["excess_loss"] > 0


def test_the_stored_study_is_whole(study):
    ds = xr.load_dataset(ROOT / "docs" / "marginal_or_conditional" / "study.nc", engine="h5netcdf")
    assert tuple(ds["dataset"].values) == study.DATASETS
    assert tuple(ds["beta"].values) == study.BETAS
    assert ds.sizes["seed"] == 5
    assert (ds["failure"] == "").all()
    assert np.allclose(ds["rate"], ds["mutual_information"] + ds["marginal_kl"])
    assert abs(ds["conditional_total_correlation"].sel(encoder="diagonal")).max() == 0
    shares = study.variance(study.long(ds)).set_index(["dataset", "score"])
    assert np.allclose(shares.sum(axis=1), 1)
    # the page says so
    assert shares.loc[("sprites", "mig"), "seed"] == pytest.approx(0.36, abs=0.005)


def test_no_seeds_give_one_sentence(study, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        study.main(["--seeds", "0", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "Expected --seeds >= 1 but got 0." in capsys.readouterr().err


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- What the study of information without a decoder measures.


@pytest.fixture(scope="module")
def alone():
    return load_example("infomax_alone")


def test_the_stored_trainings_are_whole_and_what_the_page_says(alone):
    folder = ROOT / "docs" / "infomax_alone"
    stored = {
        name: xr.load_dataset(folder / f"{name}.nc", engine="h5netcdf") for name in ("alone", "decoded")
    }
    for ds in stored.values():
        assert ds.sizes["seed"] == 10
        assert (ds["failure"] == "").all()
        assert np.allclose(ds["rate"], ds["mutual_information"] + ds["marginal_kl"])
        # diagonal posteriors: TC(Z|X) = 0
        assert np.allclose(ds["redundancy"], ds["total_correlation"])
    table, decoded = (ds.mean("seed") for ds in stored.values())
    free = table.sel(dataset="digits", encoder="table")
    assert (free["value"] <= table["value"].sel(dataset="digits") + 0.01).all()
    assert float(free["accuracy"].max()) < 0.1 < 0.8 < float(decoded["accuracy"].sel(decoder="small").min())
    assert float(decoded["decoder_gap"].sel(decoder="large", lam=3.0)) == pytest.approx(0.22, abs=0.005)


@pytest.mark.parametrize(
    ("form", "sizes"), [("full", (400, 432)), ("small", (150, 150)), ("smoke", (30, 27))]
)
def test_no_two_images_of_the_study_are_alike(form, sizes, alone):
    for name, size in zip(alone.DATASETS, sizes, strict=True):
        problem = alone.problem_of(name, alone.SIZES[form])
        assert (
            problem.x.shape[0] == len(problem.factors) == len(np.unique(problem.x.flatten(1), axis=0)) == size
        )
    with pytest.raises(ValueError, match="no two are alike but 1 differ"):
        alone.Problem(problem.x[[0, 0]], problem.factors[[0, 0]])


def test_neighbours_at_one_distance_come_in_no_order(alone):
    """Where all codes are one, the first rows would be everyone's neighbours, and their value the answer."""
    sizes = np.array([12, 8, 8])
    factors = np.repeat(np.arange(3), sizes)[:, None]
    votes = np.array([each for each in itertools.product(range(6), repeat=3) if sum(each) == 5])
    chosen = (votes == votes.max(1, keepdims=True)) / (votes == votes.max(1, keepdims=True)).sum(1)[:, None]
    of_value = [
        multivariate_hypergeom(sizes - one, 5).pmf(votes) @ chosen[:, v]
        for v, one in enumerate(np.eye(3, dtype=int))
    ]
    right = sizes @ of_value / 28
    for rows in (slice(None), slice(None, None, -1)):
        assert alone.accuracy(np.zeros((28, 2)), factors[rows]) == pytest.approx(right, abs=0.02)
    assert min(abs(12 / 28 - right), abs(8 / 28 - right)) > 0.03
    assert alone.accuracy_of_noise(factors) == pytest.approx(right, abs=0.06)


def test_neighbours_vote(alone):
    codes = np.concatenate([np.arange(6.0), 100 + np.arange(6.0)])[:, None]
    assert alone.accuracy(codes, np.repeat([0, 1], 6)[:, None]) == 1.0
    told = np.array([[0, 0, 1, 1, 2]])
    assert [alone.vote(told, np.array([value])) for value in (0, 1, 2, 3)] == [0.5, 0.5, 0.0, 0.0]
