"""Does a weight on the rate disentangle? What do marginal and conditional independence have to do with it?

A study. At every weight beta of the rate (lambda = 1/beta - 1 in the InfoMax sense) pairs are trained on data
whose factors are known, with a diagonal and with a full-covariance encoder, for several seeds:

    orthogonal, equal, oblique  linear-Gaussian data, whose optimum is known in closed form: orthogonal axes
                                of different variances, of equal variances, and axes that are not orthogonal
    sprites                     a full grid of shapes, scales, orientations and positions
    correlated                  the part of that grid where the two positions are close to each other
    nuisance                    the grid, each image with grey levels of its own that no score asks for
    digits                      scikit-learn's digits: the account, and how explicit the label is

Each training is accounted for and scored. All points go to one Dataset, of which the tables and pictures are
made: scores at every weight and at matched rate, what their variance comes from, and what they go along with.
Degenerate representations stand beside: one that knows nothing, and invertible ones.

    python examples/marginal_or_conditional.py --jobs 2 --out runs/marginal_or_conditional
    python examples/marginal_or_conditional.py --full --jobs -1 --out runs/marginal_or_conditional_full
    python examples/marginal_or_conditional.py --from docs/marginal_or_conditional/study.nc --out runs/again

A run that was stopped goes on with what is missing. The last line trains nothing.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyro.infer import SVI
from scipy.stats import rankdata, t as student
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import GreyLevels, Sprites, load_digits
from pyro_infomax.diagnostics import decompose
from pyro_infomax.disentanglement import score
from pyro_infomax.guides import AmortizedGuide, AmortizedMultivariateNormal, AmortizedNormal
from pyro_infomax.infer import BetaELBO
from pyro_infomax.information import Account, Draws
from pyro_infomax.nn import Gaussian, MLPDecoder, MLPEncoder
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.sweeps import sweep
from pyro_infomax.training import LearningRateSchedule, fit
from pyro_infomax.vae import VAE

BETAS: Final = tuple(2.0**power for power in range(-4, 5))
FINER_BETAS: Final = tuple(2.0 ** (power / 2) for power in range(-8, 9))
FEW_STEPS: Final = 500
NOISE: Final = 1.0  # the variance s2 of linear-Gaussian data and of their decoder
DIM: Final = 8  # of linear-Gaussian data
BINS: Final = 10  # quantiles that make a continuous factor one that can be scored
AXES: Final = {  # the variances of the factors, and the cosine between any two of their axes
    "orthogonal": ((81.0, 27.0, 9.0, 3.0), 0.0),
    "equal": ((16.0, 16.0, 16.0, 16.0), 0.0),
    "oblique": ((81.0, 27.0, 9.0, 3.0), 0.5),
}
SPRITES: Final = ("sprites", "correlated", "nuisance")
DATASETS: Final = (*AXES, *SPRITES, "digits")
FAMILIES: Final = {"diagonal": AmortizedNormal, "full": AmortizedMultivariateNormal}
ACCOUNT: Final = (
    "rate",
    "distortion",
    "mutual_information",
    "marginal_kl",
    "total_correlation",
    "conditional_total_correlation",
)
TURNED: Final = ("rate", "elbo", "mutual_information", "marginal_kl", "total_correlation")
SCORES: Final = (
    "mig",
    "dci",
    "sap",
    "modularity",
    "explicitness",
    "irs",
    "beta_vae_score",
    "factor_vae_score",
    "mutual_information_score",
    "gaussian_total_correlation",
)
CHECKED: Final = ("mig",)  # also of the dimensions that are not active
ACTIVE: Final = 0.01  # the variance of a mean from which the account calls a dimension active
SOLVED: Final = ("orthogonal", "sprites")
TRUTHS: Final = ("true_correlation", "true_conditional_correlation")
SOLUTIONS: Final = ("prior", "whitened", "whitened, turned", "code book")
FEW_SCORES: Final = ("mig", "modularity")
SHOWN_SCORES: Final = {
    "mig": "MIG",
    "dci": "DCI disentanglement",
    "sap": "SAP",
    "modularity": "modularity",
    "explicitness": "explicitness",
    "irs": "IRS",
    "beta_vae_score": "beta-VAE score",
    "factor_vae_score": "FactorVAE score",
}
INDEPENDENCE: Final = {
    "total_correlation": "TC(Z)",
    "marginal_kl": "marginal KL",
    "conditional_total_correlation": "TC(Z|X)",
}
COLOURS: Final = {"diagonal": "#0173b2", "full": "#de8f05", "known": "0.25", "third": "#029e73"}
TRUE: Final = {"color": "#029e73", "linestyle": ":", "linewidth": 1.6}
SHARES: Final = {"beta": "#0173b2", "encoder": "#de8f05", "both": "#029e73", "seed": "0.75"}
POINT: Final = ("dataset", "encoder", "beta", "seed")
TINY: Final = 0.05  # the noise of an invertible code, in units of the prior's
FINE: Final = 0.01  # of a code book in two dimensions
LEAST_RATE: Final = 0.1  # nats: below, a pair has collapsed
CONFIDENCE: Final = 0.95
RESAMPLES: Final = 40  # for each seed; five can be drawn in 126 ways


@dataclass(frozen=True)
class Size:
    """How large a study is.

    Args:
        name: of the form, which the stored points bear.
        datasets: which.
        betas: weights of the rate.
        seeds: how many.
        linear_data: number of linear-Gaussian data, and steps of a training on them.
        sprites: scales, orientations, positions along an axis, side in pixels.
        digits: how many.
        steps: of a training on images.
        scores: which.
        angles: how many between two optima that differ by a turn.
    """

    name: str
    datasets: tuple[str, ...]
    betas: tuple[float, ...]
    seeds: int
    linear_data: tuple[int, int]
    sprites: tuple[int, int, int, int]
    digits: int
    steps: int
    scores: tuple[str, ...] = SCORES
    angles: int = 13


SIZES: Final = {
    "smoke": Size(
        "smoke",
        ("orthogonal", "sprites"),
        (4.0, 0.25),
        seeds=2,
        linear_data=(64, 5),
        sprites=(2, 2, 2, 16),
        digits=200,
        steps=5,
        scores=FEW_SCORES,
        angles=2,
    ),
    "small": Size("small", DATASETS, BETAS, 5, (2048, 9000), (3, 4, 8, 16), 1797, 4500),
    "full": Size("full", DATASETS, FINER_BETAS, 10, (8192, 9000), (6, 8, 16, 32), 1797, 20_000),
}


# ---- the data


@dataclass(frozen=True)
class Problem:
    """Data with their factors, and the networks for them.

    Args:
        x: (datum, element).
        factors: (datum, factor) integers, those that are scored.
        likelihood: of x given a decoder's output.
        latent_dim: of the representation.
        hidden: sizes of the layers of encoder and decoder; none makes both linear.
        steps: of a training.
        batch_size: of a step.
        learning_rate: of the first; it falls to zero along a cosine.
    """

    x: Tensor
    factors: np.ndarray
    likelihood: Any
    latent_dim: int
    hidden: tuple[int, ...]
    steps: int
    batch_size: int
    learning_rate: float


def problem_of(name: str, size: Size) -> Problem:
    if name in AXES:
        return linear(name, *size.linear_data)
    return digits(size.digits, size.steps) if name == "digits" else sprites(name, *size.sprites, size.steps)


def axes_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Axes (dim, factor) of unit length and the variances (factor,) of linear-Gaussian factors."""
    variances, cosine = AXES[name]
    count = len(variances)
    gram = np.full((count, count), cosine) + (1 - cosine) * np.eye(count)
    rotation = np.linalg.qr(np.random.RandomState(0).randn(DIM, count))[0]
    return rotation @ np.linalg.cholesky(gram).T, np.array(variances)


def covariance_of(name: str) -> np.ndarray:
    """The covariance of linear-Gaussian data, (dim, dim)."""
    axes, variances = axes_of(name)
    return (axes * variances) @ axes.T + NOISE * np.eye(DIM)


def linear(name: str, num_data: int, steps: int = 0) -> Problem:
    """Factors along axes, and noise; mean and covariance of the sample are those of the population."""
    axes, variances = axes_of(name)
    count = len(variances)
    standard = LinearGaussian.optimum(np.ones(count + DIM), 1.0, 1, s2=1.0)
    draws = standard.sample(num_data, exact=True, seed=0).numpy()
    factors, noise = draws[:, :count], draws[:, count:]
    x = (factors * np.sqrt(variances)) @ axes.T + np.sqrt(NOISE) * noise
    return Problem(
        torch.as_tensor(x, dtype=torch.get_default_dtype()),
        in_bins(factors),
        Gaussian(scale=NOISE**0.5),
        latent_dim=count + 1,
        hidden=(),
        steps=steps,
        batch_size=256,
        learning_rate=0.1,
    )


def in_bins(values: np.ndarray) -> np.ndarray:
    """Numbers of quantile bins, (datum, factor)."""
    return values.argsort(0).argsort(0) * BINS // len(values)


def sprites(name: str, scales: int, orientations: int, positions: int, side: int, steps: int = 0) -> Problem:
    """All images of a grid, or of the part where the positions are near each other, or in grey levels."""
    grey = {"sprite": GreyLevels(0.6, 0.8, 1.0), "background": GreyLevels(0.0, 0.2, 0.4)}
    source = Sprites(
        scales=scales,
        # half a turn, since an ellipse comes back after it
        orientations=np.linspace(0, np.pi, orientations, endpoint=False),
        positions=positions,
        size=side,
        where=near if name == "correlated" else None,
        **(grey if name == "nuisance" else {}),
    )
    factors = source.all_factors()
    if name == "nuisance":
        # one pair of levels for each combination of what is scored
        factors = factors.reshape(-1, 9, factors.shape[1])
        factors = factors[np.arange(len(factors)), np.random.RandomState(0).randint(9, size=len(factors))]
    return Problem(
        source.observations(factors).flatten(1),
        factors[:, :5],
        "bernoulli",
        latent_dim=8,
        hidden=(128,),
        steps=steps,
        batch_size=64,
        learning_rate=3e-3,
    )


def near(factors: np.ndarray) -> np.ndarray:
    """Where the two positions differ by at most a quarter of the way."""
    x, y = factors[:, -2], factors[:, -1]
    return abs(x - y) <= (x.max() + 1) // 4


def digits(num_data: int, steps: int) -> Problem:
    data = load_digits()
    return Problem(
        data.images.flatten(1)[:num_data],
        data.labels.numpy()[:num_data, None],
        Gaussian(scale=0.1**0.5),
        latent_dim=8,
        hidden=(128,),
        steps=steps,
        batch_size=64,
        learning_rate=3e-3,
    )


# ---- the pairs


class LinearPosterior(nn.Module):
    """Features to a Normal whose mean is linear in them and whose covariance is the same for all data."""

    def __init__(self, in_features: int, latent_dim: int, *, full: bool) -> None:
        super().__init__()
        self.event_shape = torch.Size((latent_dim,))
        self.mean = nn.Linear(in_features, latent_dim, bias=False)
        self.log_scale = nn.Parameter(torch.full((latent_dim,), -0.5))
        self.below = nn.Parameter(torch.zeros(latent_dim, latent_dim)) if full else None

    def forward(self, features: Tensor) -> Any:
        mean, scale = self.mean(features), self.log_scale.exp()
        if self.below is None:
            return pyro.distributions.Normal(mean, scale).to_event(1)
        factor = scale.diag() + self.below.tril(-1)
        return pyro.distributions.MultivariateNormal(mean, scale_tril=factor)


def make_pair(problem: Problem, encoder: str) -> tuple[VAE, AmortizedGuide]:
    """A model, and a guide whose posteriors are diagonal or have full covariances."""
    size, latent = problem.x.shape[1], problem.latent_dim
    features = MLPEncoder(size, hidden=problem.hidden)
    decoder: nn.Module = MLPDecoder(latent, size, hidden=problem.hidden)
    heads = {}
    if not problem.hidden:
        decoder = nn.Linear(latent, size, bias=False)
        heads = {"z": LinearPosterior(size, latent, full=encoder == "full")}
    vae = VAE(features, decoder, latent_dim=latent, likelihood=problem.likelihood)
    return vae, FAMILIES[encoder](vae.model, features, heads=heads)


def train(problem: Problem, encoder: str, beta: float) -> tuple[VAE, AmortizedGuide]:
    vae, guide = make_pair(problem, encoder)
    epochs = -(-problem.steps * problem.batch_size // len(problem.x))
    optim = FusedOptim(
        torch.optim.Adam,
        {"lr": problem.learning_rate},
        scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
    )
    # a recording pays in long trainings alone
    kind = CapturedSVI if problem.steps > FEW_STEPS else SVI
    svi = kind(vae.model, guide, optim, BetaELBO(beta=beta))
    options = {"batch_size": problem.batch_size, "callbacks": [LearningRateSchedule()], "progress": False}
    fit(svi, problem.x, epochs=epochs, **options)
    return vae, guide


def as_linear_gaussian(name: str, vae: VAE, guide: AmortizedGuide) -> LinearGaussian:
    """What was trained, as a problem whose every nat has a closed form."""
    posterior = guide.posterior(torch.zeros(1, DIM))["z"]
    is_diagonal = isinstance(posterior, pyro.distributions.Independent)
    covariance = posterior.variance[0].diag() if is_diagonal else posterior.covariance_matrix[0]
    trained = (vae.decoder.weight, guide.heads[0].mean.weight, covariance)
    W, V, Delta = (each.detach().double() for each in trained)
    return LinearGaussian(covariance_of(name), W, NOISE, V, Delta)


# ---- one point of the study


def active(means: np.ndarray) -> np.ndarray:
    """The means (datum, latent) of active dimensions, 0 in the others.

    The mean of a collapsed dimension hardly moves, beneath noise of variance 1, but without the noise: scores
    that ask for no scale would read factors off what no draw of z tells.
    """
    return np.asarray(means * (means.var(0) > ACTIVE))


def scores_of(codes: np.ndarray, factors: np.ndarray, which: Sequence[str]) -> dict[str, float]:
    """The scores alone, companions included; one factor leaves no more to ask than how explicit it is."""
    which = which if factors.shape[1] > 1 else ("explicitness",)
    table = score(codes, factors, which=which, calibration=None, progress=False)
    return {each.name: each.score for each in table.values() for each in each.all}


def in_population(name: str, trained: LinearGaussian, beta: float) -> dict[str, float]:
    """The account without the limits of a sample, and what training has left of the loss."""
    best = optimum(name, beta, trained.latent_dim)
    account = {
        f"population_{each}": float(getattr(trained, each))
        for each in ("rate", "mutual_information", "marginal_kl", "total_correlation")
    }
    return account | {"excess_loss": float(trained.loss(beta) - best.loss(beta))}


def optimum(name: str, beta: float, latent_dim: int = 5) -> LinearGaussian:
    return LinearGaussian.optimum(np.linalg.eigvalsh(covariance_of(name)), beta, latent_dim, s2=NOISE)


@dataclass(frozen=True)
class Training:
    """A pair, trained, accounted for and scored."""

    size: Size

    def __call__(self, dataset: str, encoder: str, beta: float, seed: int) -> dict[str, Any]:
        start = time.perf_counter()
        problem = problem_of(dataset, self.size)
        vae, guide = train(problem, encoder, beta)
        account = decompose(vae.model, guide, problem.x, num_samples=1, seed=seed)
        found: dict[str, Any] = {name: getattr(account, name) for name in ACCOUNT}
        found |= {name: getattr(account, name) for name in ("decoder_gap", "active_units", "saturated")}
        if dataset in AXES:
            found |= in_population(dataset, as_linear_gaussian(dataset, vae, guide), beta)
        with torch.no_grad():
            means = guide.posterior(problem.x)["z"].mean.double().numpy()
        found |= scores_of(active(means), problem.factors, self.size.scores)
        found |= {
            f"{name}_of_all": value for name, value in scores_of(means, problem.factors, CHECKED).items()
        }
        return found | {"seconds": time.perf_counter() - start}


# ---- what needs no training


def posterior_correlation(name: str, beta: float) -> float:
    """TC(V|X) of linear-Gaussian factors given the data, at beta = 1; otherwise of the best encoder of them
    under the true decoder, which is the posterior for noise of variance beta s2.
    """
    axes, variances = axes_of(name)
    precision = np.diag(1 / variances) + axes.T @ axes / (beta * NOISE)
    covariance = np.linalg.inv(precision)
    return 0.5 * float(np.log(np.diag(covariance)).sum() + np.linalg.slogdet(precision)[1])


def true_correlations(name: str, size: Size) -> dict[str, float]:
    """TC(V) and TC(V|X) of the factors themselves, where they are known to be more than one."""
    if name in AXES:
        return {"true_correlation": 0.0, "true_conditional_correlation": posterior_correlation(name, 1.0)}
    problem = problem_of(name, size)
    if problem.factors.shape[1] == 1:
        return {}
    image = looks(problem.x)
    return {
        "true_correlation": counted_correlation(problem.factors),
        "true_conditional_correlation": counted_correlation(problem.factors, given=image),
    }


def looks(x: Tensor) -> np.ndarray:
    """A number for each datum, the same for equal ones, (datum,)."""
    return np.unique(x.numpy(), axis=0, return_inverse=True)[1].reshape(-1)


def counted_correlation(factors: np.ndarray, given: np.ndarray | None = None) -> float:
    """The total correlation of the columns of integers, given another one if there is one.

    Args:
        factors: (datum, factor).
        given: (datum,).
    """
    given = np.zeros(len(factors), dtype=int) if given is None else given
    alone = sum(counted_entropy(np.c_[column, given]) for column in factors.T)
    own = counted_entropy(given[:, None])
    return alone - counted_entropy(np.c_[factors, given]) - (factors.shape[1] - 1) * own


def counted_entropy(rows: np.ndarray) -> float:
    """Of the empirical distribution of rows."""
    shares = np.unique(rows, axis=0, return_counts=True)[1] / len(rows)
    return float(-(shares * np.log(shares)).sum())


def rotations(problem: Problem, angles: np.ndarray) -> xr.Dataset:
    """The optimum at beta = 1 on orthogonal axes, with its first two latents turned, and its scores."""
    best = optimum("orthogonal", 1.0)
    axes = np.linalg.eigh(covariance_of("orthogonal"))[1][:, ::-1].copy()  # largest variance first
    means = problem.x.double().numpy() @ axes @ best.V.numpy().T  # (datum, latent)
    rows = []
    for angle in angles:
        turn = torch.eye(best.latent_dim, dtype=torch.float64)
        turn[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned = LinearGaussian(best.S, best.W @ turn.T, NOISE, turn @ best.V, turn @ best.Delta @ turn.T)
        row = {name: float(getattr(turned, name)) for name in TURNED}
        row["conditional_total_correlation"] = gaussian_correlation(turned.Delta.numpy())
        rows.append(row | scores_of(means @ turn.numpy().T, problem.factors, ("mig", "dci")))
    table = pd.DataFrame(rows, index=pd.Index(angles, name="angle"))
    return table.to_xarray()


def gaussian_correlation(covariance: np.ndarray) -> float:
    """The total correlation of a Normal."""
    return 0.5 * float(np.log(np.diag(covariance)).sum() - np.linalg.slogdet(covariance)[1])


def solutions(image: np.ndarray, white: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Representations that nobody would want: means (datum, latent) and scales (latent,).

    Args:
        image: (datum,) a number for each datum, the same for those that look the same.
        white: (datum, latent), a linear map of the data to uncorrelated coordinates of unit variance.
    """
    random_state = np.random.RandomState(0)
    count, latent = white.shape
    keep, noise = np.sqrt(1 - TINY**2), np.full(latent, TINY)
    rotation = np.linalg.qr(random_state.randn(latent, latent))[0]
    book = np.zeros((count, latent))
    book[:, :2] = np.sqrt(1 - FINE**2) * random_state.randn(count, 2)[image]
    found = (
        (np.zeros((count, latent)), np.ones(latent)),
        (keep * white, noise),
        (keep * white @ rotation.T, noise),
        (book, np.r_[FINE, FINE, np.ones(latent - 2)]),
    )
    return dict(zip(SOLUTIONS, found, strict=True))


def whitened(x: np.ndarray, latent_dim: int) -> np.ndarray:
    """The first principal components, each of unit variance, (datum, latent)."""
    centred = x - x.mean(0)
    return np.sqrt(len(x)) * np.linalg.svd(centred, full_matrices=False)[0][:, :latent_dim]


def degenerate(problem: Problem, which: Sequence[str]) -> xr.Dataset:
    """The account and the scores of solutions that nobody would want.

    Of linear-Gaussian data the account is that of the population, for which a code book cannot be written.
    """
    is_linear = not problem.hidden
    white = whitened(problem.x.double().numpy(), DIM if is_linear else problem.latent_dim)
    account = in_closed_form if is_linear else by_mixture
    rows = {
        name: account(means, scale) | scores_of(means, problem.factors, which)
        for name, (means, scale) in solutions(looks(problem.x), white).items()
        if not (is_linear and name == "code book")
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("solution").to_xarray()


def in_closed_form(means: np.ndarray, scale: np.ndarray) -> dict[str, float]:
    """The nats of a representation that is a linear map of Gaussian data."""
    noise = 2 * np.log(scale).sum()
    covariance = np.cov(means.T, bias=True) + np.diag(scale**2)
    rate = 0.5 * float(np.trace(covariance) - len(scale) - noise)
    information = 0.5 * float(np.linalg.slogdet(covariance)[1] - noise)
    return {
        "rate": rate,
        "mutual_information": information,
        "marginal_kl": rate - information,
        "total_correlation": gaussian_correlation(covariance),
    }


def by_mixture(means: np.ndarray, scale: np.ndarray) -> dict[str, float]:
    """The nats of a representation of the data at hand."""
    centres = torch.as_tensor(means)
    posterior = Independent(Normal(centres, torch.as_tensor(scale).expand_as(centres)), 1)
    standard = torch.zeros(centres.shape[1], dtype=torch.float64)
    account = Account(Draws(posterior, Independent(Normal(standard, 1.0), 1), num_samples=2, seed=0))
    names = ("rate", "mutual_information", "marginal_kl", "total_correlation")
    return {name: float(getattr(account, name)) for name in names}


# ---- the analysis


def long(ds: xr.Dataset) -> pd.DataFrame:
    """A row a training. Where the population's account is known, it takes the place of the sample's."""
    trained = [name for name, each in ds.data_vars.items() if set(each.dims) == set(POINT)]
    table = ds[trained].to_dataframe().reset_index()
    for name in trained:
        if name.startswith("population_"):
            own = name.removeprefix("population_")
            table[own] = table[name].fillna(table[own])
    table["encoder"] = pd.Categorical(table["encoder"], list(FAMILIES))
    return table


def cube(table: pd.DataFrame, name: str) -> np.ndarray:
    """One quantity of one data set, (encoder, beta, seed), the weights ascending."""
    by = table.pivot_table(
        index=["encoder", "beta"], columns="seed", values=name, observed=False, dropna=False
    )
    return by.to_numpy().reshape(len(by.index.levels[0]), len(by.index.levels[1]), -1)


def interval(values: np.ndarray, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half the width of its t-interval, over seeds."""
    count = values.shape[axis]
    if count < 2:
        return values.mean(axis), np.full(values.mean(axis).shape, np.nan)
    error = values.std(axis, ddof=1) / np.sqrt(count)
    return values.mean(axis), student.ppf((1 + CONFIDENCE) / 2, count - 1) * error


def at_rates(rate: np.ndarray, values: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Curves over the weight, read where they have these rates: (encoder, seed, rate), nan beyond their ends.

    Args:
        rate: (encoder, beta, seed).
        values: the same.
        rates: (rate,).
    """
    found = np.empty((rate.shape[0], rate.shape[2], len(rates)))
    for e, s in np.ndindex(found.shape[:2]):
        order = rate[e, :, s].argsort()
        ends = {"left": np.nan, "right": np.nan}
        found[e, s] = np.interp(rates, rate[e, order, s], values[e, order, s], **ends)
    return found


def common_rates(rate: np.ndarray, count: int) -> np.ndarray:
    """Rates that every curve reaches, at equal ratios from the least to the largest, nearly 0 left out."""
    low, high = rate.min(1).max(), rate.max(1).min()
    return np.geomspace(max(low, LEAST_RATE), high, count)


def explained(values: np.ndarray) -> dict[str, float]:
    """A two-way analysis of variance: what shares of that of (encoder, beta, seed) come from where."""
    total = np.square(values - values.mean()).sum()
    cells = values.mean(2, keepdims=True)
    beta = values.mean((0, 2), keepdims=True) - values.mean()
    encoder = values.mean((1, 2), keepdims=True) - values.mean()
    parts = {
        "beta": beta,
        "encoder": encoder,
        "both": cells - values.mean() - beta - encoder,
        "seed": values - cells,
    }
    if not total > 0:
        return dict.fromkeys(parts, np.nan)
    return {
        name: float(np.square(np.broadcast_to(part, values.shape)).sum() / total)
        for name, part in parts.items()
    }


def partial_spearman(first: np.ndarray, second: np.ndarray, given: np.ndarray) -> float:
    """The rank correlation of two quantities beyond what both owe to a third; nan where one is constant."""
    ranks = np.stack([rankdata(each) for each in (first, second, given)])
    ranks -= ranks.mean(1, keepdims=True)
    products = ranks @ ranks.T
    if not products[2, 2] > 0:
        return np.nan
    left = products[:2, :2] - np.outer(products[:2, 2], products[:2, 2]) / products[2, 2]
    rounding = 1e-9 * products.max()
    return (
        float(left[0, 1] / np.sqrt(left[0, 0] * left[1, 1])) if left.diagonal().min() > rounding else np.nan
    )


def over_seeds(statistic: Callable[..., float], *cubes: np.ndarray) -> tuple[float, float, float]:
    """A statistic of all trainings with its bootstrap interval over seeds.

    Args:
        statistic: of vectors, one a cube.
        *cubes: each (encoder, beta, seed).
    """
    random_state = np.random.RandomState(0)
    seeds = cubes[0].shape[2]
    drawn = (random_state.randint(seeds, size=seeds) for _ in range(RESAMPLES * seeds))
    values = [statistic(*(each[:, :, index].ravel() for each in cubes)) for index in drawn]
    tails = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
    low, high = np.nanpercentile(values, tails) if np.isfinite(values).any() else (np.nan, np.nan)
    return statistic(*(each.ravel() for each in cubes)), float(low), float(high)


# ---- the tables


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval over the seeds of every quantity at every weight."""
    names = [name for name in table.columns if name not in POINT and table[name].dtype.kind in "fib"]
    rows = []
    for (dataset, encoder, beta), cell in table.groupby(["dataset", "encoder", "beta"], observed=True):
        for name in names:
            values = cell[name].to_numpy(dtype=float)
            if np.isfinite(values).all():
                mean, half = interval(values)
                rows.append(
                    (dataset, encoder, beta, name, float(mean), float(mean - half), float(mean + half))
                )
    return pd.DataFrame(rows, columns=["dataset", "encoder", "beta", "quantity", "mean", "low", "high"])


def scored(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each data set and score that there is, with its trainings."""
    for dataset, rows in table.groupby("dataset", sort=False):
        for name in SHOWN_SCORES:
            if name in rows and rows[name].notna().all():
                yield str(dataset), name, rows


def matched(table: pd.DataFrame) -> pd.DataFrame:
    """What full covariances score above diagonal ones at the same rate, a quarter, half and three quarters
    of the way between the rates that all trainings reach; seeds are paired.
    """
    rows = []
    for dataset, name, part in scored(table):
        rate = cube(part, "rate")
        rates = common_rates(rate, 5)[1:-1]
        diagonal, full = at_rates(rate, cube(part, name), rates)  # (seed, rate)
        mean, half = interval(full - diagonal, axis=0)
        for i, each in enumerate(rates):
            levels = (diagonal[:, i].mean(), full[:, i].mean())
            rows.append((dataset, name, each, *levels, mean[i], mean[i] - half[i], mean[i] + half[i]))
    columns = ["dataset", "score", "rate", "diagonal", "full", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def variance(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of the variance of every score, a row a data set and score."""
    rows = [
        {"dataset": dataset, "score": name} | explained(cube(part, name))
        for dataset, name, part in scored(table)
    ]
    return pd.DataFrame(rows)


def associations(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of the scores with what is said to matter, given the rate; TC(Z|X) in full pairs."""
    rows = []
    for dataset, name, part in scored(table):
        for quantity in INDEPENDENCE:
            chosen = part[part["encoder"] == "full"] if quantity == "conditional_total_correlation" else part
            chosen = chosen.assign(encoder=chosen["encoder"].cat.remove_unused_categories())
            cubes = [cube(chosen, each) for each in (name, quantity, "rate")]
            rows.append((dataset, name, quantity, *over_seeds(partial_spearman, *cubes)))
    return pd.DataFrame(rows, columns=["dataset", "score", "quantity", "correlation", "low", "high"])


# ---- the pictures


def new_panels(rows: int, columns: int, *, width: float = 2.1, height: float = 1.9, **options: Any) -> Any:
    """A figure and its Axes, (rows, columns)."""
    size = (width * columns + 0.7, height * rows + 0.7)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.92")
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=8)
    return figure, axes


def over_beta(ax: Axes) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks([1 / 16, 1 / 4, 1, 4, 16], ["1/16", "1/4", "1", "4", "16"])
    ax.axvline(1, color="0.8", linewidth=0.8, zorder=0)


def curve(ax: Axes, part: pd.DataFrame, name: str) -> None:
    """Mean and interval over the seeds, a line an encoder."""
    betas = np.sort(part["beta"].unique())
    mean, half = interval(cube(part, name))
    for e, encoder in enumerate(FAMILIES):
        ax.plot(
            betas, mean[e], color=COLOURS[encoder], marker="o", markersize=3, linewidth=1.4, label=encoder
        )
        ax.fill_between(
            betas, mean[e] - half[e], mean[e] + half[e], color=COLOURS[encoder], alpha=0.25, linewidth=0
        )


def titled(axes: np.ndarray, columns: Sequence[str], rows: Sequence[str], x: str) -> None:
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title, fontsize=10)
    for ax, title in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(title, fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel(x, fontsize=9)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)
    plt.close(figure)


def present(table: pd.DataFrame, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    return {name: table[table["dataset"] == name] for name in names if name in set(table["dataset"])}


def draw_linear(table: pd.DataFrame, path: Path) -> None:
    """The population's account of what was trained, beside the closed forms."""
    parts = present(table, tuple(AXES))
    rows = {
        "mutual_information": "I (nats)",
        "total_correlation": "TC(Z) (nats)",
        "conditional_total_correlation": "TC(Z|X) (nats)",
    }
    if not parts:
        return
    figure, axes = new_panels(len(rows), len(parts), width=2.6, sharex=True, sharey="row")
    grid = np.geomspace(1 / 16, 16, 81)
    for column, (dataset, part) in enumerate(parts.items()):
        for ax, name in zip(axes[:, column], rows, strict=True):
            curve(ax, part, name)
            over_beta(ax)
        known = {
            "color": COLOURS["known"],
            "linestyle": "--",
            "linewidth": 1.2,
            "label": "optimum, closed form",
        }
        axes[0, column].plot(
            grid, [float(optimum(dataset, each).mutual_information) for each in grid], **known
        )
        axes[1, column].plot(
            grid, [float(optimum(dataset, each).total_correlation) for each in grid], **known
        )
        true = posterior_correlation(dataset, 1.0)
        axes[2, column].axhline(true, **TRUE, label="the factors themselves, TC(V|X)")
    axes[1, 0].set_ylim(-0.02, max(0.3, axes[1, 0].get_ylim()[1]))
    titled(axes, [*parts], [*rows.values()], r"$\beta$")
    axes[0, -1].legend(frameon=False, fontsize=8)
    axes[2, -1].legend(
        *([each[-1:] for each in axes[2, -1].get_legend_handles_labels()]), frameon=False, fontsize=8
    )
    save(figure, path)


def draw_images(table: pd.DataFrame, truths: pd.DataFrame, path: Path) -> None:
    """The account of the data at hand, beside the dependence of the factors themselves."""
    parts = present(table, (*SPRITES, "digits"))
    rows = {
        "mutual_information": "I (nats)",
        "marginal_kl": "marginal KL (nats)",
        "total_correlation": "TC(Z) (nats)",
        "conditional_total_correlation": "TC(Z|X) (nats)",
    }
    if not parts:
        return
    figure, axes = new_panels(len(rows), len(parts), width=2.4, height=1.7, sharex=True, sharey="row")
    for column, (dataset, part) in enumerate(parts.items()):
        for ax, name in zip(axes[:, column], rows, strict=True):
            curve(ax, part, name)
            over_beta(ax)
        for ax, name in zip(axes[2:, column], truths, strict=True):
            ax.axhline(truths[name].get(dataset, np.nan), **TRUE, label="the factors themselves")
    titled(axes, [*parts], [*rows.values()], r"$\beta$")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower left")
    lines, labels = axes[-1, 0].get_legend_handles_labels()
    axes[-1, 0].legend(lines[-1:], labels[-1:], frameon=False, fontsize=8)
    save(figure, path)


def draw_scores(table: pd.DataFrame, path: Path) -> None:
    """Scores over the weight; digits have one factor, and so explicitness alone."""
    names = [name for name in ("mig", "dci", "explicitness") if name in table]
    parts = present(table, DATASETS)
    figure, axes = new_panels(len(names), len(parts), width=1.6, height=1.7, sharex=True, sharey="row")
    for column, part in enumerate(parts.values()):
        for ax, name in zip(axes[:, column], names, strict=True):
            if name in part and part[name].notna().all():
                curve(ax, part, name)
                over_beta(ax)
            else:
                ax.set_axis_off()
                ax.title.set_visible(True)
    titled(axes, [*parts], [SHOWN_SCORES[name] for name in names], r"$\beta$")
    axes[-1, 0].legend(frameon=False, fontsize=8, loc="lower left")
    save(figure, path)


def draw_matched(table: pd.DataFrame, path: Path) -> None:
    """Scores over the rate, read off each seed's curve at common rates."""
    names = [name for name in ("mig", "dci") if name in table]
    parts = present(table, (*AXES, *SPRITES))
    if not parts:
        return
    figure, axes = new_panels(len(names), len(parts), width=1.9, height=2.0, sharex="col", sharey="row")
    for column, part in enumerate(parts.values()):
        rate = cube(part, "rate")
        rates = common_rates(rate, 40)
        for ax, name in zip(axes[:, column], names, strict=True):
            mean, half = interval(at_rates(rate, cube(part, name), rates), axis=1)
            for e, encoder in enumerate(FAMILIES):
                colour = COLOURS[encoder]
                ax.plot(rates, mean[e], color=colour, label=encoder)
                ax.fill_between(
                    rates, mean[e] - half[e], mean[e] + half[e], color=colour, alpha=0.25, linewidth=0
                )
            ax.set_xscale("log")
            ax.set_xticks([0.3, 1, 3, 10], ["0.3", "1", "3", "10"])
            ax.minorticks_off()
    titled(axes, [*parts], [SHOWN_SCORES[name] for name in names], "rate (nats)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    save(figure, path)


def draw_bought(shares: pd.DataFrame, links: pd.DataFrame, path: Path) -> None:
    """Where a score's variance comes from, and what it goes along with at given rate."""
    scored = set(shares["score"])
    chosen = [name for name in ("mig", "dci", "modularity", "explicitness") if name in scored]
    datasets = [name for name in DATASETS if name in set(shares["dataset"])][::-1]
    figure, axes = new_panels(2, len(chosen), width=2.7, height=2.7, sharey=True)
    for column, name in zip(axes.T, chosen, strict=True):
        draw_shares(column[0], shares[shares["score"] == name].set_index("dataset").reindex(datasets))
        draw_links(column[1], links[links["score"] == name], datasets)
        column[0].set_title(SHOWN_SCORES[name], fontsize=10)
    axes[0, 0].set_yticks(range(len(datasets)), datasets)
    for row, title in zip(
        axes, ("where its variance comes from", "what it goes along with, given the rate"), strict=True
    ):
        handles, labels = row[0].get_legend_handles_labels()
        row[0].legend(
            handles,
            labels,
            title=title,
            alignment="left",
            frameon=False,
            fontsize=8,
            title_fontsize=9,
            ncols=4,
            loc="lower left",
            bbox_to_anchor=(-0.45, 1.08),
        )
    save(figure, path)


def draw_shares(ax: Axes, shares: pd.DataFrame) -> None:
    left = np.zeros(len(shares))
    for source, colour in SHARES.items():
        ax.barh(range(len(shares)), shares[source], left=left, color=colour, label=source, height=0.7)
        left += shares[source].fillna(0).to_numpy()
    ax.set(xlim=(0, 1), xticks=(0, 0.5, 1))
    ax.set_xlabel("share of the variance", fontsize=9)
    ax.grid(visible=False)


def draw_links(ax: Axes, links: pd.DataFrame, datasets: Sequence[str]) -> None:
    colours = (COLOURS["diagonal"], COLOURS["third"], COLOURS["full"])
    for i, ((quantity, title), colour) in enumerate(zip(INDEPENDENCE.items(), colours, strict=True)):
        part = links[links["quantity"] == quantity].set_index("dataset").reindex(datasets)
        place = np.arange(len(part)) + 0.22 * (1 - i)
        ax.hlines(place, part["low"], part["high"], color=colour, linewidth=1.5)
        ax.plot(part["correlation"], place, "o", color=colour, markersize=4, label=title)
    ax.axvline(0, color="0.6", linewidth=0.8)
    ax.set(xlim=(-1.05, 1.05))
    ax.set_xlabel("partial rank correlation", fontsize=9)


def draw_closed_forms(ds: xr.Dataset, path: Path) -> None:
    """What conditioning does to independent factors, and what a rotation changes and leaves."""
    figure, axes = new_panels(1, 2, width=4.3, height=3.2)
    known, turned = axes[0]
    grid = np.geomspace(1 / 64, 64, 121)
    for name, colour in zip(AXES, ("#0173b2", "#de8f05", "#029e73"), strict=True):
        style = "--" if name == "equal" else "-"
        values = [posterior_correlation(name, each) for each in grid]
        known.plot(grid, values, color=colour, linestyle=style, label=name)
    known.set_xscale("log", base=2)
    known.set_xticks([1 / 64, 1 / 8, 1, 8, 64], ["1/64", "1/8", "1", "8", "64"])
    known.axvline(1, color="0.8", linewidth=0.8, zorder=0)
    known.set(xlabel=r"$\beta$", ylabel="TC(V|X) (nats)", title="the best encoder of the true factors")
    angle = np.degrees(ds["angle"])
    for (name, title), colour in zip(
        {
            "mig": "MIG",
            "dci": "DCI",
            "conditional_total_correlation": "TC(Z|X)",
            "total_correlation": "TC(Z)",
        }.items(),
        ("#0173b2", "#029e73", "#de8f05", "0.25"),
        strict=True,
    ):
        turned.plot(angle, ds[f"rotation_{name}"], color=colour, label=title)
    turned.set(xlabel="two latents turned by (degrees)", title="the optimum, turned: R, I, KL and ELBO stay")
    for ax in axes[0]:
        ax.legend(frameon=False, fontsize=8)
    save(figure, path)


def draw_degenerate(ds: xr.Dataset, table: pd.DataFrame, path: Path) -> None:
    """Accounts and scores of the degenerate solutions, beside diagonal pairs at the weight nearest to 1."""
    names = [str(each) for each in ds["degenerate_dataset"].values]
    figure, axes = new_panels(len(names), 2, width=4.3, height=2.5, sharey="row")
    for row, name in zip(axes, names, strict=True):
        bars = compared(ds, table, name)[::-1]
        account = {"mutual_information": "I", "marginal_kl": "marginal KL", "total_correlation": "TC(Z)"}
        scores = {"mig": "MIG", "dci": "DCI", "explicitness": "explicitness"}
        scores = {each: title for each, title in scores.items() if each in bars}
        for ax, shown, label in ((row[0], account, "nats"), (row[1], scores, "score")):
            for i, (quantity, title) in enumerate(shown.items()):
                colour = (COLOURS["diagonal"], COLOURS["full"], COLOURS["third"])[i]
                ax.barh(
                    np.arange(len(bars)) + 0.26 * (1 - i),
                    bars[quantity],
                    height=0.24,
                    color=colour,
                    label=title,
                )
            ax.set_yticks(range(len(bars)), bars.index)
            ax.set(title=name, xlabel=label)
            ax.grid(visible=False)
            ax.legend(frameon=False, fontsize=8)
    save(figure, path)


def compared(ds: xr.Dataset, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The degenerate solutions of one data set, and the mean of its trainings at the weight nearest to 1."""
    chosen = ds.sel(degenerate_dataset=name)
    columns = {
        each.removeprefix("degenerate_"): chosen[each] for each in ds if str(each).startswith("degenerate_")
    }
    rows = pd.DataFrame({each: values.to_series() for each, values in columns.items()})
    rows = rows.reindex(chosen["solution"].values).dropna(how="all")
    part = table[(table["dataset"] == name) & (table["encoder"] == "diagonal")]
    if len(part):
        nearest = part["beta"].iloc[np.log(part["beta"]).abs().argmin()]
        rows.loc[f"trained, β = {nearest:g}"] = part[part["beta"] == nearest][rows.columns].mean()
    return rows


# ---- the command


def study(size: Size, jobs: int, store: Path) -> xr.Dataset:
    """Every training, and what needs none."""
    grid = {"dataset": list(size.datasets), "encoder": list(FAMILIES), "beta": list(size.betas)}
    ds = sweep(Training(size), grid, seeds=size.seeds, n_jobs=jobs, store=store)
    solved = [degenerate(problem_of(name, size), size.scores) for name in SOLVED]
    solved = [each.reindex(solution=list(SOLUTIONS)) for each in solved]
    solved = xr.concat(solved, pd.Index(SOLVED, name="degenerate_dataset"), join="exact")
    truths = {name: true_correlations(name, size) for name in size.datasets}
    truths = pd.DataFrame.from_dict(truths, orient="index").reindex(columns=list(TRUTHS))
    ds = ds.merge(truths.rename_axis("dataset").to_xarray())
    turned = rotations(linear("orthogonal", *size.linear_data), np.linspace(0, np.pi / 2, size.angles))
    ds = ds.merge(solved.rename({name: f"degenerate_{name}" for name in solved}))
    return ds.merge(turned.rename({name: f"rotation_{name}" for name in turned}))


def described(ds: xr.Dataset, size: Size, argv: Sequence[str]) -> xr.Dataset:
    """With what a reader of the file should know."""
    for name, each in ds.data_vars.items():
        nats = any(part in str(name) for part in (*ACCOUNT, "loss", "elbo"))
        if nats and "gaussian" not in str(name):
            each.attrs.setdefault("units", "nats per datum")
    ds["seconds"].attrs["units"] = "s"
    ds["angle"].attrs["units"] = "rad"
    command = shlex.join(["python", "examples/marginal_or_conditional.py", *argv])
    # the versions of Pyro and of this library are there already
    version = str(torch.__version__)
    return ds.assign_attrs(command=command, form=size.name, steps=size.steps, torch_version=version)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="more weights, seeds, steps and larger images")
    parser.add_argument("--smoke", action="store_true", help="few data, few steps: seconds")
    parser.add_argument("--only", nargs="+", choices=DATASETS, help="some of the data sets")
    parser.add_argument("--seeds", type=int, help="how many; default 5, or 10 with --full")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, -1 for a processor each")
    parser.add_argument("--from", dest="source", type=Path, help="a stored Dataset to draw, without training")
    parser.add_argument("--out", type=Path, default=Path("runs/marginal_or_conditional"), help="a folder")
    args = parser.parse_args(argv)
    if args.seeds is not None and args.seeds < 1:
        parser.error(f"Expected --seeds >= 1 but got {args.seeds}.")
    return args


def size_of(args: argparse.Namespace) -> Size:
    size = SIZES["smoke" if args.smoke else "full" if args.full else "small"]
    return replace(size, datasets=tuple(args.only or size.datasets), seeds=args.seeds or size.seeds)


def report(ds: xr.Dataset, out: Path) -> None:
    """Tables and pictures of a study."""
    table = long(ds)
    truths = ds[list(TRUTHS)].to_dataframe()
    tables = {
        "summary": summary(table),
        "matched": matched(table),
        "variance": variance(table),
        "associations": associations(table),
    }
    for name, each in tables.items():
        each.to_csv(out / f"{name}.csv", index=False, float_format="%.5g")
    draw_linear(table, out / "linear.png")
    draw_images(table, truths, out / "images.png")
    draw_scores(table, out / "scores.png")
    draw_matched(table, out / "matched.png")
    draw_bought(tables["variance"], tables["associations"], out / "bought.png")
    draw_closed_forms(ds, out / "closed_forms.png")
    draw_degenerate(ds, table, out / "degenerate.png")
    formats = {"float_format": "{:.3f}".format}
    print("Scores at matched rate, full minus diagonal, with 95 % intervals over the seeds\n")
    print(tables["matched"].to_string(index=False, **formats))
    print("\nShares of the variance of the scores\n")
    print(tables["variance"].to_string(index=False, **formats))
    print("\nRank correlations at given rate, with 95 % bootstrap intervals over the seeds\n")
    print(tables["associations"].to_string(index=False, **formats))
    for name in ds["degenerate_dataset"].values:
        print(f"\nDegenerate solutions on {name}\n")
        print(compared(ds, table, name).to_string(**formats))


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.source is None:
        size = size_of(args)
        ds = described(
            study(size, args.jobs, args.out / "points" / f"{size.name}_{size.steps}steps"), size, argv
        )
        ds.to_netcdf(args.out / "study.nc", engine="h5netcdf")
    else:
        ds = xr.load_dataset(args.source, engine="h5netcdf")
    report(ds, args.out)
    print(f"\nTables and pictures are in {args.out}")


if __name__ == "__main__":
    main()
