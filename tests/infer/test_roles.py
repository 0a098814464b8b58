"""The roles by which a model and its guide are weighed."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormalMessenger

from pyro_infomax.infer._weights import GuideRole, ModelRole, ResolvedWeights

WEIGHTS = ResolvedWeights(3.0, 0.5, {})


def model():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("f", z.square())
    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
    pyro.deterministic("twice", 2 * z)
    pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})


def guide():
    with pyro.plate("two", 10, subsample_size=2):
        u = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
    z = pyro.sample("z", dist.Normal(u.mean(), 1.0))
    pyro.factor("g", z, has_rsample=True)
    pyro.sample("y", dist.Bernoulli(0.5))


def guide_role(program=guide, *, refuse_enumeration=None, weights=WEIGHTS):
    return GuideRole(weights, program, refuse_enumeration=refuse_enumeration)


def scales(program):
    trace = poutine.trace(program).get_trace()
    return {name: site["scale"] for name, site in trace.nodes.items() if site["type"] == "sample"}


def test_everything_in_a_guide_is_latent():
    assert scales(guide_role()(guide)) == {"two": 1.0, "u": 2.5, "z": 0.5, "g": 0.5, "y": 0.5}


def test_observed_sites_of_a_model_are_observed():
    role = guide_role()
    poutine.trace(role(guide)).get_trace()
    assert scales(ModelRole(WEIGHTS, role)(model)) == {"z": 0.5, "f": 3.0, "x": 3.0, "twice": 1.0, "y": 0.5}


def test_observed_sites_of_a_messenger_guide_are_the_models():
    def simple():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    messenger = AutoNormalMessenger(simple)
    with guide_role(messenger):
        messenger()
    model_trace, guide_trace = messenger.get_traces()
    assert {n: model_trace.nodes[n]["scale"] for n in ("z", "x")} == {"z": 0.5, "x": 3.0}
    assert guide_trace.nodes["z"]["scale"] == 0.5


def test_a_name_weighs_a_site_in_both():
    named = ResolvedWeights(1.0, 1.0, {"z": 7.0})
    role = guide_role(weights=named)
    assert scales(role(guide))["z"] == 7.0
    assert scales(ModelRole(named, role)(model))["z"] == 7.0


def test_a_latent_site_that_the_guide_lacks_is_refused():
    role = guide_role()
    with pytest.raises(ValueError, match=r"but it lacks 'z'.*use a TraceEnum objective"):
        poutine.trace(ModelRole(WEIGHTS, role)(model)).get_trace()


def test_an_auxiliary_site_of_the_model_must_be_in_the_guide_too():
    def auxiliary():
        pyro.sample("z", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    with pytest.raises(ValueError, match="but it lacks 'z'"):
        poutine.trace(ModelRole(WEIGHTS, guide_role())(auxiliary)).get_trace()


def test_a_site_that_is_enumerated_in_the_model_may_be_missing():
    role = guide_role()
    poutine.trace(role(poutine.block(guide, hide=["y"]))).get_trace()
    poutine.trace(ModelRole(WEIGHTS, role)(model)).get_trace()


def test_an_enumerated_site_is_refused_where_the_estimator_does_not_enumerate():
    role = guide_role(refuse_enumeration="not {site}")
    poutine.trace(role(poutine.block(guide, hide=["y"]))).get_trace()
    with pytest.raises(NotImplementedError, match="not y"):
        poutine.trace(ModelRole(WEIGHTS, role)(model)).get_trace()
    enumerated = poutine.infer_config(guide, config_fn=lambda site: {"enumerate": "parallel"})
    with pytest.raises(NotImplementedError, match="not u"):
        poutine.trace(role(enumerated)).get_trace()


def test_a_plate_that_only_the_model_has_is_no_missing_site():
    def plated():
        with pyro.plate("data", 10, subsample_size=2):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(2))

    assert scales(ModelRole(WEIGHTS, guide_role())(plated)) == {"data": 1.0, "x": 15.0}
