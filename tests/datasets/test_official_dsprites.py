import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_infomax.datasets import load_dsprites

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


def images_of(data, rows):
    return data.observations(CLASSES[rows, 1:]).numpy()


def overwrite(path):
    """Zeros for the last image."""
    content = bytearray(path.read_bytes())
    start = content.index(IMAGES[-1].tobytes())
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(IMAGES[-1].nbytes))


def test_what_is_stored_as_it_is_is_mapped(write):
    path = write(np.savez)
    data = load_dsprites(path)
    overwrite(path)
    assert images_of(data, [-1]).max() == 0


def test_what_is_compressed_may_be_unpacked_once_and_is_mapped_then(write, tmp_path):
    path, copy = write(), tmp_path / "images.npy"
    load_dsprites(path, unpack_to=copy)
    written = copy.stat().st_mtime_ns
    data = load_dsprites(path, unpack_to=str(copy))
    assert copy.stat().st_mtime_ns == written
    assert np.array_equal(images_of(data, range(9)), IMAGES[:9])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dsprites.npz", "images.npy"]
    overwrite(copy)
    assert images_of(data, [-1]).max() == 0


@pytest.mark.parametrize("kind", ["packed", "stored", "unpacked"])
def test_it_is_sent_to_another_process_without_its_images(write, tmp_path, monkeypatch, kind):
    path = write(np.savez if kind == "stored" else np.savez_compressed)
    monkeypatch.chdir(tmp_path)
    data = load_dsprites(path.name, unpack_to="images.npy" if kind == "unpacked" else None)
    assert np.array_equal(images_of(data, [1]), IMAGES[[1]])
    sent = pickle.dumps(data)
    assert IMAGES[3].tobytes() not in sent
    # and is found from another folder
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert np.array_equal(images_of(pickle.loads(sent), [3, 0]), IMAGES[[3, 0]])


def test_a_copy_with_another_header_is_read_where_it_begins(write, tmp_path):
    path, copy = write(), tmp_path / "images.npy"
    np.save(copy, IMAGES)
    usual = copy.read_bytes()
    length = int.from_bytes(usual[8:10], "little")
    end = 10 + length - 1  # where the header's newline is
    longer = usual[:8] + (length + 64).to_bytes(2, "little") + usual[10:end] + b" " * 64 + usual[end:]
    copy.write_bytes(longer)
    assert np.array_equal(images_of(load_dsprites(path, unpack_to=copy), [3, 40]), IMAGES[[3, 40]])


@pytest.mark.parametrize("copy", [None, "images.npy"])
@pytest.mark.parametrize(
    "images", [np.asfortranarray(IMAGES), IMAGES.astype(object)], ids=["columns", "objects"]
)
def test_images_that_cannot_be_mapped_are_refused(write, tmp_path, images, copy):
    with pytest.raises(ValueError, match=r"Expected imgs of .* as numbers in C order"):
        load_dsprites(write(np.savez, imgs=images), unpack_to=copy and tmp_path / copy)
    assert [file.name for file in tmp_path.iterdir()] == ["dsprites.npz"]


@pytest.mark.parametrize("other", [np.zeros((3, 4)), np.asfortranarray(IMAGES)], ids=["shape", "columns"])
def test_an_unpacked_file_of_something_else_is_refused(write, tmp_path, other):
    np.save(tmp_path / "images.npy", other)
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


@pytest.mark.parametrize("unpack", [False, True])
def test_arrays_larger_than_allowed_are_refused_before_they_are_unpacked(write, tmp_path, unpack):
    path, copy = write(), tmp_path / "images.npy" if unpack else None
    size = IMAGES.nbytes + CLASSES.nbytes + 1000
    assert load_dsprites(path, max_bytes=size, unpack_to=copy).observation_shape == (64, 64)
    with pytest.raises(ValueError, match=r"Expected at most .* GiB but imgs .* pass max_bytes="):
        load_dsprites(path, max_bytes=1000, unpack_to=copy)
