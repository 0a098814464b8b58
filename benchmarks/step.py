"""What a training step costs: SVI with FusedOptim and CapturedSVI against hand-written PyTorch.

The same VAE (encoder and decoder of one hidden layer, Bernoulli pixels, closed-form KL) is trained by each
contender on the same batch. Steps are taken in turns, round by round, in one thread, so that the ratios do
not depend on what else the machine does. Stock Pyro runs beside ours, and NumPyro where an interpreter that
has it is named (it needs an environment of its own): ``--numpyro PATH_TO_PYTHON``.

Run ``python benchmarks/step.py``.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import TraceMeanField_BetaELBO


class Size(NamedTuple):
    """Units of the networks, and the batch."""

    pixels: int
    hidden: int
    latent: int
    batch: int

    def __str__(self) -> str:
        return f"{self.pixels}-{self.hidden}-{self.latent}, batch {self.batch}"


SIZES = [Size(64, 128, 8, 128), Size(784, 400, 20, 128), Size(64, 64, 4, 32)]
LEARNING_RATE = 1e-3
HAND_WRITTEN = "hand-written PyTorch"


class Networks:
    """Encoder and decoder, and the programs around them."""

    def __init__(self, size: Size, name: str) -> None:
        torch.manual_seed(0)
        pixels, hidden, self.latent, _ = size
        self.name = name
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * self.latent))
        self.decoder = nn.Sequential(nn.Linear(self.latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def model(self, x: Tensor) -> None:
        pyro.module(f"{self.name}.decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module(f"{self.name}.encoder", self.encoder)
        with pyro.plate("data", len(x)):
            mean, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    def parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.decoder.parameters()]


def hand_written(size: Size, x: Tensor) -> Callable[[], float]:
    networks = Networks(size, "hand")
    optim = torch.optim.Adam(networks.parameters(), lr=LEARNING_RATE, fused=True)

    def step() -> float:
        mean, log_scale = networks.encoder(x).chunk(2, dim=-1)
        scale = log_scale.exp()
        logits = networks.decoder(mean + scale * torch.randn_like(mean))
        distortion = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        loss = distortion + (0.5 * (mean**2 + scale**2 - 1) - log_scale).sum()
        optim.zero_grad()
        loss.backward()
        optim.step()
        return loss.item()

    return step


def stock(size: Size, x: Tensor) -> Callable[[], float]:
    networks = Networks(size, "stock")
    optim = pyro.optim.Adam({"lr": LEARNING_RATE})
    svi = SVI(networks.model, networks.guide, optim, TraceMeanField_ELBO())
    return lambda: svi.step(x)


def eager(size: Size, x: Tensor) -> Callable[[], float]:
    networks = Networks(size, "eager")
    optim = FusedOptim(torch.optim.Adam, {"lr": LEARNING_RATE})
    svi = SVI(networks.model, networks.guide, optim, TraceMeanField_BetaELBO(beta=1.0))
    return lambda: svi.step(x)


def captured(size: Size, x: Tensor, backend: str) -> Callable[[], float]:
    networks = Networks(size, backend)
    optim = FusedOptim(torch.optim.Adam, {"lr": LEARNING_RATE})
    objective = TraceMeanField_BetaELBO(beta=1.0)
    svi = CapturedSVI(networks.model, networks.guide, optim, objective, backend=backend)
    return lambda: svi.step(x)


CONTENDERS: dict[str, Callable[[Size, Tensor], Callable[[], float]]] = {
    HAND_WRITTEN: hand_written,
    "Pyro: SVI, TraceMeanField_ELBO, Adam": stock,
    "ours: SVI, FusedOptim": eager,
    "ours: CapturedSVI, replay": lambda size, x: captured(size, x, "replay"),
    "ours: CapturedSVI, inductor": lambda size, x: captured(size, x, "inductor"),
}


class NumPyro:
    """NumPyro's SVI in an interpreter of its own, which takes its turns in the rounds."""

    kinds = ("jitted", "scanned")

    def __init__(self, python: str, size: Size) -> None:
        script = Path(__file__).with_name("numpyro_step.py")
        command = [python, str(script), *map(str, size)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, kind: str, steps: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kind} {steps}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


Clock = Callable[[int], float]  # from a number of steps to the seconds that each took


def clock(step: Callable[[], float]) -> Clock:
    def seconds(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - start) / steps

    return seconds


def measure(size: Size, *, rounds: int, steps: int, numpyro: str | None) -> dict[str, list[float]]:
    """Seconds a step of each contender, round by round, after a round that does not count."""
    pyro.clear_param_store()
    x = torch.rand(size.batch, size.pixels).round()
    clocks = {name: clock(make(size, x)) for name, make in CONTENDERS.items()}
    process = NumPyro(numpyro, size) if numpyro else None
    if process is not None:
        for kind in process.kinds:
            clocks[f"NumPyro: SVI, {kind}"] = lambda steps, kind=kind: process.seconds(kind, steps)
    for seconds in clocks.values():
        seconds(steps)
    found = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, seconds in clocks.items():
            found[name].append(seconds(steps))
    if process is not None:
        process.close()
    return found


def report(size: Size, found: dict[str, list[float]]) -> None:
    print(f"\n{size}\n{'':<40}{'µs':>8}{'ratio':>8}{'quartiles':>16}")
    for name, column in found.items():
        ratios = [mine / theirs for mine, theirs in zip(column, found[HAND_WRITTEN], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:<40}{1e6 * statistics.median(column):>8.0f}{middle:>8.2f}{low:>10.2f}–{high:.2f}")


def building() -> None:
    """How long the graphs take to build, and after how many steps that has paid.

    Each is built in a process of its own, on an empty cache and then on the one that it has left.
    """
    print(f"\n{'building a graph':<40}{'seconds':>8}")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as cache:
            for backend, what in (("replay", ""), ("inductor", "cold"), ("inductor", "cached")):
                command = [sys.executable, __file__, "--build", backend, *map(str, size)]
                environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                print(f"{f'{size}: {backend} {what}':<40}{float(done.stdout):>8.1f}")


def build(backend: str, size: Size) -> None:
    step = captured(size, torch.rand(size.batch, size.pixels).round(), backend)
    step()
    start = time.perf_counter()
    step()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--numpyro", help="a Python interpreter that has NumPyro")
    parser.add_argument("--build", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.build:
        build(options.build[0], Size(*map(int, options.build[1:])))
    else:
        print(f"torch {torch.__version__}, pyro {pyro.__version__}, {platform.machine()}")
        for size in SIZES:
            found = measure(size, rounds=options.rounds, steps=options.steps, numpyro=options.numpyro)
            report(size, found)
        building()
