"""A VAE on digits whose training survives: stop it, kill it, start it again, and it goes on.

The training is kept in a checkpoint. Whatever ends it, the same command line goes on where it stood, and the
parameters at the end are the same, to the bit, as if nothing had happened. The last line shows a number made
of all of them, to compare.

    python examples/resume.py --out runs/resume
    python examples/resume.py --out runs/resume --stop-after 500     # leaves in the middle of an epoch
    python examples/resume.py --out runs/resume                      # goes on
"""

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_infomax.capture import FusedOptim
from pyro_infomax.datasets import load_digits
from pyro_infomax.infer import BetaELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.schedules import Linear
from pyro_infomax.training import Checkpoint, EarlyStopping, History, fit
from pyro_infomax.vae import VAE

HELD_OUT = 297


class Leaving(SVI):
    """SVI in a process that ends without a word after some steps, as one that is killed does.

    A ``CapturedSVI`` resumes to the bit too; its steps, many a call, leave no place to end at.
    """

    steps_left: int | None = None

    def step(self, *args: Tensor) -> float:
        if self.steps_left == 0:
            os._exit(1)
        if self.steps_left is not None:
            self.steps_left -= 1
        loss: float = super().step(*args)
        return loss


def build(*, latent_dim: int, seed: int) -> VAE:
    pyro.set_rng_seed(seed)
    encoder = MLPEncoder(64, hidden=(128,))
    decoder = MLPDecoder(latent_dim, 64, hidden=(128,))
    return VAE(encoder, decoder, latent_dim=latent_dim)


def train(vae: VAE, x: Tensor, held_out: Tensor, args: argparse.Namespace) -> History:
    epochs = 4 if args.smoke else args.epochs
    warm_up = Linear(0.0, 1.0, steps=5 * epochs)
    svi = Leaving(vae.model, vae.guide, FusedOptim(torch.optim.Adam, {"lr": 2e-3}), BetaELBO(warm_up))
    svi.steps_left = args.stop_after
    return fit(
        svi,
        x,
        epochs=epochs,
        validation=held_out,
        callbacks=[EarlyStopping(20)],
        progress=not args.smoke,
        checkpoint=Checkpoint(args.out / "training.pt", every_steps=args.every_steps),
        resume=True,
        seed=args.seed,
    )


def fingerprint(vae: VAE) -> str:
    """A number that changes with any bit of any parameter."""
    digest = hashlib.sha256()
    for parameter in vae.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()[:16]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=100, help="passes over the digits")
    parser.add_argument("--every-steps", type=int, default=25, help="steps between two writings")
    parser.add_argument("--stop-after", type=int, help="steps after which the process ends, as if killed")
    parser.add_argument("--latent-dim", type=int, default=8, help="latent dimensions")
    parser.add_argument("--out", type=Path, default=Path("runs/resume"), help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    # Whether there is more ink than not: the likelihood is Bernoulli
    x = (load_digits().images.flatten(1) > 0.5).float()
    vae = build(latent_dim=args.latent_dim, seed=args.seed)
    history = train(vae, x[HELD_OUT:], x[:HELD_OUT], args)
    history.to_frame().to_csv(args.out / "history.csv")
    print(f"{history}\nAll parameters: {fingerprint(vae)}")


if __name__ == "__main__":
    main()
