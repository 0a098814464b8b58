"""Seeds that leave no trace."""

import torch

from pyro_infomax.information.randomness import isolated


def test_a_seed_repeats_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    with isolated(3):
        one = torch.randn(4)
    with isolated(3):
        other = torch.randn(4)
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_state_is_used() -> None:
    torch.manual_seed(5)
    expected = torch.randn(4)
    torch.manual_seed(5)
    with isolated(None):
        assert torch.equal(torch.randn(4), expected)


def test_draws_share_nothing_with_data_of_the_same_seed() -> None:
    for seed in range(3):
        data = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
        with isolated(seed):
            draws = torch.randn(1000)
        assert abs(float(torch.corrcoef(torch.stack([data, draws]))[0, 1])) < 4 / 1000**0.5
