"""Estimators of information on problems whose truth is known: over fresh data, each on its side of it."""

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from pyro_infomax.information import (
    Estimate,
    barber_agakov,
    info_nce,
    leave_one_out,
    marginal_kl,
    minibatch_stratified,
    minibatch_weighted,
    mutual_information,
    rate,
)
from pyro_infomax.oracles import CorrelatedNormals, InformationProblem, information_problems

PROBLEMS = information_problems()
SETS, SIZE, BATCH = 25, 120, 30
ERRORS = 4  # standard errors over data sets


class TrueMarginal:
    """The population's p(y), as a prior: the rate against it is the information itself."""

    batch_shape = torch.Size()

    def __init__(self, problem: InformationProblem) -> None:
        self.problem = problem
        self.event_shape = torch.Size([problem.y_dim])

    def log_prob(self, y: Tensor) -> Tensor:
        return self.problem.log_marginal(y.flatten(0, -2)).unflatten(0, y.shape[:-1])


def over_data_sets(
    problem: InformationProblem, estimate: Callable[[Tensor, int], Estimate]
) -> tuple[Tensor, Tensor]:
    """Mean and standard error of an estimate over fresh data sets."""
    values = torch.stack([estimate(problem.sample(SIZE, seed=s)[0], s).value for s in range(SETS)])
    return values.mean(), values.std() / math.sqrt(SETS)


@cache
def exact_mixture(problem: InformationProblem) -> tuple[Tensor, Tensor]:
    return over_data_sets(problem, lambda x, s: mutual_information(problem.conditional(x), seed=s))


@pytest.fixture(params=list(PROBLEMS), scope="module")
def problem(request) -> InformationProblem:
    return PROBLEMS[request.param]


def check_sides(
    problem: InformationProblem, below: tuple[Tensor, Tensor], above: tuple[Tensor, Tensor]
) -> None:
    truth = problem.mutual_information
    low, low_error = below
    high, high_error = above
    assert low < truth + ERRORS * low_error
    # a support that no other datum reaches leaves nothing
    assert high.isinf() or high > truth - ERRORS * high_error


def test_the_exact_mixture_is_below_and_leave_one_out_above(problem) -> None:
    check_sides(
        problem,
        exact_mixture(problem),
        over_data_sets(problem, lambda x, s: leave_one_out(problem.conditional(x), seed=s)),
    )


def test_info_nce_is_below_and_the_weighted_minibatch_above(problem) -> None:
    def batch(x: Tensor) -> object:
        return problem.conditional(x[:BATCH])

    check_sides(
        problem,
        over_data_sets(problem, lambda x, s: info_nce(batch(x), data_size=SIZE, seed=s)),
        over_data_sets(problem, lambda x, s: minibatch_weighted(batch(x), data_size=SIZE, seed=s)),
    )


def test_the_stratified_minibatch_is_above_the_exact_mixture(problem) -> None:
    stratified, error = over_data_sets(
        problem, lambda x, s: minibatch_stratified(problem.conditional(x[:BATCH]), data_size=SIZE, seed=s)
    )
    exact, other = exact_mixture(problem)
    assert stratified > exact - ERRORS * torch.hypot(error, other)


def test_the_rate_against_the_true_marginal_is_the_truth(problem) -> None:
    prior = TrueMarginal(problem)
    found, error = over_data_sets(problem, lambda x, s: rate(problem.conditional(x), prior, seed=s))
    assert (found - problem.mutual_information).abs() < ERRORS * error
    # the mixture's own distance from the population is what its information lacks
    distance, error = over_data_sets(problem, lambda x, s: marginal_kl(problem.conditional(x), prior, seed=s))
    assert distance > -ERRORS * error


def test_a_variational_decoder_is_below_and_the_true_one_meets_the_truth() -> None:
    """Correlated normals: p(x|y) and H[X] are Normal too."""
    problem = CorrelatedNormals([[1.0, 0.7], [0.7, 1.0]], 1)
    slope, noise = 0.7, math.sqrt(1 - 0.7**2)
    entropy = 0.5 * math.log(2 * math.pi * math.e)

    def bound(x: Tensor, seed: int, factor: float) -> Estimate:
        def log_likelihood(y: Tensor) -> Tensor:
            return torch.distributions.Normal(factor * slope * y, noise).log_prob(x).sum(-1)

        return barber_agakov(problem.conditional(x), log_likelihood, data_entropy=entropy, seed=seed)

    true, error = over_data_sets(problem, lambda x, s: bound(x, s, 1.0))
    assert (true - problem.mutual_information).abs() < ERRORS * error
    wrong, error = over_data_sets(problem, lambda x, s: bound(x, s, 0.3))
    assert wrong < problem.mutual_information - error
