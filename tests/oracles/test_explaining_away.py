import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor

from pyro_infomax.oracles import ExplainingAway

TABLE = [[0.05, 0.7], [0.8, 0.95]]
XOR = [[0.02, 0.9], [0.8, 0.03]]
OR = [[0.0, 1.0], [1.0, 1.0]]


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


@pytest.fixture(params=[TABLE, XOR, OR], ids=["alarm", "xor", "or"])
def net(request: pytest.FixtureRequest) -> ExplainingAway:
    return ExplainingAway(0.3, 0.6, request.param)


def joint(net: ExplainingAway) -> dict[tuple[int, int, int], float]:
    """P(a, b, c), cell by cell, in plain Python."""

    def cell(a: int, b: int, c: int) -> float:
        effect = float(net.p_c_given_ab[a, b])
        return (0.3 if a else 0.7) * (0.6 if b else 0.4) * (effect if c else 1 - effect)

    return {abc: cell(*abc) for abc in itertools.product((0, 1), repeat=3)}


def probability(net: ExplainingAway, **fixed: int) -> float:
    cells = joint(net).items()
    return sum(
        p for abc, p in cells if all(dict(zip("abc", abc, strict=True))[k] == v for k, v in fixed.items())
    )


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p / q).log(), 0).sum()


def product(a: Tensor, b: Tensor) -> Tensor:
    """Tables q(a) q(b), (..., 2, 2), of the probabilities of one."""
    return torch.stack([1 - a, a], -1)[..., :, None] * torch.stack([1 - b, b], -1)[..., None, :]


# each property against plain enumeration


def test_prior_is_the_product_of_its_margins(net: ExplainingAway) -> None:
    close(net.prior, torch.tensor([[0.28, 0.42], [0.12, 0.18]]))


def test_evidence(net: ExplainingAway) -> None:
    close(net.evidence, probability(net, c=1))


def test_posterior(net: ExplainingAway) -> None:
    cells = [[probability(net, a=a, b=b, c=1) / probability(net, c=1) for b in (0, 1)] for a in (0, 1)]
    close(net.posterior, torch.tensor(cells))


def test_conditionals_of_the_causes(net: ExplainingAway) -> None:
    close(net.p_a_given_c, probability(net, a=1, c=1) / probability(net, c=1))
    close(net.p_b_given_c, probability(net, b=1, c=1) / probability(net, c=1))
    close(net.p_b_given_ca, probability(net, a=1, b=1, c=1) / probability(net, a=1, c=1))


def test_conditional_mutual_information_is_the_divergence_from_independence(net: ExplainingAway) -> None:
    apart = product(net.posterior[1].sum(), net.posterior[:, 1].sum())
    close(net.conditional_mutual_information, divergence(net.posterior, apart))


def test_mutual_information_of_causes_and_effect(net: ExplainingAway) -> None:
    terms = [
        p * math.log(p / (probability(net, a=a, b=b) * probability(net, c=c)))
        for (a, b, c), p in joint(net).items()
        if p > 0
    ]
    close(net.mutual_information, sum(terms))


def test_deterministic_effect_tells_its_entropy() -> None:
    net = ExplainingAway(0.3, 0.6, OR)
    close(net.mutual_information, -(0.72 * math.log(0.72) + 0.28 * math.log(0.28)))


def test_the_other_cause_explains_away() -> None:
    net = ExplainingAway(0.3, 0.6, TABLE)
    assert net.p_b < net.p_b_given_c
    assert net.p_b_given_ca < net.p_b_given_c


def test_factorising_effect_leaves_the_causes_independent() -> None:
    net = ExplainingAway(0.3, 0.6, torch.outer(torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.7])))
    close(net.conditional_mutual_information, 0.0)
    close(net.mean_field_kl, 0.0)
    close(net.p_b_given_ca, net.p_b_given_c)
    assert net.mutual_information > 0.01


# the mean-field bounds


@pytest.mark.parametrize(
    ("table", "p_b"),
    [(TABLE, 0.1), (XOR, 0.6), (OR, 0.1), ([[0.5, 0.0], [0.0, 0.1]], 0.6), ([[0.3, 0.2], [0.0, 0.0]], 0.1)],
)
def test_mean_field_kl_is_the_least_on_a_fine_grid(table: list[list[float]], p_b: float) -> None:
    net = ExplainingAway(0.3, p_b, table)
    grid = torch.linspace(0, 1, 401)
    q = product(grid[:, None], grid)  # (q_a, q_b, 2, 2)
    terms = torch.where(q > 0, q * (q / net.posterior).log(), 0)
    least = terms.sum((-2, -1)).min()
    assert net.mean_field_kl <= least + 1e-12
    assert least - net.mean_field_kl < 6e-4  # of a grid of 400 cells


def test_mean_field_kl_is_stationary_for_coordinate_ascent() -> None:
    net = ExplainingAway(0.3, 0.6, TABLE)
    log_posterior, a = net.posterior.log(), torch.tensor([0.5, 0.5])
    for _ in range(200):
        b = (a @ log_posterior).softmax(0)
        a = (log_posterior @ b).softmax(0)
    close(net.mean_field_kl, divergence(torch.outer(a, b), net.posterior))


def test_mean_field_kl_is_the_global_of_two_minima() -> None:
    net = ExplainingAway(0.5, 0.5, [[0.01, 0.9], [0.8, 0.01]])
    log_posterior, ends = net.posterior.log(), []
    for start in (0.1, 0.9):
        a = torch.tensor([1 - start, start])
        for _ in range(500):
            b = (a @ log_posterior).softmax(0)
            a = (log_posterior @ b).softmax(0)
        ends.append(divergence(torch.outer(a, b), net.posterior))
    assert abs(ends[0] - ends[1]) > 0.05
    close(net.mean_field_kl, min(ends))


def test_mean_field_kl_with_impossible_cells_is_on_an_edge() -> None:
    net = ExplainingAway(0.5, 0.5, OR)
    close(net.mean_field_kl, math.log(3 / 2))  # one cause certain, the other free: two of the three cells
    close(ExplainingAway(0.5, 0.5, [[0.0, 1.0], [0.0, 0.0]]).mean_field_kl, 0.0)


def test_inclusive_mean_field_kl_is_the_least_and_the_information(net: ExplainingAway) -> None:
    close(net.inclusive_mean_field_kl, net.conditional_mutual_information)
    logits = torch.randn(500, 2)
    others = product(*logits.sigmoid().unbind(-1))
    assert min(divergence(net.posterior, q) for q in others) > net.inclusive_mean_field_kl


def test_everything_is_float64_whatever_comes_in() -> None:
    torch.set_default_dtype(torch.float32)
    net = ExplainingAway(torch.tensor(0.25), 0.5, torch.tensor(TABLE))
    names = [name for name, value in vars(ExplainingAway).items() if isinstance(value, property)]
    assert {getattr(net, name).dtype for name in names} == {torch.float64}


# the Pyro program


def test_enumeration_of_the_model_gives_the_evidence(net: ExplainingAway) -> None:
    loss = TraceEnum_ELBO(max_plate_nesting=0).loss(config_enumerate(net.model), lambda: None)
    close(torch.tensor(loss), -net.evidence.log())


def test_enumeration_of_the_model_gives_the_marginals() -> None:
    net = ExplainingAway(0.3, 0.6, TABLE)
    marginals = TraceEnum_ELBO(max_plate_nesting=0).compute_marginals(
        config_enumerate(net.model), lambda: None
    )
    close(marginals["a"].probs, net.p_a_given_c)
    close(marginals["b"].probs, net.p_b_given_c)


def test_conditioned_model_gives_the_explained_away_cause() -> None:
    net = ExplainingAway(0.3, 0.6, TABLE)
    model = config_enumerate(poutine.condition(net.model, {"a": torch.tensor(1.0)}))
    marginals = TraceEnum_ELBO(max_plate_nesting=0).compute_marginals(model, lambda: None)
    close(marginals["b"].probs, net.p_b_given_ca)


def test_effect_can_be_absent_or_latent(net: ExplainingAway) -> None:
    absent = TraceEnum_ELBO(max_plate_nesting=0).loss(config_enumerate(net.model), lambda **_: None, c=0.0)
    close(torch.tensor(absent), -(1 - net.evidence).log())
    trace = poutine.trace(net.model).get_trace(c=None)
    assert not trace.nodes["c"]["is_observed"]


def test_gap_of_a_product_guide_is_its_divergence() -> None:
    net = ExplainingAway(0.3, 0.6, TABLE)

    def guide() -> None:
        pyro.sample("a", dist.Bernoulli(torch.tensor(0.2)))
        pyro.sample("b", dist.Bernoulli(torch.tensor(0.7)))

    loss = TraceEnum_ELBO(max_plate_nesting=0).loss(net.model, config_enumerate(guide))
    q = product(torch.tensor(0.2), torch.tensor(0.7))
    close(torch.tensor(loss), divergence(q, net.posterior) - net.evidence.log())
    samples = torch.tensor([Trace_ELBO().loss(net.model, guide) for _ in range(300)])
    assert (samples.mean() - loss).abs() < 4 * samples.std() / math.sqrt(300)


# the arguments


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1.2, 0.5, TABLE), r"Expected p_a within \[0, 1\] but got 1\.2"),
        ((0.5, -0.1, TABLE), r"Expected p_b within \[0, 1\] but got -0\.1"),
        ((0.5, math.nan, TABLE), r"Expected p_b within \[0, 1\] but got nan"),
        ((0.5, 0.5, [[0.5, 2.0], [0.0, 0.0]]), r"Expected p_c_given_ab within \[0, 1\]"),
        ((0.5, 0.5, [0.5, 0.5]), r"Expected p_c_given_ab of shape \(2, 2\) but got \(2,\)"),
        (([0.5], 0.5, TABLE), r"Expected p_a of shape \(\) but got \(1,\)"),
        ((0.5, 0.5, [[0.0, 0.0], [0.0, 0.0]]), r"Expected P\(C = 1\) > 0 but got 0"),
        ((1.0, 1.0, [[1.0, 1.0], [1.0, 0.0]]), r"Expected P\(C = 1\) > 0 but got 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[object, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ExplainingAway(*arguments)


def test_condition_on_an_impossible_cause_is_refused() -> None:
    net = ExplainingAway(0.0, 0.5, TABLE)
    with pytest.raises(ValueError, match=r"Expected P\(A = 1 \| C = 1\) > 0"):
        _ = net.p_b_given_ca
