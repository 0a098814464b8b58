import zipfile

import numpy as np
import pytest
import torch

from pyro_infomax.datasets import load_dsprites
from pyro_infomax.datasets._stored import MappedRows

SIZES = (1, 3, 2, 2, 2, 2)
CLASSES = np.stack([axis.ravel() for axis in np.indices(SIZES)], axis=1)
IMAGES = np.random.default_rng(0).integers(0, 2, (len(CLASSES), 64, 64), dtype=np.uint8)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def write(tmp_path):
    """Writes a file of the official layout, whose metadata are pickled."""

    def save(save=np.savez_compressed, **arrays):
        metadata = np.array(Bomb(tmp_path / "exploded"), dtype=object)
        latents = {"latents_values": CLASSES * 0.5, "latents_classes": CLASSES}
        path = tmp_path / "dsprites.npz"
        save(path, **{"metadata": metadata, "imgs": IMAGES} | latents | arrays)
        return path

    return save


@pytest.mark.parametrize("save", [np.savez_compressed, np.savez])
def test_images_are_found_by_their_factors(write, save):
    data = load_dsprites(write(save))
    assert data.factor_names == ("shape", "scale", "orientation", "position_x", "position_y")
    assert data.factor_sizes == SIZES[1:]
    assert data.observation_shape == (64, 64)
    chosen = [40, 0, 17, 17]
    expected = torch.from_numpy(IMAGES[chosen]).float()
    assert torch.equal(data.observations(CLASSES[chosen, 1:]), expected)


def test_nothing_is_unpickled(write, tmp_path):
    load_dsprites(write()).sample(5, seed=0)
    assert not (tmp_path / "exploded").exists()


def test_what_is_stored_as_it_is_is_mapped(write):
    data = load_dsprites(write(np.savez))
    assert isinstance(data._images, MappedRows)


def test_what_is_compressed_may_be_unpacked_once(write, tmp_path):
    path, copy = write(), tmp_path / "images.npy"
    first = load_dsprites(path, unpack_to=copy)
    assert isinstance(first._images, MappedRows)
    written = copy.stat().st_mtime_ns
    second = load_dsprites(path, unpack_to=str(copy))
    assert copy.stat().st_mtime_ns == written
    assert torch.equal(second.observations(CLASSES[:9, 1:]), torch.from_numpy(IMAGES[:9]).float())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dsprites.npz", "images.npy"]


def test_an_unpacked_file_of_something_else_is_refused(write, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match="remove it or name another file"):
        load_dsprites(write(), unpack_to=tmp_path / "images.npy")


def test_what_is_left_out_stays_out(write):
    data = load_dsprites(write(), where=lambda v: v[:, 0] < 2)
    assert data.sample_factors(200, seed=0)[:, 0].max() == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*none\.npz"):
        load_dsprites(tmp_path / "none.npz")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match="is no npz file"):
        load_dsprites(tmp_path / "text.npz")


def test_other_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", images=IMAGES)
    with pytest.raises(ValueError, match=r"Expected arrays imgs and latents_classes in .* but found images"):
        load_dsprites(tmp_path / "other.npz")


@pytest.mark.parametrize("where", [500, 1500, -900, -300])
@pytest.mark.parametrize("unpacked", [False, True])
def test_a_damaged_file_is_refused_and_nothing_left_of_it(write, tmp_path, where, unpacked):
    path = write()
    whole = bytearray(path.read_bytes())
    whole[where : where + 50] = bytes(50)
    path.write_bytes(whole)
    copy = tmp_path / "images.npy" if unpacked else None
    with pytest.raises(ValueError, match="is damaged"):
        load_dsprites(path, unpack_to=copy).images_and_factors()
    assert [file.name for file in tmp_path.iterdir()] == ["dsprites.npz"]


def test_a_truncated_file_is_refused(write):
    path = write()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="is no npz file"):
        load_dsprites(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no npz file"):
        load_dsprites(tmp_path)


def test_classes_that_are_pickled_are_refused(write, tmp_path):
    bombs = np.array([[Bomb(tmp_path / "exploded")] * 6] * len(CLASSES), dtype=object)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_dsprites(write(latents_classes=bombs))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kind", ["text", "folder", "the file itself"])
def test_what_cannot_have_been_unpacked_is_refused(write, tmp_path, kind):
    path, copy = write(), tmp_path / "images.npy"
    if kind == "text":
        copy.write_text("text")
    elif kind == "folder":
        copy.mkdir()
    with pytest.raises(ValueError, match="remove it or name another file"):
        load_dsprites(path, unpack_to=path if kind == "the file itself" else copy)


def test_a_missing_folder_to_unpack_to_is_named(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a folder to unpack imgs to .* no .*missing"):
        load_dsprites(write(), unpack_to=tmp_path / "missing" / "images.npy")


def test_other_classes_are_refused(write):
    with pytest.raises(ValueError, match=r"Expected latents_classes of shape \(N, 6\)"):
        load_dsprites(write(latents_classes=CLASSES[:, 1:]))


def test_the_test_files_are_compressed_and_not(write):
    for save, kind in ((np.savez_compressed, zipfile.ZIP_DEFLATED), (np.savez, zipfile.ZIP_STORED)):
        with zipfile.ZipFile(write(save)) as archive:
            assert archive.getinfo("imgs.npy").compress_type == kind
