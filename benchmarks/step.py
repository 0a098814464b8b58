"""What a training step costs: SVI with FusedOptim and CapturedSVI against hand-written PyTorch.

The same VAE (encoder and decoder of one hidden layer, Bernoulli pixels, closed-form KL) is trained by each
contender on the same batches: step by step, and by :meth:`CapturedSVI.steps` many steps a call. They take
turns, round by round, in one thread, and are charged the CPU time of their process, so that the ratios do
not depend on what else the machine does. Stock Pyro runs beside ours, and NumPyro where an interpreter that
has it is named (it needs an environment of its own): ``--numpyro PATH_TO_PYTHON``. On a GPU (``--device
cuda``) the hand-written loop also runs as a CUDA graph; nothing is compiled there.

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
from functools import partial
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


SIZES = [Size(64, 64, 4, 32), Size(64, 128, 8, 128), Size(784, 400, 20, 128)]
LEARNING_RATE = 1e-3
HAND_WRITTEN = "hand-written PyTorch"
Steps = Callable[[Tensor], object]  # takes a step on each of a stack of batches, (step, batch, pixel)


class Networks:
    """Encoder and decoder, and the programs around them."""

    def __init__(self, size: Size, name: str, device: str) -> None:
        torch.manual_seed(0)
        pixels, hidden, self.latent, _ = size
        self.name, self.device = name, device
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * self.latent))
        self.decoder = nn.Sequential(nn.Linear(self.latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels))
        self.encoder.to(device)
        self.decoder.to(device)

    def model(self, x: Tensor) -> None:
        pyro.module(f"{self.name}.decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent, device=self.device), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module(f"{self.name}.encoder", self.encoder)
        with pyro.plate("data", len(x)):
            mean, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    def parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.decoder.parameters()]


def hand_written(size: Size, device: str, *, graph: bool = False) -> Steps:
    networks = Networks(size, "hand", device)
    # A CUDA graph reads the step count, and so the rate, from the device
    optim = torch.optim.Adam(networks.parameters(), lr=LEARNING_RATE, fused=True, capturable=graph)

    def step(x: Tensor) -> Tensor:
        mean, log_scale = networks.encoder(x).chunk(2, dim=-1)
        scale = log_scale.exp()
        logits = networks.decoder(mean + scale * torch.randn_like(mean))
        distortion = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        loss = distortion + (0.5 * (mean**2 + scale**2 - 1) - log_scale).sum()
        optim.zero_grad()
        loss.backward()
        optim.step()
        return loss.detach()

    if not graph:
        return lambda xs: [step(x).item() for x in xs]
    return replayed_on_gpu(step, size, device)


def replayed_on_gpu(step: Callable[[Tensor], Tensor], size: Size, device: str) -> Steps:
    """The step as a CUDA graph, as torch's documentation has it."""
    x = torch.zeros(size.batch, size.pixels, device=device)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(x)
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        loss = step(x)

    def steps(xs: Tensor) -> list[float]:
        found = []
        for each in xs:
            x.copy_(each)
            recorded.replay()
            found.append(loss.item())
        return found

    return steps


def stock(size: Size, device: str) -> Steps:
    networks = Networks(size, "stock", device)
    optim = pyro.optim.Adam({"lr": LEARNING_RATE})
    svi = SVI(networks.model, networks.guide, optim, TraceMeanField_ELBO())
    return lambda xs: [svi.step(x) for x in xs]


def eager(size: Size, device: str) -> Steps:
    networks = Networks(size, "eager", device)
    optim = FusedOptim(torch.optim.Adam, {"lr": LEARNING_RATE})
    svi = SVI(networks.model, networks.guide, optim, TraceMeanField_BetaELBO(beta=1.0))
    return lambda xs: [svi.step(x) for x in xs]


def captured(size: Size, device: str, backend: str, *, many: bool) -> Steps:
    networks = Networks(size, f"{backend}.{many}", device)
    optim = FusedOptim(torch.optim.Adam, {"lr": LEARNING_RATE})
    objective = TraceMeanField_BetaELBO(beta=1.0)
    svi = CapturedSVI(networks.model, networks.guide, optim, objective, backend=backend)
    svi.progress = False
    return svi.steps if many else lambda xs: [svi.step(x) for x in xs]


def contenders(device: str) -> dict[str, Callable[[Size, str], Steps]]:
    found: dict[str, Callable[[Size, str], Steps]] = {HAND_WRITTEN: hand_written}
    if device == "cuda":
        found["hand-written, CUDA graph"] = partial(hand_written, graph=True)
    found["Pyro: SVI, TraceMeanField_ELBO, Adam"] = stock
    found["ours: SVI, FusedOptim"] = eager
    for backend in ("replay", "inductor") if device == "cpu" else ("replay",):
        for many, what in ((False, "step by step"), (True, "many steps a call")):
            found[f"ours: {backend}, {what}"] = partial(captured, backend=backend, many=many)
    return found


class NumPyro:
    """NumPyro's SVI in an interpreter of its own, which takes its turns in the rounds."""

    kinds = ("jitted", "scan of ten")

    def __init__(self, python: str, size: Size) -> None:
        script = Path(__file__).with_name("numpyro_step.py")
        command = [python, str(script), *map(str, size)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, kind: str, steps: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kind.split()[0]} {steps}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def measure(
    size: Size, *, device: str, rounds: int, steps: int, numpyro: str | None
) -> dict[str, list[float]]:
    """Seconds a step of each contender, round by round, after rounds that do not count."""
    pyro.clear_param_store()
    batches = torch.rand(steps, size.batch, size.pixels).round().to(device)
    takers = {name: make(size, device) for name, make in contenders(device).items()}
    # On a GPU the CPU waits: there the clock on the wall counts
    clock = time.process_time if device == "cpu" else time.perf_counter

    def seconds(take: Steps) -> float:
        start = clock()
        take(batches)
        return (clock() - start) / steps

    clocks = {name: partial(seconds, take) for name, take in takers.items()}
    process = NumPyro(numpyro, size) if numpyro else None
    if process is not None:
        for kind in process.kinds:
            clocks[f"NumPyro: {kind}"] = partial(process.seconds, kind, steps)
    for _ in range(3):
        for timed in clocks.values():
            timed()
    found = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, timed in clocks.items():
            found[name].append(timed())
    if process is not None:
        process.close()
    return found


def report(size: Size, found: dict[str, list[float]]) -> None:
    print(f"\n{size}\n{'':<40}{'µs':>8}{'least':>8}{'ratio':>8}{'quartiles':>14}", flush=True)
    for name, column in found.items():
        ratios = [mine / theirs for mine, theirs in zip(column, found[HAND_WRITTEN], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        middle_time, least = 1e6 * statistics.median(column), 1e6 * min(column)
        print(f"{name:<40}{middle_time:>8.0f}{least:>8.0f}{middle:>8.3f}{low:>9.3f}–{high:.3f}", flush=True)


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
    take = captured(size, "cpu", backend, many=False)
    x = torch.rand(1, size.batch, size.pixels).round()
    take(x)
    start = time.perf_counter()
    take(x)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=100, help="in a round")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--numpyro", help="a Python interpreter that has NumPyro")
    parser.add_argument("--build", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.build:
        build(options.build[0], Size(*map(int, options.build[1:])))
    else:
        print(f"torch {torch.__version__}, pyro {pyro.__version__}, {platform.machine()}")
        for size in SIZES:
            found = measure(
                size,
                device=options.device,
                rounds=options.rounds,
                steps=options.steps,
                numpyro=options.numpyro,
            )
            report(size, found)
        if options.device == "cpu":
            building()
