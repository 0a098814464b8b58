import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pyro_infomax.infer._elbo import particle_losses


def model(x):
    scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def guide(x):
    slope = pyro.param("slope", torch.tensor(0.3))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, 0.5))


def drawing_model(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.4))
        pyro.sample("x", dist.Normal(pyro.param("step", torch.tensor(2.0)) * c, 1.0), obs=x)


def drawing_guide(x):
    logit = pyro.param("logit", torch.tensor(0.2))
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Bernoulli(logits=logit * x))


PROGRAMS = {"reparameterised": (model, guide), "score function": (drawing_model, drawing_guide)}
CASES = [
    (elbo, which)
    for elbo in (Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO)
    for which in PROGRAMS
    if (elbo, which) != (TraceMeanField_ELBO, "score function")
]


@pytest.mark.parametrize(
    "particles", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}]
)
@pytest.mark.parametrize(("elbo", "which"), CASES)
def test_loss_and_gradients_of_pyros_estimators(elbo, which, particles):
    x = torch.randn(5)
    objective = elbo(max_plate_nesting=1, **particles)
    torch.manual_seed(1)
    expected = objective.loss_and_grads(*PROGRAMS[which], x)
    leaves = [leaf for _, leaf in pyro.get_param_store().named_parameters()]
    gradients = [leaf.grad.clone() for leaf in leaves]
    torch.manual_seed(1)
    loss, surrogate = particle_losses(objective, *PROGRAMS[which], (x,), {})
    assert not loss.requires_grad
    assert loss.shape == surrogate.shape == ()
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    for found, gradient in zip(torch.autograd.grad(surrogate, leaves), gradients, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-14)


def test_another_estimator_is_refused():
    with pytest.raises(NotImplementedError, match="has no loss that stays in tensors"):
        particle_losses(RenyiELBO(), model, guide, (torch.randn(3),), {})


def test_the_value_of_a_tensor_enters_as_a_tensor_without_gradient():
    def reading(x):
        slope = pyro.param("slope", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope.item() * x, 0.5))

    x = torch.randn(5)
    torch.manual_seed(1)
    loss, surrogate = particle_losses(Trace_ELBO(), model, reading, (x,), {})
    torch.manual_seed(1)
    assert float(loss) == pytest.approx(Trace_ELBO().loss(model, guide, x), rel=1e-12)
    slope = dict(pyro.get_param_store().named_parameters())["slope"]
    assert torch.autograd.grad(surrogate, [slope], allow_unused=True) == (None,)
