"""SVI with either weighting reaches the optimum that is known in closed form, whoever wrote the guide."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import ClippedAdam

from pyro_infomax import BetaELBO, InfoMaxELBO, fit
from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.oracles import LinearGaussian

EIGENVALUES = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
S2 = 0.3
STEPS = 600


def model(x: torch.Tensor) -> None:
    size = x.shape[1]
    weight = pyro.param("W", lambda: 0.5 * torch.eye(size))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight.T, S2**0.5).to_event(1), obs=x)


def guide(x: torch.Tensor) -> None:
    size = x.shape[1]
    weight = pyro.param("V", lambda: 0.5 * torch.eye(size))
    variance = pyro.param("Delta", lambda: torch.ones(size), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weight.T, variance.sqrt()).to_event(1))


def data(oracle: LinearGaussian) -> torch.Tensor:
    """Data whose empirical covariance is the oracle's, so that its losses hold for them without error."""
    return oracle.sample(400, exact=True, seed=0)


def train(program: Callable[..., object], objective: object, x: torch.Tensor) -> None:
    optim = ClippedAdam({"lr": 0.05, "lrd": 0.02 ** (1 / STEPS), "clip_norm": 1e6})
    svi = SVI(model, program, optim, objective)
    fit(svi, x, epochs=STEPS, batch_size=None, progress=False, seed=0)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("weighting", ["beta", "infomax"])
def test_svi_reaches_the_optimum(weighting: str, beta: float) -> None:
    optimum = LinearGaussian.optimum(EIGENVALUES, beta, len(EIGENVALUES), s2=S2)
    objective = BetaELBO(beta=beta) if weighting == "beta" else InfoMaxELBO(lam=1 / beta - 1)
    train(guide, objective, data(optimum))
    found = LinearGaussian(
        optimum.S, pyro.param("W").detach(), S2, pyro.param("V").detach(), pyro.param("Delta").detach()
    )
    assert float(found.loss(beta)) == pytest.approx(float(optimum.loss(beta)), rel=0.005)
    assert float(found.rate) == pytest.approx(float(optimum.rate), rel=0.02)
    # the dimensions below the water level collapse, and only those
    rates = 0.5 * (found.C.diagonal() - 1 - found.Delta.diagonal().log())
    active = rates > 0.02
    assert int(active.sum()) == int((beta * S2 < EIGENVALUES).sum())


def test_an_amortized_guide_reaches_what_a_guide_by_hand_reaches() -> None:
    optimum = LinearGaussian.optimum(torch.tensor([4.0, 0.8]), 1.0, 2, s2=S2)
    x = data(optimum)
    elbos = []
    for program in (guide, AmortizedNormal(model, torch.nn.Identity())):
        pyro.clear_param_store()
        train(program, BetaELBO(beta=1.0), x)
        elbo = BetaELBO(beta=1.0, num_particles=200, vectorize_particles=True)
        losses = -torch.tensor([elbo.loss(model, program, x) for _ in range(20)]) / len(x)
        elbos.append((losses.mean(), losses.std() / len(losses) ** 0.5))
    (by_hand, error), (amortized, other) = elbos
    # a thousandth for what 600 steps leave to optimise
    assert abs(by_hand - amortized) < 4 * (error**2 + other**2) ** 0.5 + 0.001 * abs(by_hand)
    assert abs(by_hand - optimum.elbo) < 4 * error + 0.001 * abs(by_hand)
