"""The covariance of every vector that torch and Pyro draw: that of the draws, or not known."""

import inspect

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import AffineTransform, Independent, TransformedDistribution

from pyro_infomax.distributions import known_covariance, known_mean

D = 2
LOC = torch.tensor([[0.5, -1.0], [2.0, 0.3]])
ROOT = torch.tensor([[1.2, 0.0], [0.7, 0.5]])
NORMAL = dist.MultivariateNormal(LOC, scale_tril=ROOT)
CHOICE = dist.Categorical(torch.tensor([0.3, 0.7]))
CHOICES = dist.Categorical(torch.tensor([[0.3, 0.7], [0.5, 0.5], [0.1, 0.9]]))
COMPONENTS = LOC.expand(3, 2, D)
KNOWN = {
    "full": NORMAL,
    "expanded": NORMAL.expand([4, 2]),
    "orthogonal": dist.OMTMultivariateNormal(LOC[0], ROOT),
    "low rank": dist.LowRankMultivariateNormal(LOC, ROOT[:, :1], torch.tensor([0.4, 0.9])),
    "Student": dist.MultivariateStudentT(torch.tensor([9.0, 12.0]), LOC, ROOT),
    "expanded Student": dist.MultivariateStudentT(torch.tensor(9.0), LOC, ROOT).expand([4, 2]),
    "product": dist.Gamma(LOC.abs() + 1, 2.0).to_event(1),
    "product of mixtures": dist.MixtureSameFamily(
        dist.Categorical(torch.ones(D, 2) / 2), dist.Normal(LOC, 1.0)
    ).to_event(1),
    "product of Students": dist.StudentT(torch.tensor(9.0), LOC, 0.5).to_event(1),
    "masked product": dist.Normal(LOC, 1.0).mask(torch.tensor([[True, False]])).to_event(1),
    "points": dist.Delta(LOC).to_event(1),
    "mixture": dist.MixtureSameFamily(CHOICES, dist.Normal(COMPONENTS, 0.6).to_event(1)),
    "mixture of Normals": dist.MixtureSameFamily(CHOICE, dist.MultivariateNormal(LOC, scale_tril=ROOT)),
    "mixture of Students": dist.MixtureSameFamily(
        CHOICES, dist.MultivariateStudentT(torch.tensor(9.0), COMPONENTS, ROOT)
    ),
    "mixture of low rank": dist.MixtureSameFamily(
        CHOICE, dist.LowRankMultivariateNormal(LOC, ROOT[:, :1], torch.tensor([0.4, 0.9]))
    ),
}
UNKNOWN = {
    "mapped": TransformedDistribution(NORMAL, [AffineTransform(0.0, 2.0, event_dim=1)]),
    "mapped by Pyro": dist.TransformedDistribution(NORMAL, [dist.transforms.ExpTransform()]),
    "masked": NORMAL.mask(False),
    "several vectors": Independent(NORMAL, 1),
    "simplex": dist.Dirichlet(torch.ones(3)),
    "direction": dist.ProjectedNormal(torch.ones(3)),
    "angles": dist.VonMises(LOC, 1.0).to_event(1),
    "mixture of angles": dist.MixtureSameFamily(CHOICE, dist.VonMises(LOC, 1.0).to_event(1)),
    "mixture of what is mapped": dist.MixtureSameFamily(
        CHOICE, dist.LogNormal(LOC, 1.0).to_event(1).mask(True)
    ),
    "matrix": torch.distributions.Wishart(torch.tensor(4.0), torch.eye(2)),
    "two components": dist.MaskedMixture(torch.tensor([True, False]), NORMAL, NORMAL),
}


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_that_of_the_draws(name):
    distribution = KNOWN[name]
    draws = distribution.sample((20000,))
    mean, covariance = known_mean(distribution), known_covariance(distribution)
    if covariance.dim() == mean.dim():
        covariance = covariance.diag_embed()
    off = draws - mean
    products = off[..., :, None] * off[..., None, :]
    for moment, samples in ((torch.zeros_like(mean), off), (covariance, products)):
        error = samples.std(0) / len(draws) ** 0.5
        assert ((samples.mean(0) - moment).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_not_made_up(name):
    assert known_covariance(UNKNOWN[name]) is None


def test_no_family_has_one_that_was_not_compared_with_draws():
    """Pyro's Student has the scale matrix under that name, torch's Wishart that of its parameter."""
    named = {
        each.__name__
        for module in (dist, torch.distributions)
        for each in vars(module).values()
        if inspect.isclass(each) and hasattr(each, "covariance_matrix")
    }
    normal = {f"{kind}MultivariateNormal" for kind in ("", "LowRank", "OMT", "AVF", "NanMasked")}
    assert named == {*normal, "MultivariateStudentT", "Wishart"}
    assert issubclass(dist.NanMaskedMultivariateNormal, torch.distributions.MultivariateNormal)


@pytest.mark.parametrize("df", [1.5, 2.0])
def test_a_student_of_few_degrees_has_none(df):
    student = dist.MultivariateStudentT(torch.tensor(df), LOC, ROOT)
    assert not known_covariance(student).isfinite().any()
    assert known_mean(student).isfinite().all()
