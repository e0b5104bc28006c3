"""Lower rooms never import higher ones, siblings do not know each other, and light rooms stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sharedbb

ROOT = Path(sharedbb.__file__).parent

# What each room may import of ours, besides itself. The command line may import everything.
MAY_IMPORT = {
    "errors": set(),
    "profiling": {"errors"},
    "sizes": set(),
    "types": {"errors", "sizes"},
    "registry": {"errors"},
    "outputs": {"errors", "types"},
    "spec": {"errors", "sizes", "registry"},
    "nets": {"errors", "types", "registry"},
    "media": {"errors", "types", "outputs", "profiling"},
    "graph": {"errors", "types"},
    "transforms": {"errors", "types"},
    "backends": {"errors", "types", "graph"},
    "artifact": {"errors", "types", "graph", "nets", "coding"},
    "reuse": {"errors", "types"},
    "program": {"errors", "types", "graph", "reuse", "transforms"},
    "runtime": {"errors", "types", "outputs", "profiling", "program", "reuse"},
    "learn": {
        *("errors", "types", "registry", "outputs", "profiling", "spec", "nets", "media", "graph", "transforms"),
        *("artifact", "coding"),
    },
    "compress": {
        *("errors", "types", "registry", "outputs", "profiling", "spec", "nets", "media", "graph", "transforms"),
        *("artifact", "coding", "learn"),
    },
    "coding": {"errors"},
    "compiler": {
        *("errors", "types", "registry", "outputs", "profiling", "spec", "nets", "media", "graph", "transforms"),
        *("backends", "artifact", "program", "reuse", "runtime"),
    },
}
# Rooms that a start from the cache goes through, or that are asked before anything runs.
WITHOUT_TORCH = (
    "spec",
    "registry",
    "outputs",
    "media",
    "profiling",
    "runtime",
    "program",
    "transforms",
    "reuse",
    "compiler",
)


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Rooms of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module == "sharedbb":
            names = [f"sharedbb.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("sharedbb."):
                yield name.split(".")[1]


def _files() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if _room(path) not in ("__init__", "__main__", "cli")]


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = _room(path)
    assert room in MAY_IMPORT, f"{room} is a new room: say above what it may import"
    assert set(_imports(path)) <= MAY_IMPORT[room] | {room}


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_light_rooms_do_not_import_torch(room: str) -> None:
    program = f"import sys, sharedbb.{room}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_package_itself_imports_nothing_heavy() -> None:
    program = "import sys, sharedbb; print(*sorted({'torch', 'numpy', 'cv2', 'pydantic', 'av'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
