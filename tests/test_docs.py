"""What the documentation shows runs: its Python as written, its commands, its pipelines, its links."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import sharedbb as sb
from sharedbb.cli.main import app
from sharedbb.registry import HEADS
from sharedbb.spec.recipe import loads_space

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def _numbered(language: str, pages: list[Path]) -> list[Any]:
    found = [(page, number, text) for page in pages for number, text in enumerate(_blocks(page, language))]
    return [pytest.param(text, id=f"{page.name}-{number}") for page, number, text in found]


@pytest.fixture
def registries() -> Iterator[None]:
    before = set(HEADS)
    yield
    for name in set(HEADS) - before:
        HEADS.unregister(name)


RUN_HERE = [ROOT / "README.md", ROOT / "docs" / "getting-started.md", ROOT / "docs" / "python-api.md"]


@pytest.mark.slow
@pytest.mark.parametrize("text", _numbered("python", RUN_HERE))
def test_python_runs_as_written(text: str, registries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(text, "<documentation>", "exec", dont_inherit=True), {"__name__": "documentation"})


@pytest.mark.parametrize("text", _numbered("yaml", RUN_HERE))
def test_pipelines_load(text: str) -> None:
    sb.loads(text)


@pytest.mark.parametrize("text", _numbered("yaml", [ROOT / "docs" / "compression.md"]))
def test_recipes_load(text: str) -> None:
    loads_space(text)


def _commands() -> list[Any]:
    lines = [
        (page, line.partition("#")[0].partition(" && ")[0].strip())
        for page in PAGES
        for block in _blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [pytest.param(line, id=f"{page.name}: {line}") for page, line in lines if line and page.name != "cli.md"]


@pytest.mark.parametrize("line", _commands())
def test_commands_are_known(line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        assert arguments[0] in TARGETS
    elif program == "sharedbb":
        group: Any = typer.main.get_command(app)
        command = group.commands[arguments[0]]
        with warnings.catch_warnings(), command.make_context(arguments[0], arguments[1:]):
            pass
    else:
        assert program in ("git", "pip", "pytest", "python", ".venv/bin/python")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
