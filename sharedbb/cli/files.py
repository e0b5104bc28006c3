"""The files that a run writes: checked before it begins, listed when it is over."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sharedbb.errors import SinkError

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = Path("-")
"""Where JSON lines, JSON and DOT go to stdout."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the results of a run go, each of them optional. ``jsonl`` may be ``-``, which is stdout."""

    video: Path | None = None
    jsonl: Path | None = None
    report: Path | None = None
    trace: Path | None = None
    summary: Path | None = None

    def __iter__(self) -> Iterator[Path]:
        """The files asked for, without stdout."""
        return (path for path in astuple(self) if path is not None and path != STDOUT)

    def check(self, *inputs: str | Path) -> None:
        """Make sure that all can be written, and make their folders; nothing that is there is touched.

        ``inputs`` are files that the run reads. Raises SinkError for a file that cannot be written, that is asked for
        twice, or that the run would read and overwrite.
        """
        read = {Path(name).resolve() for name in inputs if _is_file(name)}
        seen: set[Path] = set()
        for path in self:
            place = path.resolve()
            if place in read:
                raise SinkError(f"{path} is what the run reads; write to another file")
            if place in seen and not _is_device(path):
                raise SinkError(f"{path} is asked for twice; give every result a file of its own")
            seen.add(place)
            _check_writable(path)
        if self.video is not None:
            _check_container(self.video)

    def written(self) -> tuple[Path, ...]:
        """Those that are there."""
        return tuple(path for path in self if path.exists())

    def tell(self, console: Console) -> None:
        """A line for each of those that are there, with its size."""
        for path in self.written():
            console.print(f"wrote {path} ({_size(path.stat().st_size)})", markup=False, soft_wrap=True)


def _size(count: int) -> str:
    for unit, factor in (("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def _is_file(name: str | Path) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _check_container(path: Path) -> None:
    from sharedbb.media.sinks import CONTAINERS

    if path.suffix.lower() not in CONTAINERS:
        raise SinkError(f"cannot write {path}: name a video that ends in one of {', '.join(sorted(CONTAINERS))}")


def _check_writable(path: Path) -> None:
    try:
        if path.is_dir():
            raise SinkError(f"cannot write {path}: it is a folder; name a file in it")
        if path.is_file():
            path.open("ab").close()
        elif not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise SinkError(
            f"cannot write {path}: {error.strerror or error}; give a file in a folder that may be written to"
        ) from error
