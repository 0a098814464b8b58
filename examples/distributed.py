"""One VAE on digits, trained and accounted for by several processes together.

Each process takes its part of every batch; gradients are summed, so that the training is that of one process
but for its noise. For the account each process holds a part of the digits and scores all draws under its own
posteriors alone.

    python examples/distributed.py --devices 2 --out runs/distributed
    python examples/distributed.py --devices 8 --accelerator gpu --precision bf16-mixed

More than one device needs Lightning Fabric: pip install "pyro_infomax[distributed]".
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import load_digits
from pyro_infomax.diagnostics import Decomposition, decompose
from pyro_infomax.infer import InfoMaxELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.training import History, fit
from pyro_infomax.vae import VAE

HELD_OUT = 297
SMOKE_DATA = 200


def launched(args: argparse.Namespace) -> Any:
    """The Fabric of this process; None for a single one."""
    if args.devices == 1:
        return None
    from lightning_fabric import Fabric

    fabric = Fabric(
        accelerator=args.accelerator, devices=args.devices, strategy="ddp", precision=args.precision
    )
    fabric.launch()
    return fabric


def build(device: torch.device, *, latent_dim: int, seed: int) -> VAE:
    pyro.set_rng_seed(seed)
    encoder = MLPEncoder(64, hidden=(128,))
    decoder = MLPDecoder(latent_dim, 64, hidden=(128,))
    return VAE(encoder, decoder, latent_dim=latent_dim).to(device)


def train(vae: VAE, x: Tensor, held_out: Tensor, fabric: Any, args: argparse.Namespace) -> History:
    optimiser = FusedOptim(torch.optim.Adam, {"lr": 2e-3})
    svi = CapturedSVI(vae.model, vae.guide, optimiser, InfoMaxELBO(lam=args.lam))
    epochs = 2 if args.smoke else args.epochs
    return fit(
        svi,
        x,
        epochs=epochs,
        batch_size=args.batch_size,
        validation=held_out,
        progress=not args.smoke,
        fabric=fabric,
        seed=args.seed,
    )


def account_for(vae: VAE, x: Tensor, held_out: Tensor, fabric: Any, seed: int) -> Decomposition:
    """Of all digits, of which each process holds its own."""
    rank, processes = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    device = next(vae.parameters()).device
    own, own_held_out = (each[rank::processes].to(device) for each in (x, held_out))
    return decompose(vae.model, vae.guide, own, holdout=own_held_out, fabric=fabric, seed=seed)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", type=int, default=1, help="number of processes")
    parser.add_argument("--accelerator", default="cpu", help="cpu, gpu or whatever Fabric knows")
    parser.add_argument("--precision", default="32-true", help="32-true, 64-true or bf16-mixed")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the digits")
    parser.add_argument("--batch-size", type=int, default=128, help="digits a step, over all processes")
    parser.add_argument("--latent-dim", type=int, default=8, help="latent dimensions")
    parser.add_argument("--lam", type=float, default=1.0, help="weight of the information")
    parser.add_argument("--out", type=Path, default=Path("runs/distributed"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    args = parser.parse_args(argv)
    if args.devices < 1:
        parser.error(f"Expected --devices >= 1 but got {args.devices}.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    fabric = launched(args)
    # Whether there is more ink than not: the likelihood is Bernoulli
    images = (load_digits().images.flatten(1) > 0.5).float()[: SMOKE_DATA + HELD_OUT if args.smoke else None]
    held_out, x = images[:HELD_OUT], images[HELD_OUT:]
    device = torch.device("cpu") if fabric is None else fabric.device
    vae = build(device, latent_dim=args.latent_dim, seed=args.seed)
    history = train(vae, x, held_out, fabric, args)
    # Another seed than in training: the pair has fitted the draws of that one
    account = account_for(vae, x, held_out, fabric, args.seed + 1)
    if fabric is not None and not fabric.is_global_zero:
        return
    print(f"{args.devices} processes: {history}\n\n{account}")
    args.out.mkdir(parents=True, exist_ok=True)
    history.to_frame().to_csv(args.out / "history.csv")
    account.to_frame().to_csv(args.out / "decomposition.csv")
    print(f"\nThe history and the account are in {args.out}")


if __name__ == "__main__":
    main()
