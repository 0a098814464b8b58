import numpy as np

from pyro_infomax.disentanglement._sample import to_sample
from pyro_infomax.disentanglement._score import dead_notes, seed_of


def test_seeds_of_learners_differ_and_follow_the_generator():
    one, other = np.random.RandomState(0), np.random.RandomState(0)
    seeds = [seed_of(one) for _ in range(3)]
    assert len(set(seeds)) == 3
    assert seeds == [seed_of(other) for _ in range(3)]


def test_dead_codes_are_named():
    moving = np.arange(12.0)
    factors = np.arange(12)[:, None] % 3
    assert dead_notes(to_sample(moving[:, None], factors)) == ()
    codes = np.stack([moving, np.ones(12), np.zeros(12)], axis=1)
    assert dead_notes(to_sample(codes, factors)) == ("Codes 1, 2 are constant.",)
