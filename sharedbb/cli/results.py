"""What commands that make an artifact leave: the record, the page, and a few lines for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen


def keep(told: Mapping[str, Any], files: Files, page: Callable[[], str]) -> None:
    """Write the record and the page, as far as they are asked for."""
    from sharedbb.profiling.files import write_text

    if files.summary:
        write_text(files.summary, json.dumps(told, indent=2) + "\n")
    if files.report:
        write_text(files.report, page())


def tell(shown: RenderableType, out: Path, files: Files, screen: Screen) -> None:
    """Print what was done, where the artifact and its pipeline file are, and what else was written."""
    from sharedbb.cli.compression_table import size

    if screen.quiet:
        return
    screen.results.print(shown)
    beside = out.with_suffix(".yaml")
    screen.results.print(f"wrote {out} ({size(out.stat().st_size)}) and {beside}", markup=False, soft_wrap=True)
    files.tell(screen.results)
