"""The points of a grid: what a run gets, what stands in coordinates, and when two points are the same."""

import math

import numpy as np
import pytest
import torch

from pyro_infomax.sweeps import sweep


def points(grid, seeds=1):
    """What the run is called with, in order."""
    found = []

    def run(**point):
        found.append(point)
        return {}

    sweep(run, grid, seeds=seeds, progress=False)
    return found


def test_every_combination_the_seeds_fastest():
    assert points({"beta": [1.0, 4.0], "prior": ["a"]}, seeds=[5, 3]) == [
        {"beta": 1.0, "prior": "a", "seed": 5},
        {"beta": 1.0, "prior": "a", "seed": 3},
        {"beta": 4.0, "prior": "a", "seed": 5},
        {"beta": 4.0, "prior": "a", "seed": 3},
    ]


@pytest.mark.parametrize(
    ("values", "coordinate"),
    [
        ([1, 2], np.array([1, 2])),
        ([math.inf, 1], np.array([math.inf, 1.0])),
        ([True, False], np.array([True, False])),
        ([None, 2], np.array(["None", "2"])),
        ([True, 2], np.array(["True", "2"])),
        ([(64,), (64, 32)], np.array(["(64,)", "(64, 32)"])),
        ({"none": None, "some": object()}, np.array(["none", "some"])),
        (torch.tensor([1, 2]), np.array([1, 2])),
        (range(2), np.array([0, 1])),
        ([2**70, 1], np.array([str(2**70), "1"])),
    ],
)
def test_coordinates_are_what_netcdf_can_hold(values, coordinate):
    found = sweep(lambda a, seed: {}, {"a": values}, progress=False)["a"]
    assert found.dtype == coordinate.dtype
    assert found.values.tolist() == coordinate.tolist()


def test_a_label_stands_for_its_value():
    value = object()
    (point,) = points({"prior": {"flow": value}})
    assert point["prior"] is value


@pytest.mark.parametrize("values", [np.array([0.5]), torch.tensor([0.5], dtype=torch.float64)])
def test_the_run_gets_plain_numbers(values):
    (point,) = points({"beta": values})
    assert type(point["beta"]) is float


def test_the_store_tells_points_apart(tmp_path):
    def stored(grid, seeds=1):
        sweep(lambda **_: {}, grid, seeds=seeds, store=tmp_path, progress=False)
        return {path.stem for path in tmp_path.iterdir()}

    (first,) = stored({"beta": [1], "hidden": [(2.0,)]})
    # 1 and 1.0 are equal, as is any order of the names
    assert stored({"hidden": [(np.int64(2),)], "beta": [torch.tensor(1.0)]}) == {first}
    before = stored({"beta": [1]})
    for other in [True, "1", None, (1,), 1.5, 2, -1, math.inf]:
        after = stored({"beta": [other]})
        assert len(after) == len(before) + 1, other
        before = after
    assert len(stored({"beta": [1]}, seeds=2)) == len(before) + 1
    assert len(stored({"a": [1]})) == len(before) + 2
    # a store outlives the process, the machine and the version of the package
    assert "35e98a523becef032016c3064b7b8032" in stored({"beta": [0.1], "name": ["ä"]}, seeds=[3])


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, r"Expected a grid with a name and its values at least but got \{\}"),
        ([1, 2], "Expected a grid with a name"),
        ({"beta": []}, "at least one value of 'beta' but got none"),
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
        sweep(lambda **_: {}, grid, progress=False)


@pytest.mark.parametrize("seeds", [0, True, None, [], [1.0], [-1], [2**32], "ab"])
def test_wrong_seeds_give_one_sentence(seeds):
    with pytest.raises(ValueError, match="Expected seeds to be a number of them >= 1, or integers"):
        sweep(lambda **_: {}, {"beta": [1]}, seeds=seeds, progress=False)


def test_a_seed_that_comes_twice():
    with pytest.raises(ValueError, match="values of 'seed' that differ but got 1 more than once"):
        sweep(lambda **_: {}, {"beta": [1]}, seeds=[1, 1], progress=False)
