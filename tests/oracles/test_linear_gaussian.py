import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pyro_infomax.oracles import LinearGaussian

DIM, LATENT = 4, 3
SPECTRUM = [6.0, 3.0, 1.5, 0.5]


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


def covariance(size: int) -> Tensor:
    factor = torch.randn(size, size)
    return factor @ factor.T / size + 0.3 * torch.eye(size)


@pytest.fixture(params=["diagonal", "full"])
def pair(request: pytest.FixtureRequest) -> LinearGaussian:
    delta = covariance(LATENT)
    return LinearGaussian(
        S=covariance(DIM),
        W=torch.randn(DIM, LATENT),
        s2=0.7,
        V=0.5 * torch.randn(LATENT, DIM),
        Delta=delta if request.param == "full" else delta.diagonal(),
        mu=torch.randn(DIM),
    )


def data_distribution(pair: LinearGaussian) -> MultivariateNormal:
    return MultivariateNormal(pair.mu, pair.S)


def aggregate(pair: LinearGaussian) -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(LATENT), pair.V @ pair.S @ pair.V.T + pair.Delta)


def prior() -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT))


def representation_joint(pair: LinearGaussian) -> MultivariateNormal:
    cross = pair.S @ pair.V.T
    upper = torch.cat([pair.S, cross], dim=1)
    lower = torch.cat([cross.T, pair.V @ cross + pair.Delta], dim=1)
    return MultivariateNormal(torch.zeros(DIM + LATENT), torch.cat([upper, lower]))


def generative_joint(pair: LinearGaussian) -> MultivariateNormal:
    upper = torch.cat([pair.W @ pair.W.T + pair.s2 * torch.eye(DIM), pair.W], dim=1)
    lower = torch.cat([pair.W.T, torch.eye(LATENT)], dim=1)
    return MultivariateNormal(torch.zeros(DIM + LATENT), torch.cat([upper, lower]))


def draws(pair: LinearGaussian, n: int = 20_000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, z of the representation joint, log q(z|x) and log p(x|z)."""
    x = data_distribution(pair).sample((n,))
    encoder = MultivariateNormal((x - pair.mu) @ pair.V.T, pair.Delta)
    z = encoder.sample()
    decoder = Normal(z @ pair.W.T + pair.mu, pair.s2.sqrt())
    return x, z, encoder.log_prob(z), decoder.log_prob(x).sum(-1)


def within_error(samples: Tensor, value: Tensor) -> None:
    standard_error = samples.std() / math.sqrt(len(samples))
    assert (samples.mean() - value).abs() < 4 * standard_error


# each property against an independent computation


def test_rate_is_the_mean_divergence_from_the_prior(pair: LinearGaussian) -> None:
    x = pair.sample(50, exact=True)
    encoder = MultivariateNormal((x - pair.mu) @ pair.V.T, pair.Delta)
    close(pair.rate, kl_divergence(encoder, prior()).mean())


def test_distortion_is_the_expected_quadratic(pair: LinearGaussian) -> None:
    x = pair.sample(50, exact=True)
    deviation = (x - pair.mu) - (x - pair.mu) @ pair.V.T @ pair.W.T
    spread = torch.einsum("ij,jk,ik->", pair.W, pair.Delta, pair.W)
    constant = DIM / 2 * math.log(2 * math.pi * 0.7)
    close(pair.distortion, constant + (deviation.square().sum(-1).mean() + spread) / 1.4)


def test_log_evidence_is_that_of_the_generative_marginal(pair: LinearGaussian) -> None:
    marginal = MultivariateNormal(pair.mu, pair.W @ pair.W.T + pair.s2 * torch.eye(DIM))
    close(pair.log_evidence, marginal.log_prob(pair.sample(50, exact=True)).mean())


def test_data_entropy(pair: LinearGaussian) -> None:
    close(pair.data_entropy, data_distribution(pair).entropy())


def test_mutual_information_is_the_divergence_from_independence(pair: LinearGaussian) -> None:
    joint = representation_joint(pair)
    apart = torch.block_diag(pair.S, aggregate(pair).covariance_matrix)
    close(pair.mutual_information, kl_divergence(joint, MultivariateNormal(joint.loc, apart)))


def test_rate_distortion_and_information_by_monte_carlo(pair: LinearGaussian) -> None:
    _, z, log_encoder, log_decoder = draws(pair)
    within_error(log_encoder - prior().log_prob(z), pair.rate)
    within_error(-log_decoder, pair.distortion)
    within_error(log_encoder - aggregate(pair).log_prob(z), pair.mutual_information)


def test_marginal_kl(pair: LinearGaussian) -> None:
    close(pair.marginal_kl, kl_divergence(aggregate(pair), prior()))


def test_total_correlation_is_the_divergence_from_the_margins(pair: LinearGaussian) -> None:
    margins = torch.diag(aggregate(pair).variance)
    close(
        pair.total_correlation,
        kl_divergence(aggregate(pair), MultivariateNormal(torch.zeros(LATENT), margins)),
    )


def test_dimensionwise_kl(pair: LinearGaussian) -> None:
    margins = Normal(torch.zeros(LATENT), aggregate(pair).stddev)
    assert pair.dimensionwise_kl.shape == (LATENT,)
    close(pair.dimensionwise_kl, kl_divergence(margins, Normal(torch.zeros(LATENT), torch.ones(LATENT))))


def test_decoder_gap_is_the_mean_divergence_of_the_inverted_posterior(pair: LinearGaussian) -> None:
    joint = representation_joint(pair).covariance_matrix
    precision = torch.linalg.inv(joint)[:DIM, :DIM]
    back = joint[:DIM, DIM:] @ torch.linalg.inv(joint[DIM:, DIM:])
    root = torch.linalg.cholesky(aggregate(pair).covariance_matrix)
    z = math.sqrt(LATENT) * torch.cat([root.T, -root.T])  # points with the aggregate posterior's covariance
    inverted = MultivariateNormal(z @ back.T, precision_matrix=precision)
    decoder = MultivariateNormal(z @ pair.W.T, pair.s2 * torch.eye(DIM))
    close(pair.decoder_gap, kl_divergence(inverted, decoder).mean())


def test_kl_from_the_representation_to_the_generative_joint(pair: LinearGaussian) -> None:
    close(
        pair.kl_representation_generative, kl_divergence(representation_joint(pair), generative_joint(pair))
    )


def test_kl_from_the_generative_to_the_representation_joint(pair: LinearGaussian) -> None:
    close(
        pair.kl_generative_representation, kl_divergence(generative_joint(pair), representation_joint(pair))
    )


# the identities


def test_identities(pair: LinearGaussian) -> None:
    close(pair.rate, pair.mutual_information + pair.marginal_kl)
    close(pair.marginal_kl, pair.total_correlation + pair.dimensionwise_kl.sum())
    close(pair.distortion, pair.data_entropy - pair.mutual_information + pair.decoder_gap)
    close(pair.kl_representation_generative, pair.distortion + pair.rate - pair.data_entropy)


def test_elbo_is_the_evidence_less_the_posterior_gap(pair: LinearGaussian) -> None:
    x = pair.sample(50, exact=True) - pair.mu
    precision = pair.W.T @ pair.W / pair.s2 + torch.eye(LATENT)
    posterior = MultivariateNormal(
        torch.linalg.solve(precision, pair.W.T @ x.T / pair.s2).T, precision_matrix=precision
    )
    gap = kl_divergence(MultivariateNormal(x @ pair.V.T, pair.Delta), posterior).mean()
    close(pair.elbo, pair.log_evidence - gap)


@pytest.mark.parametrize("beta", [0.25, 4.0])
def test_infomax_bound(pair: LinearGaussian, beta: float) -> None:
    lam = 1 / beta - 1
    infomax = pair.marginal_kl - lam * pair.mutual_information + (1 + lam) * pair.decoder_gap
    close(pair.loss(beta) / beta - (1 + lam) * pair.data_entropy, infomax)


def test_total_correlation_given_the_data_balances_the_informations(pair: LinearGaussian) -> None:
    variances, margins = pair.Delta.diagonal(), aggregate(pair).variance
    given_data = 0.5 * (variances.log().sum() - torch.logdet(pair.Delta))
    single = 0.5 * (margins / variances).log()  # I(X; Z_j), one per latent dimension
    close(pair.total_correlation - given_data, single.sum() - pair.mutual_information)
    is_diagonal = torch.equal(pair.Delta, variances.diag())
    assert (given_data < 1e-12) == is_diagonal


# the arguments


def test_delta_as_vector_and_as_matrix_agree() -> None:
    arguments = {"S": torch.eye(2), "W": torch.randn(2, 2), "s2": 0.5, "V": torch.randn(2, 2)}
    vector = LinearGaussian(**arguments, Delta=[0.2, 0.4])
    matrix = LinearGaussian(**arguments, Delta=[[0.2, 0.0], [0.0, 0.4]])
    close(vector.rate, matrix.rate)
    close(vector.distortion, matrix.distortion)


def test_everything_is_float64_whatever_comes_in() -> None:
    torch.set_default_dtype(torch.float32)
    pair = LinearGaussian([1.0, 2.0], torch.ones(2, 1), 1.0, torch.ones(1, 2), [1.0])
    names = [name for name, value in vars(LinearGaussian).items() if isinstance(value, property)]
    public = [name for name in names if not name.startswith("_")]
    assert {getattr(pair, name).dtype for name in public} == {torch.float64}
    assert pair.sample(3).dtype == torch.float64


def test_sample_does_not_depend_on_the_default_dtype(pair: LinearGaussian) -> None:
    expected = pair.sample(3, seed=0)
    torch.set_default_dtype(torch.float32)
    assert torch.equal(pair.sample(3, seed=0), expected)


def test_gradients_reach_the_arguments() -> None:
    W = torch.randn(DIM, LATENT, requires_grad=True)
    LinearGaussian(SPECTRUM, W, 0.5, torch.randn(LATENT, DIM), torch.ones(LATENT)).loss(1.0).backward()
    assert W.grad is not None
    assert W.grad.abs().min() > 0


def test_data_on_a_line_have_no_entropy_but_a_rate() -> None:
    flat = LinearGaussian([2.0, 0.0], [[1.0], [0.0]], 0.5, [[0.6, 0.0]], [0.4])
    nearly = LinearGaussian([2.0, 1e-13], [[1.0], [0.0]], 0.5, [[0.6, 0.0]], [0.4])
    close(flat.rate, nearly.rate)
    close(flat.elbo, nearly.elbo)
    assert flat.data_entropy == -math.inf
    assert (
        flat.decoder_gap == flat.kl_representation_generative == flat.kl_generative_representation == math.inf
    )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"W": torch.ones(2)}, r"Expected W of shape \(dim, latent\) but got \(2,\)"),
        ({"W": torch.ones(2, 0)}, r"Expected W of shape \(dim, latent\) but got \(2, 0\)"),
        ({"S": torch.eye(3)}, r"Expected S of shape \(2, 2\) but got \(3, 3\)"),
        ({"V": torch.ones(2, 1)}, r"Expected V of shape \(1, 2\) but got \(2, 1\)"),
        ({"Delta": [1.0, 1.0]}, r"Expected Delta of shape \(1, 1\) but got \(2, 2\)"),
        ({"mu": [0.0]}, r"Expected mu of shape \(2,\) but got \(1,\)"),
        ({"S": [[1.0, 0.5], [0.0, 1.0]]}, "Expected S to be symmetric"),
        ({"S": [[1.0, 2.0], [2.0, 1.0]]}, "Expected S to be a covariance but its least eigenvalue is -1"),
        ({"Delta": [0.0]}, "Expected Delta to be positive definite"),
        ({"Delta": [-1.0]}, "Expected Delta to be a covariance but its least eigenvalue is -1"),
        ({"s2": 0.0}, r"Expected s2 > 0 but got 0\.0"),
        ({"s2": torch.ones(2)}, r"Expected s2 of shape \(\) but got \(2,\)"),
        ({"V": [[math.nan, 0.0]]}, "Expected V to be finite but got 1 values"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, object], sentence: str) -> None:
    right = {"S": torch.eye(2), "W": torch.ones(2, 1), "s2": 1.0, "V": torch.ones(1, 2), "Delta": [1.0]}
    with pytest.raises(ValueError, match=sentence):
        LinearGaussian(**{**right, **wrong})


def test_negative_beta_is_refused(pair: LinearGaussian) -> None:
    with pytest.raises(ValueError, match=r"Expected beta >= 0 but got -1\.0"):
        pair.loss(-1.0)


# samples


def test_sample_has_the_mean_and_the_covariance(pair: LinearGaussian) -> None:
    n = 20_000
    x = pair.sample(n)
    assert x.shape == (n, DIM)
    whitened = torch.linalg.solve(torch.linalg.cholesky(pair.S), (x - pair.mu).T)  # (dim, n)
    assert whitened.mean(1).abs().max() < 4.5 / math.sqrt(n)
    assert (whitened @ whitened.T / n - torch.eye(DIM)).abs().max() < 4.5 * math.sqrt(2 / n)


def test_exact_sample_has_exactly_the_mean_and_the_covariance(pair: LinearGaussian) -> None:
    x = pair.sample(DIM + 1, exact=True)
    close(x.mean(0), pair.mu)
    close((x - pair.mu).T @ (x - pair.mu) / len(x), pair.S)


def test_exact_sample_needs_enough_points(pair: LinearGaussian) -> None:
    with pytest.raises(ValueError, match="Expected n > 4 draws"):
        pair.sample(DIM, exact=True)


def test_seed_isolates_the_sample(pair: LinearGaussian) -> None:
    state = torch.random.get_rng_state()
    close(pair.sample(5, seed=3), pair.sample(5, seed=3))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.allclose(pair.sample(5, seed=3), pair.sample(5, seed=4))


def test_without_a_seed_the_sample_follows_the_global_generator(pair: LinearGaussian) -> None:
    torch.manual_seed(7)
    first, second = pair.sample(5), pair.sample(5)
    torch.manual_seed(7)
    close(first, pair.sample(5))
    assert not torch.allclose(first, second)


# the Pyro programs


def test_programs_have_no_parameters(pair: LinearGaussian) -> None:
    Trace_ELBO().loss(pair.model, pair.guide, pair.sample(5))
    assert not list(pyro.get_param_store())


def test_closed_form_elbo_of_the_programs_is_the_elbo() -> None:
    best = LinearGaussian.optimum(SPECTRUM, beta=1.0, latent_dim=2, s2=0.4)
    x = best.sample(200, exact=True)
    guide = poutine.trace(best.guide).get_trace(x).nodes["z"]["fn"]
    rate = kl_divergence(guide.base_dist, Normal(torch.zeros(2), torch.ones(2))).sum()
    close(rate / len(x), best.rate)
    samples = torch.tensor([TraceMeanField_ELBO().loss(best.model, best.guide, x) for _ in range(60)])
    within_error(-samples / len(x), best.elbo)


def test_elbo_of_the_programs_on_exact_data(pair: LinearGaussian) -> None:
    x = pair.sample(200, exact=True)
    samples = torch.tensor([Trace_ELBO().loss(pair.model, pair.guide, x) for _ in range(60)])
    within_error(-samples / len(x), pair.elbo)


def test_programs_run_with_vectorised_particles(pair: LinearGaussian) -> None:
    x = pair.sample(50, exact=True)
    vectorised = Trace_ELBO(num_particles=500, vectorize_particles=True, max_plate_nesting=1)
    one = torch.tensor([Trace_ELBO().loss(pair.model, pair.guide, x) for _ in range(60)])
    error = one.std() / math.sqrt(500)
    assert abs(vectorised.loss(pair.model, pair.guide, x) / 50 + pair.elbo) < 4 * error / 50


def test_log_density_of_the_model_is_that_of_the_generative_joint(pair: LinearGaussian) -> None:
    x, z = pair.sample(5), torch.randn(5, LATENT)
    log_joint = poutine.trace(poutine.condition(pair.model, {"z": z})).get_trace(x).log_prob_sum()
    close(log_joint, generative_joint(pair).log_prob(torch.cat([x - pair.mu, z], dim=1)).sum())


def test_model_broadcasts_over_an_outer_plate(pair: LinearGaussian) -> None:
    x, z = pair.sample(5), torch.randn(6, 1, LATENT)
    with pyro.plate("outer", 6, dim=-2):
        trace = poutine.trace(poutine.condition(pair.model, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (6, 5)


def test_guide_is_normal_or_multivariate_as_delta_is(pair: LinearGaussian) -> None:
    site = poutine.trace(pair.guide).get_trace(pair.sample(5)).nodes["z"]["fn"]
    is_diagonal = torch.equal(pair.Delta, pair.Delta.diagonal().diag())
    assert isinstance(site, dist.Independent if is_diagonal else dist.MultivariateNormal)
    assert (site.batch_shape, site.event_shape) == ((5,), (LATENT,))


# the optimum


def coordinates(best: LinearGaussian, learn_variance: bool) -> list[Tensor]:
    values = [best.W, best.V, best.Delta.diagonal().log()]
    values += [best.s2.log()] if learn_variance else []
    return [value.detach().clone().requires_grad_() for value in values]


def loss_at(best: LinearGaussian, values: list[Tensor], beta: float) -> Tensor:
    s2 = values[3].exp() if len(values) > 3 else best.s2
    return LinearGaussian(best.S, values[0], s2, values[1], values[2].exp()).loss(beta)


# beta, latent_dim, s2: full, collapsing, with too few latents, with more latents than data, all collapsed
FIXED = [(0.5, 4, 0.6), (2.0, 4, 0.6), (1.0, 1, 0.3), (4.0, 3, 0.6), (1.0, 6, 0.6), (1.0, 2, 7.0)]
LEARNED = [
    (0.5, 1, None),
    (1.0, 2, None),
    (1.0, 3, None),
    (1.5, 4, None),
    (0.7, 3, None),
    (1.2, 6, None),
    (2.5, 2, None),
]


@pytest.mark.parametrize(("beta", "latent_dim", "s2"), FIXED + LEARNED)
def test_optimum_is_stationary_and_no_perturbation_lowers_it(
    beta: float, latent_dim: int, s2: float | None
) -> None:
    """And its aggregate posterior is the prior."""
    best = LinearGaussian.optimum(SPECTRUM, beta, latent_dim, s2)
    values = coordinates(best, learn_variance=s2 is None)
    for gradient in torch.autograd.grad(loss_at(best, values, beta), values):
        close(gradient, torch.zeros_like(gradient))
    for size in [0.01, 0.3] * 20:
        moved = [(value + size * torch.randn_like(value)).detach() for value in values]
        assert loss_at(best, moved, beta) >= best.loss(beta) - 1e-12
    close(best.C, torch.eye(latent_dim))
    close(best.marginal_kl, 0.0)
    close(best.total_correlation, 0.0)
    close(best.rate, best.mutual_information)


@pytest.mark.parametrize(("beta", "latent_dim", "s2"), [FIXED[2], LEARNED[1]])
def test_descent_from_a_random_start_ends_at_the_optimum(
    beta: float, latent_dim: int, s2: float | None
) -> None:
    best = LinearGaussian.optimum(SPECTRUM, beta, latent_dim, s2)
    values = [torch.randn_like(value).requires_grad_() for value in coordinates(best, s2 is None)]
    optimiser = torch.optim.LBFGS(values, max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-13)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_at(best, values, beta)
        loss.backward()
        return loss

    optimiser.step(closure)
    close(closure().detach(), best.loss(beta), tolerance=1e-6)


@pytest.mark.parametrize(
    ("beta", "active"),
    [(0.5, [1, 1, 1, 1]), (1.0, [1, 1, 1, 0]), (2.0, [1, 1, 0, 0]), (4.0, [1, 0, 0, 0]), (9.0, [0] * 4)],
)
def test_collapse_follows_the_water_level(beta: float, active: list[int]) -> None:
    best = LinearGaussian.optimum(SPECTRUM, beta, latent_dim=4, s2=0.8)
    assert (best.W.norm(dim=0) > 0).int().tolist() == active
    assert (best.V.norm(dim=1) > 0).int().tolist() == active
    assert (best.Delta.diagonal() < 1).int().tolist() == active
    rate = sum(0.5 * math.log(value / (beta * 0.8)) for value, on in zip(SPECTRUM, active, strict=True) if on)
    close(best.rate, float(rate))


def test_too_few_latents_take_the_largest_eigenvalues() -> None:
    best = LinearGaussian.optimum(SPECTRUM, beta=1.0, latent_dim=2, s2=0.2)
    close(best.W.square().sum(1), torch.tensor([5.8, 2.8, 0.0, 0.0]))
    error = 2 * (best.distortion - 2 * math.log(2 * math.pi * 0.2)) * 0.2
    close(error, 2 * 0.2 + 1.5 + 0.5)


def test_optimum_sorts_the_eigenvalues() -> None:
    shuffled = LinearGaussian.optimum([0.5, 6.0, 1.5, 3.0], beta=1.0, latent_dim=2)
    close(shuffled.S, torch.diag(torch.tensor(SPECTRUM)))
    close(shuffled.loss(1.0), LinearGaussian.optimum(SPECTRUM, beta=1.0, latent_dim=2).loss(1.0))


def test_learned_variance_at_beta_one_is_that_of_probabilistic_pca() -> None:
    best = LinearGaussian.optimum(SPECTRUM, beta=1.0, latent_dim=2)
    close(best.s2, (1.5 + 0.5) / 2)
    close(best.elbo, best.log_evidence)
    close(best.decoder_gap, best.kl_representation_generative)


@pytest.mark.parametrize(("beta", "latent_dim", "s2"), LEARNED)
def test_learned_variance_satisfies_its_conditions_and_is_the_best_of_all(
    beta: float, latent_dim: int, s2: None
) -> None:
    best = LinearGaussian.optimum(SPECTRUM, beta, latent_dim, s2)
    active = int((best.W.norm(dim=0) > 0).sum())
    close(best.s2, sum(SPECTRUM[active:]) / (4 - active * beta))
    assert all(value > beta * best.s2 for value in SPECTRUM[:active])
    assert active == latent_dim or SPECTRUM[active] <= beta * best.s2
    fixed = [LinearGaussian.optimum(SPECTRUM, beta, latent_dim, float(v)) for v in torch.logspace(-2, 1, 30)]
    assert min(other.loss(beta) for other in fixed) >= best.loss(beta) - 1e-12


def test_all_dimensions_collapse_beyond_the_ratio_of_largest_to_mean() -> None:
    limit = 6.0 / (sum(SPECTRUM) / 4)
    assert LinearGaussian.optimum(SPECTRUM, limit * 1.001, latent_dim=2).rate == 0
    assert LinearGaussian.optimum(SPECTRUM, limit * 0.999, latent_dim=2).rate > 0


def test_learned_variance_where_the_loss_is_flat() -> None:
    flat = LinearGaussian.optimum(SPECTRUM, beta=1.0, latent_dim=4)
    close(flat.loss(1.0), flat.data_entropy)
    close(flat.s2, 0.5)
    equal = LinearGaussian.optimum([2.0, 2.0, 2.0], beta=1.0, latent_dim=3)
    close(equal.loss(1.0), equal.data_entropy)


def test_round_off_does_not_turn_a_flat_loss_into_a_singular_solution() -> None:
    for dim in range(2, 12):
        for rank in range(1, dim):
            if dim / rank * rank >= dim:
                best = LinearGaussian.optimum([1.0] * rank + [0.0] * (dim - rank), dim / rank, rank)
                close(best.s2, rank / dim)


@pytest.mark.parametrize(
    ("eigenvalues", "beta", "latent_dim"),
    [(SPECTRUM, 0.99, 4), (SPECTRUM, 0.5, 5), ([2.0, 1.0, 0.0, 0.0], 1.9, 2)],
)
def test_unbounded_loss_is_refused(eigenvalues: list[float], beta: float, latent_dim: int) -> None:
    with pytest.raises(ValueError, match="falls without bound"):
        LinearGaussian.optimum(eigenvalues, beta, latent_dim)
    losses = [
        LinearGaussian.optimum(eigenvalues, beta, latent_dim, s2).loss(beta) for s2 in (1e-2, 1e-6, 1e-10)
    ]
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_singular_data_have_a_learned_optimum_where_it_is_bounded() -> None:
    few = LinearGaussian.optimum([2.0, 1.0, 0.0, 0.0], beta=1.0, latent_dim=1)
    close(few.s2, 1 / 3)
    close(LinearGaussian.optimum([2.0, 1.0, 0.0, 0.0], beta=2.5, latent_dim=2).s2, 1 / 1.5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([], 1.0, 1), "Expected eigenvalues of shape"),
        (([[1.0]], 1.0, 1), "Expected eigenvalues of shape"),
        (([1.0, -1.0], 1.0, 1), "Expected eigenvalues >= 0"),
        (([0.0, 0.0], 1.0, 1), "Expected eigenvalues >= 0 with one positive"),
        ((SPECTRUM, 0.0, 1), r"Expected beta > 0 but got 0\.0"),
        ((SPECTRUM, 1.0, 0), "Expected latent_dim >= 1 but got 0"),
        ((SPECTRUM, 1.0, 1, -1.0), r"Expected s2 > 0 but got -1\.0"),
    ],
)
def test_wrong_arguments_of_the_optimum_are_refused(arguments: tuple[object, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LinearGaussian.optimum(*arguments)
