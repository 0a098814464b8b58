import pyro
import pytest
import torch
from torch.distributions import constraints

from pyro_infomax.training.snapshot import Snapshot, SnapshotMessenger


def test_restores_in_place():
    parameter = torch.ones(2, requires_grad=True)
    snapshot = Snapshot([parameter])
    with torch.no_grad():
        parameter.mul_(3)
    snapshot.restore()
    assert parameter.tolist() == [1.0, 1.0]


def test_update_moves_the_point_to_go_back_to():
    parameter = torch.ones(2)
    snapshot = Snapshot([parameter])
    parameter.mul_(3)
    snapshot.update()
    parameter.zero_()
    snapshot.restore()
    assert parameter.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("before", "after", "spoiled"),
    [
        ([0.0, 1.0], [0.0, 2.0], False),
        ([0.0, 1.0], [0.0, torch.nan], True),
        ([-torch.inf], [-torch.inf], False),
        ([0.0, -torch.inf], [torch.inf, -torch.inf], True),
    ],
)
def test_spoiled_is_what_was_finite(before, after, spoiled):
    tensor = torch.tensor(before)
    snapshot = Snapshot([tensor])
    tensor.copy_(torch.tensor(after))
    assert snapshot.spoiled() is spoiled


def test_messenger_copies_a_parameter_when_it_is_first_stated():
    snapshot = Snapshot()
    for _ in range(2):
        with SnapshotMessenger(snapshot):
            pyro.param("scale", torch.ones(2), constraint=constraints.positive)
        leaf = pyro.param("scale").unconstrained()
        with torch.no_grad():
            leaf.add_(1.0)
    snapshot.restore()
    assert list(snapshot) == [leaf]
    assert pyro.param("scale").tolist() == [1.0, 1.0]


def test_messenger_knows_parameters_that_a_module_keeps_to_itself():
    with pyro.settings.context(module_local_params=True):
        module = pyro.nn.PyroModule[torch.nn.Linear](2, 1)
        snapshot = Snapshot()
        with SnapshotMessenger(snapshot):
            module(torch.ones(3, 2))
    assert set(snapshot) == {module.weight, module.bias}
