import gzip
import io
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_infomax.datasets import load_idx, load_npz

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


@pytest.fixture
def load(tmp_path):
    """Saves the arrays and loads them again."""

    def save_and_load(options=None, **arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return load_npz(tmp_path / "data.npz", **(options or {}))

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


@pytest.mark.parametrize("white", [1, 7, 15, 16, 100, 127, 128, 254])
def test_bytes_that_are_not_0_to_255_are_refused_unless_white_is_named(load, white):
    images = np.array([[0, white // 2, white]], dtype=np.uint8)
    grey = torch.from_numpy(images / np.float32(white))
    assert torch.equal(load({"white": white}, images=images).images, grey)
    if 1 < white < 128:
        with pytest.raises(ValueError, match=rf"the brightest is {white}: say .* white={white} or white=255"):
            load(images=images)
    else:
        assert torch.equal(load(images=images).images, grey if white == 1 else grey * np.float32(white) / 255)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float64])
def test_the_number_that_is_white_scales_any_numbers(load, dtype):
    images = np.array([[0, 51, 255]], dtype=dtype)
    assert load({"white": 255}, x=images).images.tolist() == [[0, np.float32(0.2), 1]]
    with pytest.raises(ValueError, match=r"from 0 to 1\.7; divided by white=150 they leave it"):
        load({"white": 150}, x=images)


@pytest.mark.parametrize("white", [0, -1.0, np.nan, np.inf, "255", None, True])
def test_white_is_a_number_above_zero(load, white):
    if white is None:
        assert load({"white": white}, x=grey(2, 2)).images.shape == (2, 2)
        return
    with pytest.raises(ValueError, match="Expected white > 0 but got"):
        load({"white": white}, x=grey(2, 2))


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


LAYOUTS = {
    # shape: where the channels are, None where it could be either axis
    (3, 32, 32): "first",
    (1, 28, 28): "first",
    (4, 100, 6): "first",
    (3, 4, 4): "first",
    (1, 4, 4): "first",
    (6, 32, 32): "first",
    (20, 30, 40): "first",
    (32, 32, 3): "last",
    (28, 28, 1): "last",
    (60, 100, 4): "last",
    (8, 6, 3): "last",
    (4, 4, 3): None,
    (3, 8, 3): None,
    (3, 3, 3): None,
    (1, 28, 1): None,
    (6, 100, 4): None,
    (100, 6, 4): None,
    (32, 32, 2): None,
}


@pytest.mark.parametrize(("shape", "where"), LAYOUTS.items(), ids=str)
def test_channels_come_first_and_what_could_be_either_is_refused(load, shape, where):
    images = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    kept, turned = torch.from_numpy(images), torch.from_numpy(np.moveaxis(images, -1, 1))
    assert torch.equal(load({"channels": "first"}, x=images).images, kept)
    assert torch.equal(load({"channels": "last"}, x=images).images, turned)
    if where is None:
        with pytest.raises(ValueError, match="say channels='first' or channels='last'"):
            load(x=images)
    else:
        assert torch.equal(load(x=images).images, kept if where == "first" else turned)


def test_only_images_of_four_axes_have_channels(load):
    assert load({"channels": "last"}, x=grey(2, 5, 3)).images.shape == (2, 5, 3)
    with pytest.raises(ValueError, match="Expected channels to be 'first', 'last' or None but got 'NHWC'"):
        load({"channels": "NHWC"}, x=grey(2, 5, 3))


@pytest.mark.parametrize(
    ("images", "labels"), [("x_train", "y_train"), ("arr_0", "arr_1"), ("train_images", "train_labels")]
)
def test_arrays_of_any_names_can_be_named(load, images, labels):
    arrays = {images: grey(3, 4), labels: np.array([[2], [0], [1]], dtype=np.uint8)}
    data = load({"images": images, "labels": labels}, **arrays)
    assert (data.images.shape, data.labels.tolist()) == ((3, 4), [2, 0, 1])
    assert load({"images": images}, **arrays).labels is None
    with pytest.raises(ValueError, match=rf"named 'classes' in .* but found {images}, {labels}; .*labels="):
        load({"images": images, "labels": "classes"}, **arrays)


def declaring(path, shape, content=b"", name="images.npy"):
    """An npz file whose array declares a shape."""
    header = str({"descr": "|u1", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content)
    return path


@pytest.mark.parametrize("shape", [(2**50, 28, 28), (2**70, 1), (2**31, 1)])
def test_declared_sizes_are_bounded_before_anything_is_unpacked(tmp_path, shape):
    with pytest.raises(ValueError, match=r"Expected at most 1 GiB but images \(.* would take .* max_bytes="):
        load_npz(declaring(tmp_path / "bomb.npz", shape))


def test_what_a_file_really_unpacks_to_is_bounded_and_may_be_allowed(tmp_path):
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, images=np.zeros((50, 8000), dtype=np.uint8), labels=np.zeros(50))
    assert path.stat().st_size < 4000
    assert load_npz(path, max_bytes=500_000).images.shape == (50, 8000)
    with pytest.raises(ValueError, match=r"images \(50, 8000\), labels \(50,\) of .* pass max_bytes=400656"):
        load_npz(path, max_bytes=400_300)
    with pytest.raises(ValueError, match=r"pass max_bytes=400656"):
        load_npz(path, max_bytes=np.int64(1000))


def test_an_array_that_is_shorter_than_it_declares_is_damaged(tmp_path):
    for shape in ((2**29, 1), (-3, 4)):
        with pytest.raises(ValueError, match="is damaged"):
            load_npz(declaring(tmp_path / "short.npz", shape, bytes(50)))


@pytest.mark.parametrize("max_bytes", [0, 1.5, None, "1"])
def test_a_bound_is_a_whole_number(load, max_bytes):
    with pytest.raises(ValueError, match="Expected max_bytes to be an integer >= 1"):
        load({"max_bytes": max_bytes}, x=grey(2, 2))


@pytest.mark.parametrize("path", [None, 3, b"data.npz"])
def test_a_path_is_text_or_a_path(path):
    with pytest.raises(TypeError, match="Expected the path of a file but got"):
        load_npz(path)


def test_a_damaged_file_is_said_to_be_so(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, images=np.random.default_rng(0).random((50, 8, 8)))
    content = bytearray(path.read_bytes())
    content[5000:5200] = bytes(each ^ 0xFF for each in content[5000:5200])
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_npz(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("value", [1, 255])
def test_whatever_byte_is_wrong_the_file_is_read_or_refused_in_a_sentence(tmp_path, save, value):
    """Encrypted, packed by another method, with members at other places, of other lengths and shapes."""
    path = tmp_path / "images.npz"
    save(path, x=PIXELS)
    content, ends = path.read_bytes(), set()
    for at in [*range(30), *range(len(content) - 110, len(content))]:
        path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
        try:
            load_npz(path)
            ends.add("read")
        except ValueError as error:
            ends.add(str(error).split()[0])
    assert ends == {"read", "Expected"}


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


@pytest.mark.parametrize("labels", [np.arange(3), np.zeros((4, 2), dtype=int), np.zeros((1, 4))])
def test_labels_of_another_shape_are_refused(load, labels):
    with pytest.raises(
        ValueError, match=r"Expected one label per image, shape \(4,\).*, but got labels of shape"
    ):
        load(images=grey(4, 2), labels=labels)


@pytest.mark.parametrize("labels", [np.array([0.5, 1.0]), np.array([np.nan, 1.0]), np.array([1j, 0])])
def test_labels_that_are_not_integers_are_refused(load, labels):
    with pytest.raises(ValueError, match="Expected integer labels but got dtype"):
        load(images=grey(2, 2), labels=labels)


@pytest.mark.parametrize("label", [2**63, 2**64 - 1, 2**60])
def test_labels_that_would_wrap_or_lose_digits_are_refused(load, label):
    with pytest.raises(ValueError, match=f"Expected labels up to 9007199254740992 but got {label}"):
        load(images=grey(2, 2), labels=np.array([0, label], dtype=np.uint64))


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (np.array(["dog", "cat", "dog"]), [1, 0, 1]),
        (np.array([[b"b"], [b"a"], [b"c"]]), [1, 0, 2]),
        (np.array([2.0, 0.0, -1.0]), [2, 0, -1]),
        (np.array([[True], [False], [True]]), [1, 0, 1]),
        (np.array([7, 0, 2], dtype=np.uint64), [7, 0, 2]),
    ],
)
def test_words_columns_and_whole_numbers_of_any_kind_are_labels(load, labels, numbers):
    loaded = load(images=grey(3, 2), labels=labels).labels
    assert (loaded.dtype, loaded.tolist()) == (torch.int64, numbers)


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


# ---- The format of MNIST.


def idx(array, kind):
    shape = b"".join(each.to_bytes(4, "big") for each in array.shape)
    return bytes([0, 0, kind, array.ndim]) + shape + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_the_files_of_mnist_are_read(tmp_path, pack):
    images, labels = tmp_path / "images", str(tmp_path / "labels")
    images.write_bytes(pack(idx(PIXELS, 8)))
    Path(labels).write_bytes(pack(idx(np.arange(5, dtype=np.uint8), 8)))
    data = load_idx(images, labels)
    assert torch.equal(data.images, torch.from_numpy(PIXELS / np.float32(255)))
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    assert load_idx(images).labels is None


@pytest.mark.parametrize(("kind", "dtype"), [(9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")])
def test_numbers_of_other_kinds_are_read_and_scaled(tmp_path, kind, dtype):
    array = (PIXELS // 3).astype(dtype)
    (tmp_path / "images").write_bytes(idx(array, kind))
    images = load_idx(tmp_path / "images", white=85).images
    assert torch.allclose(images, torch.from_numpy(array / 85).float())


def test_files_that_are_no_whole_idx_files_are_refused(tmp_path):
    path, content = tmp_path / "images", idx(PIXELS, 8)
    for damaged in (content[:-1], content + b"0", content[:9], gzip.compress(content)[:-12]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            load_idx(path)
    path.write_bytes(content[:4] + b"\xff" * 12)
    with pytest.raises(ValueError, match="Expected at most 1 GiB but"):
        load_idx(path)
    for other in (b"", b"text", b"\x00\x00\x07\x01", b"\x1f\x8b"):
        path.write_bytes(other)
        with pytest.raises(ValueError, match="Expected an IDX file, as those of MNIST, but"):
            load_idx(path)
    with pytest.raises(FileNotFoundError, match="Expected an IDX file but there is no"):
        load_idx(tmp_path / "none")


def test_an_idx_file_for_an_npz_file_is_told(tmp_path):
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx(PIXELS, 8)))
    with pytest.raises(ValueError, match=r"Expected an npz file but .* is none; load_idx reads it"):
        load_npz(tmp_path / "images.gz")
