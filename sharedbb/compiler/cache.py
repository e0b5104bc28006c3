"""Compiled stages on disk, so that the second start needs neither torch nor a compiler."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import sharedbb
from sharedbb.profiling.summary import installed_versions

# Entries kept; the ones unused for longest go first.
KEPT = 32

# How entries are called while they are written, and after how long one that was not finished is taken for lost.
UNFINISHED, LOST_SECONDS = "sharedbb-new-", 3600.0

# What captures, converts and runs networks.
COMPILING = ("torch", "torchvision", "openvino")

# The parts of the package whose code decides what a compiled stage computes.
DECIDING = ("backends", "compiler", "graph", "nets", "reuse", "runtime", "transforms", "program.py")


def folder() -> Path:
    """``$SHAREDBB_CACHE``, or ``sharedbb`` in the user's cache folder."""
    given = os.environ.get("SHAREDBB_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sharedbb"


def key(facts: Mapping[str, Any]) -> str:
    """A digest of everything that decides the compiled result: ``facts``, versions, the package's own source."""
    everything = {"facts": facts, "installed": _installed(), "package": _source()}
    text = json.dumps(everything, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _installed() -> dict[str, str]:
    """Versions of the packages that compile and run networks."""
    return {package: found for package, found in installed_versions().items() if package in COMPILING}


@cache
def _source() -> str:
    root = Path(sharedbb.__file__).parent
    found = hashlib.sha256()
    for part in DECIDING:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()


def read(name: str) -> tuple[dict[str, Any], list[bytes]] | None:
    """Description and blobs stored under a key; None when there are none or they are damaged."""
    path = folder() / name
    try:
        stored = json.loads((path / "program.json").read_text())
        blobs = [(path / f"{position}.bin").read_bytes() for position in range(len(stored["digests"]))]
        if [hashlib.sha256(blob).hexdigest() for blob in blobs] != stored.pop("digests"):
            return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    with suppress(OSError):  # a folder that can only be read is a cache all the same
        os.utime(path)
    return stored, blobs


def write(name: str, described: Mapping[str, Any], blobs: Sequence[bytes]) -> None:
    """Store an entry, whole or not at all; a folder that cannot be written to is no error."""
    stored = {**described, "digests": [hashlib.sha256(blob).hexdigest() for blob in blobs]}
    try:
        folder().mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder()))
    except OSError:
        return
    try:
        for position, blob in enumerate(blobs):
            (made / f"{position}.bin").write_bytes(blob)
        (made / "program.json").write_text(json.dumps(stored))
        shutil.rmtree(folder() / name, ignore_errors=True)
        made.rename(folder() / name)
        superfluous = _superfluous()
    except OSError:
        superfluous = [made]
    for path in superfluous:
        shutil.rmtree(path, ignore_errors=True)


def _superfluous() -> list[Path]:
    """Entries beyond those kept, and ones that were never finished; what else lies in the folder is not ours."""
    found = [(path.stat().st_mtime, path) for path in folder().iterdir() if path.is_dir()]
    entries = sorted((since, path) for since, path in found if (path / "program.json").is_file() and _is_key(path.name))
    lost = [path for since, path in found if path.name.startswith(UNFINISHED) and time.time() - since > LOST_SECONDS]
    return [*(path for _, path in entries[: max(0, len(entries) - KEPT)]), *lost]


def _is_key(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", name) is not None
