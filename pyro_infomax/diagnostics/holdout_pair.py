"""The same model and guide on held-out data."""

from collections.abc import Callable

import torch

from pyro_infomax.diagnostics.pair import Pair
from pyro_infomax.poutine import Data, as_data
from pyro_infomax.random_state import isolated_random_state

__all__ = ["held_out_pair"]


def held_out_pair(training: Pair, build: Callable[[Data], Pair], holdout: Data) -> Pair:
    """The pair of held-out data.

    Args:
        training: the pair of the training data.
        build: makes the pair of any data from the same model and guide.
        holdout: data of the same kind.

    Raises:
        ValueError: for data of another kind, for what is wrong with them by themselves, and for a guide whose
            parameters belong to the training data.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> build = lambda data: Pair(oracle.model, oracle.guide, data)
        >>> held_out_pair(build(oracle.sample(10)), build, oracle.sample(5)).data_size
        5
    """
    data = training.ranks.together(lambda: _of_kind(training, holdout))
    _check_amortised(training, data)
    try:
        return build(data)
    except ValueError as error:
        raise ValueError(f"{error} (of the holdout)") from error


def _of_kind(training: Pair, holdout: Data) -> tuple[torch.Tensor, ...]:
    data = _as_holdout(holdout)
    _check_kind(training.data, data)
    return data


def _as_holdout(holdout: Data) -> tuple[torch.Tensor, ...]:
    try:
        return as_data(holdout)
    except ValueError as error:
        raise ValueError(f"{error} (of the holdout)") from error


def _check_kind(training: tuple[torch.Tensor, ...], holdout: tuple[torch.Tensor, ...]) -> None:
    expected, found = ([tuple(each.shape[1:]) for each in data] for data in (training, holdout))
    if expected != found:
        raise ValueError(
            f"Expected a holdout like the data, tensors with rows of the shapes {expected}, but got {found}"
        )


@torch.no_grad()
def _check_amortised(training: Pair, holdout: tuple[torch.Tensor, ...]) -> None:
    """Parameters of the training data would be taken for those of the holdout where the sizes agree."""
    if training.representation.program.follows:
        return
    with isolated_random_state():
        z = training.space.unflatten(training.draw(1)[0, :1])
    try:
        training.ranks.together(lambda: training.representation.log_posterior(z, holdout))
    except ValueError as error:
        raise ValueError(
            f"Expected a guide that encodes any data but its parameters belong to the {training.data_size} "
            "training data, so that it has none for the holdout; use an amortised guide, such as "
            "AmortizedNormal"
        ) from error
