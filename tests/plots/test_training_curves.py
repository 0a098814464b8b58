import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pyro_infomax.plots import history

TERMS = {"loss": [40.0, 30.0, 28.0], "distortion": [38.0, 25.0, 20.0], "rate": [2.0, 5.0, 8.0]}


@pytest.fixture
def frame():
    columns = TERMS | {"elbo": [-40.0, -30.0, -28.0]}
    columns |= {f"validation_{name}": [value + 1 for value in values] for name, values in columns.items()}
    return pd.DataFrame(columns, index=pd.Index([1, 2, 3], name="epoch"))


def drawn(ax):
    """Lines that hold data; the legend's key of the dashes holds none."""
    return [line for line in ax.lines if len(line.get_xdata())]


def dashed(line):
    return line.get_linestyle() == "--"


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_training_is_solid_with_the_values_of_the_frame(frame):
    solid = [line for line in drawn(history(frame)) if not dashed(line)]
    assert [line.get_label() for line in solid] == list(TERMS)
    for line, values in zip(solid, TERMS.values(), strict=True):
        assert np.array_equal(line.get_xdata(), [1, 2, 3])
        assert np.array_equal(line.get_ydata(), values)


def test_validation_is_dashed_with_the_values_of_the_frame(frame):
    lines = [line for line in drawn(history(frame)) if dashed(line)]
    assert len(lines) == 3
    for line, name in zip(lines, TERMS, strict=True):
        assert np.array_equal(line.get_ydata(), frame[f"validation_{name}"])


def test_a_term_has_one_colour(frame):
    lines = drawn(history(frame))
    training, validation = ([line.get_color() for line in lines if dashed(line) == d] for d in (False, True))
    assert training == validation
    assert len(set(training)) == 3


def test_legend_explains_colours_and_dashes(frame):
    assert legend(history(frame)) == ["loss", "distortion", "rate", "validation"]


def test_without_validation_no_dashes(frame):
    ax = history(frame[list(TERMS)])
    assert legend(ax) == list(TERMS)
    assert not any(dashed(line) for line in ax.lines)


def test_columns_choose_and_order(frame):
    assert legend(history(frame, columns=["elbo", "loss"])) == ["elbo", "loss", "validation"]


@pytest.mark.parametrize("terms", [["loss"], ["loss", "rate"]])
def test_terms_that_the_frame_lacks_are_left_out(frame, terms):
    assert legend(history(frame[terms])) == terms


def test_terms_that_were_never_known_are_left_out(frame):
    assert legend(history(frame[list(TERMS)].assign(rate=np.nan))) == ["loss", "distortion"]


def test_epochs_without_validation_leave_the_others(frame):
    frame.loc[2, "validation_loss"] = np.nan
    line = next(line for line in drawn(history(frame, columns=["loss"])) if dashed(line))
    assert np.array_equal(line.get_ydata(), [41, 29])
    assert np.array_equal(line.get_xdata(), [1, 3])


def test_axes_are_labelled_with_units(frame):
    ax = history(frame)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "nats per datum")
    assert ax.get_title()


def test_epochs_are_whole_numbers(frame):
    assert all(float(tick).is_integer() for tick in history(frame).get_xticks())


@pytest.mark.parametrize(("rows", "visible"), [(1, True), (3, False)])
def test_a_single_epoch_is_marked(frame, rows, visible):
    lines = drawn(history(frame.iloc[:rows]))
    assert all((line.get_marker() not in ("", "None")) is visible for line in lines)


def test_draws_on_the_given_axes_only(frame):
    _, ax = plt.subplots()
    assert history(frame, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_a_missing_column_is_named_with_those_that_are_there(frame):
    with pytest.raises(
        ValueError, match=r"the columns loss, surprise but got 3 rows with the columns loss, dist"
    ):
        history(frame, columns=["loss", "surprise"])


def test_a_frame_without_any_term_is_refused():
    with pytest.raises(
        ValueError, match=r"columns loss, distortion, rate but got 1 rows with the columns other"
    ):
        history(pd.DataFrame({"other": [1.0]}))


def test_a_frame_without_epochs_is_refused(frame):
    with pytest.raises(ValueError, match=r"a row an epoch .* but got 0 rows"):
        history(frame.iloc[:0], columns=["loss"])
