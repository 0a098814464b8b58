import pytest
import torch
from torch.distributions import Binomial, constraints

from pyro_infomax.guides import InnerPlate, LatentSite
from pyro_infomax.guides._prototype import CellFeatures, DataPlate, EarlierSite, SiteInput, laid_out

DATA = DataPlate("data", -1, None)
ROWS, COLUMNS = InnerPlate("rows", -2, 3), InnerPlate("columns", -3, 4)
VECTOR = LatentSite("v", constraints.real_vector, torch.Size([2]))
CELLS = LatentSite("c", constraints.real, torch.Size([]), (ROWS,))
GRID = LatentSite("g", constraints.real_vector, torch.Size([2]), (COLUMNS, ROWS))
CLASS = LatentSite("y", constraints.integer_interval(0, 4), torch.Size([]))


# ---- the axes of the plates


@pytest.mark.parametrize(
    ("data_dim", "dims", "shape"),
    [
        (-2, [], (5, 1, 7)),
        (-1, [-2], (3, 5, 7)),
        (-1, [-3], (3, 1, 5, 7)),
        (-2, [-3, -1], (3, 5, 4, 7)),
        (-3, [-2, -1], (5, 3, 4, 7)),
    ],
)
def test_features_stand_in_the_axes_of_their_plates(data_dim, dims, shape):
    cells = (3, 4)[: len(dims)]
    features = torch.randn(5, *cells, 7)
    placed = laid_out(features, data_dim, dims)
    assert placed.shape == shape
    index = [0] * (placed.dim() - 1)
    index[data_dim] = 2
    for dim, cell in zip(dims, (1, 3), strict=False):
        index[dim] = cell
    torch.testing.assert_close(placed[tuple(index)], features[(2, *(1, 3)[: len(dims)])])


def test_cells_get_features_of_their_own():
    cells = CellFeatures(7, [3, 4])
    features = torch.randn(5, 7)
    block = cells.linear.weight.reshape(3, 4, 7, 7)[2, 1]
    expected = features @ block.T + cells.linear.bias.reshape(3, 4, 7)[2, 1]
    torch.testing.assert_close(cells(features)[:, 2, 1], expected)


def test_features_alone_pass_through():
    seen = SiteInput(VECTOR, DATA, 7)
    features = torch.randn(5, 7)
    assert seen.out_features == 7
    assert torch.equal(seen(features, {}), features)
    assert not list(seen.parameters())


def test_one_row_a_datum_is_spread_over_the_cells():
    assert SiteInput(GRID, DATA, 7)(torch.randn(5, 7), {}).shape == (4, 3, 5, 7)


def test_features_of_cells_are_taken_as_they_are():
    features = torch.randn(5, 4, 3, 7)
    seen = SiteInput(GRID, DATA, 7, per_cell=(COLUMNS, ROWS))(features, {})
    torch.testing.assert_close(seen, features.movedim(0, 2))


def test_a_site_outside_of_a_plate_sees_the_mean_over_its_cells():
    features = torch.randn(5, 4, 3, 7)
    per_cell = (COLUMNS, ROWS)
    rows = SiteInput(CELLS, DATA, 7, per_cell=per_cell)(features, {})
    torch.testing.assert_close(rows, features.mean(1).movedim(0, 1))
    torch.testing.assert_close(
        SiteInput(VECTOR, DATA, 7, per_cell=per_cell)(features, {}), features.mean((1, 2))
    )


# ---- earlier sites


def test_a_later_site_sees_features_and_values_linearly_and_beyond():
    seen = SiteInput(VECTOR, DATA, 7, earlier=[VECTOR])
    features, value = torch.randn(5, 7), torch.randn(5, 2)
    out = seen(features, {"v": value})
    linear = features @ seen.of_features.weight.T + seen.of_features.bias + value @ seen.of_earlier.weight.T
    assert out.shape == (5, seen.out_features) == (5, 14)
    torch.testing.assert_close(out, torch.cat([linear[:, :7], linear[:, 7:].relu()], -1))


@pytest.mark.parametrize(
    ("in_features", "numbers", "width"), [(7, 2, 7), (256, 2, 64), (1, 2, 4), (256, 50, 100)]
)
def test_it_is_narrow_but_lets_a_linear_head_through(in_features, numbers, width):
    site = LatentSite("w", constraints.real_vector, torch.Size([numbers]))
    assert SiteInput(site, DATA, in_features, earlier=[VECTOR]).out_features == 2 * width


@pytest.mark.parametrize("lead", [(11,), (6, 11)])
def test_draws_in_front_stay_in_front(lead):
    seen = SiteInput(VECTOR, DATA, 7, earlier=[VECTOR])
    features, value = torch.randn(5, 7), torch.randn(*lead, 5, 2)
    out = seen(features, {"v": value})
    assert out.shape == (*lead, 5, 14)
    torch.testing.assert_close(out[3], seen(features, {"v": value[3]}))


@pytest.mark.parametrize(
    ("support", "numbers"),
    [
        (constraints.independent(constraints.integer_interval(0, 4), 1), 5 * 2),
        (Binomial(torch.tensor([3.0, 7.0]), 0.5).support, 8 * 2),
        (constraints.integer_interval(1, 4), 2),
        (constraints.boolean, 2),
        (constraints.nonnegative_integer, 2),
        (constraints.interval(0, 4), 2),
        (constraints.real, 2),
    ],
    ids=str,
)
def test_integers_from_zero_are_categories_and_other_values_are_numbers(support, numbers):
    assert EarlierSite.of(LatentSite("y", support, torch.Size([2])), VECTOR).size == numbers


def test_categories_are_seen_one_hot():
    earlier = EarlierSite.of(CLASS, VECTOR)
    assert earlier.size == 5
    torch.testing.assert_close(earlier.seen(torch.tensor([0, 4]), torch.float64), torch.eye(5)[[0, 4]])


def test_the_same_cells_stay_side_by_side():
    earlier, value = EarlierSite.of(CELLS, GRID), torch.randn(3, 5)
    assert earlier.size == 1
    torch.testing.assert_close(earlier.seen(value, torch.float64), value.unsqueeze(-1))


def test_all_cells_of_another_plate_are_seen():
    value = torch.randn(4, 3, 5, 2)
    to_datum = EarlierSite.of(GRID, VECTOR)
    seen = to_datum.seen(value, torch.float64)
    assert (to_datum.size, seen.shape) == (24, (1, 1, 5, 24))
    assert sorted(seen[0, 0, 1].tolist()) == sorted(value[:, :, 1].flatten().tolist())
    to_rows = EarlierSite.of(GRID, CELLS)
    seen = to_rows.seen(value, torch.float64)
    assert (to_rows.size, seen.shape) == (8, (1, 3, 5, 8))
    assert sorted(seen[0, 2, 1].tolist()) == sorted(value[:, 2, 1].flatten().tolist())


def test_another_number_of_cells_is_refused():
    with pytest.raises(
        ValueError, match=r"Expected 3 cells in plate 'rows'.* but got 4: use structured=False"
    ):
        EarlierSite.of(CELLS, VECTOR).seen(torch.zeros(4, 5), torch.float64)


def test_enumerated_cells_are_refused():
    with pytest.raises(NotImplementedError, match="'c' is enumerated within plate 'rows'"):
        EarlierSite.of(CELLS, VECTOR).seen(torch.zeros(2, 1, 1), torch.float64)
