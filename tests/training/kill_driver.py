"""Kills trainings with SIGKILL, over and over, until each of them has come to its end.

A program of its own, since a fork needs a process without threads. It imports once; each training is a fork.
It prints, as JSON, how the trainings ended.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pyro
import torch
import torch._dynamo  # which the first optimiser of each process would import
from pyro import distributions as dist
from pyro.infer import SVI
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_infomax.infer import TraceMeanField_BetaELBO
from pyro_infomax.schedules import Linear
from pyro_infomax.training import Checkpoint, fit

EPOCHS = 14
SILENT = {"progress": False, "batch_size": 16}


def make_svi() -> SVI:
    """Networks in float64 whose file, with Adam's moments, is of some megabytes."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 1000), nn.BatchNorm1d(1000), nn.Dropout(0.2), nn.Linear(1000, 4))
    decoder = nn.Linear(2, 64)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", lambda: 1 + torch.rand(64), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    optimizer = pyro.optim.Adam({"lr": 1e-3})
    return SVI(model, guide, optimizer, TraceMeanField_BetaELBO(Linear(0.0, 1.0, 10)))


def train(path: Path | None, result: Path) -> None:
    """One training to its end, and what it leaves behind."""
    svi = make_svi()
    data = torch.randn(100, 64)
    kept = {} if path is None else {"checkpoint": Checkpoint(path, every_steps=1), "resume": True}
    history = fit(svi, data, epochs=EPOCHS, **SILENT, **kept)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history]
    parameters = {name: value.detach() for name, value in pyro.get_param_store().named_parameters()}
    left = {"parameters": parameters, "rows": rows, "random state": torch.get_rng_state()}
    torch.save(left, result)


def forked(path: Path | None, result: Path) -> int:
    """The number of a process that trains."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(path, result)
            code = 0
        finally:
            os._exit(code)
    return child


def is_writing(folder: Path) -> bool:
    return any(name.endswith(".tmp") for name in os.listdir(folder))


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def await_writings(path: Path, child: int, number: int) -> None:
    """Returns when the child has written its checkpoint so many times, or has ended."""
    seen = set()
    while len(seen) <= number and not has_ended(child):
        # Each file that takes the place of the last one is another one
        seen.add(path.stat().st_mtime_ns if path.exists() else 0)
        time.sleep(0.001)


def kill(path: Path, result: Path, *, writings: int, wait: float, while_writing: bool) -> tuple[bool, bool]:
    """Starts or resumes the training and kills it.

    Returns:
        Whether it had not ended by itself, and whether it has left a file half written.
    """
    # What an earlier kill has left is no sign of this process
    for leftover in path.parent.glob(".*.tmp"):
        leftover.unlink()
    child = forked(path, result)
    await_writings(path, child, writings)
    time.sleep(wait)
    while while_writing and not is_writing(path.parent) and not has_ended(child):
        time.sleep(0.0002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), is_writing(path.parent)


def run_to_its_end(path: Path | None, result: Path) -> bool:
    _, status = os.waitpid(forked(path, result), 0)
    return status == 0


def main(folder: Path, kills: int) -> dict[str, object]:
    moments = random.Random(0)
    undisturbed, disturbed = folder / "undisturbed.pt", folder / "disturbed.pt"
    path = folder / "kept" / "training.pt"
    path.parent.mkdir()
    ended = run_to_its_end(None, undisturbed)
    endings = [
        kill(
            path,
            disturbed,
            writings=moments.randint(0, 3),
            wait=moments.uniform(0.0, 0.03),
            while_writing=number % 2 == 0,
        )
        for number in range(kills)
    ]
    ended = run_to_its_end(path, disturbed) and ended
    return {
        "killed": sum(killed for killed, _ in endings),
        "killed while writing": sum(half_written for _, half_written in endings),
        "ended": ended,
        "same": _equal(torch.load(disturbed), torch.load(undisturbed)),
        "left in the folder": sorted(file.name for file in path.parent.iterdir()),
    }


def _equal(ours: object, theirs: object) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return torch.equal(ours, theirs)
    return ours == theirs


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
