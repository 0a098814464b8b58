"""An objective of your own: beta-TCVAE, which weights three parts of the rate, in one method.

The rate is the sum of three terms, mutual information, total correlation and dimension-wise KL. The class
``BetaTCVAE`` returns them from ``latent_cost``, by name; weights, schedules, the history, its picture,
captured steps and checkpoints then work as they do for the objectives of the library. The script trains two
VAEs on digits, with the total correlation weighted by 1 and by more, and compares their accounts.

To train with this objective use ``DecomposedELBO`` or ``beta_tcvae`` of the library, which take several
sites, other priors and a reward on information too. The class is short here to show how one is written.

    python examples/own_objective.py --total-correlation 6 --epochs 60
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import torch
from torch import Tensor

from pyro_infomax import VAE, decompose, fit
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import binarize, load_digits
from pyro_infomax.diagnostics import Decomposition
from pyro_infomax.infer import TraceMeanField_WeightedELBO, WeightsLike
from pyro_infomax.information import BatchMixture
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.plots import history as draw_history
from pyro_infomax.schedules import Linear
from pyro_infomax.training import History


class BetaTCVAE(TraceMeanField_WeightedELBO):
    """D + w_I I + w_TC TC + w_KL Σ_j KL[q(z_j) ‖ p(z_j)], by minibatch stratified sampling.

    Reference: Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
    autoencoders.

    Args:
        data_size: the number of training data.
        **weights: of ``mutual_information``, ``total_correlation``, ``dimensionwise_kl`` and ``distortion``.
    """

    def __init__(self, *, data_size: int, **weights: WeightsLike) -> None:
        super().__init__(weights=weights)
        self.data_size = data_size

    def latent_cost(self, model_site: Any, guide_site: Any) -> Mapping[str, Tensor]:
        z, posterior, prior = guide_site["value"], guide_site["fn"], model_site["fn"]
        aggregate = BatchMixture(posterior, data_size=self.data_size)
        log_q = aggregate.log_prob(z[None])[0]  # (batch,)
        log_q_product = aggregate.log_prob_marginals(z[None])[0].sum(-1)  # (batch,)
        return {
            "mutual_information": posterior.log_prob(z) - log_q,
            "total_correlation": log_q - log_q_product,
            "dimensionwise_kl": log_q_product - prior.log_prob(z),
        }


def train(images: Tensor, weight: WeightsLike, *, epochs: int, seed: int) -> tuple[History, Decomposition]:
    pyro.clear_param_store()
    torch.manual_seed(seed)
    vae = VAE(MLPEncoder((8, 8)), MLPDecoder(6, (8, 8)), latent_dim=6)
    elbo = BetaTCVAE(data_size=len(images), total_correlation=weight)
    svi = CapturedSVI(vae.model, vae.guide, FusedOptim(torch.optim.Adam, {"lr": 2e-3}), elbo)
    history = fit(svi, images, epochs=epochs, progress="beta-TCVAE", seed=seed)
    return history, decompose(vae.model, vae.guide, images, seed=seed)


def draw(histories: Mapping[str, History], path: Path) -> None:
    figure, axes = plt.subplots(1, len(histories), figsize=(12, 4.4), layout="constrained", sharey=True)
    terms = ["mutual_information", "total_correlation", "dimensionwise_kl"]
    for (title, history), ax in zip(histories.items(), axes, strict=True):
        draw_history(history.to_frame(), columns=terms, ax=ax).set_title(title)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=60, help="passes over the digits")
    parser.add_argument("--out", type=Path, default=Path("runs/own_objective"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and draws")
    parser.add_argument("--smoke", action="store_true", help="a short run, to see that all works")
    parser.add_argument("--total-correlation", type=float, default=6.0, help="its weight in the second run")
    args = parser.parse_args(argv)
    if args.epochs < 1:
        parser.error(f"Expected --epochs >= 1 but got {args.epochs}.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    images = binarize(load_digits().images)[: 256 if args.smoke else None]
    epochs = 2 if args.smoke else args.epochs
    # The weight grows over the first half of the training
    warm_up = Linear(1.0, args.total_correlation, max(1, epochs * len(images) // 256))
    weights = {"weight 1": 1.0, f"weight {args.total_correlation:g}": warm_up}
    runs = {title: train(images, weight, epochs=epochs, seed=args.seed) for title, weight in weights.items()}

    rows = ["distortion", "rate", "mutual_information", "marginal_kl", "total_correlation"]
    accounts = {title: account.to_frame()["value"].reindex(rows) for title, (_, account) in runs.items()}
    table = pd.DataFrame(accounts).rename_axis("nats per datum")
    print(table.round(3).to_string())

    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "own_objective.csv")
    draw({title: history for title, (history, _) in runs.items()}, args.out / "own_objective.png")
    print(f"\nThe table and a picture of the terms over the epochs are in {args.out}")


if __name__ == "__main__":
    main()
