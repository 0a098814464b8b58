"""SVI with either weighting reaches the optimum that is known in closed form, whoever wrote the guide.

At fixed noise the optima of all weights lie on Shannon's rate-distortion curve of the data's covariance.
"""

from collections.abc import Callable
from functools import cache, partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import ClippedAdam

from pyro_infomax.capture import CapturedSVI
from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.infer import BetaELBO, InfoMaxELBO
from pyro_infomax.oracles import LinearGaussian, gaussian_rate_distortion
from pyro_infomax.training import fit

EIGENVALUES = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
S2 = 0.3
STEPS = 600


def model(x: torch.Tensor, latent_dim: int = len(EIGENVALUES)) -> None:
    size = min(latent_dim, x.shape[1])
    weight = pyro.param("W", lambda: 0.5 * torch.eye(x.shape[1], size))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight.T, S2**0.5).to_event(1), obs=x)


def guide(x: torch.Tensor, latent_dim: int = len(EIGENVALUES)) -> None:
    size = min(latent_dim, x.shape[1])
    weight = pyro.param("V", lambda: 0.5 * torch.eye(size, x.shape[1]))
    variance = pyro.param("Delta", lambda: torch.ones(size), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weight.T, variance.sqrt()).to_event(1))


def data(oracle: LinearGaussian) -> torch.Tensor:
    """Data whose empirical covariance is the oracle's, so that its losses hold for them without error."""
    return oracle.sample(400, exact=True, seed=0)


def train(
    program: Callable[..., object], objective: object, x: torch.Tensor, kind: type[SVI] = CapturedSVI
) -> None:
    optim = ClippedAdam({"lr": 0.05, "lrd": 0.02 ** (1 / STEPS), "clip_norm": 1e6})
    svi = kind(model, program, optim, objective)
    fit(svi, x, epochs=STEPS, batch_size=None, progress=False, seed=0)


# The InfoMax objective is the other times 1 + lam, which the optimiser does not notice
@pytest.mark.parametrize(
    ("weighting", "beta", "kind"),
    [
        ("beta", 0.5, CapturedSVI),
        ("beta", 1.0, SVI),
        ("beta", 2.0, CapturedSVI),
        ("beta", 4.0, CapturedSVI),
        ("infomax", 2.0, CapturedSVI),
    ],
)
def test_svi_reaches_the_optimum(weighting: str, beta: float, kind: type[SVI]) -> None:
    optimum = LinearGaussian.optimum(EIGENVALUES, beta, len(EIGENVALUES), s2=S2)
    objective = BetaELBO(beta=beta) if weighting == "beta" else InfoMaxELBO(lam=1 / beta - 1)
    train(guide, objective, data(optimum), kind)
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


# ---- a sweep of beta at fixed s2, against Shannon's curve

# From much weight to little, each training from where the last one ended: the latents are then taken up one
# by one, the largest eigenvalue first. The other way round they have to turn into place together, slowly
BETAS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
FIRST_STEPS, FURTHER_STEPS = 300, 200


@cache
def sample() -> torch.Tensor:
    """Ordinary draws in no special basis, whose covariance is theirs alone, (100, 4)."""
    noise = torch.randn(104, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(noise[100:]).Q
    x = noise[:100] * torch.tensor([6.0, 2.0, 0.8, 0.3]).sqrt() @ turn.T
    return x - x.mean(0)


def covariance(x: torch.Tensor) -> torch.Tensor:
    return x.T @ x / len(x)


def spectrum(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigvalsh(covariance(x)).flip(0)


@cache
def sweep(latent_dim: int) -> dict[float, LinearGaussian]:
    """The trained pair of each weight."""
    x, pairs = sample(), {}
    generative, representation = partial(model, latent_dim=latent_dim), partial(guide, latent_dim=latent_dim)
    for beta in BETAS:
        steps = FURTHER_STEPS if pairs else FIRST_STEPS
        optim = ClippedAdam({"lr": 0.05, "betas": (0.9, 0.95), "lrd": 0.05 ** (1 / steps)})
        objective = BetaELBO(beta=beta, num_particles=8, vectorize_particles=True, max_plate_nesting=1)
        svi = CapturedSVI(generative, representation, optim, objective)
        fit(svi, x, epochs=steps, batch_size=None, progress=False, seed=0)
        W, V, Delta = (pyro.param(name).detach().clone() for name in ("W", "V", "Delta"))
        pairs[beta] = LinearGaussian(covariance(x), W, S2, V, Delta)
    return pairs


def squared_error(pair: LinearGaussian) -> torch.Tensor:
    """E|x - W z|^2, the posterior's variance included, from the weights alone."""
    through = torch.eye(pair.dim) - pair.W @ pair.V
    return (through @ pair.S @ through.T).trace() + (pair.W @ pair.Delta @ pair.W.T).trace()


def shannon(error: torch.Tensor | float) -> torch.Tensor:
    return gaussian_rate_distortion(spectrum(sample()), distortion=error).rate


def tolerance(rate: torch.Tensor) -> float:
    return max(0.01 * float(rate), 0.01)


@pytest.mark.parametrize("beta", BETAS)
def test_with_enough_latents_the_sweep_lies_on_shannons_curve(beta: float) -> None:
    pair = sweep(4)[beta]
    error = squared_error(pair)
    least = shannon(error)
    assert float(pair.rate - least) < tolerance(least)
    assert float(pair.rate - least) > -1e-9  # nothing lies below
    # where the slope of the curve is minus beta; D in nats is the squared error over 2 s2
    slope = gaussian_rate_distortion(spectrum(sample()), distortion=error).slope
    assert float(1 / (2 * S2 * slope)) == pytest.approx(-beta, rel=0.05)


def closed_form(beta: float, latent_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rate and squared error of the best pair with few latents, all of them active."""
    eigenvalues, level = spectrum(sample()), beta * S2
    kept, lost = eigenvalues[:latent_dim], eigenvalues[latent_dim:]
    active = kept[kept > level]
    error = len(active) * level + kept[kept <= level].sum() + lost.sum()
    return 0.5 * (active / level).log().sum(), error


@pytest.mark.parametrize("beta", BETAS)
def test_with_too_few_latents_rate_and_gap_to_the_curve_are_the_closed_form(beta: float) -> None:
    rate, error = closed_form(beta, 2)
    pair = sweep(2)[beta]
    assert float(pair.rate) == pytest.approx(float(rate), abs=tolerance(rate))
    found = pair.rate - shannon(squared_error(pair))
    assert float(found) == pytest.approx(float(rate - shannon(error)), abs=tolerance(rate))
