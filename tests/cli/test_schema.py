"""``sharedbb schema``: the pipeline language, on stdout or in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharedbb.spec import json_schema


def test_stdout(sharedbb: Callable[..., Any]) -> None:
    assert json.loads(sharedbb("schema").out) == json_schema()


def test_a_file(sharedbb: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "pipeline.schema.json"
    assert sharedbb("schema", "--out", path).err.startswith(f"wrote {path} (")
    assert sharedbb("schema", "--out", "-").out == path.read_text()
    assert json.loads(path.read_text()) == json_schema()
