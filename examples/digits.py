"""The main job: train a VAE on digits, account for its nats on held-out ones too, leave tables and pictures.

    python examples/digits.py --objective infomax --lam 1 --out runs/digits
    python examples/digits.py --objective elbo --guide full --prior vamp --out runs/full_vamp

    python examples/digits.py --data mnist.npz --images-key x_train --labels-key y_train
    python examples/digits.py --data train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz

Any npz with an array ``images`` or ``x``, and optionally ``labels``, or with arrays that are named takes the
place of scikit-learn's digits, as do IDX files.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pyro
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import LabelledImages, binarize, load_digits, load_idx, load_npz
from pyro_infomax.diagnostics import Convergence, Decomposition, convergence, decompose, to_arviz
from pyro_infomax.distributions import CouplingFlow
from pyro_infomax.guides import (
    AmortizedFlow,
    AmortizedGuide,
    AmortizedLowRankNormal,
    AmortizedMultivariateNormal,
)
from pyro_infomax.infer import BetaELBO, InfoMaxELBO, WeightedELBO
from pyro_infomax.joint import generative
from pyro_infomax.nn import (
    ConvDecoder,
    ConvEncoder,
    FlowHead,
    LowRankNormalHead,
    MLPDecoder,
    MLPEncoder,
    MultivariateNormalHead,
)
from pyro_infomax.plots import (
    aggregate_against_prior,
    history,
    information_over_size,
    information_per_dimension,
    latent_scatter,
    most_informative,
    reconstructions,
    traversals,
)
from pyro_infomax.priors import FlowPrior, MixturePrior, VampPrior
from pyro_infomax.training import History, fit
from pyro_infomax.vae import VAE

MOST_COLOURS = 20
MOST_ROWS = 8
SMOKE_DATA = 128
HELD_OUT = 6  # one image of so many
PRIOR_DRAWS = 5_000
COMPONENTS = 50  # of the mixture and the VampPrior
GUIDES = {
    "full": (AmortizedMultivariateNormal, MultivariateNormalHead),
    "low-rank": (AmortizedLowRankNormal, LowRankNormalHead),
    "flow": (AmortizedFlow, partial(FlowHead, flow=partial(CouplingFlow, layers=2, bins=4, hidden=(32,)))),
}
PRIORS = ("standard", "mixture", "vamp", "flow")
Program = Callable[..., Tensor | dict[str, Tensor]]


def parser() -> argparse.ArgumentParser:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--objective", choices=["elbo", "beta", "infomax"], default="infomax")
    args.add_argument("--lam", type=float, help="InfoMax weight, above -1 (objective infomax; default 1)")
    args.add_argument("--beta", type=float, help="rate weight, at least 0 (objective beta; default 4)")
    args.add_argument(
        "--likelihood", choices=["bernoulli", "continuous_bernoulli", "gaussian"], default="bernoulli"
    )
    args.add_argument("--network", choices=["mlp", "conv"], default="mlp")
    args.add_argument("--guide", choices=["normal", *GUIDES], default="normal", help="shape of q(z|x)")
    args.add_argument("--prior", choices=PRIORS, default="standard", help="p(z); all but the first train")
    args.add_argument("--latent-dim", type=int, default=4, help="at least 2")
    args.add_argument("--epochs", type=int, default=100)
    args.add_argument("--data", type=Path, help="an npz with images or x, and optionally labels; or IDX")
    args.add_argument("--labels", type=Path, help="an IDX file of labels, beside an IDX file of images")
    args.add_argument("--images-key", help="name of the array of images in the npz")
    args.add_argument("--labels-key", help="name of the array of labels in the npz")
    args.add_argument("--white", type=float, help="number that is white, where it is not 255 of bytes or 1")
    args.add_argument("--channels", choices=["first", "last"], help="where colour images have their channels")
    args.add_argument("--out", type=Path, default=Path("runs/digits"), help="where tables and pictures go")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--smoke", action="store_true", help="few data, one epoch: seconds")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    cli = parser()
    args = cli.parse_args(argv)
    try:
        run(args)
    except (ValueError, OSError) as error:
        cli.exit(2, f"{cli.prog}: error: {str(error).splitlines()[0]}\n")


def run(args: argparse.Namespace) -> None:
    if args.latent_dim < 2:
        raise ValueError(f"Expected --latent-dim >= 2, which the pictures need, but got {args.latent_dim}")
    objective = make_objective(args)
    data, holdout = split(load(args), args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    networks = make_networks(args, tuple(data.images.shape[1:]))
    kind = {name: getattr(args, name) for name in ("guide", "prior", "latent_dim", "likelihood")}
    vae, guide = make_pair(*networks, data.images, **kind)
    # Records a step once and replays it; SVI in its place takes ordinary steps, with the same numbers
    svi = CapturedSVI(vae.model, guide, FusedOptim(torch.optim.Adam, {"lr": 2e-3}), objective)
    epochs = 1 if args.smoke else args.epochs
    training = fit(svi, data.images, epochs=epochs, validation=holdout.images, seed=args.seed)

    start = time.perf_counter()
    pair = {"model": vae.model, "guide": guide, "data": data.images, "num_samples": 2, "seed": args.seed}
    account = decompose(**pair, holdout=holdout.images)
    seconds = time.perf_counter() - start
    print(f"\n{describe(objective)}, {len(data.images)} images, {args.latent_dim} latent dimensions\n")
    print(account)
    print(f"The account took {seconds:.1f} s.\n")
    curve = convergence(**pair)
    print(curve)
    save_tables(args, pair, training, account)
    curve.to_frame().to_csv(args.out / "convergence.csv")
    save_pictures(args.out, vae, guide, data, training, account, curve)
    print(f"\nTables and pictures are in {args.out}")


def make_objective(args: argparse.Namespace) -> WeightedELBO:
    if args.lam is not None and args.objective != "infomax":
        raise ValueError(f"Expected --lam with --objective infomax but got it with {args.objective}")
    if args.beta is not None and args.objective != "beta":
        raise ValueError(f"Expected --beta with --objective beta but got it with {args.objective}")
    if args.objective == "infomax":
        return InfoMaxELBO(lam=1.0 if args.lam is None else args.lam)
    return BetaELBO(beta=1.0 if args.objective == "elbo" else 4.0 if args.beta is None else args.beta)


def describe(objective: WeightedELBO) -> str:
    if isinstance(objective, InfoMaxELBO):
        lam, beta = objective.lam, 1 / (1 + objective.lam)
    else:
        beta = objective.beta
        lam = 1 / beta - 1 if beta else math.inf
    return f"{type(objective).__name__}: lambda = {lam:g}, beta = {beta:g}"


def read(args: argparse.Namespace) -> LabelledImages:
    named = {"--labels": args.labels, "--images-key": args.images_key, "--labels-key": args.labels_key}
    named |= {"--white": args.white, "--channels": args.channels}
    if args.data is None:
        if given := [name for name, value in named.items() if value is not None]:
            raise ValueError(f"Expected {given[0]} beside --data, whose images it is about")
        return load_digits()
    scale = {"white": args.white, "channels": args.channels}
    is_npz = args.data.suffix == ".npz"
    if wrong := [
        name for name in (("--labels",) if is_npz else ("--images-key", "--labels-key")) if named[name]
    ]:
        raise ValueError(f"Expected keys with an npz file, --labels with an IDX file, but got {wrong[0]}")
    if is_npz:
        return load_npz(args.data, images=args.images_key, labels=args.labels_key, **scale)
    return load_idx(args.data, args.labels, **scale)


def load(args: argparse.Namespace) -> LabelledImages:
    data = read(args)
    if len(data.images) < 3 or data.images.dim() > 4:
        raise ValueError(
            "Expected at least three images of at most three axes each but got shape "
            f"{tuple(data.images.shape)}"
        )
    if args.smoke:
        data = LabelledImages(
            data.images[:SMOKE_DATA], None if data.labels is None else data.labels[:SMOKE_DATA]
        )
    if args.likelihood == "bernoulli":
        # grey values have no density under a Bernoulli, and the account is to be one of densities
        return LabelledImages(binarize(data.images), data.labels)
    return data


def split(data: LabelledImages, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Images to train on and images to hold out, at random: files may be in the order of their labels."""
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(seed))
    held_out = max(1, len(order) // HELD_OUT)
    parts = order[:-held_out].sort().values, order[-held_out:].sort().values
    train, test = (
        LabelledImages(data.images[rows], None if data.labels is None else data.labels[rows])
        for rows in parts
    )
    return train, test


def make_networks(args: argparse.Namespace, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    if args.network == "conv":
        return ConvEncoder(shape), ConvDecoder(args.latent_dim, shape)
    return MLPEncoder(shape), MLPDecoder(args.latent_dim, shape)


def make_pair(
    encoder: nn.Module,
    decoder: nn.Module,
    images: Tensor,
    *,
    guide: str,
    prior: str,
    latent_dim: int,
    likelihood: str = "bernoulli",
) -> tuple[VAE, Program]:
    """A VAE and its guide: the VAE's own, which is a diagonal Normal, or one of another family."""
    build = partial(VAE, encoder, decoder, latent_dim=latent_dim, likelihood=likelihood)
    if guide == "normal":
        vae = build(prior=make_prior(prior, latent_dim, images))
        return vae, vae.guide
    family, make_head = GUIDES[guide]
    # A head made here serves the guide and, on pseudo-inputs, the VampPrior
    head = make_head(encoder.out_features, (latent_dim,))
    vae = build(prior=make_prior(prior, latent_dim, images, lambda u: head(encoder(u))))
    return vae, family(vae.model, encoder, heads={"z": head})


def make_prior(
    prior: str,
    latent_dim: int,
    images: Tensor,
    posterior: Callable[[Tensor], Distribution] | None = None,
) -> nn.Module | None:
    """The prior; a VampPrior without a posterior takes that of the VAE."""
    if prior == "mixture":
        return MixturePrior(latent_dim, num_components=COMPONENTS)
    if prior == "vamp":
        return VampPrior(images[:COMPONENTS], posterior)
    return FlowPrior(latent_dim) if prior == "flow" else None


def save_tables(
    args: argparse.Namespace, pair: dict[str, Any], training: History, account: Decomposition
) -> None:
    training.to_frame().to_csv(args.out / "history.csv")
    account.to_frame().to_csv(args.out / "decomposition.csv")
    posterior = to_arviz(
        **pair | {"num_samples": 20}, history=training, dims={"z": ["latent"]}, decomposition=account
    )
    posterior.to_netcdf(args.out / "posterior.nc")


@torch.no_grad()
def save_pictures(
    out: Path,
    vae: VAE,
    guide: Program,
    data: LabelledImages,
    training: History,
    account: Decomposition,
    curve: Convergence,
) -> None:
    vae.eval()
    z, centre = encode(vae, guide, data.images)
    prior = generative(vae.model).sample(PRIOR_DRAWS, data.images)["z"]
    information = informative(account, centre)
    pair = most_informative(information)
    names = list(account.latent_names)
    labels = data.labels
    if labels is not None and (classes := len(labels.unique())) > MOST_COLOURS:
        print(f"\n{classes} classes are more than the {MOST_COLOURS} that can be told apart: none are drawn")
        labels = None

    save(out / "history.png", history(training.to_frame(), ax=new_axes(8, 4.5)))
    save(out / "convergence.png", information_over_size(curve.to_frame(), ax=new_axes(8, 4.5)))
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
    save(
        out / "aggregate.png",
        aggregate_against_prior(z, prior, dimensions=pair, names=names, ax=new_axes(7, 6)),
    )
    save(
        out / "latents.png",
        latent_scatter(centre, labels, dimensions=pair, names=names, ax=new_axes(7, 6)),
    )

    rows = min(vae.latent_dim, MOST_ROWS)
    size = {"figsize": (9, 2.6 + 0.85 * rows), "height_ratios": [2, rows], "layout": "constrained"}
    axes = plt.subplots(2, 1, **size)[1]
    images = as_pictures(data.images)
    decoded = vae.likelihood.centre(vae.decode(centre))
    reconstructions(images, as_pictures(decoded), ax=axes[0])
    steps = torch.linspace(-2.5, 2.5, 11)
    order = information.argsort(descending=True)[:rows]
    traversals(
        walk(vae, prior, order, steps, images.shape[1:]),
        values=steps,
        names=[names[j] for j in order],
        ax=axes[1],
    )
    axes[1].set_xlabel("standard deviations of the prior from its mean")
    save(out / "images.png", axes[0])


def encode(vae: VAE, guide: Program, images: Tensor) -> tuple[Tensor, Tensor]:
    """One draw of the latents of each image, and the centres of their posteriors, (image, latent)."""
    if isinstance(guide, AmortizedGuide):
        return guide.sample(images)["z"][0], guide.median(images)["z"]
    posterior = vae.encode(images)
    return posterior.sample(), posterior.mean


def informative(account: Decomposition, centre: Tensor) -> Tensor:
    """How much each latent dimension tells, (latent,): in nats, or else by how far its centre moves."""
    if account.dimensionwise_rate is None or account.dimensionwise_kl is None:
        return centre.var(0)
    return account.dimensionwise_rate.value - account.dimensionwise_kl.value


def walk(vae: VAE, prior: Tensor, dimensions: Tensor, steps: Tensor, shape: torch.Size) -> Tensor:
    """Decoded images with one latent moved away from the prior's centre, (dimension, step, *image).

    Steps are standard deviations of the prior, from which ``prior`` (draw, latent) was drawn.
    """
    z = prior.mean(0).repeat(len(dimensions), len(steps), 1)
    for row, j in enumerate(dimensions):
        z[row, :, j] += prior[:, j].std() * steps
    return vae.likelihood.centre(vae.decode(z)).reshape(len(dimensions), len(steps), *shape)


def as_pictures(images: Tensor) -> Tensor:
    """Images as they are; flat ones as the squares that they come from, or as one row of pixels."""
    if images.dim() > 2:
        return images
    side = math.isqrt(images.shape[1])
    shape = (side, side) if side**2 == images.shape[1] else (1, images.shape[1])
    return images.reshape(-1, *shape)


def new_axes(width: float, height: float) -> plt.Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def save(path: Path, ax: plt.Axes) -> None:
    ax.figure.savefig(path, dpi=130)
    plt.close(ax.figure)


if __name__ == "__main__":
    main(sys.argv[1:])
