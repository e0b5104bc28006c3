"""Fields set from outside the file: ``heads.road.every=2``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sharedbb.errors import Problem, SpecError
from sharedbb.spec.document import Document, FieldPath, Place, read
from sharedbb.spec.faults import did_you_mean, shown


def override(document: Document, overrides: Sequence[str]) -> None:
    """Set each ``"dotted.field=value"`` in the document, in order; the value is YAML, nothing after ``=`` is null.

    Mappings on the way that are absent are made; items of a list go by their index. An override that cannot be set
    becomes a problem of the document.
    """
    for text in overrides:
        try:
            field, value = _split(text)
            path = _set(document.value, field.split("."), value)
        except ValueError as error:
            document.problems.append(Problem("", f"{error} (from the override {shown(text)})", document.file))
            continue
        document.places = {at: place for at, place in document.places.items() if at[: len(path)] != path}
        document.places[path] = Place(override=text)


def _split(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not equals or not field.strip():
        raise ValueError("must be written field=value, for example heads.road.every=2")
    try:
        document = read(value)
    except SpecError as error:
        raise ValueError(f"the value: {error.problems[0].message}") from None
    if document.problems:
        raise ValueError(f"the value: {document.problems[0].message}")
    return field.strip(), document.value


def _set(root: Any, keys: Sequence[str], value: Any) -> FieldPath:
    """Put ``value`` at ``keys`` below ``root``; the path of the outermost thing that is new. Raises ValueError."""
    here, new = root, len(keys)
    path: list[str | int] = []
    for depth, text in enumerate(keys):
        key = _key(here, text, path)
        last = depth == len(keys) - 1
        if not last and isinstance(here, dict) and here.get(text) is None:
            if path == ["heads"]:
                raise ValueError(
                    f"there is no head {text!r}; the heads are {', '.join(here)}" + did_you_mean(text, here)
                )
            new = min(new, depth + 1)
            here[text] = {}
        path.append(key)
        if last:
            here[key] = value
        else:
            here = here[key]
    return tuple(path[:new])


def _key(parent: Any, text: str, path: Sequence[str | int]) -> str | int:
    """``text`` as a key of ``parent``: itself in a mapping, an index in a list."""
    where = ".".join(map(str, path)) or "the pipeline"
    if isinstance(parent, dict):
        return text
    if not isinstance(parent, list):
        raise ValueError(f"{where} is {shown(parent)} and has no field {text!r}")
    if not text.isascii() or not text.isdigit() or int(text) >= len(parent):
        raise ValueError(f"{where} has no item {text!r}, only 0 to {len(parent) - 1}")
    return int(text)
