"""The running log-sum-exp at the edges."""

import math

import torch

from pyro_infomax.information.logsumexp import RunningLogSumExp


def run(*tiles: torch.Tensor) -> torch.Tensor:
    running = RunningLogSumExp(tiles[0][:, 0])
    for tile in tiles:
        running.add(tile.clone())
    return running.result()


def test_rising_and_falling_maxima_agree_with_the_whole() -> None:
    whole = torch.randn(6, 40) * 300
    torch.testing.assert_close(run(*whole.split(7, 1)), whole.logsumexp(1), rtol=1e-15, atol=1e-15)
    rising = whole.sort(1).values
    torch.testing.assert_close(run(*rising.split(1, 1)), whole.logsumexp(1), rtol=1e-14, atol=1e-14)


def test_empty_tiles_count_nothing() -> None:
    nothing, one = torch.full((2, 3), -math.inf), torch.zeros(2, 1)
    assert run(nothing).tolist() == [-math.inf] * 2
    assert run(nothing, one, nothing).tolist() == [0.0, 0.0]
