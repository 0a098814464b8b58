"""The running log-sum-exp at the edges."""

import math

import torch

from pyro_infomax.information._mixture_engine import RunningLogSumExp


def run(*tiles: torch.Tensor) -> torch.Tensor:
    running = RunningLogSumExp(tiles[0][:, 0])
    for tile in tiles:
        running.add(torch.arange(len(tile)), tile.clone())
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


def test_tiles_relative_to_the_reference_and_of_some_rows_agree_with_the_whole() -> None:
    whole = torch.randn(6, 40) * 300
    running = RunningLogSumExp(whole[:, 0])
    first, rows = torch.arange(6), torch.tensor([4, 1])
    running.add(first, whole[:, :20].clone())
    running.add_relative(rows, whole[rows, 20:] - running.reference[rows, None])
    expected = whole[:, :20].logsumexp(1)
    expected[rows] = whole[rows].logsumexp(1)
    torch.testing.assert_close(running.result(), expected, rtol=1e-14, atol=1e-14)


def test_a_tile_is_borne_while_its_exponentials_are_finite() -> None:
    running = RunningLogSumExp(torch.zeros(3))
    assert not running.bears(torch.arange(3), torch.zeros(3))
    running.add(torch.arange(2), torch.zeros(2, 1))
    assert running.bears(torch.arange(2), torch.full((2,), 300.0))
    assert not running.bears(torch.arange(2), torch.tensor([0.0, 301.0]))
