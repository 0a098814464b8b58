import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_infomax.infer import Trace_BetaELBO, TraceMeanField_InfoMaxELBO, surrogate_loss
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


def test_pyros_own_have_no_terms():
    found = surrogate_loss(Trace_ELBO(), model, guide, torch.randn(4))
    assert dict(found.terms) == {}


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
