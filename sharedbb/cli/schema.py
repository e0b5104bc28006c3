"""``sharedbb schema``: the pipeline language for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def schema(
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there and not to stdout.")] = None,
) -> None:
    """Print the JSON Schema of pipeline files, for editors."""
    import json

    from rich.console import Console

    from sharedbb.cli.files import STDOUT, Files, write
    from sharedbb.spec import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    files = Files(summary=out or STDOUT)
    files.check()
    write(files.summary or STDOUT, text)
    files.tell(Console(stderr=True))
