"""Draws that both joints score, and the errors of pairs that do not fit."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_infomax.diagnostics import Pair
from pyro_infomax.distributions import marginals_of
from pyro_infomax.oracles import LinearGaussian


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(w.sum((-1, -2)), scale), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("w", dist.Normal(0.1 * x[:, None, None].expand(-1, 2, 3), 0.5).to_event(2))
        pyro.sample("scale", dist.LogNormal(0.1 * x, 0.3))


def scale_only(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("scale", dist.LogNormal(0.1 * x, 0.3))


def one_too_many(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
        pyro.sample("scale", dist.LogNormal(0.1 * x, 0.3))
        pyro.sample("extra", dist.Normal(x, 0.3))


def other_shape(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("w", dist.Normal(torch.zeros(6), 1.0).to_event(1))
        pyro.sample("scale", dist.LogNormal(0.1 * x, 0.3))


def test_names_follow_the_order_of_the_guide() -> None:
    names = Pair(model, guide, torch.randn(5)).latent_names()
    assert names == ["w[0,0]", "w[0,1]", "w[0,2]", "w[1,0]", "w[1,1]", "w[1,2]", "scale"]


def test_draws_are_scored_under_every_part() -> None:
    x = torch.randn(20)
    pair = Pair(model, guide, x)
    z = pair.draw(3)
    scored = pair.score(z)
    w, scale = z[..., :6], z[..., 6]  # (samples, data, …)
    posterior = dist.Normal(0.1 * x[:, None], 0.5).log_prob(w).sum(-1) + dist.LogNormal(
        0.1 * x, 0.3
    ).log_prob(scale)
    prior = dist.Normal(0.0, 1.0).log_prob(w).sum(-1) + dist.Gamma(2.0, 1.0).log_prob(scale)
    likelihood = dist.Normal(w.sum(-1), scale).log_prob(x)
    torch.testing.assert_close(scored.log_posterior, posterior)
    torch.testing.assert_close(scored.log_prior, prior)
    torch.testing.assert_close(scored.log_likelihood, likelihood)
    torch.testing.assert_close(scored.log_weight, likelihood + prior - posterior)


def test_few_data_are_scored_with_many_draws_at_once() -> None:
    sizes = []

    def counted(x: Tensor) -> None:
        sizes.append(len(x))
        model(x)

    x = torch.randn(5)
    pair = Pair(counted, guide, x, batch_size=22)
    z = pair.draw(10)
    sizes.clear()
    together = pair.score(z)
    assert sizes == [20, 20, 10]
    apart = [pair.score(each[None]) for each in z]
    for name in ("log_prior", "log_likelihood", "log_posterior"):
        each = torch.cat([getattr(scored, name) for scored in apart])
        torch.testing.assert_close(getattr(together, name), each)


@pytest.mark.parametrize("follows", [True, False])
def test_draws_are_scored_one_by_one_where_no_two_fit_into_a_run(follows: bool) -> None:
    sizes = []

    def counted(x: Tensor) -> None:
        sizes.append(len(x))
        with pyro.plate("data", len(x) if follows else 5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x) if follows else 5):
            pyro.sample("z", dist.Normal(x, 0.5))

    x = torch.randn(5)
    pair = Pair(counted, guide, x, batch_size=3 if follows else 100)
    z = pair.draw(4)
    sizes.clear()
    scored = pair.score(z)
    assert sizes == ([3, 2] if follows else [5]) * 4
    torch.testing.assert_close(scored.log_likelihood, dist.Normal(z[..., 0], 1.0).log_prob(x))


def test_draws_come_from_the_posterior_of_each_datum() -> None:
    oracle = LinearGaussian([2.0, 1.0], [[1.0], [0.5]], 0.5, [[0.6, -0.2]], [0.3])
    x = oracle.sample(4, seed=0)
    z = Pair(oracle.model, oracle.guide, x).draw(4000)  # (samples, data, latent)
    off = (z.mean(0) - x @ oracle.V.T).abs() / (0.3 / 4000) ** 0.5
    assert (off < 4).all()
    assert ((z.var(0) / 0.3 - 1).abs() < 4 * (2 / 4000) ** 0.5).all()


def test_the_weight_of_the_exact_posterior_is_the_evidence() -> None:
    oracle = LinearGaussian.optimum([3.0, 0.5], beta=1.0, latent_dim=1, s2=0.5)
    x = oracle.sample(6, seed=0)
    pair = Pair(oracle.model, oracle.guide, x)
    covariance = oracle.W @ oracle.W.T + 0.5 * torch.eye(2)
    evidence = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(x)
    torch.testing.assert_close(pair.score(pair.draw(5)).log_weight, evidence.expand(5, 6))


def test_draws_of_a_float32_normal_are_made_and_scored_in_double() -> None:
    covariance = torch.tensor([[0.4, 0.1], [0.1, 0.3]], dtype=torch.float32)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float32), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x, covariance))

    x = torch.randn(5, 2, dtype=torch.float32)
    pair = Pair(model, guide, x)
    z = pair.draw(3)
    assert z.dtype == torch.float64
    # a Cholesky factor in single precision is what the guide has
    tril = torch.linalg.cholesky(covariance).double()
    truth = dist.MultivariateNormal(x.double(), scale_tril=tril).log_prob(z)
    torch.testing.assert_close(pair.score(z).log_posterior, truth, rtol=0, atol=1e-12)


def test_a_lone_site_has_a_prior_with_marginals() -> None:
    prior = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.4, 0.6])), dist.Normal(torch.randn(2, 3), 0.7).to_event(1)
    )

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    found = Pair(model, guide, torch.randn(70, 3)).prior()
    z = torch.randn(5, 4, 3)
    torch.testing.assert_close(found.log_prob(z), prior.log_prob(z))
    component = prior.component_distribution.base_dist.log_prob(z[..., None, :])  # (…, component, latent)
    marginals = (component + torch.tensor([0.4, 0.6]).log()[:, None]).logsumexp(-2)
    torch.testing.assert_close(marginals_of(found).log_prob(z), marginals)
    assert found.sample((7,)).shape == (7, 3)


def test_several_sites_are_scored_by_the_model() -> None:
    pair = Pair(model, guide, torch.randn(20))
    z = pair.draw(2)
    torch.testing.assert_close(pair.prior().log_prob(z), pair.score(z).log_prior)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (scale_only, r"Expected the guide to sample every latent site of the model but it lacks \['w'\]"),
        (
            one_too_many,
            r"Expected only latent sites of the model in the guide but it samples \['extra'\] too",
        ),
        (
            other_shape,
            r"Expected one shape of 'w' for a datum but the model has \(2, 3\) and the guide \(6,\)",
        ),
    ],
)
def test_sites_that_do_not_match_are_named(guide, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pair(model, guide, torch.randn(5))


def test_nan_in_the_data_is_found_before_any_program_runs() -> None:
    x = torch.randn(200)
    x[[30, 150]] = torch.nan
    message = "Expected data without nan but argument 0 holds 2, the first in row 30; remove or impute them"
    with pytest.raises(ValueError, match=message):
        Pair(model, guide, x)


def test_nan_in_a_covariate_is_found() -> None:
    x = torch.randn(5)
    labels, covariate = torch.arange(5), torch.randn(5, 3, 2)
    covariate[4, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="argument 2 holds 1, the first in row 4"):
        Pair(model, guide, (x, labels, covariate))


def test_data_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths \[5, 4\]"):
        Pair(model, guide, (torch.randn(5), torch.randn(4)))


def test_data_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected data to be a tensor"):
        Pair(model, guide, [[1.0, 2.0]])


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected batch_size to be an integer >= 1 but got 0"):
        Pair(model, guide, torch.randn(5), batch_size=0)


def test_a_plate_that_only_one_program_knows_by_its_name_is_found_in_the_other():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("batch", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    x = torch.randn(5)
    assert Pair(model, guide, x, data_plate="rows").data_size == 5
    assert Pair(model, guide, x, data_plate="batch").data_size == 5
    with pytest.raises(ValueError, match="Expected a plate 'neither' in the guide"):
        Pair(model, guide, x, data_plate="neither")


def test_a_point_mass_has_no_account():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = pyro.infer.autoguide.AutoDelta(model)
    x = torch.randn(5)
    guide(x)
    with pytest.raises(NotImplementedError, match=r"sites \['z'\] are Deltas, which have no density"):
        Pair(model, guide, x)


def test_every_site_is_scored_by_itself() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a.unsqueeze(-1) * torch.ones(2), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(a, 0.5), obs=x)
            pyro.sample("y", dist.Normal(b.sum(-1), 0.7), obs=2 * x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(x.unsqueeze(-1) * torch.ones(2), 0.3).to_event(1))
            pyro.sample("a", dist.Laplace(b.sum(-1), 0.4))

    x = torch.randn(7)
    pair = Pair(model, guide, x)
    assert (pair.site_names, pair.site_sizes, pair.observed_names) == (["b", "a"], [2, 1], ["x", "y"])
    z = pair.draw(3)
    b, a = z[..., :2], z[..., 2]
    scored = pair.score(z)
    posterior = dist.Normal(x[:, None], 0.3).log_prob(b).sum(-1), dist.Laplace(b.sum(-1), 0.4).log_prob(a)
    prior = dist.Normal(a[..., None], 2.0).log_prob(b).sum(-1), dist.Normal(0.0, 1.0).log_prob(a)
    likelihood = dist.Normal(a, 0.5).log_prob(x), dist.Normal(b.sum(-1), 0.7).log_prob(2 * x)
    for found, expected in (
        (scored.log_posterior_sites, posterior),
        (scored.log_prior_sites, prior),
        (scored.log_likelihood_sites, likelihood),
    ):
        torch.testing.assert_close(found, torch.stack(expected, -1))
    torch.testing.assert_close(scored.log_weight, sum(prior) + sum(likelihood) - sum(posterior))
    assert pair.dependences() == "in the guide 'a' depends on 'b', in the model 'b' depends on 'a'"


def test_a_model_that_observes_nothing_has_no_likelihood() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    pair = Pair(model, guide, torch.randn(5))
    scored = pair.score(pair.draw(3))
    assert scored.log_likelihood_sites.shape == (3, 5, 0)
    assert torch.equal(scored.log_likelihood, torch.zeros(3, 5))
    assert pair.dependences() == ""


def test_draws_that_float32_takes_for_zero_have_a_density_in_the_model() -> None:
    x = torch.ones(500, dtype=torch.float32)

    def gamma_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(0.02 * x, 1.0))

    def gamma_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(0.5 * torch.ones_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    pair = Pair(gamma_model, gamma_guide, x)
    assert bool(pair.posterior.sample((5,)).float().eq(0).any())
    assert bool(pair.score(pair.draw(5)).log_weight.isfinite().all())


def test_flows_without_an_inverse_are_refused() -> None:
    planar = dist.transforms.planar(3)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(x, 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [planar]))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    pair = Pair(model, guide, torch.randn(5, 3))
    with pytest.raises(NotImplementedError, match=r"'z' of the guide .*Planar.* scores only what"):
        pair.score(pair.draw(2))
