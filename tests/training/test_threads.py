"""How many of torch's threads a training runs on."""

import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import BetaELBO
from pyro_infomax.training import Checkpoint, fit
from pyro_infomax.training._execution import ThreadChoice, Workload


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def made(kind, seen):
    pyro.clear_param_store()
    weight = torch.nn.Linear(3, 2)

    def model(x):
        if seen is not None:
            seen.append(torch.get_num_threads())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(x.shape), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("weight", weight)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight(x), 1.0).to_event(1))

    return kind(model, guide, FusedOptim(torch.optim.Adam, {"lr": 1e-3}), BetaELBO(beta=1.0))


@pytest.mark.parametrize("kind", [SVI, CapturedSVI])
def test_a_training_takes_the_number_that_is_quickest_and_puts_it_back(kind, tmp_path):
    seen = [] if kind is SVI else None  # a captured program may not note anything
    data = torch.randn(12, 3)
    kept = Checkpoint(tmp_path / "kept.pt", every_steps=1)
    history = fit(made(kind, seen), data, epochs=2, batch_size=4, progress=False, checkpoint=kept)
    if seen:
        assert seen[0] == 1
        assert set(seen[2:]) == {history.threads}
    assert history.threads in (1, 4)
    assert torch.get_num_threads() == 4
    # resumed, it goes on as it began, from its first step
    again = fit(made(kind, seen), data, epochs=3, batch_size=4, progress=False, checkpoint=kept, resume=True)
    assert again.threads == history.threads
    if seen:
        assert seen[-1] == history.threads


def test_it_is_put_back_after_an_error():
    with pytest.raises(ValueError, match="callables"):
        fit(made(SVI, []), torch.randn(4, 3), epochs=1, callbacks=[3], progress=False)

    def fails(_):
        raise RuntimeError("a callback")

    with pytest.raises(RuntimeError, match="a callback"):
        fit(made(SVI, []), torch.randn(4, 3), epochs=1, callbacks=[fails], progress=False)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(("seconds", "chosen"), [({1: 1, 4: 9}, 1), ({1: 9, 4: 1}, 4), ({1: 10, 4: 9.5}, 1)])
def test_of_numbers_about_as_quick_the_least(seconds, chosen, monkeypatch):
    now = 0.0

    def run():
        nonlocal now
        now += seconds[torch.get_num_threads()]

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    choice = ThreadChoice()
    choice.begin()
    assert torch.get_num_threads() == 1
    choice.measure(run)
    assert choice.chosen == torch.get_num_threads() == chosen
    choice.settle(16)
    assert choice.chosen == 4  # no more than torch had


def test_a_workload_is_of_the_size_of_a_step():
    matrix, kernel, bias = torch.randn(5, 3), torch.randn(2, 1, 3, 3), torch.randn(4)
    work = Workload([matrix, kernel, bias], (torch.randn(6, 8, 8),))
    before = torch.get_rng_state()
    work.run()
    assert torch.equal(torch.get_rng_state(), before)
    assert work.on_cpu
    assert work.is_small
    assert not Workload([matrix.to("meta")], (torch.randn(6, 3),)).on_cpu
    # a row for each datum, an embedding and wide layers are tried in part at most
    large = [torch.empty(300_000, 2), torch.empty(2000, 2000), torch.empty(1500, 3)]
    work = Workload(large, (torch.empty(300_000, 1),))
    assert not work.is_small
    assert all(len(x) * max(weight.shape) <= 2**20 for x, weight in work._layers)


def test_a_training_of_a_seed_takes_a_number_by_its_size():
    data = torch.randn(12, 3)
    assert fit(made(SVI, []), data, epochs=1, progress=False, seed=0).threads == 1
