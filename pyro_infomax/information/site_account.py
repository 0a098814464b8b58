"""Every quantity of one set of draws, site by site."""

from functools import cached_property
from typing import final

from torch import Tensor

from pyro_infomax.information.account import Account, half_mean
from pyro_infomax.information.closed_forms import joint_forms, marginal_forms
from pyro_infomax.information.control_variates import Expectation
from pyro_infomax.information.estimate import Estimate
from pyro_infomax.information.prefixes import sums_of


@final
class SiteAccount:
    r"""What each site adds to the account of all, by the chain rule in the order of the posterior's sites.

    .. math::
        R_s &= \mathrm{E} [\log q(z_s \mid z_{<s}, x) - \log p(z_s \mid \ldots)] \\
        I_s &= \mathrm{I}[X; Z_s \mid Z_{<s}]
            = \mathrm{E} [\log q(z_s \mid z_{<s}, x) - \log q(z_s \mid z_{<s})] \\
        \mathrm{KL}_s &= R_s - I_s

    with the exact mixtures :math:`q(z_s \mid z_{<s}) = q(z_{\le s}) / q(z_{<s})`. The sums over the sites are
    rate, information and marginal KL of the account, to rounding.

    Reference: Cover and Thomas (2006), Elements of information theory, sections 2.5 and 4.2, for the chain
    rules.

    Args:
        account: of draws that know the sizes of their sites.
        log_prior: log p(z_s | ...) of the draws under each site's own density in the model, whatever it
            depends on there, (samples, batch, sites); None for the information alone.
    """

    def __init__(self, account: Account, log_prior: Tensor | None = None) -> None:
        self.account = account
        self.draws = account.draws
        self.log_prior = log_prior

    @property
    def rate(self) -> Estimate:
        """One a site, not less than 0 where the model draws the sites in the same order."""
        return self._rate.estimate("exact", "the rate of each site of these data, given those before it")

    @property
    def mutual_information(self) -> Estimate:
        """One a site, not less than 0."""
        target = "what each site tells about the datum beyond those before it, under these data"
        return self._information.estimate("exact", target)

    @property
    def marginal_kl(self) -> Estimate:
        """One a site: KL[q(z_s|z_<s) ‖ p(z_s|z_<s)] where the model draws the sites in the same order."""
        target = "what each site adds to the marginal KL of these data"
        return (self._rate - self._information).estimate("exact", target)

    @cached_property
    def _rate(self) -> Expectation:
        draws = self.draws
        if self.log_prior is None:
            raise ValueError(
                "Expected log-densities of the sites under the model but got None; pass log_prior."
            )
        if draws.site_sizes is not None and joint_forms(draws.posterior, draws.prior).rate is not None:
            each = marginal_forms(draws.posterior, draws.prior).rate
            if each is not None:
                return self.account.known(sums_of(each, draws.site_sizes))
        return self.account.expectation(draws.log_posterior_sites - self.log_prior)

    @cached_property
    def _information(self) -> Expectation:
        draws = self.draws
        prefixes = draws.log_aggregate_prefixes
        found = self.account.expectation(draws.log_posterior_sites - _steps(prefixes))
        gap = half_mean(prefixes - draws.log_leave_one_out_prefixes)  # (sites,)
        return found.biased(-_steps(gap))


def _steps(sums: Tensor) -> Tensor:
    """From sums over the first sites to each site's own part."""
    return sums.diff(dim=-1, prepend=sums.new_zeros(*sums.shape[:-1], 1))
