import torch

from pyro_infomax.training.random_state import isolated_random_state


def test_leaves_the_global_state():
    state = torch.get_rng_state()
    with isolated_random_state(seed=3):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_is_torchs():
    with isolated_random_state(seed=3):
        ours = torch.rand(5)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.rand(5))


def test_without_a_seed_it_continues():
    with isolated_random_state():
        ours = torch.rand(5)
    assert torch.equal(ours, torch.rand(5))
