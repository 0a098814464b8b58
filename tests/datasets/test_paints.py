import numpy as np
import pytest
import torch

from pyro_infomax.datasets import Grey, GreyLevels, Hues, Noise, RandomColour, Sprites

N, SIZE = 500, 6


def brightness(paint, values=None, seed=0):
    values = np.zeros(N, dtype=np.int64) if values is None else np.asarray(values)
    return paint.brightness(values, size=SIZE, random_state=np.random.RandomState(seed))


def test_one_grey_is_the_same_for_all():
    assert brightness(Grey(0.25)).shape == (N, 1, 1, 1)
    assert np.unique(brightness(Grey(0.25))).tolist() == [0.25]


def test_grey_levels_are_those_named():
    levels = brightness(GreyLevels(0.0, 0.5, 1.0), values=[2, 0, 1])
    assert levels.ravel().tolist() == [1.0, 0.0, 0.5]
    assert GreyLevels(0.0, 0.5, 1.0).num_values == 3


def test_hues_go_around_the_wheel_from_red():
    hues = brightness(Hues(3), values=[0, 1, 2])
    assert hues.reshape(3, 3).tolist() == np.eye(3).tolist()
    assert Hues(np.int64(3)).num_values == 3
    assert len(np.unique(brightness(Hues(7), values=range(7)).reshape(7, 3), axis=0)) == 7


def test_a_random_colour_is_one_for_all_pixels_of_an_image():
    colours = brightness(RandomColour())
    assert colours.shape == (N, 3, 1, 1)
    assert 0.5 <= colours.min() < 0.51
    assert 0.99 < colours.max() <= 1
    # The standard error of the mean of uniform draws
    assert abs(colours.mean() - 0.75) < 5 * 0.5 / np.sqrt(12 * colours.size)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_drawn_for_every_pixel(channels):
    noise = brightness(Noise(0.2, 0.6, channels=channels))
    assert noise.shape == (N, channels, SIZE, SIZE)
    assert 0.2 <= noise.min() < noise.max() <= 0.6
    assert abs(noise.mean() - 0.4) < 5 * 0.4 / np.sqrt(12 * noise.size)
    assert len(np.unique(noise)) > 0.9 * noise.size


@pytest.mark.parametrize("paint", [RandomColour(), Noise()])
def test_what_is_drawn_follows_the_seed(paint):
    assert np.array_equal(brightness(paint), brightness(paint))
    assert not np.array_equal(brightness(paint), brightness(paint, seed=1))
    assert paint.draws
    assert paint.num_values == 0


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_levels_off_the_scale_are_refused(level):
    with pytest.raises(ValueError, match="Expected a grey level from 0"):
        Grey(level)
    with pytest.raises(ValueError, match="Expected a grey level from 0"):
        GreyLevels(0.5, level)


def test_a_level_must_be_a_number_and_come_once():
    with pytest.raises(ValueError, match=r"Expected a grey level .* but got \[0.0, 0.5\]"):
        GreyLevels([0.0, 0.5])
    with pytest.raises(ValueError, match="Expected grey levels without repetition"):
        GreyLevels(0.0, 0.5, 0.5)


def test_no_level_is_refused():
    with pytest.raises(ValueError, match="at least one grey level"):
        GreyLevels()


@pytest.mark.parametrize("number", [0, 2.0, True])
def test_other_numbers_of_hues_are_refused(number):
    with pytest.raises(ValueError, match="Expected the number of hues"):
        Hues(number)


@pytest.mark.parametrize("kind", [RandomColour, Noise])
@pytest.mark.parametrize("span", [(0.5, 0.5), (-0.1, 1), (0, 1.1), (0.6, 0.4)])
def test_spans_off_the_scale_are_refused(kind, span):
    with pytest.raises(ValueError, match="Expected 0 <= low < high <= 1"):
        kind(*span)


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="Expected 1 or 3 channels"):
        Noise(channels=2)


# ---- Painted sprites.


@pytest.fixture(scope="module")
def white():
    return Sprites(size=16)


def painted(**paints):
    return Sprites(size=16, **paints)


def test_each_paint_is_where_it_belongs(white):
    factors = white.sample_factors(20, seed=0)
    on = white.observations(factors).numpy() == 1
    assert white.observation_shape == (16, 16)
    assert not white.draws
    both = painted(sprite=Grey(0.8), background=Grey(0.1))
    assert both.factor_names == white.factor_names
    np.testing.assert_allclose(both.observations(factors), np.where(on, 0.8, 0.1), rtol=1e-6)


def test_values_of_a_paint_are_one_more_factor_and_each_goes_to_its_own_paint(white):
    data = painted(sprite=Hues(3), background=GreyLevels(0.0, 0.1, 0.5))
    assert data.factor_names[5:] == ("sprite", "background")
    assert data.factor_sizes == (3, 6, 40, 32, 32, 3, 3)
    assert data.observation_shape == (3, 16, 16)
    own = [[2, 5, 0, 7, 8], [0, 3, 9, 20, 11]]
    images = data.observations(np.concatenate([own, [[1, 2], [0, 1]]], axis=1))
    for image, on, colour, level in zip(
        images, white.observations(own) == 1, ([0, 1, 0], [1, 0, 0]), (0.5, 0.1), strict=True
    ):
        assert torch.equal(image[:, on], torch.tensor(colour).float()[:, None].expand(-1, int(on.sum())))
        assert torch.equal(image[:, ~on].unique(), torch.tensor([level], dtype=torch.float32))
    assert painted(sprite=Hues(3)).factor_names[5:] == ("sprite",)


def test_drawn_paint_changes_no_factor(white):
    data = painted(sprite=RandomColour(), background=Noise(0.0, 0.4))
    assert data.draws
    assert data.factor_names == white.factor_names
    images, factors = data.sample(20, seed=0)
    on = white.observations(factors)[:, None].bool().expand_as(images)
    assert images[on].min() >= 0.5
    assert images[~on].max() <= 0.4


def test_grey_noise_keeps_images_grey():
    data = painted(background=Noise(channels=1))
    images = data.observations([[0, 5, 0, 7, 8]] * 2, seed=0)
    assert images.shape == (2, 16, 16)
    assert not torch.equal(*images)


@pytest.mark.parametrize("paint", [0.5, "red", Noise])
def test_what_is_no_paint_is_refused(paint):
    with pytest.raises(ValueError, match="Expected background to be a paint"):
        painted(background=paint)
