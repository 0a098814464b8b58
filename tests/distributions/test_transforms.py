"""Which transforms act element by element, and which are the same for all data."""

import pytest
import torch
from torch.distributions import (
    AbsTransform,
    AffineTransform,
    ComposeTransform,
    CumulativeDistributionTransform,
    ExpTransform,
    IndependentTransform,
    Normal,
    SigmoidTransform,
    StickBreakingTransform,
)

from pyro_infomax.distributions._transforms import (
    elementwise,
    is_plain,
    parameters_of,
    shared,
    with_parameters,
)

ROWS = torch.arange(5.0)[:, None]


@pytest.mark.parametrize(
    "transform",
    [
        ExpTransform(),
        IndependentTransform(ExpTransform(), 1),
        AffineTransform(torch.zeros(3), 2.0, event_dim=1),
        ComposeTransform(
            [IndependentTransform(SigmoidTransform(), 1), AffineTransform(1.0, 2.0, event_dim=1)]
        ),
        ComposeTransform([]),
        ExpTransform().inv,
    ],
)
def test_elementwise_transforms_say_so_and_stay_the_same_map(transform) -> None:
    found = elementwise(transform)
    assert found.domain.event_dim == found.codomain.event_dim == 0
    u = torch.rand(4, 3)
    z = transform(u)
    torch.testing.assert_close(found(u), z)
    each = found.log_abs_det_jacobian(u, z)
    whole = transform.log_abs_det_jacobian(u, z)
    torch.testing.assert_close(each.sum(-1) if whole.dim() < 2 else each, whole)


@pytest.mark.parametrize(
    "transform", [StickBreakingTransform(), ComposeTransform([ExpTransform(), StickBreakingTransform()])]
)
def test_transforms_of_vectors_are_not_elementwise(transform) -> None:
    assert elementwise(transform) is None


@pytest.mark.parametrize(
    "transform",
    [
        ExpTransform(cache_size=1),
        StickBreakingTransform(),
        SigmoidTransform().inv,
        AffineTransform(1.0, torch.tensor([1.0, 2.0, 3.0])),
        AffineTransform(torch.full((5, 3), 2.0), 1.0),
        IndependentTransform(AffineTransform(torch.full((5, 1), 2.0), 1.0), 1),
        ComposeTransform([SigmoidTransform(), AffineTransform(torch.zeros(3), torch.ones(5, 3))]),
    ],
)
def test_a_transform_of_all_data_becomes_that_of_one(transform) -> None:
    found = shared(transform)
    u = torch.rand(5, 3)
    u[1:] = u[0]
    torch.testing.assert_close(found(u[0]), transform(u)[0])
    assert found(u[0]).shape == transform(u)[0].shape


@pytest.mark.parametrize(
    "transform",
    [
        AffineTransform(ROWS, 1.0),
        AffineTransform(0.0, 1 + ROWS),
        ComposeTransform([ExpTransform(), AffineTransform(ROWS, 1.0)]),
        IndependentTransform(AffineTransform(ROWS, 1.0), 1),
        AffineTransform(ROWS, 1.0).inv,
        AffineTransform(torch.zeros(1, 5, 3), 1.0),
        AbsTransform(),
        CumulativeDistributionTransform(Normal(ROWS, 1.0)),
    ],
)
def test_transforms_that_may_differ_from_datum_to_datum_are_not_shared(transform) -> None:
    assert shared(transform) is None


def test_plain_transforms_hold_numbers_alone() -> None:
    assert is_plain(ComposeTransform([AffineTransform(ROWS, 1.0), ExpTransform().inv]))
    assert is_plain(IndependentTransform(ExpTransform(), 1))
    assert not is_plain(CumulativeDistributionTransform(Normal(0.0, 1.0)))


def test_other_parameters_come_without_remembered_values() -> None:
    transform = AffineTransform(ROWS, 1.0, cache_size=1)
    u = torch.ones(5, 1)
    assert transform.inv(transform(u)) is u
    twin = with_parameters(transform, {"loc": ROWS[1:3]})
    assert twin._cached_x_y == (None, None)
    torch.testing.assert_close(twin(u[:2]), torch.tensor([[2.0], [3.0]]))
    torch.testing.assert_close(twin.inv(u[:2]), torch.tensor([[0.0], [-1.0]]))
    assert transform.loc is ROWS
    assert [name for name, _ in parameters_of(twin)] == ["loc"]
