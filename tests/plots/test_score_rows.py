import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pyro_infomax.disentanglement import Score, ScoreTable
from pyro_infomax.plots import scores

FRAME = pd.DataFrame(
    {
        "score": [0.45, 0.72, 0.6],
        "low": [0.4, 0.7, np.nan],
        "high": [0.5, 0.75, np.nan],
        "floor": [0.02, 0.67, np.nan],
        "floor_low": [0.0, 0.65, np.nan],
        "floor_high": [0.04, 0.7, np.nan],
        "ceiling": [0.9, 1.0, np.nan],
    },
    index=["mig", "modularity", "udr"],
)


def labelled(ax, label):
    handles, labels = ax.get_legend_handles_labels()
    return handles[labels.index(label)]


def segments(lines):
    return [tuple(segment.ravel()) for segment in lines.get_segments() if segment.size]


def test_dots_are_the_scores_the_first_on_top():
    ax = scores(FRAME)
    dots = labelled(ax, "score, with its interval")
    assert dots.get_xdata().tolist() == [0.45, 0.72, 0.6]
    assert dots.get_ydata().tolist() == [0, 1, 2]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["mig", "modularity", "udr"]
    assert ax.yaxis_inverted()


@pytest.mark.parametrize("name", ["floor", "ceiling"])
def test_floors_and_ceilings_are_marked_in_their_rows(name):
    found = segments(labelled(scores(FRAME), name))
    assert [(x, (low + high) / 2) for x, low, _, high in found] == [
        (FRAME[name].iloc[0], 0),
        (FRAME[name].iloc[1], 1),
    ]


def test_bars_show_where_noise_scores():
    bars = list(labelled(scores(FRAME), "where noise scores"))
    assert [bar.get_x() for bar in bars] == [0.0, 0.65]
    assert [bar.get_width() for bar in bars] == pytest.approx([0.04, 0.05])
    assert [bar.get_y() + bar.get_height() / 2 for bar in bars] == pytest.approx([0, 1])


def test_lines_are_the_intervals():
    lines = [segments(each) for each in scores(FRAME).collections]
    assert [(0.4, 0, 0.5, 0), (0.7, 1, 0.75, 1)] in lines
    ends = [[x for x, _, same, _ in line if x == same] for line in lines]
    assert [0.4, 0.7] in ends
    assert [0.5, 0.75] in ends


def test_the_frame_of_a_table_is_drawn():
    table = ScoreTable({"mig": Score("mig", 0.5, floor=0.1, ceiling=0.9), "udr": Score("udr", 0.7)})
    ax = scores(table.to_frame())
    assert labelled(ax, "score, with its interval").get_xdata().tolist() == [0.5, 0.7]
    assert segments(labelled(ax, "floor"))[0][0] == 0.1


def test_what_is_not_known_has_no_place_in_the_legend():
    unknown = FRAME.assign(**dict.fromkeys(FRAME.columns[1:], np.nan))
    legend = scores(unknown).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["score, with its interval"]


def test_names_and_axes_can_be_given():
    _, ax = plt.subplots()
    assert scores(FRAME, names=["a", "b", "c"], ax=ax) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    assert len(plt.get_fignums()) == 1


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="but floor_low, ceiling is missing"):
        scores(FRAME.drop(columns=["ceiling", "floor_low"]))


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="Expected a row a score but got none"):
        scores(FRAME.iloc[:0])


def test_a_score_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="Expected finite scores"):
        scores(FRAME.assign(score=np.nan))


def test_names_of_another_number_are_refused():
    with pytest.raises(ValueError, match="Expected 3 names but got 1"):
        scores(FRAME, names=["mig"])
