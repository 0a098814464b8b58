import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from pyro_infomax.plots import traversal_animation


def frames(path):
    """(frame, height, width, 3) of the film."""
    with Image.open(path) as film:
        shown = []
        for k in range(film.n_frames):
            film.seek(k)
            shown.append(np.asarray(film.convert("RGB")))
        return np.stack(shown)


def centres(shown, *, count):
    """(frame, tile, 3): the colour in the middle of each of the tiles, which stand in a row."""
    _, height, width, _ = shown.shape
    columns = ((np.arange(count) + 0.5) * width / count).astype(int)
    return shown[:, int(0.6 * height), columns]


def flat(*levels):
    """Images of one colour each: (row, frame, 4, 4)."""
    return np.array(levels)[:, :, None, None] * np.ones((4, 4))


def test_tiles_move_forth_and_back(tmp_path):
    images = flat([0.0, 0.5, 1.0], [1.0, 0.75, 0.25])
    shown = centres(frames(traversal_animation(images, tmp_path / "a.gif")), count=2)[..., 0]
    expected = 255 * np.array([[0, 1], [0.5, 0.75], [1, 0.25], [0.5, 0.75]])
    np.testing.assert_allclose(shown, expected, atol=3)


def test_three_channels_are_colour(tmp_path):
    colour = np.array([1.0, 0.5, 0.0])[:, None, None] * np.ones((3, 4, 4))
    images = np.stack([colour, 0 * colour])[None]  # (row, frame, channel, height, width)
    shown = centres(frames(traversal_animation(images, tmp_path / "a.gif")), count=1)
    np.testing.assert_allclose(shown[:, 0], [[255, 127, 0], [0, 0, 0]], atol=3)


def test_values_beyond_the_common_range_widen_the_scale_of_all_frames(tmp_path):
    shown = centres(frames(traversal_animation(flat([0.0, 1.0, 2.0]), tmp_path / "a.gif")), count=1)
    np.testing.assert_allclose(shown[:3, 0, 0], [0, 127, 255], atol=3)


def test_frames_last_as_long_as_asked_each_of_them_and_the_film_goes_on(tmp_path):
    with Image.open(traversal_animation(flat([0.0, 0.5, 1.0]), tmp_path / "a.gif", fps=4)) as film:
        assert film.info["loop"] == 0
        durations = []
        for k in range(film.n_frames):
            film.seek(k)
            durations.append(film.info["duration"])
    assert durations == [250] * 4


def test_many_dimensions_stand_in_several_rows_and_a_place_without_a_tile_is_empty(tmp_path):
    few, many = (frames(traversal_animation(np.zeros((n, 2, 4, 4)), tmp_path / f"{n}.gif")) for n in (5, 9))
    assert many.shape[1:] == (2 * few.shape[1], few.shape[2], 3)
    _, height, width, _ = many.shape
    assert (many[:, height // 2 :, int(0.8 * width) + 3 :] == 255).all()


def test_names_and_values_are_written(tmp_path):
    plain = frames(traversal_animation(flat([0.0, 1.0]), tmp_path / "a.gif"))
    named = frames(traversal_animation(flat([0.0, 1.0]), tmp_path / "b.gif", names=["width"]))
    valued = frames(traversal_animation(flat([0.0, 1.0]), tmp_path / "c.gif", values=[-1.5, 2.0]))
    assert (named[0, : named.shape[1] // 4] != plain[0, : plain.shape[1] // 4]).any()
    below = valued[:, -20:]
    assert (below[0] != below[1]).any()
    assert valued.shape[1] > plain.shape[1]


def test_long_names_get_wide_tiles(tmp_path):
    wide, narrow = (
        frames(traversal_animation(flat([0.0, 1.0]), tmp_path / "a.gif", names=[name])).shape[2]
        for name in ("horizontal position", "width")
    )
    assert wide > 1.2 * narrow


def test_the_tiles_stay_where_they_are(tmp_path):
    images = flat(np.ones(4), np.zeros(4))
    shown = frames(traversal_animation(images, tmp_path / "a.gif", values=[-10.0, 0.0, 1.0, 123.0]))
    assert len(shown) == 6
    height = int(0.8 * shown.shape[1])
    assert (shown[:, :height] == shown[0, :height]).all()


def test_tensors_with_gradients_are_written_and_no_figure_stays(tmp_path):
    path = traversal_animation(torch.rand(2, 3, 1, 4, 4, requires_grad=True), str(tmp_path / "a.GIF"))
    assert path == tmp_path / "a.GIF"
    assert len(frames(path)) == 4
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"values": [0.0]}, "Expected one value per frame, 2 in all, but got 1"),
        ({"names": ["a", "b"]}, "Expected 1 names but got 2"),
        ({"fps": 0}, "Expected fps from 0.1 to 50 but got 0"),
        ({"fps": 100}, "Expected fps from 0.1 to 50 but got 100"),
        ({"fps": np.nan}, "Expected fps from 0.1 to 50 but got nan"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        traversal_animation(flat([0.0, 1.0]), tmp_path / "a.gif", **options)


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Expected a path that ends with \.gif but got '.*a\.mp4'"):
        traversal_animation(flat([0.0, 1.0]), tmp_path / "a.mp4")


def test_a_single_frame_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected two frames or more but got 1"):
        traversal_animation(flat([0.0]), tmp_path / "a.gif")


def test_images_without_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"of shape \(rows, columns, H, W\)"):
        traversal_animation(np.ones((2, 4, 4)), tmp_path / "a.gif")
