import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from pyro_infomax.training._batches import mapped_rows, to_batches

VALUES = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "rows.npy", VALUES)
    return tmp_path / "rows.npy"


@pytest.fixture
def raw(tmp_path):
    VALUES.tofile(tmp_path / "rows.bin")
    return tmp_path / "rows.bin"


def shuffled(data, batch_size=8):
    torch.manual_seed(3)
    return [
        tuple(part.clone() for part in batch) for batch in to_batches(data, batch_size=batch_size).shuffled()
    ]


def assert_same_batches(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_gives_the_batches_of_the_tensor(path, mode):
    assert_same_batches(shuffled(np.load(path, mmap_mode=mode)), shuffled(torch.from_numpy(VALUES)))


VIEWS = {
    "rows from the middle": lambda x: x[4:18],
    "some columns": lambda x: x[:, 1:],
    "backwards": lambda x: x[::-1],
    "columns backwards": lambda x: x[:, ::-1],
    "a view of a view": lambda x: x[2:][3:, :2],
    "every second": lambda x: x[::2],
    "transposed": lambda x: x.T,
    "another shape": lambda x: x.reshape(10, 2, 3),
    "a column": lambda x: x[:, 0],
    "a plain array of it": np.asarray,
    "a view of a plain array": lambda x: np.asarray(x)[5:],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views(path, view):
    mapped = view(np.load(path, mmap_mode="r"))
    assert mapped_rows(mapped).on_disk
    assert_same_batches(shuffled(mapped, 3), shuffled(torch.from_numpy(view(VALUES).copy()), 3))


def test_beside_tensors_in_a_tuple(path):
    labels = torch.arange(20)
    mapped = np.load(path, mmap_mode="r")
    for x, y, z in shuffled((mapped, labels, mapped[:, 0])):
        assert torch.equal(x[:, 0], 3.0 * y)
        assert torch.equal(x[:, 0], z)


def test_whole_data_are_read_into_memory(path):
    (batch,) = shuffled(np.load(path, mmap_mode="r"), None)
    torch.testing.assert_close(batch, (torch.from_numpy(VALUES),), rtol=0, atol=0)


def test_batches_may_be_written_to(path):
    mapped = np.load(path, mmap_mode="r")
    for (x,) in to_batches(mapped, batch_size=8).shuffled():
        x.zero_()
    assert np.array_equal(mapped, VALUES)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "bool", "complex64"])
def test_dtype_stays(tmp_path, dtype):
    values = (VALUES % 2).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    assert_same_batches(
        shuffled(np.load(tmp_path / "x.npy", mmap_mode="r")), shuffled(torch.from_numpy(values))
    )


def test_bytes_in_another_order(tmp_path):
    np.save(tmp_path / "x.npy", VALUES.astype(">f4"))
    assert_same_batches(
        shuffled(np.load(tmp_path / "x.npy", mmap_mode="r")), shuffled(torch.from_numpy(VALUES))
    )


def test_dtype_without_a_tensor(tmp_path):
    np.save(tmp_path / "x.npy", np.array(["a", "b"]))
    with pytest.raises(ValueError, match="data to be of a dtype that tensors have but got <U1"):
        to_batches(np.load(tmp_path / "x.npy", mmap_mode="r"), batch_size=1)


def test_lengths_that_differ(path):
    mapped = np.load(path, mmap_mode="r")
    with pytest.raises(ValueError, match=r"one length but got lengths \[20, 3\]"):
        to_batches((mapped, torch.ones(3)), batch_size=2)


def test_no_axis(path):
    whole = np.load(path, mmap_mode="r")
    with pytest.raises(ValueError, match="Expected data to have a first axis"):
        to_batches(whole[(slice(0, 1),) * whole.ndim].reshape(()), batch_size=2)


def test_no_rows(path):
    with pytest.raises(ValueError, match="at least one datum but it is empty"):
        to_batches(np.load(path, mmap_mode="r")[:0], batch_size=2)


def test_array_in_memory_is_none_of_these(path):
    assert mapped_rows(np.load(path)) is None
    assert mapped_rows(np.load(path, mmap_mode="r") + 1) is None


@pytest.mark.parametrize(("mode", "on_disk"), [("r", True), ("r+", True), ("c", False)])
def test_reads_what_was_written_to_the_mapping(path, mode, on_disk):
    mapped = np.load(path, mmap_mode=mode)
    if mode != "r":
        mapped[7] = -1.0
    rows = mapped_rows(mapped)
    assert rows.on_disk is on_disk
    assert np.array_equal(rows.whole().numpy(), mapped)


def test_file_of_another_name_is_read_through_the_mapping(path):
    mapped = np.load(path, mmap_mode="r")
    path.rename(path.with_suffix(".other"))
    np.save(path, -VALUES)
    rows = mapped_rows(mapped)
    assert not rows.on_disk
    assert np.array_equal(rows.whole().numpy(), VALUES)


# -- tensors over files ----------------------------------------------------------------------------


def from_file(path, *, shared=True):
    return torch.from_file(str(path), shared=shared, size=60, dtype=torch.float32).view(20, 3)


@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x[4:, 1:], lambda x: x.T, lambda x: x[:1].expand(5, 3)]
)
def test_tensor_from_a_file(raw, view):
    tensor = view(from_file(raw))
    assert mapped_rows(tensor) is not None
    expected = shuffled(view(torch.from_numpy(VALUES)), 3)
    assert_same_batches(shuffled(tensor, 3), expected)
    assert_same_batches(shuffled(TensorDataset(tensor), 3), expected)


def test_tensor_from_a_file_sees_what_is_written_to_it(raw):
    tensor = from_file(raw)
    batches = to_batches(tensor, batch_size=20)
    tensor[3] = -5.0
    ((x,),) = batches.ordered()
    assert x[3].tolist() == [-5.0] * 3


@pytest.mark.parametrize("content", [None, b"x" * 240, b"short"])
def test_tensor_whose_file_is_gone_is_one_in_memory(raw, content):
    tensor = from_file(raw)
    raw.rename(raw.with_suffix(".other"))
    if content is not None:
        raw.write_bytes(content)
    assert mapped_rows(tensor) is None
    assert_same_batches(shuffled(tensor), shuffled(torch.from_numpy(VALUES)))


def test_private_tensor_is_one_in_memory(raw):
    assert mapped_rows(from_file(raw, shared=False)) is None


# -- memory ----------------------------------------------------------------------------------------

EPOCH = """
    import sys
    import numpy as np, pyro, torch
    from pyro import distributions as dist
    from pyro_infomax.training import fit

    def peak():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x.mean(-1))

    svi = pyro.infer.SVI(model, lambda x: None, pyro.optim.SGD({"lr": 1e-9}), pyro.infer.Trace_ELBO())
    data = np.memmap(sys.argv[1], dtype=np.float32, mode="r").reshape(-1, 2**14)
    before = peak()
    history = fit(svi, data, epochs=1, batch_size=256, validation=data[-512:], progress=False)
    assert history.steps == 64, history.steps
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_epoch_over_a_gigabyte_takes_a_quarter_of_it(tmp_path):
    sparse = tmp_path / "sparse.bin"
    sparse.touch()
    os.truncate(sparse, 2**30)  # takes no room on the disk
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(EPOCH), str(sparse)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 256


def test_no_warning_about_memory_that_cannot_be_written(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shuffled(np.load(path, mmap_mode="r"), None)
        shuffled(np.load(path, mmap_mode="r"), 4)
