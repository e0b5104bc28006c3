"""JSON Schema of the files that commands write, put together from a few pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def form(description: str, **properties: Any) -> dict[str, Any]:
    """An object of exactly these fields."""
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def array(items: Mapping[str, Any], description: str) -> dict[str, Any]:
    """A list."""
    return {"type": "array", "items": items, "description": description}


def mapping(values: Mapping[str, Any], description: str) -> dict[str, Any]:
    """Values by names that are not known beforehand."""
    return {"type": "object", "additionalProperties": values, "description": description}


def text(description: str) -> dict[str, Any]:
    """A string."""
    return {"type": "string", "description": description}


def count(description: str) -> dict[str, Any]:
    """A whole number from 0."""
    return {"type": "integer", "minimum": 0, "description": description}


def number(description: str) -> dict[str, Any]:
    """Any number."""
    return {"type": "number", "description": description}


def share(description: str) -> dict[str, Any]:
    """A number from 0 to 1."""
    return {"type": "number", "minimum": 0, "maximum": 1, "description": description}


def amount(description: str) -> dict[str, Any]:
    """A number from 0."""
    return {"type": "number", "minimum": 0, "description": description}


def rounded(tree: Any, digits: int) -> Any:
    """The same values, numbers in it at so many digits behind the point."""
    if isinstance(tree, dict):
        return {key: rounded(value, digits) for key, value in tree.items()}
    return round(tree, digits) if isinstance(tree, float) else tree
