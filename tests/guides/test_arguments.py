import pytest
import torch

from pyro_infomax.guides._amortized import data_size, first_rows, rows, split_count
from pyro_infomax.guides._prototype import DataPlate


def test_the_size_is_that_of_the_first_argument():
    assert data_size((torch.zeros(5, 2), torch.zeros(3))) == 5


@pytest.mark.parametrize("args", [(), (3,), (torch.tensor(1.0),)])
def test_the_data_come_first(args):
    with pytest.raises(ValueError, match="Expected the data as first positional argument, a tensor"):
        data_size(args)


def test_rows_are_taken_of_data_alone():
    x, options = torch.arange(5), {"a": 1}
    assert rows(x, 5, torch.tensor([3, 1])).tolist() == [3, 1]
    assert rows(x, 4, torch.tensor([3, 1])) is x
    assert rows(options, 5, torch.tensor([3])) is options


@pytest.mark.parametrize(("subsample_size", "count"), [(None, 5), (2, 2)])
def test_as_many_rows_as_the_plate_takes(subsample_size, count):
    found = list(first_rows((torch.zeros(5, 2), torch.zeros(5), 7), DataPlate("data", -1, subsample_size)))
    assert [len(found[0]), len(found[1]), found[2]] == [count, count, 7]


@pytest.mark.parametrize(
    ("args", "num_samples", "expected"),
    [
        (("x",), None, (("x",), 1)),
        (("x",), 4, (("x",), 4)),
        (("x", 4), None, (("x",), 4)),
        (("x", 3), 4, (("x", 3), 4)),
        (("x", True), None, (("x", True), 1)),
    ],
)
def test_the_count_may_come_last(args, num_samples, expected):
    assert split_count(args, num_samples) == expected


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match="Expected num_samples to be an integer >= 1 but got 0"):
        split_count(("x",), 0)
