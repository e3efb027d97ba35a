"""Signs of life: whatever works on a medium says now and then that it goes on.

A decoder that hangs in its own code says nothing, and can be told from one that has much to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 0.5

_tell: Callable[[], None] | None = None
_last = 0.0


def tell_by(tell: Callable[[], None] | None) -> None:
    """What is called from now on; None: nobody listens."""
    global _tell
    _tell = tell


def beat() -> None:
    """To be called in every loop over a file; costs next to nothing."""
    global _last
    if _tell is not None and (now := time.monotonic()) - _last >= EVERY_S:
        _last = now
        _tell()
