"""A linear pair of programs for exact comparisons: modules, a constrained parameter, dropout."""

from collections import deque
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import ELBO, SVI
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_infomax.infer import TraceMeanField_InfoMaxELBO


class LinearPair(nn.Module):
    """z (batch, 2) and x (batch, 3), with a learned scale that the model creates while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.decoder = nn.Linear(2, 3)
        self.dropout = nn.Dropout(0.25)
        # no list: a program that fills one cannot be recorded
        self.modes: deque[tuple[bool, bool]] = deque()

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        scale = pyro.param("scale", lambda: 1 + torch.rand(3), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        self.modes.append((torch.is_grad_enabled(), self.dropout.training))
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x), dim=-1):
            loc, log_scale = self.encoder(self.dropout(x)).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def fresh_svi(elbo: ELBO | None = None, *, lr: float = 0.01) -> SVI:
    """An SVI over a new pair, the same each time, on an empty parameter store."""
    pyro.clear_param_store()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        pair = LinearPair()
    objective = elbo or TraceMeanField_InfoMaxELBO(lam=1.0)
    return SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": lr}), objective)


@pytest.fixture
def make_svi() -> Callable[..., SVI]:
    return fresh_svi


@pytest.fixture
def data() -> Tensor:
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
