"""Whole training: ``fit`` beside a hand-written loop in PyTorch and beside pythae's trainer.

All train one pair of networks on the same data, by the same loss, by Adam, for the same number of epochs.
Adam is fused into one kernel in the hand-written loop; pythae, which leaves that option to its user, runs
without and with it. They take turns, round by round, on one thread, and are charged the CPU time of their
process, so that the ratios do not depend on what else the machine does. A training begins with new networks:
what a captured step takes to be built is part of it. The lines "once built" train the networks of the warm-up
on.

Run ``python benchmarks/fit.py --pythae PYTHON``, where PYTHON is an interpreter that has pythae; without it
that line is left out.
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import BetaELBO
from pyro_infomax.training import fit

NUMBERS = itertools.count()


@dataclass(frozen=True)
class Case:
    """Data and networks, and how long they are trained."""

    name: str
    data: str
    sizes: tuple[int, int, int]
    epochs: int
    batch: int = 128
    lr: float = 1e-3


class Pair(nn.Module):
    """An encoder and a decoder with one hidden layer each, as a Pyro model and guide."""

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        self.name = f"pair_{next(NUMBERS)}"  # parameters of one name are one in Pyro's store
        pixels, hidden, self.latent = sizes
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * self.latent))
        self.decoder = nn.Sequential(nn.Linear(self.latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def model(self, x: Tensor) -> None:
        pyro.module(f"{self.name}.decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module(f"{self.name}.encoder", self.encoder)
        with pyro.plate("data", len(x)):
            mean, log_variance = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1))

    def loss(self, x: Tensor) -> Tensor:
        """The same by hand."""
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        distortion = binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return distortion + 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum()

    def forget(self) -> None:
        """Takes its parameters out of Pyro's store, which would hold those of all rounds."""
        store = pyro.get_param_store()
        for name in [name for name in store.keys() if name.startswith(f"{self.name}.")]:  # noqa: SIM118
            del store[name]


class Contender(ABC):
    """Trains; as often as it is asked to."""

    @abstractmethod
    def train(self) -> tuple[float, float]:
        """Seconds that a training took, and the loss of its last epoch in nats per datum."""

    def close(self) -> None:  # noqa: B027
        """Ends what it has begun."""


class HandWritten(Contender):
    """The loop that one would write, over data in memory."""

    def __init__(self, case: Case, x: Tensor) -> None:
        self.case, self.x = case, x

    def train(self) -> tuple[float, float]:
        pair = Pair(self.case.sizes)
        started = time.process_time()
        optimizer = torch.optim.Adam(pair.parameters(), lr=self.case.lr, fused=True)
        for _ in range(self.case.epochs):
            total = torch.zeros(())
            for index in torch.randperm(len(self.x)).split(self.case.batch):
                loss = pair.loss(self.x.index_select(0, index))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
        mean = float(total) / len(self.x)
        return time.process_time() - started, mean


class Ours(Contender):
    """``fit`` with one kind of SVI."""

    def __init__(self, case: Case, x: Tensor, *, kind: Any, anew: bool = True) -> None:
        self.case, self.x, self.kind, self.anew = case, x, kind, anew
        self.pair: Pair | None = None
        self.svi: SVI | None = None

    def train(self) -> tuple[float, float]:
        if self.anew or self.svi is None:
            self._begin_anew()
        started = time.process_time()
        history = fit(self.svi, self.x, epochs=self.case.epochs, batch_size=self.case.batch, progress=False)
        return time.process_time() - started, float(history["loss"][-1])

    def _begin_anew(self) -> None:
        if self.pair is not None:
            self.pair.forget()
        self.pair = Pair(self.case.sizes)
        optim = FusedOptim(torch.optim.Adam, {"lr": self.case.lr})
        self.svi = self.kind(self.pair.model, self.pair.guide, optim, BetaELBO(beta=1.0))
        self.svi.progress = False


class Pythae(Contender):
    """pythae's trainer, in a process of its own that waits for its turn."""

    def __init__(self, case: Case, python: str, *, fused: bool) -> None:
        script = Path(__file__).with_name("pythae_fit.py")
        self.process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._tell(json.dumps(asdict(case) | {"fused": fused}))

    def train(self) -> tuple[float, float]:
        self._tell("train")
        answer = json.loads(self.process.stdout.readline())
        return answer["seconds"], answer["loss"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _tell(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def contenders(case: Case, x: Tensor, pythae: str | None, backends: list[str]) -> dict[str, Contender]:
    found: dict[str, Contender] = {"hand-written": HandWritten(case, x)}
    if pythae:
        found["pythae"] = Pythae(case, pythae, fused=False)
        found["pythae, fused Adam"] = Pythae(case, pythae, fused=True)
    found["fit, SVI"] = Ours(case, x, kind=SVI)
    for backend in backends:
        kind = partial(CapturedSVI, backend=backend)
        found[f"fit, {backend}"] = Ours(case, x, kind=kind)
        found[f"fit, {backend}, once built"] = Ours(case, x, kind=kind, anew=False)
    return found


def measure(case: Case, x: Tensor, options: argparse.Namespace) -> None:
    everyone = contenders(case, x, options.pythae, options.backends)
    rounds = [
        {name: contender.train() for name, contender in everyone.items()} for _ in range(options.rounds + 1)
    ][1:]  # the first one does not count
    print(f"\n{case.name}: {len(x):,} data, {case.epochs} epochs of batches of {case.batch}")
    steps = case.epochs * -(-len(x) // case.batch)
    print(f"{'':<28}{'seconds':>9}{'µs a step':>11}{'of hand-written':>17}{'of pythae':>11}{'loss':>9}")
    for name in everyone:
        seconds = statistics.median(each[name][0] for each in rounds)
        loss = statistics.median(each[name][1] for each in rounds)
        ratios = [ratio(rounds, name, "hand-written"), ratio(rounds, name, "pythae")]
        each = 1e6 * seconds / steps
        print(
            f"{name:<28}{seconds:>9.2f}{each:>11.0f}{ratios[0]:>17.3f}{ratios[1]:>11.2f}{loss:>9.2f}",
            flush=True,
        )
    for contender in everyone.values():
        contender.close()


def ratio(rounds: list[dict[str, tuple[float, float]]], name: str, reference: str) -> float:
    if reference not in rounds[0]:
        return math.nan
    return statistics.median(each[name][0] / each[reference][0] for each in rounds)


def cases(folder: Path, share: float) -> list[tuple[Case, Tensor]]:
    """The digits of scikit-learn, also eight times over, and images of 28 x 28 noisy bars, all binary."""
    digits = torch.from_numpy(load_digits().data > 8).float()
    generator = torch.Generator().manual_seed(0)
    bars = torch.rand(12800, 28, 1, generator=generator) < 0.3
    noise = torch.rand(12800, 28, 28, generator=generator) < 0.02
    images = (bars ^ noise).float().flatten(1)
    found = []
    for name, x, hidden, latent, batch, epochs in (
        ("digits", digits, 64, 4, 32, 200),
        ("digits", digits, 128, 8, 128, 800),
        ("digits, eight times over", digits.repeat(8, 1), 64, 4, 32, 25),
        ("digits, eight times over", digits.repeat(8, 1), 128, 8, 128, 100),
        ("images", images, 400, 20, 128, 30),
    ):
        path = folder / f"{len(x)}_{hidden}.npy"
        np.save(path, x.numpy())
        sizes = (x.shape[1], hidden, latent)
        title = f"{name}, {'-'.join(map(str, sizes))}"
        found.append((Case(title, str(path), sizes, max(1, round(share * epochs)), batch), x))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pythae", metavar="PYTHON", help="an interpreter that has pythae")
    parser.add_argument("--backends", nargs="*", default=["replay", "inductor"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", type=int, nargs="*", help="of all of them, by number from 0")
    parser.add_argument("--share", type=float, default=1.0, help="of the epochs, for a quick look")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.pythae:
        print("pythae is left out: pass an interpreter that has it by --pythae", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for number, (case, x) in enumerate(cases(Path(folder), options.share)):
            if options.cases is None or number in options.cases:
                measure(case, x, options)
