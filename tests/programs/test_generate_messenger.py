"""Observed sites that are drawn."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from pyro_infomax.programs._messengers import GenerateMessenger


def program():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    return pyro.sample("x", dist.Normal(a, 1e-9), obs=torch.tensor(9.0))


def test_named_sites_are_drawn():
    trace = poutine.trace(GenerateMessenger(["x"])(program)).get_trace()
    assert not trace.nodes["x"]["is_observed"]
    torch.testing.assert_close(trace.nodes["x"]["value"], trace.nodes["a"]["value"])


def test_conditioned_sites_stay():
    conditioned = poutine.condition(program, {"a": torch.tensor(5.0)})
    trace = poutine.trace(GenerateMessenger(["x"])(conditioned)).get_trace()
    assert trace.nodes["a"]["value"].item() == 5.0
    assert trace.nodes["a"]["is_observed"]
    assert abs(trace.nodes["x"]["value"].item() - 5.0) < 1e-6
