import pytest

from pyro_infomax.nn import InstanceName
from pyro_infomax.programs._state import StableNames


def test_instances_are_numbered_in_the_order_of_asking():
    _, second, third = (InstanceName("StableNet") for _ in range(3))
    names = StableNames()
    asked = [f"{third}.a", f"{second}.a", f"{third}.b", f"{second}.a"]
    assert [names(each) for each in asked] == ["StableNet.a", "StableNet_2.a", "StableNet.b", "StableNet_2.a"]


@pytest.mark.parametrize("name", ["scale", "scale_2", "decoder_3$$$weight", "decoder_3.weight", ""])
def test_other_names_stay(name):
    assert StableNames()(name) == name


def test_kinds_are_numbered_apart():
    names = StableNames()
    found = [names(f"{InstanceName(kind)}.a") for kind in ("StableOne", "StableTwo", "StableOne")]
    assert found == ["StableOne.a", "StableTwo.a", "StableOne_2.a"]
