"""Images a second of ``Sprites``, and of Pillow drawing the same figures as polygons, one by one.

Both draw the same combinations of factors, white on black and without anti-aliasing, into one float32 array
(Pillow turns the pixels along the outline on as well);
the rounds take turns, so that the ratio does not depend on what else the machine does. ``Sprites`` keeps the
windows of its figures once it has drawn them, so that its first round is shown apart. One process and one
thread. Run ``python benchmarks/sprites.py``.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pyro_infomax.datasets import Noise, RandomColour, Sprites

SIDE = 64
CORNERS = 60
Factors = NDArray[np.int64]
Floats = NDArray[np.float64]


def outlines() -> list[Floats]:
    """The corners of each upright figure of scale 1, x to the right and y upwards."""
    t = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    square = 10.7 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    ellipse = np.stack([15.1 * np.cos(t), 8.2 * np.sin(t)], axis=1)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t) - 5 / 6
    heart = np.stack([16 * np.sin(t) ** 3, y], axis=1) * 15.4 / (17 + 5 / 6)
    return [square, ellipse, heart]


class Polygons:
    """Draws sprites by Pillow."""

    def __init__(self, sprites: Sprites) -> None:
        values = sprites.factor_values
        self._outlines = outlines()
        self._scales, self._angles = values["scale"], values["orientation"]
        self._x, self._y = values["position_x"], values["position_y"]

    def observations(self, factors: Factors) -> torch.Tensor:
        images = np.empty((len(factors), SIDE, SIDE), dtype=np.float32)
        for row, factor in enumerate(factors.tolist()):
            images[row] = self._draw(*factor)
        return torch.from_numpy(images)

    def _draw(self, shape: int, scale: int, angle: int, x: int, y: int) -> Image.Image:
        cosine, sine = np.cos(self._angles[angle]), np.sin(self._angles[angle])
        turned = self._scales[scale] * self._outlines[shape] @ np.array([[cosine, -sine], [-sine, -cosine]])
        # Pillow counts from the middle of the first pixel
        corners = turned + 16 + 31 * np.array([self._x[x], self._y[y]])
        image = Image.new("1", (SIDE, SIDE))
        ImageDraw.Draw(image).polygon(corners.ravel().tolist(), fill=1)
        return image


def rate(draw: Callable[[Factors], torch.Tensor], factors: Factors, batch: int) -> float:
    started = time.perf_counter()
    for part in np.split(factors, range(batch, len(factors), batch)):
        draw(part)
    return len(factors) / (time.perf_counter() - started)


def measure(number: int, rounds: int, batch: int) -> None:
    sprites = Sprites()
    others = {
        "coloured": Sprites(sprite=RandomColour()),
        "on noise": Sprites(background=Noise()),
    }
    polygons = Polygons(sprites)
    factors = sprites.sample_factors(number, seed=0)
    differ = (sprites.observations(factors[:500]) != polygons.observations(factors[:500])).sum((1, 2))
    print(
        f"{number:,} images of {SIDE} by {SIDE} in batches of {batch}, images a second, medians of {rounds}"
    )
    print(f"both drawers differ by {differ.double().mean():.1f} pixels an image\n")
    kinds = {
        "Sprites, first round": [rate(Sprites().observations, factors, batch)],
        "Sprites": [],
        "Pillow polygons": [],
    }
    for _ in range(rounds):
        kinds["Sprites"].append(rate(sprites.observations, factors, batch))
        kinds["Pillow polygons"].append(rate(polygons.observations, factors, batch))
    for name, data in others.items():
        data.observations(factors)
        kinds[f"Sprites, {name}"] = [rate(data.observations, factors, batch) for _ in range(rounds)]
    slow = statistics.median(kinds["Pillow polygons"])
    for name, rates in kinds.items():
        median = statistics.median(rates)
        print(f"{name:<24}{median:>12,.0f}{median / slow:>9.1f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(options.images, options.rounds, options.batch)
