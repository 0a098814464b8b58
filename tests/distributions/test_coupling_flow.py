import math

import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.distributions import CouplingFlow


def test_it_begins_as_the_identity():
    q = CouplingFlow(3, 2)(torch.randn(4, 2))
    z = torch.randn(5, 4, 3)
    torch.testing.assert_close(q.log_prob(z), dist.Normal(0.0, 1.0).log_prob(z).sum(-1))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_element_moves_and_its_score_is_the_jacobian(size, stir):
    flow = stir(CouplingFlow(size, 2))
    c = torch.randn(2)

    def push(noise):
        value = noise
        for layer in flow.layers:
            value, _ = layer(value, layer.told(c, axes=0))
        return value

    noise = torch.randn(size)
    z = push(noise)
    jacobian = torch.autograd.functional.jacobian(push, noise)
    expected = dist.Normal(0.0, 1.0).log_prob(noise).sum() - jacobian.det().abs().log()
    torch.testing.assert_close(flow(c).log_prob(z), expected)
    assert (z != noise).all()


def test_every_element_depends_on_every_other(stir):
    flow = stir(CouplingFlow(5))
    noise = torch.randn(5)

    def push(noise):
        for layer in flow.layers:
            noise, _ = layer(noise, layer.told(None, axes=0))
        return noise

    assert (torch.autograd.functional.jacobian(push, noise) != 0).all()


def test_many_pairs_in_blocks_score_as_one_by_one(stir):
    flow, c = stir(CouplingFlow(3, 2)), torch.randn(100, 2)
    z = torch.randn(90, 1, 3)  # more pairs than a block takes
    apart = torch.stack([flow(c).log_prob(each.expand(100, 3)) for each in z])
    with torch.no_grad():
        torch.testing.assert_close(flow(c).log_prob(z), apart)
        torch.testing.assert_close(
            flow(c[:1]).log_prob(z.expand(90, 100, 3)), flow(c[0]).log_prob(z).expand(90, 100)
        )


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_may_be_empty(size, grad):
    flow = CouplingFlow(size, 2)
    with torch.set_grad_enabled(grad):
        for q in (flow(torch.zeros(0, 2)), flow(torch.zeros(4, 0, 2))):
            z = q.rsample()
            assert flow.score(z, q.context).shape == z.shape[:-1] == q.batch_shape
        assert flow.score(torch.zeros(0, 1, size), torch.zeros(5, 2)).shape == (0, 5)
        assert CouplingFlow(size)().sample((0,)).shape == (0, size)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_it_can_be_mapped_over_contexts_values_and_parameters(size, grad, stir):
    flow, c, z = stir(CouplingFlow(size, 2)), torch.randn(4, 2), torch.randn(5, size)
    parameters = dict(flow.named_parameters())
    many = {name: torch.stack([each, each + 0.1]).detach() for name, each in parameters.items()}

    def with_parameters(own, c):
        return torch.func.functional_call(flow, own, (c,)).log_prob(z)

    with torch.set_grad_enabled(grad):
        table = torch.stack([flow(each).log_prob(z) for each in c])
        torch.testing.assert_close(torch.vmap(lambda c: flow(c).log_prob(z))(c), table)
        torch.testing.assert_close(torch.vmap(lambda z: flow(c).log_prob(z))(z), table.T)
        first = torch.vmap(with_parameters, in_dims=(0, None))(many, c[0])
        torch.testing.assert_close(first[0], table[0])
        alone = {name: many[name] if name.endswith("0.bias") else each for name, each in parameters.items()}
        axes = {name: 0 if name.endswith("0.bias") else None for name in alone}
        torch.testing.assert_close(
            torch.vmap(with_parameters, in_dims=(axes, None))(alone, c[0])[0], table[0]
        )


def test_a_context_is_needed_where_there_is_one():
    flow, z = CouplingFlow(3, 2), torch.zeros(4, 3)
    for broken in (lambda: flow.score(z, None), flow().sample):
        with pytest.raises(ValueError, match=r"Expected a context \(\.\.\., 2\), .* but got None"):
            broken()


def test_it_fits_a_skewed_and_bent_density():
    """A log-Gamma variable, and a parabola around it; the reverse KL to it goes to 0."""
    flow = CouplingFlow(2, 1, layers=2, hidden=(32,))
    optimiser = torch.optim.Adam(flow.parameters(), 1e-2)

    def log_p(z, c):
        u = z[..., 0]
        skewed = 2 * u - u.exp() - math.lgamma(2)
        return skewed + dist.Normal(0.5 * u.square() * c[..., 0], 0.5).log_prob(z[..., 1])

    def divergence(n):
        c = torch.rand(n, 1)
        q = flow(c)
        z = q.rsample()
        return q.log_prob(z) - log_p(z, c)

    first = divergence(2000).mean().item()
    for _ in range(250):
        optimiser.zero_grad()
        divergence(64).mean().backward()
        optimiser.step()
    with torch.no_grad():
        last = divergence(5000)
    assert first > 0.3
    assert last.mean() < 0.04 + 5 * last.std() / 5000**0.5


@pytest.mark.parametrize("hidden", [(16,), (256,)])
def test_a_large_first_step_leaves_it_near_the_identity(hidden):
    """Adam moves every weight of a layer at once, so that its outputs move the more, the wider it is."""
    flow = CouplingFlow(3, 2, hidden=hidden)
    optimiser = torch.optim.Adam(flow.parameters(), 0.05)
    c, noise = torch.randn(50, 2), dist.Normal(torch.zeros(3), 1.0).to_event(1)
    (-flow(c).log_prob(4 + noise.sample((50,)))).mean().backward()
    optimiser.step()
    z = noise.sample((50,))
    assert (flow(c).log_prob(z) - noise.log_prob(z)).abs().mean() < 2.5


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"bins": 1}, {"hidden": ()}, {"hidden": (0,)}])
def test_sizes_are_checked(wrong):
    with pytest.raises(ValueError, match="Expected layers >= 1, bins >= 2"):
        CouplingFlow(2, **wrong)


def test_an_event_without_elements_is_refused():
    with pytest.raises(ValueError, match="Expected event_size to be an integer >= 1 but got 0"):
        CouplingFlow(0)
