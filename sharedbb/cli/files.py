"""The files that a run writes: checked before it begins, listed when it is over."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sharedbb.errors import SinkError
from sharedbb.profiling.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = Path("-")
"""What stands for stdout in the place of a file."""

ARTIFACT, PIPELINE = ".sbb", ".yaml"

TO_STDOUT = {"jsonl": "JSON lines", "summary": "JSON", "graph": "the graph"}
"""Results that may go there, by their field of ``Files``, and what they are called."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the results of a command go, each of them optional.

    ``jsonl``, ``summary`` (JSON) and ``graph`` (DOT) may be ``-``, which is stdout. ``artifact`` ends in .sbb, and its
    pipeline file is written beside it; ``model`` is a network for another engine.
    """

    video: Path | None = None
    jsonl: Path | None = None
    report: Path | None = None
    trace: Path | None = None
    summary: Path | None = None
    graph: Path | None = None
    artifact: Path | None = None
    model: Path | None = None

    def __iter__(self) -> Iterator[Path]:
        """The files asked for, without stdout."""
        yield from (path for path in asdict(self).values() if path is not None and path != STDOUT)
        if self.artifact is not None:
            yield self.artifact.with_suffix(PIPELINE)

    @property
    def to_stdout(self) -> tuple[str, ...]:
        """What goes to stdout, by its field."""
        return tuple(name for name, path in asdict(self).items() if path == STDOUT)

    def check(self, *inputs: str | Path) -> None:
        """Make sure that all can be written, and make their folders; nothing that is there is touched.

        ``inputs`` are files, folders and patterns that the command reads; names of something else do no harm. Raises
        SinkError for a file that cannot be written, that is asked for twice, or that would be read and overwritten.
        """
        self._check_stdout()
        if self.artifact is not None and self.artifact.suffix != ARTIFACT:
            raise SinkError(f"cannot write {self.artifact}: the name of an artifact ends in {ARTIFACT}")
        if self.video is not None:
            _check_container(self.video)
        seen: set[Path] = set()
        for path in self:
            place = path.resolve()
            if any(_reads(name, place) for name in inputs):
                raise SinkError(f"{path} is what the run reads; write to another file")
            if place in seen and not _is_device(path):
                raise SinkError(f"{path} is asked for twice; give every result a file of its own")
            seen.add(place)
            _check_writable(path)

    def _check_stdout(self) -> None:
        """Raise SinkError where something goes to stdout that cannot, or where two things do."""
        for name in self.to_stdout:
            if name not in TO_STDOUT:
                raise SinkError(f"the {name} cannot go to stdout; name a file")
        if len(self.to_stdout) > 1:
            both = " and ".join(TO_STDOUT[name] for name in self.to_stdout)
            raise SinkError(f"{both} cannot both go to stdout; name a file for one of them")

    def written(self) -> tuple[Path, ...]:
        """Those that are there."""
        return tuple(path for path in self if path.exists())

    def tell(self, console: Console) -> None:
        """A line for each of those that are there, with its size."""
        for path in self.written():
            console.print(f"wrote {path} ({_size(path.stat().st_size)})", markup=False, soft_wrap=True)


def write(path: Path, text: str) -> None:
    """Put the text where a result goes: a file, whole or not at all, or stdout. Raises SinkError."""
    if path == STDOUT:
        typer.echo(text, nl=False)
    else:
        write_text(path, text)


def write_each(*results: tuple[Path | None, Callable[[Path], None]]) -> None:
    """Write every result that has a place, whatever becomes of the others; then raises the first SinkError."""
    failed: list[SinkError] = []
    for path, write_to in results:
        try:
            if path is not None:
                write_to(path)
        except SinkError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def _size(count: int) -> str:
    for unit, factor in (("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def _reads(name: str | Path, place: Path) -> bool:
    """Whether what is at ``place`` is read by the name of a file, a folder of pictures or a pattern."""
    from sharedbb.media.sources import PICTURES

    try:
        path = Path(name)
        if path.is_dir():
            return bool(name) and path.resolve() == place.parent and place.suffix.lower() in PICTURES
        if path.is_file() or not glob.has_magic(str(name)):
            return path.is_file() and path.resolve() == place
        return place.is_file() and place in {Path(one).resolve() for one in glob.glob(str(name), recursive=True)}
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
