import copy
import pickle

import pyro
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_infomax.nn import InstanceName, adopt, drop_weak_references, register


def test_the_first_instance_has_the_plain_name():
    assert [InstanceName("Plain"), InstanceName("Plain"), InstanceName("Other")] == [
        "Plain",
        "Plain_2",
        "Other",
    ]


def test_a_copy_has_a_name_of_its_own():
    name = InstanceName("Copied")
    assert copy.deepcopy(name) == "Copied_2"
    assert pickle.loads(pickle.dumps(name)) == "Copied_3"


def test_an_unpickled_name_is_kept_where_it_is_free():
    for _ in range(3):
        name = InstanceName("Kept")
    elsewhere = pickle.dumps(name).replace(b"Kept", b"Free")  # as from a process with other names
    assert [pickle.loads(elsewhere), InstanceName("Free"), pickle.loads(elsewhere)] == [
        "Free_3",
        "Free_4",
        "Free_5",
    ]


def test_parameters_are_registered_under_the_name():
    layer = nn.Linear(2, 1)
    with pyro.poutine.trace(param_only=True) as capture:
        register("a", layer)
    values = {name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()}
    assert values.keys() == {"a$$$weight", "a$$$bias"}
    assert values["a$$$weight"] is layer.weight


def test_frozen_parameters_are_left_alone():
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    register("a", layer)
    assert set(pyro.get_param_store()) == {"a$$$weight"}


@pytest.mark.parametrize("act", [register, adopt])
def test_stored_values_are_taken_over(act):
    saved, fresh = nn.Linear(2, 1), nn.Linear(2, 1)
    register("a", saved)
    weight = fresh.weight
    act("a", fresh)
    assert fresh.weight is weight
    torch.testing.assert_close(fresh.state_dict(), saved.state_dict())
    assert pyro.param("a$$$weight").unconstrained() is weight


def test_adopting_registers_nothing():
    adopt("a", nn.Linear(2, 1))
    assert not pyro.get_param_store()


def test_stored_values_of_another_shape_are_refused():
    register("a", nn.Linear(2, 1))
    with pytest.raises(
        ValueError, match=r"a\$\$\$weight of shape \(1, 3\) but Pyro's store holds one of \(1, 2\)"
    ):
        adopt("a", nn.Linear(3, 1))


def test_a_saved_store_is_taken_over(tmp_path):
    saved, fresh = nn.Linear(2, 1), nn.Linear(2, 1)
    register("a", saved)
    pyro.get_param_store().save(tmp_path / "store.pt")
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store.pt")
    register("a", fresh)
    torch.testing.assert_close(fresh.weight, saved.weight)
    assert isinstance(fresh.weight, nn.Parameter)


def test_parameters_that_are_not_contiguous_train():
    layer = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    register("a", layer)
    assert pyro.param("a$$$weight").unconstrained() is layer.weight


def test_a_handler_that_changes_parameters_does_not_change_the_module():
    layer = nn.Linear(2, 1)
    register("a", layer)
    weight = layer.weight
    other = torch.zeros(1, 2)
    other.unconstrained = lambda: other
    with pyro.poutine.replay(params={"a$$$weight": other}):
        register("a", layer)
    assert layer.weight is weight
    assert weight.abs().sum() > 0


def test_what_is_no_module_is_passed_over():
    register("a", lambda x: x)
    register("a", abs)
    adopt("a", None)
    assert not pyro.get_param_store()


def test_a_method_stands_for_its_module():
    layer = nn.Linear(2, 1)
    register("a", layer.forward)
    assert "a$$$weight" in pyro.get_param_store()


def test_a_pyro_module_registers_itself_under_the_name():
    layer = PyroModule[nn.Linear](2, 1)
    register("a", layer)
    layer(torch.zeros(1, 2))
    assert set(pyro.get_param_store()) == {"a.weight", "a.bias"}


def test_a_registered_module_can_be_pickled():
    layer = nn.Linear(2, 1)
    register("a", layer)
    drop_weak_references(layer)
    torch.testing.assert_close(pickle.loads(pickle.dumps(layer)).weight, layer.weight)
