"""What a training step costs with each family of guides, against AmortizedNormal.

The same encoder (64-128), decoder (8-128-64) and batch of 128 for all; the latent is a vector of 8 reals, for
the discrete families one of 8 categories. Steps are taken in turns, round by round, in one process and one
thread, so that the ratios do not depend on what else the machine does. Run ``python benchmarks/guides.py``.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI
from torch import Tensor
from weighted_step import BATCH, HIDDEN, LATENT, PIXELS, interleaved

from pyro_infomax import guides
from pyro_infomax.infer import Trace_BetaELBO, TraceEnum_BetaELBO, TraceMeanField_BetaELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder

Model = Callable[[Tensor], None]


def real(decoder: torch.nn.Module, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)


def halves(decoder: torch.nn.Module, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        prior = dist.Normal(torch.zeros(LATENT // 2), 1.0).to_event(1)
        z = torch.cat([pyro.sample("z1", prior), pyro.sample("z2", prior)], -1)
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)


def positive(decoder: torch.nn.Module, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(torch.ones(LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)


def category(decoder: torch.nn.Module, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(LATENT)))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)


def cases() -> dict[str, tuple[Callable[..., None], Any, Any]]:
    """What it is called, and its model, guide and objective."""
    mean_field, discrete = TraceMeanField_BetaELBO, guides.AmortizedDiscrete
    found = {
        "AmortizedNormal": (real, guides.AmortizedNormal, mean_field),
        "AmortizedMultivariateNormal": (real, guides.AmortizedMultivariateNormal, mean_field),
        "AmortizedLowRankNormal": (real, guides.AmortizedLowRankNormal, mean_field),
        "AmortizedFlow": (real, guides.AmortizedFlow, mean_field),
        "AmortizedDelta": (real, guides.AmortizedDelta, mean_field),
        "AmortizedNormal, two sites": (halves, guides.AmortizedNormal, mean_field),
        "AmortizedNormal, two sites, structured": (
            halves,
            partial(guides.AmortizedNormal, structured=True),
            mean_field,
        ),
        "AmortizedNormal, positive": (positive, guides.AmortizedNormal, mean_field),
        "heads={'z': dist.Gamma}": (
            positive,
            partial(guides.AmortizedNormal, heads={"z": dist.Gamma}),
            mean_field,
        ),
        "AmortizedDiscrete, enumerated": (category, discrete, TraceEnum_BetaELBO),
        "AmortizedDiscrete, relaxed": (category, partial(discrete, temperature=0.5), mean_field),
        "AmortizedDiscrete, drawn": (category, partial(discrete, enumerate=False), Trace_BetaELBO),
    }
    try:
        from zuko.flows import NSF
    except ImportError:
        print("without zuko, which is not installed")
        return found
    return found | {"AmortizedFlow, zuko's NSF": (real, partial(guides.AmortizedFlow, flow=NSF), mean_field)}


def stepper(program: Callable[..., None], family: Any, objective: Any, x: Tensor) -> Callable[[], float]:
    torch.manual_seed(0)
    decoder = MLPDecoder(LATENT, PIXELS, hidden=(HIDDEN,))
    name = f"decoder_{id(decoder)}"

    def model(x: Tensor) -> None:
        program(pyro.module(name, decoder), x)

    guide = family(model, MLPEncoder(PIXELS, hidden=(HIDDEN,)))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), objective(beta=1.0))
    return lambda: svi.step(x)


def measure(rounds: int, steps: int) -> None:
    x = torch.rand(BATCH, PIXELS).round()
    contenders = {name: stepper(*case, x) for name, case in cases().items()}
    times = interleaved(list(contenders.values()), rounds, steps)
    print(f"{'guide':<42}{'ms':>8}{'ratio':>8}")
    for name, column in zip(contenders, zip(*times, strict=True), strict=True):
        ratio = statistics.median(each / row[0] for each, row in zip(column, times, strict=True))
        print(f"{name:<42}{1e3 * statistics.median(column):>8.2f}{ratio:>8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(options.rounds, options.steps)
