"""The entropy of discrete data, which what a pair loses in decoding is measured from."""

import hashlib
import struct
from typing import Any, Final

import pyro.distributions as dist
import torch

from pyro_infomax.diagnostics.pair import Pair
from pyro_infomax.information import Estimate
from pyro_infomax.information.families import in_dtype_of, name
from pyro_infomax.poutine import rows_of, unweighted_scale_and_mask
from pyro_infomax.random_state import isolated_random_state

__all__ = ["data_entropy"]

_SAME_SCORE: Final = (
    1e-4  # nats, absolute and relative: float32 programs round differently from batch to batch
)


@torch.no_grad()
def data_entropy(pair: Pair) -> Estimate:
    r"""The entropy of the data of a pair, where its decoder gap is known from it.

    .. math:: H[X] = -\sum_x p_D(x) \ln p_D(x), \qquad D = H[X] - I_q[X; Z] + G

    over the distinct values x of the observed sites: ln N if no datum comes twice. The second equation
    needs :math:`p(x \mid z)` to be a pmf of these values and of nothing else, and z to depend on the datum
    by x alone.

    Args:
        pair: the two joints on their data.

    Returns:
        The entropy in nats, without an error; of a population it says nothing.

    Raises:
        NotImplementedError: for densities, factors, masks and further arguments, and where equal data have
            different posteriors.

    Example:
        >>> import pyro
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Bernoulli(logits=z), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x - 0.5, 1.0))
        >>> print(data_entropy(Pair(model, guide, torch.tensor([0.0, 1.0, 1.0, 0.0]))))  # ln 2
        0.693 (exact)
    """
    with isolated_random_state():
        first = _first_equals(pair)
        _check_posteriors(pair, first)
    shares = first.unique(return_counts=True)[1].double() / len(first)
    entropy = -(shares * shares.log()).sum()
    return Estimate(entropy, torch.zeros_like(entropy), None, "exact", "the entropy of these data")


def _check_pmf(site: Any) -> None:
    fn = site["fn"]
    if isinstance(fn, dist.Unit):
        raise NotImplementedError(f"the factor {site['name']!r} is no distribution of data")
    if not _support_of(fn).is_discrete:
        raise NotImplementedError(
            "densities have no decoder gap under the empirical data distribution, and "
            f"{site['name']!r} is {name(fn)}"
        )
    if _is_masked(site):
        raise NotImplementedError(f"{site['name']!r} is masked, so that its values are known in part only")
    value = site["value"]
    if value.shape[value.dim() - len(fn.event_shape) :] != fn.event_shape:
        raise NotImplementedError(
            f"the values of {site['name']!r} are of another shape than its distribution"
        )
    if not bool(_support_of(fn).check(value).all()):
        raise NotImplementedError(f"{site['name']!r} has values to which {name(fn)} gives no probability")


def _support_of(fn: Any) -> Any:
    try:
        return fn.support
    except NotImplementedError as error:
        raise NotImplementedError(f"{name(fn)} does not tell whether it is discrete") from error


def _is_masked(site: Any) -> bool:
    if unweighted_scale_and_mask(site)[1] is not None:
        return True
    fn = site["fn"]
    while not isinstance(fn, dist.MaskedDistribution):
        if not hasattr(fn, "base_dist"):
            return False
        fn = fn.base_dist
    return True


def _first_equals(pair: Pair) -> torch.Tensor:
    """The number of the first datum whose observed values are equal, (data,)."""
    digests = pair.of_all(pair.ranks.together(lambda: _digests(pair)))
    first: dict[tuple[int, ...], int] = {}
    return torch.tensor([first.setdefault(tuple(key), n) for n, key in enumerate(digests.tolist())])


def _digests(pair: Pair) -> torch.Tensor:
    """What tells the observed values of the data of this process apart, (own data, 2)."""
    program = pair.program
    if not program.observed:
        raise NotImplementedError("the model observes nothing")

    def run(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        nodes = program.trace(pair.data, rows).nodes
        for site in program.observed:
            _check_pmf(nodes[site])
        layouts = program.observed.items()
        values = [_flat(each.rows(nodes[site]["value"], len(rows))[0]) for site, each in layouts]
        together = torch.cat(values, 1)
        _check_arguments([_flat(each) for each in rows_of(pair.data, rows)], [*values, together])
        return {"": torch.tensor([_digest(row) for row in together.cpu().numpy()])}

    return program.together(pair.own_size, run)[""]


def _flat(values: torch.Tensor) -> torch.Tensor:
    """(rows, elements), in one type for all, in which -0.0 has become 0.0."""
    return values.reshape(len(values), -1).double() + 0.0


def _digest(row: Any) -> list[int]:
    """What tells rows apart and takes little room, however long they are."""
    return list(struct.unpack("qq", hashlib.blake2b(row.tobytes(), digest_size=16).digest()))


def _check_arguments(arguments: list[torch.Tensor], observed: list[torch.Tensor]) -> None:
    """Each argument, in whatever shape and type, must be an observed site, or all of them in a row."""
    for position, each in enumerate(arguments):
        if not any(torch.equal(each, values) for values in observed):
            raise NotImplementedError(
                f"argument {position} is not observed, so that entropy and information would be those given "
                "its values"
            )


def _check_posteriors(pair: Pair, first: torch.Tensor) -> None:
    """Each datum's posterior must be that of the first datum equal to it, shown by a draw from the latter."""
    if torch.equal(first, torch.arange(len(first))):
        return
    z = pair.draw(1)[0, first]  # (data, latent)
    scores = pair.posterior.log_prob(in_dtype_of(pair.posterior, z)).double()
    if not torch.allclose(scores, scores[first], rtol=_SAME_SCORE, atol=_SAME_SCORE):
        raise NotImplementedError("equal data have different posteriors, by which z tells more than x")
