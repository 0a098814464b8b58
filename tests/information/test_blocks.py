"""Slices cover all points, and the bar waits."""

import pytest

from pyro_infomax.information import blocks as module
from pyro_infomax.information.blocks import blocks, patiently


@pytest.mark.parametrize(("points", "rows", "lengths"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (0, 4, [0])])
def test_blocks_cover_all_points(points, rows, lengths) -> None:
    parts = [list(range(points))[part] for part in blocks(points, rows, progress=False)]
    assert [len(part) for part in parts] == lengths
    assert [each for part in parts for each in part] == list(range(points))


def test_the_bar_waits_and_can_be_unwanted(capsys, monkeypatch) -> None:
    assert list(patiently("abc", progress=True)) == list("abc")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    assert list(patiently("abc", progress=False)) == list("abc")
    assert capsys.readouterr().err == ""
    assert list(patiently("abc", progress=True)) == list("abc")
    assert "aggregate posterior" in capsys.readouterr().err
