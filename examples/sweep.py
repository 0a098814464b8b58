"""Sweep the weight of the rate over several seeds, and see which differences the seeds leave standing.

At each beta and seed a VAE is trained on digits and accounted for. Every account is stored as it comes, so
that a run that was stopped, or asked for more weights or seeds, goes on with what is missing.

    python examples/sweep.py --jobs -1 --out runs/sweep
    python examples/sweep.py --jobs -1 --seeds 10 --out runs/sweep
    python examples/sweep.py --stacked --out runs/sweep
    python examples/sweep.py --backend ray --jobs -1 --out /shared/runs/sweep

The third runs the trainings of all points as one. The last needs Ray, and joins the cluster that RAY_ADDRESS
names, or starts one of this machine.
"""

import argparse
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import joblib
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.axes import Axes
from torch import Tensor

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import load_digits
from pyro_infomax.diagnostics import Decomposition, decompose
from pyro_infomax.infer import BetaELBO
from pyro_infomax.nn import Gaussian, MLPDecoder, MLPEncoder
from pyro_infomax.plots import rate_distortion_plane
from pyro_infomax.sweeps import sweep
from pyro_infomax.training import fit
from pyro_infomax.vae import VAE

BETAS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
SMOKE_BETAS = (2.0, 0.5)
SMOKE_DATA = 200
COLOURS = ("#0173b2", "#de8f05")
SHOWN = {
    "distortion": "distortion",
    "rate": "rate",
    "elbo": "ELBO",
    "mutual_information": "mutual information",
    "total_correlation": "total correlation",
    "active_units": "active latent dimensions",
}
NOTE = """All in nats per datum, active latent dimensions apart. Means over the seeds; spread is the standard
deviation over them, error the account's own standard error, from draws of z at fixed parameters."""


@dataclass(frozen=True)
class Training:
    """A VAE on images, trained and accounted for."""

    images: Tensor  # (datum, pixel)
    latent_dim: int
    epochs: int
    draws: int  # of z for each datum of the account

    def __call__(self, beta: float, seed: int) -> Decomposition:
        pixels = self.images.shape[1]
        encoder = MLPEncoder(pixels, hidden=(128,))
        decoder = MLPDecoder(self.latent_dim, pixels, hidden=(128,))
        vae = VAE(encoder, decoder, latent_dim=self.latent_dim, likelihood=Gaussian(scale=math.sqrt(0.1)))
        optim = FusedOptim(torch.optim.Adam, {"lr": 2e-3})
        svi = CapturedSVI(vae.model, vae.guide, optim, BetaELBO(beta=beta))
        fit(svi, self.images, epochs=self.epochs, progress=False)
        return decompose(vae.model, vae.guide, self.images, num_samples=self.draws, seed=seed)

    @property
    def name(self) -> str:
        """What tells the stored points of this training from those of another."""
        return f"{len(self.images)}images_{self.latent_dim}latents_{self.epochs}epochs_{self.draws}draws"


# ---- the pictures


def draw_plane(ds: xr.Dataset, path: Path) -> None:
    """The pairs of all seeds, and their means with the weights."""
    pairs = ds.stack(pair=("beta", "seed")).dropna("pair", subset=["rate"])
    _, ax = plt.subplots(figsize=(8, 5.6), layout="constrained")
    ax.scatter(pairs["rate"], pairs["distortion"], s=14, color=COLOURS[1], label="a seed", zorder=4)
    mean = pairs.groupby("beta").mean()
    rate_distortion_plane(
        mean["rate"],
        mean["distortion"],
        beta=mean["beta"],
        name="mean of the seeds",
        colour=COLOURS[0],
        ax=ax,
    )
    ax.set_title(f"Digits: {ds.sizes['beta']} weights, {ds.sizes['seed']} seeds")
    save(ax, path)


def draw_spread(ds: xr.Dataset, path: Path) -> None:
    """A panel a quantity: every seed, and mean and standard deviation over them."""
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained", sharex=True)
    for ax, (name, title) in zip(axes.flat, SHOWN.items(), strict=True):
        spread(ds[name], ax)
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel(r"weight of the rate $\beta$")
    for ax in axes[:, 0]:
        ax.set_ylabel("nats per datum")
    axes.flat[-1].set_ylabel("dimensions")
    figure.suptitle(f"{ds.sizes['seed']} seeds: each, and their mean ± standard deviation")
    save(axes.flat[0], path)


def spread(values: xr.DataArray, ax: Axes) -> None:
    beta, mean, deviation = values["beta"], values.mean("seed"), deviations(values)
    for seed in values["seed"]:
        ax.plot(beta, values.sel(seed=seed), "o", markersize=3.5, color=COLOURS[1], alpha=0.8, zorder=3)
    ax.errorbar(beta, mean, deviation, color=COLOURS[0], capsize=3, marker="_", markersize=10)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", alpha=0.3)


def save(ax: Axes, path: Path) -> None:
    figure = ax.get_figure()
    figure.savefig(path, dpi=130)
    plt.close(figure)


# ---- the command


def deviations(values: xr.DataArray) -> xr.DataArray:
    """The standard deviation over the seeds, nan for one."""
    alone = values.sizes["seed"] == 1
    return xr.full_like(values.mean("seed"), np.nan) if alone else values.std("seed", ddof=1)


def own_error(ds: xr.Dataset, name: str, beta: float) -> float:
    """What the accounts at one weight say of their own error, nan for what has none."""
    error = f"{name}_standard_error"
    return float(ds[error].sel(beta=beta).mean()) if error in ds else np.nan


def summary(ds: xr.Dataset) -> pd.DataFrame:
    """A row a weight and quantity: mean and spread over the seeds, and the account's own error."""
    rows = [
        {
            "beta": beta,
            "quantity": name,
            "mean": float(values.mean()),
            "spread": float(deviations(values)),
            "error": own_error(ds, name, beta),
        }
        for beta in ds["beta"].values
        for name, values in ds[list(SHOWN)].sel(beta=beta).data_vars.items()
    ]
    return pd.DataFrame(rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--betas", type=float, nargs="+", help="weights of the rate, above 0; default 8 to 1/4"
    )
    parser.add_argument("--seeds", type=int, help="how many; default 5")
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=1, help="points at once, -1 for a processor each")
    parser.add_argument("--stacked", action="store_true", help="all trainings as one, in this process")
    parser.add_argument("--backend", choices=["local", "ray"], default="local", help="where they run")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="folder of points and pictures")
    parser.add_argument("--smoke", action="store_true", help="few data, one epoch: seconds")
    args = parser.parse_args(argv)
    if args.seeds is None:
        args.seeds = 2 if args.smoke else 5
    if args.stacked and args.jobs != 1:
        parser.error("Expected --stacked, which runs in one process, without --jobs.")
    if args.seeds < 1:
        parser.error(f"Expected --seeds >= 1 but got {args.seeds}.")
    args.betas = list(dict.fromkeys(args.betas or (SMOKE_BETAS if args.smoke else BETAS)))
    for beta in args.betas:
        if not 0 < beta < math.inf:
            parser.error(f"Expected --betas > 0 but got {beta:g}.")
    return args


def backend(name: str, jobs: int) -> AbstractContextManager[object]:
    if name == "ray":
        from ray.util.joblib import register_ray

        register_ray()
        return joblib.parallel_config(backend="ray", n_jobs=jobs)
    return joblib.parallel_config(n_jobs=jobs)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    images = load_digits().images.flatten(1)
    if args.smoke:
        run = Training(images[:SMOKE_DATA], args.latent_dim, epochs=1, draws=1)
    else:
        run = Training(images, args.latent_dim, args.epochs, draws=4)
    with backend(args.backend, args.jobs):
        points = args.out / "points" / run.name
        ds = sweep(run, {"beta": args.betas}, seeds=args.seeds, store=points, stacked=args.stacked)
    ds.to_netcdf(args.out / "sweep.nc", engine="h5netcdf")
    table = summary(ds)
    table.to_csv(args.out / "sweep.csv", index=False)
    draw_plane(ds, args.out / "rate_distortion.png")
    draw_spread(ds, args.out / "seeds.png")
    print(f"{table.to_string(index=False, float_format='{:.3f}'.format)}\n\n{NOTE}")
    print(f"\nThe points, the table, the Dataset and the pictures are in {args.out}")


if __name__ == "__main__":
    main()
