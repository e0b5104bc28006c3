"""Shipped pipelines: found in a checkout and in an installed package, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharedbb.cli import shipped
from sharedbb.errors import SharedBBError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like that of an installed package, with one pipeline in it."""
    folder = tmp_path / "site" / "sharedbb" / "pipelines"
    folder.mkdir(parents=True)
    (folder / "one.yaml").touch()
    monkeypatch.setattr(shipped.sharedbb, "__file__", str(tmp_path / "site" / "sharedbb" / "__init__.py"))
    return folder


def test_the_checkout_has_street() -> None:
    assert shipped.shipped("street").read_text().find("name: street") > 0
    assert "street" in shipped.names()


def test_an_installed_package_has_its_own(installed: Path) -> None:
    assert shipped.names() == ("one",)
    assert shipped.shipped("one") == installed / "one.yaml"


def test_an_unknown_name_lists_what_there_is(installed: Path) -> None:
    with pytest.raises(SharedBBError, match=r"no file 'two', and no pipeline .* \(there are: one\)"):
        shipped.shipped("two")


def test_paths_go_before_names(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find("one") == installed / "one.yaml"
    assert shipped.find("one.yaml") == Path("one.yaml")
    assert shipped.find("folder/one") == Path("folder/one")
    with pytest.raises(SharedBBError, match="no file 'two'"):
        shipped.find("two")
    (tmp_path / "one").mkdir()
    assert shipped.find("one") == installed / "one.yaml"
    (tmp_path / "one").rmdir()
    (tmp_path / "one").touch()
    assert shipped.find("one") == Path("one")


def test_the_list(sharedbb: Callable[..., Any], installed: Path) -> None:
    assert sharedbb("pipelines").out == f"one\t{installed / 'one.yaml'}\n"
