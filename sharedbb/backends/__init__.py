"""Backends: a segment of the graph as something that runs."""

from sharedbb.backends.base import Backend, Executable, Picture, Session

__all__ = ["Backend", "Executable", "Picture", "Session"]
