import pytest
import torch

from pyro_infomax.nn import isolated_random_state


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
