"""Which site depends on which."""

import pyro
import pyro.distributions as dist
import torch

from pyro_infomax.joint import dependences
from pyro_infomax.programs import LocalProgram


def found(guide, x, *sites):
    return dependences(LocalProgram(guide, (x,), role="guide"), (x,), sites)


def test_every_site_names_those_that_it_depends_on():
    def guide(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.999, 0.001])))
            a = pyro.sample("a", dist.Normal(x, 0.5))
            b = pyro.sample("b", dist.LogNormal(torch.where(a > x + 3, 1.0, 0.0), 1.0))
            pyro.sample("d", dist.Normal(c * b, 1.0))

    assert found(guide, torch.randn(70), "c", "a", "b", "d") == {"b": ["a"], "d": ["c", "b"]}


def test_independent_sites_depend_on_nothing():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x, 0.5))
            pyro.sample("b", dist.Dirichlet(x.exp()[:, None] * torch.ones(3)))

    assert found(guide, torch.randn(70), "a", "b") == {}


def test_a_program_that_does_not_take_the_values_says_nothing():
    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 0.5))
            if bool((a - x).abs().max() > 5):
                raise ValueError("too far")
            pyro.sample("b", dist.Normal(a, 0.5))

    assert found(guide, torch.randn(70), "a", "b") == {}


def test_the_random_state_stays():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x, 0.5))
            pyro.sample("b", dist.Normal(x, 0.5))

    x = torch.randn(5)
    program = LocalProgram(guide, (x,), role="guide")
    state = torch.get_rng_state()
    dependences(program, (x,), ["a", "b"])
    assert torch.equal(state, torch.get_rng_state())
