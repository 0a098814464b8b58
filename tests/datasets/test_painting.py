import numpy as np
import pytest

from pyro_infomax.datasets import Grey, GreyLevels, Hues, Noise
from pyro_infomax.datasets._factors import to_random_state
from pyro_infomax.datasets._paints import Painting

IMAGES = np.zeros((2, 4, 4), dtype=np.float32)
IMAGES[:, 1, 2] = 1
NONE = np.zeros((2, 0), dtype=np.int64)


def painted(factors=NONE, **paints):
    painting = Painting(size=4, **{"sprite": None, "background": None} | paints)
    return painting, painting.paint(IMAGES, np.asarray(factors), to_random_state(0))


def test_without_paint_it_is_white_on_black():
    painting, images = painted()
    assert np.array_equal(images, IMAGES)
    assert painting.shape == (4, 4)
    assert not painting.draws


def test_each_paint_is_where_it_belongs():
    _, images = painted(sprite=Grey(0.8), background=Grey(0.1))
    assert np.allclose(images, np.where(IMAGES == 1, 0.8, 0.1))


def test_each_factor_goes_to_its_own_paint():
    painting, images = painted([[0, 1], [1, 0]], sprite=Hues(3), background=GreyLevels(0.0, 0.5))
    assert painting.factor_sizes == {"sprite": 3, "background": 2}
    assert images.shape == (2, *painting.shape) == (2, 3, 4, 4)
    assert images[:, :, 1, 2].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert images[:, :, 0, 0].tolist() == [[0.5] * 3, [0] * 3]


def test_grey_noise_keeps_images_grey():
    painting, images = painted(background=Noise(channels=1))
    assert painting.draws
    assert images.shape == (2, 4, 4)
    assert (images[:, 1, 2] == 1).all()
    assert images[0].tolist() != images[1].tolist()


@pytest.mark.parametrize("paint", [0.5, "red", Noise])
def test_what_is_no_paint_is_refused(paint):
    with pytest.raises(ValueError, match="Expected background to be a paint"):
        painted(background=paint)


def test_the_factors_must_be_those_of_the_paints():
    with pytest.raises(ValueError, match="shorter"):
        painted(NONE, sprite=Hues(3))
