"""Evaluations that stay in tensors, of Pyro's objectives and of ours."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pyro_infomax.infer import (
    Renyi_WeightedELBO,
    Trace_BetaELBO,
    TraceEnum_BetaELBO,
    TraceGraph_BetaELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_InfoMaxELBO,
    surrogate_loss,
)
from pyro_infomax.schedules import Linear


def model(x):
    with pyro.plate("data", 40, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z * pyro.param("slope", torch.tensor(0.5)), 1.0), obs=x)


def guide(x):
    with pyro.plate("data", 40, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(pyro.param("mean", torch.tensor(0.1)) * x, 0.5))


@pytest.mark.parametrize(
    "make", [lambda w: Trace_BetaELBO(beta=w), lambda w: TraceMeanField_InfoMaxELBO(lam=w)]
)
@pytest.mark.parametrize("weight", [2.0, torch.tensor(2.0), Linear(1.0, 3.0, 10)])
def test_terms_and_loss_are_those_of_an_evaluation(make, weight):
    x = torch.randn(4)
    elbo, other = make(weight), make(weight)
    torch.manual_seed(1)
    loss = other.loss(model, guide, x)
    torch.manual_seed(1)
    found = surrogate_loss(elbo, model, guide, x)
    assert float(found.loss) == pytest.approx(loss, rel=1e-12)
    assert float(found.terms["distortion"]) == pytest.approx(other.terms.distortion, rel=1e-12)
    assert float(found.terms["rate"]) == pytest.approx(other.terms.rate, rel=1e-12)
    assert elbo.terms == pytest.approx(other.terms, rel=1e-12)
    assert elbo.step == 0


def drawing_model(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.4))
        pyro.sample("x", dist.Normal(pyro.param("step", torch.tensor(2.0)) * c, 1.0), obs=x)


def drawing_guide(x):
    logit = pyro.param("logit", torch.tensor(0.2))
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Bernoulli(logits=logit * x))


@pytest.mark.parametrize(
    "particles", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}]
)
@pytest.mark.parametrize(
    ("elbo", "pair"),
    [
        (Trace_ELBO, (model, guide)),
        (Trace_ELBO, (drawing_model, drawing_guide)),
        (TraceMeanField_ELBO, (model, guide)),
        (TraceGraph_ELBO, (model, guide)),
        (TraceGraph_ELBO, (drawing_model, drawing_guide)),
    ],
)
def test_loss_and_gradients_are_those_of_pyros_estimators(elbo, pair, particles):
    x = torch.randn(5)
    objective = elbo(max_plate_nesting=1, **particles)
    torch.manual_seed(1)
    expected = objective.loss_and_grads(*pair, x)
    leaves = [leaf for _, leaf in pyro.get_param_store().named_parameters()]
    gradients = [leaf.grad.clone() for leaf in leaves]
    torch.manual_seed(1)
    found = surrogate_loss(objective, *pair, x)
    assert not found.loss.requires_grad
    assert found.loss.shape == found.surrogate.shape == ()
    assert dict(found.terms) == {}
    assert float(found.loss) == pytest.approx(expected, rel=1e-12)
    for ours, gradient in zip(torch.autograd.grad(found.surrogate, leaves), gradients, strict=True):
        torch.testing.assert_close(ours, gradient, rtol=1e-12, atol=1e-14)


def test_another_estimator_is_refused():
    with pytest.raises(NotImplementedError, match="has no loss that stays in tensors"):
        surrogate_loss(RenyiELBO(), model, guide, torch.randn(3))


def test_the_value_of_a_tensor_enters_as_a_tensor_without_gradient():
    def reading(x):
        mean = pyro.param("mean", torch.tensor(0.1))
        with pyro.plate("data", 40, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(mean.item() * x, 0.5))

    x = torch.randn(5)
    torch.manual_seed(1)
    found = surrogate_loss(Trace_ELBO(), model, reading, x)
    torch.manual_seed(1)
    assert float(found.loss) == pytest.approx(Trace_ELBO().loss(model, guide, x), rel=1e-12)
    mean = pyro.param("mean").unconstrained()
    assert torch.autograd.grad(found.surrogate, [mean], allow_unused=True) == (None,)


def test_given_weights_take_the_place_of_a_schedule():
    x = torch.randn(4)
    elbo = Trace_BetaELBO(beta=Linear(1.0, 3.0, 10))
    assert elbo.variable_weights() == {"beta": torch.tensor(1.0)}
    torch.manual_seed(1)
    with elbo.given_weights({"beta": torch.tensor(5.0)}):
        found = surrogate_loss(elbo, model, guide, x)
    torch.manual_seed(1)
    assert float(found.loss) == pytest.approx(Trace_BetaELBO(beta=5.0).loss(model, guide, x), rel=1e-12)


def test_numbers_are_weights_too_where_asked_for():
    elbo = Trace_BetaELBO(beta={"z": 2.0})
    assert elbo.variable_weights() == {}
    (weight,) = elbo.variable_weights(numbers=True).values()
    assert weight == 2.0


def test_an_adopted_evaluation_is_a_training_step():
    x = torch.randn(4)
    elbo = Trace_BetaELBO(beta=Linear(1.0, 3.0, 10), num_particles=2)
    found = surrogate_loss(elbo, model, guide, x)
    terms, subsampled = elbo.terms, elbo.subsampled
    assert dict(subsampled) == {4: 40}
    elbo.loss(model, guide, torch.randn(3))
    elbo.adopt(found, subsampled)
    assert elbo.terms == terms
    assert elbo.step == 1
    assert elbo.stands_for(4) == 40


@pytest.mark.parametrize(
    "kind",
    [Trace_BetaELBO, TraceMeanField_BetaELBO, TraceGraph_BetaELBO, TraceEnum_BetaELBO, Renyi_WeightedELBO],
)
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_a_graph_that_is_retained_serves_the_next_evaluation(kind):
    """What was computed from a parameter before the programs run has its gradient each time, if asked for."""
    leaf = torch.tensor(0.7, requires_grad=True)
    shared = leaf.square()

    def scaled(x):
        pyro.param("offset", torch.tensor(0.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(shared, 1.0), obs=x)

    def gradients(retain_graph):
        elbo = kind(max_plate_nesting=1, num_particles=2)
        elbo.retain_graph = retain_graph  # Pyro's RenyiELBO does not take it as an argument
        for _ in range(2):
            elbo.loss_and_grads(scaled, lambda _: None, x)
            yield leaf.grad.item()

    x = torch.tensor([1.0, 2.0])
    once = -2 * 0.7 * (x - 0.49).sum().item()
    assert list(gradients(True)) == pytest.approx([once, 2 * once])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        list(gradients(False))
