"""Every command line in the documentation is one that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sharedbb.cli.comparison import COMPARISON_SCHEMA
from sharedbb.cli.describe import DESCRIPTION_SCHEMA
from sharedbb.cli.main import app
from sharedbb.profiling import SUMMARY_SCHEMA

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def examples() -> list[str]:
    """Lines of shell blocks that begin with the program's name, continued lines joined, without what a pipe follows."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [line.removeprefix("$ ").partition(" #")[0].partition(" |")[0].strip() for line in lines]
    return [line for line in found if line.startswith("sharedbb ")]


@pytest.mark.parametrize("line", examples())
def test_an_example_is_understood(line: str) -> None:
    group: Any = typer.main.get_command(app)
    name, *arguments = shlex.split(line)[1:]
    if name.startswith("-"):
        assert any(name in parameter.opts for parameter in group.params) or name == "--help"
        return
    command = group.commands[name]
    with command.make_context(name, [argument for argument in arguments if argument != "--debug"]) as context:
        assert context.info_name == name


def test_every_command_and_option_is_documented() -> None:
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert f"## sharedbb {name}" in PAGE
        section = PAGE.partition(f"## sharedbb {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert f"`{parameter.opts[0]}" in section, f"{name} {parameter.opts[0]}"


@pytest.mark.parametrize(
    "schema", [SUMMARY_SCHEMA, DESCRIPTION_SCHEMA, COMPARISON_SCHEMA], ids=lambda schema: schema["title"]
)
def test_every_field_of_what_is_written_is_documented(schema: dict[str, Any]) -> None:
    for field in schema["properties"]:
        assert f"`{field}`" in PAGE, field
