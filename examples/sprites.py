"""Sprites, whose factors are known: train a VAE, account for its nats, score its codes, see what they do.

    python examples/sprites.py --objective beta --beta 2 --out runs/sprites
    python examples/sprites.py --objective infomax --lam 1 --guide full --correlated 0.2
    python examples/sprites.py --full --device cuda
    python examples/sprites.py --data dsprites.npz --device cuda

The first takes some minutes on two cores. ``--full`` is the grid of dSprites, 737,280 images of 64 by 64
pixels, drawn when a batch asks for them and never all in memory: take a GPU. ``--data`` reads the official
images instead. Whatever the training sees, the scores see all combinations of factors, equally often.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from digits import describe, encode, informative, make_objective, make_pair, new_axes, save
from torch import Tensor
from torch.utils.data import Dataset

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import (
    FactorDataset,
    FactorImages,
    GreyLevels,
    Hues,
    Noise,
    RandomColour,
    Sprites,
    load_dsprites,
)
from pyro_infomax.diagnostics import Decomposition, decompose
from pyro_infomax.disentanglement import Calibration, ScoreTable, score
from pyro_infomax.nn import ConvDecoder, ConvEncoder
from pyro_infomax.plots import (
    history,
    importance_matrix,
    information_matrix,
    information_per_dimension,
    reconstructions,
    scores,
    traversal_animation,
    traversals,
)
from pyro_infomax.training import History, fit
from pyro_infomax.vae import VAE

# A square looks the same after each quarter of a turn, which five orientations never make
SMALL = {"scales": 4, "orientations": 5, "endpoint": False, "positions": 8, "size": 32}
SMOKE = {"scales": 2, "orientations": 2, "endpoint": False, "positions": 4, "size": 16}
SMALL_TRAINING = {"beta": 2.0, "width": 16, "epochs": 110, "batch_size": 64, "lr": 2e-3}
FULL_TRAINING = {"beta": 4.0, "width": 32, "epochs": 15, "batch_size": 256, "lr": 5e-4}
SMOKE_TRAINING = {"beta": 2.0, "width": 4, "epochs": 1, "batch_size": 64, "lr": 2e-3}
PAINTS: dict[str, Callable[[], dict[str, Any]]] = {
    "white": dict,
    "grey": lambda: {"background": GreyLevels(0.0, 0.2, 0.4)},
    "hues": lambda: {"sprite": Hues(6)},
    "colour": lambda: {"sprite": RandomColour()},
    "noise": lambda: {"background": Noise()},
}
IN_MEMORY = 50_000  # images; more are drawn when a batch asks for them
ACCOUNTED = 10_000  # images, at most, whose nats are accounted for
CHANNELS = (1, 1, 2, 2, 4, 4)  # of each halving of the images, down to a side of 4 pixels, by --width
FEATURES = 8  # likewise
ACTIVE = 0.01  # variance of a code over the data, as in the account
HEART = 2
SMOKE_DATA = 192
STEPS, SMOKE_STEPS = 17, 5  # of a traversal
FEW = {"which": ["mig", "dci"], "num_points": 900, "calibration": Calibration(bootstraps=2, permutations=2)}


class Source(NamedTuple):
    """Data that come by their factors."""

    trained: FactorDataset  # what the VAE sees
    scored: FactorDataset  # all combinations, equally often


class OnDevice(Dataset[Tensor]):
    """Images that are drawn when a batch asks for them, and moved in one piece."""

    def __init__(self, images: FactorImages, device: torch.device) -> None:
        self.images, self.device = images, device

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        return list(torch.stack(self.images.__getitems__(indices)).to(self.device))


class Trained(NamedTuple):
    """What there is when the training has ended."""

    vae: VAE
    guide: Any
    history: History
    images: Tensor  # those accounted for
    account: Decomposition
    scores: ScoreTable
    factor_names: tuple[str, ...]


def parser() -> argparse.ArgumentParser:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--objective", choices=["elbo", "beta", "infomax"], default="beta")
    args.add_argument(
        "--beta", type=float, help="rate weight, at least 0 (objective beta; default 2, in full 4)"
    )
    args.add_argument("--lam", type=float, help="InfoMax weight, above -1 (objective infomax; default 1)")
    args.add_argument("--guide", choices=["normal", "full"], default="normal", help="covariance of q(z|x)")
    args.add_argument(
        "--likelihood",
        choices=["bernoulli", "continuous_bernoulli", "gaussian"],
        help="default bernoulli for white on black, gaussian for any other paint",
    )
    args.add_argument("--latent-dim", type=int, default=6, help="at least 2")
    args.add_argument("--width", type=int, help="channels of the first layer; default 16, in full 32")
    args.add_argument("--epochs", type=int, help="default 110, in full 15")
    args.add_argument("--batch-size", type=int, help="default 64, in full 256")
    args.add_argument("--lr", type=float, help="learning rate; default 0.002, in full 0.0005")
    args.add_argument("--device", default="cpu", help="such as cuda")
    args.add_argument("--resume", action="store_true", help="keep the training in OUT, and go on with it")
    args.add_argument("--out", type=Path, default=Path("runs/sprites"), help="where tables and pictures go")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--smoke", action="store_true", help="few data, one epoch: seconds")
    data = args.add_argument_group("data")
    data.add_argument("--full", action="store_true", help="the full grid of dSprites, drawn batch by batch")
    data.add_argument("--data", type=Path, help="the official npz of dSprites")
    data.add_argument("--size", type=int, help="side of the images in pixels; default 32")
    data.add_argument("--scales", type=int, help="how many; default 4")
    data.add_argument("--orientations", type=int, help="how many; default 5")
    data.add_argument("--positions", type=int, help="how many along either axis; default 8")
    data.add_argument("--paint", choices=list(PAINTS), help="grey and hues are factors, the others nuisances")
    data.add_argument("--correlated", type=float, metavar="SIGMA", help="train on x and y that correlate")
    data.add_argument("--missing", action="store_true", help="train without hearts in the right half")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    cli = parser()
    args = cli.parse_args(argv)
    try:
        run(args)
    except (ValueError, OSError) as error:
        cli.exit(2, f"{cli.prog}: error: {str(error).splitlines()[0]}\n")


def run(args: argparse.Namespace) -> None:
    check(args)
    fill_in(args)
    objective, device = make_objective(args), checked_device(args.device)
    source = load(args)
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = source.trained.as_dataset(num_points(args, source.trained), seed=args.seed)
    data = on_device(drawn, device)

    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    images = some(drawn, device)
    vae, guide = make_programs(args, images)
    svi = CapturedSVI(vae.model, guide, FusedOptim(torch.optim.Adam, {"lr": args.lr}), objective)
    start = time.perf_counter()
    training = fit(
        svi,
        data,
        epochs=args.epochs,
        batch_size=args.batch_size,
        checkpoint=args.out / "training.pt" if args.resume else None,
        resume=args.resume,
        seed=args.seed,
    )
    seconds = {"training": time.perf_counter() - start}

    start = time.perf_counter()
    account = decompose(vae.model, guide, images, num_samples=2, seed=args.seed)
    seconds["the account"] = time.perf_counter() - start

    start = time.perf_counter()
    codes = encoder_of(vae, guide, images)
    table = score(codes, source.scored, seed=args.seed, **(FEW if args.smoke else {}))
    seconds["the scores"] = time.perf_counter() - start
    found = Trained(vae, guide, training, images, account, table, source.scored.factor_names)
    report(found, describe(objective), len(data), seconds)
    save_tables(args.out, found)
    save_pictures(args.out, found, torch.linspace(-2, 2, SMOKE_STEPS if args.smoke else STEPS))
    print(f"\nTables and pictures are in {args.out}")


# ---- the data


def check(args: argparse.Namespace) -> None:
    """Numbers out of range, and options that do not go together."""
    least = dict.fromkeys(["latent_dim", "scales", "orientations", "positions"], 2)
    least |= dict.fromkeys(["width", "epochs", "batch_size"], 1)
    for name, smallest in least.items():
        value = getattr(args, name)
        if value is not None and value < smallest:
            raise ValueError(f"Expected --{name.replace('_', '-')} >= {smallest} but got {value}")
    for name in ("lr", "correlated"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"Expected --{name} > 0 but got {value:g}")
    if args.data is not None and (args.full or args.paint or own_grid(args)):
        raise ValueError("Expected --data without --full, --paint or a grid: the file has its own images")
    if args.likelihood == "bernoulli" and args.paint not in (None, "white"):
        raise ValueError(f"Expected another likelihood than bernoulli for --paint {args.paint}: see --help")


def fill_in(args: argparse.Namespace) -> None:
    """What the command line leaves open."""
    in_full = args.full or args.data is not None
    training = SMOKE_TRAINING if args.smoke else FULL_TRAINING if in_full else SMALL_TRAINING
    for name, value in training.items():
        if getattr(args, name) is None and (name != "beta" or args.objective == "beta"):
            setattr(args, name, value)


def own_grid(args: argparse.Namespace) -> dict[str, int]:
    """What the command line says of the grid."""
    given = {name: getattr(args, name) for name in ("size", "scales", "orientations", "positions")}
    return {name: value for name, value in given.items() if value is not None}


def load(args: argparse.Namespace) -> Source:
    if args.data is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        build = partial(load_dsprites, args.data, unpack_to=args.out / "dsprites.npy")
    else:
        grid = SMOKE if args.smoke else {} if args.full else SMALL
        build = partial(Sprites, **grid | own_grid(args), **PAINTS[args.paint or "white"]())
    everything = build()
    restrictions: dict[str, Any] = {}
    if args.correlated is not None:
        restrictions["correlated"] = {("position_x", "position_y"): args.correlated}
    if args.missing:
        restrictions["where"] = partial(no_hearts_at_the_right, middle=everything.factor_sizes[3] / 2)
    return Source(build(**restrictions) if restrictions else everything, everything)


def num_points(args: argparse.Namespace, data: FactorDataset) -> int | None:
    """How many data to draw; None for each combination once."""
    if args.smoke:
        return min(SMOKE_DATA, len(data))
    return len(data) if args.correlated is not None else None


def no_hearts_at_the_right(factors: np.ndarray, *, middle: float) -> np.ndarray:
    return (factors[:, 0] != HEART) | (factors[:, 3] < middle)


def checked_device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Expected a --device that is there but got {name}") from error


def on_device(images: FactorImages, device: torch.device) -> Tensor | OnDevice:
    """What is small is drawn once."""
    lazily = OnDevice(images, device)
    return lazily if len(images) > IN_MEMORY else rows(lazily, torch.arange(len(images)))


def rows(images: Dataset[Tensor], index: Tensor) -> Tensor:
    return torch.cat([torch.stack(images.__getitems__(part.tolist())) for part in index.split(1024)])


def some(images: FactorImages, device: torch.device) -> Tensor:
    """The images that are accounted for, drawn without replacement."""
    index = torch.randperm(len(images))[:ACCOUNTED]
    return rows(OnDevice(images, device), index)


# ---- the programs


def make_programs(args: argparse.Namespace, images: Tensor) -> tuple[VAE, Any]:
    shape = tuple(images.shape[1:])
    halvings = max(1, round(math.log2(shape[-1] / 4)))
    channels, features = [args.width * times for times in CHANNELS[:halvings]], args.width * FEATURES
    encoder = ConvEncoder(shape, channels=channels, out_features=features)
    decoder = ConvDecoder(args.latent_dim, shape, channels=channels[::-1], hidden=features)
    binary = args.paint in (None, "white")
    return make_pair(
        encoder.to(images.device),
        decoder.to(images.device),
        images,
        guide=args.guide,
        prior="standard",
        latent_dim=args.latent_dim,
        likelihood=args.likelihood or ("bernoulli" if binary else "gaussian"),
    )


def encoder_of(vae: VAE, guide: Any, images: Tensor) -> Callable[[Tensor], Tensor]:
    """From images to codes: the centres of their posteriors, 0 in dimensions that are not active.

    A centre that moves by far less than a draw from its posterior still tells all to a score that knows no
    noise.
    """
    device = images.device

    @torch.no_grad()
    def codes(images: Tensor) -> Tensor:
        return encode(vae, guide, images.to(device))[1]

    active = codes(images).var(0) > ACTIVE
    return lambda images: codes(images) * active


# ---- what is left


def report(found: Trained, objective: str, size: int, seconds: dict[str, float]) -> None:
    print(f"\n{objective}; {size:,} images, {len(found.images):,} of them accounted for\n")
    print(found.account)
    print("\nScores of the codes, the centres of active dimensions, on factors drawn independently\n")
    print(found.scores)
    print(f"\n{whereabouts(found)}\n")
    print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))


def whereabouts(found: Trained) -> str:
    """A line a factor: the two codes that know most of it."""
    shares = known_shares(found.scores, found.factor_names)
    lines = ["What the two codes that know most of a factor know of it:"]
    for name, column in shares.items():
        best = column.nlargest(2)
        lines.append(f"  {name:12} " + ", ".join(f"{code} {share:4.0%}" for code, share in best.items()))
    return "\n".join(lines)


def known_shares(table: ScoreTable, factor_names: Sequence[str]) -> pd.DataFrame:
    """The information of each code about each factor, as a share of the factor's entropy."""
    parts = table["mig"].parts
    return matrix(parts["mutual_information"] / parts["entropy"], factor_names)


def matrix(values: np.ndarray, factor_names: Sequence[str]) -> pd.DataFrame:
    codes = pd.Index([f"z[{j}]" for j in range(len(values))], name="code")
    return pd.DataFrame(values, index=codes, columns=list(factor_names))


def save_tables(out: Path, found: Trained) -> None:
    found.history.to_frame().to_csv(out / "history.csv")
    found.account.to_frame().to_csv(out / "decomposition.csv")
    found.scores.to_frame().rename_axis("name").to_csv(out / "scores.csv")
    known_shares(found.scores, found.factor_names).to_csv(out / "information.csv")
    importance = found.scores["dci"].parts["importance"]
    matrix(importance, found.factor_names).to_csv(out / "importance.csv")


@torch.no_grad()
def save_pictures(out: Path, found: Trained, steps: Tensor) -> None:
    account, vae = found.account, found.vae
    codes = encode(vae, found.guide, found.images)[1].cpu()
    information = informative(account, codes)
    names = list(account.latent_names)

    save(out / "history.png", history(found.history.to_frame(), ax=new_axes(8, 4.5)))
    if account.dimensionwise_rate is None or account.dimensionwise_kl is None:
        print("\nWithout a rate of each latent dimension there is no picture of them: see the account")
    else:
        bars = information_per_dimension(
            account.dimensionwise_rate.value,
            account.dimensionwise_kl.value,
            standard_error=account.dimensionwise_kl.standard_error,
            names=names,
            ax=new_axes(8, 4.5),
        )
        save(out / "information.png", bars)
    save_matrices(out / "matrices.png", found, names)
    save(out / "scores.png", scores(drawable(found.scores), ax=new_axes(9, 5)))

    order = information.argsort(descending=True)
    moved = walk(vae, codes, order, steps, device=found.images.device)
    chosen = [names[j] for j in order]
    traversal_animation(moved, out / "traversals.gif", values=steps, names=chosen)
    save_images(out / "images.png", found, moved[:, ::2], steps[::2], chosen)


def drawable(table: ScoreTable) -> pd.DataFrame:
    """The scores that lie between a floor and a ceiling."""
    return table.to_frame().dropna(subset=["floor", "ceiling"])


def save_matrices(path: Path, found: Trained, names: Sequence[str]) -> None:
    known = {"factor_names": found.factor_names, "latent_names": names, "ordered": True}
    height = 2 + 0.4 * len(names)
    axes = plt.subplots(2, 1, figsize=(8, 2 * height), layout="constrained")[1]
    importance_matrix(found.scores["dci"].parts["importance"], **known, ax=axes[0])
    parts = found.scores["mig"].parts
    information_matrix(parts["mutual_information"], entropies=parts["entropy"], **known, ax=axes[1])
    save(path, axes[0])


def save_images(path: Path, found: Trained, moved: Tensor, steps: Tensor, names: Sequence[str]) -> None:
    count = len(moved)
    size = {"figsize": (9, 2.6 + 0.85 * count), "height_ratios": [2, count], "layout": "constrained"}
    axes = plt.subplots(2, 1, **size)[1]
    shown = found.images[:10]
    centre = encode(found.vae, found.guide, shown)[1]
    decoded = found.vae.likelihood.centre(found.vae.decode(centre))
    reconstructions(shown.cpu(), decoded.cpu(), ax=axes[0])
    traversals(moved, values=steps, names=names, ax=axes[1])
    axes[1].set_xlabel("standard deviations of the code from its mean")
    save(path, axes[0])


def walk(vae: VAE, codes: Tensor, order: Tensor, steps: Tensor, *, device: torch.device) -> Tensor:
    """Decoded images with one latent moved, (dimension, step, *image), around the most central datum.

    Steps are standard deviations of the code, ``codes`` those of all data.
    """
    mean, spread = codes.mean(0), codes.std(0)
    # The middle itself may lie between the shapes, where no image is
    centre = codes[((codes - mean) / spread.clamp(min=1e-6)).norm(dim=1).argmin()]
    z = centre.repeat(len(order), len(steps), 1)  # (dimension, step, latent)
    for row, j in enumerate(order):
        z[row, :, j] = mean[j] + spread[j] * steps
    return vae.likelihood.centre(vae.decode(z.to(device))).cpu()


if __name__ == "__main__":
    main(sys.argv[1:])
