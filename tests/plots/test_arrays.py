import numpy as np
import pytest
import torch

from pyro_infomax.plots._axes import as_array, as_floats, check_lengths


def test_labels_keep_their_kind():
    assert as_array(torch.tensor([3, 1])).dtype == np.int64
    assert as_array(["a", "b"]).tolist() == ["a", "b"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.bool])
def test_tensors_of_every_kind_become_float64(dtype):
    array = as_floats(torch.tensor([0, 1], dtype=dtype), name="z")
    assert array.dtype == np.float64
    assert array.tolist() == [0, 1]


def test_gradients_are_left_behind():
    assert as_floats(torch.ones(2, requires_grad=True), name="z").tolist() == [1, 1]


def test_what_comes_in_is_not_changed():
    images = np.full((2, 2), 3.0)
    as_floats(images, name="z")[:] = 0
    assert np.all(images == 3)


def test_vectors_of_one_length_pass():
    check_lengths("pair", rate=np.ones(3), beta=np.zeros(3))


def test_vectors_of_other_lengths_are_all_named():
    with pytest.raises(ValueError, match="one number per pair in each array but got the lengths a 3, b 2"):
        check_lengths("pair", a=np.ones(3), b=np.ones(2))
