import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_infomax.priors import check_prior, to_prior


def test_the_default_is_the_standard_normal():
    z = torch.randn(5, 3)
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(to_prior(None, 3)().log_prob(z), expected)


def test_the_default_follows_its_module():
    prior = to_prior(None, 3).to(torch.float32)
    assert prior().sample().dtype == torch.float32
    assert prior.state_dict() == {}


def test_a_distribution_is_kept():
    given = dist.Normal(torch.ones(3), 2.0).to_event(1)
    assert to_prior(given, 3)() is given


def test_modules_and_functions_are_called():
    class Wide(nn.Module):
        def forward(self):
            return dist.Normal(torch.zeros(3), 5.0).to_event(1)

    module = Wide()
    assert to_prior(module, 3) is module
    assert to_prior(lambda: module(), 3)().stddev[0] == 5.0


@pytest.mark.parametrize(
    "prior",
    [dist.Normal(torch.zeros(3), 1.0), dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.Normal(0.0, 1.0)],
)
def test_other_shapes_are_refused(prior):
    with pytest.raises(ValueError, match=r"Expected a prior with batch shape \(\) and event shape \(3,\)"):
        to_prior(prior, 3)


def test_what_is_no_pyro_distribution_is_refused():
    with pytest.raises(ValueError, match=r"pyro\.distributions but got Independent"):
        to_prior(torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), 1.0), 1), 3)
    with pytest.raises(ValueError, match=r"Expected prior to be None.*'normal'"):
        to_prior("normal", 3)
    with pytest.raises(ValueError, match=r"pyro\.distributions but got int"):
        check_prior(3, 3)
