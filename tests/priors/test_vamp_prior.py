import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_infomax.diagnostics import decompose
from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.information import AggregatePosterior
from pyro_infomax.nn import FlowHead, NormalHead
from pyro_infomax.priors import VampPrior, check_prior

X, D = 4, 2


class Encoder(nn.Module):
    """A module whose parts are found by name, and a posterior by call."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(X, 5)
        self.head = NormalHead(5, (D,))

    def forward(self, x):
        return self.head(self.layer(x).tanh())


@pytest.fixture
def u():
    return torch.randn(3, X)


def test_it_is_the_mixture_of_the_posteriors(u):
    encoder = Encoder()
    z = torch.randn(6, D)
    scores = torch.stack([encoder(each).log_prob(z) for each in u])
    expected = scores.logsumexp(0) - math.log(3)
    torch.testing.assert_close(VampPrior(u, encoder)().log_prob(z), expected, rtol=0, atol=1e-10)


def test_weights_that_are_learned_are_used(u):
    encoder = Encoder()
    prior = VampPrior(u, encoder, learn_weights=True)
    assert prior.logits.requires_grad
    torch.testing.assert_close(prior.logits, torch.zeros(3), check_dtype=False)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([50.0, 0.0, 0.0]))
    z = torch.randn(6, D)
    torch.testing.assert_close(prior().log_prob(z), encoder(u[0]).log_prob(z))


def test_its_parameters_are_its_pseudo_inputs(u):
    prior = VampPrior(u, Encoder())
    ((_, parameter),) = prior.named_parameters()
    assert torch.equal(parameter, u)
    assert parameter.data_ptr() != u.data_ptr()
    assert prior.pseudo_inputs == (parameter,)


def test_the_gradient_reaches_pseudo_inputs_and_encoder(u):
    encoder = Encoder()
    prior = VampPrior(u, encoder, learn_weights=True)
    prior().log_prob(torch.randn(6, D)).sum().backward()
    for parameter in (*prior.parameters(), *encoder.parameters()):
        assert parameter.grad.abs().sum() > 0


def test_further_inputs_go_along_and_stay(u):
    labels = torch.tensor([0, 1, 1])

    def posterior(x, label):
        return dist.Normal(x[:, :D] + label[:, None], 1.0).to_event(1)

    prior = VampPrior((u, labels), posterior)
    expected = posterior(u, labels).mean.mean(0)
    torch.testing.assert_close(prior().mean, expected)
    assert [p.shape for p in prior.parameters()] == [u.shape]
    assert prior.pseudo_inputs[1].dtype == torch.int64


def test_posteriors_without_closed_marginals(u):
    head = FlowHead(X, (D,))
    prior = VampPrior(u, head)
    z = prior().sample((7,))
    expected = torch.stack([head(each).log_prob(z) for each in u]).logsumexp(0) - math.log(3)
    torch.testing.assert_close(prior().log_prob(z), expected)


def test_it_is_a_prior_in_its_own_dtype(u):
    encoder = Encoder()
    prior = VampPrior(u, encoder)
    assert check_prior(prior(), D).expand([4]).sample().shape == (4, D)
    encoder.float()
    assert prior.float()().sample().dtype == torch.float32


def test_copies_pickles_and_states_after_use(u):
    prior = VampPrior(u, Encoder())
    pyro.module("prior", prior)
    z = torch.randn(5, D)
    prior().log_prob(z).sum().backward()
    for twin in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        torch.testing.assert_close(twin().log_prob(z), prior().log_prob(z))
    other = VampPrior(torch.zeros_like(u), None)
    other.load_state_dict(prior.state_dict())
    assert torch.equal(*other.pseudo_inputs, u)


# ---- in a model of one's own


@pytest.fixture
def own():
    """A model with the prior, and a guide of the same encoder and head."""
    x, encoder, head = torch.randn(20, X), nn.Linear(X, 5), NormalHead(5, (D,))
    decoder = nn.Linear(D, X)

    def pair(pseudo_inputs):
        prior = VampPrior(pseudo_inputs, posterior=lambda u: head(encoder(u)))

        def model(x):
            pyro.module("prior", prior)
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", prior())
                pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

        return model, AmortizedNormal(model, encoder, heads={"z": head}), prior

    return x, pair, (encoder, head, decoder)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("vectorised", [False, True])
def test_prior_and_encoder_train_together(own, elbo, vectorised):
    x, pair, modules = own
    model, guide, prior = pair(x[:5])
    before = [p.clone() for m in (*modules, prior) for p in m.parameters()]
    loss = elbo(num_particles=2, vectorize_particles=vectorised, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    assert math.isfinite(svi.step(x))
    after = [p for m in (*modules, prior) for p in m.parameters()]
    assert all((one != other).any() for one, other in zip(before, after, strict=True))


def test_all_data_as_pseudo_inputs_leave_no_gap(own):
    x, pair, (encoder, head, _) = own
    model, guide, prior = pair(x)
    with torch.no_grad():
        z = prior().sample((50,))
        aggregate = AggregatePosterior(head(encoder(x))).log_prob(z)
        torch.testing.assert_close(prior().log_prob(z), aggregate, rtol=0, atol=1e-9)
    account = decompose(model, guide, x, num_samples=2, seed=0)
    assert abs(account.marginal_kl.value) < 1e-9
    assert abs(account.prior_gap.value) < 1e-9
    assert abs(account.rate.value - account.mutual_information.value) < 1e-9


def test_the_account_knows_its_marginals(own):
    x, pair, _ = own
    model, guide, _ = pair(x)
    account = decompose(model, guide, x, num_samples=2, seed=0)
    assert account.dimensionwise_kl.value.shape == (D,)
    assert (account.dimensionwise_kl.value.abs() < 1e-9).all()
    # what the dimensions share under the prior is what they share under the aggregate posterior
    assert abs(account.prior_dependence.value + account.total_correlation.value) < 1e-9


# ---- errors


def test_without_a_posterior_it_says_what_to_do(u):
    with pytest.raises(ValueError, match=r"this VampPrior has none: give it one.*or pass it to a VAE"):
        VampPrior(u)()


@pytest.mark.parametrize(
    ("pseudo_inputs", "message"),
    [
        (torch.tensor(1.0), "a tensor"),
        ((), "a tensor"),
        (None, "a tensor"),
        (torch.zeros(0, 3), "the same K >= 1 rows"),
        ((torch.zeros(2, 3), torch.zeros(3)), "the same K >= 1 rows"),
        (torch.zeros(2, 3, dtype=torch.uint8), r"floating-point .* but got torch.uint8"),
    ],
)
def test_pseudo_inputs_that_are_none_are_refused(pseudo_inputs, message):
    with pytest.raises(ValueError, match=message):
        VampPrior(pseudo_inputs)


@pytest.mark.parametrize(
    "posterior",
    [
        lambda u: u,
        lambda u: {"z": dist.Normal(u, 1.0).to_event(1)},
        lambda u: dist.Normal(u, 1.0),
        lambda u: dist.Normal(u[0], 1.0).to_event(1),
    ],
)
def test_a_posterior_of_another_shape_is_refused(u, posterior):
    with pytest.raises(ValueError, match=r"Expected (the|a) posterior"):
        VampPrior(u, posterior)()
