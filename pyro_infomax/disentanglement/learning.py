"""What the scores that learn a factor from the codes have in common."""

from typing import Final

import numpy as np

from pyro_infomax.disentanglement.sample import Sample

__all__ = ["dead_notes", "seed_of"]

_LARGEST_SEED: Final = 2**31 - 1


def seed_of(rng: np.random.RandomState) -> int:
    """A seed for one learner, so that it draws nothing from NumPy's global state."""
    return int(rng.randint(_LARGEST_SEED))


def dead_notes(sample: Sample) -> tuple[str, ...]:
    """A sentence on the codes that never move, if there are any.

    Args:
        sample: the data.

    Example:
        >>> from pyro_infomax.disentanglement.sample import to_sample
        >>> dead_notes(to_sample(np.zeros((10, 1)), np.arange(10)[:, None]))
        ('Code 0 is constant.',)
    """
    dead = [str(j) for j in np.flatnonzero(sample.dead)]
    if not dead:
        return ()
    return (f"Code {dead[0]} is constant." if len(dead) == 1 else f"Codes {', '.join(dead)} are constant.",)
