"""(1 + λ) D + R: the beta objective of each estimator that is defined, times 1 + λ."""

import pyro
import pytest
import torch

from pyro_infomax.infer import (
    InfoMaxELBO,
    Renyi_InfoMaxELBO,
    Trace_BetaELBO,
    Trace_InfoMaxELBO,
    TraceEnum_BetaELBO,
    TraceEnum_InfoMaxELBO,
    TraceGraph_BetaELBO,
    TraceGraph_InfoMaxELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_InfoMaxELBO,
)
from pyro_infomax.poutine import weight

VARIANTS = ["plain", "subsampled", "scaled", "masked", "obs_masked", "guide_factor"]
SCORED = [Trace_InfoMaxELBO, TraceGraph_InfoMaxELBO, TraceEnum_InfoMaxELBO]
ALL = [*SCORED, TraceMeanField_InfoMaxELBO, Renyi_InfoMaxELBO]
WEIGHTINGS = [
    (Trace_InfoMaxELBO, Trace_BetaELBO),
    (TraceMeanField_InfoMaxELBO, TraceMeanField_BetaELBO),
    (TraceGraph_InfoMaxELBO, TraceGraph_BetaELBO),
    (TraceEnum_InfoMaxELBO, TraceEnum_BetaELBO),
]
COMBINATIONS = [
    *((weighting, "NormalPair", {}) for weighting in WEIGHTINGS),
    *((weighting, "DiscretePair", {}) for weighting in WEIGHTINGS if weighting[0] in SCORED),
    *((WEIGHTINGS[-1], "DiscretePair", {"enumerate": how}) for how in ("parallel", "sequential")),
]


class Silenced:
    """A pair whose data weigh 0."""

    def __init__(self, pair):
        self.start, self.guide, self.model = pair.start, pair.guide, weight(pair.model, observed=0.0)
        self.parameters = pair.parameters


@pytest.mark.parametrize("lam", [-0.75, 3.0])
@pytest.mark.parametrize(("weighting", "pair", "options"), COMBINATIONS)
def test_is_the_beta_objective_times_one_plus_lam(programs, weighting, pair, options, lam):
    """So that it is right where the beta objective is, which is held against closed forms."""

    def evaluated(objective, variant, **weight):
        torch.manual_seed(1)
        elbo = programs.many_particles(objective, num_particles=3, **weight)
        return programs.evaluate(elbo, getattr(programs, pair)(variant, **options))

    ours, theirs = weighting
    for variant in [*VARIANTS, "likelihood_scaled"]:
        beta = evaluated(theirs, variant, beta=1 / (1 + lam))
        expected = (1 + lam) * beta.loss, (1 + lam) * beta.gradient, beta.distortion, beta.rate
        assert programs.agree(evaluated(ours, variant, lam=lam), expected), variant


@pytest.mark.parametrize("variant", [*VARIANTS, "likelihood_scaled"])
def test_data_of_weight_zero_leave_the_rate_and_a_known_distortion(programs, variant):
    pair = programs.DiscretePair(variant, enumerate="parallel")
    expected = programs.reference(pair, observed=0.0)
    value = programs.evaluate(TraceEnum_InfoMaxELBO(lam=3.0, max_plate_nesting=1), Silenced(pair))
    assert programs.differing(value, expected) == []


@pytest.mark.parametrize("objective", ALL)
def test_the_default_is_three(objective):
    assert objective().lam == 3.0


def test_the_plain_name_is_the_mean_field_objective():
    assert InfoMaxELBO is TraceMeanField_InfoMaxELBO


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("lam", [-1.0, -2.0, float("nan"), float("inf"), torch.tensor(-1.0)])
def test_refuses_what_is_not_above_minus_one(objective, lam):
    with pytest.raises(ValueError, match="Expected lam > -1 but got"):
        objective(lam=lam)


@pytest.mark.parametrize("lam", ["3", None, [3.0]])
def test_refuses_what_is_no_number(lam):
    with pytest.raises(ValueError, match="Expected lam to be a number > -1 but got"):
        InfoMaxELBO(lam=lam)


def test_lam_can_be_set_and_is_checked(programs):
    elbo = InfoMaxELBO(lam=3.0)
    elbo.lam = 0.5
    torch.manual_seed(0)
    loss = elbo.loss(programs.NormalPair().model, programs.NormalPair().guide)
    assert loss == pytest.approx(1.5 * elbo.terms.distortion + elbo.terms.rate)
    with pytest.raises(ValueError, match="Expected lam > -1 but got -1"):
        elbo.lam = -1.0


@pytest.mark.parametrize("objective", [TraceMeanField_InfoMaxELBO, Trace_InfoMaxELBO])
def test_svi_takes_it(programs, objective):
    pair = programs.NormalPair()
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), objective(lam=1.0))
    losses = [svi.step() for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
