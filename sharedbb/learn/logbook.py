"""The numbers of a training as it goes: lines of JSON always, TensorBoard's event files where that is installed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sharedbb.errors import CompressionError

LINES = "log.jsonl"
EVENTS = "tensorboard"


class Logbook:
    """Scalars by step, in a folder; what is there of steps after ``step`` is taken back, so that no step is double.

    ``LINES`` has one object a line: ``step``, and the scalars by name. ``EVENTS`` has the same for TensorBoard, a
    curve for each name; what stands before the first slash groups them. Raises CompressionError where the folder
    cannot be written.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._path = folder / LINES
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _take_back(self._path, step)
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._failed(error) from error
        self._events = event_writer(folder / EVENTS, step)

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """The numbers of one step; several calls for one step add to it."""
        try:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        except OSError as error:
            raise self._failed(error) from error
        if self._events is not None:
            for name, value in scalars.items():
                self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Bring to disk what was added."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Bring to disk what was added, and let go of the files."""
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error
        finally:
            if self._events is not None:
                self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, error: OSError) -> CompressionError:
        return CompressionError(
            f"cannot write {self._path}: {error.strerror or error}; make room, or name another folder"
        )


def event_writer(folder: Path, step: int) -> Any:
    """TensorBoard's writer of what comes after ``step``; None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a logbook, in order; those of a training that never began are none. Raises CompressionError."""
    path = folder / LINES
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    except (OSError, ValueError) as error:
        raise CompressionError(f"{path} is damaged ({error}); delete it and run again") from error


def _take_back(path: Path, step: int) -> None:
    """Leave only the lines of steps up to ``step``; one that was cut off while it was written goes as well."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    fresh = path.with_name(f"{path.name}.tmp")
    fresh.write_text("".join(kept), encoding="utf-8")
    os.replace(fresh, path)
