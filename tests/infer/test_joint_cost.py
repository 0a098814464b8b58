"""Terms of all latent sites of the data plate together."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import LocalLatents, Trace_WeightedELBO, TraceMeanField_WeightedELBO
from pyro_infomax.schedules import Linear

N = 12
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Spread(TraceMeanField_WeightedELBO):
    """The rate, and how far the means of the minibatch's draws are from 0."""

    def joint_cost(self, model_trace, guide_trace):
        self.latents = LocalLatents(model_trace, guide_trace)
        return {"spread": self.latents.z.mean(0).square().sum()}


class Instead(Spread):
    joint_cost_replaces = True


def model(x):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.1))
    with pyro.plate("data", N, subsample_size=len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("inner", 3, dim=-2):
            b = pyro.sample("b", dist.Laplace(0.0, 1.0))
        pyro.sample("x", dist.Normal(a.sum(-1, keepdim=True) + b.T, scale).to_event(1), obs=x)


def guide(x):
    shift = pyro.param("shift", torch.ones(()))
    pyro.sample("scale", dist.LogNormal(0.0, 0.2))
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("a", dist.Normal(x[:, :2] + shift, 0.1).to_event(1))
        with pyro.plate("inner", 3, dim=-2):
            pyro.sample("b", dist.Laplace(x.T, 0.1))


def evaluated(elbo, rows=6, model=model, guide=guide):
    torch.manual_seed(0)
    return elbo.loss(model, guide, X[:rows])


def test_it_comes_on_top_of_the_rate_with_the_scale_of_the_plate():
    elbo = Spread(weights={"spread": 3.0})
    loss = evaluated(elbo)
    terms = elbo.terms
    latents = elbo.latents
    assert latents.names == ("a", "b")
    assert latents.sizes == (2, 3)
    assert (latents.batch_size, latents.plate_size) == (6, N)
    torch.testing.assert_close(terms.spread, float(N * latents.z.detach().mean(0).square().sum()))
    torch.testing.assert_close(loss, terms.distortion + terms.rate + 3 * terms.spread)


def test_it_takes_the_place_of_the_local_sites_rate_but_not_of_the_others():
    elbo = Instead(weights={"rate": 2.0})
    loss = evaluated(elbo)
    terms = elbo.terms
    plain = TraceMeanField_WeightedELBO()
    evaluated(plain)
    assert terms.rate == plain.terms.rate
    divergence = math.log(0.1 / 0.2) + 0.2**2 / (2 * 0.1**2) - 0.5
    torch.testing.assert_close(loss, terms.distortion + 2 * divergence + terms.spread)


def test_the_vector_scores_as_the_sites_do():
    elbo = Spread()
    evaluated(elbo)
    latents = elbo.latents
    z, x = latents.z, X[:6]
    a = dist.Normal(x[:, :2] + 1, 0.1).log_prob(z[:, :2]).sum(-1)
    b = dist.Laplace(x, 0.1).log_prob(z[:, 2:]).sum(-1)
    torch.testing.assert_close(latents.posterior.log_prob(z), a + b)
    prior = dist.Normal(0.0, 1.0).log_prob(z[:, :2]).sum(-1) + dist.Laplace(0.0, 1.0).log_prob(z[:, 2:]).sum(
        -1
    )
    torch.testing.assert_close(latents.prior.log_prob(z), prior)
    assert latents.prior.batch_shape == ()


def beside(x, cells, rows="data", *, is_model):
    """Global sites in a plate beside that of the data, on the same axis."""
    with pyro.plate("components", cells):
        loc = 0.0 if is_model else torch.linspace(-2.0, 2.0, cells)
        w = pyro.sample("w", dist.Normal(loc, 1.0 if is_model else 0.1))
    with pyro.plate(rows, N, subsample_size=len(x)):
        loc = torch.zeros(2) if is_model else x[:, :2] + w.mean()
        a = pyro.sample("a", dist.Normal(loc, 1.0 if is_model else 0.5).to_event(1))
        if is_model:
            pyro.sample("x", dist.Normal(a.sum(-1) + w.mean(), 1.0), obs=x[:, 0])
        else:
            pyro.sample("noise", dist.Normal(x[:, 0], 1.0), infer={"is_auxiliary": True})


# As many as there are data, and one for all of them, broadcast with the data where they are taken for theirs
@pytest.mark.parametrize("cells", [1, 4, 6])
@pytest.mark.parametrize("rows", ["data", "rows"])
def test_a_plate_beside_that_of_the_data_holds_global_sites(cells, rows):
    elbo = Spread()
    with pyro.validation_enabled(False):
        loss = evaluated(
            elbo,
            6,
            partial(beside, cells=cells, is_model=True),
            partial(beside, cells=cells, rows=rows, is_model=False),
        )
    latents = elbo.latents
    assert (latents.names, latents.sizes, latents.auxiliary) == (("a",), (2,), ("noise",))
    torch.testing.assert_close(elbo.terms.spread, float(N * latents.z.detach().mean(0).square().sum()))
    torch.testing.assert_close(loss, elbo.terms.distortion + elbo.terms.rate + elbo.terms.spread)
    z = latents.z
    torch.testing.assert_close(latents.prior.log_prob(z), dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
    assert latents.posterior.batch_shape == (6,)  # which is given the global site


def series(x, *, is_model):
    """Data and time each have sites of their own, time more of them."""
    with pyro.plate("time", 3, dim=-1):
        loc = 0.0 if is_model else 1.0
        shifts = [pyro.sample(f"shift_{i}", dist.Normal(loc, 1.0)) for i in range(2)]
    with pyro.plate("data", N, subsample_size=len(x), dim=-2):
        loc = 0.0 if is_model else x.mean(1, keepdim=True)
        a = pyro.sample("a", dist.Normal(loc, 1.0))
        if is_model:
            with pyro.plate("time_of_data", 3, dim=-1):
                pyro.sample("x", dist.Normal(a + sum(shifts), 1.0), obs=x)


@pytest.mark.parametrize("rows", [3, 4])
def test_a_minibatch_as_long_as_an_inner_plate_is_none_of_it(rows):
    elbo = Spread()
    evaluated(elbo, rows, partial(series, is_model=True), partial(series, is_model=False))
    assert elbo.latents.names == ("a",)
    assert elbo.latents.batch_size == rows
    assert elbo.subsampled == {rows: N}


def test_data_may_come_by_keyword():
    elbo = Spread()
    elbo.loss(model, guide, x=X[:6])
    assert (elbo.latents.batch_size, elbo.latents.plate_size) == (6, N)


def chained(x):
    """A guide whose second site is drawn given the first."""
    with pyro.plate("data", N, subsample_size=len(x)):
        a = pyro.sample("a", dist.Normal(x[:, :2], pyro.param("s", torch.ones(()))).to_event(1))
        pyro.sample("b", dist.Normal(a.detach().sum(-1), 1.0))


def apart(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("a", dist.Normal(x[:, :2], pyro.param("s", torch.ones(()))).to_event(1))
        pyro.sample("b", dist.Normal(x[:, 0], 1.0))


def vectors(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        root = torch.tensor([[1.0, 0.0], [0.5, 0.8]])
        pyro.sample("a", dist.MultivariateNormal(x[:, :2], scale_tril=root))
        pyro.sample("b", dist.Normal(x[:, 0], 1.0))


def two(x, *, of_data=False, of_latents=False, correlated=False):
    with pyro.plate("data", N, subsample_size=len(x)):
        loc = torch.zeros(2) + x[:, :2] if of_data else torch.zeros(2)
        cov = torch.tensor([[1.0, 0.4], [0.4, 1.0]])
        fn = dist.MultivariateNormal(loc, cov) if correlated else dist.Normal(loc, 1.0).to_event(1)
        a = pyro.sample("a", fn)
        b = pyro.sample("b", dist.Normal(a.sum(-1) if of_latents else torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(a.sum(-1) + b, 1.0), obs=x[:, 0])


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_a_guide_whose_sites_depend_on_each_other_has_no_posterior_of_the_vector(validate, grad):
    elbo = Spread()
    with pyro.validation_enabled(validate), torch.set_grad_enabled(grad):
        evaluated(elbo, model=two, guide=apart)
        assert elbo.latents.posterior.batch_shape == (6,)
        evaluated(elbo, model=two, guide=chained)
        with pytest.raises(NotImplementedError, match=r"draws 'b' given \['a'\]"):
            _ = elbo.latents.posterior


@pytest.mark.parametrize(
    "change", [{"of_data": True}, {"of_latents": True}, {"of_data": True, "correlated": True}]
)
def test_a_prior_that_differs_from_datum_to_datum_is_none(change):
    elbo = Spread()
    evaluated(elbo, model=lambda x: two(x, **change), guide=apart)
    with pytest.raises(NotImplementedError, match="differs from datum to datum"):
        _ = elbo.latents.prior


def test_a_vector_beside_a_product():
    elbo = Spread()
    evaluated(elbo, model=lambda x: two(x, correlated=True), guide=vectors)
    latents = elbo.latents
    z = latents.z
    trace = poutine.trace(vectors).get_trace(X[:6])
    sites = [trace.nodes[name]["fn"] for name in "ab"]
    own = sites[0].log_prob(z[:, :2]) + sites[1].log_prob(z[:, 2])
    torch.testing.assert_close(latents.posterior.log_prob(z), own)
    marginals = latents.posterior.log_prob_marginals(z)
    torch.testing.assert_close(marginals[:, 0], dist.Normal(X[:6, 0], 1.0).log_prob(z[:, 0]))
    assert latents.prior.sample((4,)).shape == (4, 3)


def test_it_is_refused_where_it_would_be_wrong():
    with pytest.raises(TypeError, match="joint_cost"):
        type("Own", (Trace_WeightedELBO,), {"joint_cost": lambda self, model_trace, guide_trace: {}})
    with pytest.raises(ValueError, match="one weight of 'spread'"):
        evaluated(Spread(weights={"spread": {"a": 2.0}}))
    with pytest.raises(NotImplementedError, match="vectorised particles"):
        evaluated(Spread(num_particles=2, vectorize_particles=True, max_plate_nesting=1), 6, two, apart)

    def masked(x):
        with poutine.mask(mask=x[:, 0] > 0):
            return two(x)

    def masked_guide(x):
        with poutine.mask(mask=x[:, 0] > 0):
            return apart(x)

    with pytest.raises(NotImplementedError, match="masked"):
        evaluated(Spread(), model=masked, guide=masked_guide)


def test_it_trains_with_schedules_captured_as_by_steps():
    losses = []
    for kind, optimiser in (
        (SVI, pyro.optim.Adam({"lr": 0.05})),
        (CapturedSVI, FusedOptim(torch.optim.Adam, {"lr": 0.05})),
    ):
        pyro.clear_param_store()
        torch.manual_seed(0)

        class Spreading(TraceMeanField_WeightedELBO):
            def joint_cost(self, model_trace, guide_trace):
                z = LocalLatents(model_trace, guide_trace).z
                return {"spread": z.mean(0).square().sum()}

        elbo = Spreading(weights={"spread": Linear(0.0, 5.0, 4)})
        svi = kind(two, apart, optimiser, elbo)
        losses.append([svi.step(X) for _ in range(6)])
    assert svi.captured
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=0)
