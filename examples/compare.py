"""Which model, and which guide, is better on held-out digits? The evidence says; leave-one-out misleads.

Probabilistic PCA has a log p(x) in closed form. Models with few and more latents are fitted to most of the
digits of scikit-learn, and the better one has three guides: its exact posterior, one with half and one with
twice its standard deviations. They are compared on held-out digits, beside the exact log p(x) and what
ArviZ's leave-one-out says of the same draws.

    python examples/compare.py --latent-dim 10
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import arviz
import matplotlib.pyplot as plt
import pandas as pd
import pyro
import torch
import xarray as xr
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pyro_infomax import compare
from pyro_infomax.datasets import load_digits
from pyro_infomax.diagnostics import to_native
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.plots import evidence_differences

HELD_OUT = 6  # one image of so many
SCALES = {"exact": 1.0, "half as wide": 0.5, "twice as wide": 2.0}


def load(seed: int, *, few: bool) -> tuple[Tensor, Tensor]:
    """Images to fit to, and images to hold out, (N, 64), less the mean of the former."""
    images = torch.as_tensor(load_digits().images).double().flatten(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    order = order[:300] if few else order
    held_out = len(order) // HELD_OUT
    x, holdout = images[order[held_out:]], images[order[:held_out]]
    return x - x.mean(0), holdout - x.mean(0)


def fitted(x: Tensor, latent_dim: int, scale: float) -> LinearGaussian:
    """The PCA of most likelihood (Tipping and Bishop, 1999), and its posterior with another width."""
    covariance = x.T @ x / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    s2 = values[:-latent_dim].mean()
    W = vectors[:, -latent_dim:] * (values[-latent_dim:] - s2).sqrt()
    M = W.T @ W + s2 * torch.eye(latent_dim)
    return LinearGaussian(covariance, W, s2, torch.linalg.solve(M, W.T), scale**2 * s2 * torch.linalg.inv(M))


def exact_evidence(pair: LinearGaussian, x: Tensor) -> float:
    covariance = pair.W @ pair.W.T + pair.s2 * torch.eye(x.shape[1])
    return float(MultivariateNormal(torch.zeros(x.shape[1]), covariance).log_prob(x).mean())


def leave_one_out(pair: LinearGaussian, x: Tensor, num_draws: int) -> float:
    """What ``arviz.loo`` makes of draws from the guide, in nats per datum."""
    noise = torch.randn(num_draws, len(x), pair.W.shape[1])
    z = x @ pair.V.T + noise @ torch.linalg.cholesky(pair.Delta).T
    log_likelihood = Normal(z @ pair.W.T, pair.s2.sqrt()).log_prob(x).sum(-1)
    dims = ["chain", "draw", "datum"]
    groups = {
        "posterior": xr.Dataset({"z": ([*dims, "latent"], z.numpy()[None])}),
        "log_likelihood": xr.Dataset({"x": (dims, log_likelihood.numpy()[None])}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of the Pareto k that is too large, which the table shows by its result
        found = arviz.loo(to_native(groups))
    total = found["elpd_loo"] if "elpd_loo" in dir(found) else found["elpd"]
    return float(total) / len(x)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--num-samples", type=int, default=1000, help="draws of z for each image")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--seed", type=int, default=0, help="of the split and the draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    if not 2 <= args.latent_dim < 60:
        parser.error("Expected --latent-dim from 2 to 59.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(args.seed)
    x, holdout = load(args.seed, few=args.smoke)
    num_samples = 50 if args.smoke else args.num_samples
    pairs = {name: fitted(x, args.latent_dim, scale) for name, scale in SCALES.items()}
    pairs["half the latents"] = fitted(x, args.latent_dim // 2, 1.0)

    models = {name: (pair.model, pair.guide) for name, pair in pairs.items()}
    found = compare(models, holdout, num_samples=num_samples, seed=args.seed)
    print(found)
    beside = pd.DataFrame(
        {
            "log p(x)": {name: exact_evidence(pairs[name], holdout) for name in found.ranking},
            "evidence": found.to_frame()["evidence"],
            "arviz.loo": {name: leave_one_out(pairs[name], holdout, num_samples) for name in found.ranking},
        }
    )
    print(f"\n{beside.loc[found.ranking].round(2).to_string()}")

    args.out.mkdir(parents=True, exist_ok=True)
    found.to_frame().to_csv(args.out / "compare.csv")
    beside.to_csv(args.out / "beside.csv")
    ax = evidence_differences(found.to_frame(), data_size=len(holdout))
    ax.figure.savefig(args.out / "compare.png", dpi=80)
    plt.close("all")
    print(f"\nThe tables and a picture are in {args.out}")


if __name__ == "__main__":
    main()
