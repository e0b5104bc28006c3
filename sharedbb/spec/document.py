"""Plain values that know where they were written.

Nothing is ever constructed but text, numbers, booleans, nulls, lists and mappings with text keys; everything else is a
problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from sharedbb.errors import Problem, SpecError
from sharedbb.spec.faults import shown
from sharedbb.spec.syntax import MAX_DEPTH, MAX_NODES, TAG, compose

MAX_DIGITS = 100
"""Longest number that is read."""

FieldPath = tuple[str | int, ...]
"""Keys and indices from the root to a value."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value came from: line and column of its key and of itself, from 1; or the override that set it."""

    key: tuple[int, int] | None = None
    value: tuple[int, int] | None = None
    override: str | None = None


@dataclass(slots=True)
class Document:
    """Plain values, the place of each by its path, and the problems found so far.

    ``faulty`` has the paths whose values could not be read and stand as None.
    """

    file: str | None
    value: Any = None
    places: dict[FieldPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faulty: set[FieldPath] = field(default_factory=set)

    def place(self, path: FieldPath) -> tuple[Place, bool]:
        """The place of the value at ``path``, or of its nearest parent that has one, and whether it is its own."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]], length == len(path)
        return Place(), False

    def problem(self, path: FieldPath, message: str, *, at_key: bool = False) -> Problem:
        """A problem with the value at ``path``, or with its key; what is absent is placed at the key it belongs to."""
        place, own = self.place(path)
        if place.override is not None:
            return Problem(dotted(path), f"{message} (from the override {place.override!r})", self.file)
        line, column = (place.key if at_key or not own else None) or place.value or (None, None)
        return Problem(dotted(path), message, self.file, line, column)


def dotted(path: FieldPath) -> str:
    """``heads.road.taps.0``."""
    return ".".join(map(str, path))


def read(text: str, file: str | None = None) -> Document:
    """Parse ``text``; what can be read is in the document's value, what cannot in its problems.

    Empty text has the value None. Raises SpecError where the text is no YAML at all, or beyond the limits.
    """
    root = compose(text, file)
    document = Document(file)
    if root is not None:
        document.value = _Walk(document).value(root, ())
    return document


def read_mapping(text: str, file: str | None, fields: Iterable[str]) -> Document:
    """As ``read``, where the text must hold a mapping; ``fields`` are those that it may have, for the message."""
    document = read(text, file)
    if not isinstance(document.value, dict):
        message = f"must be a mapping with the fields {', '.join(fields)}, got {shown(document.value)}"
        raise SpecError(document.problems or [document.problem((), message)])
    return document


class _Walk:
    """Turns nodes into plain values, noting places and problems in a document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._visited = 0
        self._open: set[int] = set()

    def value(self, node: Node, path: FieldPath, key: Node | None = None) -> Any:
        """The plain value of ``node``; None, and a problem, where it has none."""
        self._document.places[path] = Place(_spot(key) if key else None, _spot(node))
        if id(node) in self._open:
            return self._fault(path, "an alias (*name) that contains itself")
        self._visited += 1
        if self._visited > MAX_NODES or len(path) > MAX_DEPTH:
            limit = f"{MAX_NODES} values" if self._visited > MAX_NODES else f"{MAX_DEPTH} levels of nesting"
            raise SpecError(
                [self._document.problem((), f"has more than {limit} once its aliases (*name) are filled in")]
            )
        self._open.add(id(node))
        try:
            return self._plain(node, path)
        finally:
            self._open.discard(id(node))

    def _plain(self, node: Node, path: FieldPath) -> Any:
        match node.tag.removeprefix(TAG), node:
            case "map", MappingNode():
                return self._mapping(node, path)
            case "seq", SequenceNode():
                return [self.value(item, (*path, at)) for at, item in enumerate(node.value)]
            case kind, ScalarNode() if kind in _SCALARS:
                try:
                    return _SCALARS[kind](node.value)
                except ValueError as error:
                    return self._fault(path, str(error))
        return self._fault(path, _tag_refused(node))

    def _mapping(self, node: MappingNode, path: FieldPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in values:
                self._note(key_node, (*path, key), f"is given twice, first on line {lines[key]}")
                continue
            lines[key] = key_node.start_mark.line + 1
            values[key] = self.value(value_node, (*path, key), key_node)
        return values

    def _key(self, node: Node, path: FieldPath) -> str | None:
        kind = node.tag.removeprefix(TAG)
        if kind not in ("str", "map", "seq") and kind not in _SCALARS:
            self._note(node, path, _tag_refused(node))
        elif not isinstance(node, ScalarNode):
            self._note(node, path, "a key must be text, got a list or a mapping")
        elif kind != "str":
            self._note(node, path, f"a key must be text, got {node.value or 'nothing'}; in quotes it is text")
        elif node.value == "<<" and node.style is None:
            self._note(node, path, "merge keys (<<) are not part of the language; write the fields out")
        else:
            try:
                return _text(node.value)
            except ValueError as error:
                self._note(node, path, str(error))
        return None

    def _note(self, node: Node, path: FieldPath, message: str) -> None:
        line, column = _spot(node)
        self._document.problems.append(Problem(dotted(path), message, self._document.file, line, column))

    def _fault(self, path: FieldPath, message: str) -> None:
        self._document.faulty.add(path)
        self._document.problems.append(self._document.problem(path, message))


def _tag_refused(node: Node) -> str:
    tag = shown(node.tag.replace(TAG, "!!"))
    return f"the tag {tag} is not allowed; a pipeline is text, numbers, lists and mappings"


def _spot(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _text(text: str) -> str:
    """Join surrogate pairs, as JSON escapes characters above U+FFFF. Raises ValueError for half a pair."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError("half of a surrogate pair (\\uD800 to \\uDFFF) is no character") from None


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number may have {MAX_DIGITS} digits, got {len(text)}")
    try:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    except ValueError:
        raise ValueError(f"must be a whole number, got {shown(text)}") from None


def _number(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number may have {MAX_DIGITS} digits, got {len(text)}")
    try:
        return float(re.sub(r"\.(inf|nan)$", r"\1", text, flags=re.IGNORECASE))
    except ValueError:
        raise ValueError(f"must be a number, got {shown(text)}") from None


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"must be true or false, got {shown(text)}")
    return text.lower() == "true"


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": _text,
    "int": _whole,
    "float": _number,
    "bool": _flag,
    "null": lambda _: None,
}
