"""Pairs of a value and a datum, for which networks run: how many are scored at once, and in what memory."""

from functools import cache
from typing import Final

import torch

PAIRS_AT_ONCE: Final = 8192
"""So many that what a block holds stays in the cache of the processor."""


@cache
def keep_freed_memory() -> None:
    """Has the C library keep what is freed, for this block and for the rest of the process.

    Else what is larger than a threshold goes back to the system and is asked for anew, block by block, which
    takes up to half as long as the computation. glibc raises its threshold by itself once a larger piece has
    come and gone, of 32 MB at most, and then keeps up to 64 MB of freed memory. So this is what any process
    does that has freed such a piece; nothing is written to it.
    """
    torch.empty(2**25 - 2**14, dtype=torch.uint8)
