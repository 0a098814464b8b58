"""Values and rows by choice, and tensors without values."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_infomax.programs import (
    Placeholder,
    ProgramStopped,
    RowsMessenger,
    ValuesMessenger,
    needs_data,
    no_placeholder_parameters,
)

# ---- Values for sites, and programs that stop early


def program():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(a, 1.0))
    return pyro.sample("x", dist.Normal(b, 1.0), obs=torch.tensor(9.0))


def trace_of(messenger):
    return poutine.trace(messenger(program)).get_trace()


def test_latent_sites_stay_latent():
    site = trace_of(ValuesMessenger({"a": torch.tensor(2.0)})).nodes["a"]
    assert site["value"].item() == 2.0
    assert not site["is_observed"]


def test_later_sites_see_the_value():
    trace = trace_of(ValuesMessenger({"a": torch.tensor(200.0)}))
    assert trace.nodes["b"]["fn"].loc.item() == 200.0


def test_observed_sites_stay_observed():
    site = trace_of(ValuesMessenger({"x": torch.tensor(3.0)})).nodes["x"]
    assert site["value"].item() == 3.0
    assert site["is_observed"]


def test_other_sites_are_drawn():
    messenger = ValuesMessenger({"a": torch.tensor(2.0)})
    assert trace_of(messenger).nodes["b"]["value"] != trace_of(messenger).nodes["b"]["value"]


def test_the_program_stops_after_the_last_site_that_is_awaited():
    handler = poutine.trace(ValuesMessenger({}, stop_after=["b", "a"])(program))
    for _ in range(2):  # a messenger serves more than one run
        with pytest.raises(ProgramStopped):
            handler.get_trace()
        assert list(handler.trace.nodes) == ["_INPUT", "a", "b"]


def test_it_runs_on_while_a_site_is_awaited():
    assert ValuesMessenger({}, stop_after=["a", "missing"])(program)().item() == 9.0


def test_it_runs_to_its_end_by_default():
    assert ValuesMessenger({})(program)().item() == 9.0


# ---- Rows of a subsampling plate by choice


def subsampled(x):
    with (
        pyro.plate("data", len(x), subsample_size=3) as rows,
        pyro.plate("inner", 4, subsample_size=2, dim=-2),
    ):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[rows])


def test_the_plate_takes_these_rows():
    x = torch.arange(10.0)
    trace = poutine.trace(RowsMessenger("data", torch.tensor([7, 0, 7]))(subsampled)).get_trace(x)
    assert trace.nodes["x"]["value"].tolist() == [7.0, 0.0, 7.0]


def test_other_plates_stay_random():
    rows = RowsMessenger("data", torch.arange(3))
    inner = {
        tuple(poutine.trace(rows(subsampled)).get_trace(torch.zeros(10)).nodes["inner"]["value"].tolist())
        for _ in range(20)
    }
    assert len(inner) > 1


def test_sites_of_that_name_are_left_alone():
    with RowsMessenger("z", torch.arange(3)):
        assert pyro.sample("z", dist.Normal(0.0, 1.0)).shape == ()


def test_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="subsample_size does not match"):
        RowsMessenger("data", torch.arange(2))(subsampled)(torch.zeros(10))


# ---- What a tensor without values tells, and what it does not


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
