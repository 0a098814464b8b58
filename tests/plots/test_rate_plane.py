import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection

from pyro_infomax.plots import rate_distortion_plane

RATE = np.array([0.5, 2.0, 4.0])
DISTORTION = np.array([9.0, 4.0, 2.0])
BETA = np.array([4.0, 1.0, 0.5])
CURVE = np.linspace(0, 5, 20), 10 * np.exp(-np.linspace(0, 5, 20))


def points(ax):
    """The drawn points of each set, by the set's name."""
    return {
        c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)
    }


def slopes(ax):
    (lines,) = (c for c in ax.collections if isinstance(c, LineCollection))
    return np.stack(lines.get_segments())  # (pair, end, 2)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def labels(ax):
    return [text.get_text() for text in ax.texts]


def test_rate_lies_across_and_distortion_upwards():
    ax = rate_distortion_plane(RATE, DISTORTION)
    assert np.array_equal(points(ax)["achieved"], np.stack([RATE, DISTORTION], axis=1))
    assert ax.get_xlabel() == "rate $R$, nats per datum"
    assert ax.get_ylabel() == "distortion $D$, nats per datum"


def test_curves_are_drawn_and_named():
    other = CURVE[0], CURVE[1] + 1
    ax = rate_distortion_plane(RATE, DISTORTION, curves={"Shannon": CURVE, "bound": other})
    assert [line.get_label() for line in ax.lines] == ["Shannon", "bound"]
    for line, (rates, distortions) in zip(ax.lines, (CURVE, other), strict=True):
        assert np.array_equal(line.get_xdata(), rates)
        assert np.array_equal(line.get_ydata(), distortions)
    assert len({line.get_linestyle() for line in ax.lines}) == 2
    assert legend(ax) == ["Shannon", "bound", "achieved"]


def test_the_lines_through_the_points_fall_by_beta():
    ends = slopes(rate_distortion_plane(RATE, DISTORTION, beta=BETA))
    run, rise = (ends[:, 1] - ends[:, 0]).T
    assert rise / run == pytest.approx(-BETA)
    assert ends.mean(axis=1) == pytest.approx(np.stack([RATE, DISTORTION], axis=1))


def test_the_lines_are_equally_long_to_the_eye_and_leave_the_frame_alone():
    plain, ax = rate_distortion_plane(RATE, DISTORTION), rate_distortion_plane(RATE, DISTORTION, beta=BETA)
    assert ax.get_xlim() == plain.get_xlim()
    assert ax.get_ylim() == plain.get_ylim()
    span = np.array([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])
    ends = slopes(ax) / span
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=-1)
    assert lengths == pytest.approx(lengths[0])


def test_each_point_has_its_weight():
    assert labels(rate_distortion_plane(RATE, DISTORTION, beta=BETA)) == [
        r"$\beta = 4$",
        r"$\beta = 1$",
        r"$\beta = 0.5$",
    ]


def test_points_that_lie_together_share_a_label():
    ax = rate_distortion_plane([0.0, 0.01, 3.0, 0.0], [9, 9, 2, 9.01], beta=[16, 8, 1, 32])
    assert labels(ax) == [r"$\beta = 8, 16, 32$", r"$\beta = 1$"]


def test_weights_stand_where_they_are_put():
    for place, side in (("above", 1), ("below", -1)):
        ax = rate_distortion_plane(RATE, DISTORTION, beta=BETA, place=place)
        ax.figure.canvas.draw()
        for text, point in zip(ax.texts, np.stack([RATE, DISTORTION], axis=1), strict=True):
            box, spot = text.get_window_extent(), ax.transData.transform(point)
            assert (box.y0 > spot[1]) if side > 0 else (box.y1 < spot[1])
            assert (box.x0 > spot[0]) if side > 0 else (box.x1 < spot[0])


def test_without_weights_neither_labels_nor_slopes():
    ax = rate_distortion_plane(RATE, DISTORTION)
    assert not labels(ax)
    assert not any(isinstance(c, LineCollection) for c in ax.collections)
    assert legend(ax) == ["achieved"]


def test_saturated_pairs_are_hollow():
    ax = rate_distortion_plane(RATE, DISTORTION, saturated=torch.tensor([False, False, True]))
    drawn = points(ax)
    hollow = next(label for label in drawn if "saturated" in label)
    assert np.array_equal(drawn["achieved"], [[0.5, 9], [2, 4]])
    assert np.array_equal(drawn[hollow], [[4, 2]])
    faces = {c.get_label(): c.get_facecolor()[0][:3].tolist() for c in ax.collections}
    assert faces[hollow] == [1, 1, 1]
    assert faces["achieved"] != [1, 1, 1]


def test_if_all_are_saturated_there_is_no_key_for_the_others():
    ax = rate_distortion_plane(RATE, DISTORTION, saturated=[True] * 3)
    assert len(legend(ax)) == 1
    assert "saturated" in legend(ax)[0]


def test_a_second_set_joins_the_first_with_one_key_for_the_slopes():
    ax = rate_distortion_plane(RATE, DISTORTION, beta=BETA, curves={"Shannon": CURVE})
    other = rate_distortion_plane(RATE, DISTORTION + 1, beta=BETA, name="two latents", colour="C1", ax=ax)
    assert other is ax
    assert len(plt.get_fignums()) == 1
    assert legend(ax) == ["Shannon", "achieved", "two latents", r"slope $-\beta$"]
    colours = {c.get_label(): tuple(c.get_edgecolor()[0]) for c in ax.collections}
    assert colours["achieved"] != colours["two latents"]


def test_tensors_with_gradients_are_drawn():
    ax = rate_distortion_plane(torch.tensor(RATE, requires_grad=True), torch.tensor(DISTORTION))
    assert np.array_equal(points(ax)["achieved"][:, 0], RATE)


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match=r"one number per pair .* rate 3, distortion 3, beta 2, saturated 3"):
        rate_distortion_plane(RATE, DISTORTION, beta=BETA[:2])


def test_a_curve_with_a_rate_too_many_is_named():
    with pytest.raises(ValueError, match=r"distortions in the curve 'Shannon' but got 20 and 19\."):
        rate_distortion_plane(RATE, DISTORTION, curves={"Shannon": (CURVE[0], CURVE[1][:-1])})


def test_nan_in_a_curve_is_refused():
    with pytest.raises(ValueError, match="Expected finite the curve 'Shannon' but got 1 nan"):
        rate_distortion_plane(RATE, DISTORTION, curves={"Shannon": ([0.0, np.nan], [1.0, 2.0])})


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="Expected beta >= 0 but got -1"):
        rate_distortion_plane(RATE, DISTORTION, beta=[1, -1, 2])


def test_an_unknown_place_is_refused():
    with pytest.raises(ValueError, match="'above' or 'below' but got 'left'"):
        rate_distortion_plane(RATE, DISTORTION, place="left")
