"""A program as short as one can be, from start to first result; it prints where its seconds went, as JSON.

``python -m benchmarks.first_result PIPELINE``: what ``benchmarks.startup`` runs as a process of its own.
"""

from __future__ import annotations

import builtins
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any


class Imports:
    """Adds up the seconds spent importing, wherever that happens: sharedbb imports what it needs when it needs it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        builtins.__import__ = self._counted(builtins.__import__)
        importlib.import_module = self._counted(importlib.import_module)

    def _counted(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def call(*names: Any, **options: Any) -> Any:
            start, self._depth = time.perf_counter(), self._depth + 1
            try:
                return load(*names, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return call


def main(path: str) -> None:
    """Read, compile, run one black frame."""
    imports, parts = Imports(), {}

    def part(name: str, work: Callable[[], Any]) -> Any:
        start, before = time.perf_counter(), imports.seconds
        result = work()
        parts[name] = time.perf_counter() - start - (imports.seconds - before)
        return result

    import numpy as np

    import sharedbb as sb

    pipeline = part("reading the pipeline", lambda: sb.load(path))
    engine = part("compiling, or reading what was compiled", lambda: sb.compile(pipeline))
    part("first frame", lambda: engine.step(np.zeros((384, 640, 3), np.uint8)))
    print(json.dumps({"imports": imports.seconds, **parts}))


if __name__ == "__main__":
    main(sys.argv[1])
