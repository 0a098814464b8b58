import pytest
import torch

from pyro_infomax.datasets import binarize


def test_a_pixel_is_one_above_the_threshold_only():
    assert binarize(torch.tensor([0.0, 0.3, 0.4, 1.0]), threshold=0.3).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept(dtype):
    result = binarize(torch.rand(5, 1, 8, 8, dtype=dtype))
    assert result.shape == (5, 1, 8, 8)
    assert result.dtype == dtype


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_thresholds_that_leave_one_value_only_are_refused(threshold):
    with pytest.raises(ValueError, match=r"Expected 0 <= threshold < 1 but got"):
        binarize(torch.rand(3, 3), threshold=threshold)
