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

    from sharedbb.profiling.files import write_text
    from sharedbb.spec import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"wrote {out}")
