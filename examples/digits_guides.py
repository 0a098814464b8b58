"""What better guides and better priors win on digits: the held-out evidence of nine pairs.

The baseline is a diagonal Normal with a standard Normal prior. Every other pair starts from the same weights
of encoder and decoder and is trained by the ELBO, its rate warmed up over the first half of the epochs, on
the same images in the same order, until a validation part of them says stop. The digits are dealt into six
parts; each fold holds out another one, and has weights of its own. So the spread over folds has all in it:
images held out, images trained on, weights.

    python examples/digits_guides.py --folds 6 --out runs/digits_guides
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyro
import torch
from digits import HELD_OUT, make_pair, new_axes, save
from scipy.stats import t as student
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from pyro_infomax import diagnostics
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.diagnostics import decompose
from pyro_infomax.infer import BetaELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.schedules import Linear
from pyro_infomax.training import EarlyStopping, LearningRateSchedule, fit

BASELINE = "normal + standard"
PAIRS = [
    ("normal", "standard"),
    ("full", "standard"),
    ("low-rank", "standard"),
    ("flow", "standard"),
    ("normal", "mixture"),
    ("normal", "vamp"),
    ("normal", "flow"),
    ("full", "vamp"),
    ("full", "flow"),
]
PATIENCE = 40
BATCH = 128
SMOKE_DATA = 180


class Split(NamedTuple):
    """The images of one fold."""

    train: Tensor
    validation: Tensor
    holdout: Tensor


def deal(images: Tensor, fold: int, *, seed: int) -> Split:
    """One part held out, and the next one kept for validation."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    parts = [images[rows] for rows in order.tensor_split(HELD_OUT)]
    parts = parts[fold:] + parts[:fold]
    return Split(torch.cat(parts[2:]), parts[1], parts[0])


def run_pair(
    guide: str, prior: str, split: Split, args: argparse.Namespace, *, seed: int
) -> tuple[dict[str, float], Tensor]:
    """Trains one pair: numbers about it, and the log-evidence of each held-out image."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    shape = split.train.shape[1:]
    # The networks come first, so that all pairs of a fold begin with the same weights
    networks = (
        MLPEncoder(shape, hidden=(args.width,)),
        MLPDecoder(args.latent_dim, shape, hidden=(args.width,)),
    )
    vae, program = make_pair(*networks, split.train, guide=guide, prior=prior, latent_dim=args.latent_dim)
    steps = args.epochs * -(-len(split.train) // BATCH)
    optimiser = FusedOptim(
        torch.optim.Adam,
        {"lr": args.lr},
        scheduler=lambda optimizer: CosineAnnealingLR(optimizer, args.epochs),
    )
    # Without a warm-up latent dimensions die early, more of them under a better guide
    objective = BetaELBO(beta=Linear(0.0, 1.0, steps=max(1, steps // 2)))
    training = fit(
        CapturedSVI(vae.model, program, optimiser, objective),
        split.train,
        epochs=args.epochs,
        batch_size=BATCH,
        validation=split.validation,
        callbacks=[LearningRateSchedule(), EarlyStopping(PATIENCE, monitor="validation_elbo")],
        progress=False,
        seed=seed,
    )
    both = {"model": vae.model, "guide": program, "seed": seed}
    evidence = diagnostics.evidence(**both, data=split.holdout, num_samples=args.draws)
    account = decompose(**both, data=split.train, holdout=split.holdout, num_samples=1)
    row = {
        "best_epoch": int(training["validation_elbo"].argmax()) + 1,
        "validation_elbo": float(training["validation_elbo"].max()),
        "evidence": float(evidence.lower),
        "heavy": float((evidence.pareto_k > 0.7).double().mean()),
    }
    for name in ("elbo", "rate", "mutual_information", "prior_gap"):
        row |= {f"train_{name}": float(getattr(account, name)), name: float(getattr(account.holdout, name))}
    return row, evidence.per_datum


def compare(runs: pd.DataFrame, evidence: pd.DataFrame) -> pd.DataFrame:
    """A row a pair: means over the folds, and what it wins of the log-evidence, image by image.

    Args:
        runs: numbers, indexed by (fold, pair).
        evidence: log-evidence, indexed by (fold, image), a column a pair.
    """
    gains = evidence.sub(evidence[BASELINE], axis=0)
    per_fold = gains.groupby("fold").mean()
    compared = {
        "gain": per_fold.mean(),
        "error_folds": per_fold.sem(),
        "error_images": gains.sem(),
        "folds_won": (per_fold > 0).sum(),
    }
    return pd.DataFrame(compared).join(runs.groupby("pair").mean())


def show(table: pd.DataFrame) -> str:
    columns = {
        "evidence": "evidence",
        "gain": "gain",
        "error_folds": "± folds",
        "error_images": "± images",
        "folds_won": "folds won",
        "elbo": "ELBO",
        "rate": "rate",
        "train_mutual_information": "I (train)",
        "train_prior_gap": "gap (train)",
        "prior_gap": "gap",
        "heavy": "k > 0.7",
    }
    return table[list(columns)].rename(columns=columns).to_string(float_format="{:.3f}".format)


def draw(evidence: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """The gains with intervals of 95 % from the folds, and the gain of each fold."""
    ax = new_axes(8, 4.5)
    per_fold = evidence.groupby("fold").mean()
    shown = table.drop(BASELINE)[::-1]
    for place, pair in enumerate(shown.index):
        gains = per_fold[pair] - per_fold[BASELINE]
        ax.plot(gains, [place] * len(gains), "o", color="0.7", markersize=4)
    half = student.ppf(0.975, len(per_fold) - 1) * shown["error_folds"]
    ax.errorbar(shown["gain"], range(len(shown)), xerr=half, fmt="o", capsize=3)
    ax.axvline(0, color="0.6", linewidth=1)
    ax.set_yticks(range(len(shown)), shown.index)
    ax.set(
        xlabel="held-out log-evidence above the baseline, nats per image",
        title=f"Guide + prior, against {BASELINE}: 95 % over {len(per_fold)} folds",
    )
    save(path, ax)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folds", type=int, default=HELD_OUT, help=f"2 to {HELD_OUT}")
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--width", type=int, default=128, help="of the hidden layers")
    parser.add_argument("--epochs", type=int, default=150, help="at most")
    parser.add_argument("--lr", type=float, default=5e-3, help="learning rate at first")
    parser.add_argument("--draws", type=int, default=500, help="of z for each held-out image")
    parser.add_argument("--only", nargs="+", metavar="PAIR", help="beside the baseline, as full+standard")
    parser.add_argument("--out", type=Path, default=Path("runs/digits_guides"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="few images and epochs, to see that all works")
    args = parser.parse_args(argv)
    if not 2 <= args.folds <= HELD_OUT:
        parser.error(f"Expected --folds from 2 to {HELD_OUT} but got {args.folds}.")
    by_name = {"+".join(pair): pair for pair in PAIRS[1:]}
    if unknown := sorted(set(args.only or []) - by_name.keys()):
        parser.error(f"Expected --only of {', '.join(by_name)} but got {', '.join(unknown)}.")
    args.pairs = PAIRS[:1] + [by_name[name] for name in args.only or by_name]
    if args.smoke:
        args.folds, args.epochs, args.draws = 2, 1, 10
        args.pairs = args.pairs if args.only else args.pairs[::3]
    return args


def run_all(args: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Numbers by (fold, pair), and the log-evidence of every held-out image, a column a pair."""
    images = binarize(load_digits().images)[: SMOKE_DATA if args.smoke else None]
    rows, columns = {}, {}
    for fold, pair in tqdm(list(product(range(args.folds), args.pairs)), unit="pair", disable=args.smoke):
        split = deal(images, fold, seed=args.seed)
        rows[fold, " + ".join(pair)], column = run_pair(*pair, split, args, seed=args.seed + fold)
        columns[fold, " + ".join(pair)] = pd.Series(column.numpy())
    runs = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["fold", "pair"])
    evidence = pd.DataFrame(columns).stack(0, future_stack=True)  # (image, fold)
    evidence = evidence.swaplevel().rename_axis(["fold", "image"]).dropna()
    return runs, evidence


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    runs, evidence = run_all(args)
    table = compare(runs, evidence)
    print(f"Nats per held-out image; {args.folds} folds, {args.latent_dim} latent dimensions\n")
    print(show(table))
    args.out.mkdir(parents=True, exist_ok=True)
    runs.to_csv(args.out / "runs.csv")
    evidence.to_csv(args.out / "evidence.csv")
    table.rename_axis("pair").to_csv(args.out / "digits_guides.csv")
    draw(evidence, table, args.out / "digits_guides.png")
    print(f"\nTables and a picture are in {args.out}")


if __name__ == "__main__":
    main()
