"""The pipelines that come with sharedbb: inside the package when installed, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

import typer

import sharedbb
from sharedbb.errors import SharedBBError

SUFFIX = ".yaml"


def folders() -> tuple[Path, ...]:
    """Where shipped pipelines may lie, most likely first."""
    package = Path(sharedbb.__file__).resolve().parent
    return package / "pipelines", package.parent / "pipelines"


def names() -> tuple[str, ...]:
    """The shipped pipelines by name, sorted."""
    for folder in folders():
        found = sorted(path.stem for path in folder.glob(f"*{SUFFIX}"))
        if found:
            return tuple(found)
    return ()


def shipped(name: str) -> Path:
    """The file of a shipped pipeline. Raises SharedBBError listing those that there are."""
    for folder in folders():
        path = folder / f"{name}{SUFFIX}"
        if path.is_file():
            return path
    there = ", ".join(names()) or "none; this installation is incomplete"
    raise SharedBBError(f"no file {name!r}, and no pipeline of that name comes with sharedbb (there are: {there})")


def find(pipeline: str) -> Path:
    """The file that a command line means: a path, or the bare name of a shipped pipeline.

    Raises SharedBBError for a bare name that is neither, listing the shipped ones.
    """
    path = Path(pipeline)
    if path.suffix or path.name != pipeline or path.is_file():
        return path
    return shipped(pipeline) if pipeline in names() or not path.exists() else path


def pipelines() -> None:
    """List the pipelines that come with sharedbb."""
    for name in names():
        typer.echo(f"{name}\t{shipped(name)}")
