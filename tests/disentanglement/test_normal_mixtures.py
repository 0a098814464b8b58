import numpy as np
import pytest

from pyro_infomax.disentanglement._chen_mig import NormalMixtures

SIZE = 600


def naive(loc, scale, draws, owner, labels):
    logs = np.empty((len(draws), labels.shape[1]))
    for m, t in np.ndindex(logs.shape):
        group = labels[:, t] == labels[owner[m], t]
        terms = -0.5 * ((draws[m] - loc[group]) / scale[group]) ** 2 - np.log(scale[group])
        logs[m, t] = np.logaddexp.reduce(terms) - np.log(group.sum()) - 0.5 * np.log(2 * np.pi)
    return logs


def drawn(loc, scale, *, seed=1):
    rng = np.random.RandomState(seed)
    owner = rng.permutation(len(loc))[:200]
    return loc[owner] + scale[owner] * rng.standard_normal(len(owner)), owner


def labellings(size):
    rng = np.random.RandomState(2)
    return np.stack([np.zeros(size, int), rng.randint(3, size=size), rng.randint(40, size=size)], axis=1)


def both(loc, scale):
    draws, owner = drawn(loc, scale)
    labels = labellings(len(loc))
    found = NormalMixtures(loc, scale, draws, owner).log_densities(labels)
    return found, naive(loc, scale, draws, owner, labels)


NORMAL = np.random.RandomState(0).standard_normal(SIZE)
CASES = {
    **{f"scale {s:g}": (NORMAL, np.full(SIZE, s)) for s in (1e-8, 1e-3, 0.02, 0.1, 0.5, 3.0)},
    "scales apart": (NORMAL, np.exp(2 * np.random.RandomState(3).standard_normal(SIZE) - 3)),
    "clusters": (np.arange(SIZE) % 4 * 100.0, np.full(SIZE, 0.3)),
    "clusters of two scales": (np.arange(SIZE) % 4 * 1.0, np.where(np.arange(SIZE) % 8 < 4, 1e-3, 2.0)),
    "far from zero": (NORMAL + 1e6, np.full(SIZE, 0.2)),
    "collapsed": (np.zeros(SIZE), np.ones(SIZE)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_mean_log_density_is_that_of_the_loops(case):
    found, expected = both(*CASES[case])
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_every_log_density_is_close_to_that_of_the_loops(case):
    found, expected = both(*CASES[case])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_a_group_of_one_has_the_density_of_its_component():
    loc, scale = np.array([0.0, 1.0, 1e9]), np.array([1.0, 2.0, 1e-3])
    logs = NormalMixtures(loc, scale, loc, np.arange(3)).log_densities(np.arange(3)[:, None])
    np.testing.assert_allclose(logs[:, 0], -np.log(scale * np.sqrt(2 * np.pi)))


def test_a_scale_that_is_lost_beside_its_mean_still_has_its_own_component():
    loc, scale = np.array([1.0, 2.0, 2.0]), np.full(3, 1e-30)
    logs = NormalMixtures(loc, scale, loc, np.arange(3)).log_densities(np.zeros((3, 1), int))
    own = -np.log(1e-30 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(logs[:, 0], [own - np.log(3), own + np.log(2 / 3), own + np.log(2 / 3)])


def test_blocks_of_components_change_nothing(monkeypatch):
    loc, scale = CASES["scale 0.1"]
    draws, owner = drawn(loc, scale)
    mixtures = NormalMixtures(loc, scale, draws, owner)
    whole = mixtures.log_densities(labellings(SIZE))
    monkeypatch.setattr("pyro_infomax.disentanglement._chen_mig._BLOCK", 1000)
    np.testing.assert_allclose(mixtures.log_densities(labellings(SIZE)), whole, rtol=1e-12)


def test_a_grid_in_several_stretches_reaches_every_draw():
    loc, scale = np.repeat([0.0, 100.0, 300.0], 1000), np.full(3000, 0.3)
    loc = loc + 0.1 * np.random.RandomState(4).standard_normal(3000)
    owner = np.random.RandomState(5).permutation(3000)
    draws, labels = loc[owner] + 0.3 * np.random.RandomState(6).standard_normal(3000), labellings(3000)
    found = NormalMixtures(loc, scale, draws, owner).log_densities(labels)[:60]
    expected = naive(loc, scale, draws[:60], owner[:60], labels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
