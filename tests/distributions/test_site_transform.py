import copy
import pickle

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch.autograd.functional import jacobian
from torch.distributions import kl_divergence
from torch.distributions.transforms import AffineTransform, ExpTransform, SigmoidTransform

from pyro_infomax.distributions import SiteTransform

LOW, HIGH = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.5, 4.0, 2.5])


def whole(z):
    return z.flatten()


def all_but_last(z):
    return z[..., :-1].flatten()


def triangle(z):
    return z[tuple(torch.tril_indices(*z.shape[-2:]))]


def strict_triangle(z):
    return z[tuple(torch.tril_indices(*z.shape[-2:], -1))]


ELEMENTWISE = {
    "real": (constraints.real, (3,)),
    "real scalar": (constraints.real, ()),
    "real matrix": (constraints.independent(constraints.real, 2), (2, 3)),
    "positive": (constraints.positive, ()),
    "positive vector": (constraints.independent(constraints.positive, 1), (3,)),
    "nonnegative": (constraints.nonnegative, (2, 2)),
    "softplus positive": (constraints.softplus_positive, (2,)),
    "greater": (constraints.greater_than(1.5), (3,)),
    "greater or equal": (constraints.greater_than_eq(LOW), (3,)),
    "less": (constraints.less_than(-2.0), ()),
    "unit": (constraints.unit_interval, (3,)),
    "interval": (constraints.interval(-1.0, 3.0), ()),
    "half open": (constraints.half_open_interval(0.0, 0.1), (2,)),
    "bounds of each element": (constraints.interval(LOW, HIGH), (3,)),
}
COUPLED = {
    "simplex": (constraints.simplex, (4,), all_but_last),
    "simplices": (constraints.independent(constraints.simplex, 1), (2, 3), all_but_last),
    "lower_cholesky": (constraints.lower_cholesky, (3, 3), triangle),
    "corr_cholesky": (constraints.corr_cholesky, (3, 3), strict_triangle),
    "corr_matrix": (constraints.corr_matrix, (3, 3), strict_triangle),
    "positive_definite": (constraints.positive_definite, (3, 3), triangle),
    "positive_semidefinite": (constraints.positive_semidefinite, (2, 2), triangle),
    "ordered": (constraints.ordered_vector, (3,), whole),
}
ALL = [pytest.param(*case, whole, id=name) for name, case in ELEMENTWISE.items()] + [
    pytest.param(*case, id=name) for name, case in COUPLED.items()
]
SUPPORTS = [pytest.param(*case.values[:2], id=case.id) for case in ALL]


def make(site, batch=(), scale=0.7):
    loc = 0.3 * torch.randn(*batch, site.size)
    return dist.Normal(loc, scale * torch.ones_like(loc)).to_event(1)


@pytest.mark.parametrize(("support", "event", "free"), ALL)
def test_the_density_is_that_of_the_reals_over_the_jacobian(support, event, free):
    site = SiteTransform.of(support, event)
    base, u = make(site), torch.randn(site.size)
    volume = jacobian(lambda u: free(site.constrain(u)), u).slogdet().logabsdet
    # In the other direction than it was made, so that nothing is remembered
    scored = site.distribution(base).log_prob(site.constrain(u).clone())
    torch.testing.assert_close(scored, base.log_prob(u) - volume)


@pytest.mark.parametrize(("support", "event"), SUPPORTS)
def test_shapes_support_and_scores_under_every_datum(support, event):
    site = SiteTransform.of(support, event)
    for batch in ((), (2, 5, 1)):
        q = site.distribution(make(site, batch))
        z = q.rsample((7,))
        assert (q.batch_shape, q.event_shape) == (batch, event)
        assert z.shape == (7, *batch, *event)
        assert site.support.check(z).all()
        assert q.log_prob(z).shape == (7, *batch)
        assert q.expand((6, *batch)).log_prob(z[:1].expand(6, *z.shape[1:])).shape == (6, *batch)
        assert site.constrain(torch.randn(*batch, site.size)).shape == (*batch, *event)
    q = site.distribution(make(site, (5,)))
    z = q.sample()
    table = q.log_prob(z.unsqueeze(1))  # (value, datum)
    assert table.shape == (5, 5)
    torch.testing.assert_close(table.diagonal(), q.log_prob(z))
    ours = SiteTransform.of(constraints.MixtureSameFamilyConstraint(support), event)
    assert type(ours.support) is type(site.support)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_supports_leave_the_elements_independent(name):
    site = SiteTransform.of(*ELEMENTWISE[name])
    loc, scale = torch.randn(5, site.size), torch.rand(5, site.size) + 0.5
    q = site.normal(loc, scale)
    z = q.sample()
    joint = site.distribution(dist.Normal(loc, scale).to_event(1)).log_prob(z)
    factors = q.base_dist.log_prob(z) if site.event_shape else q.log_prob(z)
    assert factors.shape == (5, *site.event_shape)
    torch.testing.assert_close(factors.reshape(5, -1).sum(-1), joint)
    # and quantiles are those of the reals
    q = site.normal(torch.zeros(site.size), torch.ones(site.size))
    q = q.base_dist if site.event_shape else q
    levels = [q.icdf(torch.full(site.event_shape, level)) for level in (0.1, 0.5, 0.9)]
    assert (levels[0] < levels[1]).all()
    assert (levels[1] < levels[2]).all()
    torch.testing.assert_close(levels[1], site.constrain(torch.zeros(site.size)))


@pytest.mark.parametrize("name", COUPLED)
def test_other_supports_say_that_they_are_not_elementwise(name):
    support, event, _ = COUPLED[name]
    site = SiteTransform.of(support, event)
    q = site.normal(torch.zeros(5, site.size), torch.ones(5, site.size))
    assert not site.is_elementwise
    assert (q.batch_shape, q.event_shape) == ((5,), event)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_density_of_an_element_integrates_to_one(name):
    support, event = ELEMENTWISE[name]
    site = SiteTransform.of(support, event)
    normal = site.normal(torch.zeros(site.size), torch.ones(site.size))
    low, high = (site.constrain(torch.full((site.size,), end)) for end in (-6.0, 6.0))
    steps = torch.linspace(0, 1, 100_001).reshape(-1, *[1] * len(event))
    grid = low + (high - low) * steps
    density = (normal.base_dist if event else normal).log_prob(grid).exp()
    total = torch.trapezoid(density, grid, dim=0).abs()  # a decreasing transform turns the grid around
    torch.testing.assert_close(total, torch.ones(event), rtol=0, atol=1e-5)


def test_the_density_on_a_simplex_integrates_to_one():
    site = SiteTransform.of(constraints.simplex, (3,))
    grid = (torch.arange(500) + 0.5) / 500
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    inside = first + second < 1
    z = torch.stack([first, second, 1 - first - second], -1)[inside]
    density = site.distribution(make(site)).log_prob(z).exp()
    torch.testing.assert_close(density.sum() / 500**2, torch.tensor(1.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("support", [constraints.corr_cholesky, constraints.corr_matrix])
def test_the_density_of_a_correlation_integrates_to_one(support):
    site = SiteTransform.of(support, (2, 2))
    r = torch.linspace(-1, 1, 20_003)[1:-1]
    other = (1 - r**2).sqrt() if support is constraints.corr_cholesky else torch.ones_like(r)
    above = torch.zeros_like(r) if support is constraints.corr_cholesky else r
    z = torch.stack([torch.ones_like(r), above, r, other], -1).reshape(-1, 2, 2)
    total = torch.trapezoid(site.distribution(make(site)).log_prob(z).exp(), r)
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=1e-4)


# ---- own draws, single precision


class OneWay(ExpTransform):
    """A transform without an inverse, as of a flow that is slow in that direction."""

    def _inverse(self, y):
        raise AssertionError("inverted")


@pytest.mark.parametrize(("support", "event"), SUPPORTS)
def test_own_draws_are_scored_without_an_inverse(support, event):
    site = SiteTransform.of(support, event)
    base = dist.TransformedDistribution(make(site, (5,)), [OneWay(cache_size=1)])
    q = site.distribution(base).expand((3, 5))
    z = q.rsample()
    assert q.log_prob(z).isfinite().all()
    with pytest.raises(AssertionError, match="inverted"):
        q.log_prob(z.clone())


# Products of wide factors and sums of wide steps have no room in single precision
ROUNDED = {"corr_matrix", "positive_definite", "positive_semidefinite", "ordered"}


@pytest.mark.parametrize(
    ("support", "event"),
    [pytest.param(*case.values[:2], id=case.id) for case in ALL if case.id not in ROUNDED],
)
def test_wide_draws_stay_inside_in_single_precision(support, event):
    site = SiteTransform.of(support, event)
    loc = torch.zeros(1000, site.size, dtype=torch.float32)
    for scale in (1.0, 20.0, 500.0):
        q, other = (site.normal(loc, scale * torch.ones_like(loc)) for _ in range(2))
        z = q.sample()
        assert z.dtype == torch.float32
        assert site.support.check(z).all()
        assert q.log_prob(z).isfinite().all()
        assert other.log_prob(z).isfinite().all()


def test_own_draws_have_the_score_of_the_reals_that_made_them_where_the_inverse_fails():
    site = SiteTransform.of(constraints.interval(2.0, 3.0), (1,))
    q = site.normal(torch.tensor([40.0]), torch.tensor([1.0]))
    z = q.sample((100,))  # all rounded to one value
    assert q.log_prob(z).unique().numel() == 100


# ---- closed forms


def test_a_log_normal_meets_a_log_normal_in_closed_form():
    site, loc, scale = SiteTransform.of(constraints.positive, (3,)), torch.randn(5, 3), torch.rand(5, 3) + 0.1
    q, p = site.normal(loc, scale), dist.LogNormal(0.5, 2.0).expand([3]).to_event(1)
    exact = (2 / scale).log() + (scale**2 + (loc - 0.5) ** 2) / 8 - 0.5
    torch.testing.assert_close(kl_divergence(q, p), exact.sum(-1))
    assert isinstance(q.base_dist, dist.LogNormal)


@pytest.mark.parametrize(
    ("support", "steps"),
    [
        (constraints.unit_interval, [SigmoidTransform()]),
        (constraints.interval(-1.0, 3.0), [SigmoidTransform(), AffineTransform(-1.0, 4.0)]),
    ],
)
def test_a_logit_normal_meets_a_logit_normal_in_closed_form(support, steps):
    q = SiteTransform.of(support, (2,)).normal(torch.tensor([1.0, 2.0]), torch.ones(2))
    p = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0), steps).to_event(1)
    torch.testing.assert_close(kl_divergence(q, p), torch.tensor(2.5))


# ---- supports


def test_a_real_vector_needs_nothing():
    site = SiteTransform.of(constraints.real_vector, (3,))
    base = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    assert site.is_real
    assert site.transforms() == []
    assert site.distribution(base) is base
    assert isinstance(site.normal(torch.zeros(3), torch.ones(3)).base_dist, dist.Normal)


@pytest.mark.parametrize(("event", "size"), [((), 1), ((3,), 3), ((4, 3), 12)])
def test_bounds_that_all_data_share_are_understood(event, size):
    prior = dist.Uniform(torch.zeros(7, *event), torch.full((7, *event), 2.0)).to_event(len(event))
    site = SiteTransform.of(prior.support, event)
    assert (site.support.lower_bound, site.support.upper_bound) == (0.0, 2.0)
    assert site.size == size
    # Another number of data than the prior had
    assert site.normal(torch.zeros(2, size), torch.ones(2, size)).sample().shape == (2, *event)


def test_bounds_of_each_element_take_dtype_and_shape():
    prior = dist.Uniform(LOW.expand(7, 3), HIGH.expand(7, 3)).to_event(1)
    site = SiteTransform.of(prior.support, (3,))
    assert torch.equal(site.support.lower_bound, LOW)
    zeros = torch.zeros(2, 3, dtype=torch.float32)
    z = site.normal(zeros, zeros + 1).sample()
    assert z.dtype == torch.float32
    assert ((z > LOW) & (z < HIGH)).all()


def test_bounds_that_differ_from_datum_to_datum_are_refused():
    prior = dist.Uniform(torch.zeros(7), torch.arange(1.0, 8.0))
    with pytest.raises(NotImplementedError, match="Expected the same bounds for all data but got Interval"):
        SiteTransform.of(prior.support, ())


@pytest.mark.parametrize(
    ("support", "event", "error", "message"),
    [
        (
            constraints.boolean,
            (3,),
            NotImplementedError,
            r"Expected a continuous .* Boolean.* AmortizedDiscrete",
        ),
        (constraints.one_hot, (3,), NotImplementedError, "OneHot.* AmortizedDiscrete"),
        (constraints.nonnegative_integer, (), NotImplementedError, "Expected a continuous support"),
        (constraints.sphere, (3,), NotImplementedError, r"but got Sphere.*: give the site .* heads="),
        (constraints.dependent, (), NotImplementedError, "depends on unknown parameters"),
        (constraints.simplex, (), ValueError, r"at least 1 axes for support Simplex\(\) but got \(\)"),
        (constraints.lower_cholesky, (2, 3), ValueError, r"fits support LowerCholesky\(\) but got \(2, 3\)"),
        (constraints.simplex, (1,), ValueError, r"leaves nothing free in shape \(1,\)"),
        (constraints.corr_cholesky, (1, 1), ValueError, "leaves nothing free"),
    ],
)
def test_what_cannot_be_served_is_refused(support, event, error, message):
    with pytest.raises(error, match=message):
        SiteTransform.of(support, event)


@pytest.mark.parametrize("name", ["real", "bounds of each element", "positive vector"])
def test_copies(name):
    support, event = ELEMENTWISE[name]
    site = SiteTransform.of(support, event)
    site.distribution(make(site, (5,))).rsample()
    u = torch.randn(site.size)
    for twin in (copy.deepcopy(site), pickle.loads(pickle.dumps(site))):
        assert torch.equal(twin.constrain(u), site.constrain(u))


@pytest.mark.parametrize(
    ("support", "shape"), [(None, (2,)), ("real", (2,)), (constraints.real, 2.5), (constraints.real, None)]
)
def test_what_is_no_support_and_no_shape_is_refused(support, shape):
    with pytest.raises(TypeError, match=r"Expected (a constraint|an event shape)"):
        SiteTransform.of(support, shape)
