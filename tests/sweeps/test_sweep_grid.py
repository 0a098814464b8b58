import math

import numpy as np
import pytest
import torch

from pyro_infomax.sweeps._grid import axes_of, points_of


def points(grid, seeds=1):
    return points_of(axes_of(grid, seeds))


def test_every_combination_the_seeds_fastest():
    found = [point.arguments for point in points({"beta": [1.0, 4.0], "prior": ["a"]}, seeds=[5, 3])]
    assert found == [
        {"beta": 1.0, "prior": "a", "seed": 5},
        {"beta": 1.0, "prior": "a", "seed": 3},
        {"beta": 4.0, "prior": "a", "seed": 5},
        {"beta": 4.0, "prior": "a", "seed": 3},
    ]


@pytest.mark.parametrize(
    ("values", "coordinate"),
    [
        ([1, 2], np.array([1, 2])),
        ([1, 0.5], np.array([1.0, 0.5])),
        ([math.inf, 1.0], np.array([math.inf, 1.0])),
        ([True, False], np.array([True, False])),
        ([None, 2], np.array(["None", "2"])),
        ([True, 2], np.array(["True", "2"])),
        ([(64,), (64, 32)], np.array(["(64,)", "(64, 32)"])),
        (["a", "bc"], np.array(["a", "bc"])),
        ({"none": None, "some": object()}, np.array(["none", "some"])),
        (np.array([0.5, 0.25]), np.array([0.5, 0.25])),
        (torch.tensor([1, 2]), np.array([1, 2])),
        (range(2), np.array([0, 1])),
        ([2**70, 1], np.array([str(2**70), "1"])),
    ],
)
def test_coordinates_are_what_netcdf_can_hold(values, coordinate):
    axis, _ = axes_of({"a": values}, 1)
    assert axis.coordinate.dtype == coordinate.dtype
    assert axis.coordinate.tolist() == coordinate.tolist()


def test_a_label_stands_for_its_value():
    value = object()
    (point,) = points({"prior": {"flow": value}})
    assert point.arguments["prior"] is value
    assert point.text == '{"prior":"flow","seed":0}'


@pytest.mark.parametrize("values", [np.array([0.5]), torch.tensor([0.5], dtype=torch.float64)])
def test_the_run_gets_plain_numbers(values):
    (point,) = points({"beta": values})
    assert type(point.arguments["beta"]) is float


def test_equal_points_have_one_key():
    (a,) = points({"beta": [1], "hidden": [(2.0,)]})
    (b,) = points({"hidden": [(np.int64(2),)], "beta": [torch.tensor(1.0)]})
    assert a.key == b.key


@pytest.mark.parametrize("other", [True, "1", None, (1,), 1.5, 2, -1, math.inf])
def test_other_points_have_other_keys(other):
    (a,), (b,) = points({"beta": [1]}), points({"beta": [other]})
    assert a.key != b.key


def test_keys_differ_by_name_and_seed():
    found = [*points({"a": [1]}, 2), *points({"b": [1]}), *points({"a": [1], "b": [1]})]
    assert len({point.key for point in found}) == 4


def test_keys_stay_what_they_are():
    # a store outlives the process, the machine and the version of the package
    (point,) = points({"beta": [0.1], "name": ["ä"]}, seeds=[3])
    assert point.text == '{"beta":0.1,"name":"\\u00e4","seed":3}'
    assert point.key == "35e98a523becef032016c3064b7b8032"


def test_a_point_reads_as_its_values():
    assert str(points({"beta": [0.5], "prior": {"flow": object()}})[0]) == "beta=0.5, prior=flow, seed=0"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, r"Expected a grid with a name and its values at least but got \{\}"),
        ([1, 2], "Expected a grid with a name"),
        ({"beta": []}, "at least one value of 'beta' but got none"),
        ({"beta": {}}, "at least one value of 'beta' but got none"),
        ({"beta": 1.0}, "Expected a list of values of 'beta'"),
        ({"beta": "abc"}, "Expected a list of values of 'beta'"),
        ({"beta": {1.0, 2.0}}, "Expected a list of values of 'beta'"),
        ({"beta": [1, 1.0]}, "values of 'beta' that differ but got 1.0 more than once|but got 1 "),
        ({"beta": ["None", None]}, "values of 'beta' that differ but got 'None' more than once"),
        ({"beta": [math.nan]}, "numbers other than nan.* but got nan; give others a label"),
        ({"beta": [[64]]}, r"but got \[64\]; give others a label: \{'beta': \{'label': value\}\}"),
        ({"beta": [torch.ones(2)]}, "give others a label"),
        ({"beta": {1: 2}}, "labels of 'beta' that are strings but got 1"),
        ({"seed": [1]}, "without the name 'seed'"),
        ({"failure": [1]}, "without the name 'failure'"),
        ({"learning rate": [1]}, "can be keyword arguments of the run but got 'learning rate'"),
        ({"lambda": [1]}, "can be keyword arguments of the run but got 'lambda'"),
        ({1: [1]}, "can be keyword arguments of the run but got 1"),
    ],
)
def test_a_wrong_grid_gives_one_sentence(grid, message):
    with pytest.raises(ValueError, match=message):
        axes_of(grid, 1)


@pytest.mark.parametrize("seeds", [0, -1, True, 1.5, None, [], [1.0], [-1], [2**32], ["a"], "ab"])
def test_wrong_seeds_give_one_sentence(seeds):
    with pytest.raises(ValueError, match="Expected seeds to be a number of them >= 1, or integers"):
        axes_of({"beta": [1]}, seeds)


def test_a_seed_that_comes_twice():
    with pytest.raises(ValueError, match="values of 'seed' that differ but got 1 more than once"):
        axes_of({"beta": [1]}, [1, 1])
