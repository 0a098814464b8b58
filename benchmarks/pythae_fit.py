"""Trains a VAE by pythae's trainer whenever it is told to: the other half of ``fit.py``.

It runs in an interpreter that has pythae, and needs nothing of this package. The first line of its input is
the case as JSON; each line after it asks for one training, which is answered by a line with its seconds and
its loss.
"""

import json
import logging
import os
import sys
import tempfile
import time
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # its trainer always shows two bars

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn


class Encoder(BaseEncoder):
    def __init__(self, pixels: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.layers(x).chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, pixels: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z).sigmoid())


class LastLoss(BaseTrainer):
    """Its trainer, which only logs the mean loss of an epoch: here it is kept."""

    def train_step(self, epoch: int) -> float:
        self.last_loss = super().train_step(epoch)
        return self.last_loss


def make_trainer(case: dict[str, Any], dataset: BaseDataset, folder: str) -> LastLoss:
    pixels, hidden, latent = case["sizes"]
    model = VAE(
        VAEConfig(input_dim=(pixels,), latent_dim=latent, reconstruction_loss="bce"),
        encoder=Encoder(pixels, hidden, latent),
        decoder=Decoder(pixels, hidden, latent),
    )
    config = BaseTrainerConfig(
        output_dir=folder,
        num_epochs=case["epochs"],
        per_device_train_batch_size=case["batch"],
        learning_rate=case["lr"],
        optimizer_params={"fused": True} if case["fused"] else None,
        no_cuda=True,
    )
    return LastLoss(model, train_dataset=dataset, training_config=config)


def train(case: dict[str, Any], dataset: BaseDataset) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(case, dataset, folder)
        started = time.process_time()
        trainer.train()
        return {"seconds": time.process_time() - started, "loss": trainer.last_loss}


def serve() -> None:
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    case = json.loads(sys.stdin.readline())
    x = torch.from_numpy(np.load(case["data"]))
    dataset = BaseDataset(x, torch.zeros(len(x)))
    for _ in sys.stdin:
        print(json.dumps(train(case, dataset)), flush=True)


if __name__ == "__main__":
    serve()
