"""Data as tuples of tensors."""

import pytest
import torch

from pyro_infomax._data import as_data, count_nan, rows_of


def test_a_tensor_is_a_tuple_of_one():
    x = torch.zeros(3, 2)
    (only,) = as_data(x)
    assert only is x


@pytest.mark.parametrize("kind", [tuple, list])
def test_several_tensors(kind):
    x, y = torch.zeros(3, 2), torch.zeros(3)
    assert as_data(kind([x, y])) == (x, y)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((), r"tuple of tensors, whose first axis is the data but got \[\]"),
        (None, r"but got \['NoneType'\]"),
        ([1, 2], r"but got \['int', 'int'\]"),
        ((torch.zeros(3), "y"), r"but got \['Tensor', 'str'\]"),
        (torch.tensor(1.0), r"first axis"),
        (torch.zeros(0, 3), r"at least 1, but got the lengths \[0\]"),
        ((torch.zeros(3), torch.zeros(2)), r"one number of data.*\[3, 2\]"),
    ],
)
def test_what_is_no_data(data, message):
    with pytest.raises(ValueError, match=message):
        as_data(data)


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([1, 2])])
def test_rows_of_every_tensor(rows):
    x, y = rows_of((torch.arange(4), torch.arange(8).reshape(4, 2)), rows)
    assert x.tolist() == [1, 2]
    assert y.tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize("rows", [[0], [300_000], [7, 300_000], []])
def test_nan_is_counted_over_chunks(rows):
    x = torch.zeros(300_001, 4, dtype=torch.float32)
    x[rows, 1] = torch.nan
    assert count_nan(x) == (len(rows), rows[0] if rows else -1)


def test_integers_have_no_nan():
    assert count_nan(torch.ones(3, dtype=torch.int64)) == (0, -1)
