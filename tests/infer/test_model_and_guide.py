"""What the sites of a guide have to do with those of its model, with validation and without."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoGuideList

from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.infer import (
    Renyi_InfoMaxELBO,
    Trace_BetaELBO,
    TraceEnum_BetaELBO,
    TraceGraph_BetaELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_WeightedELBO,
)

OBJECTIVES = {
    "Trace": Trace_BetaELBO,
    "TraceGraph": TraceGraph_BetaELBO,
    "TraceMeanField": TraceMeanField_BetaELBO,
    "TraceEnum": TraceEnum_BetaELBO,
    "Renyi": Renyi_InfoMaxELBO,
}
X, Y = torch.tensor([0.2, 1.1, 1.7]), torch.tensor([0.0, 1.0, 2.0])


@pytest.fixture(params=OBJECTIVES)
def elbo(request):
    options = {"strict_enumeration_warning": False} if request.param == "TraceEnum" else {}
    return OBJECTIVES[request.param](1.0, num_particles=2, **options)


# ---- what the model observes


def labelled(x, y=None):
    """z ~ N(0, 1), y ~ N(z, 1), x ~ N(y, 1)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        y = pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        pyro.sample("x", dist.Normal(y, 1.0), obs=x)


def draws_both(x, y=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))
        pyro.sample("y", dist.Normal(x, 1.0))


def observes_too(x, y=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def has_the_same_factor(x, y=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))
        pyro.factor("x", x, has_rsample=True)


@pytest.mark.parametrize("guide", [draws_both, observes_too, has_the_same_factor])
def test_a_guide_leaves_out_what_the_model_observes(programs, elbo, guide):
    sentence = "leave out what the model observes but '[xy]' is observed and the guide"
    programs.assert_refused(ValueError, sentence, elbo.loss, labelled, guide, X, Y)


def test_a_condition_on_the_model_alone_is_refused(programs, elbo):
    model = pyro.condition(labelled, data={"y": Y})
    programs.assert_refused(
        ValueError, "'y' is observed and the guide draws it", elbo.loss, model, draws_both, X
    )


def test_a_condition_around_both_is_refused(programs, elbo):
    def evaluate():
        with poutine.condition(data={"y": Y}):
            elbo.loss(labelled, draws_both, X)

    programs.assert_refused(ValueError, "'y' or to leave it out but it is observed there", evaluate)


def test_what_the_model_computes_is_not_drawn(programs, elbo):
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("y", z + 1.0)

    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, 1.0))

    programs.assert_refused(
        ValueError, "'y' is computed there and the guide draws it", elbo.loss, model, guide
    )


def test_both_may_compute_something_of_one_name(elbo):
    def program():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("y", z + 1.0)

    def guide():
        program()
        pyro.deterministic("of_the_guide", torch.tensor(3.0))

    with pyro.validation_enabled(False):
        assert elbo.loss(program, guide) == pytest.approx(0.0, abs=1e-12)


def test_a_site_of_the_guide_alone_has_to_be_auxiliary(programs, elbo):
    def guide(x):
        pyro.sample("stray", dist.Normal(0.0, 1.0))
        labelled_guide(x)

    def labelled_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("y", dist.Normal(x, 1.0))

    programs.assert_refused(ValueError, "'stray' is neither", elbo.loss, labelled, guide, X)


# ---- plates


def in_the_data_plate(x, **subsample):
    with pyro.plate("data", 6, **subsample):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def not_scaled(x, **subsample):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))


def on_another_axis(x, **subsample):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(x[:, None], 1.0))


def without_a_plate(x, **subsample):
    pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("guide", [not_scaled, on_another_axis, without_a_plate])
def test_a_site_is_in_the_same_plates_in_both(elbo, guide):
    """Pyro compares sizes, and only in validation."""
    with (
        pyro.validation_enabled(False),
        pytest.raises((ValueError, RuntimeError), match=r"same plates|expand"),
    ):
        elbo.loss(in_the_data_plate, guide, X, subsample_size=3)


# ---- closed forms, where the order allows them


def test_a_closed_form_waits_for_what_the_prior_depends_on():
    """p(z2) p(z1|z2) against q(z1) q(z2|z1): KL between the joint Normals, by their covariances."""

    def model():
        z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
        pyro.sample("z1", dist.Normal(z2, 0.4))

    def guide():
        z1 = pyro.sample("z1", dist.Normal(pyro.param("m", torch.tensor(0.5)), 1.0))
        pyro.sample("z2", dist.Normal(z1, 0.3))

    m = torch.tensor(0.5, requires_grad=True)
    q = dist.MultivariateNormal(torch.stack([m, m]), torch.tensor([[1.0, 1.0], [1.0, 1.09]]))
    p = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.16, 1.0], [1.0, 1.0]]))
    expected = torch.distributions.kl_divergence(q, p)
    (slope,) = torch.autograd.grad(expected, m)
    elbo = TraceMeanField_BetaELBO(1.0, num_particles=400, vectorize_particles=True, max_plate_nesting=0)
    losses, slopes = [], []
    for _ in range(20):
        losses.append(elbo.loss_and_grads(model, guide))
        slopes.append(pyro.param("m").grad.item())
        pyro.param("m").grad = None
    for found, truth in ((losses, expected.item()), (slopes, slope.item())):
        found = torch.tensor(found)
        assert abs(found.mean() - truth) < 4 * found.std() / math.sqrt(20)


@pytest.mark.parametrize("order", [["a", "b", "c"], ["a", "c", "b"]])
def test_the_same_order_keeps_every_closed_form(order):
    """In another order, a site that comes before what the model draws before it is sampled."""

    def model():
        for name in "abc":
            pyro.sample(name, dist.Normal(0.0, 1.0))

    def guide():
        for name in order:
            pyro.sample(name, dist.Normal(1.0, 1.0))

    class Seen(TraceMeanField_WeightedELBO):
        def latent_cost(self, model_site, guide_site):
            closed[guide_site["name"]] = "divergence" in guide_site
            return super().latent_cost(model_site, guide_site)

    closed = {}
    Seen().loss(model, guide)
    assert closed == {"a": True, "b": True, "c": order[1] == "b"}


@pytest.mark.parametrize("handler", [poutine.scale(scale=0.5), poutine.mask(mask=torch.tensor(False))])
def test_a_closed_form_counts_once_for_both(programs, handler):
    """Where the model alone scales or masks its latent, the rate is E log q − c E log p."""

    def model():
        with handler:
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        pyro.sample("z", dist.Normal(0.7, 1.0))

    counts = getattr(handler, "scale", 0.0)
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    expected = -entropy + counts * (entropy + 0.245)
    elbo = TraceMeanField_BetaELBO(1.0, num_particles=2000, vectorize_particles=True, max_plate_nesting=0)
    losses = torch.tensor([elbo.loss(model, guide) for _ in range(20)])
    assert abs(losses.mean() - expected) < 4 * losses.std() / math.sqrt(20)

    class Split(TraceMeanField_WeightedELBO):
        def latent_cost(self, model_site, guide_site):
            return super().latent_cost(model_site, guide_site)

    programs.assert_refused(ValueError, "'z' to have one scale and mask", Split().loss, model, guide)


# ---- counts


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_particles_are_counted(count):
    for objective in OBJECTIVES.values():
        with pytest.raises(ValueError, match="Expected num_particles to be an integer >= 1"):
            objective(1.0, num_particles=count)


# ---- what the model enumerates


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_global_site_is_not_summed_over_a_subsample(programs, scale):
    """Whatever scale the site has of its own, be it that of the plate."""

    def model(x):
        with poutine.scale(scale=scale):
            y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        with pyro.plate("data", 6, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    sentence = r"summed over \['y'\] to have one scale but the plates \['data'\] .* enumerate \['y'\] in the"
    elbo = TraceEnum_BetaELBO(1.0, max_plate_nesting=1)
    programs.assert_refused(ValueError, sentence, elbo.loss, model, lambda x: None, X)


def test_a_loss_whose_terms_are_unknown_is_refused_before_it_is_computed(programs):
    """Where the weight of one site makes up for the scale of another."""

    def model():
        y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        with poutine.scale(scale=0.5):
            pyro.sample("x", dist.Normal(y, 1.0), obs=torch.tensor(0.5))

    elbo = TraceEnum_BetaELBO({"y": 0.5}, max_plate_nesting=0)
    sentence = r"summed over \['y'\] to have one scale but got .*'y': 1.0, 'x': 0.5"
    programs.assert_refused(ValueError, sentence, elbo.loss, model, lambda: None)


def partly_labelled(x, y, seen):
    with pyro.plate("data", len(x)):
        infer = {"enumerate": "parallel"}
        y = pyro.sample("y", dist.Categorical(torch.ones(3)), obs=y, obs_mask=seen, infer=infer)
        pyro.sample("x", dist.Normal(y.to(x.dtype), 1.0), obs=x)


def test_enumeration_beside_a_mask_has_to_be_configured():
    """Pyro drops what obs_mask is given beside infer=."""
    seen = torch.tensor([True, False, False])
    args = X, torch.tensor([0, 1, 2]), seen
    elbo = TraceEnum_BetaELBO(1.0, max_plate_nesting=1)
    with pytest.raises(ValueError, match=r"lacks 'y_unobserved': .* obs_mask by pyro.infer.config_enumerate"):
        elbo.loss(partly_labelled, lambda *args: None, *args)
    log_x = dist.Normal(torch.arange(3.0), 1.0).log_prob(X[:, None]) - math.log(3)  # (data, y)
    expected = torch.where(seen, log_x[range(3), args[1]], log_x.logsumexp(-1)).sum()
    loss = elbo.loss(config_enumerate(partly_labelled), lambda *args: None, *args)
    assert loss == pytest.approx(-expected.item())


@pytest.mark.parametrize("own", [True, False])
def test_what_is_summed_out_and_masked_sums_to_one(own):
    """A mask of the distribution's own as well as a handler's around it."""
    keep = torch.tensor([True, False, False])

    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=torch.tensor(True) if own else keep):
            c = pyro.sample("c", dist.Bernoulli(0.3).mask(keep if own else True))
            pyro.sample("x", dist.Normal(c, 1.0).mask(keep), obs=x)

    elbo = TraceEnum_BetaELBO(1.0, max_plate_nesting=1)
    loss = elbo.loss(config_enumerate(model), lambda x: None, X)
    log_x = dist.Normal(torch.arange(2.0), 1.0).log_prob(X[0]) + torch.tensor([0.7, 0.3]).log()
    assert loss == pytest.approx(-log_x.logsumexp(-1).item())
    assert elbo.terms.distortion == pytest.approx(loss)


# ---- angles


@pytest.mark.parametrize("as_event", [False, True])
def test_an_angle_is_not_drawn_from_a_density_on_the_line(programs, elbo, as_event):
    """Its ELBO with a wide Normal would exceed any evidence."""

    def of(fn):
        return fn.expand([2]).to_event(1) if as_event else fn

    def model():
        phi = pyro.sample("phi", of(dist.VonMises(0.0, 1.0)))
        pyro.sample("x", of(dist.VonMises(phi, 1.0)), obs=torch.tensor(0.5))

    def guide():
        pyro.sample("phi", of(dist.Normal(0.0, 50.0)))

    sentence = r"'phi' is an angle in the model but .* draw it from dist.VonMises"
    programs.assert_refused(NotImplementedError, sentence, elbo.loss, model, guide)


def test_an_angle_is_drawn_from_the_circle(elbo):
    def model():
        pyro.sample("phi", dist.VonMises(0.3, 2.0))

    if isinstance(elbo, TraceMeanField_BetaELBO):
        return
    assert elbo.loss(model, model) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "pair", [(dist.Gamma(1.0, 1.0), dist.Poisson(3.0)), (dist.Poisson(3.0), dist.Gamma(1.0, 1.0))]
)
def test_a_probability_is_not_compared_with_a_density(programs, elbo, pair):
    prior, posterior = pair

    def model():
        pyro.sample("z", prior)

    def guide():
        pyro.sample("z", posterior)

    with pyro.validation_enabled(False), pytest.raises((ValueError, NotImplementedError)) as caught:
        elbo.loss(model, guide)
    assert "'z' to be discrete, or continuous, in both programs" in str(caught.value)


# ---- globals beside


def shared(x):
    """loc ~ N(0, 1), scale ~ Gamma(2, 2), z ~ N(loc, 1), x ~ N(z, scale)."""
    loc, scale = pyro.sample("loc", dist.Normal(0.0, 1.0)), pyro.sample("scale", dist.Gamma(2.0, 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def test_points_of_globals_and_amortised_locals_train_together(elbo):
    """At the points the loss is a sum of Gaussian integrals; Rényi's is the evidence from above."""
    guide = AutoGuideList(shared, create_plates=lambda x: pyro.plate("data", len(x), dim=-1))
    guide.append(AutoDelta(poutine.block(shared, expose=["loc", "scale"])))
    guide.append(AmortizedNormal(poutine.block(shared, hide=["loc", "scale"]), lambda x: x[:, None]))
    svi = SVI(shared, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    assert all(math.isfinite(svi.step(X[:size])) for size in (3, 2, 3))
    median = guide[0].median(X)
    loc, scale = median["loc"], median["scale"]
    prior = dist.Normal(0.0, 1.0).log_prob(loc) + dist.Gamma(2.0, 2.0).log_prob(scale)
    q = guide[1].posterior(X)["z"]
    rate = torch.distributions.kl_divergence(q, dist.Normal(loc, 1.0)).sum() - prior
    distortion = (-dist.Normal(q.mean, scale).log_prob(X) + q.variance / (2 * scale**2)).sum()
    is_renyi = isinstance(elbo, Renyi_InfoMaxELBO)
    many = type(elbo)(
        0.0 if is_renyi else 1.0,
        num_particles=1000,
        vectorize_particles=True,
        max_plate_nesting=1,
        strict_enumeration_warning=False,
    )
    losses = torch.tensor([many.loss(shared, guide, X) for _ in range(10)])
    if is_renyi:
        evidence = dist.Normal(loc, (1 + scale**2).sqrt()).log_prob(X).sum() + prior
        assert -losses.mean() < evidence + 3 * losses.std() / math.sqrt(10)
    else:
        assert abs(losses.mean() - distortion - rate) < 5 * losses.std() / math.sqrt(10) + 1e-9


@pytest.mark.parametrize("objective", [Trace_BetaELBO, TraceMeanField_BetaELBO, TraceEnum_BetaELBO])
def test_the_graph_of_a_step_is_kept_on_demand(objective):
    leaf = torch.tensor(0.5, requires_grad=True)
    scale = leaf.exp()

    def program():
        pyro.param("p", torch.tensor(1.0))
        pyro.sample("z", dist.Normal(0.0, scale))

    def guide():
        pyro.sample("z", dist.Normal(0.0, 2.0 * scale))

    options = {"strict_enumeration_warning": False, "max_plate_nesting": 0}
    kept = objective(1.0, retain_graph=True, **options)
    for _ in range(2):
        kept.loss_and_grads(program, guide)
    objective(1.0, **options).loss_and_grads(program, guide)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        kept.loss_and_grads(program, guide)


@pytest.mark.parametrize("event", [0, 1])
def test_masks_of_two_distributions_may_differ(event):
    """The rate is E[m log q − m' log p], not a divergence where both are present."""
    own, other = torch.tensor([True, True, False]), torch.tensor([True, False, True])

    def model():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([3] + [1] * event).to_event(event).mask(other))

    def guide():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(0.7, 1.0).expand([3] + [1] * event).to_event(event).mask(own))

    entropy = 0.5 * math.log(2 * math.pi * math.e)
    expected = -2 * entropy + 2 * (entropy + 0.245)
    elbo = TraceMeanField_BetaELBO(1.0, num_particles=2000, vectorize_particles=True, max_plate_nesting=1)
    losses = torch.tensor([elbo.loss(model, guide) for _ in range(20)])
    assert abs(losses.mean() - expected) < 4 * losses.std() / math.sqrt(20)


def test_values_and_plates_have_axes_of_their_own():
    """With validation Pyro's shapes do not match; without it the loss was another."""

    def model(x):
        with pyro.plate("outer", 2, dim=-2), pyro.plate("data", 3, dim=-1):
            y = pyro.sample("y", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("outer", 2, dim=-2), pyro.plate("data", 3, dim=-1):
            pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})

    x = torch.randn(2, 3)
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="pass max_plate_nesting=2"):
        TraceEnum_BetaELBO(1.0, max_plate_nesting=1).loss(model, guide, x)
    assert math.isfinite(TraceEnum_BetaELBO(1.0).loss(model, guide, x))
