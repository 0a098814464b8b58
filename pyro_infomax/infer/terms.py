"""What an objective's last evaluation was made of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import final

__all__ = ["Terms"]


@final
@dataclass(frozen=True)
class Terms(Mapping[str, float]):
    """The *unweighted* terms of an evaluation, in nats, summed like the loss and averaged over particles.

    Attributes:
        distortion: −E log p(x|z), of the observed sites and the factors of the model.
        rate: E[log q(z|x) − log p(z)], of the latent sites, the factors and the auxiliary sites of the guide.
        elbo: −distortion − rate; for the Rényi objective its bound without weights.
        loss: the weighted loss that was returned.

    Example:
        >>> terms = Terms(distortion=3.0, rate=1.0, elbo=-4.0, loss=13.0)
        >>> terms.rate, terms["rate"]
        (1.0, 1.0)
    """

    distortion: float
    rate: float
    elbo: float
    loss: float

    def __getitem__(self, name: str) -> float:
        if name not in self._names():
            raise KeyError(name)
        return float(getattr(self, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))
