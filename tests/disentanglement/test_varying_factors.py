import numpy as np
import pytest

from pyro_infomax.disentanglement import FactorSource, beta_vae_score, factor_vae_score, score
from pyro_infomax.disentanglement._interventions import Encoder, VaryingFactors


class Grid:
    def __init__(self, *sizes):
        self.factor_sizes = sizes

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)

    def observations(self, factors):
        assert np.shape(factors)[1] == len(self.factor_sizes)
        return np.asarray(factors, dtype=float)


def test_constant_factors_are_left_out_and_put_back():
    source = VaryingFactors(Grid(3, 1, 4))
    assert isinstance(source, FactorSource)
    assert source.factor_sizes == (3, 4)
    factors = source.sample_factors(20, seed=np.random.RandomState(0))
    assert (factors.max(0) == (2, 3)).all()
    assert np.array_equal(source.observations(factors), np.insert(factors, 1, 0, axis=1))


def test_nuisances_stay_drawn():
    grid = Grid(3, 1)
    grid.draws = True
    assert VaryingFactors(grid).draws


def test_an_encoder_leaves_a_source_without_them_as_it_is():
    grid = Grid(3, 4)
    assert Encoder(np.asarray, grid).source is grid


def test_a_source_with_a_constant_factor_is_scored():
    which = ["mig", "factor_vae_score", "dci"]
    table = score(
        lambda x: 2 * x[:, [0, 2]],
        Grid(3, 1, 4),
        which=which,
        num_points=600,
        calibration=None,
        progress=False,
    )
    assert table["mig"].parts["mutual_information"].shape == (2, 2)
    assert [each.score for each in table.values()] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("function", [beta_vae_score, factor_vae_score])
def test_the_reference_draws_from_such_a_source(function):
    result = function(np.asarray, Grid(3, 1, 4), reference=True, calibration=None, progress=False)
    assert result.score == 1


def test_a_source_where_nothing_varies_is_refused():
    with pytest.raises(ValueError, match=r"sizes \(1, 1\)"):
        score(np.asarray, Grid(1, 1))
