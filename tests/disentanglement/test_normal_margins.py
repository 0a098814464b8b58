import numpy as np
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.disentanglement._chen_mig import normal_margins

LOC, SCALE = np.arange(12.0).reshape(4, 3), np.arange(1.0, 13.0).reshape(4, 3)


def is_ours(margins):
    return np.allclose(margins[0], LOC) and np.allclose(margins[1], SCALE)


def test_arrays_come_through():
    assert is_ours(normal_margins((LOC, SCALE)))


def test_tensors_with_gradients_come_through():
    loc, scale = (torch.tensor(each, requires_grad=True) for each in (LOC, SCALE))
    assert is_ours(normal_margins((loc, scale)))


@pytest.mark.parametrize("library", [torch.distributions, dist])
def test_independent_normals_of_either_library(library):
    normal = library.Normal(torch.tensor(LOC, requires_grad=True), torch.tensor(SCALE))
    assert is_ours(normal_margins(library.Independent(normal, 1)))
    assert is_ours(normal_margins(normal))


@pytest.mark.parametrize("library", [torch.distributions, dist])
def test_the_margins_of_multivariate_normals(library):
    correlation = 0.3 * torch.ones(3, 3) + 0.7 * torch.eye(3)
    covariance = torch.tensor(SCALE)[:, :, None] * correlation * torch.tensor(SCALE)[:, None]
    assert is_ours(normal_margins(library.MultivariateNormal(torch.tensor(LOC), covariance)))


@pytest.mark.parametrize(
    "other",
    [
        dist.Laplace(torch.zeros(4, 3), 1.0),
        dist.LogNormal(torch.zeros(4, 3), 1.0).to_event(1),
        dist.Delta(torch.zeros(4, 3), event_dim=1),
    ],
)
def test_other_margins_are_refused(other):
    with pytest.raises(
        ValueError, match=r"a distribution with Normal margins but got (Laplace|LogNormal|Delta)"
    ):
        normal_margins(other)


def test_a_scale_of_zero_is_sent_to_mig():
    with pytest.raises(ValueError, match="Expected scale > 0 but got 0: codes without noise are for mig"):
        normal_margins((LOC, np.zeros((4, 3))))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"of one shape \(n, L\) but got \(4, 3\) and \(2, 3\)"):
        normal_margins((LOC, np.ones((2, 3))))


def test_a_pair_has_two():
    with pytest.raises(ValueError, match=r"a pair \(loc, scale\) but got 3 arrays"):
        normal_margins((LOC, SCALE, SCALE))


def test_half_precision_will_do():
    half = torch.full((4, 3), 0.5, dtype=torch.bfloat16)
    loc, scale = normal_margins((half, half))
    assert (loc == scale).all()
    assert scale.dtype == np.float64


@pytest.mark.parametrize(
    ("loc", "scale", "name"), [(LOC * np.nan, SCALE, "loc"), (LOC, SCALE * np.inf, "scale")]
)
def test_values_that_are_not_finite_are_refused(loc, scale, name):
    with pytest.raises(ValueError, match=f"Expected finite {name}"):
        normal_margins((loc, scale))
