import pytest
import torch
from torch.utils.data import DataLoader

from pyro_infomax.datasets import Noise, Sprites


def noisy(seed):
    sprites = Sprites(scales=2, orientations=2, positions=3, size=12, background=Noise(channels=1))
    return sprites.as_dataset(20, seed=seed)


def test_a_datum_is_the_same_whenever_it_is_asked_for():
    data = noisy(0)
    together = data.__getitems__([3, 4, 3])
    assert torch.equal(together[0], data[3])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


def test_neighbouring_seeds_share_no_noise():
    first, second = noisy(0), noisy(1)
    off = (first[1] < 1) & (second[0] < 1)
    assert not bool((first[1] == second[0])[off].any())


def test_every_datum_has_noise_of_its_own_that_follows_the_seed():
    one = Sprites(scales=[1.0], orientations=1, positions=1, size=12, background=Noise(0.0, 0.9, channels=1))
    first, second = (torch.stack(list(one.as_dataset(9, seed=seed))) for seed in (0, 1))
    corner = torch.cat([first, second])[:, :2].flatten(1)
    assert len(corner.unique(dim=0)) == 18


def test_negative_places_count_from_the_end():
    assert torch.equal(noisy(0)[-1], noisy(0)[19])


def test_a_slice_is_no_place():
    with pytest.raises(TypeError, match="integer"):
        noisy(0)[1:3]


def test_a_place_beyond_the_end_ends_the_walk():
    assert len(list(noisy(0))) == 20


def test_a_loader_takes_it():
    (batch,) = DataLoader(noisy(0), batch_size=20)
    assert torch.equal(batch, torch.stack(list(noisy(0))))


def test_a_worker_of_a_loader_makes_the_same_data():
    batches = DataLoader(noisy(0), batch_size=10, num_workers=1)
    assert torch.equal(torch.cat(list(batches)), torch.stack(list(noisy(0))))
