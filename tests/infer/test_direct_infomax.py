"""Information and the marginal KL without a decoder."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from pyro import poutine
from pyro.infer import SVI
from torch.distributions import Normal

from pyro_infomax import to_arviz
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import DirectInfoMax
from pyro_infomax.information import RBF
from pyro_infomax.schedules import Linear
from pyro_infomax.training import fit

X = torch.tensor([1.4, -1.2, 0.4, -0.3, 2.1, -1.9], dtype=torch.float64)
N = len(X)


class AtNode(dist.Normal):
    """A Normal whose next draw is given: a node of a quadrature, the same for all data."""

    node = torch.zeros(())

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.node


def prior(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def with_likelihood(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z * pyro.param("w", torch.tensor(2.0)), 1.0), obs=x)


def encoder(x, family=dist.Normal):
    with pyro.plate("data", N, subsample_size=len(x)):
        gain, scale = pyro.param("gain", torch.tensor(0.7)), pyro.param("log_scale", torch.tensor(-0.4)).exp()
        pyro.sample("z", family(gain * x, scale))


def on_a_grid(lam, gain=0.7, log_scale=-0.4):
    """The objective of all data per datum, and its gradient, by sums over a grid."""
    leaves = [torch.tensor(each, requires_grad=True) for each in (gain, log_scale)]
    axis = torch.linspace(-10.0, 10.0, 2001)
    each = Normal(leaves[0] * X, leaves[1].exp()).log_prob(axis[:, None])  # (grid, data)
    mixture = each.logsumexp(1) - math.log(N)
    step = axis[1] - axis[0]
    information = (each.exp() * (each - mixture[:, None])).sum() * step / N
    kl = (mixture.exp() * (mixture - Normal(0.0, 1.0).log_prob(axis))).sum() * step
    value = kl - lam * information
    return information.item(), kl.item(), value.item(), torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("lam", [-0.5, 3.0])
def test_of_all_data_it_is_exact_in_value_and_gradient(lam):
    information, kl, value, gradient = on_a_grid(lam)
    objective = DirectInfoMax(lam, data_size=N)
    found, loss, gradients = torch.zeros(2), 0.0, torch.zeros(2)
    for node, weight in zip(*map(torch.tensor, hermegauss(24)), strict=True):
        weight = weight / math.sqrt(2 * math.pi) / N
        AtNode.node = node
        each = objective.differentiable_loss(prior, lambda x: encoder(x, AtNode), X) * weight
        leaves = [pyro.get_param_store()[name].unconstrained() for name in ("gain", "log_scale")]
        gradients += torch.stack(torch.autograd.grad(each, leaves))
        loss += each.item()
        terms = objective.terms
        found += weight * torch.tensor([terms.mutual_information, terms.marginal_kl])
    torch.testing.assert_close(found, torch.tensor([information, kl]), rtol=0, atol=1e-5)
    assert loss == pytest.approx(value, abs=1e-5)
    torch.testing.assert_close(gradients, torch.stack(gradient), rtol=0, atol=1e-5)


@pytest.mark.parametrize("lam", [3.0, -2.0])
def test_a_minibatch_rewards_infonce_and_penalises_by_stratified_sampling(lam):
    x = X[:4]
    objective = DirectInfoMax(lam)
    torch.manual_seed(0)
    z = poutine.trace(encoder).get_trace(x).nodes["z"]["value"].detach()
    torch.manual_seed(0)
    loss = objective.loss(prior, encoder, x)
    scores = Normal(0.7 * x, math.exp(-0.4)).log_prob(z[:, None])
    weights = torch.full((4, 4), (N - 1) / N / 3).fill_diagonal_(1 / N)
    stratified = (scores + weights.log()).logsumexp(1)
    plain = scores.logsumexp(1) - math.log(4)
    information = float((scores.diagonal() - (plain if lam > 0 else stratified)).sum()) * N / 4
    kl = float((stratified - Normal(0.0, 1.0).log_prob(z)).sum()) * N / 4
    terms = objective.terms
    assert (terms.mutual_information, terms.marginal_kl) == pytest.approx((information, kl))
    assert loss == pytest.approx(kl - lam * information)


def test_the_likelihood_counts_nothing():
    losses = []
    for model in (prior, with_likelihood):
        pyro.clear_param_store()
        objective = DirectInfoMax(2.0)
        torch.manual_seed(0)
        losses.append(objective.loss_and_grads(model, encoder, X[:4]))
    assert losses[0] == losses[1]
    assert objective.terms.distortion > 0
    gradient = pyro.get_param_store()["w"].unconstrained().grad
    assert gradient is None or not gradient


def test_it_says_of_how_many_data_the_loss_is_without_a_likelihood():
    objective = DirectInfoMax()
    objective.loss(prior, encoder, X[:4])
    assert objective.stands_for(4) == N


def test_codes_that_do_not_overlap_have_the_information_of_a_list():
    objective = DirectInfoMax(1.0, data_size=N)
    objective.loss(prior, lambda x: encoder(1e4 * x), X)
    assert objective.terms.mutual_information / N == pytest.approx(math.log(N))


def test_permuted_data_have_the_same_value():
    values = []
    for x in (X, X.flip(0)):
        objective = DirectInfoMax(2.0, data_size=N)
        AtNode.node = torch.tensor(0.3)
        values.append(objective.loss(prior, lambda x: encoder(x, AtNode), x))
    assert values[0] == pytest.approx(values[1], rel=1e-12)


# ---- The discrepancy in place of the divergence.


def expected_kernel(mean, variance, length):
    """E k(a, b) of the Gaussian kernel, where a − b is N(mean, variance)."""
    total = length**2 + variance
    return (length**2 / total).sqrt() * (-(mean**2) / (2 * total)).exp()


@pytest.mark.parametrize("size", [N, 3])
def test_the_discrepancy_is_unbiased_over_minibatches(size):
    length, variance = torch.tensor(0.5), torch.tensor(math.exp(-0.8))
    mean = 0.7 * 4 * X
    apart = mean[:, None] - mean
    of_posterior = expected_kernel(apart, 2 * variance, length)
    rest = expected_kernel(torch.zeros(()), torch.tensor(2.0), length)
    rest = rest - 2 * expected_kernel(mean, variance + 1, length).mean()
    exact = float(of_posterior.mean() + rest)
    of_others = float((of_posterior.sum() - of_posterior.diagonal().sum()) / (N * (N - 1)) + rest)
    objective = DirectInfoMax(0.0, mmd=2.0, kernel=RBF(float(length)), data_size=N)
    found = []
    for _ in range(200):
        loss = objective.loss(prior, lambda x: encoder(4 * x), X[torch.randperm(N)[:size]])
        found.append(objective.terms.mmd / N)
        assert loss == pytest.approx(2 * objective.terms.mmd)
    found = torch.tensor(found)
    error = float(found.std()) / 200**0.5
    assert abs(float(found.mean()) - exact) < 4 * error
    # Pairs of different data alone, as one draw for each datum gives, miss it where the draws can tell
    assert size < N or abs(float(found.mean()) - of_others) > 4 * error


def test_a_kernel_wants_a_weight():
    with pytest.raises(ValueError, match="pass mmd too"):
        DirectInfoMax(kernel=RBF(1.0))
    with pytest.raises(ValueError, match="function of two points"):
        DirectInfoMax(mmd=1.0, kernel=3)
    with pytest.raises(ValueError, match=r"to \(m, n\) but got \(6,\)"):
        DirectInfoMax(mmd=1.0, kernel=lambda a, b: (a - b).square().sum(-1), data_size=N).loss(
            prior, encoder, X
        )
    with pytest.raises(ValueError, match="Expected mmd >= 0"):
        DirectInfoMax(mmd=-1.0)
    with pytest.raises(ValueError, match="lam to be"):
        DirectInfoMax(math.nan)


# ---- Training.


def test_with_fixed_noise_it_lands_at_the_tempered_prior():
    """The variance of q(z) is 1 + λ, and the value what its closed form says."""
    lam, noise, size = 1.5, 0.2, 150
    x = torch.special.ndtri((torch.arange(size) + 0.5) / size)
    x = (x / x.square().mean().sqrt())[:, None]

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("gain", torch.tensor(0.6)) * x, noise).to_event(1))

    objective = DirectInfoMax(lam, data_size=size)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), objective)
    gains, losses = [], []
    for _ in range(160):
        losses.append(svi.step(x) / size)
        gains.append(float(pyro.param("gain").detach()))
    variance = sum(each**2 for each in gains[80:]) / 80 + noise**2
    assert variance == pytest.approx(1 + lam, rel=0.06)
    closed = 0.5 * (lam - (1 + lam) * math.log1p(lam)) + lam * math.log(noise)
    losses = torch.tensor(losses[80:])
    assert float(losses.mean()) == pytest.approx(closed, abs=0.05)


@pytest.mark.parametrize("options", [{"lam": Linear(-1.0, 2.0, 4)}, {"lam": 2.0, "mmd": Linear(1.0, 9.0, 4)}])
def test_it_trains_captured_as_by_steps(options):
    losses, terms = [], []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        objective = DirectInfoMax(**options, data_size=N)
        svi = kind(whole, coded, FusedOptim(torch.optim.Adam, {"lr": 0.05}), objective)
        losses.append([svi.step(X[:4]) for _ in range(6)])
        terms.append(dict(objective.terms))
    assert svi.captured
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=0)
    torch.testing.assert_close(terms[0], terms[1], rtol=1e-9, atol=0)


def whole(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def coded(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("gain", torch.tensor(0.7)) * x, 0.5))


def test_it_goes_through_a_training(tmp_path):
    objective = DirectInfoMax(Linear(0.0, 2.0, 5), data_size=40)
    svi = CapturedSVI(whole, coded, FusedOptim(torch.optim.Adam, {"lr": 0.01}), objective)
    x = torch.randn(40)
    history = fit(svi, x, epochs=2, batch_size=10, progress=False, seed=0, checkpoint=tmp_path / "c.pt")
    assert {"mutual_information", "marginal_kl"} <= set(history.to_frame().columns)
    assert svi.captured
    objective.load_state_dict({"step": 1})
    assert (objective.step, objective.lam.duration) == (1, 5)
    to_arviz(with_plate_of_len, coded, x, num_samples=3, seed=0)


def with_plate_of_len(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
