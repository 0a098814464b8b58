"""The power limit holds for every value of the parameters."""

import math
import pickle

import pyro
import pytest
import torch

from pyro_infomax.infer import PowerLimitedNormal


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1000.0])
def test_the_power_is_never_above_the_limit(spread):
    source = PowerLimitedNormal(5, power=3.0)
    with torch.no_grad():
        for _ in range(50):
            source.share_logits.copy_(spread * torch.randn(6))
            assert source.variances.sum() <= 3.0


def test_the_limit_holds_in_single_precision_and_no_variance_vanishes():
    source = PowerLimitedNormal(4, power=3.0).float()
    with torch.no_grad():
        for _ in range(300):
            source.share_logits.copy_(torch.cat([3 * torch.randn(4), torch.tensor([-30.0])]))
            assert source.variances.sum() <= 3.0
        source.share_logits.copy_(torch.tensor([300.0, 0.0, 0.0, 0.0, 0.0]))
    assert source().rsample().isfinite().all()


def test_power_may_stay_unused():
    source = PowerLimitedNormal(2, power=3.0)
    torch.testing.assert_close(source.variances.detach(), torch.tensor([1.0, 1.0]))
    with torch.no_grad():
        source.share_logits[-1] = 20.0
    assert source.variances.sum() < 1e-7


def test_the_distribution_has_these_variances():
    source = PowerLimitedNormal(2, power=3.0)
    with torch.no_grad():
        source.share_logits.copy_(torch.tensor([1.0, 0.0, -1.0]))
    x = source()
    assert x.event_shape == (2,)
    torch.testing.assert_close(x.variance, 3.0 * torch.tensor([1.0, 0.0, -1.0]).softmax(-1)[:2])
    torch.testing.assert_close(x.mean, torch.zeros(2))


def test_gradients_reach_all_shares():
    source = PowerLimitedNormal(2, power=3.0)
    source.variances[0].backward()
    assert (source.share_logits.grad != 0).all()


def test_it_is_a_module_that_can_be_registered_and_pickled():
    source = PowerLimitedNormal(2, power=3.0)
    pyro.module("source", source)
    assert "source$$$share_logits" in pyro.get_param_store()
    assert pickle.loads(pickle.dumps(PowerLimitedNormal(2, power=3.0))).power == 3.0


@pytest.mark.parametrize("dim", [0, -1])
def test_a_wrong_number_of_dimensions_is_refused(dim):
    with pytest.raises(ValueError, match=f"Expected dim >= 1 but got {dim}"):
        PowerLimitedNormal(dim, power=1.0)


@pytest.mark.parametrize("power", [0.0, -1.0, math.inf, math.nan])
def test_a_wrong_power_is_refused(power):
    with pytest.raises(ValueError, match=f"Expected a positive, finite power but got {power}"):
        PowerLimitedNormal(1, power=power)
