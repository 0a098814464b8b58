"""What a conversion to ArviZ costs: seconds, and the most memory beyond what the process had before.

python benchmarks/conversion.py                       # 10,000 data, in memory and to a file
python benchmarks/conversion.py --data 100000 --file  # only to a file
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from pyro_infomax import VAE, to_arviz
from pyro_infomax.diagnostics import to_native
from pyro_infomax.nn import MLPDecoder, MLPEncoder


def most_memory() -> float:
    """The most memory that this process has had, in MB."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found / (2**20 if sys.platform == "darwin" else 2**10)


def measured(args: argparse.Namespace, path: str | None) -> tuple[float, float, float]:
    """Seconds, and the growth of the most memory in MB, in a process of its own; MB of the draws of z."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        torch.manual_seed(0)
        vae = VAE(
            MLPEncoder((64,), hidden=(64,)),
            MLPDecoder(args.latent, (64,), hidden=(64,)),
            latent_dim=args.latent,
        )
        x = (torch.rand(args.data, 64) < 0.3).float()
        vae.encode(x[:10])
        to_native({})  # imports ArviZ
        before, start = most_memory(), time.perf_counter()
        idata = to_arviz(
            vae.model,
            vae.guide,
            x,
            num_samples=args.draws,
            path=path,
            decomposition=False,
            seed=0,
            progress=False,
        )
        seconds, grown = time.perf_counter() - start, most_memory() - before
        size = idata["posterior"]["z"].nbytes / 2**20
        os.write(write, f"{seconds} {grown} {size}".encode())
        os._exit(0)
    os.close(write)  # so that the end of a child that failed is seen
    os.waitpid(child, 0)
    seconds, grown, size = map(float, os.read(read, 1000).split())
    return seconds, grown, size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=int, default=10_000)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--file", action="store_true", help="write to a file only")
    args = parser.parse_args()
    print(f"{args.data} data, {args.latent} latents, {args.draws} draws")
    with tempfile.TemporaryDirectory() as folder:
        places = {"a file": str(Path(folder) / "posterior.nc")}
        if not args.file:
            places = {"memory": None} | places
        for name, path in places.items():
            seconds, grown, size = measured(args, path)
            print(
                f"to {name:6}: {seconds:5.1f} s, {grown:5.0f} MB at most; the draws of z take {size:.0f} MB"
            )


if __name__ == "__main__":
    main()
