"""Do digits that a VAE draws look like digits? Three predictive checks on held-out images.

A VAE is trained on five sixths of the digits of scikit-learn, in black and white. On the held-out sixth the
posterior check asks whether the decoder gives back what it was shown, the prior check whether samples of the
model look like the data, and the aggregate check the same with latents from the aggregate posterior in place
of the prior.

    python examples/predictive_checks.py --epochs 200 --latent-dim 8
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import torch
from torch import Tensor

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.diagnostics import PredictiveCheck, predictive_check
from pyro_infomax.infer import BetaELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.plots import predictive_density, predictive_intervals, replicates
from pyro_infomax.training import fit
from pyro_infomax.vae import VAE

KINDS = ("posterior", "prior", "aggregate")
SHOWN = ("ink", "height", "neighbours")
FURTHEST = 6  # standard deviations
HELD_OUT = 6  # one image of so many


def load(seed: int, *, few: bool) -> tuple[Tensor, Tensor]:
    """Images to train on, and images to hold out, (N, 8, 8), of zeros and ones."""
    images = binarize(load_digits().images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    order = order[:240] if few else order
    held_out = len(order) // HELD_OUT
    return images[order[held_out:]], images[order[:held_out]]


def train(x: Tensor, args: argparse.Namespace) -> VAE:
    vae = VAE(MLPEncoder((8, 8)), MLPDecoder(args.latent_dim, (8, 8)), latent_dim=args.latent_dim)
    # Records a step once and replays it; SVI in its place takes ordinary steps, with the same numbers
    optimiser = FusedOptim(torch.optim.Adam, {"lr": 2e-3})
    svi = CapturedSVI(vae.model, vae.guide, optimiser, BetaELBO(beta=args.beta))
    fit(svi, x, epochs=2 if args.smoke else args.epochs, progress=not args.smoke, seed=args.seed)
    return vae


def draw(checks: dict[str, PredictiveCheck], out: Path) -> None:
    size = {"figsize": (12, 6), "layout": "constrained"}
    figure, axes = plt.subplots(1, len(checks), sharex=True, sharey=True, **size)
    for ax, (kind, check) in zip(axes, checks.items(), strict=True):
        predictive_intervals(check.to_frame(), ax=ax).set_title(f"{kind} check")
    axes[0].set_xlim(-FURTHEST, FURTHEST)
    figure.savefig(out / "intervals.png", dpi=80)

    figure, axes = plt.subplots(1, len(SHOWN), figsize=(12, 3.2), layout="constrained")
    prior = checks["prior"]
    for ax, name in zip(axes, SHOWN, strict=True):
        predictive_density(prior.observed[name], prior.replicated[name], name=name, ax=ax)
    figure.suptitle("held-out digits and samples of the model")
    figure.savefig(out / "densities.png", dpi=80)

    figure, axes = plt.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
    for ax, kind in zip(axes, ("posterior", "prior"), strict=True):
        replicates(checks[kind].examples["x"], checks[kind].replicates["x"], ax=ax)
        ax.set_title(f"{kind} check")
    figure.savefig(out / "replicates.png", dpi=80)
    plt.close("all")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=200, help="passes over the digits")
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--beta", type=float, default=1.0, help="rate weight of the training")
    parser.add_argument("--num-draws", type=int, default=200, help="replicated data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/predictive_checks"))
    parser.add_argument("--seed", type=int, default=0, help="of parameters and draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.latent_dim < 1:
        parser.error("Expected --epochs and --latent-dim of at least 1.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    x, holdout = load(args.seed, few=args.smoke)
    vae = train(x, args)

    checks: dict[str, PredictiveCheck] = {}
    for kind in KINDS:
        options = {"num_draws": 40 if args.smoke else args.num_draws, "seed": args.seed}
        checks[kind] = predictive_check(vae.model, vae.guide, x, kind=kind, holdout=holdout, **options)
        print(f"{checks[kind]}\n")
    args.out.mkdir(parents=True, exist_ok=True)
    tables = {kind: check.to_frame() for kind, check in checks.items()}
    pd.concat(tables, names=["kind"]).to_csv(args.out / "predictive_checks.csv")
    draw(checks, args.out)
    print(f"The table and pictures are in {args.out}")


if __name__ == "__main__":
    main()
