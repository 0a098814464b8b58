"""The bias figure: what minibatches say about mutual information and total correlation, against the truth.

A linear-Gaussian encoder of four correlated measurements has both in closed form, and the exact mixture gives
them for the data at hand. Random minibatches of every size are handed to each estimator. InfoNCE is too low,
stratified sampling (MSS) too high, leave-one-out far too high until the minibatch is large; all of them
settle. Weighted sampling (MWS) never does: it is off by ln B to ln N in the information and by up to d ln N
in the total correlation, at every size, also with all data in one minibatch.

    python examples/estimators.py --data-size 2000 --batches 100
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor
from torch.distributions import Independent, Normal
from tqdm.auto import tqdm

from pyro_infomax.information import (
    Account,
    AggregatePosterior,
    BatchMixture,
    Draws,
    info_nce,
    leave_one_out,
    minibatch_stratified,
    minibatch_weighted,
    rate,
)
from pyro_infomax.oracles import LinearGaussian

LATENT_DIM = 4
CORRELATION = 0.5  # of the measurements
VARIANCE = 0.08  # of the encoder
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
INFORMATION, CORRELATED = "mutual information", "total correlation"
VERDICT = (
    "The weights of MWS sum to 1/N, not to 1:\n"
    "it is too high by ln B to ln N at every size,\n"
    "and must not be reported"
)
COLOURS = dict(
    zip(
        ("MWS", "leave-one-out", "MSS", "rate", "exact mixture", "InfoNCE"),
        ("#D55E00", "#E69F00", "#0072B2", "#999999", "#000000", "#009E73"),
        strict=True,
    )
)


@dataclass(frozen=True)
class Problem:
    """Data, their encoder, and what is true of both."""

    pair: LinearGaussian
    posterior: Independent  # of all data
    prior: Independent
    account: Account

    @property
    def data_size(self) -> int:
        return len(self.posterior.mean)

    def of(self, members: Tensor) -> Independent:
        return encoder(self.posterior.mean[members])


def encoder(mean: Tensor) -> Independent:
    return Independent(Normal(mean, math.sqrt(VARIANCE)), 1)


def problem(data_size: int, seed: int) -> Problem:
    identity = torch.eye(LATENT_DIM, dtype=torch.float64)
    covariance = (1 - CORRELATION) * identity + CORRELATION
    # every latent dimension reads its own measurement and has unit variance over the data
    pair = LinearGaussian(
        covariance, identity, 1.0, math.sqrt(1 - VARIANCE) * identity, VARIANCE * identity.diag()
    )
    posterior = encoder(pair.sample(data_size, seed=seed) @ pair.V.T)
    prior = Independent(Normal(identity.new_zeros(LATENT_DIM), 1.0), 1)
    return Problem(pair, posterior, prior, Account(Draws(posterior, prior, num_samples=8, seed=seed)))


def estimates(problem: Problem, members: Tensor) -> Iterator[tuple[str, str, float]]:
    """Quantity, estimator and value, from one minibatch."""
    batch, data_size = problem.of(members), problem.data_size
    yield INFORMATION, "InfoNCE", float(info_nce(batch))
    yield INFORMATION, "MSS", float(minibatch_stratified(batch, data_size=data_size))
    yield INFORMATION, "MWS", float(minibatch_weighted(batch, data_size=data_size))
    yield INFORMATION, "leave-one-out", float(leave_one_out(batch))
    yield INFORMATION, "rate", float(rate(batch, problem.prior))

    z = batch.sample((1,))
    aggregate = AggregatePosterior(problem.posterior)
    log_aggregate = aggregate.log_prob(z[0])
    yield INFORMATION, "exact mixture", float((batch.log_prob(z[0]) - log_aggregate).mean())
    yield CORRELATED, "exact mixture", correlation(log_aggregate, aggregate.log_prob_marginals(z[0]))
    for name, mixture in (
        ("MSS", BatchMixture(batch, data_size=data_size)),
        ("MWS", BatchMixture.weighted(batch, data_size=data_size)),
    ):
        yield CORRELATED, name, correlation(mixture.log_prob(z), mixture.log_prob_marginals(z))


def correlation(joint: Tensor, marginals: Tensor) -> float:
    return float((joint - marginals.sum(-1)).mean())


def sweep(problem: Problem, sizes: Sequence[int], batches: int) -> pd.DataFrame:
    """A row for each quantity, estimator, size and minibatch."""
    # what many large minibatches say hardly differs
    plan = [size for size in sizes for _ in range(min(batches, max(10, batches * 256 // size)))]
    rows = []
    for size in tqdm(plan, desc="minibatches", delay=3):
        members = torch.randperm(problem.data_size)[:size]
        rows += [(*row[:2], size, row[2]) for row in estimates(problem, members)]
    return pd.DataFrame(rows, columns=["quantity", "estimator", "batch_size", "value"])


def summary(values: pd.DataFrame, truth: dict[str, float]) -> pd.DataFrame:
    """Mean, spread and error over minibatches, and how far the mean is from the data's own value."""
    frame = values.groupby(["quantity", "estimator", "batch_size"])["value"].agg(["mean", "std", "count"])
    frame["standard_error"] = frame["std"] / frame["count"] ** 0.5
    frame["bias"] = frame["mean"] - frame.index.get_level_values("quantity").map(truth)
    return frame


def report(frame: pd.DataFrame, quantity: str) -> str:
    table = frame.loc[quantity, "bias"].unstack("batch_size")
    order = [name for name in COLOURS if name in table.index]
    return table.loc[order].to_string(float_format=lambda value: f"{value:+.2f}")


def draw_curves(axes: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        curve = frame.loc[name]
        sizes, mean, spread = curve.index, curve["mean"], curve["std"]
        axes.fill_between(sizes, mean - spread, mean + spread, color=COLOURS[name], alpha=0.18, linewidth=0)
        axes.plot(sizes, mean, color=COLOURS[name], marker="o", markersize=4, linewidth=1.8, label=name)


def draw_truth(axes: Axes, population: float) -> None:
    style = {"color": "black", "linestyle": (0, (1, 1.5)), "linewidth": 1.5}
    axes.axhline(population, label="truth (population)", **style)


def draw_caps(axes: Axes, sizes: Sequence[int], data_size: int) -> None:
    style = {"color": "0.55", "linewidth": 1, "linestyle": (0, (5, 3)), "zorder": 0}
    axes.plot(sizes, [math.log(size) for size in sizes], **style)
    axes.axhline(math.log(data_size), **style)
    text = {"color": "0.4", "fontsize": 9, "textcoords": "offset points"}
    beside = axes.get_yaxis_transform()
    axes.annotate("ln N", (1, math.log(data_size)), (4, 0), xycoords=beside, va="center", **text)
    axes.annotate("ln B", (sizes[1], math.log(sizes[1])), (-4, 4), ha="right", **text)


def format_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def draw(frame: pd.DataFrame, problem: Problem, sizes: Sequence[int], path: Path) -> None:
    figure = plt.figure(figsize=(13, 6.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1.25, 1], height_ratios=[1, 1.5])
    left, top, bottom = (figure.add_subplot(cell) for cell in (grid[:, 0], grid[0, 1], grid[1, 1]))
    information, correlated = frame.loc[INFORMATION], frame.loc[CORRELATED]

    draw_caps(left, sizes, problem.data_size)
    draw_curves(left, information, list(COLOURS))
    draw_truth(left, float(problem.pair.mutual_information))
    highest = float(information.loc["MWS", "mean"].max())
    left.set(ylim=(0, 1.15 * highest), ylabel="nats per datum", xlabel="minibatch size B")
    left.set_title("Mutual information", fontsize=12)
    place = {"transform": left.transAxes, "ha": "right", "va": "bottom"}
    left.text(0.98, 0.03, VERDICT, color=COLOURS["MWS"], fontsize=11, **place)
    draw_curves(top, correlated, ["MWS"])
    top.set(ylabel="nats per datum")
    largest, true = float(correlated.loc["MWS", "mean"].iloc[-1]), float(problem.pair.total_correlation)
    verdict = f"Total correlation by MWS: {largest:.0f} nats instead of {true:.1f}"
    top.set_title(verdict, fontsize=12, color=COLOURS["MWS"])
    draw_curves(bottom, correlated, ["MSS", "exact mixture"])
    draw_truth(bottom, true)
    bottom.set(ylabel="nats per datum", xlabel="minibatch size B")
    bottom.set_title("Total correlation by the others", fontsize=12)

    for axes in (left, top, bottom):
        format_sizes(axes, sizes)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)
    figure.suptitle(
        f"Estimates from random minibatches of {problem.data_size} data with {LATENT_DIM} latent dimensions: "
        "mean, and one standard deviation of a single minibatch",
        fontsize=12,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-size", type=int, default=2000, help="number of data, at least 32")
    parser.add_argument("--batches", type=int, default=100, help="minibatches of each size, at least 2")
    parser.add_argument("--out", type=Path, default=Path("runs/estimators"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of data, minibatches and draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    if args.data_size < 32:
        parser.error(f"Expected --data-size >= 32 but got {args.data_size}.")
    if args.batches < 2:
        parser.error(f"Expected --batches >= 2 but got {args.batches}.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    data_size, batches = (min(args.data_size, 200), 3) if args.smoke else (args.data_size, args.batches)
    sizes = [size for size in SIZES if size <= 0.8 * data_size] + [data_size]
    torch.manual_seed(args.seed)
    judged = problem(data_size, args.seed)
    truth = {
        INFORMATION: float(judged.account.mutual_information),
        CORRELATED: float(judged.account.total_correlation),
    }
    frame = summary(sweep(judged, sizes, batches), truth)

    for quantity, population in (
        (INFORMATION, judged.pair.mutual_information),
        (CORRELATED, judged.pair.total_correlation),
    ):
        print(
            f"\n{quantity}: {truth[quantity]:.3f} nats for these {data_size} data, {population:.3f} in the "
            "population\nBy how much the mean over minibatches of each size is above the data's own value:\n"
        )
        print(report(frame, quantity))
    args.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(args.out / "estimators.csv")
    draw(frame, judged, sizes, args.out / "estimators.png")
    print(f"\nThe table and a picture are in {args.out}")


if __name__ == "__main__":
    main()
