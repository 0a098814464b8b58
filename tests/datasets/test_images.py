import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch

from pyro_infomax.datasets import LabelledImages, binarize, load_digits


def test_unpacks_into_images_and_labels():
    data = LabelledImages(images=torch.zeros(4, 8, 8), labels=torch.arange(4))
    images, labels = data
    assert images is data.images
    assert labels is data.labels


def test_labels_are_optional():
    assert LabelledImages(images=torch.zeros(4, 8, 8)).labels is None


def test_cannot_be_changed():
    data = LabelledImages(images=torch.zeros(4, 8, 8))
    with pytest.raises(AttributeError):
        data.images = torch.ones(4, 8, 8)


# ---- Digits.


def test_images_are_the_originals_over_sixteen():
    images = load_digits().images
    assert images.dtype == torch.float32
    assert images.shape == (1797, 8, 8)
    assert np.array_equal(images.numpy() * 16, sklearn.datasets.load_digits().images)


def test_labels_are_the_originals():
    labels = load_digits().labels
    assert labels.dtype == torch.int64
    assert np.array_equal(labels.numpy(), sklearn.datasets.load_digits().target)


def test_global_state_of_torch_is_left_alone():
    before = torch.random.get_rng_state()
    load_digits()
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_default_dtype() == torch.float64


# ---- Binary images.


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


@pytest.mark.parametrize("threshold", [None, "0.5", True, np.array([0.1, 0.2])])
def test_thresholds_are_numbers(threshold):
    with pytest.raises(ValueError, match=r"Expected 0 <= threshold < 1 but got"):
        binarize(torch.rand(3, 3), threshold=threshold)


@pytest.mark.parametrize(
    "images",
    [
        torch.tensor([0, 200], dtype=torch.uint8),
        torch.tensor([0.2, np.nan]),
        torch.tensor([0.2, 1.5]),
        torch.tensor([-0.1, 0.5]),
        np.array([3, 16]),
    ],
)
def test_pixels_off_the_scale_are_neither_black_nor_white(images):
    with pytest.raises(ValueError, match=r"Expected images in \[0, 1\] but got values from"):
        binarize(images)


@pytest.mark.parametrize("images", ["images", None, [[1j]], torch.tensor([1j]), [["a"]]])
def test_what_holds_no_real_numbers_is_refused(images):
    with pytest.raises(ValueError, match="of real numbers but got"):
        binarize(images)


def test_arrays_frames_and_lists_become_tensors():
    pixels = [[0.2, 0.7], [1.0, 0.0]]
    for images in (np.array(pixels), pd.DataFrame(pixels), pixels):
        assert binarize(images).tolist() == [[0, 1], [1, 0]]
    assert binarize(torch.tensor([True, False])).tolist() == [True, False]
    assert binarize(torch.tensor([1, 0], dtype=torch.uint8)).tolist() == [1, 0]
    assert binarize(torch.zeros(0, 8)).shape == (0, 8)
