"""What ``fit`` spends outside of the step on a million rows, and what it keeps in memory of a file of 2 GB.

The steps of a VAE of 64-128-8 units are timed inside of the very training that is timed as a whole, in one
process and one thread, so that the share does not depend on what else the machine does. The file is read in
a process of its own, whose memory at its largest is compared with what its imports had taken. Pages of the
file are counted apart: they are resident while there is room, and the system takes them back when it needs
them. Run ``python benchmarks/large_data.py``.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI
from torch import Tensor, nn

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.capture._captured_step import CapturedStep
from pyro_infomax.infer import BetaELBO
from pyro_infomax.training import fit
from pyro_infomax.vae import VAE

HIDDEN, LATENT, BATCH = 128, 8, 128


def vae(columns: int) -> VAE:
    encoder = nn.Sequential(nn.Linear(columns, HIDDEN), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, columns))
    return VAE(encoder, decoder, latent_dim=LATENT)


def make_svi(kind: Callable[..., SVI], columns: int) -> SVI:
    pyro.clear_param_store()
    torch.manual_seed(0)
    pair = vae(columns)
    return kind(pair.model, pair.guide, FusedOptim(torch.optim.Adam, {"lr": 1e-3}), BetaELBO(beta=1.0))


class Stopwatch:
    """Adds up the time that calls of a function take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        started = time.perf_counter()
        result = self._function(*args)
        self.seconds += time.perf_counter() - started
        return result


def share_outside(kind: Callable[..., SVI], x: Tensor) -> tuple[float, float, float]:
    """Microseconds a step, in the step and out of it, and the share of the latter.

    Of captured steps it is the call that takes many of them.
    """
    svi = make_svi(kind, x.shape[1])
    svi.progress = False
    steps = -(-len(x) // BATCH)
    # Captures both sizes of a batch, where anything is captured
    fit(svi, x[: 40 * BATCH + len(x) % BATCH], epochs=3, batch_size=BATCH, progress=False)
    if isinstance(svi, CapturedSVI):
        take = CapturedStep.take
        watch = Stopwatch(take)
        CapturedStep.take = lambda self, *args: watch(self, *args)
    else:
        svi.step = watch = Stopwatch(svi.step)
    started = time.perf_counter()
    fit(svi, x, epochs=1, batch_size=BATCH, progress=False)
    whole = time.perf_counter() - started
    if isinstance(svi, CapturedSVI):
        CapturedStep.take = take
    return 1e6 * watch.seconds / steps, 1e6 * (whole - watch.seconds) / steps, 1 - watch.seconds / whole


def measure_overhead(rows: int, columns: int) -> None:
    x = torch.rand(rows, columns).round_()
    kinds = {
        "SVI": SVI,
        "CapturedSVI, replay": partial(CapturedSVI, backend="replay"),
        "CapturedSVI, inductor": partial(CapturedSVI, backend="inductor"),
    }
    print(f"{rows:,} rows of {columns} columns, batches of {BATCH}\n")
    print(f"{'':<24}{'step µs':>10}{'outside µs':>12}{'share':>8}")
    for name, kind in kinds.items():
        inside, outside, share = share_outside(kind, x)
        print(f"{name:<24}{inside:>10.0f}{outside:>12.1f}{share:>8.1%}", flush=True)


def write_rows(path: Path, gigabytes: float, columns: int) -> None:
    chunk = np.random.default_rng(0).random((2**14, columns), dtype=np.float32).round()
    rows = round(gigabytes * 2**30 / (4 * columns))
    with path.open("wb") as file:
        for start in range(0, rows, len(chunk)):
            chunk[: rows - start].tofile(file)


class MemoryWatch:
    """A step of training that notes the megabytes that the process has: of its own, and pages of files."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step = step
        self.largest = dict.fromkeys(("RssAnon", "RssFile"), 0.0)
        self._note()

    def __call__(self, *args: Any) -> Any:
        result = self._step(*args)
        self._note()
        return result

    def _note(self) -> None:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in self.largest:
                self.largest[name] = max(self.largest[name], int(rest.split()[0]) / 1024)


def train_on_file(path: str, columns: int) -> None:
    x = np.memmap(path, dtype=np.float32, mode="r").reshape(-1, columns)
    svi = make_svi(SVI, columns)
    svi.step = watch = MemoryWatch(svi.step)
    before = dict(watch.largest)
    (row,) = fit(svi, x, epochs=1, batch_size=BATCH, progress=False)
    own, pages = (watch.largest[name] - before[name] for name in watch.largest)
    size, seconds = x.nbytes / 2**20, row["seconds"]
    print(f"trained on {size:,.0f} MB in {seconds:.0f} s, {1e6 * seconds / row['step']:.0f} µs a step")
    print(f"memory of its own: {own:.0f} MB above the {before['RssAnon']:.0f} MB that it began with")
    print(f"pages of the file that were resident: {pages:,.0f} MB")


def measure_memory(directory: str | None, gigabytes: float, columns: int) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        path = Path(folder) / "rows.bin"
        write_rows(path, gigabytes, columns)
        print(
            f"\na memory-mapped file of {gigabytes} GB, {columns} columns, batches of {BATCH}\n", flush=True
        )
        arguments = ["--file", str(path), "--file-columns", str(columns)]
        subprocess.run([sys.executable, __file__, *arguments], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--file-columns", type=int, default=512)
    parser.add_argument("--directory", help="where the file is written for the time being")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.file:
        train_on_file(options.file, options.file_columns)
    else:
        measure_overhead(options.rows, options.columns)
        measure_memory(options.directory, options.gigabytes, options.file_columns)
