"""What a deep Markov model costs: recording its steps, and taking them.

The model of Krishnan, Shalit and Sontag (2017), *Structured inference networks for nonlinear state space
models*, as in Pyro's examples: gated transitions, an emitter, and a guide that combines the states of a GRU
that runs backwards, written as loops over ``pyro.markov``. Steps are taken in turns, round by round, in one
thread; times of steps are CPU seconds, and ratios are to the quicker of two SVIs.

Run ``python benchmarks/sequence.py``; ``--inductor`` compiles as well, which takes minutes.
"""

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import TraceMeanField_BetaELBO


class Size(NamedTuple):
    """Units of the networks, and the batch."""

    notes: int
    latent: int
    hidden: int
    batch: int

    def __str__(self) -> str:
        return f"{self.notes} notes, z {self.latent}, hidden {self.hidden}, batch {self.batch}"


SIZE = Size(88, 32, 64, 32)
LEARNING_RATE = 1e-3
SVI_BY_ADAM, SVI_BY_FUSED = "Pyro: SVI, TraceMeanField_ELBO, Adam", "ours: SVI, FusedOptim"


class DeepMarkovModel(nn.Module):
    """Model and guide of sequences of any length."""

    def __init__(self, name: str, size: Size = SIZE) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name = name
        notes, z, hidden, _ = size
        self.emitter = nn.Sequential(
            *(nn.Linear(z, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, notes))
        )
        self.gate = nn.Sequential(nn.Linear(z, hidden), nn.ReLU(), nn.Linear(hidden, z), nn.Sigmoid())
        self.proposed = nn.Sequential(nn.Linear(z, hidden), nn.ReLU(), nn.Linear(hidden, z))
        self.kept, self.spread = nn.Linear(z, z), nn.Linear(z, z)
        self.rnn = nn.GRU(notes, hidden, batch_first=True)
        self.from_z, self.to_loc, self.to_scale = (
            nn.Linear(z, hidden),
            nn.Linear(hidden, z),
            nn.Linear(hidden, z),
        )
        self.first, self.first_of_guide = nn.Parameter(torch.zeros(z)), nn.Parameter(torch.zeros(z))

    def model(self, x: Tensor) -> None:
        pyro.module(self.name, self)
        z = self.first.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                gate, proposed = self.gate(z), self.proposed(z)
                loc = (1 - gate) * self.kept(z) + gate * proposed
                scale = softplus(self.spread(torch.relu(proposed)))
                z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).to_event(1))
                pyro.sample(f"x_{t}", dist.Bernoulli(logits=self.emitter(z)).to_event(1), obs=x[:, t])

    def guide(self, x: Tensor) -> None:
        pyro.module(self.name, self)
        states, _ = self.rnn(x.flip(1))
        states, z = states.flip(1), self.first_of_guide.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                combined = 0.5 * (torch.tanh(self.from_z(z)) + states[:, t])
                scale = softplus(self.to_scale(combined))
                z = pyro.sample(f"z_{t}", dist.Normal(self.to_loc(combined), scale).to_event(1))


def contenders(*, inductor: bool) -> dict[str, SVI]:
    def fused() -> FusedOptim:
        return FusedOptim(torch.optim.Adam, {"lr": LEARNING_RATE})

    def programs(name: str) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
        dmm = DeepMarkovModel(name)  # of a name of its own, since all share one parameter store
        return dmm.model, dmm.guide

    adam = pyro.optim.Adam({"lr": LEARNING_RATE})
    found = {
        SVI_BY_ADAM: SVI(*programs("adam"), adam, TraceMeanField_ELBO()),
        SVI_BY_FUSED: SVI(*programs("fused"), fused(), TraceMeanField_BetaELBO(beta=1.0)),
    }
    for backend in ("replay", "inductor")[: 1 + inductor]:
        objective = TraceMeanField_BetaELBO(beta=1.0)
        found[f"ours: CapturedSVI, {backend}"] = CapturedSVI(
            *programs(backend), fused(), objective, backend=backend
        )
    return found


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(length: int, *, rounds: int, steps: int, inductor: bool) -> None:
    pyro.clear_param_store()
    x = torch.rand(SIZE.batch, length, SIZE.notes).round()
    found: dict[str, list[float]] = {}
    print(f"\nT = {length}")
    svis = contenders(inductor=inductor)
    for name, svi in svis.items():
        svi.step(x)
        start = time.perf_counter()  # the compiler runs in processes of its own
        second = seconds(lambda svi=svi: svi.step(x))
        waited = time.perf_counter() - start
        if isinstance(svi, CapturedSVI):
            print(f"{name + ', recorded in':<40}{second:>10.2f} s{waited:>8.2f} s by the clock")
            # Comparisons with ordinary steps come at doubling distances, and are none of the step's time
            for _ in range(steps):
                svi.step(x)
            assert svi.captured, svi.reason
    for _ in range(rounds):
        for name, svi in svis.items():
            times = [seconds(lambda svi=svi: svi.step(x)) for _ in range(steps)]
            found.setdefault(name, []).append(statistics.median(times))
    for name, column in found.items():
        ratios = [
            mine / min(theirs)
            for mine, *theirs in zip(column, found[SVI_BY_ADAM], found[SVI_BY_FUSED], strict=True)
        ]
        milliseconds = 1e3 * statistics.median(column)
        print(f"{name:<40}{milliseconds:>10.2f} ms{statistics.median(ratios):>8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--inductor", action="store_true", help="compile as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    print(f"torch {torch.__version__}, pyro {pyro.__version__}, {platform.machine()}; {SIZE}")
    for length in options.lengths:
        measure(length, rounds=options.rounds, steps=options.steps, inductor=options.inductor)
