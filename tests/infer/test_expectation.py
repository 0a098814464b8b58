"""Expected costs of a guide's sites: those that Pyro computes, in value and gradient."""

import queue

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.enum import iter_discrete_escape, iter_discrete_extend
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import prune_subsample_sites

from pyro_infomax.infer._enum import Expectation

PARALLEL, SEQUENTIAL = {"enumerate": "parallel"}, {"enumerate": "sequential"}


def parameter(name, *shape):
    return pyro.param(f"logits_{name}", torch.randn(shape))


def independent():
    for name, infer in (("a", PARALLEL), ("b", {}), ("c", PARALLEL)):
        pyro.sample(name, dist.Bernoulli(logits=parameter(name)), infer=infer)


def chained():
    a = pyro.sample("a", dist.Categorical(logits=parameter("a", 3)), infer=PARALLEL)
    b = pyro.sample("b", dist.Bernoulli(logits=parameter("b", 3)[a]), infer=PARALLEL)
    pyro.sample("c", dist.Bernoulli(logits=parameter("c", 2)[b.long()] + 0.1 * a))


def in_branches():
    """Two parts that share no axis, each with a drawn site whose score the costs of the other one need."""
    for first, second in (("a", "b"), ("c", "d")):
        value = pyro.sample(first, dist.Bernoulli(logits=parameter(first)), infer=PARALLEL)
        pyro.sample(second, dist.Bernoulli(logits=parameter(second, 2)[value.long()]))


def in_plates():
    a = pyro.sample("a", dist.Bernoulli(logits=parameter("a")), infer=PARALLEL)
    with pyro.plate("outer", 3, dim=-1):
        b = pyro.sample("b", dist.Bernoulli(logits=parameter("b", 3) + a))
        with pyro.plate("inner", 2, dim=-2):
            pyro.sample("c", dist.Categorical(logits=parameter("c", 2, 3, 4) + b[..., None]), infer=PARALLEL)


def many_draws():
    with pyro.plate("data", 3):
        logits = parameter("a", 3)
        pyro.sample("a", dist.Normal(logits, 1.0), infer={**PARALLEL, "num_samples": 4})


def in_turn():
    with pyro.plate("data", 1):
        a = pyro.sample("a", dist.Bernoulli(logits=parameter("a", 1)), infer=SEQUENTIAL)
    pyro.sample("b", dist.Bernoulli(logits=parameter("b") + a.sum()), infer=PARALLEL)


def excluded():
    logits = parameter("a", 3).masked_fill(torch.tensor([False, True, False]), -torch.inf)
    pyro.sample("a", dist.Categorical(logits=logits), infer=PARALLEL)


GUIDES = [independent, chained, in_branches, in_plates, many_draws, in_turn, excluded]


def traces(guide):
    """One trace a state of what is enumerated in turn."""
    pending = queue.LifoQueue()
    pending.put(poutine.Trace())
    enumerated = poutine.queue(
        EnumMessenger(first_available_dim=-3)(guide),
        pending,
        escape_fn=iter_discrete_escape,
        extend_fn=iter_discrete_extend,
    )
    while not pending.empty():
        trace = prune_subsample_sites(poutine.trace(enumerated).get_trace())
        trace.compute_score_parts()
        trace.pack_tensors()
        yield trace


def ordering_of(trace):
    return {
        name: frozenset(trace.plate_to_symbol[frame.name] for frame in site["cond_indep_stack"])
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
    }


def costs_of(trace, ordering):
    """A cost a site that depends on its value and its log-probability, and one that depends on nothing."""
    costs = {}
    for name, plates in ordering.items():
        site = trace.nodes[name]
        cost = packed.pack(
            site["unscaled_log_prob"] * 0.3 + site["value"] ** 2, site["infer"]["_dim_to_symbol"]
        )
        costs.setdefault(plates, []).extend([cost, site["packed"]["log_prob"]])
    constant = torch.tensor(0.7)
    constant._pyro_dims = ""
    costs.setdefault(frozenset(), []).append(constant)
    return costs


def value_and_gradient(total):
    names = sorted(pyro.get_param_store())
    leaves = [pyro.param(name).unconstrained() for name in names]
    gradients = torch.autograd.grad(
        total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([each.reshape(-1) for each in (total.detach(), *gradients)])


@pytest.mark.parametrize("guide", GUIDES)
def test_is_pyros_expectation(guide):
    for trace in traces(guide):
        ordering = ordering_of(trace)
        costs = costs_of(trace, ordering)
        found = value_and_gradient(Expectation(trace, ordering).of(costs))
        expected = value_and_gradient(Dice(trace, ordering).compute_expectation(costs))
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_what_is_impossible_costs_nothing():
    (trace,) = traces(excluded)
    ordering = ordering_of(trace)
    cost = trace.nodes["a"]["packed"]["log_prob"]
    assert cost.isneginf().any()
    total = Expectation(trace, ordering).of({frozenset(): [cost]})
    assert value_and_gradient(total).isfinite().all()


def test_no_costs_are_zero():
    (trace,) = traces(chained)
    assert Expectation(trace, ordering_of(trace)).of({}).item() == 0


def test_one_expectation_serves_many_costs():
    (trace,) = traces(chained)
    ordering = ordering_of(trace)
    costs = costs_of(trace, ordering)
    expectation = Expectation(trace, ordering)
    halves = (
        expectation.of({frozenset(): costs[frozenset()][:3]}),
        expectation.of({frozenset(): costs[frozenset()][3:]}),
    )
    assert sum(halves).item() == pytest.approx(expectation.of(costs).item(), abs=1e-12)


def test_sites_that_share_no_axis_are_not_multiplied_out():
    """Forty sites of two values have a joint table of 2⁴⁰ entries."""

    def guide():
        for n in range(40):
            pyro.sample(f"z_{n}", dist.Bernoulli(logits=parameter(f"z_{n}")), infer=PARALLEL)

    (trace,) = traces(guide)
    ordering = ordering_of(trace)
    total = Expectation(trace, ordering).of(costs_of(trace, ordering))
    probabilities = [pyro.param(f"logits_z_{n}").sigmoid() for n in range(40)]
    entropies = sum((p * p.log() + (1 - p) * (1 - p).log()) for p in probabilities)
    assert total.item() == pytest.approx((1.3 * entropies + sum(probabilities) + 0.7).item(), abs=1e-10)
