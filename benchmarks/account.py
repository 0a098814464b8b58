"""What ``decompose`` costs: seconds for each family of guides, and a large account with its memory.

The guides are those of a VAE of 64-64-8 units, moved away from where they begin, on 1,500 data: every draw is
scored under the posteriors of all of them. The large account is that of a diagonal Normal VAE, trained on
10,000 of its 100,000 data of 64 pixels, with 32 latent dimensions; ``--data`` takes fewer, and several
numbers show how time and memory grow. Memory is what the process has at most beyond what it had before, the
data and the networks included in the latter. Run ``python benchmarks/account.py``.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from aggregate import Peak
from pyro.infer import SVI
from torch import Tensor

from pyro_infomax import BetaELBO, decompose, fit, guides
from pyro_infomax.capture import FusedOptim
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.vae import VAE

PIXELS, HIDDEN, LATENT = 64, 64, 8


def program(decoder: torch.nn.Module, x: Tensor, *, sites: int) -> None:
    size = LATENT // sites
    with pyro.plate("data", len(x)):
        prior = dist.Normal(torch.zeros(size), 1.0).to_event(1)
        z = torch.cat([pyro.sample(f"z{k}", prior) for k in range(sites)], -1)
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)


def cases() -> dict[str, tuple[int, Callable[..., Any]]]:
    """What it is called, the number of latent sites, and the guide."""
    normal, full, flow = guides.AmortizedNormal, guides.AmortizedMultivariateNormal, guides.AmortizedFlow
    return {
        "AmortizedNormal": (1, normal),
        "AmortizedMultivariateNormal": (1, full),
        "AmortizedMultivariateNormal, two sites": (2, full),
        "AmortizedNormal, two sites, structured": (2, partial(normal, structured=True)),
        "AmortizedNormal, four sites, structured": (4, partial(normal, structured=True)),
        "AmortizedMultivariateNormal, two sites, structured": (2, partial(full, structured=True)),
        "AmortizedFlow": (1, flow),
        "AmortizedFlow, two sites": (2, flow),
        "AmortizedFlow, two sites, structured": (2, partial(flow, structured=True)),
    }


@torch.no_grad()
def pair_of(sites: int, family: Callable[..., Any], x: Tensor) -> tuple[Callable[..., None], Any]:
    pyro.clear_param_store()
    torch.manual_seed(0)
    decoder = MLPDecoder(LATENT, PIXELS, hidden=(HIDDEN,))

    def model(x: Tensor) -> None:
        program(pyro.module("decoder", decoder), x, sites=sites)

    guide = family(model, MLPEncoder(PIXELS, hidden=(HIDDEN,)))
    guide(x[:64])
    for parameter in guide.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return model, guide


def images(number: int, factors: int) -> Tensor:
    """Pixels that some Normal factors light up."""
    torch.manual_seed(1)
    weights = 0.5 * torch.randn(factors, PIXELS)
    return torch.bernoulli((torch.randn(number, factors) @ weights).sigmoid())


def guides_one_by_one(number: int) -> None:
    x = images(number, LATENT)
    decompose(*pair_of(*cases()["AmortizedNormal, two sites, structured"], x[:64]), x[:64], seed=0)  # imports
    print(f"{f'{number:,} data, guide':<54}{'CPU s':>8}{'I':>9}")
    for name, case in cases().items():
        model, guide = pair_of(*case, x)
        started = time.process_time()
        account = decompose(model, guide, x, seed=0, progress=False)
        taken = time.process_time() - started
        print(f"{name:<54}{taken:>8.2f}{float(account.mutual_information):>9.4f}", flush=True)


def large(number: int, latent: int) -> None:
    x = images(number, latent)
    pyro.clear_param_store()
    torch.manual_seed(0)
    encoder, decoder = MLPEncoder(PIXELS, hidden=(128,)), MLPDecoder(latent, PIXELS, hidden=(128,))
    vae = VAE(encoder, decoder, latent_dim=latent)
    svi = SVI(vae.model, vae.guide, FusedOptim(torch.optim.Adam, {"lr": 2e-3}), BetaELBO(beta=1.0))
    fit(svi, x[:10_000], epochs=10, progress=False)
    decompose(vae.model, vae.guide, x[:500], seed=0, progress=False)  # imports
    started, cpu = time.perf_counter(), time.process_time()
    with Peak() as peak:
        account = decompose(vae.model, vae.guide, x, seed=0)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    posteriors, information = 2 * number * latent * 8 / 2**20, account.mutual_information
    print(
        f"{number:,} data x {latent}: {wall:.0f} s, {cpu:.0f} of the CPU, {peak.megabytes:.0f} MB beside "
        f"{x.nbytes / 2**20:.0f} of data; locations and scales are {posteriors:.0f} MB; I = {information}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--few", type=int, default=1500, help="data for each family of guides; 0 for none")
    parser.add_argument("--data", type=int, nargs="*", default=[100_000], help="sizes of large accounts")
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.few:
        guides_one_by_one(options.few)
    if len(options.data) == 1:
        large(*options.data, options.latent)
    for size in options.data if len(options.data) > 1 else []:
        # in a process of its own, which finds no memory that another has left
        own = ["--few", "0", "--data", str(size), "--latent", str(options.latent)]
        threads = ["--threads", str(options.threads)]
        subprocess.run([sys.executable, __file__, *own, *threads], check=True)
