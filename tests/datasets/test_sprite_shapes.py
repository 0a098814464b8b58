import numpy as np
import pytest
from matplotlib.path import Path

from pyro_infomax.datasets._sprites import SHAPES

HEART, SQUARE, ELLIPSE = (SHAPES[name] for name in ("heart", "square", "ellipse"))
STEP = 0.05
AXIS = np.arange(-16, 16, STEP) + STEP / 2
X, Y = np.meshgrid(AXIS, AXIS)


def heart_outline():
    """The curve as its definition has it, with the centre of mass of the polygon at the origin."""
    t = np.linspace(0, 2 * np.pi, 4001)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    cross = x[:-1] * y[1:] - x[1:] * y[:-1]
    centre = ((y[:-1] + y[1:]) * cross).sum() / (3 * cross.sum())
    return x, y - centre, abs(cross.sum()) / 2


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
class TestEveryShape:
    def test_its_area_is_what_it_says(self, shape):
        # A fine grid misses the area by a share of the outline, which is shorter than 100 pixels
        assert shape.contains(X, Y).sum() * STEP**2 == pytest.approx(shape.area, abs=100 * STEP / 10)

    def test_its_centre_of_mass_is_the_origin(self, shape):
        inside = shape.contains(X, Y)
        assert abs(X[inside].mean()) < 0.01
        assert abs(Y[inside].mean()) < 0.01

    def test_its_radius_holds_it_and_no_smaller_one_does(self, shape):
        angles = np.arange(3600) * np.pi / 1800
        at = [
            shape.contains(r * np.cos(angles), r * np.sin(angles))
            for r in np.array([0.999, 1.001]) * shape.radius
        ]
        assert at[0].any()
        assert not at[1].any()

    def test_left_and_right_mirror_each_other(self, shape):
        assert np.array_equal(shape.contains(X, Y), shape.contains(-X, Y))


def test_the_heart_is_the_polygon_of_its_curve():
    x, y, area = heart_outline()
    unit = np.sqrt(HEART.area / area)
    polygon = Path(np.stack([x, y], axis=1) * unit)
    points = np.random.default_rng(0).uniform(-16, 16, (2000, 2))
    differ = polygon.contains_points(points) != HEART.contains(*points.T)
    assert differ.sum() <= 1


def test_the_heart_stands_on_its_tip():
    inside = HEART.contains(X, Y)
    rows = inside.sum(axis=1)  # from the bottom
    occupied = np.flatnonzero(rows)
    assert rows[occupied[0]] * STEP < 1.5
    assert abs(Y[inside].min()) > Y[inside].max()


def test_the_ellipse_lies():
    inside = ELLIPSE.contains(X, Y)
    assert np.abs(X[inside]).max() > 1.5 * np.abs(Y[inside]).max()


def test_the_square_has_a_side_of_the_root_of_its_area():
    inside = SQUARE.contains(X, Y)
    assert np.ptp(X[inside]) == pytest.approx(SQUARE.area**0.5, abs=2 * STEP)
    assert np.ptp(Y[inside]) == pytest.approx(SQUARE.area**0.5, abs=2 * STEP)
