"""Writing a text file whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import uuid4

from sharedbb.errors import SinkError


def write_text(path: str | Path, text: str) -> None:
    """Put ``text`` (UTF-8) at ``path``; folders are created, a file that is there is replaced only at the end.

    What is no regular file (a pipe, a terminal), or lies in a folder where nothing can be made, is written to directly.
    Raises SinkError when it cannot be written.
    """
    data = text.encode("utf-8", errors="replace")
    try:
        target = Path(path).resolve()
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not os.access(target.parent, os.W_OK):
            target.write_bytes(data)  # nothing can be made beside it
            return
        beside = target.with_name(f".{uuid4().hex}.part")
        try:
            beside.write_bytes(data)
            if target.exists():
                shutil.copymode(target, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SinkError(f"cannot write {path}: {reason}; give a file in a folder that may be written to") from error
