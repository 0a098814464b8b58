import numpy as np
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
