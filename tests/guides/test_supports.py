import pytest
import torch
from torch.distributions import Binomial, constraints

from pyro_infomax.guides import LatentSite
from pyro_infomax.guides._prototype import check_continuous, check_discrete, number_of_categories


def site(support):
    return LatentSite("y", support, torch.Size([]))


@pytest.mark.parametrize(
    ("support", "categories"),
    [
        (constraints.integer_interval(0, 4), 5),
        (constraints.independent(constraints.integer_interval(0, 4), 1), 5),
        (Binomial(torch.tensor([3.0, 7.0]), 0.5).support, 8),
        (constraints.integer_interval(1, 4), None),
        (constraints.boolean, None),
        (constraints.one_hot, None),
        (constraints.nonnegative_integer, None),
        (constraints.interval(0, 4), None),
        (constraints.real, None),
    ],
    ids=str,
)
def test_the_number_of_categories(support, categories):
    assert number_of_categories(support) == categories


def test_a_discrete_site_is_sent_to_the_discrete_family():
    check_continuous(site(constraints.positive), "AmortizedFlow")
    with pytest.raises(
        NotImplementedError, match=r"AmortizedFlow\(.*heads=\{'y': AmortizedDiscrete\}\).*TraceEnum"
    ):
        check_continuous(site(constraints.boolean), "AmortizedFlow")


def test_a_continuous_site_is_sent_to_another_family():
    check_discrete(site(constraints.boolean), "AmortizedDiscrete")
    with pytest.raises(NotImplementedError, match=r"'y' is continuous.*use AmortizedNormal, with heads="):
        check_discrete(site(constraints.positive), "AmortizedDiscrete")


def test_an_infinite_site_is_sent_to_a_distribution_of_its_own():
    with pytest.raises(NotImplementedError, match=r"heads=\{'y': dist.Poisson\}\), or another distribution"):
        check_continuous(site(constraints.nonnegative_integer), "AmortizedNormal")
