"""What holds for every problem: its truth by independent routes, its draws and its densities."""

import math

import pytest
import torch
from scipy.special import digamma
from sklearn.neighbors import KDTree, NearestNeighbors
from torch import Tensor

from pyro_infomax.information import leave_one_out, mutual_information
from pyro_infomax.oracles import InformationProblem, UniformNoise, information_problems

PROBLEMS = information_problems()


@pytest.fixture(params=list(PROBLEMS))
def problem(request: pytest.FixtureRequest) -> InformationProblem:
    return PROBLEMS[request.param]


def nearest_neighbours(x: Tensor, y: Tensor, k: int = 3) -> float:
    """The first estimator of Kraskov, Stögbauer and Grassberger (2004), from draws alone."""
    both = torch.cat([x, y], 1).numpy()
    radius = NearestNeighbors(n_neighbors=k + 1, metric="chebyshev").fit(both).kneighbors()[0][:, k - 1]
    counts = [
        KDTree(part.numpy(), metric="chebyshev").query_radius(part.numpy(), radius - 1e-12, count_only=True)
        for part in (x, y)
    ]
    return digamma(k) + digamma(len(x)) - sum(digamma(count).mean() for count in counts)


def test_truth_is_the_mean_log_ratio_of_the_densities(problem: InformationProblem) -> None:
    """Under the joint draws, and under draws of the conditional in their place."""
    x, y = problem.sample(4000, seed=3)
    ratios, others = problem.log_ratio(x, y), problem.log_ratio(x, problem.conditional(x).sample())
    error = ratios.std() / math.sqrt(len(ratios))
    assert error < 0.05
    assert (ratios.mean() - problem.mutual_information).abs() < 4 * error
    error = torch.sqrt((ratios.var() + others.var()) / len(x))
    assert (ratios.mean() - others.mean()).abs() < 4 * error


@pytest.mark.parametrize("name", [name for name, each in PROBLEMS.items() if each.x_dim == 1][::2])
def test_truth_is_seen_by_nearest_neighbours_in_the_draws_alone(name: str) -> None:
    problem = PROBLEMS[name]
    found = nearest_neighbours(*problem.sample(2000, seed=5))
    truth = problem.mutual_information.item()
    assert found == pytest.approx(truth, abs=0.08)


def test_marginal_density_is_the_mean_of_the_conditional_ones(problem: InformationProblem) -> None:
    x, _ = problem.sample(4000, seed=1)
    _, y = problem.sample(5, seed=2)
    ratios = (problem.conditional(x).log_prob(y.unsqueeze(1)) - problem.log_marginal(y).unsqueeze(1)).exp()
    error = ratios.std(1) / math.sqrt(len(x))
    if problem.y_dim < 10:  # beyond, the mean hangs on a few draws
        assert ((ratios.mean(1) - 1).abs() <= 4.5 * error + 1e-12).all()


def test_conditional_is_a_posterior_for_the_mixture_estimators(problem: InformationProblem) -> None:
    x, y = problem.sample(300, seed=1)
    posterior = problem.conditional(x)
    assert (posterior.batch_shape, posterior.event_shape) == ((300,), (problem.y_dim,))
    assert posterior.log_prob(y).isfinite().all()
    lower, upper = mutual_information(posterior, num_samples=2, seed=0), leave_one_out(posterior, seed=0)
    assert lower.value < problem.mutual_information + 4 * lower.population_standard_error
    if not isinstance(problem, UniformNoise):
        assert upper.value > problem.mutual_information - 4 * upper.population_standard_error


def test_draws_are_float64_and_isolated_by_their_seed(problem: InformationProblem) -> None:
    torch.set_default_dtype(torch.float32)
    state = torch.get_rng_state()
    (x, y), (again, _) = problem.sample(20, seed=7), problem.sample(20, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, again)
    assert (x.shape, y.shape) == ((20, problem.x_dim), (20, problem.y_dim))
    assert x.dtype == y.dtype == problem.mutual_information.dtype == torch.float64
    assert not torch.equal(problem.sample(20)[0], problem.sample(20)[0])


def test_wrong_shapes_and_values_are_refused(problem: InformationProblem) -> None:
    x_dim, y_dim = problem.x_dim, problem.y_dim
    for shape in ((3, y_dim + 1), (y_dim + 1,), ()):
        with pytest.raises(ValueError, match=rf"Expected y of shape \(\.\.\., {y_dim}\) but got"):
            problem.log_marginal(torch.zeros(shape))
    with pytest.raises(ValueError, match="Expected y to be finite"):
        problem.log_marginal(torch.full((3, y_dim), math.nan))
    with pytest.raises(ValueError, match=rf"Expected x of shape \(n, {x_dim}\) but got \(3, {x_dim + 1}\)"):
        problem.conditional(torch.zeros(3, x_dim + 1))
    with pytest.raises(ValueError, match="Expected x to be finite"):
        problem.conditional(torch.full((3, x_dim), math.nan))
