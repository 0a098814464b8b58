import pickle

import h5py
import numpy as np
import pytest
import torch

from pyro_infomax.datasets import load_shapes3d

SIZES = (2, 2, 2, 2, 2, 3)
NUMBERS = np.stack([axis.ravel() for axis in np.indices(SIZES)], axis=1)
LABELS = NUMBERS * [0.1, 0.1, 0.1, 0.5, 1, 30] + [0, 0, 0, 0.75, 0, -30]
IMAGES = np.random.default_rng(0).integers(0, 256, (len(NUMBERS), 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def write(tmp_path):
    def save(**arrays):
        path = tmp_path / "3dshapes.h5"
        with h5py.File(path, "w") as file:
            for name, array in ({"images": IMAGES, "labels": LABELS} | arrays).items():
                file.create_dataset(name, data=array)
        return path

    return save


def expected(rows):
    return torch.from_numpy(np.moveaxis(IMAGES[rows], -1, 1).astype(np.float32) / 255)


def test_images_are_found_by_their_factors(write):
    data = load_shapes3d(write())
    assert data.factor_names == ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
    assert data.factor_sizes == SIZES
    assert data.factor_values["orientation"] == (-30, 0, 30)
    assert data.observation_shape == (3, 64, 64)
    rows = [90, 3, 41, 3]
    assert torch.equal(data.observations(NUMBERS[rows]), expected(rows))


def test_it_is_sent_to_another_process_and_found_from_another_folder(write, tmp_path, monkeypatch):
    path = write()
    monkeypatch.chdir(tmp_path)
    data = load_shapes3d(path.name)
    data.observations(NUMBERS[:2])
    sent = pickle.dumps(data)
    assert IMAGES[3].tobytes() not in sent
    (tmp_path / "below").mkdir()
    monkeypatch.chdir("below")
    assert torch.equal(pickle.loads(sent).observations(NUMBERS[5:7]), expected([5, 6]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*none\.h5"):
        load_shapes3d(tmp_path / "none.h5")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="is no HDF5 file"):
        load_shapes3d(tmp_path / "text.h5")


def test_other_arrays_are_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("x", data=IMAGES)
    with pytest.raises(ValueError, match=r"Expected images and labels in .* but found x"):
        load_shapes3d(tmp_path / "other.h5")


@pytest.mark.parametrize("labels", [LABELS[:, :5], LABELS[:, 0], 3.0])
def test_other_labels_are_refused(write, labels):
    with pytest.raises(ValueError, match=r"Expected labels of shape \(N, 6\)"):
        load_shapes3d(write(labels=labels))


def test_labels_that_declare_any_size_are_refused_before_they_are_read(tmp_path):
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("images", shape=(2**40, 64, 64, 3), dtype=np.uint8, chunks=(1, 64, 64, 3))
        file.create_dataset("labels", shape=(2**40, 6), dtype=np.float64, chunks=(1, 6))
    with pytest.raises(ValueError, match=r"Expected at most 1 GiB but labels \(1099511627776, 6\) of"):
        load_shapes3d(tmp_path / "huge.h5")


def test_images_that_are_no_bytes_are_refused(write):
    with pytest.raises(ValueError, match=r"Expected images of bytes in .* but got dtype float32"):
        load_shapes3d(write(images=IMAGES / np.float32(255)))


def test_groups_are_no_arrays(tmp_path):
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        file.create_group("images")
        file.create_group("labels")
    with pytest.raises(ValueError, match="Expected images and labels"):
        load_shapes3d(tmp_path / "groups.h5")


def test_a_truncated_file_is_refused(write):
    path = write()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="is damaged"):
        load_shapes3d(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no HDF5 file"):
        load_shapes3d(tmp_path)
