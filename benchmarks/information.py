"""The information that ``mig`` finds between a code and a factor, beside that of quadrature.

The factor has evenly likely values 0, 1, …, and the code is the factor with Normal noise. Run ``python
benchmarks/information.py``, or ``--smoke`` for a few lines of it. Bias and spread are over repetitions and,
like the standard error that is reported, in percent of the information; the last column is how often a note
said that the data are too few, and what is further than 5 % from the truth without such a note.
"""

import argparse
import math

import numpy as np
from numpy.typing import NDArray

from pyro_infomax.disentanglement import mig

DATA = (500, 2000, 20_000)
VALUES = (2, 8, 64)
NOISE = (0.1, 0.5, 2.0, 10.0)
Floats = NDArray[np.float64]


def quadrature(values: int, noise: float) -> float:
    grid = np.linspace(-9 * noise, values - 1 + 9 * noise, 100_001)
    density = np.zeros_like(grid)
    for value in range(values):
        density += np.exp(-(((grid - value) / noise) ** 2) / 2)
    density /= values * noise * math.sqrt(2 * math.pi)
    entropy = -np.trapezoid(density * np.log(np.maximum(density, 1e-300)), grid)
    return float(entropy - math.log(2 * math.pi * math.e * noise**2) / 2)


def compare(data: int, values: int, noise: float, repetitions: int) -> None:
    found, errors, noted = [], [], []
    for seed in range(repetitions):
        rng = np.random.RandomState(seed)
        factor = rng.randint(values, size=(data, 1))
        code = factor + noise * rng.randn(data, 1)
        score = mig(np.column_stack([code, 0 * code]), factor, calibration=None, progress=False)
        found.append(score.parts["mutual_information"][0, 0])
        errors.append(score.parts["standard_error"][0, 0])
        noted.append(bool(score.notes))
    truth = quadrature(values, noise)
    off = np.array(found) / truth - 1
    wrong = ((np.abs(off) > 0.05) & ~np.array(noted)).mean()
    numbers = (off.mean(), off.std(), np.mean(errors) / truth)
    percent = " | ".join(f"{100 * each:.1f}" for each in numbers)
    print(f"| {data} | {values} | {noise:g} | {truth:.4f} | {percent} | {np.mean(noted):.0%}, {wrong:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    print("| data | values | noise | nats | bias, % | spread, % | reported, % | noted, wrong without |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for data in DATA[:1] if arguments.smoke else DATA:
        for values in VALUES:
            for noise in NOISE[1:2] if arguments.smoke else NOISE:
                compare(data, values, noise, repetitions=5 if arguments.smoke else 100_000 // data)


if __name__ == "__main__":
    main()
