"""One step as a function of data and weights."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_infomax.capture._captured_svi import CapturedStep, Programs
from pyro_infomax.capture._watch import Call, NotCapturableError
from pyro_infomax.infer import Trace_BetaELBO

X = torch.tensor([1.0, -2.0])


def model(x):
    w = pyro.param("w", torch.tensor(0.5))
    pyro.param("unread", torch.tensor(0.5))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("a", torch.tensor(0.3)) * x, 1.0))


def captured(programs):
    return CapturedStep(programs, Call((X,), {}), pyro.optim.Adam({"lr": 0.1}), backend="replay")


def gradient_of(name):
    return pyro.param(name).unconstrained().grad


@pytest.mark.parametrize("elbo", [Trace_ELBO(), Trace_BetaELBO(beta=lambda step: 2.0 + step)])
def test_gradients_of_other_data(elbo):
    elbo.loss(model, guide, X)
    step = captured(Programs(model, guide, elbo))
    torch.manual_seed(1)
    found = step.evaluate(Call((2 * X,), {}))
    torch.manual_seed(1)
    assert float(found.loss) == pytest.approx(elbo.loss_and_grads(model, guide, 2 * X), rel=1e-12)
    views = step.gradients.views
    for name in ("w", "a"):
        torch.testing.assert_close(views[pyro.param(name)], gradient_of(name), rtol=1e-12, atol=0)


def test_parameters_are_those_with_a_gradient():
    Trace_ELBO().loss(model, guide, X)
    assert [
        each is pyro.param(name)
        for each, name in zip(
            captured(Programs(model, guide, Trace_ELBO())).parameters, ("a", "w"), strict=True
        )
    ] == [True, True]


def test_terms():
    elbo = Trace_BetaELBO(beta=3.0)
    elbo.loss(model, guide, X)
    found = captured(Programs(model, guide, elbo)).evaluate(Call((X,), {}))
    assert float(found.terms["distortion"] + 3.0 * found.terms["rate"]) == pytest.approx(float(found.loss))


def test_no_parameter():
    def fixed(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(NotCapturableError, match="no parameter has a gradient"):
        captured(Programs(fixed, lambda _: None, Trace_ELBO()))


def test_written_tensors():
    average = torch.zeros(())

    def tracking(x):
        average.mul_(0.5).add_(x.mean())
        model(x)

    def overwriting(x):
        guide(x.mul_(1.0))

    Trace_ELBO().loss(tracking, overwriting, X.clone())
    before = average.clone()
    step = captured(Programs(tracking, overwriting, Trace_ELBO()))
    assert torch.equal(average, before)
    call = Call((X,), {})
    assert [each is other for each, other in zip(step.written(call), (average, X), strict=True)] == [
        True,
        True,
    ]


def test_settings_tell_objectives_apart():
    elbo = Trace_BetaELBO(beta=1.0)
    programs = Programs(model, guide, elbo)
    before = programs.settings()
    elbo.beta = 2.0
    assert programs.settings() != before
    for beta in range(3, 9):
        elbo.beta = float(beta)
        last = programs.settings()
    elbo.beta = 20.0
    assert programs.settings() == last  # set again and again, they are inputs
    elbo.num_particles = 2
    assert programs.settings() != last
