import numpy as np
import pandas as pd
import pytest

from pyro_infomax.plots import coverage, evidence_differences, rank_curves


def curves(**p_values: float) -> pd.DataFrame:
    probability = np.linspace(0.1, 0.9, 9)
    band = {"probability": probability, "lower": -0.1, "upper": 0.1}
    parts = [
        pd.DataFrame({"quantity": name, "difference": 0.02 * (i + 1), "p_value": p_value} | band)
        for i, (name, p_value) in enumerate(p_values.items())
    ]
    return pd.concat(parts, ignore_index=True)


def named(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_what_fails_is_named_and_the_rest_is_grey():
    ax = rank_curves(curves(a=0.5, b=0.001, c=0.2))
    assert named(ax) == ["the others", "b"]
    heights = sorted(float(line.get_ydata()[1]) for line in ax.get_lines())
    assert heights == pytest.approx([0.02, 0.04, 0.06])
    assert all(line.get_ydata()[0] == line.get_ydata()[-1] == 0 for line in ax.get_lines())
    assert len({line.get_color() for line in ax.get_lines()}) == 2


def test_where_nothing_fails_all_are_grey():
    assert named(rank_curves(curves(a=0.5, b=0.3))) == ["all quantities"]
    assert named(rank_curves(curves(a=0.5, b=0.3), level=0.4)) == ["the others", "b"]


def test_the_widest_band_is_drawn():
    frame = curves(a=0.5, b=0.3)
    frame.loc[frame["quantity"] == "b", ["lower", "upper"]] = [-0.2, 0.3]
    (band,) = rank_curves(frame).collections[:1]
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.3)


def test_bands_of_different_numbers_of_ranks_are_told_apart():
    frame = curves(a=0.5, b=0.001, c=0.002)
    frame.loc[frame["quantity"] == "b", ["lower", "upper"]] = [-0.2, 0.3]
    ax = rank_curves(frame)
    heights = [band.get_paths()[0].vertices[:, 1].max() for band in ax.collections[:2]]
    assert heights == pytest.approx([0.3, 0.1])
    curve_of = {line.get_label(): line for line in ax.get_lines() if line.get_linestyle() == "-"}
    edges = [line for line in ax.get_lines() if line.get_linestyle() == ":"]
    assert [float(line.get_ydata()[1]) for line in edges] == pytest.approx([-0.2, 0.3, -0.1, 0.1])
    assert [line.get_color() for line in edges[::2]] == [curve_of[name].get_color() for name in "bc"]


def coverages(*num_simulations: int) -> pd.DataFrame:
    columns = {"coverage_50": [0.4, 0.5], "coverage_90": [0.8, 0.9], "num_simulations": num_simulations}
    return pd.DataFrame(columns, index=["z[0]", "tarp"])


def test_coverage_has_a_row_a_quantity():
    ax = coverage(coverages(100, 100))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["z[0]", "tarp"]
    points = [line.get_xdata() for line in ax.get_lines() if line.get_marker() == "o"]
    assert np.array_equal(points, [[0.4, 0.5], [0.8, 0.9]])


def test_the_band_of_a_share_is_of_its_own_simulations():
    ax = coverage(coverages(100, 400))
    bands = [(bar.get_y() + 0.5, bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]
    # 1.96 standard errors sqrt(0.25 / N) of a half, and sqrt(0.09 / N) of nine tenths
    expected = [(1, 0.402, 0.598), (0, 0.451, 0.549), (1, 0.8412, 0.9588), (0, 0.8706, 0.9294)]
    assert np.allclose(bands, expected)


@pytest.mark.parametrize("draw", [rank_curves, evidence_differences, coverage])
def test_other_frames_are_refused(draw):
    with pytest.raises(
        ValueError, match=r"Expected a frame with the columns .* but got 1 rows with the columns a"
    ):
        draw(pd.DataFrame({"a": [1.0]}))
    with pytest.raises(ValueError, match="at least one row but got 0"):
        draw(pd.DataFrame())


def test_shares_of_nothing_are_refused():
    with pytest.raises(ValueError, match=r"Expected shares of at least 1 simulation but got .* \[10, 0\]"):
        coverage(coverages(10, 0))
    with pytest.raises(ValueError, match=r"at least 1 simulation but got .* \[\] of the quantities"):
        coverage(coverages(10, 10).assign(coverage_50=np.nan))


def differences() -> pd.DataFrame:
    columns = {"elpd_diff": [0.0, 30.0, 50.0], "dse": [0.0, 4.0, 5.0], "pareto_k_share": [0.0, np.nan, 0.25]}
    return pd.DataFrame(columns, index=["a", "b", "c"])


def test_differences_have_two_errors_to_either_side():
    ax = evidence_differences(differences(), data_size=10)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["a", "b", "c (k too large for 25%)"]
    ends = [segment[:, 0] for bars in ax.collections for segment in bars.get_segments()]
    assert np.allclose(ends, [[0, 0], [2.2, 3.8], [4, 6]])
    assert ax.get_xlabel().endswith("(nats per datum)")
    with pytest.raises(ValueError, match="Expected data_size >= 1 but got 0"):
        evidence_differences(differences(), data_size=0)
