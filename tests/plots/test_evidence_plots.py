"""Gaps and Pareto k of each datum."""

import numpy as np
import pandas as pd
import pytest

from pyro_infomax.plots import inference_gaps, pareto_k_curves


def frame(**columns):
    found = {
        "approximation_gap": [0.3, 0.1, 0.2],
        "amortisation_gap": [0.0, 1.0, 0.3],
        "converged": [True, False, True],
    }
    return pd.DataFrame(found | columns)


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_areas_add_up_in_the_order_of_the_sum():
    ax = inference_gaps(frame())
    lower, upper = (area.get_datalim(ax.transData) for area in ax.collections)
    assert (lower.y0, upper.y1) == (0.0, pytest.approx(1.1))
    assert lower.y1 == pytest.approx(0.3)
    # in the order of the sum the data are 0, 2, 1: the first step is the least
    top = ax.collections[1].get_paths()[0].vertices
    assert sorted({round(y, 6) for x, y in top}) == [0.1, 0.2, 0.3, 0.5, 1.1]
    assert labels(ax)[:2] == [
        "approximation gap (family): mean 0.20",
        "amortisation gap (encoder): mean 0.43",
    ]


def test_data_that_have_not_converged_are_marked():
    ax = inference_gaps(frame())
    (marks,) = ax.get_lines()
    assert marks.get_xdata().tolist() == [2.5]
    assert labels(ax)[-1] == "not converged"
    assert not inference_gaps(frame(converged=True)).get_lines()


def test_noise_below_zero_is_drawn_as_zero_and_kept_in_the_mean():
    ax = inference_gaps(frame(approximation_gap=[-0.3, 0.0, 0.0]))
    assert all(area.get_datalim(ax.transData).y0 == 0 for area in ax.collections)
    assert labels(ax)[0] == "approximation gap (family): mean -0.10"
    ax = inference_gaps(
        frame(
            approximation_gap=[-0.3, 0.0, 0.0],
            amortisation_gap=[0.9, 0.5, 0.8],
            converged=[False, True, True],
        )
    )
    assert ax.get_lines()[0].get_xdata().tolist() == [2.5]  # what is drawn of the first is the largest


def test_data_without_finite_gaps_are_counted():
    ax = inference_gaps(frame(amortisation_gap=[np.inf, 1.0, np.nan]))
    assert "2 without finite gaps left out" in ax.get_xlabel()
    assert ax.get_xlim() == (0, 1)
    with pytest.raises(ValueError, match="3 rows, none of which has"):
        inference_gaps(frame(amortisation_gap=np.nan))
    with pytest.raises(ValueError, match=r"\['converged'\] are missing"):
        inference_gaps(frame().drop(columns="converged"))


def test_k_in_ascending_order_with_the_share_that_can_be_trusted():
    ax = pareto_k_curves({"guide": [0.9, -np.inf, 0.4, np.inf], "refined": [0.1, 0.2]}, threshold=0.67)
    guide, refined, line = ax.get_lines()
    low, high = ax.get_ylim()
    assert guide.get_ydata() == pytest.approx([low, 0.4, 0.9, high])
    assert guide.get_xdata() == pytest.approx([0.125, 0.375, 0.625, 0.875])
    assert refined.get_ydata() == pytest.approx([0.1, 0.2])
    assert line.get_ydata() == [0.67, 0.67]
    assert labels(ax) == ["guide: 50% can be trusted", "refined: 100% can be trusted"]


def test_what_is_not_known_cannot_be_trusted():
    ax = pareto_k_curves({"guide": [0.9, np.nan, 0.4, 0.1]}, threshold=0.67)
    guide, _ = ax.get_lines()
    assert guide.get_ydata() == pytest.approx([0.1, 0.4, 0.9])
    assert guide.get_xdata() == pytest.approx([0.125, 0.375, 0.625])
    assert labels(ax) == ["guide: 50% can be trusted, 1 unknown"]


def test_a_share_is_not_rounded_up_to_all():
    ax = pareto_k_curves({"guide": [0.9] + [0.1] * 999}, threshold=0.67)
    assert labels(ax) == ["guide: 99% can be trusted"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, r"k of some data but got none of \[\]"),
        ({"guide": []}, r"none of \['guide'\]"),
        ({"few": [np.nan, np.nan], "guide": [0.5]}, r"\['few'\] are all nan: take 21 draws"),
    ],
)
def test_what_has_no_k_is_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        pareto_k_curves(values, threshold=0.7)
