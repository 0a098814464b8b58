"""Slices cover all points."""

import pytest

from pyro_infomax.information._mixture_engine import blocks


@pytest.mark.parametrize(("points", "rows", "lengths"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (0, 4, [0])])
def test_blocks_cover_all_points(points, rows, lengths) -> None:
    parts = [list(range(points))[part] for part in blocks(points, rows, "points", progress=False)]
    assert [len(part) for part in parts] == lengths
    assert [each for part in parts for each in part] == list(range(points))
