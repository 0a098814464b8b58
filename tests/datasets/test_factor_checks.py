import numpy as np
import pytest
import torch

from pyro_infomax.datasets._factors import to_factors

NAMES, SIZES = ("shape", "scale"), (3, 6)


@pytest.mark.parametrize(
    "factors",
    [[[2, 5], [0, 1]], np.array([[2, 5], [0, 1]], dtype=np.uint8), torch.tensor([[2, 5], [0, 1]])],
)
def test_integers_of_any_kind_become_int64(factors):
    checked = to_factors(factors, names=NAMES, sizes=SIZES)
    assert checked.dtype == np.int64
    assert checked.tolist() == [[2, 5], [0, 1]]


@pytest.mark.parametrize("factors", [[0, 1], [[0, 1, 2]], [[[0, 1]]]])
def test_other_shapes_are_refused(factors):
    with pytest.raises(ValueError, match=r"shape \(n, 2\), a column for each of shape, scale, but got shape"):
        to_factors(factors, names=NAMES, sizes=SIZES)


@pytest.mark.parametrize("factors", [[[0.0, 1.0]], [[True, False]]])
def test_other_numbers_are_refused(factors):
    with pytest.raises(ValueError, match="Expected integer factors"):
        to_factors(factors, names=NAMES, sizes=SIZES)


@pytest.mark.parametrize(("value", "row"), [(6, [[0, 0], [0, 6]]), (-1, [[0, 0], [0, -1]])])
def test_values_off_the_grid_are_named(value, row):
    with pytest.raises(ValueError, match=rf"factor scale in 0, ..., 5 but got {value} in row 1"):
        to_factors(row, names=NAMES, sizes=SIZES)
