"""A store keeps the outcome of each point, whole or not at all, and hands it to the next sweep."""

import json
import os
import resource

import numpy as np
import pytest
import xarray as xr

from pyro_infomax.sweeps import sweep

GRID = {"beta": [0.5]}


def swept(run, store, grid=GRID):
    return sweep(run, grid, store=store, progress=False)


def result(beta, seed):
    return {
        "a": xr.DataArray(np.array([1.5, np.nan, -np.inf]), dims="n", attrs={"units": "nats"}),
        "b": True,
        "c": xr.DataArray(np.array(["ä", "bcd"]), dims="m", coords={"m": ["x", "y"]}),
        "d": 3,
        "e": np.arange(6, dtype=np.float32).reshape(3, 2),
    }


def never(beta, seed):
    raise AssertionError("the outcome is in the store")


def fails(beta, seed):
    raise KeyError("a")


def files(store):
    return sorted(path.name for path in store.iterdir())


@pytest.mark.parametrize("run", [result, lambda beta, seed: {}])
def test_a_result_comes_back_as_it_was(tmp_path, run):
    store = tmp_path / "deep" / "store"
    first = swept(run, store)
    again = swept(never, store)
    xr.testing.assert_identical(again, first)
    assert {name: array.dtype for name, array in again.variables.items()} == {
        name: array.dtype for name, array in first.variables.items()
    }
    assert [name.rpartition(".")[2] for name in files(store)] == ["npz"]


def test_a_failure_is_kept_until_there_is_a_result(tmp_path):
    with pytest.warns(UserWarning, match="failed"):
        swept(fails, tmp_path)
    (name,) = files(tmp_path)
    kept = json.loads((tmp_path / name).read_text())
    assert (kept["kind"], kept["message"], kept["point"]) == ("KeyError", "'a'", '{"beta":0.5,"seed":0}')
    assert 'raise KeyError("a")' in kept["traceback"]
    swept(result, tmp_path)
    assert files(tmp_path) == [name.replace("failure.json", "npz")]


def test_what_another_sweep_finds_meanwhile_is_taken(tmp_path):
    called = []

    def run(beta, seed):
        called.append(beta)
        swept(lambda beta, seed: {"a": beta}, tmp_path, {"beta": [0.5, 2.0]})
        raise KeyError("a")

    with pytest.warns(UserWarning, match="1 of 2 points failed"):
        found = swept(run, tmp_path, {"beta": [0.5, 2.0]})
    assert called == [0.5]
    assert found["a"].sel(beta=2.0).item() == 2.0
    # a result outlives a later failure
    assert swept(never, tmp_path, {"beta": [0.5, 2.0]})["a"].values.tolist() == [[0.5], [2.0]]


@pytest.mark.parametrize(
    "harm", ["truncated", "flipped", "foreign", "empty", "another point", "pickled", "compression"]
)
def test_a_file_that_is_no_outcome_is_made_anew(tmp_path, harm):
    first = swept(result, tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    if harm == "another point":
        swept(result, tmp_path / "other", {"beta": [0.25]})
        (other,) = (tmp_path / "other").iterdir()
        path.write_bytes(other.read_bytes())
    elif harm == "pickled":
        np.savez(path, header=np.array([{}], dtype=object))
    else:
        # the last byte of the first array, before the header of the next
        place = content.index(b"array_1.npy") - 40
        unknown = content.index(b"PK\1\2") + 10
        path.write_bytes(
            {
                "truncated": content[:-50],
                "flipped": content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
                "foreign": b"PK\3\4 no",
                "empty": b"",
                "compression": content[:unknown] + b"\x63" + content[unknown + 1 :],
            }[harm]
        )
    with pytest.warns(UserWarning, match="is not the outcome of beta=0.5, seed=0 and is made anew"):
        xr.testing.assert_identical(swept(result, tmp_path), first)
    swept(never, tmp_path)


@pytest.mark.parametrize(
    "forge",
    [
        lambda header, arrays: arrays.update(array_0=np.zeros(5)),
        lambda header, arrays: arrays.pop("array_0"),
        lambda header, arrays: arrays.update(array_9=np.zeros(5)),
        lambda header, arrays: header["variables"].pop(),
        lambda header, arrays: header["variables"][1].__setitem__(0, "failure"),
        lambda header, arrays: header["variables"][1].__setitem__(0, "beta"),
        lambda header, arrays: header["variables"][1].__setitem__(0, 3),
        lambda header, arrays: header["variables"][0].__setitem__(1, ["seed"]),
        lambda header, arrays: header.update(variables=None),
        lambda header, arrays: arrays.update(array_1=np.ones((), dtype=np.complex128)),
    ],
)
def test_a_forged_file_is_no_outcome(tmp_path, forge):
    first = swept(result, tmp_path)
    (path,) = tmp_path.iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(str(arrays["header"]))
    forge(header, arrays)
    np.savez(path, **(arrays | {"header": np.array(json.dumps(header))}))
    with pytest.warns(UserWarning, match="is not the outcome of beta=0.5, seed=0 and is made anew"):
        xr.testing.assert_identical(swept(result, tmp_path), first)


def test_a_failure_file_that_is_none_is_made_anew(tmp_path):
    with pytest.warns(UserWarning, match="failed"):
        swept(fails, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text('{"point": 3}')
    with pytest.warns(UserWarning, match="is not the outcome of beta=0.5, seed=0 and is made anew"):
        swept(result, tmp_path)


def test_an_interrupted_write_leaves_the_files_as_they_were(tmp_path):
    with pytest.warns(UserWarning, match="failed"):
        swept(fails, tmp_path)
    before = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # as on a disk that is full
    try:
        with pytest.raises(OSError, match="File too large"):
            swept(lambda beta, seed: {"a": np.zeros(100_000)}, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_neither_an_interrupt_nor_another_kind_of_result_is_an_outcome(tmp_path, error):
    def run(beta, seed):
        if error is KeyboardInterrupt:
            raise error
        return 3.0

    with pytest.raises(error):
        swept(run, tmp_path)
    assert files(tmp_path) == []


def test_a_relative_folder_is_one_place(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def run(beta, seed):
        os.chdir(tmp_path / "elsewhere")
        return {}

    swept(run, "here")
    assert len(files(tmp_path / "here")) == 1


def test_a_file_in_the_place_of_the_folder(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ValueError, match=r"Expected store to be a folder but got the file .*file\."):
        swept(result, path)
