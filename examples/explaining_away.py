"""Explaining away: two independent causes become dependent once their common effect is seen.

A train can be late because of a signal failure (A) or because of snow (B): A -> C <- B. Once it is late, both
causes become more likely; and once a signal failure is known too, snow is hardly needed any more. The numbers
come twice, from Pyro and from the closed form. Enumeration reproduces them all. A mean-field guide trained by
SVI cannot hold the dependence: its ELBO stays at least ``mean_field_kl`` nats below the evidence.

    python examples/explaining_away.py --p-a 0.1 --p-b 0.2 --table 0.05 0.7 0.8 0.95
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import seaborn as sns
import torch
from matplotlib.axes import Axes
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_infomax.capture import FusedOptim
from pyro_infomax.oracles import ExplainingAway

Model = Callable[[], None]


def story(p_a: Tensor, p_b: Tensor, table: Tensor) -> Model:
    """The Pyro program: two causes, one effect, nothing observed yet."""

    def model() -> None:
        failure = pyro.sample("failure", dist.Bernoulli(p_a))
        snow = pyro.sample("snow", dist.Bernoulli(p_b))
        pyro.sample("late", dist.Bernoulli(table[failure.long(), snow.long()]))

    return model


def seen(model: Model, **sites: float) -> Model:
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in sites.items()}
    return poutine.condition(model, values)


def probability(model: Model, site: str) -> Tensor:
    """P(site = 1 | all that was seen), by enumeration."""
    marginals = TraceEnum_ELBO(max_plate_nesting=0).compute_marginals(config_enumerate(model), lambda: None)
    return marginals[site].probs


def causes(model: Model) -> Tensor:
    """P(failure, snow | all that was seen), (2, 2), by enumeration and the product rule."""
    snow = torch.stack([probability(seen(model, failure=value), "snow") for value in (0.0, 1.0)])
    return product(probability(model, "failure"), snow)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The table of P(A) P(B | A), (2, 2); b holds a probability for each value of A, or one for both."""
    return torch.stack([1 - a, a])[:, None] * torch.stack([1 - b, b], -1)


def entropy(table: Tensor) -> Tensor:
    return torch.special.entr(table).sum()


def dependence(table: Tensor) -> Tensor:
    """The mutual information of the two axes, in nats; round-off below zero is none."""
    return (entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table)).clamp(min=0)


def mean_field() -> None:
    """The guide: one probability a cause, and no arrow between them."""
    for cause in ("failure", "snow"):
        logits = pyro.param(f"{cause}_logits", lambda: 0.1 * torch.randn((), dtype=torch.float64))
        pyro.sample(cause, dist.Bernoulli(logits=logits))


def train(model: Model, steps: int) -> float:
    """Fit the guide and return its ELBO; enumeration within the guide makes each gradient exact."""
    guide = config_enumerate(mean_field)
    optimiser = FusedOptim(
        torch.optim.Adam, {"lr": 0.1}, scheduler=lambda optimizer: CosineAnnealingLR(optimizer, steps)
    )
    # Ordinary steps: Pyro's own TraceEnum_ELBO, whose numbers these are to be, cannot be captured
    svi = SVI(model, guide, optimiser, TraceEnum_ELBO(max_plate_nesting=0))
    for _ in range(steps):
        svi.step()
        optimiser.step()  # of its schedule
    return -svi.evaluate_loss()


def report(rows: Sequence[tuple[str, Tensor | float, Tensor | float]]) -> str:
    lines = [f"{name:<34}{float(pyro_value):>10.4f}{float(exact):>14.4f}" for name, pyro_value, exact in rows]
    return "\n".join([f"{'':<34}{'Pyro':>10}{'closed form':>14}", *lines])


def draw_table(axes: Axes, table: Tensor, title: str, top: float) -> None:
    sns.heatmap(
        table,
        ax=axes,
        vmin=0,
        vmax=top,
        cmap="Blues",
        annot=True,
        fmt=".2f",
        annot_kws={"size": 13},
        square=True,
        linewidths=2,
        cbar=False,
        xticklabels=["no snow", "snow"],
        yticklabels=["no failure", "failure"],
    )
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=90)
    axes.set_title(title, fontsize=11)


def draw_bars(axes: Axes, labels: Sequence[str], heights: Sequence[float]) -> None:
    bars = axes.bar(labels, heights, width=0.62, color=["#b9c4cf", "#2b6ca8", "#d9822b"])
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=12)
    axes.axhline(heights[0], color="#8796a5", linewidth=1, linestyle=":", zorder=0)
    axes.set(ylim=(0, 1.18 * max(heights)), yticks=[], title="How likely is snow?")
    axes.title.set_fontsize(11)
    axes.tick_params(length=0)
    sns.despine(ax=axes, left=True)


def draw(
    prior: Tensor, posterior: Tensor, guide: Tensor, bars: dict[str, float], gap: float, path: Path
) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.1), layout="constrained", width_ratios=[1, 1, 1, 1.25])
    top = float(torch.stack([prior, posterior, guide]).max()) * 1.1
    draw_table(axes[0], prior, f"Before: P(A, B)\nI(A; B) = {dependence(prior):.3f} nats", top)
    draw_table(
        axes[1], posterior, f"Train late: P(A, B | C)\nI(A; B | C) = {dependence(posterior):.3f} nats", top
    )
    draw_table(axes[2], guide, f"Mean-field guide: q(A) q(B)\nELBO gap = {gap:.3f} nats", top)
    draw_bars(axes[3], list(bars), list(bars.values()))
    figure.suptitle(
        "Two independent causes of a late train, before and after it is seen to be late", fontsize=14
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, ExplainingAway]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--p-a", type=float, default=0.1, help="probability of a signal failure")
    parser.add_argument("--p-b", type=float, default=0.2, help="probability of snow")
    parser.add_argument(
        "--table",
        type=float,
        nargs=4,
        default=[0.05, 0.7, 0.8, 0.95],
        metavar=("NEITHER", "SNOW", "FAILURE", "BOTH"),
        help="probability of a late train given the causes",
    )
    parser.add_argument("--steps", type=int, default=600, help="steps of SVI")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/explaining_away"), help="folder of the picture"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the guide's first parameters")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    try:
        return args, oracle(args)
    except ValueError as error:
        parser.error(str(error))


def oracle(args: argparse.Namespace) -> ExplainingAway:
    """The closed form, refused where the story cannot be told."""
    if args.steps < 1:
        raise ValueError(f"Expected --steps >= 1 but got {args.steps}.")
    exact = ExplainingAway(args.p_a, args.p_b, torch.tensor(args.table, dtype=torch.float64).reshape(2, 2))
    if not 0 < args.p_a < 1 or not 0 < args.p_b < 1 or not exact.p_a_given_c > 0 or not exact.evidence < 1:
        raise ValueError("Expected causes and effect that may or may not occur, but one of them is certain.")
    return exact


def main(argv: Sequence[str] | None = None) -> None:
    args, exact = parse(argv)
    pyro.set_rng_seed(args.seed)
    pyro.clear_param_store()
    model = story(exact.p_a, exact.p_b, exact.p_c_given_ab)
    late, on_time = seen(model, late=1.0), seen(model, late=0.0)

    p_late, prior, posterior = probability(model, "late"), causes(model), causes(late)
    told = entropy(prior) - p_late * entropy(posterior) - (1 - p_late) * entropy(causes(on_time))
    snow = {
        "P(snow)": probability(model, "snow"),
        "P(snow\n| late)": probability(late, "snow"),
        "P(snow\n| late, failure)": probability(seen(late, failure=1.0), "snow"),
    }
    elbo = train(late, steps=100 if args.smoke else args.steps)
    guide = product(*(pyro.param(f"{cause}_logits").detach().sigmoid() for cause in ("failure", "snow")))
    gap = p_late.log() - elbo

    p_snow, p_snow_late, p_snow_late_failure = snow.values()
    rows: list[tuple[str, Tensor | float, Tensor | float]] = [
        ("P(B)", p_snow, exact.p_b),
        ("P(B | A)", probability(seen(model, failure=1.0), "snow"), exact.p_b),
        ("P(B | C)", p_snow_late, exact.p_b_given_c),
        ("P(B | C, A)", p_snow_late_failure, exact.p_b_given_ca),
        ("I(A; B)", dependence(prior), 0.0),
        ("I(A; B | C = 1)", dependence(posterior), exact.conditional_mutual_information),
        ("I(A, B; C)", told, exact.mutual_information),
        ("log P(C = 1)", p_late.log(), exact.evidence.log()),
        ("ELBO of the mean-field guide", elbo, exact.evidence.log() - exact.mean_field_kl),
        ("its gap to log P(C = 1)", gap, exact.mean_field_kl),
    ]
    print("A: signal failure, B: snow, C: the train is late; logarithms and informations in nats\n")
    print(report(rows))
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "explaining_away.png"
    draw(prior, posterior, guide, {name: float(p) for name, p in snow.items()}, float(gap), path)
    print(f"\nThe picture is in {path}")


if __name__ == "__main__":
    main()
