import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_infomax.plots import reconstructions, traversals


def picture(ax):
    (image,) = ax.images
    return np.asarray(image.get_array())


def texts(labels):
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("channels", [(), (1,)])
def test_reconstructions_lie_below_their_images(channels):
    images, made = torch.rand(2, 12, *channels, 8, 8)
    drawn = picture(reconstructions(images, made.requires_grad_(), n=3))
    assert drawn.shape == (17, 26)
    for j in range(3):
        columns = slice(9 * j, 9 * j + 8)
        assert np.array_equal(drawn[:8, columns], images[j].reshape(8, 8))
        assert np.array_equal(drawn[9:, columns], made[j].detach().reshape(8, 8))


def test_gutters_grow_with_the_images_and_are_white():
    for size, gutter in ((8, 1), (16, 1), (28, 2), (64, 4)):
        drawn = picture(reconstructions(torch.zeros(3, size, size), torch.zeros(3, size, size)))
        assert drawn.shape == (2 * size + gutter, 3 * size + 2 * gutter)
        assert (drawn[size : size + gutter] == 1).all()
        assert (drawn == 1).sum() == drawn.size - 6 * size**2


def test_two_channels_stand_side_by_side():
    images = torch.rand(2, 5, 2, 8, 6)
    drawn = picture(traversals(images))
    assert drawn.shape == (17, 5 * 12 + 4)
    assert np.array_equal(drawn[9:, 13:19], images[1, 1, 0])
    assert np.array_equal(drawn[9:, 19:25], images[1, 1, 1])


def test_more_tiles_make_a_larger_figure():
    few, many = (
        traversals(np.zeros(shape)).figure.get_size_inches() for shape in ((2, 3, 8, 8), (5, 9, 8, 8))
    )
    assert (many > few).all()


def test_ten_are_shown_by_default_and_all_when_there_are_fewer():
    assert picture(reconstructions(torch.rand(12, 8, 8), torch.rand(12, 8, 8))).shape == (17, 89)
    assert picture(reconstructions(torch.rand(4, 8, 8), torch.rand(4, 8, 8))).shape == (17, 35)


def test_colour_images_are_drawn_in_colour():
    images, made = torch.rand(2, 5, 3, 8, 8)
    drawn = picture(reconstructions(images, made))
    assert drawn.shape == (17, 44, 3)
    assert np.allclose(drawn[9:, :8], made[0].permute(1, 2, 0))


@pytest.mark.parametrize(
    ("low", "high", "limits"), [(0.3, 0.6, (0, 1)), (-2, 0.5, (-2, 1)), (0, 255, (0, 255)), (-1, 3, (-1, 3))]
)
def test_black_and_white_are_zero_and_one_or_what_lies_beyond_in_any_tile(low, high, limits):
    images, made = torch.full((2, 8, 8), float(low)), torch.full((2, 8, 8), float(high))
    assert reconstructions(images, made).images[0].get_clim() == limits
    assert (images == low).all()


def test_colour_values_beyond_are_scaled_and_not_clipped():
    images, made = torch.full((2, 3, 8, 8), -1.0), torch.full((2, 3, 8, 8), 3.0)
    made[1] = 1.0
    drawn = picture(reconstructions(images, made))
    assert np.all(drawn[:8, :8] == 0)
    assert np.all(drawn[9:, :8] == 1)
    assert np.all(drawn[9:, 9:] == 0.5)


def test_rows_are_labelled_at_their_middle():
    ax = reconstructions(torch.rand(3, 8, 8), torch.rand(3, 8, 8))
    assert texts(ax.get_yticklabels()) == ["data", "reconstruction"]
    assert ax.get_yticks().tolist() == [3.5, 12.5]
    assert ax.get_xticks().size == 0


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"of one shape but got \(4, 8, 8\) and \(4, 8, 9\)"):
        reconstructions(torch.rand(4, 8, 8), torch.rand(4, 8, 9))


@pytest.mark.parametrize("shape", [(4, 64), (4, 2, 3, 8, 8), (0, 8, 8)])
def test_reconstructions_of_no_images_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"Expected images of shape \(n, H, W\) or \(n, C, H, W\) but got shape"
    ):
        reconstructions(torch.rand(shape), torch.rand(shape))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="Expected finite reconstructions but got 64 nan or infinite values"):
        reconstructions(torch.rand(1, 8, 8), torch.rand(1, 8, 8) * torch.nan)


def test_none_to_show_is_refused():
    with pytest.raises(ValueError, match="Expected n >= 1 but got 0"):
        reconstructions(torch.rand(4, 8, 8), torch.rand(4, 8, 8), n=0)


@pytest.mark.parametrize("channels", [(), (1,)])
def test_a_row_is_a_traversal(channels):
    images = torch.rand(2, 5, *channels, 8, 8)
    drawn = picture(traversals(images))
    assert drawn.shape == (17, 44)
    for i, j in np.ndindex(2, 5):
        tile = drawn[9 * i : 9 * i + 8, 9 * j : 9 * j + 8]
        assert np.array_equal(tile, images[i, j].reshape(8, 8))


def test_rows_and_columns_are_labelled():
    ax = traversals(np.zeros((2, 3, 5, 7)), values=torch.tensor([-1.5, 0.0, 1.5]))
    assert texts(ax.get_yticklabels()) == ["$z_{0}$", "$z_{1}$"]
    assert texts(ax.get_xticklabels()) == ["−1.5", "0", "1.5"]
    assert ax.get_xticks().tolist() == [3, 11, 19]
    assert ax.get_yticks().tolist() == [2, 8]
    assert ax.get_xlabel()


def test_names_label_the_rows():
    assert texts(traversals(np.zeros((2, 3, 8, 8)), names=["slant", "width"]).get_yticklabels()) == [
        "slant",
        "width",
    ]


@pytest.mark.parametrize(
    "function", [lambda x, ax: reconstructions(x[0], x[1], ax=ax), lambda x, ax: traversals(x, ax=ax)]
)
def test_grids_draw_on_the_given_axes_only(function):
    _, ax = plt.subplots()
    assert function(torch.rand(2, 3, 8, 8), ax) is ax
    assert len(plt.get_fignums()) == 1


def test_values_of_another_number_are_refused():
    with pytest.raises(ValueError, match="Expected one value per column, 3 in all, but got 2"):
        traversals(np.zeros((2, 3, 8, 8)), values=[0, 1])


def test_names_of_another_number_are_refused():
    with pytest.raises(ValueError, match="Expected 2 names but got 1"):
        traversals(np.zeros((2, 3, 8, 8)), names=["slant"])


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 3, 64)])
def test_traversals_without_rows_and_columns_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"\(rows, columns, H, W\) or \(rows, columns, C, H, W\) but got shape"
    ):
        traversals(np.zeros(shape))
