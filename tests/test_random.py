import pytest
import torch

from pyro_infomax._random import isolated_random_state, seeded_draws


@pytest.mark.parametrize("seed", [None, 3])
def test_the_global_state_stays(seed):
    before = torch.get_rng_state()
    with isolated_random_state(seed):
        torch.rand(5)
    assert torch.equal(before, torch.get_rng_state())


def test_a_seed_repeats_its_draws():
    def draw(seed):
        with isolated_random_state(seed):
            return torch.rand(())

    assert draw(3) == draw(3) != draw(4)


def test_without_a_seed_the_present_state_is_continued():
    with isolated_random_state():
        inside = torch.rand(())
    assert inside == torch.rand(())


def test_the_seed_is_torchs():
    with isolated_random_state(seed=3):
        ours = torch.rand(5)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.rand(5))


def test_seeded_draws_repeat_and_leave_the_global_state() -> None:
    before = torch.get_rng_state()
    with seeded_draws(3):
        one = torch.randn(4)
    with seeded_draws(3):
        other = torch.randn(4)
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_state_is_used() -> None:
    torch.manual_seed(5)
    expected = torch.randn(4)
    torch.manual_seed(5)
    with seeded_draws(None):
        assert torch.equal(torch.randn(4), expected)


def test_draws_share_nothing_with_data_of_the_same_seed() -> None:
    for seed in range(3):
        data = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
        with seeded_draws(seed):
            draws = torch.randn(1000)
        assert abs(float(torch.corrcoef(torch.stack([data, draws]))[0, 1])) < 4 / 1000**0.5
