"""The log-evidence of data by annealed importance sampling, from below and from above."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, final

import pandas as pd
import torch

from pyro_infomax.diagnostics.account_table import lines_of
from pyro_infomax.diagnostics.annealed_joint import AnnealedJoint
from pyro_infomax.diagnostics.pair import Pair
from pyro_infomax.diagnostics.simulation import Simulated
from pyro_infomax.information import Annealing, Estimate, ImportanceWeights, sigmoid_schedule
from pyro_infomax.information.annealing import temperatures_of
from pyro_infomax.information.estimate import spread
from pyro_infomax.joint import GenerativeJoint
from pyro_infomax.nn.module_modes import evaluation_mode
from pyro_infomax.poutine import Data, as_data
from pyro_infomax.random_state import seeded_draws

__all__ = ["AnnealedEvidence", "annealed_importance_sampling"]

_PILOT_CHAINS: Final = 8


@final
@dataclass(frozen=True, eq=False)
class AnnealedEvidence:
    """Bounds on the log-evidence of data by annealing: from below, and for simulated data from above too.

    Attributes:
        lower: the mean over the data, a stochastic lower bound, in nats per datum.
        lower_per_datum: the lower bound of each datum, (data,), in nats.
        effective_sample_size: of each datum's chains, (data,), from 1 to ``num_chains``.
        acceptance: the mean probability of acceptance at each inner temperature, (temperatures - 2,).
        temperatures: from 0 to 1, (temperatures,).
        num_chains: independent chains for each datum.
    """

    lower: Estimate
    lower_per_datum: torch.Tensor
    effective_sample_size: torch.Tensor
    acceptance: torch.Tensor
    temperatures: torch.Tensor
    num_chains: int
    _upper_per_datum: torch.Tensor | None = field(default=None, repr=False)

    @property
    def upper_per_datum(self) -> torch.Tensor:
        """The upper bound of each simulated datum, (data,), in nats.

        Raises:
            ValueError: for real data.
        """
        if self._upper_per_datum is None:
            raise ValueError(
                "Expected data simulated from the model for an upper bound but these are given data: the "
                "reverse chain starts from an exact draw of the posterior, which is known only where x was "
                "drawn together with its z; anneal Simulated(model, n, x), or use the lower bound"
            )
        return self._upper_per_datum

    @property
    def upper(self) -> Estimate:
        """The mean over simulated data, a stochastic upper bound, in nats per datum.

        All chains of a datum start from its one exact draw. The error is therefore taken from the spread of
        upper less lower bound over the data, which is too large rather than too small, and nan for one datum.

        Raises:
            ValueError: for real data.
        """
        value = self.upper_per_datum
        error = spread(value - self.lower_per_datum)
        population = torch.maximum(spread(value), error)
        return Estimate(value.mean(), error, population, "upper", self.lower.target)

    def to_frame(self) -> pd.DataFrame:
        """A row a datum: the lower bound, the upper one of simulated data, and the effective sample size."""
        upper = {} if self._upper_per_datum is None else {"upper": self._upper_per_datum}
        columns = {
            "lower": self.lower_per_datum,
            **upper,
            "effective_sample_size": self.effective_sample_size,
        }
        return pd.DataFrame({name: each.numpy() for name, each in columns.items()}).rename_axis("datum")

    def __str__(self) -> str:
        upper = {} if self._upper_per_datum is None else {"log_evidence, upper": self.upper}
        return "\n".join([*lines_of({"": {"log_evidence": self.lower, **upper}}), *self._notes()])

    def _notes(self) -> Iterator[str]:
        size = self.effective_sample_size
        chains = f"{self.num_chains} chains over {len(self.temperatures)} temperatures"
        yield f"{len(size)} data, {chains} each, effective sample size {float(size.median()):.1f} (median)"
        if len(self.acceptance):
            low, mean = float(self.acceptance.min()), float(self.acceptance.mean())
            yield f"acceptance {mean:.2f} on average, at least {low:.2f} at each temperature"


def annealed_importance_sampling(
    model: Callable[..., Any],
    data: Data | Simulated,
    *,
    guide: Callable[..., Any] | None = None,
    num_temperatures: int = 300,
    num_chains: int = 16,
    num_leapfrog: int = 3,
    schedule: Callable[[torch.Tensor], torch.Tensor] = sigmoid_schedule,
    batch_size: int = 4096,
    seed: int | None = None,
    data_plate: str | None = None,
) -> AnnealedEvidence:
    r"""Bounds on the log-evidence of a model with continuous latents by annealed importance sampling.

    Chains move from the prior (or the guide's posterior) to the posterior :math:`p(z \mid x)` along
    :math:`f_b(z) = f_0(z)^{1 - b} p(z, x)^b`, by a transition of Hamiltonian Monte Carlo at each temperature.
    Over the K chains of a datum

    .. math:: \log \frac1K \sum_k w_k \le \log p(x) \le -\log \frac1K \sum_k \frac1{w'_k}

    in expectation, where :math:`w'` are the weights of chains that run backwards from an exact draw of the
    posterior. Such a draw exists only where x was simulated with its z: the upper bound is refused for real
    data. The gap shrinks as temperatures are added.

    Step sizes are tuned datum by datum in a pilot run with chains and noise of its own, and are fixed
    afterwards: steps that follow the very chains that are weighed would break the bounds. Constrained
    latents move in unconstrained coordinates, with the Jacobian. Each leapfrog step runs the model once.
    Modules run in evaluation mode; parameters and their gradients stay as they are. Memory grows with chains
    times data, but for the model's own, which ``batch_size`` limits.

    References:
        Neal (2001), Annealed importance sampling.
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte
        Carlo.
        Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based generative
        models.

    Args:
        model: a Pyro program with a plate around its observed sites.
        data: a tensor or a tuple of tensors, whose first axis is the data: the arguments of the model; or
            :class:`Simulated` data of this model, for an upper bound too.
        guide: a Pyro program whose posterior is where the chains start, None to start from the prior.
        num_temperatures: steps from one end to the other; 1 is importance sampling.
        num_chains: K, at least 2.
        num_leapfrog: leapfrog steps of a transition. More temperatures of short trajectories are worth more
            than few of long ones, at one cost.
        schedule: from fractions of the way, (steps + 1,) from 0 to 1, to temperatures that rise from 0 to 1.
        batch_size: the most rows, chains times data, that the model is run on at once, where it follows the
            length of its arguments.
        seed: isolates the draws from torch's global state.
        data_plate: the name of the data plate, where it is not the only candidate.

    Returns:
        The bounds.

    Raises:
        ValueError: for simulated data of another model or of other parameters, fewer than two chains, a
            schedule that does not rise from 0 to 1, data with nan, a model without latents, no data plate or
            several.
        NotImplementedError: for discrete latents (sum them out), global ones, angles, and supports that
            cannot be mapped onto real numbers.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=1, s2=0.5)
        >>> simulated = Simulated(oracle.model, 50, torch.zeros(1, 2, dtype=torch.float64), seed=0)
        >>> found = annealed_importance_sampling(
        ...     oracle.model, simulated, num_temperatures=10, num_leapfrog=4, seed=0
        ... )
        >>> bool(-0.1 < found.upper.value - found.lower.value < 0.5)
        True
    """
    if num_chains < 2:
        raise ValueError(f"Expected num_chains >= 2, for an error of the bound, but got {num_chains}")
    if batch_size < 1:
        raise ValueError(f"Expected batch_size >= 1 but got {batch_size}")
    temperatures = temperatures_of(schedule, num_temperatures)
    arguments = data.data if isinstance(data, Simulated) else as_data(data)
    # the pilot's and the reverse chains' starts are no weighed states of the forward chains
    with evaluation_mode(model, *([] if guide is None else [guide])), torch.no_grad(), seeded_draws(seed):
        weights = ImportanceWeights(num_chains, len(arguments[0]))
        path = _path(model, arguments, guide, data_plate=data_plate, batch_size=batch_size)
        exact = _exact_draws(model, data, path) if isinstance(data, Simulated) else None
        annealing = Annealing.tuned(
            path, path.draw(_PILOT_CHAINS), temperatures=temperatures, num_leapfrog=num_leapfrog
        )
        run = annealing.forward(path.draw(num_chains))
        weights.add(run.log_weight)
        upper = None if exact is None else _upper(annealing, exact, num_chains)
    return AnnealedEvidence(
        lower=weights.estimate,
        lower_per_datum=weights.log_mean,
        effective_sample_size=weights.effective_sample_size,
        acceptance=run.acceptance,
        temperatures=temperatures,
        num_chains=num_chains,
        _upper_per_datum=upper,
    )


def _path(
    model: Callable[..., Any],
    data: tuple[torch.Tensor, ...],
    guide: Callable[..., Any] | None,
    *,
    data_plate: str | None,
    batch_size: int,
) -> AnnealedJoint:
    if guide is None:
        return AnnealedJoint(
            GenerativeJoint(model, data_plate=data_plate), data, pair=None, batch_size=batch_size
        )
    pair = Pair(model, guide, data, data_plate=data_plate, batch_size=batch_size)
    return AnnealedJoint(pair.generative, data, pair=pair, batch_size=batch_size)


def _exact_draws(model: Callable[..., Any], simulated: Simulated, path: AnnealedJoint) -> torch.Tensor:
    """The exact draws of the posterior, (data, latent)."""
    simulated.check_origin(model, path.joint)
    return path.flat(simulated.latents)


def _upper(annealing: Annealing, exact: torch.Tensor, num_chains: int) -> torch.Tensor:
    """The upper bound of each datum, (data,), by inverse weights of chains that share their start."""
    weights = ImportanceWeights(num_chains, len(exact))
    weights.add(-annealing.reverse(exact.expand(num_chains, -1, -1)).log_weight)
    return -weights.log_mean
