import numpy as np
import pytest

from pyro_infomax._checks import whole_number


@pytest.mark.parametrize("value", [1, 7, np.int32(3), np.uint64(3)])
def test_integers_of_all_kinds_become_int(value):
    found = whole_number("n", value, at_least=1)
    assert type(found) is int
    assert found == value


def test_the_bound_is_optional():
    assert whole_number("n", -5) == -5


@pytest.mark.parametrize("value", [0, -1, True, np.bool_(True), 1.0, "3", None, [1]])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="Expected n to be an integer >= 1 but got"):
        whole_number("n", value, at_least=1)
