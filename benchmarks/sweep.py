"""A sweep of weights and seeds: point after point, in two processes, and all points stacked as one training.

VAEs on digits (64-64-4, batches of 32) at 8 weights and 5 seeds. Each way runs in a process of its own, on
one thread a process; CPU seconds are those of the process and of those that it has started, imports and
recordings included. The last column is the largest relative difference of the losses of all epochs from the
first way's.

Run ``python benchmarks/sweep.py``.
"""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

WAYS: dict[str, dict[str, Any]] = {
    "point after point": {},
    "two processes": {"n_jobs": 2},
    "stacked": {"stacked": True},
}
BETAS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)


def run_sweep(args: argparse.Namespace) -> None:
    """Runs one way, and writes the losses of all epochs."""
    from pyro_infomax.capture import CapturedSVI, FusedOptim
    from pyro_infomax.datasets import load_digits
    from pyro_infomax.infer import BetaELBO
    from pyro_infomax.nn import MLPDecoder, MLPEncoder
    from pyro_infomax.sweeps import sweep
    from pyro_infomax.training import History, fit
    from pyro_infomax.vae import VAE

    torch.set_default_dtype(getattr(torch, args.dtype))
    images = load_digits().images.flatten(1).to(torch.get_default_dtype())

    def run(beta: float, seed: int) -> History:  # noqa: ARG001 - the generators start from it
        encoder, decoder = (
            MLPEncoder(64, hidden=(args.hidden,)),
            MLPDecoder(args.latent, 64, hidden=(args.hidden,)),
        )
        vae = VAE(encoder, decoder, latent_dim=args.latent)
        optim = FusedOptim(torch.optim.Adam, {"lr": 1e-3})
        svi = CapturedSVI(vae.model, vae.guide, optim, BetaELBO(beta=beta), backend=args.backend)
        return fit(svi, images, epochs=args.epochs, batch_size=args.batch, progress=False)

    started = time.perf_counter()
    ds = sweep(run, {"beta": BETAS[: args.betas]}, seeds=args.seeds, progress=False, **WAYS[args.way])
    if ds["failure"].any():
        raise RuntimeError(str(ds["failure"].values))
    np.savez(args.out, loss=ds["loss"].values, seconds=time.perf_counter() - started)


def measured(way: str, folder: Path, arguments: list[str]) -> tuple[float, float, np.ndarray]:
    """CPU seconds of a way, wall seconds of its sweep, and the losses."""
    out = folder / f"{way}.npz"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *arguments, "--way", way, "--out", str(out)]
    subprocess.run(command, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with np.load(out) as found:
        return cpu, float(found["seconds"]), found["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--betas", type=int, default=8, choices=range(1, 9), metavar="1..8")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--latent", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--backend", choices=("auto", "replay", "inductor"), default="auto")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way is not None:
        run_sweep(args)
        return
    names = ("epochs", "betas", "seeds", "hidden", "latent", "batch", "backend", "dtype")
    arguments = [f"--{name}={getattr(args, name)}" for name in names]
    points, steps = args.betas * args.seeds, args.epochs * math.ceil(1797 / args.batch)
    print(f"64-{args.hidden}-{args.latent}, batch {args.batch}, {args.backend}, {args.dtype}")
    print(f"{points} points, {steps} steps each")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"{'':<20}{'CPU s':>8}{'wall s':>8}{'µs a step':>11}{'difference':>12}")
    figures: dict[str, dict[str, float]] = {}
    first: np.ndarray | None = None
    with tempfile.TemporaryDirectory() as folder:
        for way in args.ways:
            cpu, wall, loss = measured(way, Path(folder), arguments)
            first = loss if first is None else first
            difference = float(np.abs(loss / first - 1).max())
            each = cpu / points / steps * 1e6
            print(f"{way:<20}{cpu:8.1f}{wall:8.1f}{each:11.0f}{difference:12.1e}", flush=True)
            figures[way] = {"cpu": cpu, "wall": wall, "difference": difference}
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
