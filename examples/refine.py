"""From the guide's posteriors to the model's: look at Pareto k, resample where it is good, refine the rest.

Trains a VAE on digits, asks for each held-out digit how far the guide's posterior can be trusted, resamples
and refines, and splits what the ELBO lacks of log p(x) into what the encoder and what the family loses.

    python examples/refine.py --epochs 200 --latent-dim 4 --out runs/refine
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from torch import Tensor

from pyro_infomax import VAE, BetaELBO, CapturedSVI, FusedOptim, fit
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.diagnostics import Refinement, ResampledPosterior, refine, resample
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


def table(
    name: str, refined: Refinement, before: ResampledPosterior, after: ResampledPosterior
) -> dict[str, object]:
    """A row of the summary, in nats per datum and shares of the data."""
    return {
        "data": name,
        "elbo": float(refined.elbo_before.mean()),
        "refined elbo": float(refined.elbo.mean()),
        "log p(x)": float(refined.log_evidence.mean()),
        "amortisation gap": float(refined.amortisation_gap.mean()),
        "approximation gap": float(refined.approximation_gap.mean()),
        "good k before": float((before.pareto_k <= before.threshold).double().mean()),
        "good k after": float((after.pareto_k <= after.threshold).double().mean()),
        "draws that count before": float(before.effective_sample_size.median()),
        "draws that count after": float(after.effective_sample_size.median()),
    }


def picture(refined: Refinement, before: ResampledPosterior, after: ResampledPosterior, path: Path) -> None:
    left, right = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")[1]
    gaps = refined.to_frame()[["amortisation_gap", "approximation_gap"]].clip(lower=1e-3)
    left.scatter(gaps["amortisation_gap"], gaps["approximation_gap"], s=8, alpha=0.6)
    left.set(xscale="log", yscale="log", xlabel="amortisation gap, nats", ylabel="approximation gap, nats")
    left.set_title("what each digit's ELBO lacks")
    ks = {"guide": before.pareto_k, "refined": after.pareto_k}
    values = {name: each[each.isfinite()].numpy() for name, each in ks.items()}
    bins = np.linspace(*np.quantile(np.concatenate(list(values.values())), [0, 1]), 25)
    for name, each in values.items():
        right.hist(each, bins=bins, alpha=0.6, label=name)
    right.axvline(before.threshold, color="black", linestyle="--", label="largest to be trusted")
    right.set(xlabel="Pareto k", ylabel="digits", title="how far draws can be reweighted")
    right.legend()
    left.figure.savefig(path, dpi=80)
    plt.close("all")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latent-dim", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--num-samples", type=int, default=1000, help="proposals for each image")
    parser.add_argument("--num-steps", type=int, default=400, help="of the refinement")
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

    rows = []
    for name, x in (("training", images[: len(holdout)]), ("held out", holdout)):
        sampling = {"num_draws": 100, "num_samples": num_samples, "seed": args.seed}
        before = resample(vae.model, vae.guide, x, **sampling)
        refined = refine(
            vae.model, vae.guide, x, num_steps=num_steps, num_samples=num_samples, seed=args.seed
        )
        after = resample(vae.model, refined.guide, x, **sampling)
        for title, each in (("resampled from the guide", before), ("refined", refined)):
            print(f"\n{name} digits, {title}\n{each}")
        print(f"\n{name} digits, resampled from the refined posteriors\n{after}")
        rows.append(table(name, refined, before, after))
    summary = pd.DataFrame(rows).set_index("data")
    print(f"\n{summary.T.round(3).to_string()}")

    args.out.mkdir(parents=True, exist_ok=True)
    summary.to_csv(args.out / "summary.csv")
    refined.to_frame().to_csv(args.out / "refined.csv")
    after.to_arviz(dims={"z": ["latent"]}).to_netcdf(args.out / "posterior.nc")
    picture(refined, before, after, args.out / "refine.png")
    print(f"\nTables, draws for ArviZ and a picture of the held-out digits are in {args.out}")


if __name__ == "__main__":
    main()
