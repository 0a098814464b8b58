"""Trace objectives: score functions of what only the guide pays for, and the loss as a tensor."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.infer import Trace_BetaELBO, Trace_InfoMaxELBO


@pytest.mark.parametrize("beta", [0.0, 4.0])
@pytest.mark.parametrize("variant", ["score_factor", "global_factor", "auxiliary"])
def test_scores_what_only_the_guide_pays_for(programs, variant, beta):
    expected = programs.reference(programs.DiscretePair(variant), latent=beta)
    estimate = programs.estimated(programs.DiscretePair, variant, Trace_BetaELBO, beta=beta)
    assert programs.beyond_error(estimate, expected) == []


def test_takes_reparameterised_auxiliary_sites(programs):
    expected = programs.reference(programs.NormalPair("auxiliary"), observed=4.0)
    estimate = programs.estimated(programs.NormalPair, "auxiliary", Trace_InfoMaxELBO, lam=3.0)
    assert programs.beyond_error(estimate, expected) == []


def test_a_score_reaches_the_costs_of_other_plates():
    """A global coin in the guide pays for factors in a plate."""

    def model():
        pyro.sample("z", dist.Bernoulli(0.5))
        with pyro.plate("three", 3):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(3))

    def guide():
        z = pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.3))))
        with pyro.plate("three", 3):
            pyro.factor("f", z * torch.tensor([1.0, 2.0, 3.0]), has_rsample=True)

    elbo = Trace_BetaELBO(beta=2.0, num_particles=200, vectorize_particles=True, max_plate_nesting=1)

    def gradient():
        pyro.clear_param_store()
        elbo.loss_and_grads(model, guide)
        return pyro.param("logit").grad

    draws = torch.stack([gradient() for _ in range(20)])
    q = torch.tensor(0.3).sigmoid()
    expected = 2.0 * q * (1 - q) * (6.0 + 0.3)  # d/dlogit of 6 q − H(q)
    assert abs(draws.mean() - expected) < 5 * draws.std() / 20**0.5 < 0.5


@pytest.mark.parametrize("pair", ["NormalPair", "DiscretePair"])
def test_the_loss_as_a_tensor_has_the_same_value_and_gradient(programs, pair):
    pair = getattr(programs, pair)("guide_factor")
    torch.manual_seed(1)
    expected = programs.evaluate(Trace_InfoMaxELBO(lam=3.0, num_particles=3), pair)
    pyro.clear_param_store()
    torch.manual_seed(1)
    loss = Trace_InfoMaxELBO(lam=3.0, num_particles=3).differentiable_loss(pair.model, pair.guide)
    loss.backward()
    gradients = [value.unconstrained().grad for value in pyro.get_param_store().values()]
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
    total = sum(gradient.sum().item() for gradient in gradients)
    assert total == pytest.approx(expected.gradient.sum().item())
