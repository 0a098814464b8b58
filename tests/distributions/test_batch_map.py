"""Distributions with their batch in another shape."""

import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.distributions import StraightThroughBernoulli, batch_mapped, tensors_of

FAMILIES = {
    "normal": lambda x: dist.Normal(x, x.exp()),
    "beta": lambda x: dist.Beta(x.exp(), 2.0),
    "bernoulli": lambda x: dist.Bernoulli(logits=x),
    "straight through": lambda x: StraightThroughBernoulli(0.5, logits=x),
    "categorical": lambda x: dist.Categorical(logits=torch.stack([x, -x, 0 * x], -1)),
    "binomial": lambda x: dist.Binomial(5, logits=x),
    "student": lambda x: dist.StudentT(3.0, x, 2.0),
    "log-normal": lambda x: dist.LogNormal(x, 1.0),
    "mapped": lambda x: dist.TransformedDistribution(
        dist.Normal(x, 1.0),
        [dist.transforms.ExpTransform(), dist.transforms.AffineTransform(-torch.arange(2.0), 1.0)],
    ),
    "mapped by a composition": lambda x: dist.TransformedDistribution(
        dist.Normal(x, 1.0), dist.transforms.ComposeTransform([dist.transforms.AffineTransform(x, 1.0)])
    ),
    "mapped by an inverse": lambda x: dist.TransformedDistribution(
        dist.LogNormal(x, 1.0),
        [dist.transforms.ExpTransform().inv, dist.transforms.AffineTransform(x, 1.0).inv],
    ),
    "mixture": lambda x: dist.MixtureSameFamily(
        dist.Categorical(logits=torch.stack([x, -x], -1)), dist.Normal(torch.stack([x, x + 3], -1), 1.0)
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_several_are_those_of_one(family):
    x, z = torch.randn(7, 2), torch.ones(7, 2)
    whole, both = FAMILIES[family](x), [FAMILIES[family](x[:3]), FAMILIES[family](x[3:])]
    both[0].log_prob(z[:3])  # computes what others have not
    found = batch_mapped(both, [7, 2], torch.cat)
    assert type(found) is type(whole)
    assert found.batch_shape == (7, 2)
    torch.testing.assert_close(found.log_prob(z), whole.log_prob(z))
    assert found.sample((4,)).shape == (4, 7, 2)
    assert both[0].batch_shape == (3, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_axes_can_move(family):
    x, z = torch.randn(7, 2), torch.ones(7, 2)
    turned = batch_mapped([FAMILIES[family](x)], [2, 7], lambda tensors: tensors[0].movedim(0, 1))
    torch.testing.assert_close(turned.log_prob(z.T).T, FAMILIES[family](x).log_prob(z))


def root(*shape):
    return (
        torch.tril(torch.rand(*shape, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        + torch.eye(3).double()
    )


LOC, UNIT, FACTOR = (
    torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    torch.ones(3, dtype=torch.float64),
    root(3)[..., :2],
)
# Three data, components and dimensions, and what each tensor has of them
VECTORS = {
    "one root": lambda: dist.MultivariateNormal(LOC, scale_tril=root()),
    "a root for each component": lambda: dist.MultivariateNormal(LOC, scale_tril=root(3)),
    "low rank": lambda: dist.LowRankMultivariateNormal(LOC, FACTOR, UNIT.expand(3, 3)),
    "one factor of low rank": lambda: dist.LowRankMultivariateNormal(LOC, FACTOR[0], UNIT),
    "student": lambda: dist.MultivariateStudentT(torch.full((3,), 5.0), LOC, root()),
}


@pytest.mark.parametrize("family", VECTORS)
def test_sizes_that_are_those_of_the_batch_by_chance_are_not_its(family):
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=torch.arange(3.0)), VECTORS[family]())
    z = torch.randn(4, 3)
    first = batch_mapped([mixture.expand([3])], [], lambda tensors: tensors[0][0])
    torch.testing.assert_close(first.log_prob(z), mixture.log_prob(z))
    # And a batch of its own
    vectors = VECTORS[family]()
    z = torch.randn(3, 3)
    turned = batch_mapped([vectors], [3], lambda tensors: tensors[0].flip(0))
    torch.testing.assert_close(turned.log_prob(z), vectors.log_prob(z.flip(0)).flip(0))


def test_rows_with_one_root_each_time_join():
    parts = [dist.MultivariateNormal(LOC[:2], scale_tril=scale * root()) for scale in (1.0, 2.0)]
    z = torch.randn(4, 3)
    expected = torch.cat([fn.log_prob(rows) for fn, rows in zip(parts, z.split(2), strict=True)])
    torch.testing.assert_close(batch_mapped(parts, [4], torch.cat).log_prob(z), expected)
    same = batch_mapped([parts[0], parts[0]], [4], torch.cat)
    assert same._unbroadcasted_scale_tril.shape == (3, 3)  # once for all of them


@pytest.mark.parametrize(
    ("fns", "message"),
    [
        ([StraightThroughBernoulli(t, logits=torch.zeros(3)) for t in (0.5, 0.6)], "one number for all data"),
        (
            [StraightThroughBernoulli(torch.tensor(t), logits=torch.zeros(3)) for t in (0.5, 0.6)],
            "parameters of the batch, or the same",
        ),
    ],
)
def test_what_differs_beside_the_batch_is_refused(fns, message):
    with pytest.raises(NotImplementedError, match=message):
        batch_mapped(fns, [6], torch.cat)


def test_transforms_with_networks_are_refused():
    transform = dist.transforms.CumulativeDistributionTransform(dist.Normal(torch.zeros(3), 1.0))
    fn = dist.TransformedDistribution(dist.Normal(torch.zeros(3), 1.0), [transform])
    with pytest.raises(NotImplementedError, match="CumulativeDistributionTransform"):
        batch_mapped([fn], [3], lambda tensors: tensors[0])


def test_a_remembered_value_is_not_taken_for_that_of_other_parameters():
    def mapped(x):
        return dist.TransformedDistribution(
            dist.Normal(x, 1.0), [dist.transforms.AffineTransform(x, 1.0, cache_size=1)]
        )

    x = torch.randn(7, 2)
    fn = mapped(x)
    z = fn.sample()
    fn.log_prob(z)
    moved = batch_mapped([fn], [7, 2], lambda tensors: tensors[0].flip(0))
    torch.testing.assert_close(moved.log_prob(z), mapped(x.flip(0)).log_prob(z))


def test_all_tensors_are_found():
    found = dict(tensors_of(FAMILIES["mapped"](torch.randn(7, 2))))
    assert set(found) == {".base_dist.loc", ".base_dist.scale", ".transforms.1.loc"}
    composed = dict(tensors_of(FAMILIES["mapped by a composition"](torch.randn(7, 2))))
    assert ".transforms.0.0.loc" in composed
