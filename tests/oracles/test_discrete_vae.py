"""Every nat of the discrete pair against plain loops over its states, and its programs by Pyro."""

import itertools
import math
from collections.abc import Callable, Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor

from pyro_infomax.diagnostics import decompose
from pyro_infomax.infer import TraceEnum_BetaELBO
from pyro_infomax.oracles import DiscreteVAE, blahut_arimoto, rate_distortion

SYMBOLS = 5
SHAPES = [(4,), (2, 3), (2, 2, 2)]


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


def table(*shape: int, over: int = 1) -> Tensor:
    """Random probabilities over the last axes."""
    kept = shape[: len(shape) - over]
    return torch.randn(*kept, math.prod(shape[len(shape) - over :])).softmax(-1).reshape(shape)


def random_pair(states: tuple[int, ...]) -> DiscreteVAE:
    return DiscreteVAE(
        prior=table(*states, over=len(states)),
        likelihood=table(*states, SYMBOLS),
        encoder=table(SYMBOLS, *states, over=len(states)),
        data_distribution=table(SYMBOLS),
    )


@pytest.fixture(params=SHAPES, ids=str)
def pair(request: pytest.FixtureRequest) -> DiscreteVAE:
    return random_pair(request.param)


class Loops:
    """Probabilities cell by cell, and sums of any function of them, in plain Python."""

    def __init__(self, pair: DiscreteVAE) -> None:
        self.states = list(itertools.product(*map(range, pair.prior.shape)))
        self.dims = range(pair.prior.dim())
        self.p_d = pair.data_distribution.tolist()
        self.p_z = {z: pair.prior[z].item() for z in self.states}
        self.p_x_z = {(x, z): pair.likelihood[(*z, x)].item() for x, z in self.cells()}
        self.q_z_x = {(x, z): pair.encoder[(x, *z)].item() for x, z in self.cells()}
        self.q_z = {z: sum(self.p_d[x] * self.q_z_x[x, z] for x in range(SYMBOLS)) for z in self.states}

    def cells(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        return itertools.product(range(SYMBOLS), self.states)

    def expect(self, function: Callable[[int, tuple[int, ...]], float]) -> float:
        """Under q(z|x) p_D(x)."""
        return sum(self.p_d[x] * self.q_z_x[x, z] * function(x, z) for x, z in self.cells())

    def margin(self, probabilities: dict[tuple[int, ...], float], dim: int, state: int) -> float:
        return sum(p for z, p in probabilities.items() if z[dim] == state)

    def apart(self, probabilities: dict[tuple[int, ...], float], z: tuple[int, ...]) -> float:
        return math.prod(self.margin(probabilities, j, z[j]) for j in self.dims)

    def at(self, x: int) -> dict[tuple[int, ...], float]:
        return {z: self.q_z_x[x, z] for z in self.states}

    def evidence(self, x: int) -> float:
        return sum(self.p_z[z] * self.p_x_z[x, z] for z in self.states)


# each property against the loops


def test_terms_of_the_elbo(pair: DiscreteVAE) -> None:
    p = Loops(pair)
    close(pair.rate, p.expect(lambda x, z: math.log(p.q_z_x[x, z] / p.p_z[z])))
    close(pair.distortion, p.expect(lambda x, z: -math.log(p.p_x_z[x, z])))
    close(pair.elbo, p.expect(lambda x, z: math.log(p.p_z[z] * p.p_x_z[x, z] / p.q_z_x[x, z])))
    close(pair.log_evidence, sum(w * math.log(p.evidence(x)) for x, w in enumerate(p.p_d)))
    close(pair.data_entropy, -sum(w * math.log(w) for w in p.p_d))


def test_terms_of_the_aggregate_posterior(pair: DiscreteVAE) -> None:
    p = Loops(pair)
    for z in p.states:
        close(pair.aggregate[z], p.q_z[z])
    close(pair.mutual_information, p.expect(lambda x, z: math.log(p.q_z_x[x, z] / p.q_z[z])))
    close(pair.marginal_kl, sum(q * math.log(q / p.p_z[z]) for z, q in p.q_z.items()))
    close(pair.total_correlation, sum(q * math.log(q / p.apart(p.q_z, z)) for z, q in p.q_z.items()))
    within = p.expect(lambda x, z: math.log(p.q_z_x[x, z] / p.apart(p.at(x), z)))
    close(pair.conditional_total_correlation, within)
    dependence = sum(q * math.log(p.apart(p.p_z, z) / p.p_z[z]) for z, q in p.q_z.items())
    close(pair.prior_dependence, dependence)
    truths = []
    for j, size in enumerate(pair.prior.shape):
        margins = [(p.margin(p.q_z, j, s), p.margin(p.p_z, j, s)) for s in range(size)]
        truths.append(sum(q * math.log(q / own) for q, own in margins))
    close(pair.dimensionwise_kl, torch.tensor(truths))


def test_divergences_between_the_joints(pair: DiscreteVAE) -> None:
    p = Loops(pair)
    inverted = {(x, z): p.q_z_x[x, z] * p.p_d[x] / p.q_z[z] for x, z in p.cells()}
    close(pair.decoder_gap, p.expect(lambda x, z: math.log(inverted[x, z] / p.p_x_z[x, z])))
    joints = [(p.p_d[x] * p.q_z_x[x, z], p.p_z[z] * p.p_x_z[x, z]) for x, z in p.cells()]
    close(pair.kl_representation_generative, sum(q * math.log(q / g) for q, g in joints))
    close(pair.kl_generative_representation, sum(g * math.log(g / q) for q, g in joints))


# the identities


def test_identities(pair: DiscreteVAE) -> None:
    close(pair.rate, pair.mutual_information + pair.marginal_kl)
    close(pair.distortion, pair.data_entropy - pair.mutual_information + pair.decoder_gap)
    close(pair.kl_representation_generative, pair.distortion + pair.rate - pair.data_entropy)
    close(pair.kl_representation_generative, pair.marginal_kl + pair.decoder_gap)
    parts = pair.total_correlation + pair.dimensionwise_kl.sum() + pair.prior_dependence
    close(pair.marginal_kl, parts)


@pytest.mark.parametrize("lam", [-0.5, 3.0])
def test_infomax_bound(pair: DiscreteVAE, lam: float) -> None:
    loss = (1 + lam) * (pair.loss(1 / (1 + lam)) - pair.data_entropy)
    close(loss, pair.marginal_kl - lam * pair.mutual_information + (1 + lam) * pair.decoder_gap)


def test_correlations_and_the_information_of_single_dimensions(pair: DiscreteVAE) -> None:
    apart = 0.0
    for j in range(pair.latent_dim):
        others = tuple(1 + i for i in range(pair.latent_dim) if i != j)
        alone = DiscreteVAE(
            pair.prior.sum([axis - 1 for axis in others]) if others else pair.prior,
            table(pair.prior.shape[j], SYMBOLS),
            pair.encoder.sum(others) if others else pair.encoder,
            pair.data_distribution,
        )
        apart = apart + alone.mutual_information
    difference = pair.total_correlation - pair.conditional_total_correlation
    close(difference, apart - pair.mutual_information)


def test_a_product_has_no_dependence() -> None:
    first, second = table(SYMBOLS, 2), table(SYMBOLS, 3)
    product = torch.outer(table(2), table(3))
    pair = DiscreteVAE(product, table(2, 3, SYMBOLS), first[:, :, None] * second[:, None])
    close(pair.prior_dependence, 0.0)
    close(pair.conditional_total_correlation, 0.0)
    assert pair.total_correlation > 0.01


def test_data_are_uniform_unless_told_otherwise() -> None:
    pair = DiscreteVAE([1.0], [[0.2, 0.3, 0.5]], [[1.0]] * 3)
    close(pair.data_distribution, torch.full((3,), 1 / 3))
    close(pair.data_entropy, math.log(3))


def test_impossible_states_and_symbols() -> None:
    pair = DiscreteVAE([0.5, 0.5, 0.0], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], torch.eye(3)[:2])
    close(pair.rate, math.log(2))
    close(pair.distortion, 0.0)
    close(pair.kl_representation_generative, 0.0)
    assert pair.kl_generative_representation == 0
    lost = DiscreteVAE([1.0, 0.0], [[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]])
    assert lost.rate == lost.distortion == math.inf


def test_gradients_are_finite_and_those_of_finite_differences() -> None:
    logits = torch.randn(3, 4, requires_grad=True)

    def total(logits: Tensor) -> Tensor:
        pair = DiscreteVAE(logits[0].softmax(0), logits.T.softmax(-1), logits[:, :4].softmax(-1))
        return pair.rate + 2 * pair.decoder_gap + 3 * pair.log_evidence + pair.kl_generative_representation

    assert torch.autograd.gradcheck(total, logits)
    zeros = torch.eye(2, requires_grad=True)
    DiscreteVAE([0.5, 0.5], zeros, zeros).kl_representation_generative.backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_everything_is_float64_whatever_comes_in() -> None:
    torch.set_default_dtype(torch.float32)
    pair = DiscreteVAE(table(3), table(3, 2), table(2, 3))
    names = [name for name, value in vars(DiscreteVAE).items() if isinstance(value, property)]
    values = [getattr(pair, name) for name in names]
    assert {value.dtype for value in values if isinstance(value, Tensor)} == {torch.float64}
    close(pair.rate, pair.mutual_information + pair.marginal_kl)  # the rows are normalised


# the optima


@pytest.mark.parametrize("beta", [0.3, 4.0])
def test_optimal_encoder_attains_the_free_energy(pair: DiscreteVAE, beta: float) -> None:
    best = DiscreteVAE.optimal_encoder(pair.prior, pair.likelihood, beta, pair.data_distribution)
    p = Loops(pair)
    energy = [math.log(sum(p.p_z[z] * p.p_x_z[x, z] ** (1 / beta) for z in p.states)) for x in range(SYMBOLS)]
    close(best.loss(beta), -beta * sum(w * e for w, e in zip(p.p_d, energy, strict=True)))
    assert best.loss(beta) < pair.loss(beta)


def test_optimal_encoder_is_stationary(pair: DiscreteVAE) -> None:
    best = DiscreteVAE.optimal_encoder(pair.prior, pair.likelihood, 2.0, pair.data_distribution)
    logits = best.encoder.flatten(1).log().requires_grad_()
    encoder = logits.softmax(1).reshape(best.encoder.shape)
    DiscreteVAE(pair.prior, pair.likelihood, encoder, pair.data_distribution).loss(2.0).backward()
    assert logits.grad is not None
    close(logits.grad, torch.zeros_like(logits))


def test_optimal_encoder_has_finite_gradients_beside_zeros() -> None:
    prior = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    table = [[0.8, 0.2, 0.0], [0.1, 0.0, 0.9], [0.3, 0.3, 0.4]]
    likelihood = torch.tensor(table, dtype=torch.float64, requires_grad=True)
    best = DiscreteVAE.optimal_encoder(prior, likelihood, 0.7)
    slopes = torch.autograd.grad(best.loss(0.7), [prior, likelihood])
    fixed = DiscreteVAE(prior, likelihood, best.encoder.detach())
    # at its optimum the encoder takes no part in the slope
    for slope, same in zip(slopes, torch.autograd.grad(fixed.loss(0.7), [prior, likelihood]), strict=True):
        torch.testing.assert_close(slope, same, atol=1e-12, rtol=0)


def test_optimal_encoder_at_one_is_the_posterior(pair: DiscreteVAE) -> None:
    best = DiscreteVAE.optimal_encoder(pair.prior, pair.likelihood, 1.0, pair.data_distribution)
    close(best.elbo, best.log_evidence)
    joint = best.generative_joint
    close(best.encoder, joint / joint.flatten(1).sum(1).reshape(-1, *(1 for _ in pair.states)))


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_optimum_lies_on_the_rate_distortion_curve(pair: DiscreteVAE, beta: float) -> None:
    best = DiscreteVAE.optimum(pair.likelihood, beta, pair.data_distribution)
    distortions = -pair.likelihood.flatten(0, -2).log().T  # (symbols, state)
    point = blahut_arimoto(distortions, source=pair.data_distribution, slope=1 / beta)
    close(best.loss(beta), point.distortion + beta * point.rate, tolerance=1e-8)
    close(best.marginal_kl, 0.0, tolerance=1e-9)
    curve = rate_distortion(pair.data_distribution, distortions, target=best.distortion.item())
    close(best.rate, curve.rate, tolerance=1e-8)


def test_no_prior_is_better_than_the_optimum(pair: DiscreteVAE) -> None:
    best = DiscreteVAE.optimum(pair.likelihood, 0.5, pair.data_distribution)
    for scale in (0.01, 0.3, 3.0):
        tilted = (best.prior.clamp(min=1e-12).log() + scale * torch.randn(best.states)).flatten().softmax(0)
        prior = tilted.reshape(best.states)
        other = DiscreteVAE.optimal_encoder(prior, pair.likelihood, 0.5, pair.data_distribution)
        assert other.loss(0.5) >= best.loss(0.5) - 1e-10


def test_optimum_collapses_where_information_is_dear() -> None:
    best = DiscreteVAE.optimum([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]], beta=10.0)
    close(best.rate, 0.0, tolerance=1e-8)
    close(best.distortion, math.log(2), tolerance=1e-8)
    assert best.prior[2] > 1 - 1e-4


def test_symbols_that_never_occur_need_no_state() -> None:
    best = DiscreteVAE.optimum([[0.5, 0.5, 0.0], [0.4, 0.6, 0.0]], 1.0, [0.5, 0.5, 0.0])
    close(best.loss(1.0), math.log(2), tolerance=1e-9)
    with pytest.raises(ValueError, match="symbol 2 has probability 0 in every state"):
        DiscreteVAE.optimum([[0.5, 0.5, 0.0], [0.4, 0.6, 0.0]], 1.0)
    with pytest.raises(ValueError, match="symbol 0 has probability 0 in every state"):
        DiscreteVAE.optimal_encoder([1.0, 0.0], [[0.0, 1.0], [1.0, 0.0]], 1.0)


# samples and programs


def test_samples_have_the_data_distribution() -> None:
    pair = random_pair((3,))
    counts = pair.sample(20_000, seed=1).bincount(minlength=SYMBOLS) / 20_000
    error = (pair.data_distribution * (1 - pair.data_distribution) / 20_000).sqrt()
    assert ((counts - pair.data_distribution).abs() < 4 * error).all()


def test_exact_samples_and_their_refusal() -> None:
    pair = DiscreteVAE([1.0], [[0.5, 0.5]], [[1.0], [1.0]], [0.25, 0.75])
    x = pair.sample(100, exact=True)
    assert x.bincount().tolist() == [25, 75]
    assert not torch.equal(x, x.sort().values)
    with pytest.raises(ValueError, match="whole share but got 30"):
        pair.sample(30, exact=True)


@pytest.mark.parametrize("exact", [False, True])
def test_seeded_samples_leave_the_global_state(exact: bool) -> None:
    pair = DiscreteVAE([1.0], [[0.5, 0.5]], [[1.0], [1.0]])
    state = torch.get_rng_state()
    first, again = (pair.sample(40, exact=exact, seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(pair.sample(40, exact=exact), pair.sample(40, exact=exact))


def test_enumerated_elbo_of_the_programs_is_exact(pair: DiscreteVAE) -> None:
    x = torch.arange(SYMBOLS)
    uniform = DiscreteVAE(pair.prior, pair.likelihood, pair.encoder)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(uniform.model, config_enumerate(uniform.guide), x)
    close(torch.tensor(-loss / SYMBOLS), uniform.elbo)


def test_enumerated_evidence_of_the_model_is_exact(pair: DiscreteVAE) -> None:
    uniform = DiscreteVAE(pair.prior, pair.likelihood, pair.encoder)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    loss = elbo.loss(config_enumerate(uniform.model), lambda x: None, torch.arange(SYMBOLS))
    close(torch.tensor(-loss / SYMBOLS), uniform.log_evidence)


def test_weighted_objective_on_the_programs_is_the_loss(pair: DiscreteVAE) -> None:
    uniform = DiscreteVAE(pair.prior, pair.likelihood, pair.encoder)
    elbo = TraceEnum_BetaELBO(beta=3.0, max_plate_nesting=1)
    loss = elbo.loss(uniform.model, config_enumerate(uniform.guide), torch.arange(SYMBOLS))
    close(torch.tensor(loss / SYMBOLS), uniform.loss(3.0))


def test_sampled_elbo_of_the_programs(pair: DiscreteVAE) -> None:
    uniform = DiscreteVAE(pair.prior, pair.likelihood, pair.encoder)
    x = uniform.sample(500, exact=True, seed=0)
    losses = torch.tensor([Trace_ELBO().loss(uniform.model, uniform.guide, x) for _ in range(20)]) / len(x)
    assert (losses.mean() + uniform.elbo).abs() < 4 * losses.std() / math.sqrt(20)


def test_independent_sites_do_not_follow_each_other() -> None:
    encoder = table(SYMBOLS, 2)[:, :, None] * table(SYMBOLS, 3)[:, None]
    pair = DiscreteVAE(torch.outer(table(2), table(3)), table(2, 3, SYMBOLS), encoder)
    x = torch.arange(SYMBOLS)
    for z_0 in (0, 1):
        given = poutine.condition(pair.guide, {"z_0": torch.full((SYMBOLS,), z_0)})
        probs = poutine.trace(given).get_trace(x).nodes["z_1"]["fn"].probs
        close(probs, encoder.sum(1))


def test_states_that_never_occur_have_a_successor() -> None:
    prior = torch.tensor([[0.4, 0.1], [0.1, 0.4], [0.0, 0.0]])
    pair = DiscreteVAE(prior, table(3, 2, SYMBOLS), table(SYMBOLS, 3, 2, over=2))
    x = pair.sample(50, seed=0)
    assert math.isfinite(Trace_ELBO().loss(pair.model, pair.guide, x))


@pytest.mark.parametrize("states", [(4,), (2, 3)], ids=str)
def test_decompose_agrees_with_every_term(states: tuple[int, ...]) -> None:
    some = random_pair(states)
    pair = DiscreteVAE(some.prior, some.likelihood, some.encoder)
    x = pair.sample(80 * SYMBOLS, exact=True, seed=0)
    account = decompose(pair.model, pair.guide, x, num_samples=3, seed=1)
    names = ["distortion", "rate", "elbo", "mutual_information", "marginal_kl"]
    names += ["total_correlation", "dimensionwise_kl"] if len(states) == 1 else []
    for name in names:
        found, truth = getattr(account, name), getattr(pair, name)
        assert ((found.value - truth).abs() <= 3.5 * found.standard_error + 1e-9).all(), name


def test_decompose_agrees_on_the_dimensions_of_a_vector_of_bits() -> None:
    encoder = table(SYMBOLS, 2)[:, :, None] * table(SYMBOLS, 2)[:, None]
    pair = DiscreteVAE(torch.outer(table(2), table(2)), table(2, 2, SYMBOLS), encoder)
    of_x = torch.stack([encoder.sum(2)[:, 1], encoder.sum(1)[:, 1]], dim=-1)  # (symbols, latent)
    of_prior = torch.stack([pair.prior.sum(1)[1], pair.prior.sum(0)[1]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(of_prior).to_event(1)).long()
            pyro.sample("x", dist.Categorical(pair.likelihood[z[..., 0], z[..., 1]]), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(of_x[x]).to_event(1))

    account = decompose(model, guide, pair.sample(80 * SYMBOLS, exact=True, seed=0), num_samples=4, seed=1)
    for name in ("mutual_information", "marginal_kl", "total_correlation", "dimensionwise_kl"):
        found, truth = getattr(account, name), getattr(pair, name)
        assert ((found.value - truth).abs() <= 3.5 * found.standard_error + 1e-12).all(), name


# wrong arguments


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prior": [0.5, 0.6]}, r"Expected prior to sum to 1 but got 1\.1"),
        ({"prior": [1.5, -0.5]}, r"Expected prior >= 0 but got -0\.5"),
        ({"prior": [0.2, 0.3, 0.5]}, r"Expected likelihood of shape \(3, 'symbols'\) but got \(2, 2\)"),
        ({"likelihood": [[0.5, 0.5], [0.9, 0.2]]}, "Expected likelihood to sum to 1"),
        ({"likelihood": [0.5, 0.5]}, "Expected likelihood of shape"),
        ({"encoder": [[0.5, 0.5]]}, r"Expected encoder of shape \(2, 2\) but got \(1, 2\)"),
        ({"encoder": [[0.6, 0.4, 0.5], [0.4, 0.6, 0.5]]}, r"Expected encoder of shape \(2, 2\) but got"),
        ({"likelihood": [[0.6, 0.4], [0.3, 0.1], [0.1, 0.5]]}, "Expected likelihood of shape"),
        ({"encoder": [[0.5, math.nan], [0.5, 0.5]]}, "Expected encoder to be finite"),
        ({"data_distribution": [1.0]}, r"Expected data_distribution of shape \(2,\) but got \(1,\)"),
    ],
)
def test_wrong_tables_are_refused(change: dict[str, object], sentence: str) -> None:
    good = {"prior": [0.5, 0.5], "likelihood": [[0.5, 0.5]] * 2, "encoder": [[0.5, 0.5]] * 2}
    with pytest.raises(ValueError, match=sentence):
        DiscreteVAE(**(good | change))


def test_wrong_weights_are_refused() -> None:
    pair = random_pair((2,))
    with pytest.raises(ValueError, match=r"Expected beta >= 0 but got -1\.0"):
        pair.loss(-1.0)
    with pytest.raises(ValueError, match=r"Expected beta > 0 but got 0\.0"):
        DiscreteVAE.optimum(pair.likelihood, 0.0)
    with pytest.raises(ValueError, match=r"Expected beta > 0 but got -2\.0"):
        DiscreteVAE.optimal_encoder(pair.prior, pair.likelihood, -2.0)
