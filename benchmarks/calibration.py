"""How often calibration raises a false alarm, how often it finds a fault, and how long it takes.

    python benchmarks/calibration.py --repeats 200

The pair is z ~ N(0, I), x ~ N(z, I) in two dimensions. For an exact guide and for guides with one fault each
it prints the share of repetitions in which some corrected p-value is below 0.01, the smallest of all
p-values, and the medians of the uncorrected ones; then the seconds of a calibration of a digits VAE.
"""

import argparse
import math
import time
from collections.abc import Callable

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_infomax import VAE, calibrate
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.nn import MLPDecoder, MLPEncoder

SD = math.sqrt(0.5)  # of the exact posterior


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide_with(slope: tuple[float, float], shift: float, scale: float) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x * torch.tensor(slope) + shift, scale).to_event(1))

    return guide


GUIDES = {
    "exact": guide_with((0.5, 0.5), 0.0, SD),
    "the prior": guide_with((0.0, 0.0), 0.0, 1.0),
    "sign of x[1] wrong": guide_with((0.5, -0.5), 0.0, SD),
    "scale x 0.9": guide_with((0.5, 0.5), 0.0, 0.9 * SD),
    "mean + 0.2": guide_with((0.5, 0.5), 0.2, SD),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--num-simulations", type=int, default=500)
    args = parser.parse_args()
    data = torch.zeros(4, 2)
    rows = {}
    for name, guide in GUIDES.items():
        frames, verdicts = [], []
        for seed in range(args.repeats):
            found = calibrate(model, guide, data, num_simulations=args.num_simulations, seed=seed)
            frames.append(found.to_frame())
            verdicts.append(found.verdict)
        corrected = pd.DataFrame([frame["p_value"] for frame in frames])
        single = pd.DataFrame([frame["p_uncorrected"] for frame in frames])
        rows[name] = {
            "alarms": (corrected.min(axis=1) < 0.01).mean(),
            **{f"median p of {each}": single[each].median() for each in single},
            "commonest verdict": pd.Series(verdicts).mode()[0],
            "its share": pd.Series(verdicts).value_counts(normalize=True).iloc[0],
        }
        print(pd.DataFrame({name: rows[name]}).T.to_string(), flush=True)

    images = binarize(load_digits().images)
    vae = VAE(MLPEncoder((8, 8)), MLPDecoder(10, (8, 8)), latent_dim=10)
    start = time.perf_counter(), time.process_time()
    calibrate(vae.model, vae.guide, images, seed=0)
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    print(f"digits, ten latents, 500 simulations: {wall:.1f} s, {cpu:.1f} CPU s")


if __name__ == "__main__":
    main()
