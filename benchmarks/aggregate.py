"""What the exact aggregate posterior costs: matrix products, skipped tiles and interpolated marginals.

Everything is timed side by side in one run; the broadcasting that others use is timed on some of the points
and scaled to all of them. Run ``python benchmarks/aggregate.py``, with ``--large`` for N up to 737,280.
"""

import argparse
import math
import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from pyro_infomax.information import AggregatePosterior
from pyro_infomax.information._mixture_engine import DiagonalNormals, NormalMixture

CHUNK = 16  # rows of the broadcast at once
SHARE = 320  # points that the broadcast is timed on
PAGE = resource.getpagesize()


def posterior_of(data: int, latent: int, scale: float) -> Independent:
    return Independent(Normal(torch.randn(data, latent), torch.full((data, latent), scale)), 1)


def draws_of(posterior: Independent, points: int) -> Tensor:
    index = torch.randint(posterior.batch_shape[0], (points,))
    factors = posterior.base_dist
    return factors.loc[index] + factors.scale[index] * torch.randn(points, posterior.event_shape[0])


def broadcast(posterior: Independent, z: Tensor) -> Tensor:
    scores = [posterior.log_prob(each[:, None]).logsumexp(1) for each in z.split(CHUNK)]
    return torch.cat(scores) - math.log(posterior.batch_shape[0])


def tiled_marginals(posterior: Independent, z: Tensor) -> Tensor:
    """Exact marginals by tiles that fit the cache, each log-density by its own difference."""
    loc, scale = posterior.base_dist.loc.T.contiguous(), posterior.base_dist.scale.T.contiguous()
    peak = -scale.log() - 0.5 * math.log(2 * math.pi)
    found = torch.empty_like(z)
    for some, out in zip(z.split(32), found.split(32), strict=True):
        for j in range(z.shape[1]):
            tiles = zip(*(each[j].split(1000) for each in (loc, scale, peak)), strict=True)
            sums = [
                (p - 0.5 * ((some[:, j, None] - m) / s) ** 2).clamp_(min=-700).logsumexp(1)
                for m, s, p in tiles
            ]
            out[:, j] = torch.stack(sums).logsumexp(0)
    return found - math.log(len(loc.T))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Peak:
    """The most memory that a block of code takes beyond what was taken before, in MB."""

    def __enter__(self) -> "Peak":
        self.before = self.most = resident()
        self.running = True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while self.running:
            self.most = max(self.most, resident())
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    @property
    def megabytes(self) -> float:
        return (self.most - self.before) / 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def row(what: str, *values: str) -> None:
    print(f"{what:<46}" + "".join(f"{value:>13}" for value in values), flush=True)


def joint(points: int, data: int, latent: int, rounds: int) -> None:
    row(
        f"log q(z): M = {points:,}, N = {data:,}, d = {latent}",
        "broadcast s",
        "ours s",
        "ratio",
        "MB",
        "error",
    )
    for scale in (0.5, 0.05, 1e-3):
        posterior = posterior_of(data, latent, scale)
        z = draws_of(posterior, points)
        few = z[:SHARE]
        parts = points / len(few)
        times, memory = [], []
        for _ in range(rounds):
            theirs = parts * seconds(lambda few=few, posterior=posterior: broadcast(posterior, few))
            with Peak() as peak:
                ours = seconds(lambda z=z, posterior=posterior: AggregatePosterior(posterior).log_prob(z))
            times.append((theirs, ours))
            memory.append(peak.megabytes)
        error = (AggregatePosterior(posterior).log_prob(few) - broadcast(posterior, few)).abs().max()
        stock, quick = (statistics.median(each) for each in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        values = (f"{stock:.0f}", f"{quick:.2f}", f"{ratio:.0f}", f"{max(memory):.0f}", f"{error:.0e}")
        row(f"  scale {scale:g}", *values)


def marginals(points: int, data: int, latent: int, rounds: int) -> None:
    row(f"log q(z_j): M = {points:,}, N = {data:,}, d = {latent}", "tiles s", "ours s", "ratio", "", "error")
    cases = {f"  scale {scale:g}": torch.tensor(scale) for scale in (1e-3, 1e-2, 0.1, 1.0)}
    cases["  scales from 0.001 to 1"] = 10 ** (-3 * torch.rand(data, latent))
    for name, scale in cases.items():
        posterior = Independent(Normal(torch.randn(data, latent), scale.expand(data, latent)), 1)
        z = draws_of(posterior, points)
        few = z[:SHARE]
        parts = points / len(few)
        times = [
            (
                parts * seconds(lambda few=few, posterior=posterior: tiled_marginals(posterior, few)),
                seconds(lambda z=z, posterior=posterior: AggregatePosterior(posterior).log_prob_marginals(z)),
            )
            for _ in range(rounds)
        ]
        found = AggregatePosterior(posterior).log_prob_marginals(z)[: len(few)]
        error = (found - tiled_marginals(posterior, few)).abs().max()
        exact, quick = (statistics.median(each) for each in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        row(name, f"{exact:.1f}", f"{quick:.2f}", f"{ratio:.0f}", "", f"{error:.0e}")


def skipping(size: int, share: int) -> None:
    title = f"skipping tiles: N = M = {size:,}, scale 0.05"
    row(title, "without s", "with s", "ratio", "one left out")
    for latent in (2, 10):
        posterior = posterior_of(size, latent, 0.05)
        z = draws_of(posterior, size)
        components = DiagonalNormals(posterior.base_dist.loc, posterior.base_dist.scale)
        few = z[:share]
        without = (
            size / share * seconds(lambda few=few, c=components: NormalMixture(c, skip=False).log_sums(few))
        )
        ours = seconds(lambda z=z, c=components: NormalMixture(c).log_sums(z))
        index = torch.randint(size, (size,))
        own = posterior.base_dist.loc[index] + 0.05 * torch.randn(size, latent)
        left = seconds(lambda z=own, i=index, c=components: NormalMixture(c).log_sums(z, i))
        row(f"  d = {latent}", f"{without:.0f}", f"{ours:.1f}", f"{without / ours:.0f}", f"{left:.1f}")


def large(points: int, latent: int) -> None:
    row(f"large: M = {points:,}, d = {latent}, scale 0.5", "seconds", "MB")
    for data in (92_160, 184_320, 368_640, 737_280):
        posterior = posterior_of(data, latent, 0.5)
        z = draws_of(posterior, points)
        with Peak() as peak:
            taken = seconds(lambda z=z, posterior=posterior: AggregatePosterior(posterior).log_prob(z))
        row(f"  N = {data:,}", f"{taken:.1f}", f"{peak.megabytes:.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--data", type=int, default=100_000)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--large", action="store_true", help="also N = 737,280, and skipping at 200,000")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    NormalMixture(DiagonalNormals(torch.zeros(9, 2), torch.ones(9, 2))).log_sums(torch.zeros(9, 2))  # warm
    joint(options.points, options.data, options.latent, options.rounds)
    marginals(options.points, options.data, options.latent, options.rounds)
    if options.large:
        skipping(200_000, 10_000)
        large(options.points, options.latent)
