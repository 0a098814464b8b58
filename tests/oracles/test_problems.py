"""Problems whose mutual information is known, class by class, and what holds for all of them."""

import math

import numpy as np
import pytest
import torch
from pyro.distributions import MultivariateStudentT
from scipy.special import digamma
from scipy.stats import multivariate_t, t
from sklearn.neighbors import KDTree, NearestNeighbors
from torch import Tensor
from torch.distributions import MultivariateNormal, Transform, kl_divergence
from torch.distributions.transforms import AbsTransform, AffineTransform, StickBreakingTransform

from pyro_infomax.information import leave_one_out, mutual_information
from pyro_infomax.oracles import (
    Asinh,
    CorrelatedNormals,
    CorrelatedStudent,
    HalfCube,
    InformationProblem,
    NormalCdf,
    Spiral,
    TransformedProblem,
    UniformNoise,
    dense_covariance,
    information_problems,
    sparse_covariance,
)

# ---- Correlated Normals


def covariance(size: int) -> torch.Tensor:
    factor = torch.randn(size, size)
    return factor @ factor.T / size + 0.2 * torch.eye(size)


@pytest.mark.parametrize(("x_dim", "y_dim"), [(1, 1), (1, 4), (3, 2)])
def test_truth_is_the_divergence_from_independence(x_dim: int, y_dim: int) -> None:
    joint = covariance(x_dim + y_dim)
    apart = torch.block_diag(joint[:x_dim, :x_dim], joint[x_dim:, x_dim:])
    zero = torch.zeros(x_dim + y_dim)
    truth = kl_divergence(MultivariateNormal(zero, joint), MultivariateNormal(zero, apart))
    torch.testing.assert_close(CorrelatedNormals(joint, x_dim).mutual_information, truth)


def test_normal_densities_make_up_the_joint() -> None:
    joint = covariance(5)
    pair = CorrelatedNormals(joint, x_dim=2)
    x, y = torch.randn(6, 2), torch.randn(6, 3)
    both = MultivariateNormal(torch.zeros(5), joint).log_prob(torch.cat([x, y], 1))
    alone = MultivariateNormal(torch.zeros(2), joint[:2, :2]).log_prob(x)
    torch.testing.assert_close(alone + pair.conditional(x).log_prob(y), both)
    torch.testing.assert_close(
        pair.log_marginal(y), MultivariateNormal(torch.zeros(3), joint[2:, 2:]).log_prob(y)
    )


def test_draws_have_the_covariance() -> None:
    joint = covariance(3)
    both = torch.cat(CorrelatedNormals(joint, x_dim=1).sample(50_000, seed=0), 1)
    error = ((joint.diagonal()[:, None] * joint.diagonal() + joint**2) / 50_000).sqrt()
    assert ((both.T @ both / 50_000 - joint).abs() < 4.5 * error).all()


def test_truth_is_differentiable_in_the_covariance() -> None:
    rho = torch.tensor(0.6, requires_grad=True)
    joint = torch.eye(2) + rho * torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    CorrelatedNormals(joint, x_dim=1).mutual_information.backward()
    torch.testing.assert_close(rho.grad, torch.tensor(0.6 / (1 - 0.36)))


@pytest.mark.parametrize("correlation", [-0.2, 0.0, 0.5, 0.99])
def test_dense_covariance_and_its_formula(correlation: float) -> None:
    """det of a dense covariance of k variables is (1 - rho)^(k - 1) (1 + (k - 1) rho)."""

    def logdet(k: int) -> float:
        return (k - 1) * math.log(1 - correlation) + math.log(1 + (k - 1) * correlation)

    pair = CorrelatedNormals(dense_covariance(5, correlation), x_dim=2)
    truth = 0.5 * (logdet(2) + logdet(3) - logdet(5))
    assert pair.mutual_information.item() == pytest.approx(truth, abs=1e-12)


def test_sparse_covariance_and_its_formula() -> None:
    joint = sparse_covariance(4, 3, [0.8, -0.3])
    truth = -0.5 * (math.log(1 - 0.64) + math.log(1 - 0.09))
    assert CorrelatedNormals(joint, x_dim=4).mutual_information.item() == pytest.approx(truth, abs=1e-12)
    assert (joint[0, 4], joint[5, 1]) == (0.8, -0.3)
    assert joint.count_nonzero() == 7 + 4


@pytest.mark.parametrize("x_dim", [0, 2, -1])
def test_wrong_split_is_refused(x_dim: int) -> None:
    with pytest.raises(ValueError, match=f"Expected 0 < x_dim < 2 but got {x_dim}"):
        CorrelatedNormals(torch.eye(2), x_dim)


def test_wrong_covariances_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected covariance to be positive definite"):
        CorrelatedNormals(torch.ones(2, 2), 1)
    with pytest.raises(ValueError, match="Expected covariance to be symmetric"):
        CorrelatedNormals([[1.0, 0.5], [0.0, 1.0]], 1)
    with pytest.raises(ValueError, match=r"Expected covariance of shape \(size, size\) but got \(2,\)"):
        CorrelatedNormals(torch.ones(2), 1)
    with pytest.raises(ValueError, match=r"Expected covariance of shape \(1, 1\) but got \(1, 2\)"):
        CorrelatedNormals(torch.ones(1, 2), 1)
    for size, correlation in ((1, 0.0), (3, -0.5), (3, 1.0)):
        with pytest.raises(ValueError, match="Expected size >= 2 and a correlation"):
            dense_covariance(size, correlation)
    with pytest.raises(ValueError, match="Expected at most 1 correlations, one a pair, but got 2"):
        sparse_covariance(1, 3, [0.1, 0.2])
    with pytest.raises(ValueError, match=r"Expected correlations within \(-1, 1\)"):
        sparse_covariance(1, 3, [1.0])


# ---- Correlated variables of Student's t


@pytest.mark.parametrize(("df", "correlation"), [(3.0, 0.0), (6.0, 0.7)])
def test_truth_by_numerical_integration(df: float, correlation: float) -> None:
    shape = [[1, correlation], [correlation, 1]]
    joint = multivariate_t(shape=shape, df=df)
    angle = (torch.arange(800) + 0.5) / 800 * math.pi - math.pi / 2
    x = angle.tan().numpy()  # brings the tails within reach
    width = math.pi / 800 * (1 + x * x)
    log_joint = joint.logpdf(np.stack(np.meshgrid(x, x), -1))
    log_alone = t.logpdf(x, df)
    terms = np.exp(log_joint) * (log_joint - log_alone - log_alone[:, None]) * width * width[:, None]
    truth = CorrelatedStudent(shape, 1, df).mutual_information
    assert terms.sum() == pytest.approx(truth.item(), abs=1e-4)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("df", [1.0, 4.5])
def test_truth_is_the_entropies_that_scipy_knows(m: int, n: int, df: float) -> None:
    shape = dense_covariance(m + n, 0.4)
    blocks = (shape[:m, :m], shape[m:, m:], shape)
    x, y, both = (multivariate_t(shape=block.numpy(), df=df).entropy() for block in blocks)
    assert CorrelatedStudent(shape, m, df).mutual_information.item() == pytest.approx(x + y - both, abs=1e-10)


def test_tails_tell_of_each_other_without_any_correlation() -> None:
    tails = [CorrelatedStudent(torch.eye(5), 2, df).mutual_information.item() for df in (1.0, 5.0, 1e6)]
    assert tails[0] > tails[1] > 0.01
    assert tails[2] == pytest.approx(0, abs=1e-5)


def test_many_degrees_of_freedom_are_normal() -> None:
    shape = dense_covariance(5, 0.5)
    normal, student = CorrelatedNormals(shape, 2), CorrelatedStudent(shape, 2, 1e6)
    torch.testing.assert_close(student.mutual_information, normal.mutual_information, atol=1e-4, rtol=0)


def test_student_densities_make_up_the_joint() -> None:
    shape = dense_covariance(5, 0.3)
    pair = CorrelatedStudent(shape, x_dim=2, df=3.0)
    x, y = 3 * torch.randn(6, 2), 3 * torch.randn(6, 3)
    both = MultivariateStudentT(3.0, torch.zeros(5), torch.linalg.cholesky(shape)).log_prob(
        torch.cat([x, y], 1)
    )
    alone = MultivariateStudentT(3.0, torch.zeros(2), torch.linalg.cholesky(shape[:2, :2])).log_prob(x)
    torch.testing.assert_close(alone + pair.conditional(x).log_prob(y), both)


def test_draws_have_the_tails() -> None:
    x, y = CorrelatedStudent(torch.eye(2), 1, 3.0).sample(20_000, seed=0)
    for part in (x, y):
        share = (part.abs() > t.ppf(0.99, 3)).double().mean().item()
        assert share == pytest.approx(0.02, abs=4 * math.sqrt(0.02 * 0.98 / 20_000))


@pytest.mark.parametrize("df", [0.0, -1.0, math.nan])
def test_wrong_degrees_of_freedom_are_refused(df: float) -> None:
    with pytest.raises(ValueError, match="Expected df"):
        CorrelatedStudent(torch.eye(2), 1, df)


# ---- Uniform noise


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 0.5, 0.75, 3.0])
def test_truth_is_the_entropy_of_y_less_that_of_the_noise(epsilon: float) -> None:
    problem = UniformNoise(epsilon)
    y = torch.linspace(-epsilon, 1 + epsilon, 400_001)
    density = problem.log_marginal(y[:, None]).exp()
    assert torch.trapezoid(density, y).item() == pytest.approx(1, abs=1e-9)
    entropy = torch.trapezoid(torch.special.entr(density), y).item()
    assert problem.mutual_information.item() == pytest.approx(entropy - math.log(2 * epsilon), abs=1e-8)


def test_marginal_is_the_convolution() -> None:
    x = torch.linspace(0, 1, 200_001)[:, None]
    problem = UniformNoise(0.3)
    y = torch.tensor([[-0.2], [0.1], [0.5], [1.25], [1.31]])
    found = problem.conditional(x).log_prob(y[:, None]).exp().mean(1)
    torch.testing.assert_close(problem.log_marginal(y).exp(), found, atol=1e-4, rtol=0)


def test_dimensions_add_up() -> None:
    assert UniformNoise(0.2, dim=3).mutual_information == 3 * UniformNoise(0.2).mutual_information
    x, y = UniformNoise(0.2, dim=3).sample(100, seed=0)
    assert x.shape == y.shape == (100, 3)
    assert (y - x).abs().max() < 0.2


@pytest.mark.parametrize(("epsilon", "dim"), [(0.0, 1), (-1.0, 1), (0.5, 0)])
def test_wrong_widths_are_refused(epsilon: float, dim: int) -> None:
    with pytest.raises(ValueError, match=r"Expected (epsilon > 0|dim >= 1) but got"):
        UniformNoise(epsilon, dim=dim)


# ---- Bijections


ELEMENTWISE = [HalfCube(), Asinh(), NormalCdf()]


@pytest.mark.parametrize("bijection", [*ELEMENTWISE, Spiral(0.7)], ids=lambda b: type(b).__name__)
def test_inverse_leads_back(bijection: Transform) -> None:
    x = torch.randn(50, 3)
    torch.testing.assert_close(bijection.inv(bijection(x)), x, atol=1e-9, rtol=1e-9)
    y = bijection(torch.randn(50, 3))
    torch.testing.assert_close(bijection(bijection.inv(y)), y)


@pytest.mark.parametrize("bijection", ELEMENTWISE, ids=lambda b: type(b).__name__)
def test_increasing_maps_and_their_slopes(bijection: Transform) -> None:
    x = torch.linspace(-3, 3, 100, requires_grad=True)
    y = bijection(x)
    assert (y.diff() > 0).all()
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(bijection.log_abs_det_jacobian(x, y), slope.log())


def test_spiral_keeps_lengths_and_volumes() -> None:
    spiral, x = Spiral(0.7), torch.randn(20, 4)
    y = spiral(x)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
    assert (y[:, :2] - x[:, :2]).abs().max() > 0.5
    torch.testing.assert_close(y[:, 2:], x[:, 2:])
    jacobians = torch.stack([torch.autograd.functional.jacobian(spiral, each) for each in x])
    torch.testing.assert_close(torch.linalg.slogdet(jacobians)[1], spiral.log_abs_det_jacobian(x, y))


def test_spiral_turns_by_its_angle() -> None:
    y = Spiral(0.25)(torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(y, 2 * torch.tensor([torch.tensor(1.0).cos(), torch.tensor(1.0).sin()]))
    with pytest.raises(ValueError, match="Expected at least 2 coordinates to wind but got 1"):
        Spiral(0.25)(torch.randn(5, 1))


# ---- Problems behind bijections


PLAIN = CorrelatedNormals(dense_covariance(5, 0.5), x_dim=2)


def test_draws_are_the_mapped_ones() -> None:
    x, y = PLAIN.sample(10, seed=3)
    bent_x, bent_y = TransformedProblem(PLAIN, x_map=HalfCube(), y_map=Asinh()).sample(10, seed=3)
    torch.testing.assert_close(bent_x, HalfCube()(x))
    torch.testing.assert_close(bent_y, y.asinh())


@pytest.mark.parametrize("y_map", [HalfCube(), Spiral(0.5), AffineTransform(1.0, -3.0)])
def test_pointwise_information_is_unchanged(y_map: Transform) -> None:
    x, y = PLAIN.sample(10, seed=3)
    bent = TransformedProblem(PLAIN, x_map=Spiral(-0.4), y_map=y_map)
    found = bent.log_ratio(bent.x_map(x), bent.y_map(y))
    torch.testing.assert_close(found, PLAIN.log_ratio(x, y))
    assert bent.mutual_information == PLAIN.mutual_information


@pytest.mark.parametrize("y_map", [HalfCube(), Spiral(0.5), AffineTransform(1.0, -3.0)])
def test_densities_are_stretched_by_the_map(y_map: Transform) -> None:
    x, y = PLAIN.sample(10, seed=3)
    bent = TransformedProblem(PLAIN, y_map=y_map)
    jacobians = torch.stack([torch.autograd.functional.jacobian(y_map, each) for each in y])
    stretch = torch.linalg.slogdet(jacobians)[1]
    torch.testing.assert_close(bent.log_marginal(y_map(y)), PLAIN.log_marginal(y) - stretch)
    found = bent.conditional(x).log_prob(y_map(y))
    torch.testing.assert_close(found, PLAIN.conditional(x).log_prob(y) - stretch)


def test_dimensions_are_those_after_the_map() -> None:
    problem = TransformedProblem(PLAIN, y_map=StickBreakingTransform())
    x, y = problem.sample(5, seed=0)
    assert (x.shape[1], y.shape[1]) == (problem.x_dim, problem.y_dim)
    torch.testing.assert_close(problem.log_ratio(x, y), PLAIN.log_ratio(*PLAIN.sample(5, seed=0)))


@pytest.mark.parametrize("wrong", [torch.exp, Asinh])
def test_what_is_no_transform_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"Expected bijective maps but got .*; take a torch"):
        TransformedProblem(PLAIN, x_map=wrong)


def test_maps_that_lose_information_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected bijective maps but got AbsTransform"):
        TransformedProblem(PLAIN, y_map=AbsTransform())


# ---- What holds for every problem: its truth by independent routes, its draws and its densities


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


# ---- The set of problems


def test_each_call_gives_the_same_problems() -> None:
    first, again = information_problems(), information_problems()
    assert list(first) == list(again)
    assert len(first) >= 10
    for name, problem in first.items():
        assert problem.mutual_information == again[name].mutual_information
        assert 0.1 < problem.mutual_information < 3


def test_transforms_keep_the_information_of_their_problem() -> None:
    problems = information_problems()
    bent = {name: problem for name, problem in problems.items() if isinstance(problem, TransformedProblem)}
    assert len(bent) >= 4
    for name, problem in bent.items():
        plain = name.rpartition(",")[0]
        assert problem.mutual_information == problems[plain].mutual_information


def test_set_has_heavy_tails() -> None:
    assert any(isinstance(problem, CorrelatedStudent) for problem in information_problems().values())
