import dataclasses

import pytest
import torch

from pyro_infomax.datasets import LabelledImages


def test_length_and_shape_of_one_image():
    data = LabelledImages(images=torch.zeros(4, 3, 8, 6), labels=torch.arange(4))
    assert len(data) == 4
    assert data.shape == (3, 8, 6)


def test_labels_are_optional():
    assert LabelledImages(images=torch.zeros(4, 8, 8)).labels is None


def test_is_frozen():
    data = LabelledImages(images=torch.zeros(4, 8, 8))
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.images = torch.ones(4, 8, 8)


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(4, 1), torch.tensor(1)])
def test_labels_that_are_not_one_per_image_are_refused(labels):
    with pytest.raises(
        ValueError, match=r"Expected one label per image, shape \(4,\), but got labels of shape"
    ):
        LabelledImages(images=torch.zeros(4, 8, 8), labels=labels)
