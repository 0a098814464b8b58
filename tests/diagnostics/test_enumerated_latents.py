"""Latents that the model enumerates are summed out of the account, and recovered given the others."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate

from pyro_infomax import decompose, to_arviz
from pyro_infomax.diagnostics import evidence

close = torch.testing.assert_close
X = torch.linspace(-2, 3, 70, dtype=torch.float64)
MEANS, SHARES = torch.tensor([[-1.0, 1.0, 2.0], [0.2, 0.5, 0.3]], dtype=torch.float64)


def normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)


def guide(x, *others):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.7))


@config_enumerate
def clustered(x):
    """c → z → x."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(SHARES))
        z = pyro.sample("z", dist.Normal(MEANS[c], 0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def contaminated(x):
    """z, c → x."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        c = pyro.sample("c", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(z + MEANS[c], 0.5), obs=x)


def mixture_over(*shape):
    return dist.Categorical(SHARES.expand(*shape, 3))


def clustered_by_hand(x):
    with pyro.plate("data", len(x)):
        each = dist.Normal(MEANS.expand(len(x), 3), 0.5)
        z = pyro.sample("z", dist.MixtureSameFamily(mixture_over(len(x)), each))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def contaminated_by_hand(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        each = dist.Normal(z[:, None] + MEANS, 0.5)
        pyro.sample("x", dist.MixtureSameFamily(mixture_over(len(x)), each), obs=x)


@pytest.mark.parametrize(
    ("model", "by_hand"), [(clustered, clustered_by_hand), (contaminated, contaminated_by_hand)]
)
def test_account_is_that_of_the_mixture(model, by_hand):
    found, right = (decompose(each, guide, X, batch_size=50, seed=0) for each in (model, by_hand))
    for name in ("rate", "distortion", "elbo", "mutual_information", "marginal_kl", "dimensionwise_kl"):
        close(getattr(found, name).value, getattr(right, name).value)
    bounds = [evidence(each, guide, X, num_samples=20, seed=0).per_datum for each in (model, by_hand)]
    close(*bounds)


def test_inner_plates_and_several_observed_sites():
    """Each of four words has a class of its own; a label follows."""
    words = torch.randn(70, 4)

    @config_enumerate
    def model(x, y):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("words", 4, dim=-1):
                c = pyro.sample("c", dist.Categorical(SHARES))
                pyro.sample("x", dist.Normal(z + MEANS[c], 0.5), obs=x)
            d = pyro.sample("d", dist.Bernoulli(logits=z))
            pyro.sample("y", dist.Normal(d, 1.0), obs=y)

    def words_guide(x, y):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(0.1 * y, 0.7))

    y = torch.randn(70, 1)
    account = decompose(model, words_guide, (words, y), num_samples=10, seed=0)
    z = 0.1 * y + 0.7 * torch.randn(500, 70, 1)
    each = normal(words[..., None], z[..., None, None] + MEANS, 0.5) + SHARES.log()
    log_x = each.logsumexp(-1).sum(-1)
    label = torch.stack(
        [normal(y, 0.0, 1.0) + torch.sigmoid(-z).log(), normal(y, 1.0, 1.0) + torch.sigmoid(z).log()]
    )
    right = -torch.stack([log_x.mean(), label.logsumexp(0).mean()])
    assert account.observed_names == ("x", "y")
    error = 4 * account.site_distortion.standard_error + 0.02
    assert bool(((account.site_distortion.value - right).abs() < error).all())
    close(account.site_distortion.value.sum(), account.distortion.value)


def test_chains_of_states():
    """A hidden Markov model of three steps, by its forward sums."""
    steps, data = 3, torch.randn(30, 3)
    move = torch.tensor([[0.8, 0.2], [0.3, 0.7]])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            state = 0
            for t in pyro.markov(range(steps)):
                probs = move[state]
                state = pyro.sample(f"s_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"})
                pyro.sample(f"x_{t}", dist.Normal(z + state, 0.8), obs=x[:, t])

    def chain_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.2 * x.sum(-1), 0.5))

    bounds = evidence(model, chain_guide, data, num_samples=400, seed=0)
    grid = torch.linspace(-6, 6, 2001)
    forward = torch.tensor([1.0, 0.0]).expand(30, 2001, 2).log()
    for t in range(steps):
        emission = normal(data[:, t, None, None], grid[:, None] + torch.arange(2.0), 0.8)
        forward = (forward[..., :, None] + move.log()).logsumexp(-2) + emission
    right = (forward.logsumexp(-1) + normal(grid, 0.0, 1.0)).logsumexp(-1) + math.log(
        float(grid[1] - grid[0])
    )
    error = 5 * bounds.standard_error + 0.01
    assert bool(((bounds.per_datum - right).abs() < error).all())


def test_labels_known_for_some_are_summed_out_for_the_others():
    y, known = torch.arange(70) % 3, torch.arange(70) % 2 == 0

    @config_enumerate
    def model(x, y, known):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(SHARES), obs=y, obs_mask=known)
            pyro.sample("x", dist.Normal(z + MEANS[y], 0.5), obs=x)

    account = decompose(model, guide, (X, y, known), num_samples=20, seed=0)
    z = 0.5 * X + 0.7 * torch.randn(1000, 70)
    each = normal(X[:, None], z[..., None] + MEANS, 0.5) + SHARES.log()
    right = -torch.where(known, each[:, torch.arange(70), y], each.logsumexp(-1)).mean()
    assert abs(float(account.distortion) - float(right)) < 4 * float(account.distortion.standard_error) + 0.02
    assert account.mutual_information is not None


def test_a_guide_keeps_what_it_draws():
    """Both sites are marked; the guide draws one of them."""

    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(0.3))
            b = pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
            pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=x)

    def label_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Bernoulli(logits=x), infer={"enumerate": "parallel"})

    account = decompose(model, label_guide, X, seed=0)
    q, p = dist.Bernoulli(logits=X), dist.Bernoulli(torch.full_like(X, 0.3))
    close(account.rate.value, torch.distributions.kl_divergence(q, p).mean())
    values = torch.arange(2.0)
    b = 0.2 + 0.5 * values  # P(b = 1 | a)
    scores = torch.stack(
        [normal(X[:, None], values, 1.0) + (1 - b).log(), normal(X[:, None], values + 2, 1.0) + b.log()]
    )
    right = -(scores.logsumexp(0) * torch.stack([1 - q.probs, q.probs], -1)).sum(-1).mean()
    assert abs(float(account.distortion) - float(right)) < 4 * float(account.distortion.standard_error)


def test_recovered_in_arviz():
    posterior = to_arviz(contaminated, guide, X, num_samples=150, seed=0).posterior
    z, c = (torch.as_tensor(posterior[name].values[0]) for name in ("z", "c"))
    right = (SHARES.log() + normal(X[:, None], z[..., None] + MEANS, 0.5)).softmax(-1).mean(0)
    share = (c[..., None] == torch.arange(3)).double().mean(0)
    assert float((share - right).abs().max()) < 5 * 0.5 / math.sqrt(150)


def test_a_class_of_all_data_is_refused():
    def model(x):
        c = pyro.sample("c", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(MEANS[c], 0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(NotImplementedError, match="'c' of the model is outside the data plate"):
        decompose(model, guide, X)
    with pytest.raises(ValueError, match=r"lacks \['c'\]"):
        decompose(poutine.infer_config(contaminated, lambda site: {"enumerate": None}), guide, X)
