"""Statistics of images and vectors, one by one."""

import numpy as np
import pytest
import torch

from pyro_infomax.diagnostics import image_statistics, vector_statistics


def test_places_of_ink():
    images = torch.rand(3, 5, 7)
    found = {name: each(images) for name, each in image_statistics().items()}
    assert torch.allclose(found["ink"], images.sum((1, 2)))
    assert torch.allclose(found["bright"], (images > 0.5).double().mean((1, 2)))
    for n, image in enumerate(images.numpy()):
        rows, columns = np.indices(image.shape)
        for name, extent, places in (("row", "height", rows), ("column", "width", columns)):
            centre = np.average(places, weights=image)
            assert float(found[name][n]) == pytest.approx(centre)
            variance = np.average((places - centre) ** 2, weights=image)
            assert float(found[extent][n]) == pytest.approx(variance**0.5)
    for name in ("row", "column", "height", "width", "neighbours"):
        assert torch.allclose(image_statistics()[name](images / 1000), found[name])


def test_correlation_of_neighbours():
    images = torch.randn(2, 4, 5)
    found = image_statistics()["neighbours"](images)
    for n, image in enumerate(images.numpy()):
        here = np.concatenate([image[:, :-1].ravel(), image[:-1].ravel()])
        there = np.concatenate([image[:, 1:].ravel(), image[1:].ravel()])
        both = np.corrcoef(np.concatenate([here, there]), np.concatenate([there, here]))
        assert float(found[n]) == pytest.approx(both[0, 1])
    board = (torch.arange(4)[:, None] + torch.arange(4)) % 2
    assert float(image_statistics()["neighbours"](board[None].double())) == pytest.approx(-1)


def test_images_without_ink_or_of_one_grey_are_defined():
    blank = {name: each(torch.zeros(1, 4, 6)).tolist() for name, each in image_statistics().items()}
    assert blank == {
        "ink": [0],
        "bright": [0],
        "row": [1.5],
        "column": [2.5],
        "height": [0],
        "width": [0],
        "neighbours": [0],
    }
    grey = torch.full((1, 9, 9), 0.3)
    assert image_statistics()["neighbours"](grey).tolist() == [0]
    assert image_statistics()["row"](-grey).tolist() == [4]


def test_channels_are_averaged_and_flat_images_take_their_shape():
    images = torch.rand(3, 2, 5, 4)
    for name, each in image_statistics().items():
        of_means = each(images.mean(1))
        assert torch.allclose(each(images), of_means)
        assert torch.allclose(image_statistics((2, 5, 4))[name](images.flatten(1)), of_means)


def test_places_do_not_count_negative_pixels():
    images = torch.randn(3, 5, 6)
    for name in ("row", "column", "height", "width"):
        function = image_statistics()[name]
        assert torch.allclose(function(images), function(images.clamp(min=0)))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape to be \(H, W\) or \(C, H, W\) but got \(64,\)"):
        image_statistics((64,))
    with pytest.raises(ValueError, match=r"images of shape .* but got \(64,\); for flat images"):
        image_statistics()["ink"](torch.zeros(2, 64))


def test_vectors():
    x = torch.tensor([[0, 2, 4], [1, 1, 1]])
    found = {name: each(x) for name, each in vector_statistics().items()}
    assert found["mean"].tolist() == [2, 1]
    assert found["sd"].tolist() == pytest.approx([(8 / 3) ** 0.5, 0])
    assert found["minimum"].tolist() == [0, 1]
    assert found["maximum"].tolist() == [4, 1]
    assert found["zeros"].tolist() == pytest.approx([1 / 3, 0])
    assert found["elements"].tolist() == x.tolist()
