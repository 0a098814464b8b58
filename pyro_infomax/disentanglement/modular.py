"""Modularity: whether a code tells of one factor and of no other."""

from typing import Any, Final

import numpy as np

from pyro_infomax.disentanglement.binning import Binned, binned
from pyro_infomax.disentanglement.calibration import Calibration, Outcome, calibrated
from pyro_infomax.disentanglement.encoding import NUM_TRAIN, drawn
from pyro_infomax.disentanglement.mutual_information import (
    corrected_mutual_informations,
    mutual_informations,
)
from pyro_infomax.disentanglement.sample import Floats, to_sample
from pyro_infomax.disentanglement.scored import Score

__all__ = ["modularity"]

_CALIBRATION: Final = Calibration()


def modularity(
    codes: Any,
    factors: Any,
    *,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    num_points: int = NUM_TRAIN,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""Modularity: how far each code tells of one factor only, averaged over the codes.

    .. math:: 1 - \frac{\sum_{j \neq j^*} I_{lj}^2}{(K - 1)\, I_{lj^*}^2}, \qquad j^* = \arg\max_j I_{lj}

    with the mutual information of code l and factor j. The codes are put into bins by rank and what chance
    alone would show is taken out, as in :func:`mig`; a code that tells of no factor then is left out of the
    mean and noted. Where no code is left the score is 0. So codes that know nothing score 0, the factors 1.

    With ``reference`` the bins are 20 of equal width, the information is the plug-in estimate, and all codes
    count; one without any information at all counts 0. Codes that know nothing then score high, since chance
    shows more of factors with more values: 0.67 on dSprites, 0.99 on Cars3D.

    Reference: Ridgeway and Mozer (2018), *Learning deep disentangled embeddings with the F-statistic loss*.

    Args:
        codes: (n, L), or a callable from observations to codes.
        factors: (n, K) integers, at least two, or a source of factors and observations.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often to compute the score anew; None computes it alone.
        num_points: how many data to draw from a source.
        seed: of the draws.
        progress: whether a bar may show.

    Returns:
        The score, with parts ``mutual_information`` (L, K) in nats, and ``per_code`` (L,), which is nan for a
        code left out.

    Raises:
        ValueError: for a single factor, and whatever :func:`score` refuses.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors, noise = rng.randint(4, size=(500, 2)), rng.randn(500, 1)
        >>> print(modularity(np.concatenate([factors, noise], 1), factors, calibration=None))
        modularity 1.000
        Code 2 tells no more of any factor than chance would and is left out of the mean.
    """
    rng = np.random.RandomState(seed)
    sample = to_sample(*drawn(codes, factors, num_points=num_points, rng=rng, progress=progress))
    if sample.num_factors < 2:
        raise ValueError(
            "Expected at least two factors but got 1: modularity asks whether a code tells of one only."
        )

    def statistic(data: Binned, _rng: np.random.RandomState) -> Outcome:
        return _plain(data) if reference else _corrected(data)

    return calibrated(
        "modularity",
        statistic,
        binned(sample, reference=reference),
        calibration=calibration,
        rng=rng,
        progress=progress,
    )


def _plain(data: Binned) -> Outcome:
    information = mutual_informations(data.bins, data.factors)
    modularities = np.nan_to_num(_modularities(information), nan=0.0)
    return Outcome(float(modularities.mean()), {"mutual_information": information, "per_code": modularities})


def _corrected(data: Binned) -> Outcome:
    information = corrected_mutual_informations(data.bins, data.factors)
    modularities = _modularities(information)
    told = ~np.isnan(modularities)
    score = float(modularities[told].mean()) if told.any() else 0.0
    parts = {"mutual_information": information, "per_code": modularities}
    return Outcome(score, parts, notes=_left_out(np.flatnonzero(~told).tolist()))


def _modularities(information: Floats) -> Floats:
    """(L,), nan for a code without information."""
    best = information.max(axis=1)
    shares = np.full_like(information, np.nan)
    np.divide(information, best[:, None], out=shares, where=best[:, None] > 0)
    others: Floats = (shares**2).sum(axis=1) - 1
    return 1 - others / (information.shape[1] - 1)


def _left_out(codes: list[int]) -> tuple[str, ...]:
    match codes:
        case []:
            return ()
        case [code]:
            who = f"Code {code} tells no more of any factor than chance would and is"
        case _:
            who = f"Codes {', '.join(map(str, codes))} tell no more of any factor than chance would and are"
    return (f"{who} left out of the mean.",)
