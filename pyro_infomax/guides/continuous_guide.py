"""The base of the families whose heads begin with locations and with one scale."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from pyro_infomax.guides.amortized_guide import AmortizedGuide, Head, Plates
from pyro_infomax.guides.prototype import LatentSite
from pyro_infomax.guides.supports import check_continuous
from pyro_infomax.nn.normal_head import check_init_scale


class ContinuousGuide(AmortizedGuide):
    """A family whose heads serve continuous sites, reached from the reals by a bijection. Abstract.

    A subclass names its :attr:`head_class`, and adds to :attr:`options` what else that takes.

    Args:
        model: as in :class:`AmortizedGuide`, and so are encoder, heads, structured and create_plates.
        init_scale: standard deviation of every latent at first, in units of the latent, or of the real
            variable behind it.

    Attributes:
        head_class: called with the number of features and the event shape of a site, and by keyword with its
            support and the options.
        options: keyword arguments of every head.

    Raises:
        ValueError: unless init_scale > 0.
    """

    head_class: ClassVar[Callable[..., nn.Module]]

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[..., Tensor],
        *,
        init_scale: float = 0.5,
        heads: Mapping[str, Head] | None = None,
        structured: bool = False,
        create_plates: Callable[..., Plates] | None = None,
    ) -> None:
        check_init_scale(init_scale)
        super().__init__(model, encoder, heads=heads, structured=structured, create_plates=create_plates)
        self.options: dict[str, Any] = {"init_scale": init_scale}

    def make_head(self, site: LatentSite, in_features: int) -> nn.Module:
        """A head of the family, through a bijection where the site is not real.

        Args:
            site: a latent site inside the data plate.
            in_features: number of features.

        Raises:
            NotImplementedError: if the site is discrete, or its support has no bijection from the reals.
        """
        check_continuous(site, type(self).__name__)
        return type(self).head_class(in_features, site.event_shape, support=site.support, **self.options)
