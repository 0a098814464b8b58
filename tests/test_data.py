"""Data are tensors, arrays or frames, everywhere, and mean the same."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_infomax.diagnostics import decompose, evidence
from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.infer import TraceMeanField_BetaELBO
from pyro_infomax.joint import generative, representation
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.training import fit
from pyro_infomax.vae import VAE


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))


@pytest.fixture(scope="module")
def x():
    return torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)


def trained(data):
    pyro.clear_param_store()
    torch.manual_seed(0)
    amortised = AmortizedNormal(model, nn.Linear(2, 3))
    svi = pyro.infer.SVI(model, amortised, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_BetaELBO())
    return fit(svi, data, validation=data, epochs=2, batch_size=4, progress=False)["validation_loss"]


def encoded(data):
    torch.manual_seed(0)
    return VAE(MLPEncoder((2,)), MLPDecoder(2, (2,)), latent_dim=2).encode(data).mean


def sampled(data):
    torch.manual_seed(0)
    return AmortizedNormal(model, nn.Linear(2, 3)).quantiles(0.9, data)["z"]


CALLS = {
    "fit": trained,
    "encode": encoded,
    "guide": sampled,
    "decompose": lambda data: decompose(model, guide, data, seed=0).rate.value,
    "evidence": lambda data: evidence(model, guide, data, num_samples=2, seed=0).lower.value,
    "representation": lambda data: representation(guide, data).log_aggregate(torch.zeros(1, 2)),
    "generative": lambda data: generative(model).log_likelihood(data, torch.zeros(6, 2)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", [torch.Tensor.numpy, lambda x: pd.DataFrame(x.numpy(), columns=["a", "b"])])
def test_arrays_and_frames_are_data(call, kind, x):
    torch.testing.assert_close(call(kind(x)), call(x), rtol=0, atol=0)


def as_seen(column):
    """The data as a guide is given them."""
    seen = []

    def guide(x):
        seen.append(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    representation(guide, column)
    return seen[0]


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (np.arange(4.0)[::-1], torch.float64),
        (np.arange(4, dtype=">f4"), torch.float32),
        (np.arange(4, dtype=np.uint16), torch.int32),
        (np.arange(4, dtype=np.uint64), torch.int64),
        (np.broadcast_to(np.float32(1.0), (4,)), torch.float32),
        (pd.Series(range(4), dtype="Int64"), torch.int64),
        (pd.Series([True, False, True, False]), torch.bool),
        (pd.DataFrame({"a": [1, 2, 3, 4], "b": [0.5, 1.0, 2.0, 3.0]}), torch.float64),
        (pd.DataFrame({"a": [1, 2, 3, 4], "b": [True, False, True, False]}), torch.int64),
    ],
)
def test_values_stay_and_dtypes_are_those_of_tensors(column, dtype):
    data = as_seen(column)
    assert data.dtype == dtype
    assert data.tolist() == np.asarray(column).astype(float).tolist()


def test_a_frame_is_given_the_default_dtype():
    torch.set_default_dtype(torch.float32)
    data = as_seen(pd.DataFrame({"a": [0.5]}))
    assert data.dtype == torch.float32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.array(["a", "b"]), "data to be numbers, none of them missing, but got values of dtype <U1"),
        (np.array([1.0, None]), "values of dtype object"),
        (pd.Series(["1", "2"], dtype="category"), "encode categories as numbers"),
        (pd.Series([1, None], dtype="Int64"), "without missing values but got 1|none of them missing"),
        (pd.DataFrame({"a": [1.0, np.nan]}), "without missing values but got 1"),
        (pd.to_datetime(pd.Series(["2020-01-01"])), "values of dtype datetime64"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), "data without masked values"),
        (np.array([2**63], dtype=np.uint64), r"integers of data below 2\*\*63"),
        (np.float64(3.0), "a tensor, an array or a frame, .* but got .'float64'"),
        ([1.0, 2.0], "a tensor, an array or a frame, .* but got"),
        (np.ones(()), "a first axis over the data"),
        (np.ones((0, 2)), r"at least 1, but got the lengths \[0\]"),
    ],
)
def test_what_is_no_data_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        representation(lambda x: None, data)


def test_data_of_another_dtype_than_the_parameters_are_named(x):
    torch.manual_seed(0)
    amortised = AmortizedNormal(model, nn.Linear(2, 3))
    with pytest.raises(ValueError, match="Expected data and parameters of one dtype but torch found"):
        amortised.sample(x.float().numpy())
