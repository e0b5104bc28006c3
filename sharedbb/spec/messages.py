"""Pydantic's errors as problems: what was given, what is allowed, the nearest spelling, and the place in the file."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sharedbb.errors import Problem
from sharedbb.spec.document import Document, FieldPath
from sharedbb.spec.faults import MISSING_FIELD, SAID, UNKNOWN_FIELD, did_you_mean, shown
from sharedbb.spec.fields import known_fields, meaning, meant_field
from sharedbb.spec.pipeline import HEAD_NAME

_MUST_BE = {
    "string_type": "text",
    "string_unicode": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "{le:g} or less",
    "less_than": "less than {lt:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "string_pattern_mismatch": "text of the pattern {pattern}",
    "string_too_short": "text, not empty",
    "literal_error": "{expected}",
}

_HEAD_NAME = "a head's name must be lower-case letters, digits and _, and start with a letter"


def problems_of(error: ValidationError, document: Document) -> list[Problem]:
    """One problem for every error, save those that another one explains."""
    found = [(_path(details, document.value), details) for details in error.errors(include_url=False)]
    unknown = {path for path, details in found if details["type"] in ("extra_forbidden", UNKNOWN_FIELD)}
    meant = {(*path[:-1], meant_field(document.value, path)) for path in unknown}
    problems = []
    for path, details in found:
        missing = details["type"] in ("missing", MISSING_FIELD)
        if (path in document.faulty and path not in unknown) or (missing and path in meant):
            continue
        at_key = path in unknown or details["loc"][-1:] == ("[key]",)
        problems.append(document.problem(path, _message(path, details, document.value), at_key=at_key))
    return problems


def _path(details: ErrorDetails, value: Any) -> FieldPath:
    """The error's place in the document: pydantic's, without the names of union members and other steps of its own."""
    path: list[str | int] = []
    missing = details["loc"][-1:] if details["type"] in ("missing", MISSING_FIELD) else ()
    for step in details["loc"][: len(details["loc"]) - len(missing)]:
        if step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value)):
            path.append(step)
            value = value[step]
    path.extend(missing)
    return tuple(path)


def _message(path: FieldPath, details: ErrorDetails, root: Any) -> str:
    given, context = details["input"], details.get("ctx", {})
    match details["type"]:
        case kind if kind in (SAID, UNKNOWN_FIELD, MISSING_FIELD):
            return details["msg"]
        case "extra_forbidden":
            meant, known = meant_field(root, path), ", ".join(known_fields(root, path[:-1]))
            return (
                f"unknown field{f'; did you mean {meant!r}?' if meant else ''}{f' (known: {known})' if known else ''}"
            )
        case "missing":
            what = meaning(root, path)
            return f"is missing ({what})" if what else "is missing"
        case "too_short" | "too_long" as kind:
            bound, count = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
            entries = "1 entry" if context[count] == 1 else f"{context[count]} entries"
            return f"must have at {bound} {entries}, got {context['actual_length']}"
        case "string_pattern_mismatch" if context["pattern"] == HEAD_NAME:
            return f"{_HEAD_NAME}, got {shown(given)}"
        case "value_error":
            return f"{context['error']}, got {shown(given)}"
        case kind if kind in _MUST_BE:
            allowed = _MUST_BE[kind].format(**context) + _or_mapping(kind, known_fields(root, path))
            return f"must be {allowed}, got {shown(given)}{_hint(kind, given, context)}"
    return f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {shown(given)}"


def _or_mapping(kind: str, fields: list[str]) -> str:
    """Which mapping is allowed: the only thing, or beside the words of a literal."""
    those = ", ".join(fields)
    return (
        {"model_type": f" with the fields {those}", "literal_error": f", or a mapping with the fields {those}"}.get(
            kind, ""
        )
        if those
        else ""
    )


def _hint(kind: str, given: Any, context: dict[str, Any]) -> str:
    """What would probably have worked."""
    match kind, given:
        case "literal_error", str():
            return did_you_mean(given, re.findall(r"'([^']*)'", context["expected"]))
        case "string_type", bool() | int() | float() | None:
            return "; in quotes it is text"
        case (("int_type" | "float_type"), str()) if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?", given):
            return "; without quotes it is a number"
        case "multiple_of", int():
            step = context["multiple_of"]
            return f"; the nearest is {max(step, round(given / step) * step)}"
    return ""
