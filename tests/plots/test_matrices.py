import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_infomax.plots import importance_matrix, information_matrix

MATRIX = np.array([[0.1, 0.0, 0.7], [0.0, 0.1, 0.0], [0.2, 0.9, 0.1], [0.6, 0.0, 0.2]])  # (latent, factor)
BOTH = pytest.mark.parametrize("function", [importance_matrix, information_matrix])


def cells(ax):
    return np.asarray(ax.collections[0].get_array()).reshape(len(ax.get_yticks()), -1)


def texts(labels):
    return [label.get_text() for label in labels]


@BOTH
def test_rows_are_latent_dimensions_and_columns_are_factors_and_cells_hold_their_numbers(function):
    ax = function(torch.tensor(MATRIX, requires_grad=True))
    np.testing.assert_allclose(cells(ax), MATRIX)
    assert texts(ax.get_yticklabels()) == ["$z_{0}$", "$z_{1}$", "$z_{2}$", "$z_{3}$"]
    assert texts(ax.get_xticklabels()) == ["$v_{0}$", "$v_{1}$", "$v_{2}$"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("factor", "latent dimension")
    assert texts(ax.texts) == [f"{value:.2f}" for value in MATRIX.ravel()]


@BOTH
def test_ordered_rows_lie_on_a_diagonal_with_their_names_and_the_idle_last(function):
    ax = function(MATRIX, ordered=True, latent_names=list("abcd"), factor_names=["shape", "x", "y"])
    assert texts(ax.get_yticklabels()) == ["d", "c", "a", "b"]
    assert texts(ax.get_xticklabels()) == ["shape", "x", "y"]
    np.testing.assert_allclose(cells(ax), MATRIX[[3, 2, 0, 1]])


@BOTH
def test_a_large_matrix_has_no_numbers_and_names_that_stand_at_their_rows(function):
    ax = function(np.ones((60, 2)), ordered=True)
    assert len(ax.texts) == 0
    assert len(ax.get_yticks()) <= 12
    names = texts(ax.get_yticklabels())
    assert names == [f"$z_{{{int(tick)}}}$" for tick in ax.get_yticks()]


@BOTH
def test_names_of_columns_that_are_long_do_not_hide_each_other(function):
    names = [f"the factor of number {k}" for k in range(5)]
    ax = function(
        np.ones((3, 5)), factor_names=names, latent_names=[f"the latent of number {k}" for k in range(3)]
    )
    ax.figure.canvas.draw()
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {30}
    assert ax.get_window_extent().width > 5 * 50


@BOTH
def test_one_column_leaves_room_for_the_title(function):
    ax = function(np.ones((2, 1)), factor_names=["digit"])
    ax.figure.canvas.draw()
    frame = ax.figure.bbox
    for text in (ax.title, ax.collections[0].colorbar.ax.yaxis.label):
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1


@BOTH
def test_draws_on_the_given_axes(function):
    _, ax = plt.subplots()
    assert function(MATRIX, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


@BOTH
def test_a_matrix_of_nothing_is_white(function):
    ax = function(np.zeros((2, 2)))
    assert ax.collections[0].get_clim() == (0.0, 1.0)


def test_with_entropies_the_cells_are_shares_of_what_there_is_to_know():
    ax = information_matrix(MATRIX, entropies=[1.0, 2.0, 0.7])
    np.testing.assert_allclose(cells(ax), MATRIX / [1.0, 2.0, 0.7])
    assert ax.collections[0].get_clim() == (0.0, 1.0)
    assert ax.collections[0].colorbar.ax.get_ylabel() == "share known"


def test_information_has_its_unit_and_is_scaled_to_its_largest():
    ax = information_matrix([[-0.01, 0.9]])
    assert ax.collections[0].colorbar.ax.get_ylabel() == "mutual information, nats"
    assert ax.collections[0].get_clim() == (0.0, 0.9)
    # an estimate below nothing is drawn as nothing
    assert cells(ax)[0, 0] == 0


def test_importance_below_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Expected importance >= 0 but got -0\.01"):
        importance_matrix([[-0.01, 1.0]])


@BOTH
def test_other_shapes_are_refused(function):
    with pytest.raises(ValueError, match=r"of shape \(L, K\), .* but got shape \(3,\)"):
        function(np.ones(3))


@BOTH
def test_nan_is_refused(function):
    with pytest.raises(ValueError, match="Expected finite"):
        function(MATRIX * np.nan)


@pytest.mark.parametrize("entropies", [[1.0, 2.0], [1.0, 0.0, 1.0]])
def test_entropies_that_do_not_match_are_refused(entropies):
    with pytest.raises(ValueError, match="Expected an entropy above 0 for each factor, 3 in all"):
        information_matrix(MATRIX, entropies=entropies)


@BOTH
def test_names_of_another_number_are_refused(function):
    with pytest.raises(ValueError, match="Expected 3 names but got 1"):
        function(MATRIX, factor_names=["shape"])
