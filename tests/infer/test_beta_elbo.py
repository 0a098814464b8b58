"""D + β R: losses, gradients and terms against closed forms, for each estimator that is defined."""

import pytest
import torch

from pyro_infomax.infer import (
    BetaELBO,
    Trace_BetaELBO,
    TraceEnum_BetaELBO,
    TraceGraph_BetaELBO,
    TraceMeanField_BetaELBO,
)

BETAS = [0.0, 4.0]
VARIANTS = ["plain", "subsampled", "scaled", "masked", "obs_masked", "guide_factor"]
# A rate that costs nothing is left out in one place, whatever the variant
DRAWN = [*((variant, 4.0) for variant in VARIANTS), ("plain", 0.0), ("subsampled", 0.0)]
SCORED = [Trace_BetaELBO, TraceGraph_BetaELBO, TraceEnum_BetaELBO]


@pytest.mark.parametrize(("variant", "beta"), DRAWN)
@pytest.mark.parametrize("objective", [*SCORED, TraceMeanField_BetaELBO])
def test_reparameterised(programs, objective, variant, beta):
    expected = programs.reference(programs.NormalPair(variant), latent=beta)
    estimate = programs.estimated(programs.NormalPair, variant, objective, beta=beta)
    assert programs.beyond_error(estimate, expected) == []


@pytest.mark.parametrize(("variant", "beta"), DRAWN)
@pytest.mark.parametrize("objective", SCORED)
def test_score_function(programs, objective, variant, beta):
    expected = programs.reference(programs.DiscretePair(variant), latent=beta)
    estimate = programs.estimated(programs.DiscretePair, variant, objective, beta=beta)
    assert programs.beyond_error(estimate, expected) == []


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("variant", [*VARIANTS, "likelihood_scaled"])
@pytest.mark.parametrize("enumerate", ["parallel", "sequential"])
def test_enumerated(programs, enumerate, variant, beta):
    pair = programs.DiscretePair(variant, enumerate=enumerate)
    expected = programs.reference(pair, latent=beta)
    value = programs.evaluate(TraceEnum_BetaELBO(beta=beta, max_plate_nesting=1), pair)
    assert programs.differing(value, expected) == []


@pytest.mark.parametrize("objective", [*SCORED, TraceMeanField_BetaELBO])
def test_the_default_is_four(objective):
    assert objective().beta == 4.0


def test_the_plain_name_is_the_mean_field_objective():
    assert BetaELBO is TraceMeanField_BetaELBO


@pytest.mark.parametrize("objective", [*SCORED, TraceMeanField_BetaELBO])
@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf"), torch.tensor(-0.1)])
def test_refuses_what_is_negative_or_not_finite(objective, beta):
    with pytest.raises(ValueError, match="Expected beta >= 0 but got"):
        objective(beta=beta)


@pytest.mark.parametrize("beta", ["4", None, [4.0]])
def test_refuses_what_is_no_number(beta):
    with pytest.raises(ValueError, match="Expected beta to be a number >= 0 but got"):
        BetaELBO(beta=beta)


def test_names_the_site_of_a_bad_weight():
    with pytest.raises(ValueError, match=r"Expected beta\['z'\] >= 0 but got -1.0"):
        BetaELBO(beta={"z": -1.0})


def test_beta_can_be_set_and_is_checked(programs):
    elbo = BetaELBO(beta=4.0)
    elbo.beta = 0.5
    loss = elbo.loss(programs.NormalPair().model, programs.NormalPair().guide)
    assert loss == pytest.approx(elbo.terms.distortion + 0.5 * elbo.terms.rate)
    with pytest.raises(ValueError, match="Expected beta >= 0 but got -1"):
        elbo.beta = -1.0
