from copy import deepcopy

import pyro
import pytest
import torch

from pyro_infomax.capture import FusedOptim
from pyro_infomax.programs import ProgramState
from pyro_infomax.training._checkpoint import forget_moments, prepare_moments, read_moments

OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.1}, {"clip_norm": 1.0}),
    "scheduled": lambda: pyro.optim.StepLR(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1, "momentum": 0.9}, "step_size": 2}
    ),
    "FusedOptim": lambda: FusedOptim(torch.optim.Adam, {"lr": 0.1}),
}


def model():
    pyro.param("a", torch.zeros(2))
    pyro.param("b", torch.zeros(3))


@pytest.fixture
def programs():
    return known()


def known(program=model):
    pyro.clear_param_store()
    programs = ProgramState(program)
    with programs.watch():
        program()
    return programs


def step(optim, programs, gradient):
    leaves = list(programs.parameters.values())
    for leaf in leaves:
        leaf.grad = torch.full_like(leaf, gradient)
    optim(leaves)
    if optim.__class__.__name__ == "PyroLRScheduler":
        optim.step()


def values(programs):
    return [leaf.tolist() for leaf in programs.parameters.values()]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_goes_on_from_what_was_read(kind, programs):
    optim = OPTIMIZERS[kind]()
    for gradient in (1.0, -2.0):
        step(optim, programs, gradient)
    kept, stood = deepcopy(read_moments(optim, programs)), values(programs)
    step(optim, programs, 0.5)
    expected = values(programs)

    other, theirs = known(), OPTIMIZERS[kind]()
    # moments of its own, which have to go
    step(theirs, other, 100.0)
    with torch.no_grad():
        for leaf, value in zip(other.parameters.values(), stood, strict=True):
            leaf.copy_(torch.tensor(value))
    prepare_moments(theirs, kept, other)()
    step(theirs, other, 0.5)
    assert values(other) == expected


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_getting_ready_changes_nothing(kind, programs):
    optim = OPTIMIZERS[kind]()
    step(optim, programs, 1.0)
    kept = deepcopy(read_moments(optim, programs))
    step(optim, programs, 2.0)
    before = str(read_moments(optim, programs))
    put_back = prepare_moments(optim, kept, programs)
    assert str(read_moments(optim, programs)) == before
    put_back()
    assert str(read_moments(optim, programs)) != before


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_belongs_to_a_later_parameter_waits_and_is_kept_meanwhile(kind, programs):
    optim = OPTIMIZERS[kind]()
    step(optim, programs, 1.0)
    kept = read_moments(optim, programs)
    first = known(lambda: pyro.param("a", torch.zeros(2)))
    theirs = OPTIMIZERS[kind]()
    prepare_moments(theirs, kept, first)()
    assert set(read_moments(theirs, first)) == {"a", "b"}
    step(theirs, first, 0.5)
    assert set(read_moments(theirs, first)) == {"a", "b"}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_nothing_of_its_own_stays(kind, programs):
    """Neither moments nor what has waited for a parameter."""
    theirs = OPTIMIZERS[kind]()
    step(theirs, programs, 1.0)
    theirs.set_state({"ghost": deepcopy(read_moments(theirs, programs)["a"])})
    prepare_moments(theirs, {}, programs)()
    assert read_moments(theirs, programs) == {}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_forgotten_moments_begin_anew(kind, programs):
    optim = OPTIMIZERS[kind]()
    step(optim, programs, 5.0)
    forget_moments(optim)
    assert read_moments(optim, programs) == {}
    before = values(programs)
    step(optim, programs, 1.0)
    moved = torch.tensor(values(programs)[0]) - torch.tensor(before[0])
    fresh, other = OPTIMIZERS[kind](), known()
    step(fresh, other, 1.0)
    torch.testing.assert_close(moved, torch.tensor(values(other)[0]))
