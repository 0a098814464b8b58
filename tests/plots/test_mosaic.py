import numpy as np
import pytest

from pyro_infomax.plots._axes import as_images, centres, scale, tile


def test_tiles_lie_in_rows_and_columns_with_gutters_between():
    images = np.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    picture = tile(images, fill=-1)
    assert picture.shape == (5, 8)
    for i, j in np.ndindex(2, 3):
        assert np.array_equal(picture[3 * i : 3 * i + 2, 3 * j : 3 * j + 2], images[i, j])


def test_gutters_are_filled():
    picture = tile(np.zeros((2, 3, 2, 2)), fill=7)
    assert np.all(picture[2] == 7)
    assert np.all(picture[:, [2, 5]] == 7)
    assert (picture == 7).sum() == 8 + 2 * 5 - 2


@pytest.mark.parametrize(("size", "gutter"), [(8, 1), (16, 1), (28, 2), (64, 4)])
def test_gutters_grow_with_the_images(size, gutter):
    assert tile(np.zeros((1, 2, size, size)), fill=1).shape == (size, 2 * size + gutter)


def test_colour_comes_last():
    images = np.random.default_rng(0).random((4, 3, 5, 6))
    assert np.array_equal(as_images(images, name="images", axes=1), images.transpose(0, 2, 3, 1))


def test_a_single_channel_is_dropped():
    images = np.random.default_rng(0).random((4, 1, 5, 6))
    assert np.array_equal(as_images(images, name="images", axes=1), images[:, 0])


def test_other_channels_stand_side_by_side():
    images = np.random.default_rng(0).random((2, 4, 2, 5, 6))
    drawn = as_images(images, name="images", axes=2)
    assert drawn.shape == (2, 4, 5, 12)
    assert np.array_equal(drawn[..., :6], images[:, :, 0])
    assert np.array_equal(drawn[..., 6:], images[:, :, 1])


@pytest.mark.parametrize(
    ("values", "limits"),
    [([0.2, 0.7], (0, 1)), ([-2, 0.5], (-2, 1)), ([0, 255], (0, 255)), ([-1, 3], (-1, 3))],
)
def test_scale_is_the_unit_interval_widened(values, limits):
    assert scale(np.array(values, dtype=float)) == limits


def test_centres_are_the_middles_of_the_tiles():
    images = np.zeros((2, 3, 5, 7))
    assert centres(images, axis=0).tolist() == [2, 8]
    assert centres(images, axis=1).tolist() == [3, 11, 19]
