import numpy as np
import pytest
import torch

from pyro_infomax.disentanglement import FactorSource
from pyro_infomax.disentanglement._interventions import Encoder, drawn, encoder_of


class Grid:
    """Observations that are the factors, on a shifted scale."""

    factor_sizes = (3, 4)

    def __init__(self):
        self.rendered = 0

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)

    def observations(self, factors):
        self.rendered += len(factors)
        return torch.as_tensor(factors, dtype=torch.float64) + 100


def shifted_back(observations):
    return (observations - 100).requires_grad_()


def rng():
    return np.random.RandomState(0)


def test_a_grid_is_a_source():
    assert isinstance(Grid(), FactorSource)
    assert not isinstance(np.zeros((3, 2)), FactorSource)


def test_every_row_gets_its_own_code():
    factors = Grid().sample_factors(50, seed=rng())
    assert np.array_equal(Encoder(shifted_back, Grid()).codes_of(factors, rng=rng()), factors)


def test_each_combination_is_encoded_once():
    grid = Grid()
    encoder = Encoder(shifted_back, grid)
    some = np.array([[0, 1], [2, 3], [0, 1]])
    assert np.array_equal(encoder.codes_of(some, rng=rng()), some)
    assert grid.rendered == 2
    more = grid.sample_factors(500, seed=rng())
    assert np.array_equal(encoder.codes_of(more, rng=rng()), more)
    assert grid.rendered == 12


class NoisyGrid(Grid):
    draws = True

    def observations(self, factors, *, seed):
        return super().observations(factors) + torch.as_tensor(seed.rand(*factors.shape))


def test_observations_that_are_drawn_are_encoded_each_time():
    one, other = (Encoder(shifted_back, NoisyGrid()).codes_of([[0, 1], [0, 1]], rng=rng()) for _ in range(2))
    assert (one[0] != one[1]).all()
    assert np.array_equal(np.floor(one), [[0, 1], [0, 1]])
    assert np.array_equal(one, other)


def test_drawn_takes_arrays_callables_and_encoders():
    arrays = np.zeros((3, 1)), np.ones((3, 1))
    assert drawn(*arrays, num_points=9, rng=rng()) == arrays
    for codes in (shifted_back, Encoder(shifted_back, Grid())):
        points, factors = drawn(codes, Grid(), num_points=9, rng=rng())
        assert np.array_equal(factors, Grid().sample_factors(9, seed=rng()))
        assert np.array_equal(points, factors)


def test_noise_is_that_of_the_seed_whatever_was_encoded_before():
    encoder = Encoder(shifted_back, NoisyGrid())
    one, other, third = (
        drawn(encoder, None, num_points=9, rng=np.random.RandomState(s))[0] for s in (0, 0, 1)
    )
    assert np.array_equal(one, other)
    assert not np.intersect1d(one % 1, third % 1).size


@pytest.mark.parametrize("num_points", [0, -1, 9.5])
def test_no_points_are_refused(num_points):
    with pytest.raises(ValueError, match=f"num_points to be an integer >= 1 but got {num_points}"):
        drawn(shifted_back, Grid(), num_points=num_points, rng=rng())


def test_an_encoder_is_kept():
    encoder = Encoder(shifted_back, Grid())
    assert encoder_of(encoder, Grid()) is encoder
    assert encoder_of(encoder, None) is encoder


def test_one_of_each_is_refused():
    with pytest.raises(ValueError, match=r"source of factors.*but got ndarray"):
        encoder_of(shifted_back, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"function of observations.*but got ndarray"):
        encoder_of(np.zeros((3, 2)), Grid())


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda x: x.mean(0, keepdim=True), "each of 1[02] observations but got 1"),
        (lambda x: x * float("nan"), "finite codes"),
        (lambda x: x[:, 0], r"codes of shape \(n, L\)"),
    ],
)
def test_a_wrong_encoder_is_refused(encode, message):
    with pytest.raises(ValueError, match=message):
        drawn(encode, Grid(), num_points=200, rng=rng())
