"""What a step of an objective with a critic costs: ordinary steps of SVI against captured ones.

FactorVAE trains a VAE on digits. The contenders take turns, round by round, in one thread, and are charged
the CPU time of their process, so that the ratios do not depend on what else the machine does.

Run ``python benchmarks/critics.py``.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_infomax import VAE
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import load_digits
from pyro_infomax.infer import FactorVAE
from pyro_infomax.nn import MLP, MLPCritic

BATCH, LATENT = 128, 4
Steps = Callable[[Tensor], object]  # takes a step on each of a stack of batches, (step, batch, pixel)


def taking(critic_steps: int, backend: str | None = None, *, many: bool = False) -> Steps:
    torch.manual_seed(0)
    vae = VAE(MLP(64, 64, hidden=(64,)), MLP(LATENT, 64, hidden=(64,)), latent_dim=LATENT)
    objective = FactorVAE(MLPCritic(LATENT, hidden=(64, 64)), gamma=5.0, critic_steps=critic_steps)
    optim = FusedOptim(torch.optim.Adam, {"lr": 1e-3})
    if backend is None:
        svi = SVI(vae.model, vae.guide, optim, objective)
        return lambda xs: [svi.step(x) for x in xs]
    captured = CapturedSVI(vae.model, vae.guide, optim, objective, backend=backend)
    captured.progress = False
    return captured.steps if many else lambda xs: [captured.step(x) for x in xs]


def measure(critic_steps: int, *, rounds: int, steps: int, backends: list[str]) -> None:
    pyro.clear_param_store()
    x = torch.as_tensor(load_digits().images, dtype=torch.float32).flatten(1)
    make = partial(taking, critic_steps)
    takers = {"SVI": make()}
    for backend in backends:
        takers[f"{backend}, step by step"] = make(backend)
        takers[f"{backend}, many steps a call"] = make(backend, many=True)
    found: dict[str, list[float]] = {name: [] for name in takers}
    for number in range(-3, rounds):
        batches = x[torch.randint(len(x), (steps, BATCH))]
        for name, take in takers.items():
            start = time.process_time()
            take(batches)
            if number >= 0:  # before that graphs are built
                found[name].append((time.process_time() - start) / steps)
    print(f"\n{critic_steps} steps of the critic\n{'':<32}{'µs':>8}{'ratio':>8}{'quartiles':>14}")
    for name, column in found.items():
        ratios = [mine / theirs for mine, theirs in zip(column, found["SVI"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:<32}{1e6 * statistics.median(column):>8.0f}{middle:>8.3f}{low:>9.3f}–{high:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100, help="in a round")
    parser.add_argument("--backends", nargs="*", default=["replay", "inductor"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for number in (1, 3):
        measure(number, rounds=options.rounds, steps=options.steps, backends=options.backends)
