import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from pyro_infomax.plots import predictive_density, predictive_intervals, replicates

COLUMNS = ["replicated", "replicated_sd", "low", "high", "z_score", "p_value"]


def table_of(*rows):
    index = [("ink", "mean"), ("ink", "sd"), ("row", "mean"), ("row", "sd")][: len(rows)]
    names = ["statistic", "over_data"]
    return pd.DataFrame(rows, columns=COLUMNS, index=pd.MultiIndex.from_tuples(index, names=names))


def dots(ax):
    return {each.get_label(): each.get_offsets().data.tolist() for each in ax.collections}


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_bars_and_dots_are_in_standard_deviations():
    ax = predictive_intervals(table_of([3.0, 0.5, 2.0, 4.5, 1.0, 0.3], [10.0, 2.0, 6.0, 16.0, -2.5, 0.02]))
    bars = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert bars == [(-2, 5), (-2, 5)]
    assert dots(ax) == {"observed": [[1.0, 0.0]], "p ≤ 0.05": [[-2.5, 1.0]]}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ink, mean", "ink, sd"]
    low, high = ax.get_ylim()
    assert low > high  # the first row is the upper one


def test_what_is_far_out_stands_at_the_edge_with_its_distance():
    far = table_of([3.0, 0.5, 2.0, 4.0, -41.3, 0.02], [3.0, 0.5, 2.0, 4.0, 9.0, 0.02])
    ax = predictive_intervals(far)
    assert dots(ax)["p ≤ 0.05"] == [[-8.0, 0.0], [8.0, 1.0]]
    assert [text.get_text() for text in ax.texts] == ["−41", "+9"]
    assert ax.get_xlim()[0] < -8
    assert "observed" not in labels(ax)


def test_rows_that_say_nothing_are_left_out():
    ax = predictive_intervals(
        table_of(
            [1.0, 0.0, 1.0, 1.0, np.nan, 1.0],
            [1.0, 0.5, 0.0, 2.0, np.nan, np.nan],
            [1.0, 0.5, 0.0, 2.0, 0.5, 0.5],
        )
    )
    assert [label.get_text() for label in ax.get_yticklabels()] == ["row, mean"]
    with pytest.raises(ValueError, match="data sets differ but got none"):
        predictive_intervals(table_of([1.0, 0.0, 1.0, 1.0, np.nan, 1.0]))
    with pytest.raises(ValueError, match=r"has no columns \['z_score'\]"):
        predictive_intervals(table_of([1.0, 0.5, 0.0, 2.0, 0.5, 0.5]).drop(columns="z_score"))


def test_histograms_of_whole_numbers_have_a_bin_each():
    observed = torch.tensor([[0.0, 1.0, 1.0, 3.0]])
    replicated = torch.tensor([[0.0, 0.0, 1.0, 2.0]]).repeat(20, 1)
    ax = predictive_density(observed, replicated, name="ink")
    band, line = ax.patches
    assert line.get_data().values.tolist() == [0.25, 0.5, 0, 0.25]
    assert line.get_data().edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert band.get_data().values.tolist() == [0.5, 0.25, 0.25, 0]
    assert band.get_data().baseline.tolist() == [0.5, 0.25, 0.25, 0]
    assert ax.get_xlabel() == "ink"


def test_the_band_is_that_of_each_bin():
    sets = np.random.default_rng(0).normal(size=(200, 50))
    band, line = predictive_density(sets[0], sets).patches
    edges = line.get_data().edges
    shares = np.array([np.histogram(each, edges)[0] for each in sets]) / 50
    assert np.allclose(band.get_data().values, np.quantile(shares, 0.975, axis=0))
    assert np.allclose(band.get_data().baseline, np.quantile(shares, 0.025, axis=0))
    assert line.get_data().values.sum() == pytest.approx(1)


def test_masked_data_are_left_out():
    sets = np.random.default_rng(0).normal(size=(5, 8))
    masked = np.where(np.arange(8) % 2, sets, np.nan)
    kept = predictive_density(sets[0, 1::2], sets[:, 1::2]).patches[1].get_data()
    assert np.array_equal(predictive_density(masked[0], masked).patches[1].get_data().values, kept.values)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"got \(3,\) and \(5, 4\)"):
        predictive_density(np.zeros(3), np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"got \(5, 4\) and \(5, 4\)"):
        predictive_density(np.zeros((5, 4)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="none that are present"):
        predictive_density(np.full(4, np.nan), np.full((5, 4), np.nan))
    with pytest.raises(ValueError, match=r"one shape but got \(4, 8, 8\) and \(3, 8, 8\)"):
        replicates(np.zeros((4, 8, 8)), np.zeros((2, 3, 8, 8)))


def test_a_column_is_an_image_and_its_replicates():
    images, made = torch.rand(4, 8, 8), torch.rand(2, 4, 8, 8)
    ax = replicates(images, made)
    picture = np.asarray(ax.images[0].get_array())
    assert picture.shape == (26, 35)
    assert np.array_equal(picture[:8, 9:17], images[1])
    assert np.array_equal(picture[18:, 27:], made[1, 3])
    assert ax.get_yticks().tolist() == [3.5, 12.5, 21.5]


@pytest.mark.parametrize(
    "function",
    [
        lambda ax: predictive_intervals(table_of([1.0, 0.5, 0.0, 2.0, 0.5, 0.5]), ax=ax),
        lambda ax: predictive_density(np.arange(4), np.arange(8).reshape(2, 4), ax=ax),
        lambda ax: replicates(np.zeros((2, 3, 4, 4)), np.zeros((5, 2, 3, 4, 4)), ax=ax),
    ],
)
def test_predictive_plots_draw_on_the_given_axes_only(function):
    _, ax = plt.subplots()
    assert function(ax) is ax
    assert len(plt.get_fignums()) == 1
