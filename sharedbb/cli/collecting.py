"""Python's garbage collector in a process that is ours: seldom, and not at the end."""

from __future__ import annotations

import atexit
import gc
import sys

EVERY = 10_000
"""New objects after which it looks for cycles; by default it does so hundreds of times while imports run."""


def collect_seldom() -> None:
    """Look for cycles less often, and not among all that there is when a process without torch ends: it ends sooner.

    Libraries of torch report what is left at the end as leaks.
    """
    gc.set_threshold(EVERY)
    atexit.register(lambda: None if "torch" in sys.modules else gc.freeze())
