import pytest
import torch

from pyro_infomax.datasets import LabelledImages


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
