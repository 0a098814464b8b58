"""The bound of a sender and a decoder on draws that they have not been trained on."""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_infomax.infer.im import TraceEnum_IM
from pyro_infomax.infer.im_line import Line
from pyro_infomax.information import Estimate
from pyro_infomax.nn.module_modes import evaluation_mode
from pyro_infomax.poutine import frames_of, is_deterministic, plain_errors
from pyro_infomax.progress import patiently
from pyro_infomax.random_state import seeded_draws

__all__ = ["transmitted_information"]

Program = Callable[..., Any]

# So many that the standard error of their mean is itself known to 7 %.
_BLOCKS: Final = 100


def transmitted_information(
    decoder: Program,
    sender: Program,
    *args: Any,
    num_samples: int = 10_000,
    uses: int = 1,
    source_entropy: float = 0.0,
    vectorize: bool = True,
    seed: int | None = None,
) -> Estimate:
    r"""The Barber–Agakov bound of a sender and a decoder, exact where all is enumerated, else on fresh draws.

    .. math:: I(X; Y) \;\ge\; H(X) + \mathbb{E}_{p(x)\, p(y \mid x)} \log r(x \mid y)

    (Barber and Agakov, 2003, The IM algorithm: A variational approach to information maximization). Sites
    that ask for enumeration are summed out, all others are drawn; the standard error is that of the mean of
    up to 100 blocks of draws.

    Args:
        decoder: called as ``decoder(received, *args)``, as in :class:`TraceEnum_IM`.
        sender: called as ``sender(*args)``; returns what is received.
        *args: arguments of both programs, such as data.
        num_samples: how often the programs are run, at least 2; of no account where all is enumerated.
        uses: the number of channel uses in one run, by which the sum over its plates is divided: the length
            of the data, say.
        source_entropy: what is added for each use: the entropy of data that the decoder scores by ``obs=``,
            in nats. What the sender draws has its entropy in the bound already.
        vectorize: whether the draws of a block are made at once, in a plate outside of all others, which the
            programs have to broadcast over.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per use, of bound "lower"; its standard error is 0 where all is enumerated.

    Raises:
        ValueError: for fewer than two samples or less than one use, and for programs that make no bound.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def sender():
        ...     x = pyro.sample("x", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("y", dist.Normal(x, 1.0))
        >>> def decoder(y):
        ...     pyro.sample("x", dist.Normal(y / 2, 0.5**0.5))
        >>> estimate = transmitted_information(decoder, sender, seed=0)
        >>> abs(float(estimate) - 0.5 * math.log(2)) < 3 * float(estimate.standard_error)
        True
    """
    _check(num_samples, uses)
    with seeded_draws(seed), torch.no_grad(), evaluation_mode(decoder, sender):
        run = _run(decoder, sender, args)
        particles, blocks = (1, 1) if _is_enumerated(run.sender) else _plan(num_samples)
        im = TraceEnum_IM(
            num_particles=particles,
            vectorize_particles=vectorize,
            max_plate_nesting=_nesting(run),
            strict_enumeration_warning=False,
        )
        steps = patiently(range(blocks), "transmitted information")
        bounds = torch.tensor([-im.loss(decoder, sender, *args) for _ in steps], dtype=torch.float64)
    return Estimate(
        value=bounds.mean() / uses + source_entropy,
        standard_error=_standard_error(bounds) / uses,
        population_standard_error=None,
        bound="lower",
        target="mutual information of what the decoder scores and what it receives"
        + (", less the entropy of the data" if _scores_data(run.decoder) and not source_entropy else ""),
    )


def _check(num_samples: int, uses: int) -> None:
    if num_samples < 2:
        raise ValueError(f"Expected num_samples >= 2 but got {num_samples}.")
    if uses < 1:
        raise ValueError(f"Expected uses >= 1 but got {uses}.")


class _Run(NamedTuple):
    """The sites of both programs in a run without enumeration."""

    sender: list[Any]
    decoder: list[Any]


def _run(decoder: Program, sender: Program, args: tuple[Any, ...]) -> _Run:
    line = Line(decoder, sender, refuse_enumeration=None)
    with poutine.block(), plain_errors():
        sent = poutine.trace(line.send).get_trace(*args)
        decoded = poutine.trace(poutine.replay(line.receive, trace=sent)).get_trace(*args)
    return _Run(_sites(sent), _sites(decoded))


def _sites(trace: Any) -> list[Any]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def _nesting(run: _Run) -> int:
    return max((-frame.dim for sites in run for site in sites for frame in frames_of(site)), default=0)


def _scores_data(sites: list[Any]) -> bool:
    return any(site["is_observed"] and not is_deterministic(site) for site in sites)


def _is_enumerated(sites: list[Any]) -> bool:
    """Whether nothing is left to chance, subsamples included."""
    return all(
        _is_certain(site) or (site["infer"].get("enumerate") and not site["infer"].get("num_samples"))
        for site in sites
    )


def _is_certain(site: Any) -> bool:
    whole = site_is_subsample(site) and site["fn"].subsample_size in (None, site["fn"].size)
    return whole or is_deterministic(site)


def _plan(num_samples: int) -> tuple[int, int]:
    """The number of draws in a block, and of blocks."""
    blocks = min(_BLOCKS, num_samples)
    return math.ceil(num_samples / blocks), blocks


def _standard_error(bounds: Tensor) -> Tensor:
    if len(bounds) == 1:
        return torch.zeros((), dtype=torch.float64)
    return bounds.std() / math.sqrt(len(bounds))
