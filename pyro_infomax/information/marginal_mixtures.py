"""The mixtures of all latent dimensions, one by one."""

from typing import Final, final

from torch import Tensor

from pyro_infomax.information.mixture import Mixture
from pyro_infomax.information.univariate_mixture import UnivariateMixture
from pyro_infomax.progress import patiently

# with more components times dimensions, plans that wait for another call would take too much memory
_KEPT: Final = 2**20


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
        self._kept: dict[int, UnivariateMixture] = {}

    def _mixture(self, j: int) -> UnivariateMixture:
        if j in self._kept:
            return self._kept[j]
        mixture = UnivariateMixture(self.loc[:, j], self.scale[:, j])
        if self.loc.numel() <= _KEPT:
            self._kept[j] = mixture
        return mixture

    def evaluate(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> Mixture:
        """Of z (points, latent), with each point's own component left out where it is named."""
        dimensions = patiently(range(z.shape[1]), "aggregate posterior", progress=progress)
        return Mixture.stack([self._mixture(j).evaluate(z[:, j], index) for j in dimensions])
