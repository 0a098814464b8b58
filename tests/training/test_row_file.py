import gc
import os

import numpy as np
import pytest

from pyro_infomax.training._batches import RowFile

VALUES = np.arange(120, dtype=np.int32).reshape(10, 4, 3)


def rows_of(array, path):
    """Of a view of VALUES, which lie in the file after eight bytes of something else."""
    path.write_bytes(b"preamble" + VALUES.tobytes())
    offset = 8 + array.ctypes.data - VALUES.ctypes.data
    return RowFile(path, offset=offset, shape=array.shape, strides=array.strides, dtype=array.dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.bin"


VIEWS = {
    "all": VALUES,
    "transposed within": VALUES.transpose(0, 2, 1),
    "data last": VALUES.transpose(2, 0, 1),
    "backwards": VALUES[::-1],
    "all backwards": VALUES[::-1, ::-1, ::-1],
    "a part": VALUES[3:, 1:3, 1],
    "repeated": np.broadcast_to(VALUES[4], (10, 4, 3)),
}


@pytest.mark.parametrize("array", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("rows", [[2, 0, 1], [0, 1, 2], [1], [2, 2]])
def test_reads_rows(path, array, rows):
    assert np.array_equal(rows_of(array, path).read(np.array(rows)), array[rows])


def test_rows_can_be_written_to(path):
    rows = rows_of(VALUES, path)
    rows.read(np.arange(3))[:] = -1
    assert np.array_equal(rows.read(np.arange(3)), VALUES[:3])


@pytest.mark.parametrize("rows", [[8, 9], [9, 0]])
def test_file_that_became_shorter(path, rows):
    file = rows_of(VALUES, path)
    os.truncate(path, 400)
    with pytest.raises(ValueError, match=r"rows.bin to stay as it was but it has become shorter"):
        file.read(np.array(rows))


def test_scattered_rows(path):
    path.touch()
    with pytest.raises(ValueError, match=r"its 8 bytes are scattered over 40,000,004 bytes .* in C order"):
        RowFile(path, offset=0, shape=(10**7, 2), strides=(4, 4 * 10**7), dtype=np.dtype(np.float32))


def test_closes_its_file(path):
    file = rows_of(VALUES, path)
    descriptor = file._descriptor
    os.fstat(descriptor)
    del file
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
