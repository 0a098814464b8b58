"""Two independent causes of one effect, A -> C <- B: everything by enumeration."""

from typing import final

import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_infomax.oracles._checks import shaped


@final
class ExplainingAway:
    r"""Two binary causes that are independent until their common effect is seen.

    .. math::

        p(a, b, c) = p(a)\, p(b)\, p(c \mid a, b)

    Given C = 1 the causes are in general dependent: learning of one explains the effect and makes the other
    less needed. They stay independent exactly if the table factorises, :math:`P(C=1|a,b) = f(a) g(b)`, on the
    causes that can occur. Every property is a float64 tensor; informations and divergences are in nats.

    References:
        Pearl (1988), *Probabilistic Reasoning in Intelligent Systems*.
        Wellman and Henrion (1993), *Explaining "Explaining Away"*.

    Args:
        p_a: P(A = 1).
        p_b: P(B = 1).
        p_c_given_ab: P(C = 1 | A = a, B = b), a (2, 2) table indexed [a, b].

    Raises:
        ValueError: If a probability is outside [0, 1], the table is not 2 by 2, or C = 1 is impossible.

    Example:
        >>> wet = ExplainingAway(p_a=0.5, p_b=0.5, p_c_given_ab=[[0.0, 1.0], [1.0, 1.0]])  # rain, sprinkler
        >>> print(f"{wet.p_b_given_c:.3f} falls to {wet.p_b_given_ca:.3f}")
        0.667 falls to 0.500
        >>> print(f"{wet.conditional_mutual_information:.4f}")
        0.1744
    """

    def __init__(self, p_a: Tensor | float, p_b: Tensor | float, p_c_given_ab: ArrayLike) -> None:
        self.p_a = _probabilities("p_a", p_a, ())
        self.p_b = _probabilities("p_b", p_b, ())
        self.p_c_given_ab = _probabilities("p_c_given_ab", p_c_given_ab, (2, 2))  # [a, b]
        if not self.evidence > 0:
            raise ValueError("Expected P(C = 1) > 0 but got 0: let causes that can occur have the effect.")

    @property
    def prior(self) -> Tensor:
        """P(A, B), (2, 2), indexed [a, b]: the product of its margins."""
        return torch.outer(_both(self.p_a), _both(self.p_b))

    @property
    def evidence(self) -> Tensor:
        """P(C = 1)."""
        return (self.prior * self.p_c_given_ab).sum()

    @property
    def posterior(self) -> Tensor:
        """P(A, B | C = 1), (2, 2), indexed [a, b]."""
        return self.prior * self.p_c_given_ab / self.evidence

    @property
    def p_a_given_c(self) -> Tensor:
        """P(A = 1 | C = 1)."""
        return self.posterior[1].sum()

    @property
    def p_b_given_c(self) -> Tensor:
        """P(B = 1 | C = 1)."""
        return self.posterior[:, 1].sum()

    @property
    def p_b_given_ca(self) -> Tensor:
        """P(B = 1 | C = 1, A = 1).

        Raises:
            ValueError: If A = 1 is impossible given C = 1.
        """
        if not self.p_a_given_c > 0:
            raise ValueError("Expected P(A = 1 | C = 1) > 0 but got 0: P(B | C, A) is not defined.")
        return self.posterior[1, 1] / self.p_a_given_c

    @property
    def conditional_mutual_information(self) -> Tensor:
        """I(A; B | C = 1), the dependence that the effect brings between its causes."""
        a, b = self.posterior.sum(1), self.posterior.sum(0)
        return _entropy(a) + _entropy(b) - _entropy(self.posterior)

    @property
    def mutual_information(self) -> Tensor:
        """I(A, B; C), what the causes tell of their effect, whichever value it takes."""
        noise = _entropy(_both(self.p_c_given_ab), dim=0)  # H(C | a, b), (2, 2)
        return _entropy(_both(self.evidence)) - (self.prior * noise).sum()

    @property
    def mean_field_kl(self) -> Tensor:
        r"""The least :math:`KL[q(a) q(b) \| P(A, B | C = 1)]`: the ELBO that any mean-field guide must lose.

        The global minimum over both factors. Where the posterior has a zero, q must put one cause on a single
        value, and then loses no more than the other values' probability.
        """
        if (self.posterior > 0).all():
            return _interior(self.posterior)
        rows, columns = self.posterior.sum(1), self.posterior.sum(0)
        return -torch.cat([rows, columns]).max().log()

    @property
    def inclusive_mean_field_kl(self) -> Tensor:
        r"""The least :math:`KL[P(A, B | C = 1) \| q(a) q(b)]`.

        The best q is the product of the posterior's margins, so this equals
        ``conditional_mutual_information``.
        """
        return self.conditional_mutual_information

    def model(self, c: Tensor | float | None = 1.0) -> None:
        """The network as a Pyro program with the Bernoulli sites "a", "b" and "c", ready for enumeration.

        Args:
            c: The observed value of the effect; None leaves it latent.
        """
        a = pyro.sample("a", dist.Bernoulli(self.p_a))
        b = pyro.sample("b", dist.Bernoulli(self.p_b))
        effect = dist.Bernoulli(self.p_c_given_ab[a.long(), b.long()])
        pyro.sample("c", effect, obs=None if c is None else torch.as_tensor(c, dtype=torch.float64))


def _both(p: Tensor) -> Tensor:
    return torch.stack([1 - p, p])


def _entropy(p: Tensor, dim: int | None = None) -> Tensor:
    return torch.special.entr(p).sum(dim)


def _interior(posterior: Tensor) -> Tensor:
    """The least KL over q(a) within (0, 1), by golden section in every cell of a grid at once.

    One cause's log-odds is all there is to search, since the other's best factor has a closed form. The
    objective can have two minima, so a descent from a single start may miss the global one.
    """
    logits = torch.linspace(-40, 40, 801, dtype=torch.float64)
    low, high = logits[:-1], logits[1:]
    golden = (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        keep_left = _profile(left, posterior) < _profile(right, posterior)
        low, high = torch.where(keep_left, low, left), torch.where(keep_left, right, high)
    return _profile((low + high) / 2, posterior).min()


def _profile(logits: Tensor, posterior: Tensor) -> Tensor:
    """min over q(b) of KL[q(a) q(b) || posterior], for each log-odds of A = 1."""
    q_a = torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=-1)  # (..., a)
    return -_entropy(q_a, dim=-1) - torch.logsumexp(q_a @ posterior.log(), dim=-1)


def _probabilities(name: str, value: ArrayLike | Tensor, shape: tuple[int, ...]) -> Tensor:
    tensor = shaped(name, torch.as_tensor(value, dtype=torch.float64), shape)
    if not ((tensor >= 0) & (tensor <= 1)).all():
        raise ValueError(f"Expected {name} within [0, 1] but got {tensor.tolist()}.")
    return tensor
