"""Telling a training that has diverged from an error of the program."""

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyro_infomax.programs import ProgramState, Snapshot
from pyro_infomax.training import TrainingState
from pyro_infomax.training._fit import Divergence


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.sum())


def test_the_data_are_counted_also_where_the_state_explains_it():
    # The count is a sum over processes, and the buffers of one alone may have been spoiled
    model = Model()
    svi = SVI(model, lambda x: None, pyro.optim.Adam({}), Trace_ELBO())
    programs = ProgramState(model)
    last_good = Snapshot(programs)
    counted = []
    divergence = Divergence(
        TrainingState(svi, epochs=1, programs=programs),
        last_good,
        count=lambda batch: counted.append(batch) or 0,
    )
    model.mean.fill_(torch.nan)
    assert divergence.explains((torch.ones(2),))
    assert len(counted) == 1
