"""Which plate holds the data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam

from pyro_infomax.poutine import data_frame, frames_of, is_deterministic, minibatch_frame, sample_sites

ZERO = torch.zeros(())


def found(program, size, *, role="model", name=None):
    return data_frame(poutine.trace(program).get_trace(), size, role=role, name=name).name


def with_inner_plate():
    with pyro.plate("data", 5, dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("pixels", 3, dim=-2):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=ZERO)


@pytest.mark.parametrize("role", ["model", "guide", "prior"])
def test_the_plate_of_the_data_s_size(role):
    assert found(with_inner_plate, 5, role=role) == "data"
    assert found(with_inner_plate, 3, role=role) == "pixels"


def test_the_plate_around_the_observed_site():
    def program():
        with pyro.plate("components", 5):
            pyro.sample("means", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 5):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=ZERO)

    assert found(program, 5) == "data"


def test_the_plate_that_all_observed_sites_share():
    def program():
        with pyro.plate("data", 5, dim=-1) as rows:
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=ZERO)
            assert len(rows) == 5
            with pyro.plate("pixels", 5, dim=-2):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=ZERO)

    assert found(program, 5) == "data"


def test_observed_sites_without_plates_do_not_count():
    def program():
        pyro.sample("theta", dist.Normal(0.0, 1.0), obs=ZERO)
        with_inner_plate()

    assert found(program, 5) == "data"


def test_conditioned_plates_do_not_hide_the_data():
    def program():
        with pyro.plate("groups", 4):
            pyro.sample("theta", dist.Normal(0.0, 1.0), obs=ZERO)
        with_inner_plate()

    assert found(program, 5) == "data"


@pytest.mark.parametrize("size", [100, 10, 7])
def test_a_subsampling_plate_fits_any_number_of_data(size):
    def program():
        with pyro.plate("data", 100, subsample_size=10):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=ZERO)

    assert found(program, size) == "data"


def test_a_name_decides():
    assert found(with_inner_plate, 5, name="data") == "data"
    with pytest.raises(ValueError, match=r"a plate 'rows' in the model but got \['data', 'pixels'\]"):
        found(with_inner_plate, 5, name="rows")


def test_no_plate():
    with pytest.raises(ValueError, match="Expected a vectorised plate around the sites of the guide"):
        found(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), 5, role="guide")


def test_no_plate_of_the_size():
    with pytest.raises(ValueError, match=r"a plate of size 4, the number.*\{'data': 5, 'pixels': 3\}"):
        found(with_inner_plate, 4)


def test_several_plates_of_the_size():
    def program():
        with pyro.plate("left", 5, dim=-1), pyro.plate("right", 5, dim=-2):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=ZERO)

    with pytest.raises(ValueError, match=r"one data plate.*\['left', 'right'\] all fit 5 data"):
        found(program, 5)


def test_a_minibatch_and_a_plate_of_its_size():
    def program():
        with pyro.plate("data", 100, subsample_size=5, dim=-1), pyro.plate("pixels", 5, dim=-2):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=ZERO)

    with pytest.raises(ValueError, match=r"\['data', 'pixels'\] all fit 5 data"):
        found(program, 5)


def step(*latent, data=5, pixels=5, first="data"):
    """A model in a training step of 5 data, with latent sites in some plates."""

    def program():
        plates = {
            "data": pyro.plate("data", data, subsample_size=5, dim=-1),
            "pixels": pyro.plate("pixels", pixels, subsample_size=5, dim=-2),
        }
        for name in latent:
            with plates[name]:
                pyro.sample(f"z_{name}", dist.Normal(0.0, 1.0))
        second = {"data": "pixels", "pixels": "data"}[first]
        with plates[first], plates[second]:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=ZERO)

    return minibatch_frame(poutine.trace(program).get_trace(), 5).name


def test_a_step_has_no_name_to_go_by_but_its_sites():
    assert step("data") == step("data", data=100) == step("data", pixels=100) == "data"
    assert step("data", "pixels", data=100) == "data"  # the outermost, which alone subsamples
    with pytest.raises(ValueError, match="all fit 5 data"):
        step("pixels", data=100)
    for open_ in ({}, {"pixels": 100}, {"data": 100, "pixels": 100}, {"data": 100, "first": "pixels"}):
        with pytest.raises(
            ValueError, match=r"\['data', 'pixels'\] all fit 5 data; take minibatches of another size"
        ):
            step("pixels", "data", **open_)


def test_sites_and_their_plates():
    def program():
        with pyro.plate("data", 5, subsample_size=2):
            pyro.sample("x", dist.Normal(0.0, 1.0))
            pyro.deterministic("y", torch.zeros(2))
        for i in pyro.plate("steps", 2):
            pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))

    sites = {site["name"]: site for site in sample_sites(poutine.trace(program).get_trace())}
    assert list(sites) == ["x", "y", "z_0", "z_1"]
    assert [frame.name for frame in frames_of(sites["x"])] == ["data"]
    assert frames_of(sites["z_0"]) == []
    assert is_deterministic(sites["y"])
    assert not is_deterministic(sites["x"])


def test_what_a_reparameterisation_leaves_is_deterministic():
    def model(x):
        with pyro.plate("topics", 3):
            w = pyro.sample("w", dist.Normal(1.0, 2.0))
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(w.sum(), 1.0), obs=x)
            pyro.sample("y", dist.Delta(w.sum().expand(4)), obs=x)  # data of a model without a density

    reparameterised = poutine.reparam(model, {"w": LocScaleReparam(0.0)})
    for program in (reparameterised, poutine.uncondition(reparameterised)):
        trace = poutine.trace(program).get_trace(torch.zeros(4))
        found = [site["name"] for site in sample_sites(trace) if is_deterministic(site)]
        assert found == ["w"]
    trace = poutine.trace(reparameterised).get_trace(torch.zeros(4))
    assert data_frame(trace, 4, role="model").name == "data"
