"""What two processes reach together is what one reaches alone; and what fails in one ends in both."""

import functools
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

pytest.importorskip("lightning_fabric")

SCRIPT = Path(__file__).with_name("two_processes.py")
LIMIT = 240  # seconds, after which two processes that wait for each other count as failed


def _module() -> Any:
    specification = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


alone = _module()


@pytest.fixture(scope="session")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the two processes leave, who run once however many workers there are."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    folder /= "two_processes"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            run_both(tmp_path_factory.mktemp("running")).rename(folder)
    return folder


@pytest.fixture(scope="session")
def together(left: Path) -> list[dict[str, Any]]:
    """What each of the two processes found."""
    return [torch.load(left / f"rank_{rank}.pt", weights_only=False) for rank in (0, 1)]


def run_both(folder: Path) -> Path:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        timeout=LIMIT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, atol: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0.0, atol=atol)


# ---- the example


def test_the_example_of_two_processes_leaves_what_that_of_one_does(left: Path) -> None:
    assert (left / "printed.txt").read_text().count("2 processes:") == 1
    assert {path.name for path in (left / "example").iterdir()} == {"decomposition.csv", "history.csv"}
    account = pd.read_csv(left / "example" / "decomposition.csv", index_col=0)
    assert account.loc["data_size", "value"] == 200


# ---- training


@functools.cache
def trained(programs: str, stepper: str) -> dict[str, Any]:
    """By one process."""
    return alone.trained(programs, stepper)


@pytest.mark.parametrize("case", alone.TRAINED, ids=" ".join)
def test_without_noise_two_train_as_one(together: list[dict[str, Any]], case: tuple[str, str]) -> None:
    expected = trained(*case)
    for found in together:
        assert_equal(found[str(case)]["parameters"], expected["parameters"], atol=1e-9)


@pytest.mark.parametrize("case", alone.TRAINED, ids=" ".join)
def test_both_have_the_history_of_one(together: list[dict[str, Any]], case: tuple[str, str]) -> None:
    expected = trained(*case)["history"]
    assert np.isfinite(expected).all()
    for found in together:
        np.testing.assert_allclose(found[str(case)]["history"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stepper", ["svi", "captured"])
def test_terms_of_a_user_s_own_are_in_the_history(together: list[dict[str, Any]], stepper: str) -> None:
    for found in together:
        columns = found[str(("own_objective", stepper))]["columns"]
        assert {"first", "second", "validation_first", "validation_second"} <= set(columns)


def test_the_histories_of_both_are_one(together: list[dict[str, Any]]) -> None:
    first, second = (found[str(("regression", "svi"))]["seconds"] for found in together)
    assert first == second


def test_both_see_all_data_once_an_epoch(together: list[dict[str, Any]]) -> None:
    first, second = (found["seen"] for found in together)
    assert len(first) == 18
    assert sorted(first + second) == list(range(alone.ROWS))
    assert first + second != list(range(alone.ROWS))


def test_schedules_advance_as_in_one(together: list[dict[str, Any]]) -> None:
    expected = trained("enumerated", "svi")["step"]
    assert expected == 16
    assert [found[str(("enumerated", "svi"))]["step"] for found in together] == [16, 16]


@pytest.mark.parametrize("case", [case for case in alone.TRAINED if case[1] == "captured"], ids=" ".join)
def test_steps_are_captured_in_both(together: list[dict[str, Any]], case: tuple[str, str]) -> None:
    assert [found[str(case)]["captured"] for found in together] == [True, True]


def test_an_autoencoder_reaches_the_loss_of_one(together: list[dict[str, Any]]) -> None:
    ends = [alone.autoencoded(seed=seed)["losses"][-3:] for seed in range(3)]
    mean, spread = np.mean(ends), np.std([np.mean(each) for each in ends], ddof=1)
    first = alone.autoencoded(epochs=1)["losses"][0]
    found = together[0]["autoencoder"]["losses"][-3:].mean()
    assert abs(found - mean) < 5 * spread + 0.03 * abs(first - mean)


@pytest.mark.parametrize("what", ["parameters", "buffers"])
@pytest.mark.parametrize("name", ["autoencoder", "unseeded"])
def test_both_end_with_the_same(together: list[dict[str, Any]], name: str, what: str) -> None:
    assert_equal(together[0][name][what], together[1][name][what])


def test_where_one_cannot_replay_both_go_on_by_ordinary_steps(together: list[dict[str, Any]]) -> None:
    first, second = (found["gave up"] for found in together)
    assert_equal(first["parameters"], second["parameters"])
    assert "another process" in first["reason"]
    assert second["reason"] is not None


def test_statistics_of_batch_norm_are_those_of_all_data(together: list[dict[str, Any]]) -> None:
    found = together[0]["autoencoder"]["buffers"]
    x = alone.correlated()
    stated = together[0]["autoencoder"]["parameters"]
    weight, bias = stated["encoder$$$0.weight"], stated["encoder$$$0.bias"]
    features = x @ weight.T + bias
    # the weights have moved while the average ran, and a batch has its own mean
    error = (found["encoder.1.running_mean"] - features.mean(0)).abs() / features.std(0)
    assert float(error.max()) < 0.5
    assert int(found["encoder.1.num_batches_tracked"]) == 60


def test_processes_draw_noise_of_their_own(together: list[dict[str, Any]]) -> None:
    assert together[0]["noise"] != together[1]["noise"]


def test_a_resumed_training_is_the_undisturbed_one(together: list[dict[str, Any]]) -> None:
    """Which a seed that left the noise of one process as it comes would not let it be."""
    for found in together:
        assert found["resumed"]["steps"] == found["again"]["steps"] == 30
        assert_equal(found["resumed"]["parameters"], found["again"]["parameters"])
        assert_equal(found["resumed"]["buffers"], found["again"]["buffers"])


def test_both_stop_early_at_once(together: list[dict[str, Any]]) -> None:
    stopped = [(found["early"]["stopped"], found["early"]["steps"]) for found in together]
    assert stopped[0] == stopped[1]
    assert "validation_loss" in str(stopped[0][0])


def test_a_latent_variable_of_all_data_counts_once(together: list[dict[str, Any]]) -> None:
    data = 0.5 + alone.rows(alone.ROWS, 4)
    precision = 1 / 0.1**2 + data.numel()
    for found in together:
        learned = found["shared noise"]
        assert float(learned["loc"]) == pytest.approx(float(data.sum()) / precision, abs=0.02)
        assert float(learned["log_scale"]) == pytest.approx(-0.5 * math.log(precision), abs=0.08)


def test_a_parameter_of_one_process_moves_in_both(together: list[dict[str, Any]]) -> None:
    assert_equal(together[0]["absent"], together[1]["absent"])
    assert float(together[0]["absent"]["shift"].abs().min()) > 0.0


def test_loaders_that_fabric_has_split_make_up_the_data(together: list[dict[str, Any]]) -> None:
    assert_equal(together[0]["loaded"], together[1]["loaded"])


# ---- errors

OUTCOMES = {
    "nan": ("NonFiniteLossError", "holds 1 nan"),
    "value error": ("ValueError", "out of luck"),
    "captured": ("RuntimeError", "out of luck"),
    "late in one": ("ValueError", "same parameters in all processes"),
    "late at random": ("ValueError", "were drawn at random"),
    "other shape": ("ValueError", "same parameters in all processes"),
    "without plate": ("NotImplementedError", "changes with the data"),
    "bound": ("NotImplementedError", "no sum over the data"),
    "function": ("NotImplementedError", "not known to be a sum"),
    "one loader longer": ("ValueError", "as many batches"),
    "same loader": ("ValueError", "all got the same batch"),
    "wrapper": ("ValueError", "leave out fabric.setup"),
    "own step": ("NotImplementedError", "Expected an SVI or a CapturedSVI"),
    "account of nan": ("ValueError", "Expected data without nan"),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_fails_in_one_ends_in_both(together: list[dict[str, Any]], name: str) -> None:
    kind, words = OUTCOMES[name]
    for found in together:
        assert found["outcomes"][name][0] == kind
        assert words in found["outcomes"][name][1]


def test_an_error_of_a_strange_kind_ends_both(together: list[dict[str, Any]]) -> None:
    kinds = [found["outcomes"]["key error"][0] for found in together]
    assert kinds == ["PeerError", "KeyError"]


def test_a_prior_that_differs_between_processes_is_none(together: list[dict[str, Any]]) -> None:
    for found in together:
        assert "the prior depends on the data" in found["prior of each"]["marginal_kl"]


# ---- accounts

EXACT = [name for name in alone.PAIRS if name != "chain"]


@pytest.mark.parametrize("name", EXACT)
def test_the_account_of_two_is_that_of_one(together: list[dict[str, Any]], name: str) -> None:
    expected, found = alone.account(name), together[0]["accounts"][name]
    one, two = (each.to_frame().select_dtypes("number") for each in (expected, found))
    assert list(one.index) == list(two.index)
    assert list(one.columns) == list(two.columns)
    np.testing.assert_allclose(two.to_numpy(), one.to_numpy(), rtol=0.0, atol=1e-9)
    assert found.unavailable == expected.unavailable
    assert (found.data_size, found.saturated, found.active_units) == (
        150,
        expected.saturated,
        expected.active_units,
    )


@pytest.mark.parametrize("name", alone.PAIRS)
def test_both_get_the_same_account(together: list[dict[str, Any]], name: str) -> None:
    assert str(together[0]["accounts"][name]) == str(together[1]["accounts"][name])


def test_the_account_of_sites_that_depend_on_each_other_agrees_with_one(
    together: list[dict[str, Any]],
) -> None:
    """Their draws are other ones, so that the two agree within their errors only."""
    one, two = dict(alone.account("chain").estimates()), dict(together[0]["accounts"]["chain"].estimates())
    assert one.keys() == two.keys()
    assert two["rate"].value == pytest.approx(
        float(two["mutual_information"].value + two["marginal_kl"].value), abs=1e-9
    )
    for name, estimate in one.items():
        error = float(torch.hypot(estimate.standard_error, two[name].standard_error))
        assert float(two[name]) == pytest.approx(float(estimate), abs=5 * error + 1e-9), name
