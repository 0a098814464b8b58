"""A site's own distribution as the prior of a vector."""

import pytest
import torch
from torch.distributions import Independent, Laplace, Normal, TransformedDistribution
from torch.distributions.transforms import StickBreakingTransform

from pyro_infomax.diagnostics._pair import SitePrior


def test_it_scores_what_the_distribution_scores() -> None:
    prior = SitePrior(Independent(Laplace(torch.tensor([[0.0, 1.0]]), 2.0), 1))
    z = torch.randn(4, 3, 2)
    each = Laplace(torch.tensor([0.0, 1.0]), 2.0).log_prob(z)
    torch.testing.assert_close(prior.log_prob_marginals(z), each)
    torch.testing.assert_close(prior.log_prob(z), each.sum(-1))
    assert prior.sample((4, 3)).shape == (4, 3, 2)
    assert prior.sample().shape == (2,)


def test_a_family_without_known_marginals_says_so() -> None:
    base = Independent(Normal(torch.zeros(1, 2), 1.0), 1)
    with pytest.raises(NotImplementedError, match="TransformedDistribution"):
        SitePrior(TransformedDistribution(base, StickBreakingTransform())).log_prob_marginals(
            torch.ones(4, 3)
        )
