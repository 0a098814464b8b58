import io
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from pyro_infomax.datasets import load_npz


@pytest.fixture
def load(tmp_path):
    """Saves the arrays and loads them again."""

    def save_and_load(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return load_npz(tmp_path / "data.npz")

    return save_and_load


def grey(*shape):
    return np.linspace(0, 1, int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(load, dtype):
    images = grey(5, 3, 4).astype(dtype)
    loaded = load(images=images).images
    assert loaded.dtype == torch.float32
    assert np.array_equal(loaded.numpy(), images.astype(np.float32))


def test_bytes_are_divided_by_255(load):
    images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    assert torch.equal(
        load(images=images).images, torch.arange(256, dtype=torch.float32).reshape(4, 8, 8) / 255
    )


def test_booleans_become_zero_and_one(load):
    loaded = load(images=np.array([[True, False], [False, False]])).images
    assert loaded.dtype == torch.float32
    assert loaded.tolist() == [[1, 0], [0, 0]]


def test_wide_integers_of_binary_images_are_taken_as_they_are(load):
    assert load(images=np.array([[1, 0], [0, 0]], dtype=np.int64)).images.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 4), (6, 3, 4, 4)])
def test_the_shape_is_kept(load, shape):
    assert load(x=grey(*shape)).images.shape == shape


def test_images_come_before_x_and_labels_before_y(load):
    data = load(x=grey(2, 9), images=grey(2, 4), y=np.array([7, 7]), labels=np.array([1, 0]))
    assert data.images.shape == (2, 4)
    assert data.labels.tolist() == [1, 0]


@pytest.mark.parametrize("name", ["labels", "y"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_become_int64(load, name, dtype):
    labels = load(x=grey(3, 4), **{name: np.array([2, 0, 1], dtype=dtype)}).labels
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 0, 1]


def test_without_labels_there_are_none(load):
    assert load(x=grey(3, 4)).labels is None


def test_a_string_is_a_path_too(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", x=grey(3, 4))
    assert load_npz(str(tmp_path / "data.npz")).images.shape == (3, 4)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "no.npz"))):
        load_npz(tmp_path / "no.npz")


def test_without_a_known_array_those_that_are_there_are_named(load):
    with pytest.raises(
        ValueError, match=r"'images' or 'x' in .*data\.npz but found x_train, y_train; save one"
    ):
        load(x_train=grey(3, 4), y_train=np.arange(3))


def test_a_file_without_any_array_says_so(load):
    with pytest.raises(ValueError, match="but found no array at all"):
        load()


def test_the_first_nan_is_located(load):
    images = grey(4, 2, 3)
    images[1, 0, 2], images[3, 1, 1] = np.nan, -np.inf
    with pytest.raises(ValueError, match=r"got 2 nan or infinite values, the first at index \(1, 0, 2\)"):
        load(images=images)


@pytest.mark.parametrize(
    ("images", "span"),
    [
        (np.array([[-3.0, 16.0]]), "-3 to 16"),
        (np.array([[0.0, 1.5]]), "0 to 1.5"),
        (np.array([[0.0, 1 + 1e-7]]), "0 to 1.0000001"),
        (np.array([[-0.5, 1.0]]), "-0.5 to 1"),
        (np.array([[0, 255]], dtype=np.int64), "0 to 255"),
    ],
)
def test_values_outside_the_unit_interval_are_refused(load, images, span):
    with pytest.raises(
        ValueError, match=rf"Expected images in \[0, 1\] but got values from {span}; scale them"
    ):
        load(images=images)


def test_bytes_of_nothing_but_zero_and_one_are_binary(load):
    images = np.array([[[0, 1], [1, 0]]] * 2, dtype=np.uint8)
    assert load(images=images).images.tolist() == images.tolist()


def test_channels_come_first(load):
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 6, 3), dtype=np.uint8)
    assert load(images=images).images.shape == (5, 3, 8, 6)


def test_a_damaged_file_is_said_to_be_so(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, images=np.random.default_rng(0).random((50, 8, 8)))
    content = bytearray(path.read_bytes())
    content[5000:5200] = bytes(each ^ 0xFF for each in content[5000:5200])
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_npz(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "images.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", "hello")
    with pytest.raises(ValueError, match="a file of another kind"):
        load_npz(path)


def test_one_axis_is_too_few(load):
    with pytest.raises(ValueError, match=r"at least two axes, the data first, but got shape \(5,\)"):
        load(images=grey(5))


@pytest.mark.parametrize("shape", [(0, 8, 8), (4, 0)])
def test_empty_images_are_refused(load, shape):
    with pytest.raises(ValueError, match=r"Expected at least one image and pixel but got shape"):
        load(images=np.zeros(shape))


@pytest.mark.parametrize("images", [np.array([["a", "b"]]), np.array([[1j]])])
def test_images_that_are_not_real_numbers_are_refused(load, images):
    with pytest.raises(
        ValueError, match="Expected images of real numbers, 8-bit integers or booleans but got dtype"
    ):
        load(images=images)


@pytest.mark.parametrize("labels", [np.arange(3), np.zeros((4, 1), dtype=int)])
def test_labels_of_another_shape_are_refused(load, labels):
    with pytest.raises(
        ValueError, match=r"Expected one label per image, shape \(4,\), but got labels of shape"
    ):
        load(images=grey(4, 2), labels=labels)


@pytest.mark.parametrize("labels", [np.array([0.5, 1.0]), np.array(["a", "b"])])
def test_labels_that_are_not_integers_are_refused(load, labels):
    with pytest.raises(ValueError, match="Expected integer labels but got dtype"):
        load(images=grey(2, 2), labels=labels)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_objects_are_refused_and_never_run(load, tmp_path):
    bomb = np.empty((1, 1), dtype=object)
    bomb[0, 0] = Bomb(tmp_path / "exploded")
    with pytest.raises(ValueError, match=r"Expected arrays of numbers in .* but got pickled Python objects"):
        load(images=bomb)
    assert not (tmp_path / "exploded").exists()


def array_file():
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"text", array_file(), pickle.dumps([1])])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected an npz file but .* is none; write one by numpy\.savez"):
        load_npz(tmp_path / "data.npz")
