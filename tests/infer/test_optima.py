"""Objectives rest where the linear-Gaussian pair is known to be best, decoder and encoder together.

Most objectives are shown to have the gradient of their closed form wherever it is taken, and with it its
optimum; their own tests have that. Here are those whose draws enter in another way, and two whose optimum is
a corner.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import (
    CapacityELBO,
    DReG_InfoMaxELBO,
    FreeBitsELBO,
    IWAE_InfoMaxELBO,
    Renyi_InfoMaxELBO,
    RWS_InfoMaxELBO,
    STL_BetaELBO,
    TVO_InfoMaxELBO,
    WakeSleepELBO,
)
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.training import fit

EIGENVALUES = [3.0, 1.5, 0.4]
S2, LATENT, ROWS = 0.5, 2, 32
NAMES = ("W", "V", "log_scale")


def optimum(beta):
    return LinearGaussian.optimum(EIGENVALUES, beta, LATENT, s2=S2)


def model(x):
    weight = pyro.param("W")
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(weight.shape[1]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight.mT, S2**0.5).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        loc = x @ pyro.param("V").mT
        pyro.sample("z", dist.Normal(loc, pyro.param("log_scale").exp()).to_event(1))


def place(pair):
    pyro.clear_param_store()
    values = (pair.W, pair.V, 0.5 * pair.Delta.diagonal().log())
    for name, value in zip(NAMES, values, strict=True):
        pyro.param(name, value.detach().clone())


def gradient(elbo, x):
    """Of all parameters, per datum, (parameters,)."""
    leaves = [pyro.param(name).unconstrained() for name in NAMES]
    for leaf in leaves:
        leaf.grad = None
    elbo.loss_and_grads(model, guide, x)
    return torch.cat([leaf.grad.flatten() for leaf in leaves]) / len(x)


def errors_of_zero(elbo, x, repeats=24):
    """How many standard errors each mean derivative is from zero, (parameters,)."""
    found = torch.stack([gradient(elbo, x) for _ in range(repeats)])
    return found.mean(0).abs() / (found.std(0) / repeats**0.5 + 1e-12)


SEVERAL = {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 1}
# What makes the objective, and the weight of the rate whose optimum it has
OBJECTIVES = {
    "stl": (lambda _: STL_BetaELBO(2.0), 2.0),
    "iwae": (lambda _: IWAE_InfoMaxELBO(1.0, **SEVERAL), 0.5),
    "dreg": (lambda _: DReG_InfoMaxELBO(1.0, **SEVERAL), 0.5),
    "renyi": (lambda _: Renyi_InfoMaxELBO(1.0, alpha=0.5, **SEVERAL), 0.5),
    "tvo": (lambda _: TVO_InfoMaxELBO(1.0, **SEVERAL), 0.5),
    "rws": (lambda _: RWS_InfoMaxELBO(1.0, **SEVERAL), 0.5),
    "wake-sleep": (lambda _: WakeSleepELBO(), 1.0),
    # a reward that is less than the slope of the curve at the capacity leaves the rate where they are equal
    "capacity": (lambda pair: CapacityELBO(float(pair.rate) - 0.3, gamma=2.0), 2.0),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_vanishes_at_the_known_optimum_and_beside_it_does_not(name):
    make, beta = OBJECTIVES[name]
    best = optimum(beta)
    x = best.sample(ROWS, exact=True, seed=0)
    place(best)
    assert errors_of_zero(make(best), x).max() < 6
    other = optimum(0.5 * beta)  # that of another weight
    place(other)
    assert errors_of_zero(make(other), x).max() > 6


# ---- Corners.


def trained(elbo, x, *, latent, steps):
    """A pair of as many latents after a training with all data, less what the last steps are off by."""
    pyro.clear_param_store()
    pyro.param("W", 0.5 * torch.eye(x.shape[1], latent))
    pyro.param("V", 0.5 * torch.eye(latent, x.shape[1]))
    pyro.param("log_scale", torch.full((latent,), -0.5))
    optim = FusedOptim(torch.optim.Adam, {"lr": 0.03, "betas": (0.9, 0.95)})
    svi = CapturedSVI(model, guide, optim, elbo)
    fit(svi, x, epochs=steps, batch_size=None, progress=False, seed=0)
    assert svi.captured, svi.reason
    W, V, log_scale = (pyro.param(name).detach() for name in NAMES)
    return LinearGaussian(x.mT @ x / len(x), W, S2, V, (2 * log_scale).exp())


def floored_by_hand(W, V, log_scale, free):
    """D + Σ_j max(κ, R_j) and the R_j, in closed form."""
    S, variance = torch.tensor(EIGENVALUES).diag(), (2 * log_scale).exp()
    through = torch.eye(3) - W @ V
    error = (through @ S @ through.mT).trace() + (W * variance @ W.mT).trace()
    rates = 0.5 * ((V @ S @ V.mT).diagonal() + variance - 1) - log_scale
    return 1.5 * math.log(2 * math.pi * S2) + error / (2 * S2) + rates.clamp(min=free).sum(), rates


def test_free_nats_are_used_where_a_direct_minimisation_uses_them():
    """Of each dimension, and more cheaply than by a code of the eigenvectors one by one."""
    free = 0.4
    leaves = [0.5 * torch.eye(3) + 0.1 * torch.randn(3, 3) for _ in range(2)] + [torch.full((3,), -0.5)]
    for leaf in leaves:
        leaf.requires_grad_()
    optim = torch.optim.Adam(leaves, lr=0.03)
    decay = torch.optim.lr_scheduler.ExponentialLR(optim, 0.995)
    for _ in range(700):
        optim.zero_grad()
        floored_by_hand(*leaves, free)[0].backward()
        optim.step()
        decay.step()
    least, wanted = (each.detach() for each in floored_by_hand(*leaves, free))
    pair = trained(FreeBitsELBO(free), optimum(1.0).sample(64, exact=True, seed=0), latent=3, steps=500)
    cost, rates = floored_by_hand(pair.W, pair.V, 0.5 * pair.Delta.diagonal().log(), free)
    assert float(cost) == pytest.approx(float(least), rel=0.01)
    assert torch.allclose(rates.sort().values, wanted.sort().values, atol=0.05)
    # R_j = max(κ, ½ ln λ_j/s²) with λ_j exp(−2 R_j) left of each eigenvalue, which is not the best there is
    eigenvalues = torch.tensor(EIGENVALUES)
    each = (0.5 * (eigenvalues / S2).log()).clamp(min=free)
    one_by_one = 1.5 * math.log(2 * math.pi * S2) + (eigenvalues * (-2 * each).exp() / (2 * S2) + each).sum()
    assert float(least) < float(one_by_one) - 0.05


def test_a_capacity_holds_the_rate_on_the_curve():
    """Where γ exceeds the slope, R = C and the distortion is the least at this rate."""
    best = optimum(1.5)
    x = best.sample(64, exact=True, seed=0)
    pair = trained(CapacityELBO(float(best.rate), gamma=3.0), x, latent=LATENT, steps=500)
    assert float(pair.rate) == pytest.approx(float(best.rate), rel=0.05)
    assert float(pair.loss(1.5)) == pytest.approx(float(best.loss(1.5)), rel=0.005)
