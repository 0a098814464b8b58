"""What flows reach, and what they cost: CouplingFlow beside flows of Pyro and of zuko.

Each flow is fitted by reparameterised draws to three densities that a context steers: a skewed one with a
parabola around it, a funnel, and a crescent; their elements depend on each other in pairs. The figures are
the divergence from each, in nats, on new contexts (of the crescent up to a constant, the same for all), the
median time of a step, and that of scoring 200 values under each of 200 contexts. Run ``python
benchmarks/flows.py``; zuko's flows are passed over where it is not installed.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from torch import Tensor

from pyro_infomax.distributions import Flow, to_flow

Density = Callable[[Tensor, Tensor, Tensor], Tensor]
HIDDEN = [64, 64]


def bent(u: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return 2 * u - u.exp() + dist.Normal(0.5 * u.square() * c, 0.5).log_prob(v)


def funnel(u: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return dist.Normal(c - 0.5, 0.7).log_prob(u) + dist.Normal(0.0, u.exp()).log_prob(v)


def crescent(u: Tensor, v: Tensor, c: Tensor) -> Tensor:
    radius = (u.square() + v.square() + 1e-6).sqrt()
    return dist.Normal(1.5, 0.25).log_prob(radius) + dist.Normal(2 * c, 1.0).log_prob(v)


def twice(build: Callable[..., Any], size: int, context: int) -> list[Any]:
    reverse = transforms.permute(size, torch.arange(size).flip(0))
    return [build(size, context), reverse, build(size, context)]


def flows() -> dict[str, Any]:
    affine = partial(transforms.conditional_affine_autoregressive, hidden_dims=HIDDEN)
    spline = partial(transforms.conditional_spline_autoregressive, hidden_dims=HIDDEN, bound=5.0)
    found = {
        "CouplingFlow": None,
        "Pyro, affine autoregressive, 2": partial(twice, affine),
        "Pyro, spline autoregressive, 2": partial(twice, spline),
    }
    try:
        from zuko.flows import MAF, NSF
    except ImportError:
        print("without zuko, which is not installed")
        return found
    coupling = partial(NSF, passes=2, transforms=4)
    return found | {"zuko's MAF": MAF, "zuko's NSF": NSF, "zuko's NSF, coupling": coupling}


def loss(flow: Flow, density: Density, context: Tensor) -> Tensor:
    q = flow(context)
    z = q.rsample()
    return q.log_prob(z) - density(z[..., 0::2], z[..., 1::2], context).sum(-1)


def fit(build: Any, size: int, density: Density, steps: int) -> tuple[Flow, float, float]:
    """The flow, its held-out loss, and the seconds of a step."""
    torch.manual_seed(0)
    flow = to_flow(build, size, 1)
    optimiser, seconds = torch.optim.Adam(flow.parameters(), 3e-3), []
    for _ in range(steps):
        start = time.process_time()
        optimiser.zero_grad()
        loss(flow, density, torch.rand(128, 1)).mean().backward()
        optimiser.step()
        seconds.append(time.process_time() - start)
    with torch.no_grad():
        final = loss(flow, density, torch.rand(20_000, 1)).mean().item()
    return flow, final, statistics.median(seconds)


@torch.no_grad()
def scoring(flow: Flow) -> float:
    q = flow(torch.rand(200, 1))
    z = q.sample()[:, None]
    start = time.process_time()
    q.log_prob(z)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 8])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| elements | flow | bent | funnel | crescent | a step, ms | 200 x 200 scores, ms |")
    print("|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        for name, build in flows().items():
            fits = [fit(build, size, density, arguments.steps) for density in (bent, funnel, crescent)]
            figures = " | ".join(f"{final:.3f}" for _, final, _ in fits)
            step = 1e3 * statistics.median(seconds for _, _, seconds in fits)
            print(
                f"| {size} | {name} | {figures} | {step:.1f} | {1e3 * scoring(fits[0][0]):.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
