import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pyro_infomax.plots import information_over_size

LOWER, UPPER = "mutual_information_lower", "mutual_information_upper"


@pytest.fixture
def frame():
    columns = {LOWER: [3.9, 4.4, 4.6], UPPER: [5.0, 4.9, 4.8], "marginal_kl": [0.9, 0.4, 0.2]}
    columns |= {f"{name}_standard_error": [0.1, 0.05, 0.02] for name in columns}
    return pd.DataFrame(columns, index=pd.Index([100, 200, 400], name="size"))


def curves(ax):
    """Label to (x, y, half the length of the error bars)."""
    found = {}
    for container in ax.containers:
        line, _, bars = container
        lengths = [np.ptp(segment[:, 1]) / 2 for bar in bars for segment in bar.get_segments()]
        found[container.get_label()] = (line.get_xdata(), line.get_ydata(), lengths)
    return found


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_curves_have_the_values_of_the_frame(frame):
    found = curves(information_over_size(frame))
    assert len(found) == 3
    for (x, y, _), name in zip(found.values(), (UPPER, LOWER, "marginal_kl"), strict=True):
        assert np.array_equal(x, [100, 200, 400])
        assert np.array_equal(y, frame[name])


def test_error_bars_are_two_standard_errors(frame):
    for _, _, lengths in curves(information_over_size(frame)).values():
        assert np.allclose(lengths, [0.2, 0.1, 0.04])


def test_without_errors_there_are_no_bars(frame):
    found = curves(information_over_size(frame[[LOWER, UPPER]]))
    assert len(found) == 2
    assert all(not lengths for _, _, lengths in found.values())


def test_the_ceiling_is_ln_n_with_a_nat_of_shade_below(frame):
    ax = information_over_size(frame)
    (line,) = [each for each in ax.lines if each.get_linestyle() == ":"]
    assert np.allclose(line.get_ydata(), np.log(line.get_xdata()))
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == (100, 400)
    (band,) = [each for each in ax.collections if each.get_label() == "saturated"]
    edges = band.get_paths()[0].vertices
    assert edges[:, 1].min() == pytest.approx(np.log(100) - 1)
    assert edges[:, 1].max() == pytest.approx(np.log(400))


def test_the_size_is_on_a_logarithmic_axis_with_its_own_ticks(frame):
    ax = information_over_size(frame)
    assert ax.get_xscale() == "log"
    assert list(ax.get_xticks()) == [100, 200, 400]
    ax.figure.canvas.draw()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["100", "200", "400"]


def test_the_order_of_the_rows_does_not_matter(frame):
    backwards = curves(information_over_size(frame.iloc[::-1]))
    for one, other in zip(backwards.values(), curves(information_over_size(frame)).values(), strict=True):
        assert np.array_equal(one[1], other[1])


def test_the_legend_names_every_curve_and_the_axes_their_units(frame):
    ax = information_over_size(frame)
    assert len(labels(ax)) == 5
    assert "saturated" in labels(ax)
    assert ax.get_ylabel() == "nats per datum"
    assert ax.get_xlabel()
    assert ax.get_title()


def test_values_below_zero_are_seen(frame):
    assert information_over_size(frame).get_ylim()[0] == 0
    frame.loc[400, "marginal_kl"] = -0.5
    assert information_over_size(frame).get_ylim()[0] < -0.5 + 1e-9


def test_many_sizes_do_not_cover_each_other(frame):
    sizes = np.arange(1000, 4000, 100)
    ax = information_over_size(pd.DataFrame({LOWER: 3.0, UPPER: 4.0}, index=sizes))
    assert 3 <= len(ax.get_xticks()) <= 9
    assert set(ax.get_xticks()) <= set(sizes)
    assert list(information_over_size(frame).get_xticks()) == [100, 200, 400]


def test_a_single_size_has_a_visible_ceiling(frame):
    ax = information_over_size(frame.iloc[:1])
    (line,) = [each for each in ax.lines if each.get_linestyle() == ":"]
    assert np.ptp(line.get_xdata()) > 0


def test_draws_on_the_given_axes_only(frame):
    _, ax = plt.subplots()
    assert information_over_size(frame, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns=LOWER), "a row a size and the columns"),
        (lambda frame: frame.iloc[:0], "but got 0 rows"),
        (lambda frame: frame.set_axis([0, 1, 2]), "numbers of data as index but got"),
        (lambda frame: frame.set_axis(["a", "b", "c"]), "numbers of data as index but got"),
        (lambda frame: frame.assign(**{LOWER: math.nan}), f"finite {LOWER} but got 3 nan"),
    ],
)
def test_wrong_frames_are_refused(frame, change, message):
    with pytest.raises(ValueError, match=message):
        information_over_size(change(frame))
