import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from pyro_infomax.plots import latent_scatter
from pyro_infomax.plots._axes import axes_or_new, checked_names, colours, tidy


def test_given_axes_are_kept():
    ax = Figure().subplots()
    assert axes_or_new(ax) is ax
    assert plt.get_fignums() == []


def test_new_axes_have_the_size_asked():
    assert axes_or_new(None, size=(3, 2)).figure.get_size_inches().tolist() == [3, 2]


@pytest.mark.parametrize("count", range(1, 21))
def test_colours_are_distinct(count):
    assert len(set(colours(count))) == count


def test_grid_lies_below_what_is_drawn():
    ax = tidy(axes_or_new(None), grid="y")
    assert ax.get_axisbelow() is True
    assert [line.get_visible() for line in ax.get_ygridlines()[:1]] == [True]
    assert [line.get_visible() for line in ax.get_xgridlines()[:1]] == [False]


def test_names_are_numbered_unless_given():
    assert checked_names(None, count=2, template="z{}") == ["z0", "z1"]
    assert checked_names(["a", "b"], count=2, template="z{}") == ["a", "b"]


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(mpl.rcParams)
    latent_scatter([[0.0, 1.0], [1.0, 0.0]], [0, 1])
    assert dict(mpl.rcParams) == before
