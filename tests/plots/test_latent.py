import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from pyro_infomax.plots import latent_scatter, most_informative


@pytest.fixture
def z():
    return torch.randn(60, 4, requires_grad=True)


def offsets(ax):
    return np.asarray(ax.collections[0].get_offsets())


def face_colours(ax):
    return [to_hex(colour) for colour in ax.collections[0].get_facecolors()]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_every_point_lies_at_its_chosen_dimensions(z):
    ax = latent_scatter(z, dimensions=(3, 1))
    assert np.array_equal(offsets(ax), z.detach().numpy()[:, [3, 1]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_{3}$", "$z_{1}$")


def test_labels_leave_the_points_where_they_are(z):
    assert np.array_equal(offsets(latent_scatter(z, torch.arange(60) % 3)), z.detach().numpy()[:, :2])


def test_a_colour_is_a_label(z):
    labels = torch.arange(60) % 10
    colours = face_colours(latent_scatter(z, labels))
    assert len(set(colours)) == 10
    assert colours[:10] * 6 == colours


def test_a_marker_is_a_label(z):
    paths = latent_scatter(z, torch.arange(60) % 10).collections[0].get_paths()
    shapes = [path.vertices.tobytes() for path in paths]
    assert len(set(shapes)) == 10
    assert shapes[:10] * 6 == shapes


def test_drawing_leaves_the_settings_of_matplotlib_and_what_came_in_alone(z):
    before, points = dict(mpl.rcParams), z.detach().clone()
    latent_scatter(z, torch.arange(60) % 3)
    assert dict(mpl.rcParams) == before
    assert torch.equal(z, points)


def test_legend_orders_numbers_as_numbers(z):
    ax = latent_scatter(z, np.resize([10, 2, 9], 60))
    assert legend(ax) == ["2", "9", "10"]
    assert ax.get_legend().get_title().get_text() == "label"


def test_legend_takes_the_colour_of_its_points(z):
    ax = latent_scatter(z, np.resize(["cat", "dog"], 60))
    keys = [to_hex(handle.get_markerfacecolor()) for handle in ax.get_legend().legend_handles]
    assert legend(ax) == ["cat", "dog"]
    assert keys == face_colours(ax)[:2]


@pytest.mark.parametrize("count", [5, 6, 10, 11, 20])
def test_up_to_twenty_labels_have_colours_of_their_own(z, count):
    assert len(set(face_colours(latent_scatter(z, torch.arange(60) % count)))) == count


def test_without_labels_one_colour_and_no_legend(z):
    ax = latent_scatter(z)
    assert len(set(face_colours(ax))) == 1
    assert ax.get_legend() is None


def test_names_replace_the_symbols(z):
    assert latent_scatter(z, names=["a", "b", "c", "d"]).get_ylabel() == "b"


def test_draws_on_the_given_axes_only(z):
    _, ax = plt.subplots()
    assert latent_scatter(z, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize("labels", [torch.zeros(59), torch.zeros(60, 1)])
def test_labels_that_are_not_one_per_point_are_refused(z, labels):
    with pytest.raises(
        ValueError, match=r"Expected one label per point, shape \(60,\), but got labels of shape"
    ):
        latent_scatter(z, labels)


def test_too_many_labels_are_refused(z):
    with pytest.raises(ValueError, match="at most 20 distinct labels but got 60; group them"):
        latent_scatter(z, torch.arange(60))


@pytest.mark.parametrize("dimensions", [(0, 4), (-1, 0), (), (0, 1, 2)])
def test_dimensions_that_are_not_there_are_refused(z, dimensions):
    with pytest.raises(ValueError, match="Expected one or two dimensions from 0 to 3 but got"):
        latent_scatter(z, dimensions=dimensions)


@pytest.mark.parametrize(("latent", "dimensions"), [(1, (0, 1)), (4, (2,))])
def test_a_single_dimension_is_refused(z, latent, dimensions):
    with pytest.raises(ValueError, match="Expected two dimensions to scatter but got 1 of z with shape"):
        latent_scatter(z[:, :latent], dimensions=dimensions)


def test_nan_is_refused(z):
    with pytest.raises(ValueError, match="Expected finite z but got 240 nan or infinite values"):
        latent_scatter(z * torch.nan)


# ---- Which dimensions are worth an axis.


def test_best_first_and_two_by_default():
    assert most_informative([0.5, -0.1, 3.0, 2.0], count=3) == (2, 3, 0)
    assert most_informative(torch.tensor([0.5, 3.0, 2.0])) == (1, 2)


def test_ties_keep_their_order_and_fewer_than_asked_are_all():
    assert most_informative([1, 2, 2, 1], count=4) == (1, 2, 0, 3)
    assert most_informative([1.0], count=2) == (0,)


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match="Expected count >= 1 but got 0"):
        most_informative([1.0], count=0)
