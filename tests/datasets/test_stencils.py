import numpy as np
import pytest

import pyro_infomax.datasets._sprites as stencils_file
from pyro_infomax.datasets._sprites import SHAPES, Canvas, GridValues, Poses, Stencils

VALUES = GridValues(
    scale=np.array([0.5, 0.9]),
    orientation=np.array([0.0, 1.0, 2.0]),
    x=np.linspace(0, 1, 5),
    y=np.linspace(0, 1, 4),
)
SIZES = (3, 2, 3, 5, 4)


def all_factors():
    return np.stack([axis.ravel() for axis in np.indices(SIZES)], axis=1)


def grid(size=32):
    canvas = Canvas(size, list(SHAPES.values()))
    return canvas, Stencils(canvas, num_shapes=3, values=VALUES)


def directly(canvas, factors):
    shape, scale, orientation, x, y = factors.T
    left, x_offset = canvas.stand(VALUES.x[x])
    top, y_offset = canvas.stand(VALUES.y[y])
    poses = Poses(shape, VALUES.scale[scale], VALUES.orientation[orientation], x_offset, y_offset)
    return canvas.place(canvas.draw(poses), left, top)


@pytest.mark.parametrize("size", [16, 33])
def test_images_are_those_drawn_one_by_one(size):
    canvas, stencils = grid(size)
    assert np.array_equal(stencils.images(all_factors()), directly(canvas, all_factors()))


def test_what_is_kept_is_what_was_drawn():
    canvas, stencils = grid()
    some = all_factors()[::7]
    stencils.images(some)
    for factors in (some[::-1], all_factors()):
        assert np.array_equal(stencils.images(factors), directly(canvas, factors))


def test_a_grid_too_large_to_keep_gives_the_same(monkeypatch):
    monkeypatch.setattr(stencils_file, "_LARGEST_STORE", 1000)
    canvas, stencils = grid()
    assert np.array_equal(stencils.images(all_factors()), directly(canvas, all_factors()))
