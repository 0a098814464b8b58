"""Rate against distortion: sweep the weight of the rate, and compare with Shannon's curve.

The weight beta of the rate says where a VAE is to end on the boundary of what rate and distortion can be had
together: where the slope dD/dR is -beta. It is InfoMax with lambda = 1/beta - 1, which rewards information
for beta < 1 and penalises it for beta > 1. Three sources are coded with Gaussian noise of a fixed variance
s2, so that the distortion in nats is n/2 ln(2 pi s2) + squared error / (2 s2):

- linear-Gaussian data by a linear VAE. The boundary is known, by reverse water-filling of the sample's
  covariance: with enough latents the pairs lie on it, with two they lie above it by a known gap.
- digits and patches of photographs by a VAE with hidden layers. Drawn is the curve of a Gaussian with their
  covariance, for data that are not Gaussian an upper bound on R(D). A linear pair with a normal prior never
  gets below it, so a point below it shows what the hidden layers have found beyond the covariance.

    python examples/rate_distortion.py --out runs/rate_distortion
    python examples/rate_distortion.py --only digits --betas 4 1 0.25

A sweep goes from much weight to little, and each training starts from the last one's parameters: the latent
dimensions are taken up one by one, as they become worth their rate.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import load_digits, load_patches
from pyro_infomax.diagnostics import Decomposition, decompose
from pyro_infomax.infer import BetaELBO
from pyro_infomax.nn import Gaussian, MLPDecoder, MLPEncoder
from pyro_infomax.oracles import gaussian_rate_distortion
from pyro_infomax.plots import rate_distortion_plane, rate_stack
from pyro_infomax.training import LearningRateSchedule, fit
from pyro_infomax.vae import VAE

BETAS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
SMOKE_BETAS = (2.0, 0.5)
SMOKE_DATA = 100
COLOURS = ("#0173b2", "#de8f05")
UPPER_BOUND = "Gaussian of their covariance:\nan upper bound on $R(D)$"
NOTE = """All in nats per datum. Gaussian R is the rate at the same squared error of a Gaussian with the
covariance of the data: Shannon's curve for linear-Gaussian data, an upper bound on R(D) for others.
gap = R - Gaussian R."""
SHOWN = {
    "data": "data",
    "latent_dim": "latents",
    "beta": "beta",
    "lambda": "lambda",
    "distortion": "D",
    "rate": "R",
    "mutual_information": "I",
    "total_correlation": "TC",
    "dimensionwise_kl": "sum KL_j",
    "active_units": "active",
    "gaussian_rate": "Gaussian R",
    "gap": "gap",
    "saturated": "saturated",
}


class Pair(Protocol):
    """A model and a guide over the same sites."""

    def model(self, x: Tensor) -> object: ...

    def guide(self, x: Tensor) -> object: ...


class LinearPair:
    """p(x|z) = N(W z, s2 I) and q(z|x) = N(V x, Delta), for data with mean zero."""

    def __init__(self, dim: int, latent_dim: int, s2: float) -> None:
        self.dim, self.latent_dim, self.scale = dim, latent_dim, math.sqrt(s2)

    def model(self, x: Tensor) -> None:
        weight = pyro.param(f"W_{self.latent_dim}", lambda: 0.5 * torch.eye(self.dim, self.latent_dim))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, self.scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        weight = pyro.param(f"V_{self.latent_dim}", lambda: 0.5 * torch.eye(self.latent_dim, self.dim))
        variance = pyro.param(
            f"Delta_{self.latent_dim}", lambda: torch.ones(self.latent_dim), constraint=constraints.positive
        )
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weight.T, variance.sqrt()).to_event(1))


@dataclass(frozen=True)
class Source:
    """Data to code, under squared error at a fixed noise variance."""

    name: str
    x: Tensor  # (datum, dim)
    s2: float
    is_gaussian: bool = False

    @cached_property
    def spectrum(self) -> Tensor:
        """The eigenvalues of the data's covariance, (dim,), largest first."""
        centred = (self.x - self.x.mean(0)).double()
        return torch.linalg.eigvalsh(centred.T @ centred / len(centred)).clamp(min=0).flip(0)

    def distortion(self, error: Tensor) -> Tensor:
        """Nats of a squared error, summed over the dimensions."""
        return self._least + error / (2 * self.s2)

    def error(self, distortion: float) -> float:
        return 2 * self.s2 * (distortion - self._least)

    @property
    def _least(self) -> float:
        return self.x.shape[1] / 2 * math.log(2 * math.pi * self.s2)


@dataclass(frozen=True)
class Training:
    """How a pair is trained on a source."""

    source: Source
    latent_dim: int
    make: Callable[[Source, int], Pair]
    batch_size: int
    steps: int
    learning_rate: float
    particles: int = 1
    draws: int = 4  # of z for each datum of the account

    def run(self, pair: Pair, beta: float, *, seed: int) -> None:
        epochs = -(-self.steps // -(-len(self.source.x) // self.batch_size))
        optimiser = FusedOptim(
            torch.optim.Adam,
            {"lr": self.learning_rate, "betas": (0.9, 0.95)},
            scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
        )
        elbo = BetaELBO(
            beta=beta, num_particles=self.particles, vectorize_particles=True, max_plate_nesting=1
        )
        svi = CapturedSVI(pair.model, pair.guide, optimiser, elbo)
        options = {"batch_size": self.batch_size, "callbacks": [LearningRateSchedule()], "seed": seed}
        fit(svi, self.source.x, epochs=epochs, progress=False, **options)


# ---- the sources


def linear_gaussian(seed: int, *, smoke: bool) -> list[Training]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25]).sqrt()
    axes = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    x = torch.randn(SMOKE_DATA if smoke else 1000, 5, generator=generator) * scale @ axes.T
    source = Source("linear-Gaussian", x - x.mean(0), s2=0.25, is_gaussian=True)
    steps = 30 if smoke else 600
    return [Training(source, d, linear_pair, len(x), steps, 0.05, particles=8, draws=64) for d in (5, 2)]


def digits(_: int, *, smoke: bool) -> list[Training]:
    x = load_digits().images.flatten(1)
    return [nonlinear("digits", x[:SMOKE_DATA] if smoke else x, s2=0.1, smoke=smoke)]


def patches(seed: int, *, smoke: bool) -> list[Training]:
    x = load_patches(side=8, num_patches=SMOKE_DATA if smoke else 4000, seed=seed).images.flatten(1)
    # brightness would be most of the variance, and one latent would do
    x = x - x.mean(1, keepdim=True)
    return [nonlinear("patches", x / x.std(), s2=1.0, smoke=smoke)]


def nonlinear(name: str, x: Tensor, *, s2: float, smoke: bool) -> Training:
    return Training(Source(name, x, s2), 16, vae, 128, 10 if smoke else 1500, 2e-3)


SOURCES = {"linear-gaussian": linear_gaussian, "digits": digits, "patches": patches}


def linear_pair(source: Source, latent_dim: int) -> Pair:
    return LinearPair(source.x.shape[1], latent_dim, source.s2)


def vae(source: Source, latent_dim: int) -> Pair:
    dim, likelihood = source.x.shape[1], Gaussian(scale=math.sqrt(source.s2))
    encoder, decoder = MLPEncoder(dim, hidden=(128,)), MLPDecoder(latent_dim, dim, hidden=(128,))
    return VAE(encoder, decoder, latent_dim=latent_dim, likelihood=likelihood)


# ---- the sweep


def sweep(training: Training, betas: Sequence[float], *, seed: int, bar: tqdm) -> pd.DataFrame:
    """A row a weight, from much to little."""
    source, rows = training.source, []
    pair = training.make(source, training.latent_dim)
    for beta in sorted(betas, reverse=True):
        bar.set_description(f"{source.name}, {training.latent_dim} latents, beta {beta:g}")
        training.run(pair, beta, seed=seed)
        # the noise of the account is not that of the training
        account = decompose(pair.model, pair.guide, source.x, num_samples=training.draws, seed=seed + 1)
        rows.append(row(training, beta, account))
        bar.update()
    return pd.DataFrame(rows)


def row(training: Training, beta: float, account: Decomposition) -> dict[str, object]:
    source, distortion, information = training.source, account.distortion, account.mutual_information
    error = source.error(float(distortion))
    best = gaussian_rate_distortion(source.spectrum, distortion=error)
    assert account.marginal_kl is not None
    assert account.total_correlation is not None
    assert account.dimensionwise_kl is not None
    return {
        "data": source.name,
        "latent_dim": training.latent_dim,
        "beta": beta,
        "lambda": 1 / beta - 1,
        "distortion": float(distortion),
        "distortion_error": float(distortion.standard_error),
        "rate": float(account.rate),
        "squared_error": error,
        "mutual_information": float(information),
        "mutual_information_error": float(information.standard_error),
        "marginal_kl": float(account.marginal_kl),
        "total_correlation": float(account.total_correlation),
        "dimensionwise_kl": float(account.dimensionwise_kl.value.sum()),
        "active_units": account.active_units,
        "gaussian_rate": float(best.rate),
        "gap": float(account.rate) - float(best.rate),
        "gap_error": abs(float(best.slope)) * 2 * source.s2 * float(distortion.standard_error),
        "data_size": account.data_size,
        "saturated": account.saturated,
    }


# ---- the pictures


def draw(sweeps: Sequence[pd.DataFrame], source: Source, path: Path) -> None:
    """The plane of rate and distortion at the left, and at its right a stack for every sweep."""
    mosaic = [["plane", f"stack {i}"] for i in range(len(sweeps))]
    size = (14, 5.4 if len(sweeps) == 1 else 7.6)
    figure, axes = plt.subplot_mosaic(mosaic, figsize=size, layout="constrained", width_ratios=[1.1, 1])
    # few latents lie above the curve, and have their weights written there
    styles = zip(COLOURS, ("below", "above") if len(sweeps) > 1 else ("above",), strict=False)
    for frame, (colour, place) in zip(sweeps, styles, strict=True):
        rate_distortion_plane(
            frame["rate"],
            frame["distortion"],
            beta=frame["beta"],
            curves=curves(sweeps, source) if frame is sweeps[0] else None,
            saturated=frame["saturated"],
            name=f"{frame['latent_dim'][0]} latents",
            colour=colour,
            place=place,
            ax=axes["plane"],
        )
    count, dim = source.x.shape
    axes["plane"].set_title(f"{source.name}: {count:,} points in {dim} dimensions, $s^2 = {source.s2:g}$")
    for i, frame in enumerate(sweeps):
        stack(frame, axes[f"stack {i}"])
    figure.savefig(path, dpi=130)
    plt.close(figure)


def stack(frame: pd.DataFrame, ax: plt.Axes) -> None:
    rate_stack(
        frame["mutual_information"],
        frame["total_correlation"],
        frame["dimensionwise_kl"],
        rate=frame["rate"],
        data_size=int(frame["data_size"][0]),
        names=[weights(beta) for beta in frame["beta"]],
        ax=ax,
    )
    ax.set_title(f"What the rate is made of, with {frame['latent_dim'][0]} latents")


def weights(beta: float) -> str:
    return f"$\\beta = {beta:g}$\n$\\lambda = {1 / beta - 1:.3g}$"


def curves(sweeps: Sequence[pd.DataFrame], source: Source) -> dict[str, tuple[Tensor, Tensor]]:
    error = min(float(frame["squared_error"].min()) for frame in sweeps)
    name = "Shannon's curve $R(D)$" if source.is_gaussian else UPPER_BOUND
    found = {name: curve(source, len(source.spectrum), error)}
    for frame in sweeps if source.is_gaussian else ():
        latent_dim = int(frame["latent_dim"][0])
        if latent_dim < len(source.spectrum):
            error = float(frame["squared_error"].min())
            found[f"the best with {latent_dim} latents"] = curve(source, latent_dim, error)
    return found


def curve(source: Source, latent_dim: int, error: float) -> tuple[Tensor, Tensor]:
    """Rate and distortion of the best linear code with so many latents, down to 0.9 of a squared error."""
    kept, lost = source.spectrum[:latent_dim], source.spectrum[latent_dim:].sum()
    errors = torch.linspace(0.9 * (error - float(lost)), float(kept.sum()), 200, dtype=torch.float64)
    points = gaussian_rate_distortion(kept, distortion=errors)
    return points.rate, source.distortion(points.distortion + lost)


# ---- the command


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--betas", type=float, nargs="+", help="weights of the rate, above 0; default 8 to 1/4"
    )
    parser.add_argument("--only", choices=SOURCES, nargs="+", default=list(SOURCES), help="what to code")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/rate_distortion"), help="folder of table and pictures"
    )
    parser.add_argument("--seed", type=int, default=0, help="of data, parameters and draws")
    parser.add_argument("--smoke", action="store_true", help="few data and steps, to see that all works")
    args = parser.parse_args(argv)
    if args.betas is None:
        args.betas = SMOKE_BETAS if args.smoke else BETAS
    for beta in args.betas:
        if not 0 < beta < math.inf:
            parser.error(f"Expected --betas > 0 but got {beta:g}.")
    return args


def report(table: pd.DataFrame) -> str:
    return table[list(SHOWN)].rename(columns=SHOWN).to_string(index=False, float_format="{:.3f}".format)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    sources = [SOURCES[name](args.seed, smoke=args.smoke) for name in args.only]
    tables = []
    with tqdm(total=sum(map(len, sources)) * len(args.betas), unit="training") as bar:
        for trainings in sources:
            sweeps = [sweep(training, args.betas, seed=args.seed, bar=bar) for training in trainings]
            source = trainings[0].source
            draw(sweeps, source, args.out / f"{source.name.lower().replace('-', '_')}.png")
            tables += sweeps
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(args.out / "rate_distortion.csv", index=False)
    print(f"{report(table)}\n\n{NOTE}")
    print(f"\nThe table and the pictures are in {args.out}")


if __name__ == "__main__":
    main()
