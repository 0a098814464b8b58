"""DCI by the reference's learner and by the default one, side by side in one run.

The codes are those of five factors of dSprites' sizes: aligned (the factors beside noise), noisy, partly
rotated, and wholly mixed. Run ``python benchmarks/dci.py`` for 10,000 data, which the reference's learner
takes minutes for each time; ``--smoke`` for small ones. Both learn from two thirds of the data.
"""

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier

from pyro_infomax.disentanglement import dci

SIZES = (3, 6, 40, 32, 32)
SMALL = (3, 4, 5)
ANGLE = np.pi / 5

Floats = NDArray[np.float64]


def rotation(latent: int, pairs: list[tuple[int, int]]) -> Floats:
    """By one angle in each of the planes."""
    turned = np.eye(latent)
    for i, j in pairs:
        turned[[i, i, j, j], [i, j, i, j]] = np.cos(ANGLE), np.sin(ANGLE), -np.sin(ANGLE), np.cos(ANGLE)
    return turned


def codes_of(kind: str, factors: NDArray[np.int64], latent: int, rng: np.random.RandomState) -> Floats:
    z = (factors - factors.mean(0)) / factors.std(0)
    noise = rng.randn(len(z), latent)
    aligned = noise.copy()
    aligned[:, : z.shape[1]] = z
    spread = np.where(np.arange(latent) < z.shape[1], 0.3, 0.0)
    match kind:
        case "aligned":
            return aligned
        case "noisy":
            return aligned + spread * rng.randn(*aligned.shape)
        case "partly rotated":
            return (aligned + 0.1 * rng.randn(*aligned.shape)) @ rotation(
                latent, [(0, 2), (1, z.shape[1] - 1)]
            )
        case _:
            return z @ rng.randn(z.shape[1], latent)


def compare(kind: str, data: int, sizes: tuple[int, ...], latent: int) -> None:
    rng = np.random.RandomState(0)
    factors = rng.randint(sizes, size=(data, len(sizes)))
    codes = codes_of(kind, factors, latent, rng)
    found, seconds = [], []
    for learner in (GradientBoostingClassifier(), None):
        started = time.perf_counter()
        score = dci(codes, factors, learner=learner, calibration=None, progress=False)
        seconds.append(time.perf_counter() - started)
        found.append(np.array([each.score for each in score.all]))
    slow, fast = found
    theirs, difference = (
        " / ".join(f"{each:{form}}" for each in row) for row, form in ((slow, ".3f"), (fast - slow, "+.3f"))
    )
    timing = f"{seconds[0]:.1f} | {seconds[1]:.2f} | {seconds[0] / seconds[1]:.0f}"
    print(f"| {kind} | {timing} | {theirs} | {difference} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    kinds = ("aligned", "noisy", "partly rotated", "mixed")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    arguments = parser.parse_args()
    print("| codes | reference's learner, s | default, s | ratio | its D / C / I | the default's less that |")
    print("|---|---|---|---|---|---|", flush=True)
    for kind in arguments.kinds:
        compare(kind, *((600, SMALL, 6) if arguments.smoke else (10_000, SIZES, 10)))


if __name__ == "__main__":
    main()
