"""Arguments are checked alike in all public functions, and errors name what is wrong."""

import pickle
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_infomax.datasets import Sprites, load_patches
from pyro_infomax.diagnostics import decompose, evidence
from pyro_infomax.disentanglement import mig
from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.infer import TraceMeanField_BetaELBO
from pyro_infomax.information import mmd, mutual_information
from pyro_infomax.joint import generative, representation
from pyro_infomax.nn import MLPDecoder, MLPEncoder, NormalHead
from pyro_infomax.oracles import CorrelatedNormals, DiscreteVAE, LinearGaussian, information_bottleneck
from pyro_infomax.sweeps import sweep
from pyro_infomax.training import BestWeights, fit
from pyro_infomax.vae import VAE

DATA = torch.linspace(-1, 1, 6, dtype=torch.float64)
TABLE = [[0.4, 0.1], [0.1, 0.4]]
FACTORS = np.arange(40).reshape(20, 2) % 3
POSTERIOR = dist.Normal(DATA.reshape(6, 1), 1.0).to_event(1)
PRIOR = dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


def trained(seed):
    pyro.clear_param_store()
    torch.manual_seed(0)
    amortised = AmortizedNormal(model, nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 2)))
    svi = pyro.infer.SVI(model, amortised, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_BetaELBO())
    return fit(svi, DATA, epochs=1, batch_size=4, progress=False, seed=seed)["loss"]


def networks():
    torch.manual_seed(0)
    return VAE(MLPEncoder((2,)), MLPDecoder(2, (2,)), latent_dim=2)


def drawn(seed):
    torch.manual_seed(0)
    return AmortizedNormal(model, lambda x: x[:, None]).sample(DATA, seed=seed)["z"]


def swept(seed):
    return sweep(lambda b, seed: {"x": torch.rand(())}, {"b": [1]}, seeds=[seed], progress=False)["x"]


SEEDED = {
    "fit": trained,
    "VAE.sample": lambda seed: networks().sample(2, seed=seed),
    "guide.sample": lambda seed: (
        AmortizedNormal(model, lambda x: x[:, None]).sample(DATA, seed=seed)["z"].shape
    ),
    "generative": lambda seed: generative(model).sample(3, DATA, seed=seed)["z"],
    "representation": lambda seed: representation(guide, DATA).sample(3, seed=seed)["z"],
    "decompose": lambda seed: decompose(model, guide, DATA, seed=seed).distortion.value,
    "evidence": lambda seed: evidence(model, guide, DATA, num_samples=2, seed=seed).lower.value,
    "information": lambda seed: mutual_information(POSTERIOR, seed=seed).value,
    "mmd": lambda seed: mmd(POSTERIOR, PRIOR, seed=seed).value,
    "patches": lambda seed: load_patches(num_patches=2, seed=seed).images,
    "sprites": lambda seed: Sprites(size=16).sample(2, seed=seed)[1],
    "mig": lambda seed: mig(FACTORS, FACTORS, seed=seed, progress=False).floor,
    "LinearGaussian": lambda seed: LinearGaussian.optimum([4.0], beta=1.0, latent_dim=1).sample(2, seed=seed),
    "DiscreteVAE": lambda seed: DiscreteVAE.optimum([[0.9, 0.1], [0.1, 0.9]], beta=1.0).sample(4, seed=seed),
    "problem": lambda seed: CorrelatedNormals([[1.0, 0.5], [0.5, 1.0]], 1).sample(2, seed=seed)[0],
    "bottleneck": lambda seed: (
        information_bottleneck(
            [[0.4, 0.1], [0.1, 0.4]], num_states=2, beta=2.0, restarts=1, seed=seed
        ).relevance
    ),
    "sweep": swept,
}


@pytest.mark.parametrize("call", SEEDED.values(), ids=SEEDED)
def test_numpy_s_integers_are_seeds_and_nothing_else_is(call):
    np.testing.assert_array_equal(np.asarray(call(np.int64(3))), np.asarray(call(3)))
    for seed in (1.5, "3", True):
        with pytest.raises((ValueError, TypeError), match=r"Expected (seeds?|the seed) to be|Expected seeds"):
            call(seed)


def make_svi(elbo=None):
    return pyro.infer.SVI(model, guide, pyro.optim.Adam({}), elbo or TraceMeanField_BetaELBO())


COUNTS = {
    "latent_dim": lambda n: VAE(MLPEncoder((2,)), MLPDecoder(2, (2,)), latent_dim=n),
    "n": lambda n: networks().sample(n),
    "epochs": lambda n: fit(make_svi(), DATA, epochs=n),
    "num_samples": lambda n: decompose(model, guide, DATA, num_samples=n),
    "num_particles": lambda n: TraceMeanField_BetaELBO(num_particles=n),
    "size": lambda n: Sprites(size=n),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "2", None, np.array(2.5)])
def test_counts_are_integers(name, wrong):
    with pytest.raises((ValueError, TypeError), match=rf"Expected {name} to be an integer"):
        COUNTS[name](wrong)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: NormalHead(3, (2,))("features"), "Expected features to be a tensor but got 'features'."),
        (lambda: mutual_information(3), "Expected a posterior of batch shape .* but got int"),
        (lambda: LinearGaussian.optimum([4.0], beta={}, latent_dim=1), "Expected beta to be"),
        (
            lambda: VAE(None, MLPDecoder(2, (2,)), latent_dim=2),
            "Expected the encoder to be a module or function",
        ),
        (lambda: networks().encode(None), "Expected x to be a tensor, an array or a frame but got NoneType"),
        (
            lambda: networks().encode(torch.ones(3, 2, device="meta")),
            r"Expected arguments of .*forward that go together but it fails with x=tensor\(.*meta",
        ),
        (lambda: BestWeights(min_delta="small"), "Expected min_delta to be a number but got 'small'."),
    ],
)
def test_an_error_names_what_was_wrong(call, sentence):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=sentence):
        call()


def test_a_default_device_without_values_is_named():
    networks_there = networks()
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=r"default device that holds values .* is meta"),
    ):
        decompose(networks_there.model, networks_there.guide, torch.ones(3, 2))


def test_errors_of_a_user_s_own_function_stay_as_they_are():
    def broken(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match=r"^'mine'$"):
        decompose(broken, guide, DATA)
    with pytest.raises(ZeroDivisionError):
        VAE(lambda x: 1 / 0, MLPDecoder(2, (2,)), latent_dim=2).encode(DATA)


def test_functions_and_classes_are_pickled_by_their_names():
    for thing in (fit, VAE, mutual_information, partial(decompose, model)):
        again = pickle.loads(pickle.dumps(thing))
        assert again is thing or again.func is thing.func


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_a_training_with_pyro_s_own_objective_has_particles(wrong):
    svi = make_svi(pyro.infer.Trace_ELBO(num_particles=wrong))
    with pytest.raises(ValueError, match="Expected num_particles to be an integer >= 1"):
        fit(svi, DATA, epochs=1)
