import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_infomax.plots import information_per_dimension, rate_stack

INFORMATION = np.array([6.5, 3.0, 0.5])
CORRELATION = np.array([1.0, 0.25, 0.125])
GAP = np.array([0.5, 0.125, 0.25])
RATE = INFORMATION + CORRELATION + GAP


def bars(ax):
    """Bottom and height of each bar, by the part's name in the legend, (pair, 2)."""
    return {
        c.get_label().split(" ")[0]: np.array([(bar.get_y(), bar.get_height()) for bar in c])
        for c in ax.containers
    }


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_parts_stand_on_each_other():
    drawn = bars(rate_stack(INFORMATION, CORRELATION, GAP))
    expected = {
        "information": (0 * RATE, INFORMATION),
        "total": (INFORMATION, CORRELATION),
        "dimension-wise": (INFORMATION + CORRELATION, GAP),
    }
    assert drawn.keys() == expected.keys()
    for name, (bottom, height) in expected.items():
        assert drawn[name] == pytest.approx(np.stack([bottom, height], axis=1))


def test_a_part_has_the_colour_that_it_has_per_dimension():
    stacked = rate_stack(INFORMATION, CORRELATION, GAP).containers
    information, gap = information_per_dimension(RATE, GAP).containers[:2]
    colours = [bars[0].get_facecolor() for bars in stacked]
    assert [colours[0], colours[2]] == [information[0].get_facecolor(), gap[0].get_facecolor()]
    assert len(set(colours)) == 3


def test_the_rate_is_marked_across_its_stack():
    (marks,) = rate_stack(INFORMATION, CORRELATION, GAP, rate=RATE).collections
    ends = np.stack(marks.get_segments())  # (pair, end, 2)
    assert ends[:, :, 1] == pytest.approx(np.stack([RATE, RATE], axis=1))
    assert ends[:, :, 0].mean(axis=1) == pytest.approx([0, 1, 2])


def test_the_legend_reads_the_parts_from_below():
    names = legend(rate_stack(INFORMATION, CORRELATION, GAP, rate=RATE, data_size=1000))
    assert [name.split(" ")[0] for name in names[:3]] == ["information", "total", "dimension-wise"]
    assert names[3:] == ["rate $R$", r"$\ln N$, the most $I$ can be", r"saturated: $I > \ln N - 1$"]


def test_the_ceiling_is_ln_n():
    ax = rate_stack(INFORMATION, CORRELATION, GAP, data_size=1000)
    (line,) = ax.lines
    assert list(line.get_ydata()) == pytest.approx([math.log(1000)] * 2)
    assert ax.get_ylim()[1] > math.log(1000)


def test_information_within_a_nat_of_the_ceiling_is_hatched():
    # ln 1000 = 6.91, so 6.5 is within a nat of it and 3 is not
    ax = rate_stack(INFORMATION, CORRELATION, GAP, data_size=1000)
    hatched = [bar for bar in ax.patches if bar.get_hatch()]
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in hatched] == [(0, 6.5)]


@pytest.mark.parametrize(("data_size", "keys"), [(None, 3), (10_000, 4)])
def test_without_saturation_no_hatch_and_no_key(data_size, keys):
    ax = rate_stack(INFORMATION, CORRELATION, GAP, data_size=data_size)
    assert not any(bar.get_hatch() for bar in ax.patches)
    assert len(legend(ax)) == keys


def test_names_stand_under_their_stacks():
    ax = rate_stack(INFORMATION, CORRELATION, GAP, names=["a", "b", "c"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert list(ax.get_xticks()) == [0, 1, 2]
    unnamed = rate_stack(INFORMATION, CORRELATION, GAP)
    assert [label.get_text() for label in unnamed.get_xticklabels()] == ["0", "1", "2"]


def test_the_legend_lies_above_stacks_of_one_height():
    ax = rate_stack([6.5] * 4, [0.5] * 4, [0.5] * 4, rate=[7.5] * 4, data_size=1000)
    ax.figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    assert not any(box.overlaps(bar.get_window_extent()) for bar in ax.patches)


def test_tensors_are_drawn_on_the_given_axes_only():
    _, ax = plt.subplots()
    parts = (torch.tensor(part, requires_grad=True) for part in (INFORMATION, CORRELATION, GAP))
    assert rate_stack(*parts, ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert ax.get_ylabel() == "nats per datum"


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match="total_correlation 2, dimensionwise_kl 3"):
        rate_stack(INFORMATION, CORRELATION[:2], GAP)


def test_a_kl_per_dimension_is_refused():
    with pytest.raises(ValueError, match=r"Expected dimensionwise_kl of shape \(d,\)"):
        rate_stack(INFORMATION, CORRELATION, np.ones((3, 2)))


def test_names_of_another_number_are_refused():
    with pytest.raises(ValueError, match="Expected 3 names but got 2"):
        rate_stack(INFORMATION, CORRELATION, GAP, names=["a", "b"])


def test_no_data_are_refused():
    for data_size in (0, math.nan):
        with pytest.raises(ValueError, match=f"Expected data_size >= 1 but got {data_size}"):
            rate_stack(INFORMATION, CORRELATION, GAP, data_size=data_size)
