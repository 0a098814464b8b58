"""What a weight and the reading of its terms cost a training step, against Pyro's own objectives.

Steps of the same pair of networks are taken in turns, round by round, in one process and one thread, so that
the ratios do not depend on what else the machine does. Run ``python benchmarks/weighted_step.py``.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceMeanField_ELBO

from pyro_infomax.infer import (
    Trace_BetaELBO,
    Trace_InfoMaxELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_InfoMaxELBO,
)

PAIRS = [
    (TraceMeanField_InfoMaxELBO, TraceMeanField_ELBO),
    (TraceMeanField_BetaELBO, TraceMeanField_ELBO),
    (Trace_InfoMaxELBO, Trace_ELBO),
    (Trace_BetaELBO, Trace_ELBO),
]
PIXELS, HIDDEN, LATENT, BATCH = 64, 128, 8, 128


class Pair:
    """A VAE of 64-128-8 units."""

    def __init__(self, name: str) -> None:
        self.name = name  # parameters of one name are one in Pyro's store
        self.encoder = torch.nn.Sequential(
            torch.nn.Linear(PIXELS, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 2 * LATENT)
        )
        self.decoder = torch.nn.Sequential(
            torch.nn.Linear(LATENT, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, PIXELS)
        )

    def model(self, x: torch.Tensor) -> None:
        pyro.module(f"{self.name}.decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        pyro.module(f"{self.name}.encoder", self.encoder)
        with pyro.plate("data", len(x)):
            mean, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


def stepper(objective: type[ELBO], x: torch.Tensor) -> Callable[[], None]:
    """A training step that reads the terms, where there are any."""
    torch.manual_seed(0)
    pair, elbo = Pair(objective.__name__), objective()
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), elbo)

    def step() -> None:
        svi.step(x)
        getattr(elbo, "terms", None)

    return step


def seconds(step: Callable[[], object], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def interleaved(contenders: list[Callable[[], object]], rounds: int, steps: int) -> list[list[float]]:
    """Seconds a step of each contender, a row a round, after one round that does not count."""
    for step in contenders:
        seconds(step, steps)
    return [[seconds(step, steps) for step in contenders] for _ in range(rounds)]


def measure(rounds: int, steps: int) -> None:
    x = torch.rand(BATCH, PIXELS).round()
    print(f"{'objective':<28}{'Pyro ms':>10}{'ours ms':>10}{'ratio':>8}")
    for ours, theirs in PAIRS:
        times = interleaved([stepper(theirs, x), stepper(ours, x)], rounds, steps)
        stock, weighed = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(ours / stock for stock, ours in times)
        print(f"{ours.__name__:<28}{1e3 * stock:>10.3f}{1e3 * weighed:>10.3f}{ratio:>8.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(options.rounds, options.steps)
