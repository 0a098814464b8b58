import json
import pickle
import threading

import numpy as np
import pytest
import xarray as xr

from pyro_infomax.sweeps._grid import Point
from pyro_infomax.sweeps._results import Failure, FolderStore, NoStore, store_at

POINT = Point({"beta": 0.5, "seed": 0}, {"beta": 0.5, "seed": 0})
FAILURE = Failure("KeyError", "'a'", "Traceback ...")


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "deep" / "store")


@pytest.fixture
def result():
    return xr.Dataset(
        {
            "a": ("n", np.array([1.5, np.nan, -np.inf]), {"units": "nats", "bound": "exact"}),
            "b": ((), np.array(True)),
            "c": ("m", np.array(["ä", "bcd"])),
            "d": ((), np.array(3)),
            "e": (("n", "m"), np.arange(6, dtype=np.float32).reshape(3, 2)),
        },
        coords={"m": ["x", "y"]},
    )


def files(store):
    return sorted(path.name for path in store._folder.iterdir())


def test_a_result_comes_back_as_it_was(store, result):
    assert store.read(POINT) is None
    store.write(POINT, result)
    found = store.read(POINT)
    xr.testing.assert_identical(found, result)
    assert {name: found[name].dtype for name in found.variables} == {
        name: result[name].dtype for name in result.variables
    }
    assert files(store) == [f"{POINT.key}.npz"]


def test_an_empty_result_comes_back(store):
    store.write(POINT, xr.Dataset())
    xr.testing.assert_identical(store.read(POINT), xr.Dataset())


def test_a_failure_comes_back_until_there_is_a_result(store, result):
    store.write(POINT, FAILURE)
    assert store.read(POINT) == FAILURE
    assert json.loads((store._folder / f"{POINT.key}.failure.json").read_text())["point"] == POINT.text
    store.write(POINT, result)
    assert files(store) == [f"{POINT.key}.npz"]


def test_a_result_outlives_a_later_failure(store, result):
    store.write(POINT, result)
    store.write(POINT, FAILURE)
    xr.testing.assert_identical(store.read(POINT), result)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "foreign", "empty", "another point", "pickled"])
def test_a_file_that_is_no_outcome_is_passed_over(store, result, harm):
    store.write(POINT, result)
    path = store._folder / f"{POINT.key}.npz"
    content = path.read_bytes()
    if harm == "another point":
        other = Point({"beta": 0.25, "seed": 0}, {})
        store.write(other, result)
        path.write_bytes((store._folder / f"{other.key}.npz").read_bytes())
    elif harm == "pickled":
        np.savez(path, header=np.array([{}], dtype=object))
    else:
        # the last byte of the first array, before the header of the next
        place = content.index(b"array_1.npy") - 40
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        path.write_bytes(
            {"truncated": content[:-50], "flipped": flipped, "foreign": b"PK\3\4 no", "empty": b""}[harm]
        )
    with pytest.warns(UserWarning, match="is not the outcome of beta=0.5, seed=0 and is made anew"):
        assert store.read(POINT) is None


def test_a_file_of_an_unknown_compression_is_passed_over(store, result):
    store.write(POINT, result)
    path = store._folder / f"{POINT.key}.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 10] = 99
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="made anew"):
        assert store.read(POINT) is None


def test_a_failure_file_that_is_none_is_passed_over(store):
    (store._folder / f"{POINT.key}.failure.json").write_text('{"point": 3}')
    with pytest.warns(UserWarning, match="made anew"):
        assert store.read(POINT) is None


def test_an_interrupted_write_leaves_the_old_file(store, result):
    store.write(POINT, result)
    unwritable = np.array([lambda: 0], dtype=object)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        store.write(POINT, result.assign(z=("z", unwritable)))
    xr.testing.assert_identical(store.read(POINT), result)
    assert len(files(store)) == 1


def test_writers_of_one_point_do_not_disturb_readers(store):
    results = [xr.Dataset({"a": ("n", np.full(1000, float(i)))}) for i in range(2)]
    store.write(POINT, results[0])
    writers = [
        threading.Thread(target=lambda r=r: [store.write(POINT, r) for _ in range(20)]) for r in results
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert len(np.unique(store.read(POINT)["a"])) == 1
    for writer in writers:
        writer.join()
    assert len(files(store)) == 1


def test_a_file_in_the_place_of_the_folder(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ValueError, match=r"Expected store to be a folder but got the file .*file\."):
        store_at(path)


def test_a_relative_folder_is_one_place(tmp_path, monkeypatch, result):
    monkeypatch.chdir(tmp_path)
    store = store_at("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.write(POINT, result)
    assert (tmp_path / "here" / f"{POINT.key}.npz").exists()


def test_without_a_folder_nothing_is_kept(result):
    store = store_at(None)
    assert isinstance(store, NoStore)
    store.write(POINT, result)
    assert store.read(POINT) is None


def test_where_a_traceback_is(store):
    assert store.where(POINT, FAILURE).endswith(f"{POINT.key}.failure.json")
    assert NoStore().where(POINT, FAILURE) == "Its traceback:\nTraceback ..."


def test_a_failure_without_a_message_is_its_kind():
    assert str(FAILURE) == "KeyError: 'a'"
    assert str(Failure("KeyboardError", "", "")) == "KeyboardError"
