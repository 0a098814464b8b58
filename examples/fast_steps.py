"""The same training, step by step quicker: SVI, one fused optimiser, a recorded step, a compiled one.

One VAE of the 1,797 real digits is trained several times from the same seed: by Pyro's SVI and Adam, by SVI
with ``FusedOptim``, and by ``CapturedSVI``, which records the step as a graph of tensor operations, and then
replays it, many steps a call, or compiles it. All take the same steps, so that the losses agree, and differ
in the time they take. Steps before the graph is there are ordinary ones; its building is part of the time.
Compiling takes a C++ compiler.

    python examples/fast_steps.py --epochs 100 --backends replay inductor
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.infer import InfoMaxELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.training import History, fit
from pyro_infomax.vae import VAE

LATENT, LEARNING_RATE = 8, 2e-3


def make_svi(kind: str, seed: int) -> SVI:
    """An SVI on fresh networks, the same for every kind."""
    pyro.clear_param_store()
    torch.manual_seed(seed)
    vae = VAE(MLPEncoder((8, 8)), MLPDecoder(LATENT, (8, 8)), latent_dim=LATENT)
    objective = InfoMaxELBO(lam=1.0)
    if kind == "SVI":
        return SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": LEARNING_RATE}), objective)
    optim = FusedOptim(torch.optim.Adam, {"lr": LEARNING_RATE})
    if kind == "FusedOptim":
        return SVI(vae.model, vae.guide, optim, objective)
    return CapturedSVI(vae.model, vae.guide, optim, objective, backend=kind)


def train(kinds: Sequence[str], images: Tensor, epochs: int, seed: int) -> dict[str, History]:
    # The first step of all loads parts of torch that no later one has to
    make_svi("SVI", seed).step(images[:2])
    return {
        kind: fit(make_svi(kind, seed), images, epochs=epochs, progress=kind, seed=seed) for kind in kinds
    }


def compare(histories: dict[str, History]) -> pd.DataFrame:
    """Seconds in all, µs a step late in training, and the losses, by kind."""
    rows = {}
    for kind, history in histories.items():
        steps = history.steps / len(history)
        rows[kind] = {
            "seconds": history["seconds"].sum(),
            "us_per_step": 1e6 * float(pd.Series(history["seconds"][1:]).median()) / steps,
            "first_loss": history["loss"][0],
            "last_loss": history["loss"][-1],
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("training")
    table.insert(2, "ratio", table["us_per_step"] / table["us_per_step"].iloc[0])
    return table


def draw(histories: dict[str, History], path: Path) -> None:
    figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for kind, history in histories.items():
        ax.plot(history["seconds"].cumsum(), history["loss"], label=kind)
    ax.set(xlabel="seconds", ylabel="loss, nats per datum", title="The same training, by the clock")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=50, help="passes over the digits")
    parser.add_argument(
        "--backends", nargs="*", choices=("replay", "inductor"), default=["replay"], help="recorded steps"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/fast_steps"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of networks and draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    if args.epochs < 2:
        parser.error(f"Expected --epochs >= 2 but got {args.epochs}.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(1)
    images = binarize(load_digits().images)
    histories = train(
        ["SVI", "FusedOptim", *args.backends], images, epochs=2 if args.smoke else args.epochs, seed=args.seed
    )
    args.out.mkdir(parents=True, exist_ok=True)
    table = compare(histories)
    table.to_csv(args.out / "fast_steps.csv")
    print(table.round(3).to_string())
    draw(histories, args.out / "fast_steps.png")
    print(f"\nWrote {args.out / 'fast_steps.csv'} and {args.out / 'fast_steps.png'}")


if __name__ == "__main__":
    main()
