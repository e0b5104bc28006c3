"""The console entry point: the commands, and how errors and signals leave the program."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import sharedbb
from sharedbb.cli.check import check
from sharedbb.cli.collecting import collect_seldom
from sharedbb.cli.compare import compare
from sharedbb.cli.compress import compress
from sharedbb.cli.demo import demo
from sharedbb.cli.doctor import doctor
from sharedbb.cli.explain import explain
from sharedbb.cli.export import export
from sharedbb.cli.fuse import fuse
from sharedbb.cli.interrupts import Interrupted, interruptible
from sharedbb.cli.plan import plan
from sharedbb.cli.profile import profile
from sharedbb.cli.run import run
from sharedbb.cli.schema import schema
from sharedbb.cli.search import search
from sharedbb.cli.sensitivity import sensitivity
from sharedbb.cli.share_depth import share_depth
from sharedbb.cli.shipped import pipelines
from sharedbb.cli.train import train
from sharedbb.errors import SharedBBError, SpecError

FAILED = 2
"""Exit code of every error that has a message."""

# Help without markup: rendering it with colours would take longer than everything else that --help does.
app = typer.Typer(
    name="sharedbb",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for _command in (
    *(run, check, explain, profile, compare, demo, doctor, schema, pipelines),
    *(train, fuse, share_depth),
    *(compress, sensitivity, plan, search, export),
):
    app.command()(_command)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sharedbb {sharedbb.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from; may stand anywhere.")] = False,
) -> None:
    """Several vision networks as one graph, and on each frame only the work it needs."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (by default the process's own) and exit: 0 done, 1 check found problems, 2 failed.

    An error is one line on stderr, a pipeline's faults one line each; with ``--debug`` a traceback comes first. Ctrl-C
    exits with 130, a request to terminate with 143, both after closing what was being written.
    """
    if arguments is None:
        collect_seldom()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with interruptible():
            app(args=[argument for argument in given if argument != "--debug"], prog_name="sharedbb")
    except Interrupted as stop:
        _say(str(stop))
        code = 128 + stop.number
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except Exception as error:
        if "--debug" in given:
            traceback.print_exc()
        for line in _lines(error):
            _say(f"error: {line}")
        code = FAILED
    raise SystemExit(code)


def _lines(error: Exception) -> list[str]:
    """What to say of an error: a line for each of a pipeline's faults, one for anything else."""
    if isinstance(error, SpecError):
        return [str(problem) for problem in error.problems]
    said = " ".join(str(error).split())
    if isinstance(error, SharedBBError):
        return [said or type(error).__name__]
    return [f"{type(error).__name__}: {said} (not foreseen; --debug shows where it comes from)"]


def _say(line: str) -> None:
    print(f"sharedbb: {line}", file=sys.stderr)
