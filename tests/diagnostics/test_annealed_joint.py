"""Both ends of an annealed path, their values and gradients, and the space that it runs in."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_infomax.diagnostics import Pair
from pyro_infomax.diagnostics._annealed import AnnealedJoint, UnconstrainedSpace
from pyro_infomax.joint import GenerativeJoint


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(w.sum(-1), scale), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("w", dist.Normal(0.1 * x[:, None].expand(-1, 2), 0.5).to_event(1))
        pyro.sample("scale", dist.LogNormal(0.1 * x, 0.3))


def log_joint(u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z) and log p(x|z) of u = (log scale, w), with the Jacobian in the first."""
    scale, w = u[..., 0].exp(), u[..., 1:]
    prior = dist.Gamma(2.0, 1.0).log_prob(scale) + dist.Normal(0.0, 1.0).log_prob(w).sum(-1) + u[..., 0]
    return prior, dist.Normal(w.sum(-1), scale).log_prob(x)


def gradient(value: Tensor, u: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), u, retain_graph=True)[0]


@pytest.mark.parametrize("batch_size", [4096, 7])
def test_from_the_prior(batch_size: int) -> None:
    x, u = torch.randn(5), torch.randn(4, 5, 3, requires_grad=True)
    path = AnnealedJoint(GenerativeJoint(model), (x,), pair=None, batch_size=batch_size)
    state = path(u)
    prior, likelihood = log_joint(u, x)
    torch.testing.assert_close(state.log_start, prior.detach())
    torch.testing.assert_close(state.log_target, (prior + likelihood).detach())
    torch.testing.assert_close(state.start_gradient, gradient(prior, u))
    torch.testing.assert_close(state.target_gradient, gradient(prior + likelihood, u))


def test_from_the_guide() -> None:
    """In the order of the guide: w, then scale."""
    x, v = torch.randn(5), torch.randn(4, 5, 3, requires_grad=True)
    pair = Pair(model, guide, x)
    state = AnnealedJoint(pair.generative, (x,), pair=pair, batch_size=4096)(v)
    w, log_scale = v[..., :2], v[..., 2]
    posterior = dist.Normal(0.1 * x[:, None], 0.5).log_prob(w).sum(-1)
    posterior = posterior + dist.LogNormal(0.1 * x, 0.3).log_prob(log_scale.exp()) + log_scale
    target = sum(log_joint(torch.cat([log_scale[..., None], w], -1), x))
    torch.testing.assert_close(state.log_start, posterior.detach())
    torch.testing.assert_close(state.log_target, target.detach())
    torch.testing.assert_close(state.start_gradient, gradient(posterior, v))
    torch.testing.assert_close(state.target_gradient, gradient(target, v))


@pytest.mark.parametrize("from_guide", [False, True])
def test_draws_come_from_the_start(from_guide: bool) -> None:
    x = torch.tensor([0.0, 2.0])
    pair = Pair(model, guide, x) if from_guide else None
    joint = pair.generative if pair else GenerativeJoint(model)
    z = AnnealedJoint(joint, (x,), pair=pair, batch_size=4096).draw(400)
    assert z.shape == (400, 2, 3)
    position = 2 if from_guide else 0
    w = z[..., [i for i in range(3) if i != position]]
    mean, scale = (0.1 * x, 0.5) if from_guide else (torch.zeros(2), 1.0)
    assert ((w.mean(0) - mean[:, None]).abs() < 4 * scale / 400**0.5).all()
    log_scale = 0.1 * x if from_guide else torch.full((2,), float(torch.digamma(torch.tensor(2.0))))
    assert ((z[..., position].mean(0) - log_scale).abs() < 0.18).all()


def test_a_flat_prior_has_no_gradient_but_that_of_the_jacobian() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            p = pyro.sample("p", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(p), obs=x)

    state = AnnealedJoint(GenerativeJoint(model), (torch.ones(2),), pair=None, batch_size=10)(
        torch.zeros(1, 2, 1)
    )
    torch.testing.assert_close(state.start_gradient, torch.zeros(1, 2, 1))  # of log p (1 - p) at 1/2
    torch.testing.assert_close(state.target_gradient, torch.full((1, 2, 1), 0.5))


def test_a_model_of_a_fixed_size_is_run_chain_by_chain() -> None:
    sizes = []

    def fixed(x: Tensor) -> None:
        sizes.append(len(x))
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, u = torch.randn(5), torch.randn(3, 5, 1)
    state = AnnealedJoint(GenerativeJoint(fixed), (x,), pair=None, batch_size=2)(u)
    truth = dist.Normal(0.0, 1.0).log_prob(u[..., 0]) + dist.Normal(u[..., 0], 1.0).log_prob(x)
    torch.testing.assert_close(state.log_target, truth)


def test_parameters_keep_no_gradient() -> None:
    weight = nn.Linear(1, 1)

    def model(x: Tensor) -> None:
        pyro.module("weight", weight)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(weight(z), 1.0).to_event(1), obs=x)

    state = AnnealedJoint(GenerativeJoint(model), (torch.ones(3, 1),), pair=None, batch_size=10)(
        torch.randn(2, 3, 1)
    )
    assert all(each.grad is None for each in weight.parameters())
    assert not any(getattr(state, name).requires_grad for name in ("z", "log_target", "target_gradient"))


def test_values_outside_a_programs_reach_are_no_error() -> None:
    x = torch.zeros(2)
    path = AnnealedJoint(GenerativeJoint(model), (x,), pair=None, batch_size=10)
    state = path(torch.tensor([[[1000.0, 0.0, 0.0], [-1000.0, 0.0, 0.0]]]))
    assert not state.log_target.isfinite().any()


# ---- Every support mapped onto real numbers and back, with the volume


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
