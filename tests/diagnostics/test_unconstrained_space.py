"""Every support mapped onto real numbers and back, with the volume, and what has no such map."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_infomax.diagnostics._annealed import UnconstrainedSpace
from pyro_infomax.joint import GenerativeJoint


def space_of(model, x: Tensor) -> UnconstrainedSpace:
    program = GenerativeJoint(model).program(x)
    return UnconstrainedSpace.of(program, (x,), program.latents)


def every_support(x: Tensor) -> None:
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 5.0])
    with pyro.plate("data", len(x)):
        pyro.sample("real", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
        pyro.sample("positive", dist.Gamma(torch.ones(3), 1.0).to_event(1))
        pyro.sample("interval", dist.Uniform(low, high).to_event(1))
        pyro.sample("unit", dist.Beta(2.0, 2.0))
        pyro.sample("simplex", dist.Dirichlet(torch.ones(4)))
        pyro.sample("pareto", dist.Pareto(2.0, 3.0))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def test_sites_go_there_and_back() -> None:
    x = torch.zeros(5)
    space = space_of(every_support, x)
    assert space.size == 6 + 3 + 2 + 1 + 3 + 1
    sites = GenerativeJoint(every_support).sample(5, x)
    del sites["x"]
    flat = space.unconstrain(sites)
    assert flat.shape == (5, 16)
    back, _ = space.constrain(flat)
    for name, value in sites.items():
        torch.testing.assert_close(back[name], value)


def test_the_volume_is_the_determinant_of_the_jacobian() -> None:
    space = space_of(every_support, torch.zeros(5))
    u = torch.randn(3, space.size)

    def coordinates(u: Tensor) -> Tensor:
        sites, _ = space.constrain(u[None])
        # the last share of a simplex follows from the others
        sites["simplex"] = sites["simplex"][..., :-1]
        return torch.cat([sites[name].reshape(-1) for name in space.layouts])

    _, stretched = space.constrain(u)
    truth = [torch.linalg.slogdet(torch.func.jacrev(coordinates)(each)).logabsdet for each in u]
    torch.testing.assert_close(stretched, torch.stack(truth))


def test_inner_plates_count_as_dimensions() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 3, dim=-2):
            r = pyro.sample("r", dist.Uniform(torch.zeros(3, 1), torch.tensor([[1.0], [2.0], [3.0]])))
            pyro.sample("x", dist.Normal(r, 1.0), obs=x.T)

    space = space_of(model, torch.zeros(4, 3))
    assert space.size == 3
    sites, _ = space.constrain(torch.zeros(2, 3))
    torch.testing.assert_close(sites["r"], torch.tensor([0.5, 1.0, 1.5]).expand(2, 3))


def test_a_discrete_site_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(c.double(), 1.0), obs=x)

    with pytest.raises(NotImplementedError, match=r"'c' is discrete.*sum it out in the model"):
        space_of(model, torch.zeros(4))


def test_an_angle_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.cos().sum(-1), 1.0), obs=x)

    with pytest.raises(NotImplementedError, match="'z' is an angle"):
        space_of(model, torch.zeros(4))


def test_a_point_mass_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            d = pyro.sample("d", dist.Delta(2 * z))
            pyro.sample("x", dist.Normal(d, 1.0), obs=x)

    with pytest.raises(NotImplementedError, match=r"\['d'\] are Deltas"):
        space_of(model, torch.zeros(4))


@pytest.mark.parametrize("size", [1, 4])
def test_bounds_that_follow_another_latent_are_refused(size: int) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Gamma(2.0, 1.0))
            b = pyro.sample("b", dist.Uniform(0.0, a))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    with pytest.raises(NotImplementedError, match=r"'b' cannot be annealed.*differ from datum to datum"):
        space_of(model, torch.zeros(size))


def test_a_support_without_a_map_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ProjectedNormal(torch.ones(3)))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    with pytest.raises(NotImplementedError, match="'z' cannot be annealed on its support"):
        space_of(model, torch.zeros(4))


def test_no_sites_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="Expected a model with latent sites but got none"):
        space_of(model, torch.zeros(4))
