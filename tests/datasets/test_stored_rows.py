import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from pyro_infomax.datasets._stored import Hdf5Rows, MappedRows, npz_rows

ARRAY = np.random.default_rng(0).integers(0, 9, (12, 2, 3))


@pytest.fixture
def rows(tmp_path, request):
    kind = request.param
    if kind == "hdf5":
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", data=ARRAY)
        return Hdf5Rows(tmp_path / "a.h5", "x")
    (np.savez_compressed if kind == "packed" else np.savez)(tmp_path / "a.npz", first=np.ones(5), x=ARRAY)
    return npz_rows(tmp_path / "a.npz", "x", unpack_to=tmp_path / "x.npy" if kind == "unpacked" else None)


KINDS = pytest.mark.parametrize("rows", ["hdf5", "packed", "stored", "unpacked"], indirect=True)


@KINDS
def test_rows_are_those_of_the_array(rows):
    assert (rows.shape, rows.dtype) == (ARRAY.shape, ARRAY.dtype)
    for index in (np.array([5, 1, 5]), slice(2, 4), np.array([], dtype=int)):
        assert np.array_equal(rows[index], ARRAY[index])


@KINDS
def test_rows_can_be_sent_to_another_process(rows):
    assert np.array_equal(rows[np.array([1])], ARRAY[[1]])
    sent = pickle.dumps(rows)
    assert ARRAY[3].tobytes() not in sent
    assert np.array_equal(pickle.loads(sent)[np.array([3, 0])], ARRAY[[3, 0]])


@pytest.mark.parametrize("rows", ["stored", "unpacked"], indirect=True)
def test_what_need_not_be_unpacked_is_mapped(rows):
    assert isinstance(rows, MappedRows)


def test_a_copy_with_another_header_is_read_where_it_begins(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=ARRAY)
    np.save(tmp_path / "x.npy", ARRAY)
    usual = (tmp_path / "x.npy").read_bytes()
    length = int.from_bytes(usual[8:10], "little")
    end = 10 + length - 1  # where the header's newline is
    longer = usual[:8] + (length + 64).to_bytes(2, "little") + usual[10:end] + b" " * 64 + usual[end:]
    (tmp_path / "x.npy").write_bytes(longer)
    assert np.array_equal(npz_rows(tmp_path / "a.npz", "x", unpack_to=tmp_path / "x.npy")[:], ARRAY)


def test_a_copy_in_columns_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=ARRAY)
    np.save(tmp_path / "x.npy", np.asfortranarray(ARRAY))
    with pytest.raises(ValueError, match="remove it or name another file"):
        npz_rows(tmp_path / "a.npz", "x", unpack_to=tmp_path / "x.npy")


@pytest.mark.parametrize("copy", [None, "x.npy"])
def test_an_array_in_columns_is_refused(tmp_path, copy):
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(ARRAY))
    with pytest.raises(ValueError, match=r"Expected x of .* as numbers in C order"):
        npz_rows(tmp_path / "a.npz", "x", unpack_to=copy and tmp_path / copy)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_are_found_from_another_folder(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save("a.npz", x=ARRAY)
    with h5py.File("a.h5", "w") as file:
        file.create_dataset("x", data=ARRAY)
    every = [npz_rows(Path("a.npz"), "x"), Hdf5Rows(Path("a.h5"), "x")]
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for rows in every:
        assert np.array_equal(pickle.loads(pickle.dumps(rows))[[2, 1]], ARRAY[[2, 1]])


def test_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, {}], dtype=object))
    with pytest.raises(ValueError, match=r"Expected x of .* as numbers in C order"):
        npz_rows(tmp_path / "a.npz", "x")
