"""A model of your own: factors of 178 Italian wines, with a noise scale that is learned.

The model is an ordinary Pyro program: a plate of data, a latent site, parameters by ``pyro.param``. It knows
nothing of this library. ``AmortizedNormal`` makes its guide, an objective trains the pair, ``decompose``
accounts for its nats. This model is probabilistic PCA, so that maximum likelihood is known in closed form
(Tipping and Bishop, 1999, "Probabilistic principal component analysis"): training has to find its noise scale
and its evidence.

    python examples/own_model.py --latent-dim 2 --epochs 1000
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from sklearn.datasets import load_wine
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.diagnostics import Decomposition, decompose
from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.infer import BetaELBO
from pyro_infomax.nn import MLPEncoder
from pyro_infomax.plots import information_per_dimension, latent_scatter
from pyro_infomax.training import LearningRateSchedule, fit


class Factors:
    """x = W z + loc + noise, with z standard Normal and one noise scale for all measurements."""

    def __init__(self, measurements: int, latent_dim: int) -> None:
        self.weight_shape = (measurements, latent_dim)

    def __call__(self, x: Tensor) -> None:
        measurements, latent_dim = self.weight_shape
        weight = pyro.param("weight", lambda: 0.1 * torch.randn(self.weight_shape))
        loc = pyro.param("loc", lambda: torch.zeros(measurements))
        scale = pyro.param("scale", lambda: torch.ones(()), constraint=constraints.positive)
        with pyro.plate("wines", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T + loc, scale).to_event(1), obs=x)


def load() -> tuple[Tensor, Sequence[int]]:
    """The 13 measurements of each wine, standardised, (wines, measurements), and its cultivar."""
    wine = load_wine()
    x = torch.as_tensor(wine.data, dtype=torch.get_default_dtype())
    return (x - x.mean(0)) / x.std(0, correction=0), wine.target


def maximum_likelihood(x: Tensor, latent_dim: int) -> tuple[float, float]:
    """The noise scale of the best factors, and minus their log-likelihood in nats per wine."""
    eigenvalues = torch.linalg.eigvalsh(x.T @ x / len(x)).flip(0)
    kept, lost = eigenvalues[:latent_dim], eigenvalues[latent_dim:]
    variance = lost.mean()
    log_determinant = kept.log().sum() + len(lost) * variance.log()
    loss = 0.5 * (len(eigenvalues) * (1 + math.log(2 * math.pi)) + log_determinant)
    return float(variance.sqrt()), float(loss)


def train(
    model: Factors, guide: AmortizedNormal, x: Tensor, epochs: int, *, progress: bool, seed: int
) -> None:
    # One epoch is one step on all wines; particles and a decaying rate let the last steps settle
    optimiser = FusedOptim(
        torch.optim.Adam, {"lr": 0.05}, scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs)
    )
    elbo = BetaELBO(beta=1.0, num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    # Records a step once and replays it; SVI in its place takes ordinary steps, with the same numbers
    svi = CapturedSVI(model, guide, optimiser, elbo)
    options = {"batch_size": len(x), "callbacks": [LearningRateSchedule()], "seed": seed}
    fit(svi, x, epochs=epochs, progress=progress, **options)


def report(account: Decomposition, scale: float, best: tuple[float, float]) -> str:
    rows = [("noise scale", scale, best[0]), ("loss (nats per wine)", -float(account.elbo), best[1])]
    lines = [f"{name:<24}{learned:>10.4f}{closed:>22.4f}" for name, learned, closed in rows]
    return "\n".join([str(account), "", f"{'':<24}{'learned':>10}{'maximum likelihood':>22}", *lines])


def draw(account: Decomposition, latents: Tensor, cultivars: Sequence[int], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    latent_scatter(latents, cultivars, ax=axes[0])
    axes[0].set_title("Posterior means, by cultivar")
    assert account.dimensionwise_rate is not None
    assert account.dimensionwise_kl is not None
    information_per_dimension(account.dimensionwise_rate.value, account.dimensionwise_kl.value, ax=axes[1])
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=1000, help="passes over the wines")
    parser.add_argument("--latent-dim", type=int, default=2, help="number of factors, 2 to 12")
    parser.add_argument("--out", type=Path, default=Path("runs/own_model"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    if not 2 <= args.latent_dim <= 12:
        parser.error(f"Expected --latent-dim from 2 to 12 but got {args.latent_dim}.")
    if args.epochs < 1:
        parser.error(f"Expected --epochs >= 1 but got {args.epochs}.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    x, cultivars = load()
    model = Factors(x.shape[1], args.latent_dim)
    # Without hidden layers the posterior mean is linear in x, as the exact one is
    guide = AmortizedNormal(model, MLPEncoder(x.shape[1], hidden=()))

    epochs = 30 if args.smoke else args.epochs
    train(model, guide, x, epochs, progress=not args.smoke, seed=args.seed)
    # Another seed than in training: the pair has fitted the draws of that one
    account = decompose(model, guide, x, num_samples=50, seed=args.seed + 1)
    print(report(account, pyro.param("scale").item(), maximum_likelihood(x, args.latent_dim)))

    args.out.mkdir(parents=True, exist_ok=True)
    account.to_frame().to_csv(args.out / "decomposition.csv")
    draw(account, guide.median(x)["z"], cultivars, args.out / "own_model.png")
    print(f"\nThe account and a picture are in {args.out}")


if __name__ == "__main__":
    main()
