"""Functions that a spec names."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.teachers.imported import code_digest, imported


def test_the_function_itself() -> None:
    assert imported("math:sqrt") is math.sqrt


def test_what_is_not_there(write_module: Callable[[str, str], str]) -> None:
    for target, message in {
        "no_such_package:make": "cannot import no_such_package:make: ModuleNotFoundError",
        "math:squirt": "cannot import math:squirt: AttributeError",
        "math:pi": "math:pi is a float, not a function",
        f"{write_module('broken_module', '1 / 0')}:make": "cannot import broken_module:make: ZeroDivisionError",
    }.items():
        with pytest.raises(CompressionError, match=message):
            imported(target)


def test_the_code_of_a_function_is_that_of_its_file(write_module: Callable[[str, str], str]) -> None:
    texts = ("def make(): return 1\n", "def make(): return 1\n", "def make(): return 2\n")
    digests = [code_digest(imported(f"{write_module('coded_module', text)}:make")) for text in texts]
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 64
    assert code_digest(imported) == code_digest(math.sqrt) == ""


def test_modules_of_the_working_directory_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    (tmp_path / "lying_here.py").write_text("def make():\n    return 7\n")
    with pytest.raises(CompressionError, match="modules are looked for in the working directory and on PYTHONPATH"):
        imported("lying_here:make")
    monkeypatch.chdir(tmp_path)
    assert imported("lying_here:make")() == 7
