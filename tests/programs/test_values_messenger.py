"""Values for sites, and programs that stop early."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_infomax.programs import ProgramStopped, ValuesMessenger


def program():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(a, 1.0))
    return pyro.sample("x", dist.Normal(b, 1.0), obs=torch.tensor(9.0))


def trace_of(messenger):
    return poutine.trace(messenger(program)).get_trace()


def test_latent_sites_stay_latent():
    site = trace_of(ValuesMessenger({"a": torch.tensor(2.0)})).nodes["a"]
    assert site["value"].item() == 2.0
    assert not site["is_observed"]


def test_later_sites_see_the_value():
    trace = trace_of(ValuesMessenger({"a": torch.tensor(200.0)}))
    assert trace.nodes["b"]["fn"].loc.item() == 200.0


def test_observed_sites_stay_observed():
    site = trace_of(ValuesMessenger({"x": torch.tensor(3.0)})).nodes["x"]
    assert site["value"].item() == 3.0
    assert site["is_observed"]


def test_other_sites_are_drawn():
    messenger = ValuesMessenger({"a": torch.tensor(2.0)})
    assert trace_of(messenger).nodes["b"]["value"] != trace_of(messenger).nodes["b"]["value"]


def test_the_program_stops_after_the_last_site_that_is_awaited():
    handler = poutine.trace(ValuesMessenger({}, stop_after=["b", "a"])(program))
    for _ in range(2):  # a messenger serves more than one run
        with pytest.raises(ProgramStopped):
            handler.get_trace()
        assert list(handler.trace.nodes) == ["_INPUT", "a", "b"]


def test_it_runs_on_while_a_site_is_awaited():
    assert ValuesMessenger({}, stop_after=["a", "missing"])(program)().item() == 9.0


def test_it_runs_to_its_end_by_default():
    assert ValuesMessenger({})(program)().item() == 9.0
