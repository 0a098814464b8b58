import numpy as np
import pytest

from pyro_infomax.datasets._stored import channels_first


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 8, 6, 3), (2, 3, 8, 6)),
        ((2, 8, 6, 1), (2, 1, 8, 6)),
        ((2, 3, 8, 6), (2, 3, 8, 6)),
        ((2, 8, 6), (2, 8, 6)),
        ((2, 3, 8, 3), (2, 3, 8, 3)),
    ],
)
def test_channels_come_first(shape, expected):
    assert channels_first(np.zeros(shape)).shape == expected


def test_pixels_go_along():
    images = np.arange(2 * 6 * 5 * 3).reshape(2, 6, 5, 3)
    assert channels_first(images)[1, 2, 3, 4] == images[1, 3, 4, 2]
