"""Running a compiled program: the engine, and what each stream remembers."""

from sharedbb.runtime.engine import Engine
from sharedbb.runtime.state import StreamState

__all__ = ["Engine", "StreamState"]
