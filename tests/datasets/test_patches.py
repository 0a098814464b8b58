import numpy as np
import pytest
import sklearn.datasets
import torch

from pyro_infomax.datasets import load_patches

HEIGHT, WIDTH = 427, 640


def grey() -> np.ndarray:
    """The photographs in grey, (photograph, row, column), by scalar arithmetic of its own."""
    photographs = np.stack(sklearn.datasets.load_sample_images().images) / 255.0
    red, green, blue = np.moveaxis(photographs, -1, 0)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_the_grid_puts_the_photographs_together_again():
    side = 16
    images, labels = load_patches(side=side)
    rows, columns = HEIGHT // side, WIDTH // side
    assert images.shape == (2 * rows * columns, side, side)
    mosaic = images.reshape(2, rows, columns, side, side).transpose(2, 3)
    mosaic = mosaic.reshape(2, rows * side, columns * side).numpy()
    np.testing.assert_allclose(mosaic, grey()[:, : rows * side, : columns * side], atol=1e-6)
    assert torch.equal(labels, torch.tensor([0, 1]).repeat_interleave(rows * columns))


def test_a_drawn_patch_is_a_window_of_the_photograph_of_its_label():
    images, labels = load_patches(side=5, num_patches=3, seed=3)
    photographs = np.lib.stride_tricks.sliding_window_view(grey(), (5, 5), axis=(1, 2))
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        distance = np.abs(photographs[label] - image).max(axis=(-2, -1))
        assert distance.min() < 1e-6


def test_drawn_places_are_uniform_over_photographs_and_pixels():
    # a patch of one pixel is a pixel, so the mean of many is the photographs' own
    images, labels = load_patches(side=1, num_patches=20_000, seed=0)
    truth = grey()
    error = truth.std() / 20_000**0.5
    assert abs(float(images.double().mean()) - truth.mean()) < 4 * error
    assert abs(float(labels.double().mean()) - 0.5) < 4 * 0.5 / 20_000**0.5


def test_a_patch_may_touch_both_edges():
    # one pixel short of the full height leaves two places for the top: the first row and the second
    images, labels = load_patches(side=HEIGHT - 1, num_patches=30, seed=0)
    corners = np.lib.stride_tricks.sliding_window_view(grey()[:, :2], HEIGHT - 1, axis=2)
    tops = [
        {top for top in (0, 1) if np.abs(corners[label, top] - image[0]).max(axis=-1).min() < 1e-6}
        for image, label in zip(images.numpy(), labels.tolist(), strict=True)
    ]
    assert set().union(*tops) == {0, 1}
    assert all(tops)


@pytest.mark.parametrize("num_patches", [None, 30])
def test_images_are_float32_in_the_unit_interval_and_labels_int64(num_patches):
    images, labels = load_patches(side=7, num_patches=num_patches, seed=0)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert len(images) == len(labels)


def test_a_seed_repeats_the_draws_and_leaves_torch_as_it_was():
    before = torch.random.get_rng_state()
    first, second = (load_patches(num_patches=10, seed=4) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(first.images, load_patches(num_patches=10, seed=5).images)


def test_without_a_seed_the_global_state_draws():
    torch.manual_seed(1)
    first = load_patches(num_patches=10)
    torch.manual_seed(1)
    assert torch.equal(first.images, load_patches(num_patches=10).images)
    assert not torch.equal(first.images, load_patches(num_patches=10).images)


def test_the_grid_draws_nothing():
    before = torch.random.get_rng_state()
    load_patches(side=40)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("side", [0, -3, HEIGHT + 1, 2.5, True])
def test_a_side_that_does_not_fit_is_refused(side):
    with pytest.raises(ValueError, match=f"integer from 1 to 427 pixels but got {side!r}"):
        load_patches(side=side)


@pytest.mark.parametrize("num_patches", [0, -1, 2.5, True])
def test_no_patches_are_refused(num_patches):
    with pytest.raises(ValueError, match=f"an integer >= 1 but got {num_patches}"):
        load_patches(num_patches=num_patches)
