import pyro
import pytest
import torch
from torch import nn
from torch.distributions import constraints

from pyro_infomax.programs import ProgramState, Snapshot


class Program(nn.Module):
    """A parameter, and buffers of which one is replaced at each run."""

    def __init__(self, values):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(values))
        self.register_buffer("kept", torch.tensor(values))
        self.register_buffer("replaced", torch.tensor(values))

    def forward(self):
        pyro.module("program", self)
        pyro.param("scale", torch.ones(2), constraint=constraints.positive)
        self.replaced = self.replaced + 1


@pytest.fixture
def programs():
    return known(Program([1.0, 2.0]))


def known(module):
    programs = ProgramState(module)
    with programs.watch():
        module()
    return programs


@torch.no_grad()
def fill(programs, value):
    for tensor in (*programs.parameters.values(), *programs.buffers().values()):
        tensor.fill_(value)


def values(programs):
    return [each.tolist() for tensors in programs.state_dict().values() for each in tensors.values()]


def test_restores_in_place(programs):
    leaves, before = list(programs.parameters.values()), values(programs)
    snapshot = Snapshot(programs)
    fill(programs, 7.0)
    snapshot.restore()
    assert values(programs) == before
    assert all(ours is theirs for ours, theirs in zip(programs.parameters.values(), leaves, strict=True))


def test_restores_a_buffer_that_was_replaced(programs):
    snapshot = Snapshot(programs)
    (module,) = programs._behind.values()
    before = module.replaced.tolist()
    module()
    assert module.replaced.tolist() != before
    snapshot.restore()
    assert module.replaced.tolist() == before


def test_update_moves_the_point_to_go_back_to(programs):
    snapshot = Snapshot(programs)
    fill(programs, 3.0)
    snapshot.update()
    fill(programs, 0.0)
    snapshot.restore()
    assert values(programs) == [[3.0, 3.0]] * 4


@pytest.mark.parametrize(
    ("before", "after", "spoiled"),
    [
        ([0.0, 1.0], [0.0, 2.0], False),
        ([0.0, 1.0], [0.0, torch.nan], True),
        ([-torch.inf, 0.0], [-torch.inf, 0.0], False),
        ([0.0, -torch.inf], [torch.inf, -torch.inf], True),
    ],
)
@pytest.mark.parametrize("where", ["loc", "kept"])
def test_spoiled_is_what_was_finite(before, after, spoiled, where):
    module = Program(before)
    snapshot = Snapshot(known(module))
    with torch.no_grad():
        getattr(module, where).copy_(torch.tensor(after))
    assert snapshot.spoiled() is spoiled


def test_what_is_new_is_copied_before_it_is_moved():
    module = Program([1.0, 2.0])
    programs = ProgramState(lambda: module())
    snapshot = Snapshot(programs)
    programs.follow(snapshot.extend)
    with pyro.poutine.trace(), programs.watch(), pyro.poutine.trace():
        module()
    fill(programs, 7.0)
    snapshot.restore()
    assert module.loc.tolist() == [1.0, 2.0]
    # as they were before the first run
    assert module.replaced.tolist() == [1.0, 2.0]
    assert pyro.param("scale").tolist() == [1.0, 1.0]


def test_copies_pass_from_one_process_to_the_next(programs):
    snapshot = Snapshot(programs)
    before = values(programs)
    pyro.clear_param_store()
    other = known(Program([8.0, 9.0]))
    theirs = Snapshot(other)
    theirs.load_state_dict(snapshot.state_dict())
    theirs.restore()
    assert values(other) == before


def test_copies_of_other_programs_are_refused(programs):
    state = Snapshot(programs).state_dict()
    pyro.clear_param_store()
    with pytest.raises(ValueError, match=r"'program\$\$\$loc' to have shape \(3,\)"):
        Snapshot(known(Program([1.0, 2.0, 3.0]))).load_state_dict(state)


def test_a_module_that_is_met_again_within_another_keeps_its_first_copy():
    inner = nn.BatchNorm1d(2, momentum=1.0)
    outer = nn.Sequential(inner)
    programs = ProgramState(print)
    snapshot = Snapshot(programs)
    programs.follow(snapshot.extend)
    with programs.watch(), pyro.poutine.trace():
        inner(torch.full((3, 2), 5.0))
        outer(torch.full((3, 2), 5.0))
    assert inner.running_mean.tolist() == [5.0, 5.0]
    snapshot.restore()
    assert inner.running_mean.tolist() == [0.0, 0.0]


def test_a_graph_of_tensors_that_did_not_change_outlives_a_restoration():
    """As between the wake and the sleep of one evaluation, at the first of which the model is asked."""
    module = Program([1.0, 2.0])
    snapshot = Snapshot(known(module))
    loss = module.loc.square().exp().sum() * module.loc.sum()
    module.kept.fill_(7.0)
    snapshot.restore()
    assert module.kept.tolist() == [1.0, 2.0]
    loss.backward()
    assert module.loc.grad is not None
