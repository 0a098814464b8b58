import io
from collections import Counter, OrderedDict, namedtuple

import numpy as np
import pytest
import torch

from pyro_infomax.training._checkpoint import plain_values

Pair = namedtuple("Pair", "a b")


def written_and_read(state):
    file = io.BytesIO()
    torch.save(plain_values(state, of="a test"), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Mine(dict):
    pass


@pytest.mark.parametrize(
    ("state", "read"),
    [
        ({"a": [1, 2.5, "x", None, True], 0: (b"y",)}, {"a": [1, 2.5, "x", None, True], 0: (b"y",)}),
        ({"best": np.float64(0.1), "n": np.int64(3)}, {"best": 0.1, "n": 3}),
        (OrderedDict(b=1, a=2), OrderedDict(b=1, a=2)),
        ({"milestones": Counter([3, 3, 5])}, {"milestones": Counter([3, 3, 5])}),
        (Mine(a=1), {"a": 1}),
        ({np.int64(3): {np.str_("x"): 1}, (1, np.float64(0.5)): 2}, {3: {"x": 1}, (1, 0.5): 2}),
        (Pair(1, 2), (1, 2)),
        ({"size": torch.Size([2, 3])}, {"size": (2, 3)}),
        ({"dtype": torch.float32, "seen": {1, 2}}, {"dtype": torch.float32, "seen": {1, 2}}),
        (float("inf"), float("inf")),
    ],
)
def test_what_is_read_is_what_was_written(state, read):
    found = written_and_read(state)
    assert found == read
    assert type(found) is type(read)


def test_tensors_come_without_graph_and_without_the_rest_of_their_storage():
    whole = torch.randn(1000, requires_grad=True)
    found = plain_values({"view": whole[:2] * 1.0, "slice": whole[3:5], "all": whole}, of="a test")
    assert not any(tensor.requires_grad for tensor in found.values())
    assert found["slice"].untyped_storage().nbytes() == 2 * whole.element_size()
    assert torch.equal(found["slice"], whole[3:5])
    assert found["all"].data_ptr() == whole.data_ptr()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [0, len]}, "of a callback to consist .* got a builtin_function_or_method at 'a.1'"),
        (object(), "got a object at 'its root'"),
        ({"x": np.zeros(2)}, "got a ndarray at 'x'"),
        ({"x": {len: 1}}, "got a builtin_function_or_method at 'x.<built-in function len>'"),
    ],
)
def test_what_cannot_be_held_is_named(state, message):
    with pytest.raises(ValueError, match=message):
        plain_values(state, of="a callback")
