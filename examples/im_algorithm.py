"""Channel capacity by the IM algorithm: an input and a decoder, trained together through a noisy channel.

The sender is a Pyro program that draws an input and runs it through a channel; the decoder is another that
says what was sent, given what was received. Together they bound the information that passes (Barber and
Agakov, 2003, "The IM algorithm"), and SVI raises the bound. With the best input and the best decoder it is
the capacity, which is known for the channels here: a bit that is flipped, erased, or flipped one way only
(the Z channel, which is best used with fewer ones), a Gaussian channel of limited power, and four of them in
parallel that share it.

    python examples/im_algorithm.py --error 0.2 --power 3
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import pyro.distributions as dist
import seaborn as sns
import torch
from matplotlib.axes import Axes
from pyro.infer import ELBO, SVI
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import trange

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import PowerLimitedNormal, Trace_IM, TraceEnum_IM, transmitted_information
from pyro_infomax.information import Estimate
from pyro_infomax.oracles import blahut_arimoto, channel_capacity

NOISES = (0.5, 1.0, 2.0, 6.0)  # variances of the parallel channels


class Line(Protocol):
    """A sender and a decoder, and the best that is known about their channel."""

    name: str
    objective: ELBO
    formula: float
    iterated: float

    def sender(self) -> Tensor: ...

    def decoder(self, y: Tensor) -> None: ...


class TableLine:
    """A bit through a table p(y|x); all sums are exact by enumeration."""

    def __init__(self, name: str, table: Sequence[Sequence[float]], formula: float) -> None:
        self.name = name
        self.table = torch.tensor(table)  # (input, output)
        self.formula = formula
        best = blahut_arimoto(self.table)
        self.iterated, self.best_input = float(best.capacity), best.input
        self.objective = TraceEnum_IM(max_plate_nesting=0)

    def sender(self) -> Tensor:
        logits = pyro.param(f"{self.name} input", lambda: torch.tensor([0.8, -0.8]))
        x = pyro.sample("x", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
        return pyro.sample("y", dist.Categorical(self.table[x]), infer={"enumerate": "parallel"})

    def decoder(self, y: Tensor) -> None:
        logits = pyro.param(f"{self.name} decoder", lambda: 0.1 * torch.randn(self.table.T.shape))
        pyro.sample("x", dist.Categorical(logits=logits[y]))

    @property
    def trained_input(self) -> Tensor:
        return pyro.param(f"{self.name} input").detach().softmax(-1)


class NormalLine:
    """Parallel channels y = x + noise under one limit on the power of x; the decoder is linear."""

    def __init__(self, name: str, noises: Sequence[float], power: float, particles: int) -> None:
        self.name = name
        self.noises = torch.tensor(noises)
        self.source = PowerLimitedNormal(len(noises), power=power)
        self.best_variances = water_filling(self.noises, power)
        self.formula = float(0.5 * torch.log1p(self.best_variances / self.noises).sum())
        self.iterated = on_a_grid(noises[0], power) if len(noises) == 1 else math.nan
        self.objective = Trace_IM(num_particles=particles, vectorize_particles=True, max_plate_nesting=0)

    def sender(self) -> Tensor:
        pyro.module(f"{self.name} source", self.source)
        x = pyro.sample("x", self.source())
        return pyro.sample("y", dist.Normal(x, self.noises.sqrt()).to_event(1))

    def decoder(self, y: Tensor) -> None:
        gain = pyro.param(f"{self.name} gain", torch.full_like(self.noises, 0.5))
        positive = dist.constraints.positive
        error = pyro.param(f"{self.name} error", torch.ones_like(self.noises), constraint=positive)
        pyro.sample("x", dist.Normal(gain * y, error).to_event(1))


def lines(error: float, power: float, particles: int) -> list[Line]:
    kept = 1 - error
    flip = math.log(2) + error * math.log(error) + kept * math.log(kept)
    return [
        TableLine("binary symmetric", [[kept, error], [error, kept]], flip),
        TableLine("erasure", [[kept, error, 0.0], [0.0, error, kept]], kept * math.log(2)),
        TableLine("Z", [[1.0, 0.0], [error, kept]], math.log1p(kept * error ** (error / kept))),
        NormalLine("Gaussian", [1.0], power, particles),
        NormalLine("parallel Gaussian", NOISES, power, particles),
    ]


def water_filling(noises: Tensor, power: float) -> Tensor:
    """max(0, level - noise), with the level at which the power is used up."""
    ascending = noises.sort().values
    levels = (power + ascending.cumsum(0)) / torch.arange(1, len(noises) + 1)  # if so many are filled
    filled = int((levels > ascending).sum())
    return (levels[filled - 1] - noises).clamp(min=0)


def on_a_grid(noise: float, power: float, inputs: int = 61, outputs: int = 121) -> float:
    """The capacity of the channel with its input on a grid, and its output in bins, within the limit."""
    reach = 4 * math.sqrt(power)
    x = torch.linspace(-reach, reach, inputs)
    edges = torch.linspace(-reach - 4 * noise**0.5, reach + 4 * noise**0.5, outputs - 1)
    below = dist.Normal(x[:, None], noise**0.5).cdf(edges)  # (input, edge)
    padded = torch.nn.functional.pad(below, (1, 0)), torch.nn.functional.pad(below, (0, 1), value=1.0)
    table = (padded[1] - padded[0]).clamp(min=0)
    table = table / table.sum(1, keepdim=True)
    return float(channel_capacity(table, cost=x**2, budget=power, tolerance=1e-4).capacity)


@dataclass(frozen=True)
class Result:
    line: Line
    curve: list[float]
    bound: Estimate

    def row(self) -> dict[str, float | str]:
        return {
            "channel": self.line.name,
            "bound": float(self.bound),
            "standard_error": float(self.bound.standard_error),
            "formula": self.line.formula,
            "blahut_arimoto": self.line.iterated,
            "ratio": float(self.bound) / self.line.formula,
        }


def train(line: Line, steps: int, num_samples: int, seed: int, *, progress: bool) -> Result:
    # A short memory of the squared gradients lets the small shares of power go on shrinking
    options = {"lr": 0.2, "betas": (0.9, 0.95)}
    optimiser = FusedOptim(
        torch.optim.Adam, options, scheduler=lambda optimizer: CosineAnnealingLR(optimizer, steps)
    )
    # Steps of TraceEnum_IM cannot be recorded
    kind = CapturedSVI if isinstance(line, NormalLine) else SVI
    svi = kind(line.decoder, line.sender, optimiser, line.objective)
    curve = []
    for _ in trange(steps, desc=line.name, leave=False, disable=not progress):
        curve.append(-svi.step())
        optimiser.step()  # of its schedule
    # Another seed than in training: the pair has fitted the draws of that one
    bound = transmitted_information(line.decoder, line.sender, num_samples=num_samples, seed=seed + 1)
    return Result(line, curve, bound)


def report(results: Sequence[Result]) -> pd.DataFrame:
    return pd.DataFrame([result.row() for result in results]).set_index("channel")


def draw_curves(axes: Axes, results: Sequence[Result]) -> None:
    for result, colour in zip(results, sns.color_palette("deep"), strict=False):
        curve = pd.Series(result.curve, index=range(1, len(result.curve) + 1))
        span = 30 if isinstance(result.line, NormalLine) else 1  # steps; the exact ones have no noise
        axes.plot(curve, color=colour, linewidth=0.8, alpha=0.3)
        axes.plot(curve.ewm(span=span).mean(), color=colour, label=result.line.name)
        axes.axhline(result.line.formula, color=colour, linestyle="--", linewidth=1)
    top = 1.4 * max(result.line.formula for result in results)
    axes.set(xscale="log", xlabel="step", ylabel="information bound (nats)", ylim=(-0.1 * top, top))
    axes.set_title("Bound in training, capacity dashed")
    axes.legend(fontsize=8, loc="upper left", ncols=3)


def draw_inputs(axes: Axes, tables: Sequence[TableLine]) -> None:
    """How often each channel is given a one."""
    rows = [
        {"channel": line.name, "P(x = 1)": float(ones[1]), "input": kind}
        for line in tables
        for kind, ones in (("trained", line.trained_input), ("Blahut–Arimoto", line.best_input))
    ]
    colours = ["#2b6ca8", "#b9c4cf"]
    sns.barplot(pd.DataFrame(rows), x="channel", y="P(x = 1)", hue="input", palette=colours, ax=axes)
    axes.axhline(0.5, color="#8796a5", linewidth=1, linestyle=":", zorder=0)
    axes.set(ylim=(0, 0.7), xlabel="", title="Input of the bit channels")
    axes.legend(title="", fontsize=8, loc="upper right", ncols=2)


def draw_water(axes: Axes, line: NormalLine) -> None:
    """Noise as ground, power as water on it."""
    places = range(len(line.noises))
    trained = line.source.variances.detach()
    axes.bar(places, line.noises.numpy(), color="#b9c4cf", label="noise")
    axes.bar(places, trained.numpy(), bottom=line.noises.numpy(), color="#2b6ca8", label="power, trained")
    level = float((line.best_variances + line.noises)[line.best_variances > 0].min())
    axes.axhline(level, color="#d9822b", linestyle="--", label="level of water-filling")
    axes.set(xticks=places, xlabel="channel", ylabel="variance", title="Power of the parallel channels")
    axes.legend(fontsize=8, loc="upper left")


def draw(results: Sequence[Result], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained", width_ratios=[1.4, 1, 1])
    draw_curves(axes[0], results)
    draw_inputs(axes[1], [result.line for result in results if isinstance(result.line, TableLine)])
    draw_water(axes[2], next(r.line for r in reversed(results) if isinstance(r.line, NormalLine)))
    sns.despine(figure)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def number(low: float, high: float) -> Callable[[str], float]:
    def parse_number(text: str) -> float:
        value = float(text)
        if not low < value < high:
            raise argparse.ArgumentTypeError(f"Expected a number between {low} and {high} but got {value}.")
        return value

    return parse_number


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--error", type=number(0, 0.5), default=0.2, help="probability that a bit is hurt")
    parser.add_argument("--power", type=number(0, math.inf), default=3.0, help="limit on E x^2")
    parser.add_argument("--steps", type=int, default=1000, help="steps of SVI for each channel")
    parser.add_argument("--out", type=Path, default=Path("runs/im_algorithm"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"Expected --steps >= 1 but got {args.steps}.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    steps, particles, draws = (30, 100, 1000) if args.smoke else (args.steps, 1000, 400_000)
    results = [
        train(line, steps, draws, args.seed, progress=not args.smoke)
        for line in lines(args.error, args.power, particles)
    ]
    table = report(results)
    print("Information through each channel, in nats a use\n")
    print(table.to_string(float_format="{:.4f}".format, na_rep="-"))
    for result in results:
        if isinstance(result.line, NormalLine):
            used = float(result.line.source.variances.detach().sum())
            print(f"{result.line.name}: E x^2 = {used:.4f}, the limit is {args.power:g}")
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "im_algorithm.csv")
    draw(results, args.out / "im_algorithm.png")
    print(f"\nThe table and a picture are in {args.out}")


if __name__ == "__main__":
    main()
