"""Are the posteriors of a VAE those of its model? Digits simulated from it say.

A VAE is trained on the digits of scikit-learn, in black and white. Then digits are simulated from its own
model together with their latents, and the guide is asked where these latents are: how often they are in its
intervals, and where they rank among its draws.

    python examples/calibration.py --epochs 200 --latent-dim 8
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch

from pyro_infomax import VAE, CapturedSVI, FusedOptim, calibrate, fit
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.diagnostics import CalibrationCheck
from pyro_infomax.infer import BetaELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.plots import coverage, rank_curves


def draw(found: CalibrationCheck, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    rank_curves(found.ecdf_frame(), ax=axes[0])
    coverage(found.to_frame(), ax=axes[1])
    figure.savefig(path, dpi=80)
    plt.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=200, help="passes over the digits")
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--beta", type=float, default=1.0, help="rate weight of the training")
    parser.add_argument("--num-simulations", type=int, default=500, help="digits drawn from the model")
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
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
    images = binarize(load_digits().images)[: 200 if args.smoke else None]
    vae = VAE(MLPEncoder((8, 8)), MLPDecoder(args.latent_dim, (8, 8)), latent_dim=args.latent_dim)
    svi = CapturedSVI(
        vae.model, vae.guide, FusedOptim(torch.optim.Adam, {"lr": 2e-3}), BetaELBO(beta=args.beta)
    )
    fit(svi, images, epochs=2 if args.smoke else args.epochs, progress=not args.smoke, seed=args.seed)

    number = 60 if args.smoke else args.num_simulations
    found = calibrate(vae.model, vae.guide, images, num_simulations=number, seed=args.seed)
    print(found)
    args.out.mkdir(parents=True, exist_ok=True)
    found.to_frame().to_csv(args.out / "calibration.csv")
    found.to_arviz().to_netcdf(str(args.out / "calibration.nc"))
    draw(found, args.out / "calibration.png")
    print(f"\nThe table, the ranks and a picture are in {args.out}")


if __name__ == "__main__":
    main()
