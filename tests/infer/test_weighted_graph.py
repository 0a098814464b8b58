"""TraceGraph objectives: what only the guide pays for, dependent sites, baselines."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.infer import TraceGraph_BetaELBO, TraceGraph_InfoMaxELBO


@pytest.mark.parametrize("beta", [0.0, 4.0])
@pytest.mark.parametrize("variant", ["score_factor", "global_factor", "auxiliary"])
def test_scores_what_only_the_guide_pays_for(programs, variant, beta):
    expected = programs.reference(programs.DiscretePair(variant), latent=beta)
    estimate = programs.estimated(programs.DiscretePair, variant, TraceGraph_BetaELBO, beta=beta)
    assert programs.beyond_error(estimate, expected) == []


def test_baselines_leave_the_gradient_as_it_is():
    """They subtract what the score function averages to 0, weighed or not."""

    def model():
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))

    def guide():
        posterior = dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.3)))
        pyro.sample("z", posterior, infer={"baseline": {"baseline_value": torch.full((50,), -3.0)}})

    def gradient():
        pyro.clear_param_store()
        elbo = TraceGraph_InfoMaxELBO(
            lam=3.0, num_particles=50, vectorize_particles=True, max_plate_nesting=0
        )
        elbo.loss_and_grads(model, guide)
        return pyro.param("logit").grad

    draws = torch.stack([gradient() for _ in range(20)])
    q = torch.tensor(0.3).sigmoid()
    gain = 0.5 * (1.5**2 - 0.5**2)  # log p(x|1) − log p(x|0)
    expected = q * (1 - q) * (0.3 - 4.0 * gain)
    assert abs(draws.mean() - expected) < 4 * draws.std() / 20**0.5


def test_has_no_loss_as_a_tensor(programs):
    pair = programs.NormalPair()
    with pytest.raises(NotImplementedError, match="has no differentiable loss: use loss_and_grads"):
        TraceGraph_BetaELBO().differentiable_loss(pair.model, pair.guide)


@pytest.mark.parametrize("enumerate", ["parallel", "sequential"])
@pytest.mark.parametrize("validate", [True, False])
def test_refuses_to_enumerate(programs, enumerate, validate):
    pair = programs.DiscretePair(enumerate=enumerate)
    with (
        pyro.validation_enabled(validate),
        pytest.raises(
            NotImplementedError, match=r"TraceGraph_BetaELBO cannot enumerate .* use a TraceEnum obj"
        ),
    ):
        TraceGraph_BetaELBO().loss_and_grads(pair.model, pair.guide)
