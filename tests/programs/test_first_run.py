"""How a program takes its data, and what the run that shows it leaves behind."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from torch import nn

from pyro_infomax.programs import LocalProgram

SIZES = [2, 64, 65, 300]


def following(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))


def minibatch(x):
    with pyro.plate("data", 1000, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))


def fixed(x):
    with pyro.plate("data", fixed.size):
        pyro.sample("z", dist.Normal(x, 1.0))


def per_datum(x):
    loc = pyro.param("loc", torch.zeros(len(x)))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0))


def subsampling(x):
    with pyro.plate("data", len(x), subsample_size=subsampling.size) as rows:
        pyro.sample("z", dist.Normal(x[rows], 1.0))


def run(program, size, **kwargs):
    return LocalProgram(program, (torch.zeros(size),), role="guide", **kwargs)


@pytest.mark.parametrize(
    ("program", "size"),
    [(following, 1), *((following, size) for size in SIZES), (minibatch, 1), (minibatch, 65)],
)
def test_programs_that_follow_their_data(program, size):
    assert run(program, size).follows


@pytest.mark.parametrize("size", SIZES)
def test_programs_of_fixed_size(size):
    fixed.size = size
    seen = run(fixed, size)
    assert not seen.follows
    assert seen.piece == size


@pytest.mark.parametrize("size", SIZES)
def test_programs_with_parameters_for_each_datum(size):
    assert not run(per_datum, size).follows
    assert list(pyro.get_param_store().keys()) == ["loc"]
    assert pyro.param("loc").shape == (size,)


@pytest.mark.parametrize(
    ("taken", "size"), [(1, 67), (4, 300), (62, 67), (62, 300), (63, 300), (64, 67), (64, 300), (65, 67)]
)
def test_programs_that_subsample(taken, size):
    subsampling.size = taken
    seen = run(subsampling, size)
    assert not seen.follows
    assert seen.piece == taken


def test_subsamples_of_all_but_one():
    subsampling.size = 4
    assert not run(subsampling, 5).follows


def test_programs_that_follow_run_on_few_rows():
    sizes = []

    def program(x):
        sizes.append(len(x))
        following(x)

    run(program, 10_000)
    assert max(sizes) <= 64


def test_parameters_start_from_all_data():
    def program(x):
        loc = pyro.param("loc", lambda: x.mean())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    seen = LocalProgram(program, (torch.arange(301.0),), role="guide")
    assert seen.follows
    assert pyro.param("loc").item() == 150.0


def test_modules_need_no_run_on_all_data():
    layer, sizes = nn.Linear(1, 1).double(), []

    def program(x):
        sizes.append(len(x))
        pyro.module("layer", layer)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(layer(x.unsqueeze(-1)).squeeze(-1), 1.0))

    assert run(program, 300).follows
    assert max(sizes) <= 64


def test_trained_parameters_are_kept():
    pyro.param("loc", torch.arange(300.0))
    run(per_datum, 300)
    assert torch.equal(pyro.param("loc").detach(), torch.arange(300.0))


def test_guides_that_are_shaped_by_their_first_run_see_all_data():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = AutoDelta(model)
    run(guide, 300)
    assert guide(torch.zeros(300))["z"].shape == (300,)


def test_random_state_and_buffers_stay():
    norm = nn.BatchNorm1d(1).double()

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            following(self.norm(x.unsqueeze(-1) + 5).squeeze(-1))

    state = torch.get_rng_state()
    run(Guide(), 300)
    assert torch.equal(state, torch.get_rng_state())
    assert norm.running_mean.item() == 0.0
    assert norm.training


def test_errors_of_the_program_are_its_own():
    def program(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(program, 5)


def failing(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
    raise KeyError("after the latents")


def test_a_prior_may_end_after_its_latent_sites():
    seen = LocalProgram(failing, (torch.zeros(3),), role="prior")
    assert isinstance(seen.error, KeyError)
    assert list(seen.latents) == ["z"]


def test_only_a_prior_may():
    with pytest.raises(KeyError, match="after the latents"):
        LocalProgram(failing, (torch.zeros(3),), role="model")


def test_rows_out_of_reach_are_not_taken():
    def program(x):
        with pyro.plate("data", 1000, subsample_size=10) as rows:
            pyro.sample("z", dist.Normal(x[rows], 1.0))

    assert run(program, 4).piece == 10
