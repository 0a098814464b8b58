"""Values of a site by datum, and as a program holds them."""

import pytest
import torch

from pyro_infomax.programs import SiteLayout

ROWS = 5


def layout(data_dim, inner=(), event=(), *, depth=1, rank=None, dtype=torch.float64):
    return SiteLayout("z", data_dim, inner, event, depth, depth if rank is None else rank, dtype)


CASES = [
    (layout(-1), (ROWS,)),
    (layout(-1, event=(2, 3)), (ROWS, 2, 3)),
    (layout(-2, ((-1, 4),), depth=2), (ROWS, 4)),
    (layout(-1, ((-2, 4),), depth=2), (4, ROWS)),
    (layout(-2, ((-3, 4), (-1, 2)), (3,), depth=3), (4, ROWS, 2, 3)),
    (layout(-1, ((-3, 4),), depth=3), (4, 1, ROWS)),
    (layout(-1, event=(3,), depth=2, rank=1), (ROWS, 3)),
    (layout(-2, depth=2), (ROWS, 1)),
]


@pytest.mark.parametrize(("subject", "shape"), CASES)
def test_values_are_held_in_the_program_s_shape_and_rows_are_the_inverse(subject, shape):
    for outer in (1, 3):
        z = torch.randn(outer, ROWS, *subject.shape)
        held = subject.held(z, ROWS)
        assert torch.equal(subject.rows(held, ROWS), z)
        assert torch.equal(subject.rows(subject.place(z, ROWS), ROWS), z)
        if outer == 1:
            assert held.shape == shape
        else:  # which stands left of all others
            assert held.dim() == 1 + subject.depth + len(subject.event_shape)
            assert held.shape[0] == outer
    one = torch.randn(1, 1, *subject.shape)  # for all rows
    assert torch.equal(subject.rows(subject.held(one, ROWS), ROWS), one.expand(1, ROWS, *subject.shape))


def test_inner_plates_keep_their_places():
    subject = layout(-2, ((-3, 4), (-1, 2)), depth=3)
    z = torch.randn(1, ROWS, 4, 2)
    held = subject.held(z, ROWS)
    assert held[3, 1, 0] == z[0, 1, 3, 0]


@pytest.mark.parametrize("outer", [1, 3])
def test_inner_plates_are_summed(outer):
    subject = layout(-2, ((-3, 4), (-1, 2)), depth=3)
    z = torch.randn(outer, ROWS, 4, 2)
    torch.testing.assert_close(subject.summed(subject.place(z, ROWS), ROWS), z.sum((-1, -2)))


def test_a_score_that_all_entries_of_a_plate_share_counts_for_each():
    subject = layout(-1, ((-2, 4),), depth=2)
    torch.testing.assert_close(subject.summed(torch.ones(ROWS), ROWS), torch.full((1, ROWS), 4.0))
    torch.testing.assert_close(subject.summed(torch.tensor(1.0), ROWS), torch.full((1, ROWS), 4.0))


def test_values_take_the_dtype_of_the_site():
    subject = layout(-1, dtype=torch.int64)
    assert subject.held(torch.ones(1, ROWS), ROWS).dtype == torch.int64


def test_sizes():
    subject = layout(-2, ((-1, 4),), (3,), depth=2)
    assert subject.shape == (4, 3)
    assert subject.size == 12
    assert layout(-1, event=(0,)).size == 0
