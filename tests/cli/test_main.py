"""The entry point: what it imports, how errors and signals leave it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

import sharedbb as sb
from sharedbb.cli import main as entry
from sharedbb.cli.interrupts import Interrupted
from sharedbb.errors import BackendError, Problem, SpecError

HEAVY = {"torch", "torchvision", "numpy", "cv2", "openvino", "pydantic", "av", "rich"}


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules that a command line imports."""
    code = (
        "import sys\n"
        "from sharedbb.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    assert imported_by("--help") & HEAVY == set()


def test_check_imports_nothing_but_pydantic() -> None:
    assert imported_by("check", "street") & HEAVY == {"pydantic"}


def test_help_lists_every_command_with_a_whole_sentence(sharedbb: Callable[..., Any]) -> None:
    ended = sharedbb("--help")
    assert ended.code == 0
    listed = ended.out.partition("Commands:")[2].strip().splitlines()
    commands = [line.split()[0] for line in listed]
    assert commands == [
        *("run", "check", "explain", "profile", "compare", "demo", "doctor", "schema", "pipelines"),
        *("train", "fuse", "share-depth"),
        *("compress", "sensitivity", "plan", "search", "export"),
    ]
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def test_the_version(sharedbb: Callable[..., Any]) -> None:
    assert sharedbb("--version").out == f"sharedbb {sb.__version__}\n"


def test_an_unknown_option_is_a_usage_error(sharedbb: Callable[..., Any]) -> None:
    ended = sharedbb("run", "a.yaml", "clip.mp4", "--max-frame", "3")
    assert ended.code == 2
    assert "--max-frames" in ended.err


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def app(args: list[str], prog_name: str) -> NoReturn:
        raise error

    return app


def ends_with(
    error: BaseException, sharedbb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *options: str
) -> Any:
    monkeypatch.setattr(entry, "app", raising(error))
    return sharedbb("run", *options)


def test_an_error_is_one_line(sharedbb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = ends_with(BackendError("no such\n  device"), sharedbb, monkeypatch)
    assert (ended.code, ended.out, ended.err) == (2, "", "sharedbb: error: no such device\n")


def test_every_fault_of_a_pipeline_is_one_line(sharedbb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [Problem("heads", "is empty", "a.yaml", 3, 1), Problem("name", "is missing", "a.yaml", 1, 1)]
    ended = ends_with(SpecError(problems), sharedbb, monkeypatch)
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "sharedbb: error: a.yaml:3:1: heads: is empty",
        "sharedbb: error: a.yaml:1:1: name: is missing",
    ]


def test_debug_shows_where_an_error_came_from(sharedbb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = ends_with(BackendError("broken"), sharedbb, monkeypatch, "--debug")
    assert ended.code == 2
    assert ended.err.startswith("Traceback")
    assert ended.err.endswith("sharedbb: error: broken\n")


def test_what_nobody_foresaw_is_one_line_too(sharedbb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = ends_with(ZeroDivisionError("division by zero"), sharedbb, monkeypatch)
    assert ended.code == 2
    assert ended.err.startswith("sharedbb: error: ZeroDivisionError: division by zero")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_signals_have_their_exit_codes(
    number: int, code: int, sharedbb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = ends_with(Interrupted(number), sharedbb, monkeypatch)
    assert ended.code == code
    assert ended.err.startswith("sharedbb: stopped by SIG")


def test_debug_may_stand_anywhere(sharedbb: Callable[..., Any]) -> None:
    for line in (["--debug", "explain", "no.yaml"], ["explain", "no.yaml", "--debug"]):
        assert "Traceback" in sharedbb(*line).err


@pytest.mark.parametrize("command", [["schema"], ["--version"], ["--help"], ["check", "no.yaml"]])
def test_a_reader_that_goes_away_is_no_error(command: list[str]) -> None:
    """The reader goes before anything is written."""
    line = [sys.executable, "-c", "from sharedbb.cli.main import main; main()", *command]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("more", "frozen"), [("", True), ("sys.modules['torch'] = sys", False)])
def test_a_process_without_torch_ends_without_a_last_look_for_cycles(more: str, frozen: bool) -> None:
    code = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
        f"from sharedbb.cli.main import main\n{more}\nsys.argv = ['sharedbb', '--version']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(frozen)
