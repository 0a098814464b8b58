import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_infomax.capture import FusedOptim
from pyro_infomax.training._checkpoint import training_setting

X = torch.zeros(6, 2)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


def setting(data=X, *, optim=None, loss=None, **changes):
    svi = SVI(print, print, optim or pyro.optim.Adam({}), loss or Trace_ELBO())
    arguments = {"validation": None, "batch_size": 2, "seed": 1, "processes": 1} | changes
    return training_setting(svi, data, **arguments)


@pytest.mark.parametrize(
    ("data", "length", "batch_size"),
    [
        (X, 6, 2),
        ((X, X), 6, 2),
        (X.numpy(), 6, 2),
        ((np.zeros(6), X), 6, 2),
        (TensorDataset(X), 6, 2),
        (DataLoader(TensorDataset(X), batch_size=3), 6, 3),
        (Stream(), None, 2),
        (DataLoader(Stream(), batch_size=4), None, 4),
    ],
)
def test_amount_of_data(data, length, batch_size):
    found = setting(data)
    assert (found["len(data)"], found["batch_size"]) == (length, batch_size)
    assert setting(validation=data)["len(validation)"] == length


@pytest.mark.parametrize(
    ("optim", "name"),
    [
        (pyro.optim.ClippedAdam({}), "PyroOptim of ClippedAdam"),
        (FusedOptim(torch.optim.SGD, {"lr": 0.1}), "FusedOptim of SGD"),
        (
            pyro.optim.StepLR({"optimizer": torch.optim.Adam, "optim_args": {}, "step_size": 2}),
            "PyroLRScheduler of Adam",
        ),
    ],
)
def test_kind_of_optimizer(optim, name):
    assert setting(optim=optim)["optimizer"] == name


def test_a_function_as_loss():
    def loss(model, guide, x):
        return x.sum()

    assert setting(loss=loss)["objective"] == "NoneType"
