"""What commands that make an artifact leave: the record, the page, and a few lines for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen


def keep(told: Mapping[str, Any], files: Files, page: Callable[[], str]) -> None:
    """Write the record and the page, as far as they are asked for."""
    from sharedbb.cli.files import write, write_each

    write_each(
        (files.summary, lambda path: write(path, json.dumps(told, indent=2) + "\n")),
        (files.report, lambda path: write(path, page())),
    )


def tell(shown: RenderableType, files: Files, screen: Screen) -> None:
    """Print what was done, and what was written."""
    if not screen.quiet:
        screen.results.print(shown)
        files.tell(screen.results)
