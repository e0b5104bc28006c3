"""Functions that a spec names, ``"package.module:function"``, and the code behind them."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from sharedbb.errors import CompressionError


def imported(target: str) -> Callable[..., Any]:
    """The function. Imports its module, which runs it, from the working directory or where Python looks for modules.

    Raises CompressionError where there is no such function.
    """
    module, _, name = target.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), name)
    except Exception as error:
        raise CompressionError(
            f"cannot import {target}: {type(error).__name__}: {error}; modules are looked for in the working directory "
            "and on PYTHONPATH"
        ) from error
    if not callable(found):
        raise CompressionError(f"{target} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def code_digest(thing: Any) -> str:
    """SHA-256, in hex, of the file that defines a function or class; nothing for this package's own, or without one."""
    try:
        file = inspect.getsourcefile(thing)
    except (TypeError, OSError):
        file = None
    if file is None or thing.__module__.partition(".")[0] == __name__.partition(".")[0] or not Path(file).is_file():
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
