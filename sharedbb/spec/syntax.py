"""YAML (or JSON) text to nodes with marks, within limits.

The dialect is YAML 1.2's core schema: only ``true`` and ``false`` are booleans (``off`` and ``no`` are text), ``1e-3``
is a number, dates and base 60 do not exist.
"""

from __future__ import annotations

import re
from typing import Any

from yaml import MarkedYAMLError, Node, YAMLError
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from sharedbb.errors import Problem, SpecError

MAX_NODES = 50_000
"""Most values in one file, every use of an alias counted in full: an alias bomb ends here."""
MAX_DEPTH = 64
"""Most levels of nesting."""

TAG = "tag:yaml.org,2002:"
"""How the full names of YAML's own tags begin."""

PLAIN_SCALARS = tuple(
    (TAG + name, re.compile(rf"(?:{pattern})\Z"), [*first])
    for name, pattern, first in (
        ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
        ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    )
)
"""Which unquoted words are no text: tag, pattern, possible first characters."""


def compose(text: str, file: str | None = None) -> Node | None:
    """The root node of ``text``, None where it is empty. Raises SpecError where it is no YAML, or beyond the limits."""
    parser, (line, column) = None, (1, 1)
    try:
        parser = _Parser(text)
        return parser.get_single_node()
    except _LimitError as error:
        mark, message = error.problem_mark, f"has more than {error.problem}"
    except MarkedYAMLError as error:
        mark, message = error.problem_mark or error.context_mark, f"not valid YAML: {_sentence(error)}"
    except ReaderError as error:
        mark, message = None, f"not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed"
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    except (YAMLError, ValueError, OverflowError):
        mark = parser.get_mark() if parser else None
        message = "not valid YAML: an escape sequence or a version number is out of range"
    if mark:
        line, column = mark.line + 1, mark.column + 1
    raise SpecError([Problem("", message, file, line, column)])


class _LimitError(MarkedYAMLError):
    """More than is read of any file."""


class _Parser(Reader, Scanner, Parser, Composer, BaseResolver):
    """Text to nodes with marks; there is no constructor in it, so tags cannot run anything."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - the base class's name for it

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._nodes = self._depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_NODES or self._depth > MAX_DEPTH:
            limit = f"{MAX_NODES} values" if self._nodes > MAX_NODES else f"{MAX_DEPTH} levels of nesting"
            start = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _LimitError(problem=limit, problem_mark=start)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def scan_to_next_token(self) -> None:
        super().scan_to_next_token()
        while self.flow_level and self.peek() == "\t":  # JSON may be indented with tabs
            self.forward()
            super().scan_to_next_token()


for _name, _pattern, _first in PLAIN_SCALARS:
    _Parser.add_implicit_resolver(_name, _pattern, _first)


def _sentence(error: MarkedYAMLError) -> str:
    """PyYAML's two half sentences, what is wrong and what it was at, as one."""
    problem, context = error.problem or "", error.context or ""
    if "'\\t'" in problem:
        return "found a tab; indent with spaces"
    if "mapping values" in problem:
        problem += "; a ':' may be missing on the line before, or quotes around text with ': ' in it"
    if not context.startswith("while"):
        return ", ".join(filter(None, [context, problem]))
    start = f" that starts on line {error.context_mark.line + 1}" if error.context_mark else ""
    return f"{problem} {context}{start}"
