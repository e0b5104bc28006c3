"""What was already worked out, on disk: a killed run begins where it stopped, and equal work is done once.

An entry is a folder named by the digest of everything that decides it. It has another name until it is complete, and
then gets its own by one rename: an entry is there as a whole or not at all. What is left of an unfinished one, such as
a checkpoint of a training, stays for the next attempt. Two runs in one folder wait for each other and share the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharedbb.errors import CompressionError

VERSION = 1
"""Entries of another version are never read."""

FACTS = "entry.json"
UNFINISHED = ".part"
LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder with the files of what was worked out, and its facts, plain JSON values."""

    folder: Path
    facts: Mapping[str, Any]


class Journal:
    """The entries in a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def entry(self, kind: str, decided_by: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Entry:
        """The entry of this kind that ``decided_by`` (plain JSON values) decides; ``make`` works it out if needed.

        ``make`` takes the folder to write files into and returns the facts. Raises CompressionError where the folder
        cannot be written or an entry is damaged.
        """
        place = self.folder / f"{kind}-{key(decided_by)}"
        while not place.exists():
            unfinished = _folder(place.with_name(place.name + UNFINISHED))
            with _locked(unfinished) as is_ours:
                if place.exists():  # by another run, for which this one waited
                    shutil.rmtree(unfinished, ignore_errors=True)
                elif is_ours:
                    _complete(unfinished, place, {"decided_by": decided_by, "facts": make(unfinished)})
        return Entry(place, _facts(place))


def _folder(place: Path) -> Path:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompressionError(f"cannot make {place}: {error.strerror or error}; name another work folder") from error
    return place


@contextmanager
def _locked(unfinished: Path) -> Iterator[bool]:
    """Nobody else works on this entry meanwhile; whoever waited for it finds it complete, or goes on with it.

    The lock ends with its process, however that ends. Gives False where the folder went away in the meantime.
    """
    from filelock import FileLock

    lock = FileLock(unfinished / LOCK)
    try:
        lock.acquire()
    except FileNotFoundError:
        yield False
        return
    except OSError as error:
        raise CompressionError(f"cannot write in {unfinished}: {error.strerror or error}") from error
    try:
        yield True
    finally:
        lock.release()


def _complete(unfinished: Path, place: Path, told: Mapping[str, Any]) -> None:
    """Write the facts and give the folder its name; nothing of it is only in the system's memory by then."""
    try:
        with (unfinished / FACTS).open("w", encoding="utf-8") as file:
            json.dump(told, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(place)
    except ValueError as error:
        raise CompressionError(f"{place.name}: a number is not finite; the network answers nothing any more") from error
    except OSError as error:
        raise CompressionError(f"cannot write {place}: {error.strerror or error}; make room and run again") from error


def _facts(place: Path) -> Mapping[str, Any]:
    try:
        facts: Mapping[str, Any] = json.loads((place / FACTS).read_text(encoding="utf-8"))["facts"]
    except (OSError, ValueError, KeyError) as error:
        raise CompressionError(f"{place} is damaged ({error}); delete that folder and run again") from error
    return facts


def key(decided_by: Mapping[str, Any]) -> str:
    """The digest of plain JSON values, in 16 hexadecimal digits; the order of keys does not matter."""
    text = json.dumps([VERSION, decided_by], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
