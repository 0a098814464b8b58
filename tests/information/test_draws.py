"""Draws and their log-densities, each by itself."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Beta, Independent, Normal, Transform, TransformedDistribution, constraints

from pyro_infomax.information import AggregatePosterior, Draws

N, D = 6, 2


@pytest.fixture
def posterior() -> Independent:
    return Independent(Normal(torch.randn(N, D), torch.rand(N, D) + 0.1), 1)


@pytest.fixture
def prior() -> Independent:
    return Independent(Normal(torch.zeros(D), 2.0), 1)


def test_every_log_density_is_what_it_says(posterior: Independent, prior: Independent) -> None:
    draws = Draws(posterior, prior, num_samples=3, seed=0)
    aggregate, flat, own = AggregatePosterior(posterior), draws.z.reshape(-1, D), torch.arange(N).repeat(3)
    left = aggregate.log_prob_leave_one_out(flat, own).view(3, N)
    others = [
        draws.posterior_marginals.log_prob(draws.z[:, i, None])[:, [n for n in range(N) if n != i]]
        for i in range(N)
    ]  # of (samples, batch - 1, latent)
    left_marginals = torch.stack([each.logsumexp(1) - math.log(N - 1) for each in others], 1)
    pairs = {
        "log_posterior": posterior.log_prob(draws.z),
        "log_posterior_marginals": posterior.base_dist.log_prob(draws.z),
        "log_prior": prior.log_prob(draws.z),
        "log_prior_marginals": prior.base_dist.log_prob(draws.z),
        "log_aggregate": aggregate.log_prob(flat).view(3, N),
        "log_aggregate_marginals": aggregate.log_prob_marginals(flat).view(3, N, D),
        "log_leave_one_out": left,
        "log_leave_one_out_marginals": left_marginals,
    }
    for name, expected in pairs.items():
        torch.testing.assert_close(getattr(draws, name), expected, rtol=1e-12, atol=1e-12, msg=name)


def test_marginals_are_the_same_whether_asked_for_first_or_last(posterior: Independent) -> None:
    planned, late = Draws(posterior, seed=0), Draws(posterior, seed=0)
    assert late.log_aggregate.shape == planned.log_aggregate_marginals.shape[:2]
    torch.testing.assert_close(late.log_aggregate_marginals, planned.log_aggregate_marginals)
    torch.testing.assert_close(late.log_aggregate, planned.log_aggregate)


def test_given_draws_are_taken_as_they_are(posterior: Independent) -> None:
    z = posterior.sample((2,))
    assert torch.equal(Draws(posterior, z=z).z, z)


def test_a_seed_repeats_and_leaves_the_global_state(posterior: Independent) -> None:
    before = torch.get_rng_state()
    one, other = Draws(posterior, seed=4).z, Draws(posterior, seed=4).z
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(Draws(posterior).z, Draws(posterior).z)


def test_parameters_that_learn_leave_no_gradient_behind() -> None:
    loc = torch.zeros(N, D, requires_grad=True)
    draws = Draws(Independent(Normal(loc, 1.0), 1), seed=0)
    assert not draws.z.requires_grad
    assert not draws.log_aggregate.requires_grad
    assert not draws.log_posterior.requires_grad


def test_float32_posteriors_are_drawn_and_scored_in_double(prior: Independent) -> None:
    single = Independent(Normal(torch.zeros(N, D, dtype=torch.float32), 1.0), 1)
    draws = Draws(single, prior, seed=0)
    assert {draws.z.dtype, draws.log_aggregate.dtype, draws.log_prior.dtype} == {torch.float64}


class Rotated:
    """A prior that computes in float32, and insists on it, as a flow does."""

    batch_shape, event_shape = torch.Size(), torch.Size([D])
    base = Independent(Normal(torch.zeros(D, dtype=torch.float32), 1.0), 1)
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float32)

    def sample(self) -> Tensor:
        return self.base.sample() @ self.rotation

    def log_prob(self, z: Tensor) -> Tensor:
        return self.base.log_prob(z @ self.rotation.T)


def test_a_float32_prior_of_another_family_scores_what_it_can() -> None:
    state = torch.get_rng_state()
    draws = Draws(Independent(Normal(torch.zeros(N, D), 1.0), 1), Rotated(), seed=0)
    expected = Independent(Normal(torch.zeros(D), 1.0), 1).log_prob(draws.z)
    torch.testing.assert_close(draws.log_prior, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)


def test_float32_flows_are_drawn_by_networks_in_float32() -> None:
    class Shift(Transform):
        domain = codomain = constraints.real_vector
        bijective = True

        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(1, 1, dtype=torch.float32)

        def _call(self, x: Tensor) -> Tensor:
            return x + self.net(torch.ones_like(x[..., :1]))

        def _inverse(self, y: Tensor) -> Tensor:
            return y - self.net(torch.ones_like(y[..., :1]))

        def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.zeros_like(x[..., 0])

    base = Independent(Normal(torch.randn(N, D).float(), 1.0), 1)
    draws = Draws(TransformedDistribution(base, [Shift()]), seed=0)
    assert draws.log_aggregate.dtype == torch.float64


def test_a_float32_posterior_of_another_family_is_summed_in_double() -> None:
    draws = Draws(Independent(Beta(*(torch.ones(2, N, D, dtype=torch.float32) * 2)), 1), seed=0)
    assert draws.log_aggregate.dtype == torch.float64
    torch.testing.assert_close(draws.log_aggregate, draws.log_posterior, rtol=1e-6, atol=1e-6)


def test_a_missing_prior_is_asked_for(posterior: Independent) -> None:
    with pytest.raises(ValueError, match="Expected a prior for this quantity but got None"):
        _ = Draws(posterior).log_prior


@pytest.mark.parametrize("batch_shape", [(1,), (N,)])
def test_a_prior_with_a_batch_is_refused(posterior: Independent, batch_shape: tuple[int, ...]) -> None:
    prior = Independent(Normal(torch.zeros(*batch_shape, D), 1.0), 1)
    with pytest.raises(ValueError, match=r"Expected a prior of batch shape \(\) and event shape \(2,\)"):
        Draws(posterior, prior)


def test_a_prior_of_another_dimension_is_refused(posterior: Independent) -> None:
    with pytest.raises(
        ValueError, match=r"got Independent\(Normal, 1\) of batch shape \(\) and event shape \(3,\)"
    ):
        Draws(posterior, Independent(Normal(torch.zeros(3), 1.0), 1))


def test_no_draws_are_refused(posterior: Independent) -> None:
    with pytest.raises(ValueError, match="Expected num_samples to be an integer >= 1 but got 0"):
        Draws(posterior, num_samples=0)


@pytest.mark.parametrize("shape", [(N, D), (2, N, D + 1), (0, N, D)])
def test_draws_of_another_shape_are_refused(posterior: Independent, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Expected draws of shape \(S, 6, 2\)"):
        Draws(posterior, z=torch.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_given_draws_that_are_not_finite_are_refused(posterior: Independent, value: float) -> None:
    with pytest.raises(ValueError, match="Expected finite draws from the posterior but got 24 that are not"):
        Draws(posterior, z=torch.full((2, N, D), value))


def test_what_is_no_prior_is_refused(posterior: Independent) -> None:
    with pytest.raises(ValueError, match=r"Expected a prior of batch shape \(\) .* got Tensor of no batch"):
        Draws(posterior, torch.zeros(D))


@pytest.mark.parametrize("sizes", [[1, 2], "ab", [2.0], [0, 2], []])
def test_site_sizes_that_do_not_add_up_are_refused(sizes) -> None:
    posterior = Independent(Normal(torch.zeros(4, 2), 1.0), 1)
    with pytest.raises(ValueError, match=r"Expected site_sizes, .* of sum 2 but got"):
        Draws(posterior, site_sizes=sizes)
