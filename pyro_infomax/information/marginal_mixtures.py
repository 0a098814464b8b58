"""The mixtures of all latent dimensions, one by one."""

from functools import cached_property
from typing import final

from torch import Tensor

from pyro_infomax.information.blocks import patiently
from pyro_infomax.information.mixture import Mixture
from pyro_infomax.information.univariate_mixture import UnivariateMixture


@final
class MarginalMixtures:
    """log q(z_j) for every dimension of N Normals.

    Args:
        loc: (N, d), float64.
        scale: the standard deviations of the marginals, (N, d), float64.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale

    @cached_property
    def _mixtures(self) -> list[UnivariateMixture]:
        return [UnivariateMixture(*each) for each in zip(self.loc.T, self.scale.T, strict=True)]

    def evaluate(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> Mixture:
        """Of z (points, latent), with each point's own component left out where it is named."""
        dimensions = patiently(list(zip(self._mixtures, z.T, strict=True)), progress=progress)
        return Mixture.stack([mixture.evaluate(z_j, index) for mixture, z_j in dimensions])
