"""What several rooms call by one name in their annotations."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Program: TypeAlias = Callable[..., object]
"""A model or a guide."""

Args: TypeAlias = tuple[object, ...]
Kwargs: TypeAlias = dict[str, object]
"""What a program is called with."""

Site: TypeAlias = Any
"""A message of Pyro's: what a trace holds about one site, with what messengers note at it."""

Frame: TypeAlias = Any
"""What Pyro keeps of a plate around a site: its name, dim and sizes."""

State: TypeAlias = dict[str, Any]
"""What ``state_dict`` returns: plain values and tensors by name."""

Array: TypeAlias = NDArray[Any]
"""An array of any dtype."""

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
