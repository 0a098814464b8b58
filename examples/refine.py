"""From the guide's posteriors to the model's: look at Pareto k, resample where it is good, refine the rest.

Trains a VAE on digits, asks for each held-out digit how far the guide's posterior can be trusted, resamples
and refines, and splits what the ELBO lacks of log p(x) into what the encoder and what the family loses.

    python examples/refine.py --epochs 200 --latent-dim 4 --out runs/refine
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_infomax import VAE, BetaELBO, CapturedSVI, FusedOptim, fit, plots
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.diagnostics import (
    Refinement,
    ResampledPosterior,
    evidence,
    refine,
    resample,
)
from pyro_infomax.nn import MLPDecoder, MLPEncoder

HELD_OUT = 6  # one image of so many


def load(seed: int, *, few: bool) -> tuple[Tensor, Tensor]:
    """Images to train on and images to hold out."""
    images = binarize(load_digits().images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    order = order[:120] if few else order
    held_out = len(order) // HELD_OUT
    return images[order[held_out:]], images[order[:held_out]]


def trained(images: Tensor, latent_dim: int, epochs: int, seed: int) -> VAE:
    shape = tuple(images.shape[1:])
    vae = VAE(MLPEncoder(shape), MLPDecoder(latent_dim, shape), latent_dim=latent_dim)
    svi = CapturedSVI(vae.model, vae.guide, FusedOptim(torch.optim.Adam, {"lr": 2e-3}), BetaELBO(beta=1.0))
    fit(svi, images, epochs=epochs, seed=seed, progress=False)
    return vae


def full_covariance(vae: VAE) -> Callable[[Tensor], None]:
    """The VAE's own posterior as a member of a richer family, to refine within that."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            q = vae.encode(x)
            pyro.sample("z", dist.MultivariateNormal(q.mean, scale_tril=torch.diag_embed(q.stddev)))

    return guide


def row(elbo: Tensor, log_evidence: Tensor, draws: ResampledPosterior) -> dict[str, float]:
    """In nats per datum; the share of data whose draws can be used, and how many proposals count."""
    return {
        "elbo": float(elbo.mean()),
        "log p(x)": float(log_evidence.mean()),
        "share with good k": float((draws.pareto_k <= draws.threshold).double().mean()),
        "median k": float(draws.pareto_k.median()),
        "median effective size": float(draws.effective_sample_size.median()),
        "least effective size": float(draws.effective_sample_size.min()),
    }


def picture(refined: Refinement, found: dict[str, ResampledPosterior], path: Path) -> None:
    left, right = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")[1]
    plots.inference_gaps(refined.to_frame(), ax=left)
    k = {name: each.pareto_k for name, each in found.items()}
    plots.pareto_k_curves(k, threshold=found["guide"].threshold, ax=right)
    left.figure.savefig(path, dpi=80)
    plt.close("all")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latent-dim", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--num-samples", type=int, default=1000, help="proposals for each image")
    parser.add_argument("--num-steps", type=int, default=400, help="of the refinement")
    parser.add_argument("--widen", type=float, default=1.2, help="factor of the last proposals' scales")
    parser.add_argument("--out", type=Path, default=Path("runs/refine"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    images, holdout = load(args.seed, few=args.smoke)
    vae = trained(images, args.latent_dim, 2 if args.smoke else args.epochs, args.seed)
    num_samples, num_steps = (50, 20) if args.smoke else (args.num_samples, args.num_steps)

    sampling = {"num_draws": 100, "num_samples": num_samples, "seed": args.seed}
    refining = {"num_steps": num_steps, "num_samples": num_samples, "seed": args.seed}
    rows = {}
    for name, x in (("training", images[: len(holdout)]), ("held out", holdout)):
        before = resample(vae.model, vae.guide, x, **sampling)
        refined = refine(vae.model, vae.guide, x, **refining)
        after = resample(vae.model, refined.guide, x, **sampling)
        richer = refine(vae.model, full_covariance(vae), x, **refining)
        resampled = resample(vae.model, richer.guide, x, **sampling)
        best = resample(vae.model, richer.guide.widened(args.widen), x, **sampling)
        print(f"\n{name} digits, resampled from the guide\n{before}")
        print(f"\n{name} digits, refined\n{refined}")
        print(f"\n{name} digits, refined with a full covariance\n{richer}")
        print(f"\n{name} digits, resampled from these, widened\n{best}")
        rows[name, "guide"] = row(refined.elbo_before, refined.log_evidence, before)
        rows[name, "refined"] = row(refined.elbo, refined.log_evidence, after)
        rows[name, "full covariance"] = row(richer.elbo, richer.log_evidence, resampled)
        wide = evidence(
            vae.model, richer.guide.widened(args.widen), x, num_samples=num_samples, seed=args.seed
        )
        rows[name, "the same, widened"] = row(torch.full(x.shape[:1], torch.nan), wide.per_datum, best)
    summary = pd.DataFrame(rows).T.rename_axis(["data", "posterior"])
    print(f"\n{summary.round(3).to_string()}")

    args.out.mkdir(parents=True, exist_ok=True)
    summary.to_csv(args.out / "summary.csv")
    refined.to_frame().to_csv(args.out / "refined.csv")
    best.to_arviz(dims={"z": ["latent"]}).to_netcdf(args.out / "posterior.nc")
    picture(
        refined, {"guide": before, "refined": after, "widened full covariance": best}, args.out / "refine.png"
    )
    print(f"\nTables, draws for ArviZ and a picture of the held-out digits are in {args.out}")


if __name__ == "__main__":
    main()
