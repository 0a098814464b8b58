"""Is the ceiling of the population's information valid, and how close is it?

    python benchmarks/ceiling.py --repeats 200

On two linear-Gaussian pairs it prints how far ceiling and prior gain are from the truth, in their own
standard errors: one whose aggregate posterior is far from the prior, and one whose prior it is. Then come
the bounds of VAEs with ten latents: on digits; on too few of them, trained for long; and on half of the
digits at nine places each, with those of the other half, some 8,000 images, as held-out data.
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


def on_the_prior() -> LinearGaussian:
    return LinearGaussian.optimum([1.5], beta=1.0, latent_dim=1, s2=1.0)


def on_linear_gaussian(oracle: LinearGaussian, *, repeats: int, size: int) -> pd.DataFrame:
    """A row a repetition: ceiling and prior gain less their truths, in nats and in their own errors."""
    truths = {"mutual_information_upper": oracle.mutual_information, "prior_gain": oracle.marginal_kl}
    rows = []
    for seed in range(repeats):
        account = decompose(
            oracle.model,
            oracle.guide,
            oracle.sample(size, seed=seed),
            seed=seed,
            ceiling=True,
            progress=False,
        )
        row = {}
        for name, truth in truths.items():
            found = getattr(account, name)
            row[name] = float(found) - float(truth)
            row[f"{name}, errors"] = row[name] / float(found.population_standard_error)
        rows.append(row)
    return pd.DataFrame(rows)


def trained(images: torch.Tensor, *, epochs: int) -> VAE:
    pyro.set_rng_seed(0)
    vae = VAE(MLPEncoder((8, 8)), MLPDecoder(10, (8, 8)), latent_dim=10)
    optimiser = FusedOptim(torch.optim.Adam, {"lr": 2e-3})
    fit(CapturedSVI(vae.model, vae.guide, optimiser, BetaELBO(beta=0.5)), images, epochs=epochs, seed=0)
    return vae


def at_nine_places(images: torch.Tensor) -> torch.Tensor:
    wide = torch.nn.functional.pad(images, (1, 1, 1, 1))
    return torch.cat([wide[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])


def on_digits() -> pd.DataFrame:
    """Bounds and gain of three VAEs, and what they are by."""
    pyro.set_rng_seed(0)
    images = binarize(load_digits().images)
    vae = trained(images, epochs=200)
    account = decompose(vae.model, vae.guide, images, seed=0)
    # a guide that was trained on few data for long encodes others otherwise
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    few, others = images[order[:600]], images[order[600:]]
    vae = trained(few, epochs=800)
    overfitted = decompose(vae.model, vae.guide, few, holdout=others, seed=0, ceiling=True)
    assert overfitted.holdout is not None
    # each half of the digits moved by a pixel in all directions, none of them in both halves
    half = len(images) // 2
    seen, unseen = at_nine_places(images[order[:half]]), at_nine_places(images[order[half:]])
    vae = trained(seen, epochs=60)
    moved = decompose(vae.model, vae.guide, seen, holdout=unseen, seed=0).holdout
    assert moved is not None
    accounts = {"all": account, "600": overfitted, "the others": overfitted.holdout, "moved": moved}
    for name, each in accounts.items():
        assert each.mutual_information_upper is not None
        print(f"{name}: {each.mutual_information_upper.target}")
    rows = ["mutual_information_lower", "mutual_information_upper", "rate", "prior_gain"]
    found = pd.DataFrame({name: each.to_frame()["value"][rows] for name, each in accounts.items()})
    lower, upper, rate = (found.loc[name] for name in rows[:3])
    found.loc["share of rate - lower"] = (rate - upper) / (rate - lower)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--size", type=int, default=1000, help="data of a repetition")
    args = parser.parse_args()
    for name, oracle in {"far from the prior": skewed(), "the prior": on_the_prior()}.items():
        found = on_linear_gaussian(oracle, repeats=args.repeats, size=args.size)
        print(
            f"aggregate posterior {name}: I {float(oracle.mutual_information):.4f}, "
            f"rate {float(oracle.rate):.4f}, marginal KL {float(oracle.marginal_kl):.4f}"
        )
        print(found.agg(["mean", "std", "min", "max"]).round(4).to_string())
        above = (found["mutual_information_upper, errors"] > -2).mean()
        below = (found["prior_gain, errors"] < 2).mean()
        print(f"ceiling above the truth less two errors: {above:.1%}")
        print(f"gain below the truth and two errors: {below:.1%}\n")
    print(f"digits, ten latents:\n{on_digits().round(2).to_string()}")


if __name__ == "__main__":
    main()
