import copy
import io
import math
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn

from pyro_infomax.capture import CapturedSVI
from pyro_infomax.diagnostics import decompose, to_arviz
from pyro_infomax.distributions import CouplingFlow
from pyro_infomax.guides import (
    AmortizedDelta,
    AmortizedDiscrete,
    AmortizedFlow,
    AmortizedLowRankNormal,
    AmortizedMultivariateNormal,
    AmortizedNormal,
)
from pyro_infomax.joint import generative
from pyro_infomax.nn import ConvDecoder, ConvEncoder, Gaussian, MLPDecoder, MLPEncoder, MultivariateNormalHead
from pyro_infomax.priors import FlowPrior, MixturePrior, VampPrior
from pyro_infomax.vae import VAE

SHAPE, LATENT = (4, 5), 3


def build(encoder=None, decoder=None, **kwargs):
    encoder = MLPEncoder(SHAPE, hidden=(7,)) if encoder is None else encoder
    decoder = MLPDecoder(LATENT, SHAPE, hidden=(7,)) if decoder is None else decoder
    return VAE(encoder, decoder, latent_dim=LATENT, **kwargs)


def trained(vae, x, steps=3, elbo=None):
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), elbo or TraceMeanField_ELBO())
    return [svi.step(x) for _ in range(steps)]


def state(vae):
    return {name: value.clone() for name, value in vae.state_dict().items()}


@pytest.fixture
def x():
    return torch.rand(6, *SHAPE)


# ---- the two programs


def test_the_programs_have_the_sites_z_and_x_in_a_plate_of_the_data(x):
    vae = build()
    guide = pyro.poutine.trace(vae.guide).get_trace(x)
    model = pyro.poutine.trace(pyro.poutine.replay(vae.model, trace=guide)).get_trace(x)
    assert model.stochastic_nodes == guide.stochastic_nodes == ["data", "z"]
    assert model.observation_nodes == ["x"]
    for site in (model.nodes["z"], model.nodes["x"], guide.nodes["z"]):
        (frame,) = site["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size) == ("data", -1, 6)
        assert site["fn"].batch_shape == (6,)


def test_the_distortion_is_the_likelihood_of_the_decoded_latent(x):
    vae = build(likelihood=Gaussian(0.5))
    trace = pyro.poutine.trace(vae.model).get_trace(x)
    trace.compute_log_prob()
    mean = vae.decoder(trace.nodes["z"]["value"])
    expected = -((x - mean) ** 2) / 0.5 - math.log(0.5) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected.sum((-1, -2)))


def test_the_rate_has_a_closed_form(x):
    vae = build()
    q = pyro.poutine.trace(vae.guide).get_trace(x).nodes["z"]["fn"]
    p = pyro.poutine.trace(vae.model).get_trace(x).nodes["z"]["fn"]
    features = vae.encoder(x) @ vae.head.linear.weight.T + vae.head.linear.bias
    loc, scale = features[:, :LATENT], torch.nn.functional.softplus(features[:, LATENT:])
    expected = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum(-1)
    torch.testing.assert_close(torch.distributions.kl_divergence(q, p), expected)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO])
def test_one_particle_has_the_terms_of_many(x, elbo):
    vae = build()
    single = torch.tensor([elbo().loss(vae.model, vae.guide, x) for _ in range(200)])
    several = elbo(num_particles=500, vectorize_particles=True, max_plate_nesting=1)
    error = single.std() * math.sqrt(1 / 200 + 1 / 500)
    assert abs(several.loss(vae.model, vae.guide, x) - single.mean()) < 4 * error


def test_every_parameter_gets_a_gradient(x):
    vae = build(likelihood="gaussian")
    TraceMeanField_ELBO().loss_and_grads(vae.model, vae.guide, x)
    assert {name for name, p in vae.named_parameters() if p.grad is None} == set()
    assert "likelihood.log_scale" in dict(vae.named_parameters())


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "continuous_bernoulli", "categorical"])
def test_every_likelihood_trains(x, likelihood):
    decoder, data = None, x
    if likelihood == "categorical":
        decoder, data = MLPDecoder(LATENT, (*SHAPE, 4)), (4 * x).long()
        encoder = nn.Sequential(nn.Flatten(), nn.Embedding(4, 2), nn.Flatten(), nn.Linear(40, 6))
        vae = build(encoder, decoder, likelihood=likelihood)
    else:
        vae = build(likelihood=likelihood)
    losses = trained(vae, data, steps=60)
    assert sum(losses[-10:]) < sum(losses[:10])
    assert vae.sample(3).shape == (3, *SHAPE)
    assert vae.reconstruct(data).shape == data.shape


def test_convolutions_train(x):
    vae = build(
        ConvEncoder(SHAPE, channels=(2,), out_features=6), ConvDecoder(LATENT, SHAPE, channels=(2,), hidden=6)
    )
    assert all(map(math.isfinite, trained(vae, x)))


def test_a_callable_likelihood_has_its_axes_joined(x):
    vae = build(likelihood=lambda p: dist.Laplace(p, 2.0))
    p = vae.decode(torch.zeros(5, 6, LATENT))
    assert (p.batch_shape, p.event_shape) == ((5, 6), SHAPE)
    expected = (-(x - p.mean).abs() / 2 - math.log(4)).sum((-1, -2))
    torch.testing.assert_close(p.log_prob(x), expected)
    joined = build(likelihood=lambda p: dist.Laplace(p, 2.0).to_event(2))
    assert joined.decode(torch.zeros(5, 6, LATENT)).event_shape == SHAPE


def test_a_module_as_likelihood_trains(x):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.raw = nn.Parameter(torch.zeros(SHAPE))

        def forward(self, p):
            return dist.Normal(p, self.raw.exp())

    vae = build(likelihood=Scaled())
    trained(vae, x)
    assert any(value.abs().max() > 0 for name, value in vae.named_parameters() if name.endswith("raw"))


# ---- encode, decode, sample, reconstruct


def test_encode_and_decode_return_distributions(x):
    vae = build()
    with torch.no_grad():
        q, p = vae.encode(x), vae.decode(torch.zeros(2, 6, LATENT))
    assert (q.batch_shape, q.event_shape) == ((6,), (LATENT,))
    assert (p.batch_shape, p.event_shape) == ((2, 6), SHAPE)
    assert vae.decode(torch.zeros(LATENT)).batch_shape == ()


def test_outside_of_inference_the_store_stays_empty(x):
    vae = build(likelihood="gaussian")
    vae.encode(x), vae.decode(torch.zeros(1, LATENT)), vae.sample(2), vae.reconstruct(x)
    assert not pyro.get_param_store()


def test_a_decoder_for_matrices_takes_any_leading_axes():
    vae = build(decoder=nn.Sequential(nn.Linear(LATENT, 20), nn.Unflatten(1, SHAPE)))
    assert vae.decode(torch.zeros(2, 5, LATENT)).batch_shape == (2, 5)


def test_sample_draws_from_the_generative_joint():
    # x = 2z + noise of scale 0.5, z from N(1, 3): mean 2, variance 4 * 9 + 0.25
    decoder = nn.Linear(1, 1)
    nn.init.constant_(decoder.weight, 2.0)
    nn.init.zeros_(decoder.bias)
    prior = dist.Normal(torch.ones(1), 3.0).to_event(1)
    vae = VAE(nn.Linear(1, 2), decoder, latent_dim=1, likelihood=Gaussian(0.5), prior=prior)
    x = vae.sample(20000)
    variance = 36.25
    assert abs(x.mean() - 2) < 4 * math.sqrt(variance / 20000)
    assert abs(x.var() - variance) < 4 * variance * math.sqrt(2 / 20000)


def test_a_seed_isolates_the_sample():
    vae = build()
    before = torch.get_rng_state()
    assert torch.equal(vae.sample(3, seed=1), vae.sample(3, seed=1))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(vae.sample(3), vae.sample(3))


def test_reconstruct_decodes_the_mean(x):
    vae = build()
    torch.testing.assert_close(vae.reconstruct(x), vae.decoder(vae.encode(x).mean).sigmoid().detach())
    assert not vae.reconstruct(x).requires_grad


def test_reconstruct_gives_the_most_probable_class():
    x = torch.rand(6, *SHAPE)
    vae = build(decoder=MLPDecoder(LATENT, (*SHAPE, 4)), likelihood="categorical")
    logits = vae.decoder(vae.encode(x).mean)
    assert torch.equal(vae.reconstruct(x), logits.argmax(-1))


def test_further_data_reach_the_encoder_only(x):
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(22, 7)

        def forward(self, x, y):
            return self.layer(torch.cat([x.flatten(1), y], -1))

    vae, y = build(Conditional()), torch.rand(6, 2)
    TraceMeanField_ELBO().loss(vae.model, vae.guide, x, y)
    assert not torch.equal(vae.encode(x, y).mean, vae.encode(x, y + 1).mean)
    assert vae.reconstruct(x, y).shape == x.shape


# ---- heads


def test_heads_exist_at_once_if_the_encoder_tells_its_features():
    names = [name for name, _ in build().named_parameters()]
    assert "head.linear.weight" in names


def test_heads_are_built_by_one_call_that_leaves_no_trace(x):
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(20), nn.Dropout(), nn.Linear(20, 6)).float()
    vae = build(encoder)
    torch.manual_seed(3)
    vae.encode(x.float())
    after = torch.get_rng_state()
    # one pass of the encoder, as if the heads had been there
    assert encoder.training
    assert encoder[1].num_batches_tracked == 1
    torch.manual_seed(3)
    encoder(x.float())
    assert torch.equal(after, torch.get_rng_state())
    assert vae.head.linear.weight.shape == (2 * LATENT, 6)
    assert vae.head.linear.weight.dtype == torch.float32


def test_built_heads_train_from_the_first_step(x):
    vae = build(nn.Sequential(nn.Flatten(), nn.Linear(20, 6)))
    trained(vae, x, steps=1)
    first = state(vae)
    trained(vae, x, steps=1)
    assert not torch.equal(first["head.linear.weight"], vae.head.linear.weight)
    assert "VAE" in next(iter(pyro.get_param_store()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_parts_share_the_dtype_of_the_networks(dtype):
    vae = build(MLPEncoder(SHAPE).to(dtype), MLPDecoder(LATENT, SHAPE).to(dtype), likelihood="gaussian")
    x = torch.rand(6, *SHAPE, dtype=dtype)
    assert {p.dtype for p in vae.parameters()} == {dtype}
    assert vae.sample(2).dtype == vae.encode(x).mean.dtype == dtype


# ---- priors


def test_a_prior_that_is_a_module_trains(x):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(LATENT))

        def forward(self):
            return dist.Normal(self.loc, 1.0).to_event(1)

    prior = Shifted()
    trained(build(prior=prior), x)
    assert (prior.loc != 0).all()


def test_a_mixture_prior_is_scored(x):
    components = dist.Normal(torch.tensor([[-1.0] * LATENT, [1.0] * LATENT]), 0.5).to_event(1)
    prior = dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(2)), components)
    vae = build(prior=prior)
    trace = pyro.poutine.trace(vae.model).get_trace(x)
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], prior.log_prob(z))


PRIORS = {
    "mixture": lambda x: MixturePrior(LATENT, num_components=4),
    "vamp": lambda x: VampPrior(x[:4]),
    "vamp, weighted": lambda x: VampPrior(x[:4], learn_weights=True),
    "flow": lambda x: FlowPrior(LATENT, flow=lambda size: CouplingFlow(size, layers=2, hidden=(8,))),
}


@pytest.fixture(params=PRIORS)
def prior(request, x):
    return PRIORS[request.param](x)


@pytest.mark.parametrize(
    ("elbo", "particles"),
    [
        (Trace_ELBO, {"vectorize_particles": True, "max_plate_nesting": 1}),
        (TraceGraph_ELBO, {}),
        (TraceMeanField_ELBO, {"vectorize_particles": True, "max_plate_nesting": 1}),
    ],
)
def test_a_prior_with_parameters_trains_with_the_pair(prior, x, elbo, particles):
    vae = build(prior=prior)
    before = state(vae)
    losses = trained(vae, x, 3, elbo(num_particles=2, **particles))
    assert all(map(math.isfinite, losses))
    trainable = dict(vae.named_parameters())
    assert all((before[name] != value).any() for name, value in trainable.items())


def test_a_prior_with_parameters_is_sampled_and_accounted_for(prior, x):
    vae = build(prior=prior)
    assert vae.sample(5, seed=0).shape == (5, *SHAPE)
    z = torch.randn(7, LATENT)
    expected = vae.prior(vae.encode).log_prob(z) if isinstance(prior, VampPrior) else prior().log_prob(z)
    torch.testing.assert_close(generative(vae.model).log_prior(z), expected)
    account = decompose(vae.model, vae.guide, x, num_samples=200, seed=0)
    assert (account.dimensionwise_kl is None) == isinstance(prior, FlowPrior)
    q = vae.encode(x)
    z = q.sample((500,))
    rates = q.log_prob(z) - generative(vae.model).log_prior(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    error = account.rate.standard_error + rates.std() / rates.numel() ** 0.5
    assert abs(account.rate.value - rates.mean()) < 5 * error


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda vae: pickle.loads(pickle.dumps(vae))])
def test_a_copied_pair_has_a_prior_of_its_own(prior, x, twin_of):
    vae = build(prior=prior)
    trained(vae, x)
    z = torch.randn(7, LATENT)
    twin = twin_of(vae)
    expected = generative(vae.model).log_prior(z)
    torch.testing.assert_close(generative(twin.model).log_prior(z), expected)
    trained(twin, x)
    assert (generative(twin.model).log_prior(z) != expected).all()
    torch.testing.assert_close(generative(vae.model).log_prior(z), expected)


def test_a_vamp_prior_is_that_of_the_posterior(x):
    vae = build(prior=VampPrior(x))
    z = torch.randn(7, LATENT)
    expected = vae.encode(x).log_prob(z[:, None]).logsumexp(1) - math.log(len(x))
    torch.testing.assert_close(generative(vae.model).log_prior(z), expected, rtol=0, atol=1e-10)


def test_all_data_as_pseudo_inputs_leave_no_gap(x):
    vae = build(prior=VampPrior(x))
    account = decompose(vae.model, vae.guide, x, num_samples=2, seed=0)
    assert abs(account.prior_gap.value) < 1e-9


def test_a_vamp_prior_works_before_anything_is_encoded(x):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(20, 7))
    vae = build(encoder=plain, prior=VampPrior(x[:4]))
    assert vae.sample(2).shape == (2, *SHAPE)
    assert len(dict(vae.named_parameters())) > 0


def test_a_vamp_prior_leaves_batch_statistics_to_the_data(x):
    def normalised(prior):
        torch.manual_seed(3)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(20, 7), nn.BatchNorm1d(7))
        vae = build(encoder=encoder, prior=prior)
        trained(vae, x, 1)
        return encoder

    mean = normalised(VampPrior(5 * x[:2])).get_submodule("2").running_mean
    torch.testing.assert_close(mean, normalised(None).get_submodule("2").running_mean)
    encoder = normalised(VampPrior(x[:1]))
    assert encoder.training
    assert encoder[2].training


def test_pseudo_inputs_may_have_labels(x):
    class Conditional(nn.Module):
        out_features = 5

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20 + 2, 5)

        def forward(self, x, label):
            return self.layer(torch.cat([x.flatten(1), torch.eye(2)[label]], -1))

    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    vae = build(encoder=Conditional(), prior=VampPrior((x[:3], labels[:3])))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    assert math.isfinite(svi.step(x, labels))
    z = torch.randn(7, LATENT)
    expected = vae.encode(x[:3], labels[:3]).log_prob(z[:, None]).logsumexp(1) - math.log(3)
    # the first pseudo-inputs have moved by a step
    torch.testing.assert_close(vae.prior(vae.encode).log_prob(z), expected, rtol=0, atol=0.1)


def test_the_encoder_trains_with_the_model_alone_under_a_vamp_prior(x):
    vae = build(prior=VampPrior(x[:4]))
    with pyro.poutine.trace(param_only=True) as capture:
        vae.model(x)
    names = set(capture.trace.nodes)
    assert any(name.startswith(f"{vae._name}.encoder") for name in names)
    assert any(name.startswith(f"{vae._name}.head") for name in names)


def test_a_prior_of_another_shape_is_refused(x):
    with pytest.raises(ValueError, match=r"event shape \(3,\)"):
        build(prior=dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pytest.raises(ValueError, match=r"event shape \(3,\)"):
        build(prior=lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1)).model(x)


# ---- Pyro's store


def test_two_instances_train_independently(x):
    first, second = build(), build()
    trained(first, x)
    kept, start = state(first), state(second)
    trained(second, x)
    torch.testing.assert_close(state(first), kept)
    assert all(not torch.equal(start[name], value) for name, value in second.state_dict().items())


def test_a_copy_trains_independently(x):
    first = build()
    trained(first, x)
    kept, second = state(first), copy.deepcopy(first)
    torch.testing.assert_close(state(second), kept)
    trained(second, x)
    torch.testing.assert_close(state(first), kept)
    assert all(not torch.equal(kept[name], value) for name, value in second.state_dict().items())


def test_a_trained_instance_can_be_pickled(x):
    vae = build()
    trained(vae, x)
    snapshot, kept = pickle.dumps(vae), state(vae)
    trained(vae, x)
    torch.testing.assert_close(state(pickle.loads(snapshot)), kept)
    torch.testing.assert_close(pickle.loads(snapshot).encode(x).mean, _mean(vae, kept, x))


def _mean(vae, kept, x):
    vae.load_state_dict(kept)
    return vae.encode(x).mean


def test_a_loaded_store_is_used_everywhere(x):
    vae = build()
    trained(vae, x)
    expected, buffer = vae.encode(x).mean, io.BytesIO()
    torch.save(pyro.get_param_store().get_state(), buffer)
    buffer.seek(0)
    pyro.clear_param_store()
    fresh = build()
    fresh._name = vae._name
    assert not torch.equal(fresh.encode(x).mean, expected)
    pyro.get_param_store().set_state(torch.load(buffer, weights_only=False))
    torch.testing.assert_close(fresh.encode(x).mean, expected)
    z = torch.randn(2, LATENT)
    torch.testing.assert_close(fresh.decode(z).mean, vae.decode(z).mean)


def test_clearing_the_store_keeps_the_training(x):
    vae = build()
    trained(vae, x)
    kept = state(vae)
    pyro.clear_param_store()
    vae.encode(x)
    torch.testing.assert_close(state(vae), kept)


def test_a_pyro_module_as_encoder_trains(x):
    def one():
        return build(PyroModule[nn.Sequential](nn.Flatten(), PyroModule[nn.Linear](20, 6)))

    first, second = one(), one()
    trained(first, x)
    kept = state(first)
    start = state(second)
    trained(second, x)
    torch.testing.assert_close(state(first), kept)
    assert all(
        not torch.equal(start[name], value)
        for name, value in second.encoder.state_dict(prefix="encoder.").items()
    )


# ---- errors


def test_wrong_shapes_are_named(x):
    vae = build()
    with pytest.raises(ValueError, match=r"Expected data of shape \(\.\.\., 4, 5\) but got \(6, 20\)"):
        vae.encode(x.flatten(1))
    with pytest.raises(ValueError, match=r"Expected data of shape \(batch, 4, 5\).* x of shape \(6, 20\)"):
        vae.model(x.flatten(1))
    with pytest.raises(ValueError, match=r"Expected latents of shape \(\.\.\., 3\) but got \(6, 2\)"):
        vae.decode(torch.zeros(6, 2))
    with pytest.raises(ValueError, match=r"Expected features of shape .* = 6 but .* returned \(12, 10\)"):
        build(lambda x: x.reshape(12, 10)).encode(x)
    with pytest.raises(ValueError, match=r"Expected the decoder to return one row a latent, \(6, \.\.\.\)"):
        build(decoder=lambda z: z.flatten()).decode(torch.zeros(6, LATENT))
    with pytest.raises(ValueError, match=r"starts with \(6,\) but got \(\)"):
        build(likelihood=lambda p: dist.Normal(p.sum(), 1.0)).decode(torch.zeros(6, LATENT))
    with pytest.raises(ValueError, match="Expected latent_dim to be an integer >= 1 but got 0"):
        VAE(nn.Identity(), nn.Identity(), latent_dim=0)


@pytest.mark.parametrize("bad", [255.0, -0.1, math.nan])
def test_data_out_of_range_are_refused_while_validation_is_on(x, bad):
    vae = build()
    x[0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"Expected data in \[0, 1\] for the Bernoulli likelihood"):
        Trace_ELBO().loss(vae.model, lambda x: None, x)
    with pyro.validation_enabled(False):
        pyro.poutine.trace(vae.model).get_trace(x)


def test_categories_train_as_the_integers_that_they_are() -> None:
    vae = VAE(MLPEncoder(6), MLPDecoder(2, (6, 3)), latent_dim=2, likelihood="categorical")
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
    assert svi.step(torch.randint(3, (40, 6))) > 0
    assert vae.encode(vae.sample(5)).batch_shape == (5,)


def test_labels_travel_along_with_an_encoder_that_does_not_need_them() -> None:
    x, trained = torch.randn(4, 6), []
    for labels in ((), (torch.arange(4),)):
        torch.manual_seed(1)
        vae = VAE(MLPEncoder(6), MLPDecoder(2, 6), latent_dim=2, likelihood="gaussian")
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
        loss = svi.step(x, *labels)
        trained.append([torch.tensor(loss), vae.encode(x, *labels).mean, *vae.parameters()])
    torch.testing.assert_close(*trained, rtol=0, atol=0)


class Headless(nn.Module):
    """An encoder whose features cannot be counted before it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_parameters_are_refused_before_the_heads_are_built() -> None:
    vae = VAE(Headless(), MLPDecoder(2, 6), latent_dim=2)
    with pytest.raises(RuntimeError, match=r"call vae.encode\(x\) once"):
        torch.optim.Adam(vae.parameters())
    vae.encode(torch.zeros(3, 6))
    assert any(name.startswith("head.") for name, _ in vae.named_parameters())


def test_a_state_brings_the_heads_that_it_needs() -> None:
    trained = VAE(Headless(), MLPDecoder(2, 6), latent_dim=2)
    expected = trained.encode(torch.ones(1, 6)).mean
    fresh = VAE(Headless(), MLPDecoder(2, 6), latent_dim=2)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.encode(torch.ones(1, 6)).mean, expected)


# ---- heads


def one_hot_prior():
    return dist.OneHotCategorical(torch.ones(LATENT))


def gamma_prior():
    return dist.Gamma(torch.ones(LATENT), 1.0).to_event(1)


# From a name to a head, and to what makes the prior, None for the default
HEADS = {
    "full covariance": (AmortizedMultivariateNormal, None),
    "options of a family": (partial(AmortizedLowRankNormal, rank=2), None),
    "flow": (AmortizedFlow, None),
    "distribution": (dist.Laplace, None),
    "parameters fixed": (partial(dist.StudentT, 4.0), None),
    "support of the prior": (AmortizedNormal, gamma_prior),
    "support of a prior that is a function": (AmortizedFlow, lambda: gamma_prior),
    "vamp prior": (AmortizedFlow, lambda: VampPrior(torch.rand(2, *SHAPE))),
    "relaxed": (partial(AmortizedDiscrete, temperature=0.5), one_hot_prior),
}


def build_with_head(name, encoder=None):
    head, make_prior = HEADS[name]
    return build(encoder, head=head, prior=make_prior() if make_prior else None)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_trains_encodes_and_decomposes(name, x):
    vae = build_with_head(name)
    before = state(vae)
    svi = CapturedSVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert all(math.isfinite(svi.step(x)) for _ in range(4))
    assert not torch.equal(before["head.linear.weight"], vae.head.linear.weight)
    posterior = vae.encode(x)
    assert (posterior.batch_shape, posterior.event_shape) == ((len(x),), (LATENT,))
    assert vae.reconstruct(x).shape == x.shape
    account = decompose(vae.model, vae.guide, x, num_samples=2, seed=0)
    assert torch.isfinite(account.rate.value)
    assert len(to_arviz(vae.model, vae.guide, x, num_samples=3).posterior["z"].dims) == 4


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_built_by_the_first_call_or_by_a_state(name, x):
    def encoder():
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 6))

    trained, fresh = build_with_head(name, encoder()), build_with_head(name, encoder())
    assert trained.head is None
    draws = trained.encode(x).sample()
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.encode(x).log_prob(draws), trained.encode(x).log_prob(draws))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(fresh)))
    assert torch.equal(twin.encode(x).log_prob(draws), trained.encode(x).log_prob(draws))


def test_a_module_is_the_head_itself(x):
    head = MultivariateNormalHead(7, (LATENT,))
    vae = build(head=head)
    assert vae.head is head
    trained(vae, x, elbo=Trace_ELBO())
    assert vae.encode(x).covariance_matrix.shape == (len(x), LATENT, LATENT)


def test_a_lazy_head_is_built_for_the_features(x):
    class LazyHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(LATENT)

        def forward(self, features):
            return dist.Normal(self.layer(features), 1.0).to_event(1)

    vae = build(lambda x: x.flatten(1), head=LazyHead())
    with pytest.raises(RuntimeError, match="built at first use"):
        list(vae.parameters())
    assert vae.encode(x).event_shape == (LATENT,)
    assert len(list(vae.head.parameters())) == 2


def test_the_default_is_the_head_of_the_normal_family(x):
    torch.manual_seed(0)
    default = build()
    torch.manual_seed(0)
    named = build(head=AmortizedNormal)
    assert all(torch.equal(value, default.state_dict()[name]) for name, value in named.state_dict().items())
    assert torch.equal(default.encode(x).mean, named.encode(x).mean)


def test_a_discrete_latent_is_enumerated(x):
    vae = build(head=AmortizedDiscrete, prior=one_hot_prior())
    losses = trained(vae, x, elbo=TraceEnum_ELBO())
    assert all(math.isfinite(loss) for loss in losses)
    assert vae.encode(x).sample().sum(-1).eq(1).all()


def test_a_point_has_no_account(x):
    vae = build(head=AmortizedDelta)
    trained(vae, x, elbo=Trace_ELBO())
    with pytest.raises(NotImplementedError, match="Deltas, which have no density"):
        decompose(vae.model, vae.guide, x)


@pytest.mark.parametrize("bad", ["normal", 3, lambda features: dist.Normal(features, 1.0)])
def test_what_is_no_head_is_refused(bad):
    with pytest.raises(ValueError, match="Expected the head of 'z' to be a module from features"):
        build(head=bad)


def test_a_family_that_does_not_cover_the_prior_is_refused():
    with pytest.raises(NotImplementedError, match="'z' is discrete"):
        build(head=AmortizedNormal, prior=one_hot_prior())


def test_a_head_of_another_shape_is_named(x):
    with pytest.raises(ValueError, match="head of 'z' to return a distribution of event shape"):
        build(head=MultivariateNormalHead(7, (LATENT + 1,))).encode(x)


@pytest.mark.parametrize("bad", [True, 0, 2.0, "2"])
def test_the_size_of_the_latent_is_an_integer(bad):
    with pytest.raises(ValueError, match="Expected latent_dim to be an integer >= 1 but got"):
        VAE(MLPEncoder(6), MLPDecoder(2, 6), latent_dim=bad)
