"""Is the ceiling of the population's information valid, and how close is it?

    python benchmarks/ceiling.py --repeats 200

On linear-Gaussian pairs whose aggregate posterior is far from the prior it prints how far the ceiling is from
the truth, in its own standard errors; then the bounds of a VAE with ten latents on digits.
"""

import argparse

import pandas as pd
import pyro
import torch

from pyro_infomax import VAE, BetaELBO, CapturedSVI, FusedOptim, decompose, fit
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.oracles import LinearGaussian


def skewed() -> LinearGaussian:
    best = LinearGaussian.optimum([4.0, 2.0, 1.0], beta=1.0, latent_dim=2, s2=0.2)
    A = torch.tensor([[1.5, 0.5], [0.0, 0.7]], dtype=torch.float64)
    return LinearGaussian(best.S, best.W, best.s2, A @ best.V, A @ best.Delta @ A.T)


def on_digits() -> pd.Series:
    pyro.set_rng_seed(0)
    images = binarize(load_digits().images)
    vae = VAE(MLPEncoder((8, 8)), MLPDecoder(10, (8, 8)), latent_dim=10)
    optimiser = FusedOptim(torch.optim.Adam, {"lr": 2e-3})
    fit(CapturedSVI(vae.model, vae.guide, optimiser, BetaELBO(beta=0.5)), images, epochs=200, seed=0)
    account = decompose(vae.model, vae.guide, images, seed=0)
    names = ["mutual_information_lower", "mutual_information_upper", "rate", "prior_gain"]
    return account.to_frame()["value"][names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--size", type=int, default=1000, help="data of a repetition")
    args = parser.parse_args()
    oracle = skewed()
    truth, errors, widths = float(oracle.mutual_information), [], []
    for seed in range(args.repeats):
        x = oracle.sample(args.size, seed=seed)
        upper = decompose(oracle.model, oracle.guide, x, seed=seed, ceiling=True).mutual_information_upper
        assert upper is not None
        assert upper.population_standard_error is not None
        errors.append((float(upper) - truth) / float(upper.population_standard_error))
        widths.append(float(upper) - truth)
    found = pd.Series(errors)
    print(
        f"truth {truth:.4f}, rate {float(oracle.rate):.4f}, "
        f"ceiling {truth + pd.Series(widths).mean():.4f} on average"
    )
    print(
        f"(ceiling - truth) / error: mean {found.mean():.2f}, sd {found.std():.2f}, least {found.min():.2f}"
    )
    print(f"above the truth less two errors: {(found > -2).mean():.1%} of {args.repeats}")
    print(f"digits, ten latents:\n{on_digits().round(2).to_string()}")


if __name__ == "__main__":
    main()
