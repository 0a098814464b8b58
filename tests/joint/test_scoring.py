"""Scores of values with their data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

from pyro_infomax.joint import cycled
from pyro_infomax.joint._latent_space import aligned, site_scores, total
from pyro_infomax.programs import LocalProgram


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_cycled_takes_the_data_in_turn():
    data = cycled((torch.tensor([1, 2]), torch.tensor([3, 4])), 5)
    assert data[0].tolist() == [1, 2, 1, 2, 1]
    assert data[1].tolist() == [3, 4, 3, 4, 3]


@pytest.mark.parametrize(("data", "values", "size"), [(1, 4, 4), (4, 1, 4), (4, 4, 4), (1, 1, 1)])
def test_aligned(data, values, size):
    assert len(aligned((torch.zeros(data),), values)[0]) == size


def test_unaligned():
    with pytest.raises(ValueError, match="got 3 values and 4 data"):
        aligned((torch.zeros(4),), 3)


@pytest.mark.parametrize("batch_size", [2, 100])
def test_site_scores(batch_size):
    x, z = torch.randn(5), torch.randn(5)
    program = LocalProgram(model, (x,), role="model", batch_size=batch_size)
    scores = site_scores(program, (x,), {"z": z}, ["z", "x"])
    torch.testing.assert_close(scores["z"], Normal(0.0, 2.0).log_prob(z))
    torch.testing.assert_close(scores["x"], Normal(z, 1.0).log_prob(x))
    torch.testing.assert_close(total(scores), scores["z"] + scores["x"])


def test_scores_of_latent_sites_leave_the_rest_out():
    def broken(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 2.0))
        if broken.breaks:
            raise AssertionError("the program ran on")
        with pyro.plate("again", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    broken.breaks = False
    x = torch.zeros(3)
    program = LocalProgram(broken, (x,), role="guide", data_plate="data")
    broken.breaks = True
    assert list(site_scores(program, (x,), {"z": x}, ["z"])) == ["z"]
