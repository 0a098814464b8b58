"""Products under their wrappers."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    CumulativeDistributionTransform,
    ExpTransform,
    Independent,
    IndependentTransform,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    ReshapeTransform,
    SigmoidTransform,
    StickBreakingTransform,
    TransformedDistribution,
)

from pyro_infomax.distributions import factors_of, is_parametric, vector_of

LOC = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
PRODUCTS = {
    "vector": Independent(Laplace(LOC[:, 0], 1.0), 1),
    "matrix": Independent(Laplace(LOC, 1.0), 2),
    "wrapped twice": Independent(Independent(Laplace(LOC, 1.0), 1), 1),
    "scalars": Laplace(LOC[:, 0, 0], 1.0),
    "mapped": Independent(TransformedDistribution(Normal(LOC, 1.0), [ExpTransform()]), 2),
    "mapped as a whole": TransformedDistribution(
        Independent(Normal(LOC, 1.0), 2), [IndependentTransform(ExpTransform(), 2)]
    ),
    "mapped elementwise as a whole": TransformedDistribution(
        Independent(Normal(LOC, 1.0), 2), [ExpTransform()]
    ),
    "mapped by a map of vectors that is none": TransformedDistribution(
        Independent(Normal(LOC[:, 0], 1.0), 1), [AffineTransform(torch.zeros(3), 2.0, event_dim=1)]
    ),
    "mapped by a composition": TransformedDistribution(
        Independent(Normal(LOC[:, 0], 1.0), 1),
        [
            ComposeTransform(
                [IndependentTransform(SigmoidTransform(), 1), AffineTransform(1.0, 2.0, event_dim=1)]
            )
        ],
    ),
    "mapped by nothing": TransformedDistribution(
        Independent(Normal(LOC[:, 0], 1.0), 1), [ComposeTransform([])]
    ),
    "mapped back": TransformedDistribution(
        TransformedDistribution(Independent(Normal(LOC[:, 0], 1.0), 1), [ExpTransform()]),
        [ExpTransform().inv],
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_factors_make_up_the_product(name) -> None:
    product = PRODUCTS[name]
    factors = factors_of(product)
    assert factors.event_shape == ()
    assert factors.batch_shape == product.batch_shape + product.event_shape
    z = product.sample((4,))
    each = factors.log_prob(z).reshape(4, 5, -1).sum(-1)
    torch.testing.assert_close(each, product.log_prob(z))


@pytest.mark.parametrize(
    "distribution",
    [
        MultivariateNormal(LOC[:, 0], torch.eye(3)),
        OneHotCategorical(logits=LOC),
        TransformedDistribution(Independent(Normal(LOC[:, 0], 1.0), 1), [StickBreakingTransform()]),
        TransformedDistribution(
            Independent(Normal(LOC[:, 0], 1.0), 1),
            [ComposeTransform([ExpTransform(), StickBreakingTransform()])],
        ),
        TransformedDistribution(MultivariateNormal(LOC[:, 0], torch.eye(3)), [ExpTransform()]),
        Independent(MultivariateNormal(LOC, torch.eye(3)), 1),
        "no distribution",
    ],
)
def test_what_is_no_product_has_no_factors(distribution) -> None:
    assert factors_of(distribution) is None


DOUBLE = LOC.double()
ONE = MultivariateNormal(DOUBLE[:, 0, :1], torch.full((5, 1, 1), 4.0).double())
RESHAPED = [
    TransformedDistribution(ONE, [ReshapeTransform((1,), ())]),
    TransformedDistribution(ONE, [ReshapeTransform((1,), (1, 1)), ExpTransform()]),
    TransformedDistribution(
        LowRankMultivariateNormal(
            DOUBLE[:, 0, :1], torch.full((5, 1, 1), 3.0**0.5).double(), torch.ones(5, 1).double()
        ),
        [ReshapeTransform((1,), ()), AffineTransform(DOUBLE[:, 1, 0], 2.0)],
    ),
]


@pytest.mark.parametrize("fn", RESHAPED)
def test_a_vector_of_one_element_is_a_univariate_normal(fn) -> None:
    factors = factors_of(fn)
    z = fn.sample()
    assert factors.batch_shape == z.shape
    torch.testing.assert_close(factors.log_prob(z).reshape(5), fn.log_prob(z))
    normal = getattr(factors, "base_dist", factors)
    torch.testing.assert_close(normal.scale, torch.full(z.shape, 2.0))


def test_a_vector_in_another_shape_is_that_vector() -> None:
    base = MultivariateNormal(DOUBLE.reshape(5, 6), torch.eye(6))
    matrix = TransformedDistribution(base, [ReshapeTransform((6,), (2, 3)), ExpTransform()])
    z = matrix.sample((2,))
    vector = vector_of(matrix)
    assert vector.event_shape == (6,)
    torch.testing.assert_close(vector.log_prob(z.reshape(2, 5, 6)), matrix.log_prob(z))
    assert vector_of(TransformedDistribution(base, [ReshapeTransform((6,), (2, 3))])) is base
    # What has a number for each element does not fit
    moved = TransformedDistribution(base, [ReshapeTransform((6,), (2, 3)), AffineTransform(DOUBLE, 1.0)])
    for fn in (moved, base, PRODUCTS["mapped"], PRODUCTS["mapped back"]):
        assert vector_of(fn) is fn


def test_parameters_are_told_from_networks() -> None:
    flow = dist.transforms.affine_coupling(3, [4])
    base = Independent(Normal(LOC[:, 0], 1.0), 1)
    for name in ("mapped as a whole", "mapped by a composition", "mapped back"):
        assert is_parametric(PRODUCTS[name])
    assert not is_parametric(
        TransformedDistribution(Normal(LOC, 1.0), [CumulativeDistributionTransform(Normal(0.0, 1.0))])
    )
    assert not is_parametric(TransformedDistribution(base, [flow]))
    assert not is_parametric(object())
