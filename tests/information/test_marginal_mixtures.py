"""Dimensions side by side."""

import math

import torch
from torch.distributions import Normal

from pyro_infomax.information import _mixture_engine as marginal_mixtures
from pyro_infomax.information._mixture_engine import MarginalMixtures


def test_every_dimension_is_its_own_mixture() -> None:
    loc, scale = torch.randn(80, 3), torch.rand(80, 3) + 0.2
    z, index = torch.randn(10, 3), torch.arange(10)
    found = MarginalMixtures(loc, scale).evaluate(z, index)
    table = Normal(loc, scale).log_prob(z[:, None])  # (points, batch, latent)
    torch.testing.assert_close(found.log_prob, table.logsumexp(1) - math.log(80))
    table[index, index] = -torch.inf
    torch.testing.assert_close(found.leave_one_out, table.logsumexp(1) - math.log(79))


def test_without_an_index_nothing_is_left_out() -> None:
    found = MarginalMixtures(torch.zeros(4, 2), torch.ones(4, 2)).evaluate(torch.zeros(3, 2), None)
    assert found.leave_one_out is None
    assert found.log_prob.shape == (3, 2)


def test_plans_are_kept_for_another_call_only_while_they_are_small(monkeypatch) -> None:
    loc, scale, z = torch.randn(80, 3), torch.ones(80, 3), torch.randn(10, 3)
    keeping, forgetting = MarginalMixtures(loc, scale), MarginalMixtures(loc, scale)
    expected = keeping.evaluate(z, None).log_prob
    monkeypatch.setattr(marginal_mixtures, "_KEPT", 0)
    torch.testing.assert_close(forgetting.evaluate(z, None).log_prob, expected, rtol=0, atol=0)
    assert len(keeping._kept) == 3
    assert not forgetting._kept
