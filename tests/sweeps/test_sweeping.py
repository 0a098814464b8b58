"""Every point is called once, alone, wherever it runs, and again only where its outcome is missing."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from torch.distributions import constraints

from pyro_infomax.plots import rate_distortion_plane
from pyro_infomax.sweeps import sweep

BETAS = {"beta": [1.0, 4.0]}


def make_training():
    """A closure, which processes are sent by value."""

    def model(x):
        loc = pyro.param("loc", lambda: torch.randn(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def run(beta, seed):
        losses = []
        for x in beta * torch.randn(4, 10, 3):
            losses.append(Trace_ELBO().loss_and_grads(model, lambda x: None, x))
            # by hand: a process loads for seconds before its first optimiser
            loc = pyro.param("loc")
            loc.data -= 0.01 * loc.grad
            loc.grad = None
        return {"loc": pyro.param("loc"), "loss": losses, "noise": np.random.rand()}  # noqa: NPY002

    return run


def make_counting(folder, *, broken=None):
    """Touches a file a call, and fails at one value."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)

    def run(beta, seed):
        (folder / f"{beta:g} {seed} {uuid.uuid4().hex}").touch()
        if beta == broken:
            raise FloatingPointError(f"the loss at {beta} is nan")
        return {"rate": torch.randn(()) / beta, "distortion": beta}

    return run


def calls(folder):
    """The points that were called, a call each, and forgets them."""
    paths = list(Path(folder).iterdir())
    for path in paths:
        path.unlink()
    return sorted(path.name.rpartition(" ")[0] for path in paths)


# ---- the Dataset


def test_dimensions_are_the_grid_and_the_seeds():
    ds = sweep(
        lambda beta, prior, seed: {"point": [beta, seed], "prior_name": str(prior)},
        {"prior": {"flat": None, "two": 2}, "beta": (1.0, 4.0)},
        seeds=[3, 1],
        progress=False,
    )
    assert ds["point"].dims == ("prior", "beta", "seed", "point_dim_0")
    assert ds["seed"].values.tolist() == [3, 1]
    assert ds["point"].sel(prior="two", beta=4.0, seed=1).values.tolist() == [4, 1]
    assert ds["prior_name"].sel(prior="flat").values.tolist() == [["None"] * 2] * 2


def test_the_plane_takes_its_pairs():
    ds = sweep(
        lambda beta, seed: {"rate": 1 / beta + 0.1 * seed, "distortion": beta}, BETAS, seeds=2, progress=False
    )
    pairs = ds.stack(pair=("beta", "seed"))
    for each in (pairs, ds.sel(seed=0), ds.mean("seed")):
        ax = rate_distortion_plane(each["rate"], each["distortion"], beta=each["beta"])
        assert len(ax.collections[0].get_offsets()) == each["rate"].size


def test_a_failing_point_does_not_stop_the_rest(tmp_path):
    run = make_counting(tmp_path, broken=1.0)
    with pytest.warns(UserWarning, match="2 of 4 points failed") as caught:
        ds = sweep(run, BETAS, seeds=2, progress=False)
    assert calls(tmp_path) == ["1 0", "1 1", "4 0", "4 1"]
    assert ds["failure"].sel(beta=1.0, seed=1).item() == "FloatingPointError: the loss at 1.0 is nan"
    assert ds["rate"].isnull().values.tolist() == [[True, True], [False, False]]
    (warning,) = caught
    assert "2 of 4 points failed; the first, at beta=1.0, seed=0, with FloatingPointError: the loss" in str(
        warning.message
    )
    assert "Its traceback:\nTraceback" in str(warning.message)
    assert warning.filename == __file__


def test_a_result_of_another_kind_stops_at_once(tmp_path):
    run = make_counting(tmp_path)
    with pytest.raises(ValueError, match=r"Expected run to return a mapping .* but got float"):
        sweep(lambda **point: run(**point)["distortion"], BETAS, progress=False)
    assert calls(tmp_path) == ["1 0"]


# ---- a point is alone


def draws():
    return [torch.rand(()).item(), float(np.random.rand()), random.random()]  # noqa: NPY002


def test_a_point_can_be_repeated_by_hand():
    found = sweep(lambda beta, seed: {"a": draws()}, {"beta": [0.5]}, seeds=[7], progress=False)
    pyro.set_rng_seed(7)
    assert found["a"].values.ravel().tolist() == draws()


@pytest.mark.parametrize("failing", [False, True])
def test_nothing_of_the_caller_is_moved(failing):
    before = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1]]  # noqa: NPY002
    threads = torch.get_num_threads()
    parameter = pyro.param("scale", torch.ones(2), constraint=constraints.positive)

    def run(beta, seed):
        found = {"stored": len(pyro.get_param_store().keys()), "threads": torch.get_num_threads()}
        pyro.param("scale", torch.zeros(3))
        pyro.param("other", torch.zeros(3))
        draws()
        torch.set_default_dtype(torch.float32)
        if failing:
            raise KeyError("a")
        return found

    with pytest.warns(UserWarning, match="1 of 1 points failed") if failing else nullcontext():
        found = sweep(run, {"beta": [1.0]}, threads=threads + 1, progress=False)
    if not failing:
        assert (found["stored"].item(), found["threads"].item()) == (0, threads + 1)
    after = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1]]  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert np.array_equal(before[2], after[2])
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float64
    assert list(pyro.get_param_store().keys()) == ["scale"]
    assert pyro.param("scale").unconstrained() is parameter.unconstrained()


def test_sweeps_in_threads_of_one_process_take_turns():
    inside, most = [], []

    def run(beta, seed):
        inside.append(1)
        time.sleep(0.01)
        most.append(len(inside))
        inside.pop()
        return {}

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: sweep(run, {"beta": [1.0]}, progress=False), range(3)))
    assert most == [1, 1, 1]


# ---- the same wherever


@pytest.fixture(scope="module")
def grid():
    return {"beta": [1.0, 4.0, 0.5]}


@pytest.fixture
def reference(grid):
    return sweep(make_training(), grid, seeds=2, progress=False)


def test_points_are_alone(reference):
    alone = sweep(make_training(), {"beta": [4.0]}, seeds=[1], progress=False)
    xr.testing.assert_identical(alone, reference.sel(beta=[4.0], seed=[1]))
    assert len(np.unique(reference["loc"])) == reference["loc"].size


def test_the_default_dtype_is_the_caller_s(reference):
    assert reference["loc"].dtype == np.float64
    torch.set_default_dtype(torch.float32)
    assert sweep(make_training(), BETAS, progress=False)["loc"].dtype == np.float32


def test_processes_give_the_same_dataset(grid, reference, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel = sweep(make_training(), grid, seeds=2, n_jobs=2)
    xr.testing.assert_identical(parallel, reference)
    assert "6/6" in capfd.readouterr().err
    # The caller's settings hold there too
    with np.errstate(divide="ignore"), pyro.validation_enabled(False), torch.no_grad():
        alone = sweep(leak, {"step": [0, 1, 2]}, progress=False)
        xr.testing.assert_identical(sweep(leak, {"step": [0, 1, 2]}, n_jobs=2, progress=False), alone)
    assert not alone["validation"].any()


def leak(step, seed):
    """Says what it finds, and changes all of it."""
    found = {
        "gradients": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.ones(()).device),
        "determinism": torch.get_deterministic_debug_mode(),
        "matmul": torch.get_float32_matmul_precision(),
        "anomalies": torch.is_anomaly_enabled(),
        "division": np.geterr()["divide"],
        "validation": pyro.settings.get("validate_distributions_pyro"),
        "filters": str(warnings.filters[:1]),
        "folder": os.getcwd(),
        "variable": os.environ.get("LEAK", ""),
    }
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float16)
    torch.set_default_device("meta")
    torch.set_deterministic_debug_mode("error")
    torch.set_float32_matmul_precision("medium")
    torch.autograd.set_detect_anomaly(True)
    np.seterr(divide="raise")
    pyro.enable_validation(False)
    warnings.simplefilter("ignore")
    os.chdir("/")
    os.environ["LEAK"] = "yes"
    return found


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_what_a_point_sets_ends_with_it(context):
    with np.errstate(divide="ignore"):
        before = settings()
        with context():
            found = sweep(leak, {"step": [0, 1, 2]}, progress=False)
        assert settings() == before
    first = found.isel(step=0)
    for name in set(found.data_vars) - {"failure"}:
        assert (found[name] == first[name]).all(), name
    assert found["gradients"].all()
    assert (found["division"] == "ignore").all()
    assert (found["dtype"] == "torch.float64").all()


def settings():
    return {
        "device": torch.ones(()).device,
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "division": np.geterr(),
        "pyro": pyro.settings.get(),
        "filters": list(warnings.filters),
        "folder": os.getcwd(),
        "variable": os.environ.get("LEAK"),
    }


def test_a_sweep_whose_points_all_fail_alike_stops(tmp_path):
    def run(beta, depth, seed):
        (tmp_path / f"{beta} {depth} {seed}").touch()
        raise ValueError(f"no {beta}")

    grid = {"beta": list(range(5)), "depth": [1, 2]}
    with pytest.warns(UserWarning, match="5 of 20 points failed; .* The other 15 were not run"):
        found = sweep(run, grid, seeds=2, store=tmp_path / "store", progress=False)
    assert len(list(tmp_path.glob("* *"))) == 5
    assert (found["failure"] != "").all()
    # Only what was run is kept
    assert len(list((tmp_path / "store").iterdir())) == 5


def test_a_sweep_goes_on_where_points_fail_in_different_ways():
    def run(beta, seed):
        if beta == 0:
            raise ValueError("none")
        raise KeyError(beta)

    with pytest.warns(UserWarning, match="8 of 8 points failed; ") as caught:
        sweep(run, {"beta": list(range(8))}, progress=False)
    assert "not run" not in str(caught[0].message)


def test_a_sweep_goes_on_where_one_value_is_to_blame():
    def run(beta, depth, seed):
        if depth == 1:
            raise ValueError("too shallow")
        return {"rate": 1.0}

    with pytest.warns(UserWarning, match="10 of 20 points failed; "):
        found = sweep(run, {"beta": list(range(5)), "depth": [1, 2]}, seeds=2, progress=False)
    assert found["rate"].sum() == 10


def test_a_surrounding_configuration_says_how_many_jobs(tmp_path):
    with joblib.parallel_config(n_jobs=2):
        ds = sweep(lambda beta, seed: {"process": os.getpid()}, BETAS, progress=False)
    assert os.getpid() not in ds["process"]
    alone = sweep(lambda beta, seed: {"process": os.getpid()}, BETAS, progress=False)
    assert (alone["process"] == os.getpid()).all()


def test_ray_gives_the_same_dataset(grid, reference, tmp_path, capfd):
    ray = pytest.importorskip("ray")
    register_ray = pytest.importorskip("ray.util.joblib").register_ray
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of Ray's own start
        register_ray()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        try:
            with joblib.parallel_config(backend="ray"):
                parallel = sweep(make_training(), grid, seeds=2, n_jobs=2, store=tmp_path)
        finally:
            ray.shutdown()
    xr.testing.assert_identical(parallel, reference)
    assert "6/6" in capfd.readouterr().err
    assert len(list(tmp_path.glob("*.npz"))) == 6


# ---- the store


def test_a_rerun_calls_nothing(tmp_path):
    run, store = make_counting(tmp_path / "calls"), tmp_path / "store"
    first = sweep(run, BETAS, seeds=2, store=store, progress=False)
    assert len(calls(tmp_path / "calls")) == 4
    second = sweep(run, BETAS, seeds=2, store=store, progress=False)
    assert calls(tmp_path / "calls") == []
    xr.testing.assert_identical(first, second)


def test_an_extended_grid_calls_what_is_missing(tmp_path):
    run, store = make_counting(tmp_path / "calls"), tmp_path / "store"
    first = sweep(run, BETAS, store=store, progress=False)
    calls(tmp_path / "calls")
    ds = sweep(run, {"beta": [2.0, 4.0]}, seeds=[1, 0], store=store, progress=False)
    assert calls(tmp_path / "calls") == ["2 0", "2 1", "4 1"]
    assert ds["rate"].sel(beta=4.0, seed=0) == first["rate"].sel(beta=4.0, seed=0)
    assert 1.0 not in ds["beta"]


def test_a_bar_begins_with_what_is_there(tmp_path, capsys, monkeypatch):
    run = make_counting(tmp_path / "calls")
    sweep(run, BETAS, store=tmp_path / "store")
    assert capsys.readouterr().err == "2/2 points, in 00:00\n"
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        sweep(run, BETAS, seeds=2, store=tmp_path / "store", progress="seeds")
    bar = capsys.readouterr().err
    assert "seeds:  50%" in bar
    assert "4/4" in bar
    sweep(run, BETAS, progress=False)
    assert capsys.readouterr().err == ""


def test_failed_points_are_tried_again_or_not(tmp_path):
    store, folder = tmp_path / "store", tmp_path / "calls"
    for attempt in range(2):
        with pytest.warns(UserWarning, match=r"1 of 2 points failed.* is in .*\.failure\.json"):
            sweep(make_counting(folder, broken=4.0), BETAS, store=store, progress=False)
        assert calls(folder) == ["1 0", "4 0"][attempt:]
    mended = partial(sweep, make_counting(folder), BETAS, store=store, progress=False)
    with pytest.warns(UserWarning, match="1 of 2 points failed"):
        ds = mended(retry_failed=False)
    assert calls(folder) == []
    assert ds["failure"].sel(beta=4.0).values == ["FloatingPointError: the loss at 4.0 is nan"]
    assert (mended()["failure"] == "").all()
    assert calls(folder) == ["4 0"]


def test_an_interrupt_keeps_what_is_stored(tmp_path):
    run, store = make_counting(tmp_path / "calls"), tmp_path / "store"

    def interrupted(beta, seed):
        if seed == 2:
            raise KeyboardInterrupt
        return run(beta, seed)

    with pytest.raises(KeyboardInterrupt):
        sweep(interrupted, {"beta": [1.0]}, seeds=4, store=store, progress=False)
    calls(tmp_path / "calls")
    sweep(run, {"beta": [1.0]}, seeds=4, store=store, progress=False)
    assert calls(tmp_path / "calls") == ["1 2", "1 3"]


KILLED = """
import sys, time
from pathlib import Path
from pyro_infomax.sweeps import sweep

def run(beta, seed):
    (Path(sys.argv[1]) / f"{beta:g} {seed} call").touch()
    time.sleep(0.1)
    return {"a": beta + seed}

sweep(run, {"beta": [1.0, 4.0]}, seeds=20, store=sys.argv[2], progress=False)
"""


def test_a_killed_sweep_goes_on_with_what_is_missing(tmp_path):
    folder, store = tmp_path / "calls", tmp_path / "store"
    run = make_counting(folder)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(folder), str(store)]
    process = subprocess.Popen(command, start_new_session=True)
    while len(list(store.glob("*.npz"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(list(store.glob("*.npz")))
    before = calls(folder)
    # at most the point that it was about
    assert len(before) - kept in (0, 1)
    ds = sweep(run, BETAS, seeds=20, store=store, progress=False)
    assert len(calls(folder)) == 40 - kept
    assert int(ds["a"].notnull().sum()) == kept
    assert int(ds["rate"].notnull().sum()) == 40 - kept


def test_two_sweeps_on_one_store(tmp_path):
    def both(run, store):
        return sweep(run, BETAS, seeds=10, store=store, progress=False)

    tasks = [joblib.delayed(both)(make_counting(tmp_path / "calls"), tmp_path / "store") for _ in range(2)]
    one, other = joblib.Parallel(n_jobs=2)(tasks)
    xr.testing.assert_identical(one, other)
    assert len(list((tmp_path / "store").iterdir())) == 20
    assert 20 <= len(calls(tmp_path / "calls")) <= 40


# ---- what is refused


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (3, "Expected run to be a function but got 3"),
        (lambda beta: {}, "take the keyword arguments beta, seed but got: got an unexpected .*'seed'"),
        (lambda lam, seed: {}, "take the keyword arguments beta, seed but got: missing .*'lam'"),
    ],
)
def test_a_run_that_does_not_take_the_point(run, message):
    with pytest.raises(ValueError, match=message):
        sweep(run, BETAS, progress=False)


def test_a_run_that_cannot_be_sent():
    lock = (each for each in range(3))
    with pytest.raises(
        ValueError, match=r"sent to processes but got TypeError: .*generator.*; make .* n_jobs=1"
    ):
        sweep(lambda beta, seed: {"a": next(lock)}, BETAS, n_jobs=2, progress=False)


@pytest.mark.parametrize("threads", [0, True])
def test_wrong_threads(threads):
    with pytest.raises(ValueError, match="Expected threads to be an integer >= 1"):
        sweep(make_training(), BETAS, threads=threads, progress=False)
