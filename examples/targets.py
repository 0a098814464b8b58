"""Hold rate, distortion or information at a target: the weight of the rate finds itself.

A VAE on digits is trained once for each target. Beside the β of each training stand the target and what the
account finds afterwards; the picture shows β and the held term on their way. A last training takes the β that
the first has found as a fixed weight, and ends where that one ended.

    python examples/targets.py --rate 8 --distortion 17 --information 4
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_infomax import VAE, BetaELBO, decompose, fit
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.diagnostics import Decomposition
from pyro_infomax.infer import ConstrainedELBO, WeightedELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.training import LearningRateSchedule

TERMS = ("rate", "distortion", "mutual_information")


def train(
    images: Tensor, elbo: WeightedELBO, title: str, *, epochs: int, seed: int
) -> tuple[pd.DataFrame, Decomposition]:
    """The history of a training, and the account after it."""
    pyro.clear_param_store()
    torch.manual_seed(seed)
    vae = VAE(MLPEncoder((8, 8)), MLPDecoder(6, (8, 8)), latent_dim=6)
    # A learning rate that falls to 0 brings the account of the last parameters to what the history holds
    optim = FusedOptim(
        torch.optim.Adam,
        {"lr": 2e-3},
        scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
    )
    svi = CapturedSVI(vae.model, vae.guide, optim, elbo)
    history = fit(svi, images, epochs=epochs, callbacks=[LearningRateSchedule()], progress=title, seed=seed)
    return history.to_frame(), decompose(vae.model, vae.guide, images, num_samples=4, seed=seed)


def draw(histories: Mapping[str, pd.DataFrame], targets: Mapping[str, float], path: Path) -> None:
    figure, axes = plt.subplots(2, len(targets), figsize=(11, 5.2), layout="constrained", sharex=True)
    for (held, target), (above, below) in zip(targets.items(), axes.T, strict=True):
        history = histories[held]
        above.plot(history.index, history[held], color="#0173b2")
        above.axhline(target, color="0.4", linestyle="--", linewidth=1)
        above.set(title=held.replace("_", " "), ylim=(0, None))
        below.plot(history.index, history["multiplier"], color="#de8f05")
        below.set(xlabel="epoch", ylim=(0, None))
    axes[0, 0].set_ylabel("nats per datum\n(dashed: the target)")
    axes[1, 0].set_ylabel("multiplier β")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=float, default=8.0, help="nats per datum")
    parser.add_argument("--distortion", type=float, default=17.0, help="nats per datum")
    parser.add_argument("--information", type=float, default=4.0, help="nats per datum")
    parser.add_argument("--epochs", type=int, default=150, help="passes over the digits")
    parser.add_argument("--out", type=Path, default=Path("runs/targets"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    if args.epochs < 1:
        parser.error(f"Expected --epochs >= 1 but got {args.epochs}.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    images = binarize(load_digits().images)[: 256 if args.smoke else None]
    epochs = 2 if args.smoke else args.epochs
    given = (args.rate, args.distortion, args.information)
    targets = dict(zip(TERMS, given, strict=True))

    histories, rows = {}, {}
    for held, target in targets.items():
        elbo = ConstrainedELBO(**{held: target}, data_size=len(images))
        history, account = train(images, elbo, held.replace("_", " "), epochs=epochs, seed=args.seed)
        histories[held] = history
        beta = history["multiplier"].tail(max(1, epochs // 10)).mean()
        found = account.to_frame()["value"]
        rows[f"{held} held"] = {"target": target, "beta": beta, **found[[*TERMS]]}
    fixed = rows["rate held"]["beta"]
    _, account = train(images, BetaELBO(beta=fixed), "the same β", epochs=epochs, seed=args.seed)
    rows["that β fixed"] = {"beta": fixed, **account.to_frame()["value"][[*TERMS]]}

    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("nats per datum")
    print(table.round(3).to_string(na_rep="-"))
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "targets.csv")
    draw(histories, targets, args.out / "targets.png")
    print(f"\nThe table and a picture of the multipliers on their way are in {args.out}")


if __name__ == "__main__":
    main()
