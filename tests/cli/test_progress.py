"""The progress bar: on a terminal only, and gone at the end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sharedbb.cli.progress import Progress


def shown(*, terminal: bool, total: int | None = 4, quiet: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with Progress(console, "street [x]", total, quiet=quiet) as progress:
        for _ in range(4):
            progress.advance()
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_terminal_sees_frames_and_rate() -> None:
    text = shown(terminal=True)
    assert "street [x]" in text
    assert "4/4" in text
    assert "fps" in text


def test_a_length_that_nobody_knows() -> None:
    assert "4/?" in shown(terminal=True, total=None)


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_nothing_is_printed_into_files_or_when_quiet(terminal: bool, quiet: bool) -> None:
    assert shown(terminal=terminal, quiet=quiet).strip() == ""
