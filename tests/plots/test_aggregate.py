import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet

from pyro_infomax.plots import aggregate_against_prior


@pytest.fixture
def prior():
    return torch.randn(2000, 3)


def hexagons(ax):
    return next(artist for artist in ax.collections if isinstance(artist, PolyCollection))


def contours(ax):
    return next(artist for artist in ax.collections if isinstance(artist, ContourSet))


def inside(path, points):
    return float(np.mean(path.contains_points(points)))


def test_hexagons_count_every_draw_of_the_chosen_dimensions(prior):
    z = torch.randn(500, 3) * 0.1 + torch.tensor([5.0, 0.0, -7.0])
    cells = hexagons(aggregate_against_prior(z, prior, dimensions=(2, 0)))
    counts = np.asarray(cells.get_array())
    assert counts.sum() == 500
    centre = (counts[:, None] * cells.get_offsets()).sum(0) / 500
    width = 0.8 / 40  # of a cell: the range of the draws over their number
    assert centre == pytest.approx(z[:, [2, 0]].mean(0).numpy(), abs=width)


def test_contours_hold_their_masses_of_the_prior(prior):
    z = torch.randn(500, 3) + 3
    outer, inner = contours(aggregate_against_prior(z, prior, dimensions=(0, 1))).get_paths()
    fresh = torch.randn(100_000, 2).numpy()
    # two-dimensional kernel estimates from 2,000 draws widen a contour by a few per cent
    assert inside(inner, fresh) == pytest.approx(0.5, abs=0.06)
    assert inside(outer, fresh) == pytest.approx(0.9, abs=0.04)


def test_contours_are_those_of_the_chosen_dimensions(prior):
    shifted = prior + torch.tensor([0.0, 10.0, 20.0])
    ax = aggregate_against_prior(prior, shifted, dimensions=(2, 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_{2}$", "$z_{1}$")
    paths = contours(ax).get_paths()
    assert paths[1].vertices.mean(0) == pytest.approx([20, 10], abs=0.3)


def test_the_view_holds_all_draws_of_the_aggregate_posterior(prior):
    z = torch.cat([torch.randn(300, 3), torch.tensor([[9.0, -8.0, 0.0]])])
    _, given = plt.subplots()
    ax = aggregate_against_prior(z, prior, ax=given)
    assert ax is given
    assert len(plt.get_fignums()) == 1
    assert ax.get_xlim()[1] > 9
    assert ax.get_ylim()[0] < -8


def test_labels_legend_and_colour_bar(prior):
    ax = aggregate_against_prior(
        prior[:200], prior[:200], dimensions=(2, 0), names=["slant", "width", "height"]
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("height", "slant")
    assert "50 % and 90 %" in ax.get_legend().get_texts()[0].get_text()
    assert "q(z)" in ax.figure.axes[1].get_ylabel()


@pytest.mark.parametrize(("latent", "dimensions"), [(3, (1,)), (1, (0, 1))])
def test_one_dimension_shows_both_densities(latent, dimensions):
    z, prior = torch.randn(4000, latent) * 0.5 + 2, torch.randn(4000, latent)
    ax = aggregate_against_prior(z, prior, dimensions=dimensions)
    shape = ax.collections[0].get_paths()[0].vertices
    (line,) = ax.lines
    x, density = line.get_data()
    assert shape[shape[:, 1].argmax(), 0] == pytest.approx(2, abs=0.25)
    assert x[density.argmax()] == pytest.approx(0, abs=0.4)
    assert density.max() == pytest.approx(0.399, abs=0.03)
    assert ax.get_ylabel() == "density"
    assert [text.get_text()[:5] for text in ax.get_legend().get_texts()] == ["aggre", "prior"]
    assert to_rgb(line.get_color()) != to_rgb(ax.collections[0].get_facecolor()[0])


def test_latent_dimensions_that_differ_are_refused(prior):
    with pytest.raises(ValueError, match="same number of latent dimensions but got 2 and 3"):
        aggregate_against_prior(prior[:, :2], prior)


@pytest.mark.parametrize("shape", [(5,), (1, 3), (5, 0), (5, 2, 2)])
def test_draws_that_are_no_points_are_refused(prior, shape):
    with pytest.raises(
        ValueError, match=r"Expected z of shape \(n, d\) with n >= 2 and d >= 1 but got shape"
    ):
        aggregate_against_prior(torch.zeros(shape), prior)


def test_nan_is_refused(prior):
    broken = prior.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match="Expected finite prior but got 1 nan or infinite values"):
        aggregate_against_prior(prior, broken)
