import pickle

import h5py
import numpy as np
import pytest

from pyro_infomax.datasets.stored_rows import Hdf5Rows, npz_rows

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
    assert np.array_equal(pickle.loads(pickle.dumps(rows))[np.array([3, 0])], ARRAY[[3, 0]])


def test_an_array_in_columns_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(ARRAY))
    with pytest.raises(ValueError, match=r"Expected x of .* as numbers in C order"):
        npz_rows(tmp_path / "a.npz", "x")


def test_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, {}], dtype=object))
    with pytest.raises(ValueError, match=r"Expected x of .* as numbers in C order"):
        npz_rows(tmp_path / "a.npz", "x")
