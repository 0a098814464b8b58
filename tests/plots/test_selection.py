import pytest
import torch

from pyro_infomax.plots import most_informative
from pyro_infomax.plots._latent import checked_dimensions


def test_best_first():
    assert most_informative([0.5, -0.1, 3.0, 2.0], count=3) == (2, 3, 0)


def test_two_by_default():
    assert most_informative(torch.tensor([0.5, 3.0, 2.0])) == (1, 2)


def test_ties_keep_their_order():
    assert most_informative([1, 2, 2, 1], count=4) == (1, 2, 0, 3)


def test_fewer_dimensions_than_asked_are_all_of_them():
    assert most_informative([1.0], count=2) == (0,)


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match="Expected count >= 1 but got 0"):
        most_informative([1.0], count=0)


def test_a_single_dimension_leaves_no_choice():
    assert checked_dimensions((0, 1), count=1) == [0]


@pytest.mark.parametrize("dimensions", [(0, 3), (-1, 0), (), (0, 1, 2)])
def test_dimensions_that_are_not_there_are_refused(dimensions):
    with pytest.raises(ValueError, match="Expected one or two dimensions from 0 to 2 but got"):
        checked_dimensions(dimensions, count=3)
