import numpy as np
import pytest
import torch

from pyro_infomax.datasets._factors import to_random_state


def test_a_seed_starts_the_legacy_generator():
    assert to_random_state(3).randint(100, size=5).tolist() == (
        np.random.RandomState(3).randint(100, size=5).tolist()
    )


def test_the_largest_seed_is_taken():
    assert isinstance(to_random_state(2**32 - 1), np.random.RandomState)


def test_a_generator_is_taken_as_it_is():
    generator = to_random_state(0)
    assert to_random_state(generator) is generator


def test_none_follows_the_global_generator_of_torch():
    def draw(seed):
        torch.manual_seed(seed)
        return to_random_state(None).random_sample(4).tolist()

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_global_states_stay_as_they_were():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    to_random_state(5).random_sample(3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, "0"])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"Expected seed to be an integer from 0 to 2\*\*32 - 1"):
        to_random_state(seed)
