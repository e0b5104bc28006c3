"""``sharedbb check``: everything that is wrong with pipeline files, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from sharedbb.cli.options import SetOption
from sharedbb.cli.shipped import find
from sharedbb.errors import SharedBBError

if TYPE_CHECKING:
    from sharedbb.spec import Pipeline


def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Pipeline files, or names of shipped ones.")],
    overrides: SetOption = None,
) -> None:
    """Say what is wrong with pipeline files, line by line.

    Exits with 1 if anything is.
    """
    from sharedbb.spec import check as problems_of
    from sharedbb.spec import load

    faulty = False
    for file in files:
        path = find(file)
        problems = problems_of(path, overrides or (), _of_weights)
        for problem in problems:
            typer.echo(str(problem))
        if problems:
            faulty = True
        else:
            typer.echo(f"{path}: ok: {_in_one_line(load(path, overrides or ()))}")
    if faulty:
        raise typer.Exit(1)


def _of_weights(pipeline: Pipeline) -> Iterator[tuple[tuple[str, str], str]]:
    """What is wrong with the pipeline's artifact, if it has one: damage, or heads that it was not trained for."""
    from sharedbb import artifact

    weights = pipeline.backbone.weights
    if weights is None or not weights.endswith(".sbb"):
        return
    try:
        artifact.check_heads(artifact.load(weights), pipeline.heads)
    except SharedBBError as error:
        yield ("backbone", "weights"), str(error)


def _in_one_line(pipeline: Pipeline) -> str:
    heads = ", ".join(f"{name} ({head.type})" for name, head in pipeline.heads.items())
    size = pipeline.input.network_size
    noun = "head" if len(pipeline.heads) == 1 else "heads"
    return f"{pipeline.name}, {pipeline.backbone.arch} at {size}, {len(pipeline.heads)} {noun}: {heads}"
