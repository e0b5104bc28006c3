"""The tables of the benchmark report, and what a suite keeps in a form of its own as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.report_charts import measure, written
from sharedbb.profiling.markup import escaped
from sharedbb.profiling.page import facts

WIDEST, LONGEST, DEEPEST = 20, 100, 3
"""Columns, rows and levels that are shown; what is larger is only in the file."""


def table(names: Iterable[str], rows: Iterable[list[str]], style: str = "") -> str:
    """A table: names of columns as text, cells as HTML; the first cell of a row names it."""
    return whole(names, plain_rows(rows), style)


def whole(names: Iterable[str], body: str, style: str = "") -> str:
    """A table around rows that are HTML."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in names)
    return f'<table class="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def plain_rows(rows: Iterable[list[str]]) -> str:
    """The rows of a table, cells as HTML."""
    return "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )


def title_of(name: str) -> str:
    """A name from the file, in words."""
    return name.replace("_", " ")


def details(suite: str, kept: Mapping[str, Any]) -> str:
    """What a suite has kept in its own form: values, then tables; at last what is too large, by name."""
    values: dict[str, str] = {}
    tables: list[str] = []
    left: list[str] = []
    for key, value in kept.items():
        if key != "series":
            _sort((title_of(key),), value, values, tables, left)
    shown = (facts(values) if values else "") + "".join(tables)
    if left:
        shown += f'<p class="note">Only in {escaped(suite)}.json: {escaped("; ".join(left))}.</p>'
    return shown


def _sort(path: tuple[str, ...], value: Any, values: dict[str, str], tables: list[str], left: list[str]) -> None:
    """Put a value where it belongs: it is one, it is a table, its parts are, or it is too large."""
    name = ", ".join(path)
    if _is_cell(value):
        values[name] = _cell(value)
    elif found := _matrix(value) or _matrix(_paired(value)):
        tables.append(f"<h4>{escaped(name)}</h4>{found}")
    elif isinstance(value, dict) and len(path) < DEEPEST and len(value) <= LONGEST:
        for key, part in value.items():
            _sort((*path, title_of(key)), part, values, tables, left)
    elif value:
        left.append(name)


def _matrix(value: Any) -> str:
    """A table of rows by name or number and their values by column; nothing where it is none, or too large."""
    named = value if isinstance(value, dict) else dict(enumerate(value, 1))
    rows = {key: _flat(row) if isinstance(row, dict) else {"": row} for key, row in named.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    if len(columns) > WIDEST or not 0 < len(rows) <= LONGEST:
        return ""
    if not all(_is_cell(cell) for row in rows.values() for cell in row.values()):
        return ""
    if columns == [""]:
        return facts({str(key): _cell(row[""]) for key, row in rows.items()})
    body = [
        [escaped(key), *(escaped(_cell(row[column])) if column in row else "" for column in columns)]
        for key, row in rows.items()
    ]
    return f'<div class="scroll">{table(["", *map(title_of, columns)], body, "small")}</div>'


def _paired(value: Any) -> dict[str, Any]:
    """Rows of rows as rows, ``one, other``; empty where they are none."""
    if not isinstance(value, dict) or not all(isinstance(rows, dict) for rows in value.values()):
        return {}
    pairs = {f"{one}, {other}": row for one, rows in value.items() for other, row in rows.items()}
    return pairs if all(isinstance(row, dict) for row in pairs.values()) else {}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose values may be rows themselves, as one."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key} {inner}": one for inner, one in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _is_cell(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 4 and not any(isinstance(one, dict | list) for one in value)
    return not isinstance(value, dict)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return written(value) if isinstance(value, float) else str(value)


def crossed(kept: Mapping[str, Any]) -> str:
    """Everything of ``{row: {column: {"speedup": times, "agreement": {head: share}}}}`` in what was kept, as tables.

    A cell has how many times as fast, and below it the head that agrees least.
    """
    return "".join(map(_crossed, _crosses(kept)))


def _crosses(value: Any) -> list[dict[str, Any]]:
    """What has that form, at any depth."""
    if not isinstance(value, dict):
        return []
    cells = [cell for row in value.values() if isinstance(row, dict) for cell in row.values()]
    if cells and all(isinstance(cell, dict) and {"speedup", "agreement"} <= cell.keys() for cell in cells):
        return [value]
    return [found for part in value.values() for found in _crosses(part)]


def _crossed(rows: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    body = [
        [escaped(name), *(_speedup(row[column]) if column in row else "" for column in columns)]
        for name, row in rows.items()
    ]
    return f'<div class="scroll">{table(["", *columns], body, "small")}</div>'


def _speedup(cell: Mapping[str, Any]) -> str:
    known = {head: share for head, share in cell["agreement"].items() if share is not None}
    if not known:
        return escaped(measure(cell["speedup"], "×"))
    head = min(known, key=known.__getitem__)
    return f"{escaped(measure(cell['speedup'], '×'))}<small>{escaped(f'{head} {written(known[head])}')}</small>"
