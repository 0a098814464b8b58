"""Five models, each given its guide in one line.

Every model is an ordinary Pyro program that knows nothing of this library. Its guide, the posterior of each
datum's latents as a function of the datum, is made from the program and an encoder:

- ppca: probabilistic principal components, whose exact posterior is known. One full covariance.
- counts: positive factors of counts, the ink of digits. LogNormal posteriors, Gamma ones,
  or LogNormal ones with correlations.
- clusters: a discrete class and a latent that depends on it. The class is enumerated.
- layers: two layers of latents, of which the lower depends on the upper, in the guide too.
- topics: a point on a simplex and a positive rate. Normals through bijections, Dirichlet and Gamma, a flow.

    python examples/guides.py --out runs/guides
    python examples/guides.py --model topics
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_infomax import diagnostics
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.diagnostics import Decomposition, decompose
from pyro_infomax.guides import (
    AmortizedDiscrete,
    AmortizedFlow,
    AmortizedGuide,
    AmortizedMultivariateNormal,
    AmortizedNormal,
)
from pyro_infomax.infer import BetaELBO, TraceEnum_BetaELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder, NormalHead
from pyro_infomax.plots import information_per_site, latent_scatter, reconstructions, traversals
from pyro_infomax.schedules import Linear
from pyro_infomax.training import LearningRateSchedule, fit

Model = Callable[[Tensor], None]

BATCH = 100
HELD_OUT = 5  # one datum of so many
BLUE, ORANGE, GREY = "#0173b2", "#de8f05", "0.45"


@dataclass(frozen=True)
class Run:
    """What the command line asks for."""

    epochs: int | None
    seed: int
    out: Path
    smoke: bool

    def size(self, size: int) -> int:
        return 100 if self.smoke else size

    def length(self, epochs: int) -> int:
        return self.epochs or (2 if self.smoke else epochs)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to train on and data to hold out."""
        held_out = len(x) // HELD_OUT
        return x[:-held_out], x[-held_out:]

    def warm_up(self, x: Tensor, epochs: int, start: float) -> Linear:
        """A weight that rises to 1 over the first half of a training."""
        return Linear(start, 1.0, max(1, self.length(epochs) * math.ceil(len(x) / BATCH) // 2))

    def train(
        self,
        model: Model,
        guide: AmortizedGuide,
        objective: BetaELBO,
        x: Tensor,
        *,
        epochs: int,
        lr: float,
        batch_size: int = BATCH,
        clip_norm: float | None = None,
    ) -> None:
        """By a learning rate that falls to 0, so that the last steps settle."""
        epochs = self.length(epochs)
        optimiser = FusedOptim(
            torch.optim.Adam,
            {"lr": lr},
            clip_norm=clip_norm,
            scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
        )
        svi = CapturedSVI(model, guide, optimiser, objective)
        options = {"batch_size": batch_size, "callbacks": [LearningRateSchedule()], "seed": self.seed}
        fit(svi, x, epochs=epochs, progress=not self.smoke, **options)

    def account(
        self, model: Model, guide: AmortizedGuide, x: Tensor, holdout: Tensor | None = None
    ) -> Decomposition:
        # Another seed than in training: the pair has fitted the draws of that one
        return decompose(model, guide, x, num_samples=2, seed=self.seed + 1, holdout=holdout)

    def save(self, name: str, account: Decomposition, table: pd.DataFrame, figure: plt.Figure) -> None:
        account.to_frame().to_csv(self.out / f"{name}_account.csv")
        table.to_csv(self.out / f"{name}.csv", index=False)
        figure.savefig(self.out / f"{name}.png", dpi=130)
        plt.close(figure)
        print(f"{account}\n\n{table.to_string(index=False, float_format='{:.4f}'.format)}")


def as_table(numbers: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame(numbers.items(), columns=["quantity", "value"])


class CountEncoder(nn.Module):
    """Features of the logarithms of counts, which may be large."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = MLPEncoder(size, hidden=(128, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.log1p())


# ---- ppca: linear factors, one full covariance


def ppca_model(x: Tensor) -> None:
    weight = pyro.param("weight", lambda: 0.1 * torch.randn(8, 3))
    loc = pyro.param("loc", lambda: torch.zeros(8))
    scale = pyro.param("scale", lambda: torch.ones(()), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight.T + loc, scale).to_event(1), obs=x)


def ppca(run: Run) -> None:
    """The trained guide beside the exact posterior of the trained model."""
    x = torch.randn(run.size(500), 3) @ torch.randn(3, 8) + 0.5 * torch.randn(run.size(500), 8)
    x += torch.randn(8)
    # Without hidden layers the posterior mean is linear in x, as the exact one is
    guide = AmortizedMultivariateNormal(ppca_model, MLPEncoder(8, hidden=()))

    objective = BetaELBO(beta=1.0, num_particles=32, vectorize_particles=True, max_plate_nesting=1)
    run.train(ppca_model, guide, objective, x, epochs=1000, lr=0.05, batch_size=len(x))
    account = run.account(ppca_model, guide, x)
    with torch.no_grad():
        posterior, exact, evidence = guide.posterior(x)["z"], ppca_posterior(x), ppca_evidence(x)
        numbers = compare(posterior, exact) | gaps(account, posterior, exact, evidence)
        run.save("ppca", account, as_table(numbers), draw_ppca(posterior, exact))


def ppca_posterior(x: Tensor) -> dist.MultivariateNormal:
    """p(z|x) of the trained model, by Gaussian conditioning."""
    weight, loc, scale = (pyro.param(name) for name in ("weight", "loc", "scale"))
    precision = torch.eye(3) + weight.T @ weight / scale**2
    mean = torch.linalg.solve(precision, weight.T @ (x - loc).T / scale**2).T
    return dist.MultivariateNormal(mean, precision_matrix=precision)


def ppca_evidence(x: Tensor) -> float:
    """log p(x) of the trained model, the mean over the data."""
    weight, loc, scale = (pyro.param(name) for name in ("weight", "loc", "scale"))
    covariance = weight @ weight.T + scale**2 * torch.eye(8)
    return float(dist.MultivariateNormal(loc, covariance).log_prob(x).mean())


def compare(posterior: Any, exact: Any) -> dict[str, float]:
    """Relative errors over the data, the largest and the average."""
    means = (posterior.mean - exact.mean).norm(dim=-1) / exact.mean.norm(dim=-1)
    covariances = posterior.covariance_matrix - exact.covariance_matrix
    covariances = covariances.norm(dim=(-2, -1)) / exact.covariance_matrix.norm(dim=(-2, -1))
    errors = {"means": means, "covariances": covariances}
    return {
        f"{how} error of {name}": float(getattr(each, how)())
        for name, each in errors.items()
        for how in ("max", "mean")
    }


def gaps(account: Decomposition, posterior: Any, exact: Any, evidence: float) -> dict[str, float]:
    """What the ELBO lacks: by the account, by the divergence, and for the best diagonal guide."""
    precision = exact.precision_matrix[0]
    return {
        "log-evidence, exact": evidence,
        "ELBO gap by the account": evidence - float(account.elbo),
        "its standard error": float(account.elbo.standard_error),
        "ELBO gap by KL[q || exact]": float(kl_divergence(posterior, exact).mean()),
        "ELBO gap of the best diagonal guide": float(precision.diagonal().log().sum() - precision.logdet())
        / 2,
    }


def draw_ppca(posterior: Any, exact: Any) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for n in range(12):
        draw_ellipse(exact.mean[n], exact.covariance_matrix[n], left, facecolor=BLUE, alpha=0.35)
        draw_ellipse(posterior.mean[n], posterior.covariance_matrix[n], left, fill=False, edgecolor="black")
    left.set(
        xlabel="$z_0$", ylabel="$z_1$", title="Twelve posteriors: exact (filled) and guide (lines), 2 s.d."
    )
    left.autoscale_view()
    right.scatter(exact.mean, posterior.mean, s=8, color=BLUE)
    right.axline((0, 0), slope=1, color=GREY, linewidth=1)
    right.set(xlabel="exact", ylabel="guide", title="All posterior means")
    return figure


def draw_ellipse(mean: Tensor, covariance: Tensor, ax: Axes, **style: Any) -> None:
    """Two standard deviations of the first two dimensions."""
    variances, axes = torch.linalg.eigh(covariance[:2, :2])
    width, height = (4 * variances.sqrt()).tolist()
    angle = math.degrees(math.atan2(axes[1, 0], axes[0, 0]))
    ax.add_patch(Ellipse(tuple(mean[:2].tolist()), width, height, angle=angle, **style))


# ---- counts: positive factors


def counts_model(x: Tensor) -> None:
    parts = pyro.param("parts", lambda: 0.1 + torch.rand(12, 64), constraint=constraints.positive)
    counts_of(parts, x)


def counts_of(parts: Tensor, x: Tensor) -> None:
    with pyro.plate("digits", len(x)):
        z = pyro.sample("z", dist.Gamma(torch.ones(12), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(z @ parts + 0.01).to_event(1), obs=x)


def counts(run: Run) -> None:
    """Parts that make up the ink of digits, under three families of posteriors."""
    ink, _ = digits(run)
    x, holdout = run.split((16 * ink).round())
    guide = AmortizedNormal(counts_model, CountEncoder(64))

    # Rates are exponentials, and the first gradients up to 15 times as long as later ones (some 3,000): Adam
    # would remember their squares for hundreds of steps
    training = {"epochs": 150, "lr": 0.015, "clip_norm": 5000.0}
    account, reached = reach(run, counts_model, guide, x, holdout, **training)
    parts = pyro.param("parts").detach()
    # With these parts held, guides differ by nothing but how near they come to one posterior
    model = partial(counts_of, parts)
    others = {
        "Gamma": AmortizedNormal(model, CountEncoder(64), heads={"z": dist.Gamma}),
        "LogNormal, full covariance": AmortizedMultivariateNormal(model, CountEncoder(64)),
    }
    rows = [{"guide": "LogNormal"} | reached]
    for name, other in others.items():
        _, reached = reach(run, model, other, x, holdout, **training)
        rows.append({"guide": name} | reached)
    figure = draw_counts(parts, holdout, guide.median(holdout)["z"] @ parts)
    run.save("counts", account, pd.DataFrame(rows), figure)


def reach(
    run: Run, model: Model, guide: AmortizedGuide, x: Tensor, holdout: Tensor, **training: Any
) -> tuple[Decomposition, dict[str, float]]:
    """Trains a guide; its account, and what it reaches on held-out data, in nats per datum."""
    run.train(model, guide, BetaELBO(beta=1.0), x, **training)
    account = run.account(model, guide, x, holdout)
    draws = 10 if run.smoke else 500
    evidence = diagnostics.evidence(model, guide, holdout, num_samples=draws, seed=run.seed)
    assert account.holdout is not None
    return account, {
        "rate": float(account.holdout.rate),
        "elbo": float(account.holdout.elbo),
        "elbo_error": float(account.holdout.elbo.standard_error),
        "log_evidence": float(evidence.lower),
        "log_evidence_error": float(evidence.lower.standard_error),
        "heavy_weights": len(evidence.unreliable) / len(holdout),
    }


def draw_counts(parts: Tensor, x: Tensor, rates: Tensor) -> plt.Figure:
    figure, axes = plt.subplots(2, 1, figsize=(8, 4.4), layout="constrained", height_ratios=[2, 1])
    images = (parts / parts.amax(1, keepdim=True)).reshape(2, 6, 8, 8)
    traversals(images, names=["", ""], ax=axes[0])
    axes[0].set_title("The parts, each on its own scale")
    reconstructions(x.reshape(-1, 8, 8) / 16, (rates / 16).clamp(max=1).reshape(-1, 8, 8), n=12, ax=axes[1])
    axes[1].set_title("Held-out digits, and the rates of their parts together")
    return figure


# ---- clusters: a discrete class, and a latent that depends on it


def clusters_model(decoder: nn.Module) -> Model:
    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        means = pyro.param("means", lambda: torch.randn(8, 2))
        scales = pyro.param("scales", lambda: torch.full((8, 2), 0.3), constraint=constraints.positive)
        noise = pyro.param("noise", lambda: torch.ones(()), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(8)))
            z = pyro.sample("z", dist.Normal(means[y], scales[y]).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    return model


def clusters(run: Run) -> None:
    """Five bent clusters in ten dimensions, found by a mixture of eight."""
    x, truth = bent_clusters(run.size(1000))
    model = clusters_model(MLPDecoder(2, 10, hidden=(64,)))
    guide = AmortizedNormal(model, MLPEncoder(10), structured=True, heads={"y": AmortizedDiscrete})

    objective = TraceEnum_BetaELBO(beta=1.0, max_plate_nesting=1)
    run.train(model, guide, objective, x, epochs=100, lr=0.02)
    account = run.account(model, guide, x)
    with torch.no_grad():
        found = guide.posterior(x)["y"].probs.argmax(-1)
        z = guide.sample(x, seed=run.seed)["z"][0]
        figure = draw_clusters(z, truth, account)
    table = sites(account) | {"entropy of the true clusters": math.log(5), "purity": purity(found, truth)}
    run.save("clusters", account, as_table(table), figure)


def bent_clusters(size: int) -> tuple[Tensor, Tensor]:
    """Data (size, 10) and the cluster that each is from."""
    angle = 2 * math.pi * torch.arange(5) / 5
    truth = torch.randint(5, (size,))
    z = 2 * torch.stack([angle.cos(), angle.sin()], -1)[truth] + 0.25 * torch.randn(size, 2)
    bent = torch.tanh(z @ torch.randn(2, 16)) @ torch.randn(16, 10) / 2
    return bent + 0.3 * torch.randn(size, 10), truth


def purity(found: Tensor, truth: Tensor) -> float:
    """The share of the data whose cluster is the most frequent one of their class."""
    table = torch.zeros(8, 5).index_put((found, truth), torch.ones(len(truth)), accumulate=True)
    return float(table.amax(1).sum() / len(truth))


def sites(account: Decomposition) -> dict[str, float]:
    """Rate and information of each site, in nats per datum."""
    parts = {"rate": account.site_rate, "information": account.site_information}
    return {
        f"{what} of {site}": float(value)
        for what, each in parts.items()
        for site, value in zip(account.site_names, each.value, strict=True)
    }


def draw_clusters(z: Tensor, truth: Tensor, account: Decomposition) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", width_ratios=[3, 2])
    latent_scatter(z, truth, names=["$z_0$", "$z_1$"], ax=left)
    for mean, scale in zip(pyro.param("means"), pyro.param("scales"), strict=True):
        draw_ellipse(mean, scale.diag() ** 2, left, fill=False, edgecolor="black")
    left.autoscale_view()
    left.set_title("Latents by true cluster, and the prior of each class")
    draw_sites({"": account}, right)
    return figure


def draw_sites(accounts: dict[str, Decomposition], ax: Axes) -> None:
    """A bar a site: its information, and its share of the marginal KL on top."""
    names, rate, information, error = [], [], [], []
    for title, account in accounts.items():
        names += [f"{site}\n{title}".strip() for site in account.site_names]
        rate += account.site_rate.value.tolist()
        information += account.site_information.value.tolist()
        error += account.site_information.standard_error.tolist()
    information_per_site(rate, information, standard_error=error, names=names, ax=ax)


# ---- layers: a latent above a latent


def layers_model(upper: nn.Module, decoder: nn.Module) -> Model:
    def model(x: Tensor) -> None:
        pyro.module("upper", upper)
        pyro.module("decoder", decoder)
        with pyro.plate("digits", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", upper(z2))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z1)).to_event(1), obs=x)

    return model


def layers(run: Run) -> None:
    """Two layers, with and without a warm-up of the upper one's weight."""
    ink, _ = digits(run)
    x, holdout = run.split(binarize(ink))
    weights = {"weight 1": 1.0, "warm-up": {"z2": run.warm_up(x, 100, start=0.0), "z1": 1.0}}

    accounts = {}
    for name, beta in weights.items():
        start(run)
        upper = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), NormalHead(64, (8,)))
        decoder = MLPDecoder(8, 64, hidden=(128,))
        model = layers_model(upper, decoder)
        guide = AmortizedNormal(model, MLPEncoder(64), structured=True)
        run.train(model, guide, BetaELBO(beta=beta), x, epochs=100, lr=3e-3)
        accounts[name] = run.account(model, guide, x, holdout)
    rows = [
        {"training": name, "held-out elbo": float(each.holdout.elbo)} | sites(each)
        for name, each in accounts.items()
    ]
    with torch.no_grad():
        figure = draw_layers(accounts, upper, decoder)
    run.save("layers", accounts["warm-up"], pd.DataFrame(rows), figure)


def draw_layers(accounts: dict[str, Decomposition], upper: nn.Module, decoder: nn.Module) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    draw_sites(accounts, left)
    levels = torch.linspace(0.03, 0.97, 10)
    steps = dist.Normal(0.0, 1.0).icdf(levels)
    z2 = torch.stack(torch.meshgrid(-steps, steps, indexing="ij")[::-1], -1)  # (row, column, 2)
    images = decoder(upper(z2).mean).sigmoid().reshape(10, 10, 8, 8)
    traversals(images, names=[""] * 10, ax=right)
    right.set_title("Digits over the plane of $z_2$, after the warm-up")
    return figure


# ---- topics: a point on a simplex, and a positive rate


def topics_model(topics: Tensor) -> Model:
    def model(x: Tensor) -> None:
        with pyro.plate("documents", len(x)):
            theta = pyro.sample("theta", dist.Dirichlet(torch.full((6,), 0.5)))
            rate = pyro.sample("rate", dist.Gamma(4.0, 0.1))
            pyro.sample("x", dist.Poisson(rate.unsqueeze(-1) * (theta @ topics)).to_event(1), obs=x)

    return model


def topics(run: Run) -> None:
    """How near to the posterior three families come, the model being known."""
    words = bars()
    theta = dist.Dirichlet(torch.full((6,), 0.5)).sample((run.size(1000),))
    rate = dist.Gamma(4.0, 0.1).sample((run.size(1000), 1))
    x, holdout = run.split(torch.poisson(rate * (theta @ words)))
    model, own = topics_model(words), {"theta": dist.Dirichlet, "rate": dist.Gamma}
    guides = {
        "AmortizedNormal": AmortizedNormal(model, CountEncoder(9)),
        "Dirichlet and Gamma": AmortizedNormal(model, CountEncoder(9), heads=own),
        "AmortizedFlow": AmortizedFlow(model, CountEncoder(9)),
    }

    rows = []
    for name, guide in guides.items():
        account, reached = reach(run, model, guide, x, holdout, epochs=100, lr=3e-3)
        rows.append({"guide": name} | reached)
    table = pd.DataFrame(rows)
    medians = guide.median(holdout, num_samples=200, seed=run.seed)["theta"]
    run.save("topics", account, table, draw_topics(table, theta[-len(holdout) :], medians))


def bars() -> Tensor:
    """Six topics over the nine words of a 3 x 3 square, its rows and columns, with a little of all words."""
    lines = torch.eye(3).repeat_interleave(3, 1), torch.eye(3).repeat(1, 3)
    return 0.95 * torch.cat(lines) / 3 + 0.05 / 9


def draw_topics(table: pd.DataFrame, theta: Tensor, medians: Tensor) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", width_ratios=[3, 2])
    for what, colour in (("elbo", ORANGE), ("log_evidence", BLUE)):
        style = {"fmt": "o", "color": colour, "capsize": 4, "label": what.replace("_", "-")}
        left.errorbar(table[what], table["guide"], xerr=2 * table[f"{what}_error"], **style)
    left.invert_yaxis()
    left.set(xlabel="nats per held-out document (two standard errors)", title="What each guide reaches")
    left.legend(frameon=False)
    right.scatter(theta, medians, s=6, color=BLUE, alpha=0.5)
    right.axline((0, 0), slope=1, color=GREY, linewidth=1)
    right.set(xlabel="true share of a topic", ylabel="posterior median", title=f"{table['guide'].iloc[-1]}")
    return figure


# ---- the command


MODELS = {"ppca": ppca, "counts": counts, "clusters": clusters, "layers": layers, "topics": topics}


def digits(run: Run) -> tuple[Tensor, Tensor]:
    """Digits in random order, (datum, pixel) with ink from 0 to 1, and their labels."""
    data = load_digits()
    order = torch.randperm(len(data.images))[: run.size(len(data.images))]
    return data.images[order].flatten(1), data.labels[order]


def start(run: Run) -> None:
    """Forgets the parameters of the last training."""
    pyro.clear_param_store()
    pyro.set_rng_seed(run.seed)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, help="one of them only; default all")
    parser.add_argument("--epochs", type=int, help="of every training, instead of each model's own")
    parser.add_argument("--out", type=Path, default=Path("runs/guides"), help="folder of tables and pictures")
    parser.add_argument("--seed", type=int, default=0, help="of data, parameters and draws")
    parser.add_argument("--smoke", action="store_true", help="few data and steps, to see that all works")
    args = parser.parse_args(argv)
    if args.epochs is not None and args.epochs < 1:
        refuse(parser, f"Expected --epochs >= 1 but got {args.epochs}.")
    if args.out.exists() and not args.out.is_dir():
        refuse(parser, f"Expected --out to be a folder but got the file {args.out}.")
    return args


def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(2, f"{parser.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args.epochs, args.seed, args.out, args.smoke)
    for name in [args.model] if args.model else MODELS:
        print(f"\n== {name}: {MODELS[name].__doc__}\n")
        start(run)
        MODELS[name](run)
    print(f"\nTables and pictures are in {args.out}")


if __name__ == "__main__":
    main()
