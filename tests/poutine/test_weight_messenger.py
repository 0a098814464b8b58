"""Weights on the sites of a program, and what the site counts for without them."""

import math
from contextlib import ExitStack

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_infomax.poutine import (
    SiteWeightMessenger,
    WeightMessenger,
    checked_weight,
    unweighted_log_prob,
    unweighted_scale_and_mask,
    weight,
)

X = (0.5, -1.0, 2.0, 0.1)
MASK = (True, False, True, True)


def model():
    x = torch.tensor(X)
    z = pyro.sample("z", dist.Normal(0.0, 1.0), infer={"mark": 1})
    with pyro.plate("data", len(x), subsample=torch.tensor([0, 2])) as index:
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])
    pyro.factor("f", z.square())
    pyro.deterministic("twice", 2 * z)


def guide():
    pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))


def traced(program, *args):
    torch.manual_seed(0)
    trace = poutine.trace(program).get_trace(*args)
    trace.compute_log_prob()
    return trace


def scales(program):
    return {n: float(s["scale"]) for n, s in traced(program).nodes.items() if s["type"] == "sample"}


PLAIN = {"z": 1.0, "data": 1.0, "x": 2.0, "f": 1.0, "twice": 1.0}


def test_observed_sites_and_factors_weigh_the_one_and_latent_sites_the_other():
    weighed = weight(model, observed=3.0, latent=0.5)
    assert scales(weighed) == {**PLAIN, "z": 0.5, "x": 6.0, "f": 3.0}


def test_is_a_decorator():
    @weight(observed=3.0)
    def decorated():
        """What it was."""
        model()

    assert scales(decorated) == {**PLAIN, "x": 6.0, "f": 3.0}


def test_is_a_context_manager():
    def program():
        with weight(observed=3.0):
            model()

    assert scales(program) == {**PLAIN, "x": 6.0, "f": 3.0}


def test_keeps_the_name_and_docstring_of_a_function():
    assert weight(model, observed=2.0).__name__ == "model"


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        pyro.sample("x", dist.Normal(self.mean, 1.0), obs=x)


def test_wraps_a_module():
    module = Module()
    trace = traced(weight(module, observed=3.0), torch.tensor(1.0))
    expected = 3.0 * dist.Normal(0.7, 1.0).log_prob(torch.tensor(1.0))
    assert trace.log_prob_sum().item() == pytest.approx(expected.item())


def test_wrapping_a_module_leaves_it_as_it_was():
    module = Module()
    before = {**vars(module)}
    weight(module, observed=3.0)
    assert vars(module) == before


def test_weights_multiply():
    assert scales(weight(weight(model, observed=3.0), observed=0.5, latent=4.0))["x"] == 3.0


def test_the_record_is_the_product_of_the_weights():
    site = traced(weight(weight(model, observed=3.0), observed=0.5)).nodes["x"]
    assert site["weight"].weight == 1.5


def test_leaves_no_record_where_it_weighs_nothing():
    trace = traced(weight(model, observed=3.0))
    assert {n for n, s in trace.nodes.items() if "weight" in s} == {"x", "f"}


def test_does_not_write_into_infer():
    assert traced(weight(model, latent=3.0)).nodes["z"]["infer"] == {"mark": 1}


def test_inside_condition_a_site_is_latent_and_outside_it_is_observed():
    data = {"z": torch.tensor(0.4)}
    inside = poutine.condition(weight(model, observed=3.0, latent=0.5), data)
    outside = weight(poutine.condition(model, data), observed=3.0, latent=0.5)
    assert (scales(inside)["z"], scales(outside)["z"]) == (0.5, 3.0)


def test_outside_uncondition_a_site_is_latent():
    assert scales(weight(poutine.uncondition(model), observed=3.0, latent=0.5))["x"] == 1.0


def test_sites_that_are_hidden_from_it_keep_their_weight():
    inside = poutine.trace(model)
    weight(poutine.block(inside, hide=["x"]), observed=3.0)()
    assert {n: inside.trace.nodes[n]["scale"] for n in ("x", "f")} == {"x": 2.0, "f": 3.0}


# ---- what a site counts for without weights, with every other handler inside or around


def observe(*contexts):
    """One site under handlers, the innermost last."""

    def program():
        x = torch.tensor(X)
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    return program


HANDLERS = {
    "scale": lambda: poutine.scale(scale=2.5),
    "mask": lambda: poutine.mask(mask=torch.tensor(MASK)),
    "plate": lambda: pyro.plate("data", 4),
    "subsampled": lambda: pyro.plate("outer", 30, subsample_size=10, dim=-2),
}
ZEROS = [0.0, torch.tensor(0.0), torch.tensor([0.0, 1.0, 0.0, 2.0])]
WEIGHTS = [0.25, 4.0, torch.tensor(4.0), torch.tensor([4.0, 1.0, 0.25, 2.0])]


def under(handler, value, place):
    """The site with the weight around the handler or inside it, and without the weight."""
    handlers = [HANDLERS[handler], lambda: weight(observed=value)]
    weighed = traced(observe(*(handlers if place == "around" else handlers[::-1])))
    return weighed.nodes["x"], traced(observe(HANDLERS[handler])).nodes["x"]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("place", ["inside", "around"])
def test_weights_multiply_under_any_handler_and_what_the_site_counts_for_without_them_is_known(
    place, handler
):
    for value in WEIGHTS:
        site, plain = under(handler, value, place)
        assert torch.allclose(site["log_prob"], value * plain["log_prob"])
        assert torch.allclose(unweighted_log_prob(site), plain["log_prob"])


# A scale or a mask around a weight of 0 leaves no trace in the site.
@pytest.mark.parametrize(
    ("place", "handler"),
    [*(("inside", handler) for handler in HANDLERS), ("around", "plate"), ("around", "subsampled")],
)
def test_what_a_site_of_weight_zero_would_count_for_is_known(place, handler):
    for value in ZEROS:
        site, plain = under(handler, value, place)
        assert torch.allclose(unweighted_log_prob(site), plain["log_prob"])


def test_weights_of_zero_and_others_nest_with_scales_between_them():
    contexts = [lambda: weight(observed=0.0), lambda: poutine.scale(scale=2.5), lambda: weight(observed=4.0)]
    site = traced(observe(*contexts)).nodes["x"]
    assert torch.allclose(unweighted_log_prob(site), 2.5 * site["unscaled_log_prob"])


@pytest.mark.parametrize("value", [0.0, torch.tensor(0.0)])
def test_a_weight_of_zero_between_two_plates_keeps_the_ratio_of_each_once(value):
    def outer():
        return pyro.plate("outer", 30, subsample_size=10, dim=-2)

    def inner():
        return pyro.plate("inner", 8, subsample_size=4, dim=-1)

    for order in ((outer, inner), (inner, outer)):
        site = traced(observe(order[0], lambda: weight(observed=value), order[1])).nodes["x"]
        assert torch.allclose(unweighted_log_prob(site), 6.0 * site["unscaled_log_prob"])


def test_a_site_without_weights_is_its_own():
    site = traced(model).nodes["x"]
    assert unweighted_scale_and_mask(site) == (site["scale"], site["mask"])


# ---- weight 0


def impossible():
    p = pyro.param("p", torch.tensor(1.0))
    p = p.expand(2)
    support = dist.Uniform(torch.zeros(2), p, validate_args=False)
    pyro.sample("x", dist.Independent(support, 1, validate_args=False), obs=torch.tensor([0.5, 7.0]))


@pytest.mark.parametrize("value", [0.0, torch.tensor(0.0)])
def test_weight_zero_of_an_impossible_datum_is_zero_and_so_is_its_gradient(value):
    total = traced(weight(impossible, observed=value)).log_prob_sum()
    assert total.item() == 0.0
    if total.requires_grad:
        total.backward()
        assert pyro.param("p").grad.item() == 0.0


def test_the_unweighted_log_probability_of_an_impossible_datum_is_minus_infinity():
    site = traced(weight(impossible, observed=0.0)).nodes["x"]
    assert unweighted_log_prob(site).item() == -math.inf


# ---- Pyro's own objectives see the weight


def test_a_stock_objective_sees_the_weights():
    def loss(program, guide):
        torch.manual_seed(0)
        return pyro.infer.Trace_ELBO().loss(program, guide)

    torch.manual_seed(0)
    q = poutine.trace(guide).get_trace()
    q.compute_log_prob()
    p = poutine.trace(poutine.replay(model, q)).get_trace()
    p.compute_log_prob()
    value = {n: s["log_prob_sum"].item() for n, s in p.nodes.items() if s["type"] == "sample"}
    expected = 0.5 * (q.nodes["z"]["log_prob_sum"].item() - value["z"]) - 3.0 * (value["x"] + value["f"])
    weighed = weight(model, observed=3.0, latent=0.5), weight(guide, latent=0.5)
    assert loss(*weighed) == pytest.approx(expected)


# ---- other messengers and wrong input


def test_a_messenger_of_ones_own_says_what_a_site_counts_for():
    class Doubled(SiteWeightMessenger):
        def site_weight(self, msg):
            return 2.0 if msg["name"] == "x" else 1.0

    assert scales(Doubled()(model)) == {**PLAIN, "x": 4.0}


@pytest.mark.parametrize(
    "value", [-1.0, math.nan, math.inf, torch.tensor(-1.0), torch.tensor([1.0, math.nan])]
)
def test_refuses_what_is_negative_or_not_finite(value):
    for role in ("observed", "latent"):
        with pytest.raises(ValueError, match=f"Expected {role} >= 0 but got"):
            WeightMessenger(**{role: value})


@pytest.mark.parametrize("value", ["1", None, [1.0]])
def test_refuses_what_is_no_number(value):
    with pytest.raises(ValueError, match="Expected observed to be a number >= 0 but got"):
        weight(observed=value)


@pytest.mark.parametrize("value", [-1.0, torch.tensor(-1.0)])
def test_the_lower_end_may_be_another(value):
    with pytest.raises(ValueError, match="Expected lam > -1 but got"):
        checked_weight("lam", value, above=-1.0)
    assert checked_weight("lam", -0.5, above=-1.0) == -0.5
