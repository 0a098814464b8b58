"""Data that come with their latents, and the ways in which they could be no exact draws."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_infomax.diagnostics import Simulated
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.vae import VAE

ROW = torch.zeros(1, 2, dtype=torch.float64)


def pair() -> LinearGaussian:
    return LinearGaussian([2.0, 1.0], [[1.0], [0.5]], 0.5, [[0.6, -0.2]], [0.3], mu=[3.0, -3.0])


def test_the_draws_follow_the_joint() -> None:
    oracle = pair()
    simulated = Simulated(oracle.model, 4000, ROW, seed=0)
    (x,), z = simulated.data, simulated.latents["z"]
    together = torch.cat([z, x], 1)
    w = torch.cat([torch.eye(1), oracle.W])
    covariance = w @ w.T + torch.diag(torch.tensor([0.0, 0.5, 0.5]))
    assert ((together.T.cov() - covariance).abs() < 0.15).all()
    assert ((together.mean(0) - torch.tensor([0.0, 3.0, -3.0])).abs() < 0.1).all()


def test_covariates_stay_and_the_observed_argument_is_drawn() -> None:
    def model(c: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample(
                "x", dist.Normal(z[..., None].expand(-1, 3), 1e-3).to_event(1), obs=x.reshape(len(x), 3)
            )

    covariate, x = torch.tensor([0.0, 100.0]), torch.zeros(2, 3, 1)
    simulated = Simulated(model, 5, covariate, x, seed=0)
    assert torch.equal(simulated.data[0], torch.tensor([0.0, 100.0, 0.0, 100.0, 0.0]))
    assert simulated.data[1].shape == (5, 3, 1)
    z = simulated.latents["z"]
    assert ((z - simulated.data[0]).abs() < 6).all()
    assert ((simulated.data[1][..., 0] - z[:, None]).abs() < 0.01).all()


def test_a_vae_is_simulated() -> None:
    vae = VAE(MLPEncoder(6, hidden=[8]), MLPDecoder(2, 6, hidden=[8]), latent_dim=2).float()
    simulated = Simulated(vae.model, 7, torch.zeros(1, 6, dtype=torch.float32), seed=0)
    assert simulated.data[0].shape == (7, 6)
    assert set(simulated.data[0].unique().tolist()) == {0.0, 1.0}


def test_a_seed_isolates_the_draws() -> None:
    state = torch.get_rng_state()
    first, again = (Simulated(pair().model, 5, ROW, seed=4) for _ in range(2))
    assert torch.equal(first.data[0], again.data[0])
    assert torch.equal(state, torch.get_rng_state())


def test_what_it_comes_from_passes() -> None:
    oracle = pair()
    Simulated(oracle.model, 5, ROW).check_origin(oracle.model)


def test_another_model_is_refused() -> None:
    oracle, other = pair(), pair()
    simulated = Simulated(oracle.model, 5, ROW)
    with pytest.raises(ValueError, match="this very model but got some of another one"):
        simulated.check_origin(other.model)


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(1.0))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.drop(z) + self.shift, 1.0).to_event(1), obs=x)


def test_data_of_other_parameters_are_refused() -> None:
    model = Shift()
    simulated = Simulated(model, 5, ROW)
    assert model.training
    model.eval()
    simulated.check_origin(model)
    with torch.no_grad():
        model.shift += 0.1
    with pytest.raises(ValueError, match="simulate them again"):
        simulated.check_origin(model)


@pytest.mark.parametrize("part", ["data", "latents"])
def test_data_that_were_tampered_with_are_refused(part: str) -> None:
    oracle = pair()
    simulated = Simulated(oracle.model, 5, ROW)
    tensor = simulated.data[0] if part == "data" else simulated.latents["z"]
    tensor[2] += 0.3
    with pytest.raises(ValueError, match="as they were drawn"):
        simulated.check_origin(oracle.model)


def test_an_observed_site_that_is_no_argument_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.sum(-1))

    with pytest.raises(ValueError, match="one of its arguments but 'x' is none"):
        Simulated(model, 5, torch.randn(2, 3))


def test_a_prior_that_follows_the_observed_data_is_refused() -> None:
    """Latents drawn for the old data are no draws of the posterior of the new ones."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="otherwise than it drew them"):
        Simulated(model, 5, torch.zeros(1))


def test_a_model_with_factors_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("f", -(z**2))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(NotImplementedError, match="factors"):
        Simulated(model, 5, torch.zeros(1))


def test_data_are_needed_for_their_shape() -> None:
    with pytest.raises(ValueError, match="Expected data of the model but got none"):
        Simulated(pair().model, 5)


def test_a_model_without_latents_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="Expected a model with latent sites but got none"):
        Simulated(model, 3, torch.zeros(1))
