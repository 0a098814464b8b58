"""Memory-mapped arrays as data: the batches of the tensor that holds the same, and nothing in memory."""

import os

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch.utils.data import TensorDataset

from pyro_infomax.training import Checkpoint, fit

VALUES = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "rows.npy", VALUES)
    return tmp_path / "rows.npy"


def given(data, batch_size=8, *, look=lambda *_: None, callbacks=(), epochs=1):
    """The batches that fit gives to the programs; ``look`` is called with each."""
    seen = []

    def model(*batch):
        pyro.factor("penalty", -pyro.param("loc", torch.zeros(())).square())
        seen.append(tuple(part.clone() for part in batch))
        look(*batch)

    pyro.clear_param_store()
    svi = SVI(model, lambda *_: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO())
    options = {"epochs": epochs, "batch_size": batch_size, "callbacks": callbacks}
    fit(svi, data, progress=False, seed=3, **options)
    return seen


def assert_same_batches(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_gives_the_batches_of_the_tensor(path, mode):
    assert_same_batches(given(np.load(path, mmap_mode=mode)), given(torch.from_numpy(VALUES)))


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
    assert_same_batches(given(mapped, 3), given(torch.from_numpy(view(VALUES).copy()), 3))


def test_beside_tensors_in_a_tuple(path):
    labels = torch.arange(20)
    mapped = np.load(path, mmap_mode="r")
    for x, y, z in given((mapped, labels, mapped[:, 0])):
        assert torch.equal(x[:, 0], 3.0 * y)
        assert torch.equal(x[:, 0], z)


def test_whole_data_are_read_into_memory(path):
    (batch,) = given(np.load(path, mmap_mode="r"), None)
    torch.testing.assert_close(batch, (torch.from_numpy(VALUES),), rtol=0, atol=0)


@pytest.mark.parametrize("batch_size", [8, None])
def test_batches_may_be_written_to(path, batch_size):
    mapped = np.load(path, mmap_mode="r")
    given(mapped, batch_size, look=torch.Tensor.zero_)
    assert np.array_equal(mapped, VALUES)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bool", "complex64"])
def test_dtype_stays(tmp_path, dtype):
    values = (VALUES % 2).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    assert_same_batches(given(np.load(tmp_path / "x.npy", mmap_mode="r")), given(torch.from_numpy(values)))


def test_bytes_in_another_order(tmp_path):
    np.save(tmp_path / "x.npy", VALUES.astype(VALUES.dtype.newbyteorder()))
    assert_same_batches(given(np.load(tmp_path / "x.npy", mmap_mode="r")), given(torch.from_numpy(VALUES)))


def test_dtype_without_a_tensor(tmp_path):
    np.save(tmp_path / "x.npy", np.array(["a", "b"]))
    with pytest.raises(ValueError, match="data to be of a dtype that tensors have but got <U1"):
        given(np.load(tmp_path / "x.npy", mmap_mode="r"), 1)


def test_lengths_that_differ(path):
    mapped = np.load(path, mmap_mode="r")
    with pytest.raises(ValueError, match=r"one length but got lengths \[20, 3\]"):
        given((mapped, torch.ones(3)), 2)


def test_no_axis(path):
    whole = np.load(path, mmap_mode="r")
    with pytest.raises(ValueError, match="Expected data to have a first axis"):
        given(whole[(slice(0, 1),) * whole.ndim].reshape(()), 2)


def test_no_rows(path):
    with pytest.raises(ValueError, match="at least one datum but it is empty"):
        given(np.load(path, mmap_mode="r")[:0], 2)


def test_an_array_in_memory_gives_the_same_batches(path):
    assert_same_batches(given(np.load(path)), given(np.load(path, mmap_mode="r")))


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_reads_what_was_written_to_the_mapping(path, mode):
    mapped = np.load(path, mmap_mode=mode)

    def write(state):
        mapped[7] = -1.0

    ((before,), (after,)) = given(mapped, 20, callbacks=[write], epochs=2)
    assert not (before == -1).any()
    assert (after == -1).all(-1).sum() == 1


def test_nan_are_looked_for_only_in_what_is_in_memory_anyway(path):
    mapped = np.load(path, mmap_mode="c")
    mapped[7] = np.nan
    given(mapped, 20)
    with pytest.raises(ValueError, match="its tensor 0 holds 3, the first in row 7"):
        given(mapped, None)


def test_tensor_over_a_file_is_a_tensor(tmp_path):
    VALUES.tofile(tmp_path / "rows.bin")
    tensor = torch.from_file(str(tmp_path / "rows.bin"), shared=True, size=60, dtype=torch.float32).view(
        20, 3
    )
    expected = given(torch.from_numpy(VALUES), 3)
    assert_same_batches(given(tensor, 3), expected)
    assert_same_batches(given(TensorDataset(tensor), 3), expected)


# -- trainings ------------------------------------------------------------------------------------


def trained(data, *, epochs, checkpoint=None, resume=False):
    def model(x):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x / 60)

    pyro.clear_param_store()
    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    history = fit(
        svi,
        data,
        epochs=epochs,
        batch_size=8,
        validation=data[-4:],
        progress=False,
        checkpoint=checkpoint,
        resume=resume,
        seed=0,
    )
    columns = ["step", "loss", "validation_loss"]
    return history.to_frame()[columns].to_numpy().tolist(), pyro.param("loc").tolist()


def test_trains_like_the_tensor(path):
    mapped = np.load(path, mmap_mode="r")
    assert trained(mapped, epochs=3) == trained(torch.from_numpy(VALUES), epochs=3)


def test_resumes(path, tmp_path):
    mapped = np.load(path, mmap_mode="r")
    whole = trained(mapped, epochs=3)
    checkpoint = Checkpoint(tmp_path / "fit.pt", every_steps=4)  # in the midst of the second epoch
    trained(mapped, epochs=2, checkpoint=checkpoint)
    assert trained(mapped, epochs=3, checkpoint=checkpoint, resume=True) == whole


def test_nothing_is_copied(tmp_path):
    sparse = tmp_path / "sparse.bin"
    sparse.touch()
    os.truncate(sparse, 2**40)  # more than memory holds, and takes no room on the disk
    mapped = np.memmap(sparse, dtype=np.float32, mode="r").reshape(-1, 2**20)

    def look(x, first):
        assert x.shape == (4, 2**20)
        assert torch.equal(x[:, :5], first)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        given((mapped, mapped[:, :5]), 4, look=look)
