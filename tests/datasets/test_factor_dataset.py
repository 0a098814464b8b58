import numpy as np
import pytest
import torch

from pyro_infomax.datasets import FactorDataset, Noise, Sprites


def small(**keywords):
    return Sprites(shapes=("square", "heart"), scales=2, orientations=3, positions=4, size=16, **keywords)


def test_it_cannot_be_made_itself():
    with pytest.raises(TypeError, match="abstract"):
        FactorDataset(("a",), None)


def test_sizes_names_and_length_agree():
    data = small()
    assert data.num_factors == len(data.factor_names) == len(data.factor_sizes) == 5
    assert len(data) == len(data.all_factors()) == 2 * 2 * 3 * 4 * 4


def test_a_sample_is_the_observations_of_its_factors():
    images, factors = small().sample(10, seed=3)
    assert np.array_equal(factors, small().sample_factors(10, seed=3))
    assert torch.equal(images, small().observations(factors))


def test_a_generator_moves_on():
    generator = np.random.RandomState(0)
    first, second = (small().sample_factors(20, seed=generator) for _ in range(2))
    assert not np.array_equal(first, second)


def test_observations_take_tensors():
    factors = small().sample_factors(6, seed=0)
    assert torch.equal(small().observations(torch.from_numpy(factors)), small().observations(factors))


def test_observations_are_float32_whatever_the_default():
    assert small().observations(small().all_factors()[:3]).dtype == torch.float32


def test_no_observation_of_no_factors():
    assert small().observations(np.zeros((0, 5), dtype=int)).shape == (0, 16, 16)


def test_all_images_come_in_the_order_of_all_factors():
    data = small()
    images, factors = data.images_and_factors()
    assert np.array_equal(factors, data.all_factors())
    chosen = [0, 17, 191]
    assert torch.equal(images[chosen], data.observations(factors[chosen]))


def test_more_images_than_a_chunk_are_all_there():
    data = small()
    images, factors = data.sample(1500, seed=0)
    assert torch.equal(images[1400:], data.observations(factors[1400:]))


def test_nothing_is_drawn_where_nothing_is_random():
    before = torch.get_rng_state()
    small().observations(small().all_factors()[:3])
    small().images_and_factors(seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dataset_is_rendered_batch_by_batch():
    data = small()
    lazy = data.as_dataset()
    images, _ = data.images_and_factors()
    assert len(lazy) == len(data)
    assert torch.equal(lazy[5], images[5])
    assert torch.equal(torch.stack(lazy.__getitems__([7, 0, 100])), images[[7, 0, 100]])


def test_a_dataset_of_draws_has_their_factors():
    lazy = small().as_dataset(30, seed=4)
    assert np.array_equal(lazy.factors, small().sample_factors(30, seed=4))
    assert torch.equal(lazy[29], small().observations(lazy.factors[29:])[0])


def test_each_once_is_refused_where_combinations_come_unequally_often():
    data = small(correlated={("position_x", "position_y"): 0.2})
    with pytest.raises(ValueError, match="Expected num_points"):
        data.as_dataset()
    assert len(data.as_dataset(12)) == 12


@pytest.mark.parametrize("seed", [None, np.random.RandomState(0), -1, 0.5])
def test_a_dataset_that_could_not_be_made_again_is_refused(seed):
    for num_points in (None, 5):
        with pytest.raises(ValueError, match="Expected seed to be an integer from 0"):
            small().as_dataset(num_points, seed=seed)


def test_images_are_on_the_cpu_whatever_the_default():
    with torch.device("meta"):
        assert small().sample(3, seed=0)[0].device.type == "cpu"
        assert small().images_and_factors()[0].device.type == "cpu"


def test_probabilities_belong_to_all_factors():
    data = small(correlated={("scale", "position_y"): 0.2}, where=lambda v: v[:, 0] == 1)
    assert len(data.probabilities()) == len(data) == 96
    assert data.probabilities().sum() == pytest.approx(1, abs=1e-12)
    assert np.array_equal(np.exp(data.log_prob(data.all_factors())), data.probabilities())


def test_what_never_comes_may_still_be_seen():
    left_out = [[0, 1, 1, 2, 3]]
    data = small(where=lambda v: v[:, 0] == 1)
    assert torch.equal(data.observations(left_out), small().observations(left_out))
    assert data.log_prob(left_out).tolist() == [-np.inf]


def test_nuisances_follow_the_seed():
    data = small(background=Noise())
    factors = data.all_factors()[:4]
    assert torch.equal(data.observations(factors, seed=1), data.observations(factors, seed=1))
    assert not torch.equal(data.observations(factors, seed=1), data.observations(factors, seed=2))
    first, second = (data.sample(5, seed=2)[0] for _ in range(2))
    assert torch.equal(first, second)


def noise_of(images):
    """Those pixels that are background in all images, (n, their number)."""
    return images[:, (images < 1).all(0)]


def test_nuisances_are_drawn_apart_from_the_factors_and_in_every_chunk_anew():
    data = small(background=Noise(0.0, 0.9, channels=1), where=lambda v: v[:, 1:].sum(1) == 0)
    images, factors = data.sample(1100, seed=2)
    noise = noise_of(images)
    assert noise.shape[1] > 50
    assert len(noise.unique(dim=0)) == 1100
    assert not torch.equal(noise[:9], noise_of(data.sample(1100, seed=3)[0])[:9])
    assert not torch.equal(images[:9], data.observations(factors, seed=2)[:9])


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_other_numbers_of_draws_are_refused(n):
    with pytest.raises(ValueError, match="Expected the number of draws to be an integer >= 1"):
        small().sample_factors(n)


# ---- Seeds.


def test_a_seed_starts_the_legacy_generator_and_leaves_global_states_alone():
    generator = np.random.RandomState(3)
    expected = np.stack([generator.randint(size, size=7) for size in small().factor_sizes], axis=1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert np.array_equal(small().sample_factors(7, seed=3), expected)
    assert len(small().sample_factors(7, seed=2**32 - 1)) == 7
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_no_seed_follows_the_global_generator_of_torch():
    def draw(seed):
        torch.manual_seed(seed)
        return small().sample_factors(20).tolist()

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, "0"])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"Expected seed to be an integer from 0 to 2\*\*32 - 1"):
        small().sample_factors(3, seed=seed)


# ---- Factors that are asked for.


@pytest.mark.parametrize("kind", [list, lambda rows: np.array(rows, dtype=np.uint8)])
def test_integers_of_any_kind_will_do(kind):
    rows = [[1, 1, 2, 3, 3], [0, 0, 0, 1, 0]]
    assert torch.equal(small().observations(kind(rows)), small().observations(torch.tensor(rows)))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([0, 1, 0, 0, 0], r"shape \(n, 5\), a column for each of shape, scale, .*, but got shape \(5,\)"),
        ([[0, 1]], r"but got shape \(1, 2\)"),
        ([[0.0] * 5], "Expected integer factors"),
        ([[True] * 5], "Expected integer factors"),
        ([[0] * 5, [0, 2, 0, 0, 0]], "factor scale in 0, ..., 1 but got 2 in row 1"),
        ([[0] * 5, [0, 0, 0, 0, -1]], "factor position_y in 0, ..., 3 but got -1 in row 1"),
    ],
)
def test_factors_off_the_grid_are_refused(factors, message):
    for function in (small().observations, small().log_prob):
        with pytest.raises(ValueError, match=message):
            function(factors)
