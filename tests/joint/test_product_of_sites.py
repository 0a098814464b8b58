"""Which programs are one product, and which sites depend on each other."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import Independent

from pyro_infomax.distributions import SideBySide
from pyro_infomax.joint import (
    LatentSpace,
    RepresentationJoint,
    dependences,
    generative,
    in_type_of_sites,
    representation,
)
from pyro_infomax.programs import LocalProgram

# ---- Products


def is_product(guide, x):
    """Anything else is scored by running the guide."""
    return isinstance(representation(guide, x).posterior, Independent)


def factors(guide, x, **options):
    return RepresentationJoint(guide, x, **options).posterior.base_dist


def two_sites(second, first=lambda x: dist.Normal(x, 0.5)):
    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", first(x))
            pyro.sample("b", second(a, x))

    return guide


@pytest.mark.parametrize("batch_size", [1024, 30])
def test_normal_sites_are_one_normal(batch_size):
    x = torch.randn(100)
    normal = two_sites(lambda a, x: dist.Normal(x.unsqueeze(-1) * torch.ones(2), 2.0).to_event(1))
    found = factors(normal, x, batch_size=batch_size)
    assert isinstance(found, torch.distributions.Normal)
    assert torch.equal(found.loc, x[:, None].expand(100, 3))
    assert torch.equal(found.scale, torch.tensor([0.5, 2.0, 2.0]).double().expand(100, 3))


@pytest.mark.parametrize("batch_size", [1024, 30])
def test_sites_of_several_families_stand_side_by_side(batch_size):
    x = torch.randn(100)
    guide = two_sites(
        lambda a, x: dist.Categorical(logits=torch.stack([x, -x], -1)), first=lambda x: dist.LogNormal(x, 0.5)
    )
    found = factors(guide, x, batch_size=batch_size)
    assert isinstance(found, SideBySide)
    assert [type(part) for part in found.parts] == [dist.LogNormal, dist.Categorical]
    z = torch.stack([torch.rand(100) + 0.1, torch.arange(100.0) % 2], -1)
    classes = dist.Categorical(logits=torch.stack([x, -x], -1))
    expected = [dist.LogNormal(x, 0.5).log_prob(z[:, 0]), classes.log_prob(z[:, 1])]
    torch.testing.assert_close(found.log_prob(z), torch.stack(expected, -1))


def test_inner_plates_and_events_are_flattened_in_their_order():
    def guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inner", 3, dim=-1):
            pyro.sample("z", dist.Laplace(x.unsqueeze(-1) * torch.tensor([1.0, -1.0]), 1.0).to_event(1))

    x = torch.randn(7, 3)
    found = factors(guide, x)
    expected = torch.stack([x, -x], -1).reshape(7, 6)
    torch.testing.assert_close(found.loc, expected)


def test_single_precision_becomes_double():
    x = torch.randn(4).float()
    found = factors(two_sites(lambda a, x: dist.Normal(x, 1.0)), x)
    assert found.loc.dtype == found.scale.dtype == torch.float64
    gamma = factors(two_sites(lambda a, x: dist.Gamma(x.exp(), 1.0)), x).parts[1]
    assert gamma.concentration.dtype == torch.float64


@pytest.mark.parametrize(
    "second",
    [
        lambda a, x: dist.Normal(a, 1.0),
        lambda a, x: dist.Normal(x, a.exp()),
        lambda a, x: dist.Normal(torch.where(a > x + 3, 1.0, 0.0), 1.0),
        lambda a, x: dist.Normal(x, a.abs() + 1 if bool((a - x).abs().max() < 4) else a),
        lambda a, x: dist.Laplace(a, 1.0),
        lambda a, x: dist.TransformedDistribution(
            dist.Normal(x, 1.0), [dist.transforms.AffineTransform(a, 1.0)]
        ),
        lambda a, x: dist.Normal(x, 1.0).mask(False),
        lambda a, x: dist.MultivariateNormal(x[:, None], torch.eye(1)),
    ],
)
def test_others_are_none(second):
    assert not is_product(two_sites(second), torch.randn(40))


@pytest.mark.parametrize(
    "first",
    [
        lambda x: dist.Bernoulli(torch.full((40,), 1e-6)),
        lambda x: dist.Categorical(torch.tensor([1.0, 0.0])),
        lambda x: dist.LogNormal(x, 0.1),
        lambda x: dist.Poisson(x.exp()),
    ],
)
def test_a_dependence_on_any_family_is_seen(first):
    assert not is_product(two_sites(lambda a, x: dist.Normal(0.1 * a, 1.0), first), torch.randn(40))
    assert is_product(two_sites(lambda a, x: dist.Normal(0.1 * x, 1.0), first), torch.randn(40))


def test_masked_sites_are_none():
    guide = two_sites(lambda a, x: dist.Normal(x, 1.0))
    assert not is_product(poutine.mask(guide, mask=torch.tensor([True, False, True, True])), torch.randn(4))
    # a mask that leaves nothing out is none
    assert is_product(poutine.mask(guide, mask=torch.tensor(True)), torch.randn(4))


def test_a_family_that_scores_otherwise_than_its_parameters_say_is_none():
    class Odd(dist.Normal):
        """Counts the elements of its batch, which is not in its parameters."""

        def log_prob(self, value):
            return super().log_prob(value) + self.batch_shape[-1]

        def expand(self, batch_shape, _instance=None):
            return super().expand(batch_shape, self._get_checked_instance(Odd, _instance))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Odd(x, 1.0))

    assert not is_product(guide, torch.randn(5))


def test_subsampling_guides_give_all_rows():
    def guide(x):
        with pyro.plate("data", 10, subsample_size=4) as rows:
            pyro.sample("z", dist.Gumbel(x[rows], 1.0))

    x = torch.randn(10)
    assert torch.equal(factors(guide, x).loc[:, 0], x)


def test_gradients_go_through():
    gain = torch.tensor(2.0, requires_grad=True)
    x = torch.randn(40)
    found = factors(two_sites(lambda a, x: dist.Normal(gain * x, 1.0)), x, batch_size=7)
    (gradient,) = torch.autograd.grad(found.loc.sum(), gain)
    torch.testing.assert_close(gradient, x.sum())


def test_the_random_state_stays():
    guide, x = two_sites(lambda a, x: dist.Gamma(x.exp(), 1.0)), torch.randn(5)
    state = torch.get_rng_state()
    assert is_product(guide, x)
    assert torch.equal(state, torch.get_rng_state())


def test_what_is_the_same_for_all_data_is_that_of_any():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("b", dist.Gamma(torch.ones(2), 3.0).to_event(1))
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    joint, x = generative(model), torch.randn(5)
    found = joint.prior(LatentSpace(joint.program(x).latents), x)
    assert isinstance(found, Independent)
    assert found.batch_shape == ()
    assert found.event_shape == (3,)
    z = torch.tensor([1.0, 0.5, 2.0])
    expected = torch.tensor(0.3).log() + dist.Gamma(1.0, 3.0).log_prob(z[1:]).sum()
    torch.testing.assert_close(found.log_prob(z), expected)
    assert found.sample((4,)).shape == (4, 3)


def test_draws_in_the_type_of_the_sites_are_inside_of_their_supports():
    few = torch.full((2000,), 0.02).float()
    guide = two_sites(lambda a, x: dist.Beta(few, few), first=lambda x: dist.Gamma(few, 1.0))
    joint = representation(guide, few)
    found = in_type_of_sites(joint.posterior, joint.space).sample((5,))
    assert found.dtype == torch.float64
    assert torch.equal(found, found.float().double())
    assert bool((found > 0).all() & (found[..., 1] < 1).all())


def test_normals_are_drawn_in_float64():
    guide = two_sites(lambda a, x: dist.Normal(x, 2.0))
    x = torch.randn(100).float()
    joint = representation(guide, x)
    posterior = joint.posterior
    assert in_type_of_sites(posterior, joint.space) is posterior


# ---- Dependences


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


def test_looking_for_dependences_leaves_the_random_state():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x, 0.5))
            pyro.sample("b", dist.Normal(x, 0.5))

    x = torch.randn(5)
    program = LocalProgram(guide, (x,), role="guide")
    state = torch.get_rng_state()
    dependences(program, (x,), ["a", "b"])
    assert torch.equal(state, torch.get_rng_state())
