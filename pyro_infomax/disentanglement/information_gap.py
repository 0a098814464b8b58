"""The mutual information gap: whether a factor is told by one code and by no other."""

from typing import Any, Final

import numpy as np

from pyro_infomax.disentanglement.binning import Binned, binned
from pyro_infomax.disentanglement.calibration import Calibration, Outcome, calibrated
from pyro_infomax.disentanglement.encoding import NUM_TRAIN, drawn
from pyro_infomax.disentanglement.mutual_information import (
    corrected_mutual_informations,
    entropies,
    mutual_informations,
)
from pyro_infomax.disentanglement.sample import Floats, Integers, to_sample
from pyro_infomax.disentanglement.scored import Score

__all__ = ["mig", "two_best"]

_CALIBRATION: Final = Calibration()


def mig(
    codes: Any,
    factors: Any,
    *,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    num_points: int = NUM_TRAIN,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""The mutual information gap: how much more the best code tells of a factor than the second best.

    .. math:: \frac{1}{K} \sum_k \frac{I_{(1)k} - I_{(2)k}}{H(v_k)}

    with the mutual information :math:`I_{lk}` of code l and factor k, sorted over the codes. The codes are
    put into bins by rank, as many as the largest factor needs, and what chance alone would show is taken out
    of :math:`I`: the factors themselves score 1, and codes that know nothing 0. The interval is made of the
    spread over halves of the data, since a bootstrap's repeated rows would look like information.

    With ``reference`` the bins are 20 of equal width and :math:`I` is the plug-in estimate. These bins cannot
    tell 32 or 40 values apart, so that the factors themselves score 0.9 on dSprites.

    References: Chen, Li, Grosse and Duvenaud (2018), *Isolating sources of disentanglement in variational
    autoencoders*; Locatello et al. (2019), *Challenging common assumptions in the unsupervised learning of
    disentangled representations*, for the estimate. :func:`chen_mig` is the former's own estimate.

    Args:
        codes: (n, L), at least two, or a callable from observations to codes.
        factors: (n, K) integers, or a source of factors and observations.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often to compute the score anew; None computes it alone.
        num_points: how many data to draw from a source.
        seed: of the draws.
        progress: whether a bar may show.

    Returns:
        The score, with parts ``mutual_information`` (L, K) and ``entropy`` (K,) in nats, ``per_factor`` (K,),
        and ``top`` (2, K), the numbers of the two codes that know most of each factor.

    Raises:
        ValueError: for a single code, and whatever :func:`score` refuses.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(5, size=(500, 2))
        >>> once = mig(factors[:, [0, 1]], factors, calibration=None)
        >>> twice = mig(factors[:, [0, 1, 1]], factors, calibration=None)
        >>> round(once.score, 3), twice.parts["per_factor"].round(3).tolist()
        (1.0, [1.0, 0.0])
    """
    rng = np.random.RandomState(seed)
    sample = to_sample(*drawn(codes, factors, num_points=num_points, rng=rng, progress=progress))
    if sample.num_codes < 2:
        raise ValueError(
            "Expected at least two codes but got 1: the gap is between the two that know most of a factor."
        )

    def statistic(data: Binned, _rng: np.random.RandomState) -> Outcome:
        return _gap(data, reference=reference)

    return calibrated(
        "mig",
        statistic,
        binned(sample, reference=reference),
        calibration=calibration,
        rng=rng,
        progress=progress,
    )


def _gap(data: Binned, *, reference: bool) -> Outcome:
    informations = mutual_informations if reference else corrected_mutual_informations
    information = informations(data.bins, data.factors)  # (code, factor)
    entropy = entropies(data.factors)
    top, lead = two_best(information)
    # few data drawn anew may hold one value of a factor only
    gaps = np.divide(lead, entropy, out=np.zeros_like(entropy), where=entropy > 0)
    parts = {"mutual_information": information, "entropy": entropy, "per_factor": gaps, "top": top}
    return Outcome(float(gaps.mean()), parts)


def two_best(known: Floats) -> tuple[Integers, Floats]:
    """The two codes that know most of each factor, and how far the first is ahead.

    Args:
        known: (L, K), at least two codes.

    Returns:
        Their numbers (2, K), and the leads (K,).

    Example:
        >>> two_best(np.array([[0.1], [0.7], [0.5]]))[0].ravel().tolist()
        [1, 2]
    """
    top = np.argsort(-known, axis=0, kind="stable")[:2]
    first, second = np.take_along_axis(known, top, axis=0)
    return top, first - second
