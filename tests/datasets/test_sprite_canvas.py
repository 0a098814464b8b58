import numpy as np
import pytest

from pyro_infomax.datasets._sprites import SHAPES, Canvas, Poses


def canvas(size=64):
    return Canvas(size, list(SHAPES.values()))


def poses(shape=2, scale=1.0, orientation=0.0, x=0.5, y=0.5):
    return Poses(*(np.atleast_1d(np.asarray(value)) for value in (shape, scale, orientation, x, y)))


def test_official_positions_are_a_pixel_apart():
    first, offset = canvas().stand(np.linspace(0, 1, 32))
    assert np.diff(first).tolist() == [1] * 31
    assert np.unique(offset).tolist() == [0.5]


@pytest.mark.parametrize("size", [8, 9, 11, 13, 16, 27, 32, 64, 100])
def test_the_window_lies_in_the_image_and_holds_every_figure(size):
    one = canvas(size)
    first, offset = one.stand(np.linspace(0, 1, 101))
    assert first.min() >= 0
    assert first.max() + one.window <= size
    unit = size / 64
    for shape in SHAPES.values():
        reach = shape.radius * unit
        centre = first + (one.window - 1) / 2 + offset
        # The outermost pixels whose centres may be in the figure
        assert (np.ceil(centre - reach - 0.5) >= first).all()
        assert (np.floor(centre + reach - 0.5) < first + one.window).all()


def test_a_pixel_is_on_where_its_centre_is_in_the_figure():
    one = canvas()
    half = (one.window - 1) // 2
    (window,) = one.draw(poses(shape=1, scale=0.8, orientation=0.4, x=0.3, y=0.9))
    for row in range(one.window):
        for column in range(one.window):
            x, y = column - half + 0.5 - 0.3, 0.9 - (row - half + 0.5)
            turned = np.cos(0.4) * x + np.sin(0.4) * y, np.cos(0.4) * y - np.sin(0.4) * x
            inside = SHAPES["ellipse"].contains(turned[0] / 0.8, turned[1] / 0.8)
            assert window[row, column] == inside


def test_more_windows_than_a_chunk_are_all_drawn():
    many = poses(*(np.full(1100, value) for value in (2, 1.0, 0.0, 0.5, 0.5)))
    windows = canvas().draw(many)
    assert (windows == windows[0]).all()
    assert windows[0].any()


def test_windows_are_put_where_they_belong():
    one = canvas(16)
    window = np.arange(one.window**2, dtype=np.uint8).reshape(1, one.window, one.window)
    (image,) = one.place(window, np.array([3]), np.array([5]))
    assert image[5 : 5 + one.window, 3 : 3 + one.window].tolist() == window[0].tolist()
    assert image.sum() == window.sum()
