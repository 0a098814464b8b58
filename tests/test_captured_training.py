"""Training by recorded steps is training by ordinary ones: the same parameters from the same seed."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, TraceGraph_ELBO
from torch import Tensor, nn

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.guides import AmortizedDiscrete
from pyro_infomax.infer import (
    BetaELBO,
    Renyi_InfoMaxELBO,
    Trace_BetaELBO,
    Trace_InfoMaxELBO,
    TraceEnum_BetaELBO,
    TraceGraph_InfoMaxELBO,
    TraceMeanField_BetaELBO,
)
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.schedules import Cyclical, Linear
from pyro_infomax.training import fit
from pyro_infomax.vae import VAE

STEPS, BATCH, PIXELS, LATENT = 80, 12, 6, 2
Programs = tuple[Callable[..., Any], Callable[..., Any]]


def adam() -> FusedOptim:
    return FusedOptim(torch.optim.Adam, {"lr": 1e-2})


def continuous() -> Programs:
    encoder, decoder = nn.Linear(PIXELS, 2 * LATENT), nn.Linear(LATENT, PIXELS)

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.tensor(0.8), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, dim=-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


def noisy() -> Programs:
    """Batch norm and dropout in a VAE."""
    body = nn.Sequential(nn.Linear(PIXELS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
    vae = VAE(body, MLPDecoder(LATENT, PIXELS, hidden=(8,)), latent_dim=LATENT, likelihood="gaussian")
    return vae.model, vae.guide


def drawn() -> Programs:
    """A discrete latent with score-function gradients."""
    encoder, decoder = nn.Linear(PIXELS, LATENT), nn.Linear(LATENT, PIXELS)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((LATENT,), 0.4)).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1))

    return model, guide


def enumerated() -> Programs:
    decoder = nn.Linear(3, PIXELS)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.OneHotCategorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(decoder(c), 1.0).to_event(1), obs=x)

    return model, AmortizedDiscrete(model, MLPEncoder(PIXELS, hidden=(8,)))


def subsampling() -> Programs:
    """Each step draws its own rows of the whole data."""
    decoder = nn.Linear(LATENT, PIXELS)

    def rows(x):
        return pyro.plate("data", len(x), subsample_size=5)

    def model(x):
        pyro.module("decoder", decoder)
        with rows(x) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x[index])

    def guide(x):
        weight = pyro.param("weight", lambda: 0.1 * torch.randn(PIXELS, LATENT))
        with rows(x) as index:
            pyro.sample("z", dist.Normal(x[index] @ weight, 0.6).to_event(1))

    return model, guide


CASES: dict[str, tuple[Callable[[], Programs], Callable[[], Any]]] = {
    "Trace, InfoMax": (continuous, lambda: Trace_InfoMaxELBO(lam=1.0, num_particles=2)),
    "mean field, beta": (continuous, lambda: TraceMeanField_BetaELBO(beta=2.0)),
    "graph, InfoMax, discrete": (drawn, lambda: TraceGraph_InfoMaxELBO(lam=1.0)),
    "Trace, beta, discrete": (drawn, lambda: Trace_BetaELBO(beta=0.5)),
    "enumerated, beta": (enumerated, lambda: TraceEnum_BetaELBO(beta=2.0, max_plate_nesting=1)),
    "Rényi": (continuous, lambda: Renyi_InfoMaxELBO(lam=0.5, alpha=0.5, num_particles=3)),
    "Pyro's graph": (drawn, TraceGraph_ELBO),
    "a linear schedule from 0": (continuous, lambda: BetaELBO(beta=Linear(0.0, 2.0, 60))),
    "a cyclical schedule": (continuous, lambda: Trace_BetaELBO(beta=Cyclical(0.1, 1.0, 20, cycles=3))),
    "one schedule a site": (continuous, lambda: BetaELBO(beta={"z": Linear(0.5, 2.0, 30), "x": 1.5})),
    "subsampling": (subsampling, lambda: BetaELBO(beta=1.5)),
    "batch norm and dropout": (noisy, lambda: BetaELBO(beta=1.5)),
}


def batches(size: int = BATCH) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    data = torch.randn(40, PIXELS, generator=generator) @ torch.randn(PIXELS, PIXELS, generator=generator)
    return [data[torch.randint(40, (size,), generator=generator)] for _ in range(STEPS)]


def train(
    make: Callable[[], Programs], objective: Any, kind: Callable[..., SVI], optim: Any, *, many: bool = False
) -> tuple[SVI, list[Tensor], list[float]]:
    pyro.clear_param_store()
    torch.manual_seed(1)
    svi = kind(*make(), optim, objective)
    losses = svi.steps(torch.stack(batches())).losses if many else [svi.step(x) for x in batches()]
    # in order of statement, since names count the instances of a class
    return svi, [leaf.detach() for _, leaf in pyro.get_param_store().named_parameters()], losses


@pytest.mark.parametrize("case", CASES)
def test_the_same_parameters_after_many_steps(case):
    make, objective = CASES[case]
    _, expected, losses = train(make, objective(), SVI, adam())
    recorded, found, same_losses = train(make, objective(), CapturedSVI, adam())
    assert recorded.captured, recorded.reason
    for value, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, value, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.tensor(same_losses), torch.tensor(losses), rtol=1e-9, atol=1e-9)
    # many steps a call are the single ones to the bit
    _, at_once, losses_at_once = train(make, objective(), CapturedSVI, adam(), many=True)
    assert losses_at_once == same_losses
    assert all(map(torch.equal, at_once, found))


def test_the_same_in_single_precision_and_with_an_optimiser_of_pyro():
    torch.set_default_dtype(torch.float32)
    make, objective = CASES["mean field, beta"]
    data = [x.float() for x in batches()]
    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(1)
        svi = kind(*make(), pyro.optim.Adam({"lr": 1e-2}), objective())
        for x in data:
            svi.step(x)
        found.append(dict(pyro.get_param_store().named_parameters()))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-6)


def test_fit_has_the_same_history():
    histories = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(1)
        svi = kind(*continuous(), adam(), BetaELBO(beta=Linear(0.0, 1.0, 20)))
        data = torch.cat(batches())[:250]
        histories.append(
            fit(svi, data, epochs=4, batch_size=40, validation=data[:50], progress=False, seed=3)
        )
    columns = ["loss", "distortion", "rate", "elbo", "validation_loss", "validation_rate"]
    frames = [history.to_frame()[columns] for history in histories]
    assert (frames[0] - frames[1]).abs().to_numpy().max() < 1e-9
