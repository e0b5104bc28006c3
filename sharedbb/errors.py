"""The errors of sharedbb: one root, one line each, saying what was got and what would work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SharedBBError(Exception):
    """Root of every error that sharedbb raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a pipeline file: where it is, what was given, what would work.

    ``line`` and ``column`` count from 1 and are ``None`` for pipelines built in Python.
    ``field`` is the dotted path, for example ``heads.road.taps``.
    """

    field: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        said = f"{place + ': ' if place else ''}{self.field + ': ' if self.field else ''}{self.message}"
        return said.replace("\n", "\\n")


class SpecError(SharedBBError):
    """A pipeline that does not hold together; ``problems`` has every fault found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SourceError(SharedBBError):
    """A video, camera, picture or address that cannot be read."""


class SinkError(SharedBBError):
    """An output file that cannot be written."""


class FrameError(SharedBBError):
    """A frame of a shape, type or value that the engine cannot take."""


class GraphError(SharedBBError):
    """A network that cannot be captured, merged, cut or analysed."""


class TransformError(SharedBBError):
    """An input transform that is unknown, impossible for this network, or does not fit the picture."""


class WeightsError(SharedBBError):
    """Weights that are missing, cannot be loaded, or do not fit the network."""


class ArtifactError(SharedBBError):
    """An artifact that is damaged, incomplete, unsafe or of another format."""


class BackendError(SharedBBError):
    """A backend that is absent or cannot compile or run a segment."""


class RegistryError(SharedBBError):
    """A component registered twice, or asked for by a name nobody registered."""


class DataError(SharedBBError):
    """Pictures or labels for training and judging that are missing, unreadable or do not fit the pipeline."""


class CompressionError(SharedBBError):
    """A step of compression, training or export that cannot be done, or needs a package that is not installed."""
