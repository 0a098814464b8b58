import random
import threading
import time

import numpy as np
import pyro
import pytest
import torch
from torch.distributions import constraints

from pyro_infomax.sweeps._grid import axes_of, points_of
from pyro_infomax.sweeps._results import Failure, FolderStore, NoStore
from pyro_infomax.sweeps._sweep import Worker, isolated_point

(POINT,) = points_of(axes_of({"beta": [0.5]}, [7]))


def work(run, *, store=None, dtype=torch.float64, threads=1):
    return Worker(run, store or NoStore(), dtype=dtype, threads=threads)(POINT)


def draws():
    return [torch.rand(()).item(), float(np.random.rand()), random.random()]  # noqa: NPY002


def test_the_run_gets_the_point_by_keywords():
    assert work(lambda *, beta, seed: {"a": beta + seed})["a"].item() == 7.5


def test_a_point_can_be_repeated_by_hand():
    found = work(lambda beta, seed: {"a": draws()})
    pyro.set_rng_seed(7)
    assert found["a"].values.tolist() == draws()


def test_nothing_of_the_caller_is_moved():
    before = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1]]  # noqa: NPY002
    threads = torch.get_num_threads()
    parameter = pyro.param("scale", torch.ones(2), constraint=constraints.positive)

    def run(beta, seed):
        assert not dict(pyro.get_param_store())
        pyro.param("scale", torch.zeros(3))
        pyro.param("other", torch.zeros(3))
        return {"a": draws(), "threads": torch.get_num_threads(), "double": torch.ones(()).dtype.itemsize}

    found = work(run, dtype=torch.float32, threads=2)
    assert found["threads"].item() == 2
    assert found["double"].item() == 4
    after = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1]]  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert np.array_equal(before[2], after[2])
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float64
    assert list(pyro.get_param_store().keys()) == ["scale"]
    assert pyro.param("scale").unconstrained() is parameter.unconstrained()


def test_a_failure_puts_everything_back_too():
    state = torch.get_rng_state()
    pyro.param("scale", torch.ones(2))

    def run(beta, seed):
        torch.rand(3)
        pyro.clear_param_store()
        torch.set_default_dtype(torch.float32)
        raise KeyError("a")

    found = work(run)
    assert isinstance(found, Failure)
    assert (found.kind, found.message) == ("KeyError", "'a'")
    assert 'raise KeyError("a")' in found.traceback
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float64
    assert list(pyro.get_param_store().keys()) == ["scale"]


def test_outcomes_go_to_the_store(tmp_path):
    store = FolderStore(tmp_path)
    found = work(lambda beta, seed: {"a": beta}, store=store)
    assert store.read(POINT).identical(found)
    # what is there need not be found again
    assert work(lambda beta, seed: 1 / 0, store=store).identical(found)


def test_a_failure_in_the_store_is_tried_again(tmp_path):
    store = FolderStore(tmp_path)
    assert isinstance(work(lambda beta, seed: 1 / 0, store=store), Failure)
    assert isinstance(store.read(POINT), Failure)
    assert work(lambda beta, seed: {"a": 1}, store=store)["a"].item() == 1


@pytest.mark.parametrize("result", [3.0, {"beta": 1.0}, {"failure": 1.0}, {"seed": 1.0}])
def test_another_kind_of_result_is_raised(result, tmp_path):
    with pytest.raises(ValueError, match="Expected"):
        work(lambda beta, seed: result, store=FolderStore(tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_interrupt_is_no_failure(tmp_path):
    def run(beta, seed):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(run, store=FolderStore(tmp_path))
    assert not list(tmp_path.iterdir())


def test_threads_of_one_process_take_turns():
    inside, most = [], []

    def enter():
        with isolated_point(0, dtype=torch.float64, threads=1):
            inside.append(1)
            time.sleep(0.01)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
