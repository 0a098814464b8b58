"""Factor analysis of wines with missing measurements: shared loadings, a local code for each wine.

    python examples/factor_analysis.py --factors 4 --out runs/factor_analysis

The loadings and the noise are global latents with a guide of Pyro's, the codes are local ones with an
amortised guide; a third of the measurements is hidden and masked. The account of the codes is printed at the
medians of the global latents and over draws of them, and the posterior of all of them goes to ArviZ.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal, init_to_sample
from sklearn.datasets import load_wine
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.diagnostics import decompose, evidence, to_arviz
from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.nn import MLPEncoder
from pyro_infomax.training import LearningRateSchedule, fit

HIDDEN = 1 / 3  # of all measurements
SHARED = ["size", "loadings", "noise"]


class FactorAnalysis:
    """x_n = z_n W + noise, where each factor has a size that shrinks what the data do not ask for."""

    def __init__(self, factors: int, measurements: int) -> None:
        self.factors, self.measurements = factors, measurements

    def __call__(self, x: Tensor, seen: Tensor) -> None:
        with pyro.plate("factors", self.factors, dim=-2):
            size = pyro.sample("size", dist.LogNormal(torch.tensor([-1.0]), 1.0))  # (factor, 1)
            with pyro.plate("measurements", self.measurements, dim=-1):
                loadings = pyro.sample("loadings", dist.Normal(0.0, size))  # (factor, measurement)
        noise = pyro.sample("noise", dist.LogNormal(torch.zeros(self.measurements), 0.5).to_event(1))
        with pyro.plate("wines", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.factors), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, noise).mask(seen).to_event(1), obs=x)


class SeenEncoder(nn.Module):
    """Features of a wine by what is seen of it."""

    def __init__(self, measurements: int) -> None:
        super().__init__()
        self.inner = MLPEncoder((2 * measurements,), hidden=(64,))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        return self.inner(torch.cat([x * seen, seen.to(x)], -1))


def make_guide(model: FactorAnalysis) -> AutoGuideList:
    def plates(x: Tensor, seen: Tensor) -> pyro.plate:
        return pyro.plate("wines", len(x), dim=-1)

    guide = AutoGuideList(model, create_plates=plates)
    shared = pyro.poutine.block(model, expose=SHARED)
    guide.append(AutoNormal(shared, init_loc_fn=init_to_sample, init_scale=0.05))
    guide.append(AmortizedNormal(pyro.poutine.block(model, hide=SHARED), SeenEncoder(model.measurements)))
    return guide


def load(seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Standardised measurements, which of them are seen, and their names."""
    wine = load_wine()
    x = torch.as_tensor(wine.data, dtype=torch.get_default_dtype())
    x = (x - x.mean(0)) / x.std(0)
    seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) >= HIDDEN
    return x, seen, [str(name).replace("_", " ") for name in wine.feature_names]


def draw(idata, names: list[str], path: Path) -> None:
    loadings = idata.posterior["loadings"].values[0].mean(0)  # (factor, measurement)
    sizes = idata.posterior["size"].values[0][..., 0]  # (draw, factor)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", width_ratios=[1, 3])
    left.boxplot(sizes, orientation="horizontal", showfliers=False)
    left.set(xlabel="size of the factor", ylabel="factor", xlim=(0.0, None))
    left.invert_yaxis()
    limit = abs(loadings).max()
    image = right.imshow(loadings, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    right.set_xticks(range(len(names)), names, rotation=40, ha="right")
    right.set_yticks(range(len(loadings)), [str(k + 1) for k in range(len(loadings))])
    figure.colorbar(image, ax=right, label="mean loading")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--factors", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("runs/factor_analysis"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    x, seen, names = load(args.seed)
    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    model = FactorAnalysis(args.factors, len(names))
    guide = make_guide(model)
    guide(x, seen)
    epochs = 3 if args.smoke else args.epochs
    optimiser = FusedOptim(
        torch.optim.Adam, {"lr": 0.02}, scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs)
    )
    svi = CapturedSVI(model, guide, optimiser, Trace_ELBO())
    training = {"batch_size": len(x), "callbacks": [LearningRateSchedule()], "seed": args.seed}
    fit(svi, (x, seen), epochs=epochs, progress=not args.smoke, **training)

    draws = 2 if args.smoke else 40
    options = {"seed": args.seed, "progress": not args.smoke}
    print("The codes of the wines, given the medians of loadings and noise:\n")
    print(decompose(model, guide, (x, seen), num_samples=4, **options))
    account = decompose(model, guide, (x, seen), num_samples=4, num_global_draws=draws, **options)
    table = account.to_frame()
    print(f"\nOver {draws} draws of loadings and noise:\n")
    print(table[["value", "standard_error", "global_spread"]].dropna().round(4).to_string())
    bounds = evidence(model, guide, (x, seen), num_samples=20 * draws, **options)
    print(f"\nThe evidence of a wine, given the medians: {bounds.lower} nats")

    idata = to_arviz(
        model,
        guide,
        (x, seen),
        num_samples=draws,
        coords={"x_dim_0": names},
        decomposition=account,
        **options,
    )
    table.to_csv(args.out / "account.csv")
    idata.to_netcdf(str(args.out / "posterior.nc"))
    draw(idata, names, args.out / "loadings.png")
    print(f"\nAccount, posterior and picture are in {args.out}.")


if __name__ == "__main__":
    main()
