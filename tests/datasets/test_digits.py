import numpy as np
import sklearn.datasets
import torch

from pyro_infomax.datasets import load_digits


def test_images_are_the_originals_over_sixteen():
    images = load_digits().images
    assert images.dtype == torch.float32
    assert images.shape == (1797, 8, 8)
    assert np.array_equal(images.numpy() * 16, sklearn.datasets.load_digits().images)


def test_images_fill_the_unit_interval():
    images = load_digits().images
    assert images.min() == 0
    assert images.max() == 1


def test_labels_are_the_originals():
    labels = load_digits().labels
    assert labels.dtype == torch.int64
    assert np.array_equal(labels.numpy(), sklearn.datasets.load_digits().target)


def test_global_state_of_torch_is_left_alone():
    before = torch.random.get_rng_state()
    load_digits()
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_default_dtype() == torch.float64
