import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from pyro_infomax.datasets import FactorArrays

GRID = np.stack([axis.ravel() for axis in np.indices((2, 3))], axis=1)


def images_of(factors):
    """Images whose every pixel tells the combination."""
    return np.repeat((10 * factors[:, 0] + factors[:, 1]) / 100, 4).reshape(-1, 2, 2)


def arrays(order=slice(None), **keywords):
    return FactorArrays(images_of(GRID)[order], GRID[order], factor_names=("a", "b"), **keywords)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1), [3, 1, 4, 0, 5, 2]])
def test_rows_are_found_whatever_their_order(order):
    data = arrays(order)
    asked = np.array([[1, 2], [0, 0], [1, 0], [1, 2]])
    assert np.allclose(data.observations(asked).numpy(), images_of(asked))


def test_a_complete_grid_is_drawn_column_by_column():
    generator = np.random.RandomState(0)
    expected = np.stack([generator.randint(size, size=9) for size in (2, 3)], axis=1)
    assert np.array_equal(arrays().sample_factors(9, seed=0), expected)
    assert not arrays().draws


def test_values_are_numbered_in_their_order():
    data = FactorArrays(images_of(GRID), GRID * [-1.5, 7] + [0, 3])
    assert data.factor_names == ("factor 0", "factor 1")
    assert data.factor_values == {"factor 0": (-1.5, 0), "factor 1": (3, 10, 17)}
    assert np.allclose(data.observations([[0, 1]]).numpy(), images_of(np.array([[1, 1]])))


def test_missing_combinations_never_come_and_have_no_image():
    data = arrays([0, 2, 3, 4])
    assert data.all_factors().tolist() == [[0, 0], [0, 2], [1, 0], [1, 1]]
    assert {tuple(row) for row in data.sample_factors(200, seed=0).tolist()} == {
        (0, 0),
        (0, 2),
        (1, 0),
        (1, 1),
    }
    with pytest.raises(ValueError, match=r"but 1 have none, the first in row 1: \[0, 1\]; all_factors"):
        data.observations([[0, 0], [0, 1]])


def test_several_rows_of_a_combination_are_drawn_by_seed():
    images = np.arange(6, dtype=np.float64).reshape(6, 1, 1).repeat(2, 2) / 10
    data = FactorArrays(images, np.array([[0], [1], [0], [0], [1], [0]]))
    drawn = data.observations(np.zeros((3000, 1), dtype=int), seed=0)[:, 0, 0]
    values, counts = drawn.unique(return_counts=True)
    assert np.allclose(values, [0.0, 0.2, 0.3, 0.5])
    assert (counts - 750).abs().max() < 5 * np.sqrt(3000 * 0.25 * 0.75)
    assert torch.equal(drawn, data.observations(np.zeros((3000, 1), dtype=int), seed=0)[:, 0, 0])
    assert data.draws


def test_one_combination_with_two_rows_is_enough_for_a_draw():
    assert arrays([0, 0, 1, 2, 3, 4, 5]).draws


def test_a_missing_last_combination_is_named():
    with pytest.raises(ValueError, match=r"the first in row 0: \[1, 2\]"):
        arrays([0, 1, 2, 3, 4]).observations([[1, 2]])


def test_combinations_come_as_often_as_there_are_rows():
    data = arrays([0, 0, 0, 1, 2, 3, 4, 5])
    assert np.allclose(data.probabilities(), [3 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8])


def test_equally_many_rows_of_every_combination_are_the_full_grid():
    data = arrays([0, 1, 2, 3, 4, 5] * 2)
    assert data.all_factors().tolist() == GRID.tolist()
    assert np.allclose(data.probabilities(), 1 / 6)


def test_what_is_left_out_and_what_goes_together_apply():
    data = arrays(where=lambda v: v[:, 1] != 1, correlated={("a", "b"): 0.5})
    assert data.all_factors().tolist() == [[0, 0], [0, 2], [1, 0], [1, 2]]
    probabilities = data.probabilities()
    assert probabilities[0] == pytest.approx(probabilities[1] * np.exp(1 / (2 * 0.25)))


def test_bytes_are_divided_by_255_unless_they_are_binary():
    grey = FactorArrays(np.array([[[0, 51]], [[1, 255]]], dtype=np.uint8), [[0], [1]])
    assert np.allclose(grey.observations([[0], [1]]), [[[0, 0.2]], [[1 / 255, 1]]])
    binary = FactorArrays(np.array([[[0, 1]], [[1, 1]]], dtype=np.uint8), [[0], [1]])
    assert binary.observations([[0], [1]]).tolist() == [[[0, 1]], [[1, 1]]]


@pytest.mark.parametrize("white", [2, 16, 127])
def test_bytes_that_are_not_0_to_255_are_refused_unless_white_is_named(white):
    images = np.full((5000, 1, 1), white, dtype=np.uint8)  # more than are looked at at once
    factors = np.arange(5000)[:, None] // 2500
    with pytest.raises(ValueError, match=f"the brightest is {white}: say .* white={white} or white=255"):
        FactorArrays(images, factors)
    assert FactorArrays(images, factors, white=white).observations([[1]], seed=0).item() == 1
    images[-1] = 200
    assert FactorArrays(images, factors).observations([[0]], seed=0).item() == np.float32(white / 255)


def test_what_is_white_may_be_named():
    data = FactorArrays(np.array([[[0, 8]], [[16, 4]]]), [[0], [1]], white=16)
    assert data.observations([[0], [1]]).tolist() == [[[0, 0.5]], [[1, 0.25]]]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 6, 3), (3, 8, 6)),
        ((8, 6, 1), (1, 8, 6)),
        ((3, 8, 6), (3, 8, 6)),
        ((8, 6), (8, 6)),
        ((3, 8, 8), (3, 8, 8)),
    ],
)
def test_channels_come_first(shape, expected):
    images = np.random.default_rng(0).random((2, *shape))
    data = FactorArrays(images, [[0], [1]])
    assert data.observation_shape == expected
    moved = np.moveaxis(images[1], -1, 0) if shape != expected else images[1]
    assert np.allclose(data.observations([[1]])[0], moved)


@pytest.mark.parametrize("shape", [(4, 4, 3), (6, 100, 4)])
def test_channels_that_could_be_either_axis_are_refused_unless_named(shape):
    images = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    with pytest.raises(ValueError, match="say channels='first' or channels='last'"):
        FactorArrays(images, [[0], [1]])
    first, last = (FactorArrays(images, [[0], [1]], channels=where) for where in ("first", "last"))
    assert (first.observation_shape, last.observation_shape) == (shape, (shape[2], *shape[:2]))
    assert np.array_equal(first.observations([[1]])[0], images[1])
    assert np.array_equal(last.observations([[1]])[0], np.moveaxis(images[1], -1, 0))


def test_values_that_differ_by_rounding_are_one():
    size = np.array([0.1 + 0.2, 0.3, 0.3 + 1e-12, 0.6, 3 * 0.2, np.float32(0.9)])
    data = FactorArrays(np.linspace(0, 1, 6)[:, None], size[:, None])
    assert data.factor_sizes == (3,)
    assert data.factor_values["factor 0"] == pytest.approx((0.3, 0.6, 0.9), abs=1e-7)
    assert np.allclose(data.probabilities(), [1 / 2, 1 / 3, 1 / 6])


@pytest.mark.parametrize(
    "values",
    [
        [1e-12, 2e-12, 3e-12],
        [0, 1e-12],
        [1e-8, 1e-7, 1e-6, 1.0],  # logarithmic
        [0, 1e-8, 1.0],
        [1.7e9, 1.7e9 + 1, 1.7e9 + 2],  # dates
        [*np.arange(30) * 1e-7 + 0.5, 1.0],  # many steps
        np.array([0, 1, 10**9]),
    ],
    ids=str,
)
def test_values_that_differ_by_more_are_several(values):
    factor = np.array(values)[:, None]
    assert FactorArrays(np.zeros((len(factor), 1)), factor).factor_sizes == (len(factor),)


@pytest.mark.parametrize("values", [[0.1 + 0.2, 0.3], [0, 1e-12, 1], [0.5, 0.5 + 1e-12, 1e6]], ids=str)
def test_values_that_differ_by_rounding_leave_one_less(values):
    factor = np.array(values)[:, None]
    assert FactorArrays(np.zeros((len(factor), 1)), factor).factor_sizes == (len(factor) - 1,)


def test_frames_are_arrays_too():
    images = pd.DataFrame(images_of(GRID).reshape(6, -1))
    data = FactorArrays(images, pd.DataFrame(GRID))
    assert torch.equal(data.observations(GRID), arrays().observations(GRID).flatten(1))


def test_tensors_and_memory_mapped_arrays_do_too(tmp_path):
    np.save(tmp_path / "images.npy", images_of(GRID))
    for images in (torch.from_numpy(images_of(GRID)), np.load(tmp_path / "images.npy", mmap_mode="r")):
        data = FactorArrays(images, torch.from_numpy(GRID))
        assert torch.equal(data.observations(GRID[::2]), arrays().observations(GRID[::2]))


@pytest.mark.parametrize("chunks", [None, (1, 2, 2)])
def test_a_dataset_of_an_hdf5_file_is_read_row_by_row(tmp_path, chunks):
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file.create_dataset("images", data=images_of(GRID), chunks=chunks)
    with h5py.File(tmp_path / "images.h5") as file:
        data = FactorArrays(file["images"], GRID)
        asked = [[1, 2], [0, 0], [1, 2]]
        assert torch.equal(data.observations(asked), FactorArrays(images_of(GRID), GRID).observations(asked))


@pytest.mark.parametrize("white", [0, -1.0, np.nan, "1", True])
def test_white_must_be_brighter_than_black(white):
    with pytest.raises(ValueError, match="Expected white > 0"):
        arrays(white=white)


def test_continuous_factors_of_too_many_combinations_are_refused():
    factors = np.random.default_rng(0).random((200, 9))
    with pytest.raises(ValueError, match="Expected factors of few values each but got grids of 200, 200"):
        FactorArrays(np.zeros((200, 2)), factors)


@pytest.mark.parametrize("factors", [GRID[:3], GRID[:, 0], np.zeros((6, 0))])
def test_other_shapes_of_factors_are_refused(factors):
    with pytest.raises(ValueError, match=r"Expected factors of shape \(6, K\)"):
        FactorArrays(images_of(GRID), factors)


@pytest.mark.parametrize("factors", [np.where(GRID == 0, np.nan, 1.0), np.full((6, 2), "a")])
def test_factors_that_are_no_numbers_are_refused(factors):
    with pytest.raises(ValueError, match="Expected factors as finite real numbers"):
        FactorArrays(images_of(GRID), factors)


@pytest.mark.parametrize("names", [("a",), ("a", "a"), ("a", "b", "c")])
def test_names_that_do_not_fit_are_refused(names):
    with pytest.raises(ValueError, match="Expected 2 different factor_names"):
        FactorArrays(images_of(GRID), GRID, factor_names=names)


@pytest.mark.parametrize("images", [np.zeros(6), [[1.0]] * 6])
def test_images_that_are_no_array_with_two_axes_are_refused(images):
    with pytest.raises(ValueError, match="Expected images as an array of at least two axes"):
        FactorArrays(images, GRID)


def test_complex_images_are_refused():
    with pytest.raises(ValueError, match="Expected images of real numbers or booleans"):
        FactorArrays(images_of(GRID) * 1j, GRID)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.nan])
def test_pixels_off_the_scale_are_refused(wrong):
    images = images_of(GRID)
    images[2, 0, 0] = wrong
    data = FactorArrays(images, GRID)
    assert data.observations(GRID[:2]).shape == (2, 2, 2)
    with pytest.raises(ValueError, match=r"Expected images in \[0, 1\]"):
        data.observations(GRID)
