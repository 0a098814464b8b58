"""What does the InfoMax objective give by itself, before there is a decoder? And what does a decoder add?

A study in two parts. In the first, KL[q(z) || p(z)] - lambda I[X; Z] is trained without a decoder, with the
exact mixture over all data, so that every nat is exact but for the draws of z:

    table   a free code for each datum, which knows nothing of it
    mlp     an encoder with one hidden layer
    conv    a convolutional encoder

The value does not change when data are permuted among the codes, so that what codes have to do with their
data comes from the encoder alone. That is measured by how well the five nearest neighbours among the codes
tell the factors of a datum, for the encoder as it was before training too, and for the pixels.

In the second part an encoder of one hidden layer is trained with a decoder, by (1 + lambda) D + R, which is
the same objective plus (1 + lambda) times the decoder gap G. The decoders grow: linear, small, large, the
best one that draws pixels independently (the means of the inverted posterior), and the inverted posterior
q(x|z) itself, whose gap is 0, as without a decoder.

    python examples/infomax_alone.py --jobs 2 --out runs/infomax_alone
    python examples/infomax_alone.py --from docs/infomax_alone --out runs/again

A run that was stopped goes on with what is missing. The last line trains nothing: it makes tables and
pictures of the stored Datasets.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyro.infer import SVI
from scipy.spatial.distance import cdist
from scipy.stats import t as student
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import Sprites, binarize, load_digits
from pyro_infomax.diagnostics import decompose
from pyro_infomax.disentanglement import score
from pyro_infomax.infer import DirectInfoMax, InfoMaxELBO
from pyro_infomax.information import Account, Draws
from pyro_infomax.nn import ConvEncoder, MLPDecoder, MLPEncoder
from pyro_infomax.sweeps import sweep
from pyro_infomax.training import LearningRateSchedule, fit

DATASETS: Final = ("digits", "sprites")
ENCODERS: Final = ("table", "mlp", "conv")
DECODERS: Final = ("none", "inverted", "pixelwise", "large", "small", "linear")
OF_DATA: Final = ("inverted", "pixelwise")  # made of the posteriors of all data, without parameters
HIDDEN: Final = {"linear": (), "small": (16,), "large": (256, 256)}
LEARNING_RATES: Final = {"table": 0.03, "mlp": 0.01, "conv": 3e-3}
SCALES: Final = (0.7, 1.0)  # at half the size an ellipse and a heart are one image in 16 by 16 pixels
LATENT: Final = 4
NEIGHBOURS: Final = 5
ORDERS: Final = 10  # of neighbours at one distance, over which their accuracy is averaged
NOISES: Final = 20  # sets of codes without information
TINY: Final = 1e-6  # what the probability of a pixel keeps from 0 and 1
DRAWS: Final = 4
ACTIVE: Final = 0.01  # the variance of a mean from which the account calls a dimension active
START: Final = -1.0  # the logarithm of the noise of a code before training
SCORES: Final = ("mig", "dci", "modularity", "explicitness")
ACCOUNT: Final = ("rate", "mutual_information", "marginal_kl", "total_correlation", "redundancy")
CONFIDENCE: Final = 0.95
FEW_STEPS: Final = 100
COLOURS: Final = dict(zip((*ENCODERS, "none"), ("#0173b2", "#de8f05", "#029e73", "0.25"), strict=True))
MARKS: Final = dict(zip(DECODERS, "*DPsoX", strict=True))


@dataclass(frozen=True)
class Size:
    """How large a study is.

    Args:
        name: of the form.
        digits: how many of them.
        sprites: scales, how many orientations, and how many positions along an axis.
        lams: weights of the information, without a decoder.
        decoder_lams: the same with one.
        seeds: how many.
        steps: of a training without a network as decoder.
        decoder_steps: of one with a network, which takes longer to come to rest, and less time a step.
        scores: which.
    """

    name: str
    digits: int
    sprites: tuple[tuple[float, ...], int, int]
    lams: tuple[float, ...]
    decoder_lams: tuple[float, ...]
    seeds: int
    steps: int
    decoder_steps: int
    scores: tuple[str, ...] = SCORES


SIZES: Final = {
    "smoke": Size("smoke", 30, ((1.0,), 1, 3), (1.0,), (1.0,), seeds=1, steps=2, decoder_steps=2, scores=()),
    "small": Size(
        "small", 150, (SCALES, 1, 5), (0.0, 1.0, 3.0), (1.0, 3.0), seeds=2, steps=150, decoder_steps=600
    ),
    "full": Size(
        "full",
        400,
        (SCALES, 2, 6),
        (0.0, 0.3, 1.0, 3.0),
        (0.0, 1.0, 3.0),
        seeds=10,
        steps=600,
        decoder_steps=2400,
    ),
}


# ---- the data


@dataclass(frozen=True)
class Problem:
    """Binary images, no two of them alike, with their factors.

    Args:
        x: (datum, height, width).
        factors: (datum, factor) integers.

    Raises:
        ValueError: if two images are alike: H[X] would not be ln N then, nor I = ln N all there is to tell.
    """

    x: Tensor
    factors: np.ndarray

    def __post_init__(self) -> None:
        different = len(self.x.flatten(1).unique(dim=0))
        if different < len(self.x):
            raise ValueError(
                f"Expected {len(self.x)} images of which no two are alike but {different} differ."
            )

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        """The images, and the number of each, by which a table finds its code."""
        return self.x, torch.arange(len(self.x))


def problem_of(name: str, size: Size) -> Problem:
    if name == "digits":
        source = load_digits()
        images, labels = binarize(source.images), source.labels[:, None].numpy()
        _, first = np.unique(images.flatten(1).numpy(), axis=0, return_index=True)
        rows = np.sort(first)[: size.digits]
        return Problem(images[rows], labels[rows])
    scales, orientations, positions = size.sprites
    # a quarter of a turn, since a square comes back after it
    angles = np.linspace(0, np.pi / 2, orientations, endpoint=False)
    grid = Sprites(scales=scales, orientations=angles, positions=positions, size=16)
    factors = grid.all_factors()
    x = grid.observations(factors)
    varied = factors.max(0) > 0
    return Problem(x.reshape(len(x), 16, 16), np.asarray(factors[:, varied]))


# ---- the encoders and the pairs


class Codes(nn.Module):
    """A mean and a noise for each datum, free of each other."""

    def __init__(self, size: int) -> None:
        super().__init__()
        start = torch.cat([torch.randn(size, LATENT), torch.full((size, LATENT), START)], 1)
        self.table = nn.Parameter(start)

    def forward(self, _: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.table[index].chunk(2, -1)
        return mean, log_scale.exp()


class Network(nn.Module):
    """A mean and a noise as functions of the image."""

    def __init__(self, features: nn.Module, num_features: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(num_features, 2 * LATENT)

    def forward(self, x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.head(self.features(x)).chunk(2, -1)
        return mean, (log_scale + START).exp()


def make_encoder(name: str, problem: Problem) -> nn.Module:
    shape = problem.x.shape[1:]
    if name == "table":
        return Codes(len(problem.x))
    if name == "mlp":
        return Network(MLPEncoder(shape, hidden=(128,)), 128)
    return Network(ConvEncoder(shape, channels=(8, 16), out_features=64), 64)


def plate(index: Tensor) -> Any:
    return pyro.plate("data", len(index))


def prior() -> Any:
    return dist.Normal(torch.zeros(LATENT), 1.0).to_event(1)


@dataclass(frozen=True)
class Pair:
    """An encoder, with a decoder or none.

    Args:
        encoder: gives means and noise.
        decoder: gives logits of pixels; None for none.
        of_data: a decoder that is made of the posteriors of all data: the inverted posterior, which tells
            which of the data it was, or its means of the pixels.
    """

    encoder: nn.Module
    decoder: nn.Module | None = None
    of_data: str | None = None

    def guide(self, x: Tensor, index: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        mean, scale = self.encoder(x, index)
        with plate(index):
            pyro.sample("z", dist.Normal(mean, scale).to_event(1))

    def model(self, x: Tensor, index: Tensor) -> None:
        with plate(index):
            z = pyro.sample("z", prior())
            if self.decoder is not None:
                pyro.module("decoder", self.decoder)
                logits = self.decoder(z)
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(2), obs=x)
            elif self.of_data is not None:
                scores = scores_under(*self.encoder(x, index), z)  # of all data, which are the batch
                if self.of_data == "inverted":
                    pyro.sample("n", dist.Categorical(logits=scores), obs=torch.arange(len(index)))
                else:
                    pixels = dist.Bernoulli(probs=pixel_means(scores, x))
                    pyro.sample("x", pixels.to_event(2), obs=x)


def scores_under(mean: Tensor, scale: Tensor, z: Tensor) -> Tensor:
    """log q(z|x_n) of every z under every datum n, (..., datum)."""
    return Normal(mean, scale).log_prob(z.unsqueeze(-2)).sum(-1)


def pixel_means(scores: Tensor, x: Tensor) -> Tensor:
    """The probability of each pixel under the inverted posterior, (..., height, width)."""
    means = scores.softmax(-1) @ x.flatten(1)
    return means.clamp(TINY, 1 - TINY).unflatten(-1, x.shape[1:])


def train(pair: Pair, problem: Problem, lam: float, steps: int, learning_rate: float) -> None:
    """All data at each step, by which the mixture is exact."""
    size = len(problem.x)
    objective: Any = InfoMaxELBO(lam=lam)
    if pair.decoder is None and pair.of_data is None:
        objective = DirectInfoMax(lam, data_size=size)
    optim = FusedOptim(
        torch.optim.Adam,
        {"lr": learning_rate},
        scheduler=lambda optimizer: CosineAnnealingLR(optimizer, steps),
    )
    # a recording pays in long trainings alone
    kind = CapturedSVI if steps > FEW_STEPS else SVI
    svi = kind(pair.model, pair.guide, optim, objective)
    options = {"batch_size": size, "callbacks": [LearningRateSchedule()], "progress": False}
    fit(svi, problem.data, epochs=steps, **options)


# ---- what codes are worth


@torch.no_grad()
def codes_of(encoder: nn.Module, problem: Problem) -> tuple[Tensor, Tensor]:
    """Means and noise, (datum, latent), in double precision."""
    mean, scale = encoder(*problem.data)
    return mean.double(), scale.double()


def accuracy(codes: np.ndarray, factors: np.ndarray) -> float:
    """How often the five nearest of the other data tell a factor, the mean over the factors.

    Neighbours at one distance, of which binary images have many, come in random orders, over which it is
    averaged. A tied vote counts for its share.
    """
    distances = cdist(codes, codes, "sqeuclidean")
    np.fill_diagonal(distances, np.inf)
    count = min(NEIGHBOURS, len(codes) - 1)
    nearest = np.partition(distances, count)  # (datum, other datum), the first ones up to the next
    tied = bool((nearest[:, :count].max(1) == nearest[:, count]).any())
    generator = np.random.default_rng(0)
    found = []
    for _ in range(ORDERS if tied else 1):
        order = np.lexsort((generator.random(distances.shape), distances))  # (datum, other datum)
        others = order[:, :count]
        found.append(np.mean([vote(column[others], column) for column in factors.T]))
    return float(np.mean(found))


def vote(told: np.ndarray, right: np.ndarray) -> float:
    """How often the commonest of the values told (datum, neighbour) is right."""
    counts = (told[:, :, None] == np.arange(max(told.max(), right.max()) + 1)).sum(1)  # (datum, value)
    first = counts == counts.max(1, keepdims=True)
    return float((first[np.arange(len(right)), right] / first.sum(1)).mean())


def accuracy_of_noise(factors: np.ndarray) -> float:
    """The same of codes that know nothing, the mean over some of them."""
    noises = np.random.default_rng(0).standard_normal((NOISES, len(factors), LATENT))
    return float(np.mean([accuracy(each, factors) for each in noises]))


def accuracy_of_draws(mean: Tensor, scale: Tensor, factors: np.ndarray, seed: int) -> float:
    """The same of codes as the noise leaves them, the mean over some draws."""
    return float(np.mean([accuracy(z.numpy(), factors) for z in draws_of(mean, scale, seed)]))


def draws_of(mean: Tensor, scale: Tensor, seed: int) -> Tensor:
    """Codes with their noise, (draw, datum, latent)."""
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(DRAWS, *mean.shape, generator=generator, dtype=mean.dtype)


def active(means: np.ndarray) -> np.ndarray:
    """The means (datum, latent) of active dimensions, 0 in the others, of which no draw tells anything."""
    return np.asarray(means * (means.var(0) > ACTIVE))


def scores_of(codes: np.ndarray, factors: np.ndarray, which: Sequence[str]) -> dict[str, float]:
    """One factor leaves no more to ask than how explicit it is."""
    which = which if factors.shape[1] > 1 else which[-1:]
    if not which:
        return {}
    table = score(codes, factors, which=which, calibration=None, progress=False)
    return {each.name: each.score for each in table.values()}


def account_of(encoder: nn.Module, problem: Problem, which: Sequence[str], seed: int) -> dict[str, Any]:
    """The nats of the representation, which needs no decoder, and what its codes tell."""
    mean, scale = codes_of(encoder, problem)
    posterior = Independent(Normal(mean, scale), 1)
    standard = Independent(Normal(mean.new_zeros(LATENT), mean.new_ones(LATENT)), 1)
    account = Account(Draws(posterior, standard, num_samples=DRAWS, seed=seed))
    found: dict[str, Any] = {name: getattr(account, name) for name in ACCOUNT}
    found["accuracy"] = accuracy_of_draws(mean, scale, problem.factors, seed)
    found["accuracy_of_means"] = accuracy(mean.numpy(), problem.factors)
    return found | scores_of(active(mean.numpy()), problem.factors, which)


@torch.no_grad()
def distortion_of(pair: Pair, problem: Problem, seed: int) -> float:
    """−E log p(x|z) of binary pixels, nats per datum."""
    if pair.decoder is not None:
        account = decompose(pair.model, pair.guide, problem.data, num_samples=DRAWS, seed=seed)
        return float(account.distortion)
    mean, scale = codes_of(pair.encoder, problem)
    x = problem.x.double()
    means = [pixel_means(scores_under(mean, scale, z), x) for z in draws_of(mean, scale, seed)]
    scores = [Bernoulli(probs=each).log_prob(x).sum((-2, -1)).mean() for each in means]
    return -float(torch.stack(scores).mean())


@dataclass(frozen=True)
class Alone:
    """A representation trained without a decoder."""

    size: Size

    def __call__(self, dataset: str, encoder: str, lam: float, seed: int) -> dict[str, Any]:
        start = time.perf_counter()
        problem = problem_of(dataset, self.size)
        pair = Pair(make_encoder(encoder, problem))
        before = accuracy(codes_of(pair.encoder, problem)[0].numpy(), problem.factors)
        train(pair, problem, lam, self.size.steps, LEARNING_RATES[encoder])
        found = account_of(pair.encoder, problem, self.size.scores, seed)
        value = float(found["marginal_kl"]) - lam * float(found["mutual_information"])
        return found | {
            "value": value,
            "accuracy_before": before,
            "seconds": time.perf_counter() - start,
        }


@dataclass(frozen=True)
class Decoded:
    """A representation of digits trained with a decoder."""

    size: Size

    def __call__(self, decoder: str, lam: float, seed: int) -> dict[str, Any]:
        start = time.perf_counter()
        problem = problem_of("digits", self.size)
        network = None
        if decoder in HIDDEN:
            network = MLPDecoder(LATENT, problem.x.shape[1:], hidden=HIDDEN[decoder])
        pair = Pair(make_encoder("mlp", problem), network, decoder if decoder in OF_DATA else None)
        steps = self.size.steps if network is None else self.size.decoder_steps
        train(pair, problem, lam, steps, LEARNING_RATES["mlp"])
        found = account_of(pair.encoder, problem, self.size.scores, seed)
        gap = 0.0  # that of the best decoder, which is there or could be
        if network is not None or decoder == "pixelwise":
            # D = H − I + G, and no two images are alike
            distortion = distortion_of(pair, problem, seed)
            gap = distortion - np.log(len(problem.x)) + float(found["mutual_information"])
        infomax = float(found["marginal_kl"]) - lam * float(found["mutual_information"])
        return found | {
            "decoder_gap": gap,
            "value": infomax,
            "loss": infomax + (1 + lam) * gap,
            "seconds": time.perf_counter() - start,
        }


# ---- tables


def long(ds: xr.Dataset, point: Sequence[str]) -> pd.DataFrame:
    """A row a training."""
    trained = [name for name, each in ds.data_vars.items() if set(each.dims) == set(point)]
    return ds[trained].to_dataframe().reset_index()


def interval(values: pd.Series) -> tuple[float, float]:
    """Mean and half the width of its t-interval, over seeds."""
    count = values.count()
    error = values.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
    return values.mean(), student.ppf((1 + CONFIDENCE) / 2, max(count - 1, 1)) * error


def summary(table: pd.DataFrame, by: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Means with half the widths of their intervals over the seeds."""
    rows = []
    for key, part in table.groupby(list(by), sort=False):
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        for name in [each for each in names if each in part]:
            row[name], row[f"{name}_half"] = interval(part[name])
        rows.append(row)
    return pd.DataFrame(rows)


# ---- pictures


def new_panels(rows: int, columns: int, **options: Any) -> tuple[Figure, np.ndarray]:
    size = (2.6 * columns + 0.7, 2.2 * rows + 0.7)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.92")
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=8)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)
    plt.close(figure)


def curve(ax: Axes, rows: pd.DataFrame, name: str, colour: str, label: str) -> None:
    """Over the weights of the information, mean and interval over the seeds."""
    place, mean, half = range(len(rows)), rows[name], rows[f"{name}_half"]
    ax.plot(place, mean, color=colour, marker="o", markersize=3, linewidth=1.4, label=label)
    ax.fill_between(place, mean - half, mean + half, color=colour, alpha=0.25, linewidth=0)
    ax.set_xticks(place, [f"{each:g}" for each in rows["lam"]])


SHOWN: Final = {
    "excess": "KL − λ I above the table's (nats)",
    "mutual_information": "I (nats)",
    "marginal_kl": "marginal KL (nats)",
    "redundancy": "Σ I(X;Z_j) − I (nats)",
    "accuracy": "5-NN accuracy, draws",
    "accuracy_of_means": "5-NN accuracy, means",
}


def draw_alone(table: pd.DataFrame, known: xr.Dataset, path: Path) -> None:
    """What each encoder reaches without a decoder, and what its codes tell."""
    datasets = list(dict.fromkeys(table["dataset"]))
    free = table[table["encoder"] == "table"].groupby(["dataset", "lam"])["value"].mean()
    least = pd.MultiIndex.from_frame(table[["dataset", "lam"]]).map(free)
    table = table.assign(excess=table["value"] - least)
    means = summary(table, ("dataset", "encoder", "lam"), (*SHOWN, "accuracy_before"))
    figure, axes = new_panels(len(datasets), len(SHOWN), sharex=True)
    for row, dataset in zip(axes, datasets, strict=True):
        for ax, (name, title) in zip(row, SHOWN.items(), strict=True):
            for encoder in ENCODERS:
                part = means[(means["dataset"] == dataset) & (means["encoder"] == encoder)]
                curve(ax, part.sort_values("lam"), name, COLOURS[encoder], encoder)
                if name == "accuracy_of_means":
                    before = part["accuracy_before"].mean()
                    ax.axhline(before, color=COLOURS[encoder], linestyle=":", linewidth=1.2)
            if name.startswith("accuracy"):
                ax.axhline(float(known["pixels"].sel(dataset=dataset)), color="0.25", linestyle="--")
                ax.axhline(float(known["noise"].sel(dataset=dataset)), color="0.6", linewidth=0.8)
                ax.set_ylim(0, 1.02)
            if name == "mutual_information":
                ax.axhline(np.log(int(known["data"].sel(dataset=dataset))), color="0.6", linewidth=0.8)
            ax.set_title(f"{dataset}: {title}", fontsize=9)
            ax.set_xlabel("λ", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=8)
    last = axes[0, -1]
    last.plot([], [], color="0.4", linestyle=":", label="before training")
    last.plot([], [], color="0.25", linestyle="--", label="pixels")
    last.plot([], [], color="0.6", linewidth=0.8, label="codes of noise")
    handles, labels = last.get_legend_handles_labels()
    last.legend(
        handles[-3:], labels[-3:], frameon=False, fontsize=7, loc="upper right", bbox_to_anchor=(1, 0.95)
    )
    save(figure, path)


def draw_scores(table: pd.DataFrame, path: Path) -> None:
    """Disentanglement without a decoder, over the weight of the information."""
    part = table[table["dataset"] == "sprites"]
    names = [name for name in SCORES if name in part and part[name].notna().any()]
    means = summary(part, ("encoder", "lam"), names)
    figure, axes = new_panels(1, max(1, len(names)))
    for ax, name in zip(axes[0], names, strict=False):
        for encoder in ENCODERS:
            curve(ax, means[means["encoder"] == encoder].sort_values("lam"), name, COLOURS[encoder], encoder)
        ax.set_title(f"sprites: {name}", fontsize=9)
        ax.set_xlabel("λ", fontsize=9)
    if names:
        axes[0, 0].legend(frameon=False, fontsize=8)
    save(figure, path)


def draw_decoded(table: pd.DataFrame, known: xr.Dataset, path: Path) -> None:
    """Accuracy and information over the decoder gap, a line a weight."""
    shown = {
        "accuracy": "5-NN accuracy, draws",
        "mutual_information": "I (nats)",
        "marginal_kl": "marginal KL (nats)",
    }
    means = summary(table, ("lam", "decoder"), ("decoder_gap", *shown))
    lams = sorted(set(means["lam"]))
    colours = mpl.colormaps["viridis"](np.linspace(0.1, 0.8, len(lams)))
    figure, axes = new_panels(1, len(shown))
    for ax, (name, title) in zip(axes[0], shown.items(), strict=True):
        for lam, colour in zip(lams, colours, strict=True):
            part = means[means["lam"] == lam].sort_values("decoder_gap")
            ax.plot(part["decoder_gap"], part[name], color=colour, linewidth=1.2, label=f"λ = {lam:g}")
            for _, each in part.iterrows():
                ax.errorbar(
                    each["decoder_gap"],
                    each[name],
                    yerr=each[f"{name}_half"],
                    color=colour,
                    marker=MARKS[each["decoder"]],
                    markersize=5,
                )
        if name == "accuracy":
            ax.axhline(float(known["pixels"].sel(dataset="digits")), color="0.25", linestyle="--")
            ax.axhline(float(known["noise"].sel(dataset="digits")), color="0.6", linewidth=0.8)
            ax.set_ylim(0, 1.02)
        ax.set_xscale("symlog", linthresh=0.1)
        ax.set_xlim(-0.03, 30)
        ax.set_title(f"digits: {title}", fontsize=9)
        ax.set_xlabel("decoder gap G (nats)", fontsize=9)
    handles = [
        axes[0, -1].plot([], [], color="0.4", marker=mark, linestyle="", label=decoder)[0]
        for decoder, mark in MARKS.items()
    ]
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside right center")
    save(figure, path)


# ---- the command


def study(size: Size, jobs: int, store: Path) -> dict[str, xr.Dataset]:
    """Every training, and what needs none."""
    alone = {"dataset": list(DATASETS), "encoder": list(ENCODERS), "lam": list(size.lams)}
    first = sweep(Alone(size), alone, seeds=size.seeds, n_jobs=jobs, store=store / "alone")
    decoded = {"decoder": list(DECODERS), "lam": list(size.decoder_lams)}
    second = sweep(Decoded(size), decoded, seeds=size.seeds, n_jobs=jobs, store=store / "decoded")
    problems = {name: problem_of(name, size) for name in DATASETS}
    known = {
        name: {
            "pixels": accuracy(problem.x.flatten(1).numpy(), problem.factors),
            "noise": accuracy_of_noise(problem.factors),
            "data": len(problem.x),
        }
        for name, problem in problems.items()
    }
    table = pd.DataFrame.from_dict(known, orient="index").rename_axis("dataset")
    return {"alone": first, "decoded": second, "known": table.to_xarray()}


def described(parts: Mapping[str, xr.Dataset], size: Size, argv: Sequence[str]) -> dict[str, xr.Dataset]:
    """With what a reader of the files should know."""
    command = shlex.join(["python", "examples/infomax_alone.py", *argv])
    version = str(torch.__version__)
    steps = {name: getattr(size, name) for name in ("steps", "decoder_steps")}
    facts = {"command": command, "form": size.name, **steps, "torch_version": version}
    return {name: ds.assign_attrs(facts) for name, ds in parts.items()}


def report(parts: Mapping[str, xr.Dataset], out: Path) -> None:
    """Tables and pictures of a study."""
    alone = long(parts["alone"], ("dataset", "encoder", "lam", "seed"))
    decoded = long(parts["decoded"], ("decoder", "lam", "seed"))
    by_encoder = ("dataset", "encoder", "lam")
    accuracies = ("accuracy", "accuracy_of_means")
    tables = {
        "alone": summary(alone, by_encoder, ("value", *ACCOUNT, *accuracies, "accuracy_before", *SCORES)),
        "decoded": summary(
            decoded,
            ("lam", "decoder"),
            ("decoder_gap", "value", "loss", *ACCOUNT, *accuracies, "explicitness"),
        ),
    }
    for name, each in tables.items():
        each.to_csv(out / f"{name}.csv", index=False, float_format="%.5g")
    draw_alone(alone, parts["known"], out / "alone.png")
    draw_scores(alone, out / "scores.png")
    draw_decoded(decoded, parts["known"], out / "decoded.png")
    shown = ["value", "mutual_information", "marginal_kl", "redundancy", *accuracies, "accuracy_before"]
    formats = {"float_format": "{:.3f}".format, "index": False}
    print("Accuracy by five neighbours among the pixels, and among codes of pure noise\n")
    print(parts["known"].to_dataframe().round(3).to_string())
    print("\nWithout a decoder, means over the seeds\n")
    print(tables["alone"][[*by_encoder, *shown]].to_string(**formats))
    print("\nWith decoders, digits, means over the seeds\n")
    columns = ["lam", "decoder", "decoder_gap", "loss", "mutual_information", "marginal_kl", *accuracies]
    print(tables["decoded"][columns].to_string(**formats))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="fewer data, weights, seeds and steps: minutes")
    parser.add_argument("--smoke", action="store_true", help="few data, few steps: seconds")
    parser.add_argument("--seeds", type=int, help="how many; 10 by default")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, -1 for a processor each")
    parser.add_argument("--from", dest="source", type=Path, help="a folder of stored Datasets to draw")
    parser.add_argument("--out", type=Path, default=Path("runs/infomax_alone"), help="a folder")
    args = parser.parse_args(argv)
    if args.seeds is not None and args.seeds < 1:
        parser.error(f"Expected --seeds >= 1 but got {args.seeds}.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    names = ("alone", "decoded", "known")
    if args.source is None:
        size = SIZES["smoke" if args.smoke else "small" if args.small else "full"]
        size = replace(size, seeds=args.seeds or size.seeds)
        parts = described(study(size, args.jobs, args.out / "points" / size.name), size, argv)
        for name in names:
            parts[name].to_netcdf(args.out / f"{name}.nc", engine="h5netcdf")
    else:
        parts = {name: xr.load_dataset(args.source / f"{name}.nc", engine="h5netcdf") for name in names}
    report(parts, args.out)
    print(f"\nTables and pictures are in {args.out}")


if __name__ == "__main__":
    main()
