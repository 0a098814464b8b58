"""All quantities of one set of draws, from one regression, with identities that hold to rounding."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import Final, final

import torch
from torch import Tensor

from pyro_infomax.distributions import ClosedForms, is_factorised, joint_forms, marginal_forms
from pyro_infomax.information._aggregate import check_leave_one_out
from pyro_infomax.information._control_variates import (
    ROUNDING,
    ControlVariates,
    CorrectedMean,
    affordable,
    covariates_of,
    in_a_row,
    nearest,
    trend_of,
)
from pyro_infomax.information._draws import Draws
from pyro_infomax.information._estimate import Estimate
from pyro_infomax.information._sites import sums_of

# ---- Every quantity over all latent dimensions together.

_DIMENSIONS_AT_ONCE: Final = 4
_SATURATED: Final = (
    "the information is within a nat of its cap ln N, and what takes it below is in few draws: the error may "
    "be too small, and the value says nothing of the population"
)


@final
class Account:
    r"""The nats of one set of draws, each term by itself, from one regression and one pass over the mixture.

    All terms are expectations of log-densities under the same draws, corrected by the same covariates.
    Therefore

    .. math:: R = I + \mathrm{KL}[q(z) \| p(z)], \qquad \mathrm{KL}[q(z) \| p(z)]
        = \mathrm{TC} + \sum_j \mathrm{KL}[q(z_j) \| p(z_j)] + \text{prior dependence}

    hold on the reported values to rounding.

    Args:
        draws: with a prior, for the quantities that compare with one.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> means = torch.linspace(-2, 2, 50, dtype=torch.float64)[:, None]
    >>> posterior = Independent(Normal(means, 0.5), 1)
    >>> prior = Independent(Normal(torch.zeros(1), torch.ones(1)), 1)
    >>> account = Account(Draws(posterior, prior, seed=0))
    >>> float(account.rate) - float(account.mutual_information) - float(account.marginal_kl) < 1e-12
    True
    """

    def __init__(self, draws: Draws) -> None:
        self.draws = draws

    @cached_property
    def rate(self) -> Estimate:
        """See :func:`~pyro_infomax.information.rate`."""
        return (self._posterior - self._prior).estimate("exact", "the rate of these data")

    @cached_property
    def mutual_information(self) -> Estimate:
        """See :func:`~pyro_infomax.information.mutual_information`."""
        target = "the mutual information of the representation under the empirical data distribution"
        return self._noted((self._posterior - self._aggregate).estimate("exact", target))

    @cached_property
    def leave_one_out(self) -> Estimate:
        """See :func:`~pyro_infomax.information.leave_one_out`."""
        check_leave_one_out(self.draws.data_size)
        target = "the mutual information of the representation in the population"
        return (self._posterior - self._left_out).estimate("upper", target)

    @cached_property
    def marginal_kl(self) -> Estimate:
        """See :func:`~pyro_infomax.information.marginal_kl`."""
        target = "the KL divergence of these data's aggregate posterior from the prior"
        return self._noted((self._aggregate - self._prior).estimate("exact", target))

    @cached_property
    def total_correlation(self) -> Estimate:
        """See :func:`~pyro_infomax.information.total_correlation`."""
        target = "the total correlation of these data's aggregate posterior"
        return (self._aggregate - self._aggregate_marginals.total).estimate("exact", target)

    @cached_property
    def conditional_total_correlation(self) -> Estimate:
        """See :func:`~pyro_infomax.information.conditional_total_correlation`."""
        target = "the total correlation within the posteriors of these data"
        return self._conditional_total_correlation.estimate("exact", target)

    @cached_property
    def redundancy(self) -> Estimate:
        r"""How much more the latent dimensions tell one by one than all together.

        .. math:: \sum_j \mathrm{I}[X; Z_j] - \mathrm{I}[X; Z] = \mathrm{TC}(Z) - \mathrm{TC}(Z|X)

        Positive where dimensions repeat each other, negative where they tell together what none of them does
        alone (synergy). For posteriors that are products it is the total correlation: independent latents are
        those whose informations add up.

        References:
            Schneidman, Bialek and Berry (2003), Synergy, redundancy, and independence in population codes.
            Watanabe (1960), Information theoretical analysis of multivariate correlation.
        """
        target = "what the dimensions tell of these data one by one beyond what they tell together"
        dependence = self._aggregate - self._aggregate_marginals.total
        return (dependence - self._conditional_total_correlation).estimate("exact", target)

    @cached_property
    def dimensionwise_kl(self) -> Estimate:
        """See :func:`~pyro_infomax.information.dimensionwise_kl`."""
        if self._aggregate_marginals.kl is None:
            _ = self._prior_marginals  # which says what is missing
        return in_a_row(self._aggregate_marginals.kl or [])

    @cached_property
    def prior_dependence(self) -> Estimate:
        """See :func:`~pyro_infomax.information.prior_dependence`."""
        target = "what the prior's own dependence adds to the marginal KL of these data"
        return self._prior_dependence.estimate("exact", target)

    def expectation(self, values: Tensor) -> CorrectedMean:
        """The mean over data and draws of further values of the same draws, by the same regression.

        Args:
            values: (samples, batch), or several at once (samples, batch, several), in nats.

        Raises:
            ValueError: for values of another shape.
        """
        if values.shape[:2] != self.draws.z.shape[:2]:
            raise ValueError(
                f"Expected values of shape {tuple(self.draws.z.shape[:2])}, (samples, batch), "
                f"but got {tuple(values.shape)}."
            )
        return self._plan.expectation(values.double())

    def known(self, exact: Tensor) -> CorrectedMean:
        """A mean over data and draws whose expectation for each datum is known.

        Args:
            exact: (batch,) or (batch, several), in nats.
        """
        return self._plan.known(exact)

    @cached_property
    def _plan(self) -> ControlVariates:
        chosen = next(each for each in covariates_of(self.draws) if affordable(each))
        alone = len(self.draws.z) == 1
        base = self.draws.coordinates.base
        neighbours, trend = (nearest(base), trend_of(base)) if alone else (None, None)
        return ControlVariates(chosen, neighbours=neighbours, trend=trend)

    @cached_property
    def _forms(self) -> ClosedForms:
        return joint_forms(self.draws.posterior, self.draws.prior)

    @cached_property
    def _marginal_forms(self) -> ClosedForms:
        return marginal_forms(self.draws.posterior, self.draws.prior)

    @cached_property
    def _posterior(self) -> CorrectedMean:
        """E log q(z|x)."""
        draws = self.draws
        return _of_posterior(self._plan, self._forms, draws.log_posterior, lambda: draws.log_prior)

    @cached_property
    def _posterior_marginals(self) -> CorrectedMean:
        draws = self.draws
        own = draws.log_posterior_marginals
        return _of_posterior(self._plan, self._marginal_forms, own, lambda: draws.log_prior_marginals)

    @property
    def _conditional_total_correlation(self) -> CorrectedMean:
        if is_factorised(self.draws.posterior):
            return self._nothing
        return self._posterior - self._posterior_marginals.sum()

    @property
    def _prior_dependence(self) -> CorrectedMean:
        if is_factorised(self.draws.prior):
            return self._nothing
        found = self._prior_marginals.sum() - self._prior
        if not bool(found.datum.isfinite().all()):
            raise NotImplementedError(
                "Expected posteriors under which the prior's log-density has a mean but it is infinite, and "
                "so is that of its marginals: their difference is no number."
            )
        return found

    @property
    def _nothing(self) -> CorrectedMean:
        return self._plan.known(self.draws.log_posterior.new_zeros(self.draws.data_size))

    @cached_property
    def _prior(self) -> CorrectedMean:
        """E log p(z)."""
        draws = self.draws
        return _of_prior(
            self._plan, self._forms, self._posterior, lambda: draws.log_prior - draws.log_posterior
        )

    @cached_property
    def _prior_marginals(self) -> CorrectedMean:
        draws = self.draws
        return _of_prior(
            self._plan,
            self._marginal_forms,
            self._posterior_marginals,
            lambda: draws.log_prior_marginals - draws.log_posterior_marginals,
        )

    @cached_property
    def _aggregate(self) -> CorrectedMean:
        """E log q(z)."""
        draws = self.draws
        difference = self._plan.expectation(draws.log_aggregate - draws.log_posterior)
        found = self._posterior + difference
        return found.biased(self._at_most_kl(self.self_vote, found, lambda: self._prior))

    @cached_property
    def _left_out(self) -> CorrectedMean:
        draws = self.draws
        difference = self._plan.expectation(draws.log_leave_one_out - draws.log_posterior)
        return (self._posterior + difference).biased(-self.self_vote)

    @cached_property
    def _aggregate_marginals(self) -> "_AggregateMarginals":
        draws, own, prior = self.draws, self._posterior_marginals, self._known_prior_marginals
        target = "the KL divergence of each marginal of these data's aggregate posterior from the prior's"
        # Few dimensions at a time: all of them at once would take many times the memory of the posteriors
        totals, kl = [], []
        for start in range(0, draws.z.shape[-1], _DIMENSIONS_AT_ONCE):
            some = slice(start, start + _DIMENSIONS_AT_ONCE)
            log_aggregate = draws.log_aggregate_marginals[..., some]
            difference = self._plan.expectation(log_aggregate - draws.log_posterior_marginals[..., some])
            gap = half_mean(log_aggregate - draws.log_leave_one_out_marginals[..., some])
            found = own.some(some) + difference
            if prior is not None:
                divergence = found - prior.some(some)
                gap = self._at_most(gap, divergence)
                kl.append(replace(divergence, bias=gap - prior.bias[some]).estimate("exact", target))
            totals.append(found.biased(gap).sum())
        return _AggregateMarginals(reduce(add, totals), None if prior is None else kl)

    @property
    def _known_prior_marginals(self) -> CorrectedMean | None:
        try:
            return None if self.draws.prior is None else self._prior_marginals
        except NotImplementedError:
            return None

    @property
    def self_vote(self) -> Tensor:
        """What each datum's own component adds to E log q(z), to leading order: the bias of N data, ()."""
        return half_mean(self.draws.log_aggregate - self.draws.log_leave_one_out)

    def _noted(self, estimate: Estimate) -> Estimate:
        """With a note where the information nears its cap: what takes it from there, few draws see."""
        information = (self._posterior - self._aggregate).datum.mean()
        saturated = bool(information > math.log(self.draws.data_size) - 1)
        if estimate.note is not None or not saturated or not bool(estimate.standard_error > ROUNDING):
            return estimate
        return replace(estimate, note=_SATURATED)

    def _at_most_kl(
        self, bias: Tensor, aggregate: CorrectedMean, prior: Callable[[], CorrectedMean]
    ) -> Tensor:
        """The bias of E log q(z): at most the KL from the prior, for the population's is not negative."""
        if self.draws.prior is None:
            return bias
        try:
            return self._at_most(bias, aggregate - prior())
        except NotImplementedError:
            return bias

    @staticmethod
    def _at_most(bias: Tensor, kl: CorrectedMean) -> Tensor:
        return torch.minimum(bias, kl.datum.mean(0).clamp(min=0))


@final
@dataclass(frozen=True)
class _AggregateMarginals:
    """E log q(z_j): summed over j, and as divergences from the prior's marginals, where these are known."""

    total: CorrectedMean
    kl: list[Estimate] | None


def half_mean(gap: Tensor) -> Tensor:
    """The leading bias of E log q(z) at N data: the own component adds it, its absence takes off as much."""
    return gap.mean((0, 1)) / 2


def _of_posterior(
    plan: ControlVariates, forms: ClosedForms, own: Tensor, prior: Callable[[], Tensor]
) -> CorrectedMean:
    """E log q(z|x): in closed form, else paired with the prior's closed form, else from the draws."""
    if forms.log_posterior is not None:
        return plan.known(forms.log_posterior)
    if forms.log_prior is not None:
        return plan.known(forms.log_prior) + plan.expectation(own - prior())
    return plan.expectation(own)


def _of_prior(
    plan: ControlVariates, forms: ClosedForms, posterior: CorrectedMean, difference: Callable[[], Tensor]
) -> CorrectedMean:
    """E log p(z): in closed form, else from the rate's, else from paired differences."""
    if forms.log_prior is not None:
        return plan.known(forms.log_prior)
    if forms.rate is not None:
        return posterior - plan.known(forms.rate)
    found = posterior + plan.expectation(difference())
    return found if forms.endless is None else found.endless(forms.endless)


# ---- Every quantity of one set of draws, site by site.


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
    def _rate(self) -> CorrectedMean:
        draws = self.draws
        if self.log_prior is None:
            raise ValueError(
                "Expected log-densities of the sites under the model but got None; pass log_prior."
            )
        whole = joint_forms(draws.posterior, draws.prior).rate
        if draws.site_sizes is None or whole is None:
            return self.account.expectation(draws.log_posterior_sites - self.log_prior)
        if is_factorised(draws.posterior) and is_factorised(draws.prior):
            each = marginal_forms(draws.posterior, draws.prior).rate
            if each is not None:
                return self.account.known(sums_of(each, draws.site_sizes))
        # Sites that depend on each other are drawn, and the last has what is left of the whole
        first = self.account.expectation((draws.log_posterior_sites - self.log_prior)[..., :-1])
        return first.followed_by(self.account.known(whole) - first.sum())

    @cached_property
    def _information(self) -> CorrectedMean:
        draws = self.draws
        prefixes = draws.log_aggregate_prefixes
        found = self.account.expectation(draws.log_posterior_sites - _steps(prefixes))
        gap = half_mean(prefixes - draws.log_leave_one_out_prefixes)  # (sites,)
        return found.biased(-_steps(gap))


def _steps(sums: Tensor) -> Tensor:
    """From sums over the first sites to each site's own part."""
    return sums.diff(dim=-1, prepend=sums.new_zeros(*sums.shape[:-1], 1))
