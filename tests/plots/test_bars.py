import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_infomax.plots import information_per_dimension, information_per_site

RATE = np.array([0.5, 3.0, 2.0])
GAP = np.array([0.4, 1.5, 0.2])  # information 0.1, 1.5, 1.8
ORDER = [2, 1, 0]


def parts(ax):
    information, gap = ax.containers[:2]
    return list(information), list(gap)


def ticks(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


def test_bars_are_information_below_and_divergence_above_sorted_by_information():
    ax = information_per_dimension(RATE, GAP)
    information, gap = parts(ax)
    assert [bar.get_height() for bar in information] == pytest.approx([1.8, 1.5, 0.1])
    assert [bar.get_y() for bar in information] == [0, 0, 0]
    assert [bar.get_height() for bar in gap] == pytest.approx(list(GAP[ORDER]))
    assert [bar.get_y() + bar.get_height() for bar in gap] == pytest.approx(list(RATE[ORDER]))
    assert ticks(ax) == ["2", "1", "0"]
    # without standard errors no error bars
    assert len(ax.containers) == 2


def test_the_grid_lies_below_the_bars():
    ax = information_per_dimension(RATE, GAP)
    assert ax.get_axisbelow() is True
    assert [line.get_visible() for line in ax.get_ygridlines()[:1]] == [True]
    assert [line.get_visible() for line in ax.get_xgridlines()[:1]] == [False]


def test_names_follow_their_dimensions():
    assert ticks(information_per_dimension(RATE, GAP, names=["a", "b", "c"])) == ["c", "b", "a"]


def test_many_dimensions_keep_legible_ticks_at_their_bars():
    rate = np.arange(100.0)
    ax = information_per_dimension(rate, np.zeros(100))
    assert len(ticks(ax)) <= 40
    assert [99 - tick for tick in ax.get_xticks()] == [int(label) for label in ticks(ax)]


def test_error_bars_stand_at_the_information_in_the_same_order():
    ax = information_per_dimension(RATE, GAP, standard_error=[0.01, 0.02, 0.03])
    segments = ax.containers[-1].lines[2][0].get_segments()
    expected = [(1.77, 1.83), (1.48, 1.52), (0.09, 0.11)]
    assert [tuple(segment[:, 1]) for segment in segments] == [pytest.approx(pair) for pair in expected]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors_of_every_kind_are_drawn(dtype):
    rate = torch.tensor([0, 1]).to(dtype)
    rate.requires_grad_(dtype.is_floating_point)
    information, _ = parts(information_per_dimension(rate, torch.zeros(2)))
    assert [bar.get_height() for bar in information] == [1, 0]


def test_labels_and_legend_have_units_and_symbols():
    ax = information_per_dimension(RATE, GAP)
    assert ax.get_ylabel() == "nats per datum"
    assert "latent dimension" in ax.get_xlabel()
    assert ["I(X; Z_j)" in text.get_text() for text in ax.get_legend().get_texts()] == [True, False]


def test_draws_on_the_given_axes_only():
    _, ax = plt.subplots()
    assert information_per_dimension(RATE, GAP, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match="got the lengths rate 3, dimensionwise_kl 2"):
        information_per_dimension(RATE, GAP[:2])


@pytest.mark.parametrize("rate", [np.ones((3, 1)), np.ones(0), 1.0])
def test_a_rate_that_is_no_vector_is_refused(rate):
    with pytest.raises(ValueError, match=r"Expected rate of shape \(d,\) with d >= 1 but got shape"):
        information_per_dimension(rate, GAP)


def test_nan_is_refused_and_counted():
    with pytest.raises(ValueError, match="Expected finite dimensionwise_kl but got 2 nan or infinite values"):
        information_per_dimension(RATE, [np.nan, 1, np.inf])


def test_names_of_another_number_are_refused():
    with pytest.raises(ValueError, match="Expected 3 names but got 2"):
        information_per_dimension(RATE, GAP, names=["a", "b"])


def test_the_legend_lies_above_bars_of_one_height():
    ax = information_per_dimension([1.7, 1.6, 1.9, 1.7], [0.01, 0.02, 0.04, 0.01])
    ax.figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert not any(legend.overlaps(bar.get_window_extent()) for bar in ax.patches)


# ---- sites


def test_sites_stay_in_the_order_of_the_guide():
    ax = information_per_site(RATE, RATE - GAP, names=["c", "b", "a"])
    information, gap = parts(ax)
    assert ticks(ax) == ["c", "b", "a"]
    assert [bar.get_height() for bar in information] == pytest.approx(list(RATE - GAP))
    assert [bar.get_height() for bar in gap] == pytest.approx(list(GAP))
    assert [bar.get_y() + bar.get_height() for bar in gap] == pytest.approx(list(RATE))


def test_error_bars_of_sites_stand_at_their_information():
    ax = information_per_site(RATE, RATE - GAP, standard_error=[0.01, 0.02, 0.03])
    segments = ax.containers[-1].lines[2][0].get_segments()
    expected = [(0.09, 0.11), (1.48, 1.52), (1.77, 1.83)]
    assert [tuple(segment[:, 1]) for segment in segments] == [pytest.approx(pair) for pair in expected]


def test_sites_of_different_numbers_are_refused():
    with pytest.raises(ValueError, match="latent site"):
        information_per_site(RATE, GAP[:2])
