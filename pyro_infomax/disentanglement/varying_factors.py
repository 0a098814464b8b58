"""A source of factors without those that take a single value."""

from typing import Any, final

import numpy as np

__all__ = ["VaryingFactors"]


@final
class VaryingFactors:
    """A source whose constant factors are held where they are, as no score can ask for them.

    Args:
        source: of all factors, of which some have size 1.

    Raises:
        ValueError: if no factor varies.
    """

    def __init__(self, source: Any) -> None:
        sizes = np.asarray(source.factor_sizes, dtype=np.int64)
        self._source = source
        self._number = len(sizes)
        self._varying = np.flatnonzero(sizes > 1)
        self.factor_sizes = tuple(sizes[self._varying].tolist())
        self.draws = bool(getattr(source, "draws", False))
        if not self.factor_sizes:
            raise ValueError(
                "Expected a source with a factor of two values or more but got sizes "
                f"{tuple(sizes.tolist())}: there is nothing to score codes against."
            )

    def sample_factors(self, n: int, *, seed: Any = None) -> Any:
        """Those that vary, (n, K)."""
        return np.asarray(self._source.sample_factors(n, seed=seed))[:, self._varying]

    def observations(self, factors: Any, **drawn_with: Any) -> Any:
        """Of factors that vary, (n, K)."""
        rows = np.asarray(factors, dtype=np.int64)
        whole = np.zeros((len(rows), self._number), dtype=np.int64)
        whole[:, self._varying] = rows
        return self._source.observations(whole, **drawn_with)
