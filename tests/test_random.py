"""A seed repeats draws, leaves the global state as it was, and gives draws that no data know."""

from concurrent.futures import ThreadPoolExecutor

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.joint import generative, representation


def model(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))


def draws(number: int, seed: int | None) -> torch.Tensor:
    return generative(model).sample(number, torch.zeros(number), seed=seed)["z"]


def test_a_seed_repeats_its_draws_and_leaves_the_global_state() -> None:
    joint = representation(guide, torch.zeros(5))
    for sample in (lambda seed: draws(4, seed), lambda seed: joint.sample(4, seed=seed)["z"]):
        before = torch.get_rng_state()
        assert torch.equal(sample(3), sample(3))
        assert not torch.equal(sample(3), sample(4))
        assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_state_is_used() -> None:
    torch.manual_seed(5)
    first = draws(4, None)
    assert not torch.equal(draws(4, None), first)
    torch.manual_seed(5)
    assert torch.equal(draws(4, None), first)


@pytest.mark.parametrize("seed", range(3))
def test_draws_share_nothing_with_data_of_the_same_seed(seed: int) -> None:
    data = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
    assert abs(float(torch.corrcoef(torch.stack([data, draws(1000, seed)]))[0, 1])) < 4 / 1000**0.5


def test_threads_with_seeds_draw_what_they_draw_alone() -> None:
    alone = [draws(50, seed) for seed in range(6)]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda seed: draws(50, seed), range(6)))
    assert all(map(torch.equal, alone, together))
    assert torch.equal(torch.get_rng_state(), state)
