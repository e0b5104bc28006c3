"""Running a compiled program: the engine, and what each stream remembers."""

from sharedbb.runtime.engine import Engine, OpenSource
from sharedbb.runtime.ladder import Ladder
from sharedbb.runtime.sizes import Rules
from sharedbb.runtime.state import StreamState

__all__ = ["Engine", "Ladder", "OpenSource", "Rules", "StreamState"]
