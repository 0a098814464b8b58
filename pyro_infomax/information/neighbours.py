"""Which data have posteriors next to each other."""

from typing import Any, Final

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pyro_infomax.information.closed_forms import moments

_FEWEST_DATA: Final = 50  # among fewer the neighbours are far, and their pairs too few to judge an error by
_MOST_DIMENSIONS: Final = 4  # in more the nearest is hardly nearer than any other, and takes long to find
_APART: Final = 1e-6  # in widths of the posteriors: what holds crowds of twins apart


@torch.no_grad()
def nearest(posterior: Any) -> Tensor | None:
    """The datum with the nearest posterior mean, (batch,), counted in the widths of the posteriors.

    It is sought in the dimensions that tell the data apart best; None where the moments are not known, and
    for fewer than 50 data.
    """
    known = moments(posterior)
    if known is None or len(known[0]) < _FEWEST_DATA:
        return None
    mean, variance = known
    position = mean / variance.mean(0).clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
    leading = position.var(0).argsort(descending=True)[:_MOST_DIMENSIONS]
    # twins that nothing tells apart would all be compared with each other
    place = np.linspace(0, _APART, len(position))[:, None]
    points = np.hstack([position[:, leading].cpu().numpy(), place])  # (batch, leading + 1)
    found = torch.from_numpy(cKDTree(points).query(points, k=2)[1]).to(mean.device)  # (batch, 2)
    # usually the first is the datum itself, though not always among twins
    itself = found[:, 0] == torch.arange(len(found), device=mean.device)
    return torch.where(itself, found[:, 1], found[:, 0])
