"""What the aggregate posterior would gain as the prior."""

from dataclasses import replace
from typing import Any, Final

import torch

from pyro_infomax.information.account import Account
from pyro_infomax.information.draws import Draws
from pyro_infomax.information.estimate import Estimate
from pyro_infomax.information.mixtures import Mixtures, WholeMixtures

_ON_TRAINING_DATA: Final = (
    "the ELBO that a better prior could win on the training data, at least R - ln N and so inflated where "
    "I nears ln N"
)
_ON_HELD_OUT_DATA: Final = (
    "the ELBO that the aggregate posterior of the training data would win on held-out data as the prior"
)


def prior_gap(
    posterior: Any, prior: Any, *, holdout: Any = None, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""The ELBO that a better prior could win.

    On the training data the best prior is their aggregate posterior :math:`q(z)`, and with it the ELBO rises
    by

    .. math:: \mathrm{KL}[q(z) \| p(z)] .

    This mixture has a component at each training datum. What it keeps on other data is

    .. math:: \mathrm{E}_{q_\text{test}(z)} [\log q_\text{train}(z) - \log p(z)]
        = \mathrm{KL}[q_\text{test}(z) \| p(z)] - \mathrm{KL}[q_\text{test}(z) \| q_\text{train}(z)] ,

    which is negative where the training data say less about held-out latents than the prior does.

    Reference: Tomczak and Welling (2018), VAE with a VampPrior, for the aggregate posterior as the best
    prior; Rosca, Lakshminarayanan and Mohamed (2018), Distribution matching in variational inference.

    Args:
        posterior: the posteriors of the training data, batch shape (N,), event shape (d,).
        prior: batch shape (), event shape (d,).
        holdout: the posteriors of held-out data under the same encoder, batch shape (M,), event shape (d,);
            None for the gap on the training data.
        num_samples: draws of z for each datum, of the held-out ones where there are any.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "exact".

    Raises:
        ValueError: for shapes that do not fit, or fewer than one draw.

    >>> from torch.distributions import Independent, Normal
    >>> prior = Independent(Normal(torch.zeros(1), 1.0), 1)
    >>> train, test = (Independent(Normal(torch.full((200, 1), mean), 1.0), 1) for mean in (1.0, 0.0))
    >>> print(prior_gap(train, prior, seed=0))  # KL[N(1, 1) || N(0, 1)]
    0.500 ± 0.000 (exact)
    >>> print(prior_gap(train, prior, holdout=test, seed=0))
    -0.500 ± 0.000 (exact)
    """
    draws = Draws(posterior if holdout is None else holdout, prior, num_samples=num_samples, seed=seed)
    account = Account(draws)
    return training_gap(account) if holdout is None else held_out_gap(account, WholeMixtures(posterior))


def training_gap(account: Account) -> Estimate:
    """The gap on the data of the account, by their own mixture."""
    return replace(account.marginal_kl, target=_ON_TRAINING_DATA)


def held_out_gap(account: Account, training: Mixtures) -> Estimate:
    """The gap on the held-out data of the account, by the mixture of the training data.

    Raises:
        ValueError: if the two do not share their latent dimensions.
    """
    draws = account.draws
    _check_dimensions(training.latent_dim, draws.aggregate.latent_dim)
    log_prior = draws.log_prior
    with torch.no_grad():
        log_training = training.joint(draws.z.flatten(0, 1)).log_prob.unflatten(0, draws.z.shape[:2])
    # the prior stays in the difference: it takes noise out where too few draws allow no regression
    return account.expectation(log_training - log_prior).estimate("exact", _ON_HELD_OUT_DATA)


def _check_dimensions(training: int, holdout: int) -> None:
    if training != holdout:
        raise ValueError(
            f"Expected held-out posteriors over the {training} latent dimensions of the training data but "
            f"got {holdout}; take both from one encoder."
        )
