"""The three figures, large: 16 pixels of the image to a pixel of the official size."""

import numpy as np
import pytest
from matplotlib.path import Path

from pyro_infomax.datasets import Sprites

SIZE = 1024
STEP = 64 / SIZE
AXIS = (np.arange(SIZE) + 0.5) * STEP - 32
X, Y = np.meshgrid(AXIS, -AXIS)  # y upwards
NAMES = ("square", "ellipse", "heart")
UNIT = 15.4 / (17 + 5 / 6)  # of the heart's curve, whose tip is the point the furthest from its centre
AREAS = {"square": 21.4**2, "ellipse": np.pi * 15.1 * 8.2, "heart": 180 * np.pi * UNIT**2}
RADII = {"square": 10.7 * 2**0.5, "ellipse": 15.1, "heart": 15.4}


@pytest.fixture(scope="module")
def figures():
    sprites = Sprites(scales=1, orientations=1, positions=1, size=SIZE)
    return dict(zip(NAMES, sprites.render(NAMES, 1.0, 0.0, 0.5, 0.5).numpy() == 1, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_area_centre_radius_and_symmetry(figures, name):
    inside = figures[name]
    # A fine grid misses half a step along the outline, which is shorter than 100 pixels, at most
    assert inside.sum() * STEP**2 == pytest.approx(AREAS[name], abs=100 * STEP / 2)
    assert abs(X[inside].mean()) < 0.01
    assert abs(Y[inside].mean()) < 0.01
    reach = np.hypot(X, Y)[inside].max()
    assert RADII[name] - 0.3 < reach <= RADII[name]  # the heart's tip is narrower than a step
    assert np.array_equal(inside, inside[:, ::-1])


def test_the_heart_is_the_polygon_of_its_curve_and_stands_on_its_tip(figures):
    t = np.linspace(0, 2 * np.pi, 4001)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    cross = x[:-1] * y[1:] - x[1:] * y[:-1]
    centre = ((y[:-1] + y[1:]) * cross).sum() / (3 * cross.sum())
    polygon = Path(np.stack([x, y - centre], axis=1) * np.sqrt(2 * AREAS["heart"] / abs(cross.sum())))
    some = np.random.default_rng(0).integers(0, SIZE, (2, 4000))
    inside = polygon.contains_points(np.stack([X[*some], Y[*some]], axis=1))
    assert (inside != figures["heart"][*some]).sum() <= 1
    assert inside.sum() > 300


def test_the_square_is_a_square_and_the_ellipse_lies(figures):
    inside = figures["square"]
    assert np.ptp(X[inside]) == pytest.approx(21.4, abs=2 * STEP)
    assert np.ptp(Y[inside]) == pytest.approx(21.4, abs=2 * STEP)
    inside = figures["ellipse"]
    assert np.ptp(X[inside]) == pytest.approx(2 * 15.1, abs=2 * STEP)
    assert np.ptp(Y[inside]) == pytest.approx(2 * 8.2, abs=2 * STEP)


@pytest.mark.parametrize("size", [8, 11, 27, 64, 100])
@pytest.mark.parametrize("pose", [(1.0, 0.0, 0.0, 1.0), (1.0, 0.5, 1.0, 0.0), (0.8, 0.4, 0.3, 0.9)])
def test_a_pixel_is_on_where_its_centre_is_in_the_figure(size, pose):
    scale, angle, x, y = pose
    unit = size / 64
    across = (np.arange(size) + 0.5 - unit * (16.5 + 31 * x)) / (unit * scale)
    down = (np.arange(size) + 0.5 - unit * (16.5 + 31 * y)) / (unit * scale)
    right, up = np.meshgrid(across, -down)
    turned = np.cos(angle) * right + np.sin(angle) * up, np.cos(angle) * up - np.sin(angle) * right
    ellipse = (turned[0] / 15.1) ** 2 + (turned[1] / 8.2) ** 2 <= 1
    square = np.maximum(*np.abs(turned)) <= 10.7
    images = Sprites(scales=[1.0], size=size).render(("ellipse", "square"), *pose)
    assert np.array_equal(images.numpy(), [ellipse, square])


def test_many_at_once_are_all_drawn():
    images = Sprites(size=16).render(["heart"] * 1100, 1.0, 0.0, 0.5, 0.5)
    assert (images == images[0]).all()
    assert images[0].any()


@pytest.mark.parametrize(
    "options",
    [{"size": 16}, {"size": 33}, {"size": 64, "orientations": 5000, "scales": 25}],
    ids=["kept", "off the middle of pixels", "too many to keep"],
)
def test_the_images_of_a_grid_are_those_drawn_one_by_one(options):
    grid = Sprites(
        **{"scales": [0.5, 0.9], "orientations": [0.0, 1.0, 2.0], "positions_x": 5, "positions_y": 4}
        | options
    )
    factors = grid.all_factors() if len(grid) < 1000 else grid.sample_factors(300, seed=0)
    columns = [
        np.array(grid.factor_values[name])[k] for name, k in zip(grid.factor_names, factors.T, strict=True)
    ]
    directly = grid.render(columns[0].tolist(), *columns[1:])
    # What was drawn already, and what was not
    for rows in (slice(None, None, 7), slice(None, None, -1)):
        assert np.array_equal(grid.observations(factors[rows]), directly.numpy()[rows])
