"""What a tensor without values tells, and what it does not."""

import pyro
import pytest
import torch
from torch import nn

from pyro_infomax.programs import Placeholder, needs_data, no_placeholder_parameters


@pytest.fixture
def x():
    return Placeholder.of((4, 3))


@pytest.mark.parametrize(
    "of_values",
    [
        lambda x: x + 1,
        lambda x: 2 * x,
        lambda x: torch.ones(4, 3) - x,
        lambda x: x @ torch.ones(3, 2),
        lambda x: x.mean(),
        lambda x: x.max(-1)[0],
        lambda x: x > 0,
        lambda x: x[:, 0].reshape(-1, 2),
        lambda x: torch.cat([torch.zeros(4, 1), x], 1),
        lambda x: torch.where(x > 0, torch.ones(4, 3), torch.zeros(4, 3)),
        lambda x: torch.ones(7)[x[:, 0].long()],
        lambda x: nn.functional.embedding(x.long(), torch.eye(3)),
        lambda x: nn.Linear(3, 2)(x),
        lambda x: x.to(torch.float32),
        lambda x: x.to("cpu").cpu(),
        lambda x: x.to(torch.ones(1)),
        lambda x: torch.poisson(x),
    ],
)
def test_what_depends_on_values_has_none(x, of_values):
    assert isinstance(of_values(x), Placeholder)


@pytest.mark.parametrize(
    ("of_shape", "expected"),
    [
        (lambda x: x.new_zeros(len(x), 2), torch.zeros(4, 2)),
        (lambda x: x.new_ones(torch.Size((x.shape[0], 2))), torch.ones(4, 2)),
        (lambda x: x.new_full((2,), 3.0), torch.full((2,), 3.0)),
        (lambda x: torch.zeros_like(x), torch.zeros(4, 3)),
        (lambda x: torch.ones_like(x[:, 0]), torch.ones(4)),
        (lambda x: torch.zeros(x.size(0), x.size(-1), dtype=x.dtype, device=x.device), torch.zeros(4, 3)),
        (lambda x: x.new_tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])),
    ],
)
def test_what_depends_on_the_shape_is_plain(x, of_shape, expected):
    plain = of_shape(x)
    assert not isinstance(plain, Placeholder)
    assert torch.equal(plain, expected)


def test_shape_and_type(x):
    assert x.shape == (4, 3)
    assert len(x) == 4
    assert x.dim() == 2
    assert x.dtype == torch.float64
    assert x.is_floating_point()
    assert Placeholder.of((2,), dtype=torch.int64).dtype == torch.int64


@pytest.mark.parametrize(
    ("moved", "dtype"),
    [
        (lambda x: x.to("cpu"), torch.float64),
        (lambda x: x.to(torch.float16), torch.float16),
        (lambda x: x.to(dtype=torch.float16), torch.float16),
        (lambda x: x.to("cpu", torch.float16), torch.float16),
        (lambda x: x.to(torch.device("cpu"), dtype=torch.float16), torch.float16),
    ],
)
def test_moved_it_has_the_type_that_was_asked_for(x, moved, dtype):
    found = moved(x)
    assert isinstance(found, Placeholder)
    assert (found.dtype, found.shape) == (dtype, x.shape)


@pytest.mark.parametrize("branch", [bool, float, int, lambda x: x.tolist(), lambda x: 1 if x > 0 else 0])
def test_values_are_refused(x, branch):
    with pytest.raises(RuntimeError):
        branch(x.sum())


@pytest.mark.parametrize(
    "write", [lambda into, x: into.copy_(x), lambda into, x: into.__setitem__(slice(2), x[:2])]
)
def test_plain_tensors_are_not_written_to(x, write):
    into = torch.zeros(4, 3)
    with pytest.raises(RuntimeError, match="without values"):
        write(into, x)


def test_parameters_from_placeholders_are_forgotten(x):
    with no_placeholder_parameters():
        pyro.param("mean", lambda: x.mean())
        pyro.param("size", lambda: torch.tensor(float(len(x))))
    assert list(pyro.get_param_store().keys()) == ["size"]


def test_the_error_says_what_to_do():
    assert str(needs_data(RuntimeError("why\nand where"))) == (
        "Expected data of the model, since its prior cannot be had without them (why); pass them, as in "
        "log_prior(z, x)"
    )
