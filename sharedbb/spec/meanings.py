"""What a field of a model means: its docstring, read from the source when somebody asks and not at every start."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel


def meaning(model: type[BaseModel], name: str) -> str:
    """The first sentence of a field's description, without its full stop; empty where there is none."""
    sentence = " ".join(descriptions(model).get(name, "").split()).split(". ")[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def describe(model: type[BaseModel], form: dict[str, Any]) -> None:
    """Add the descriptions to the properties of a model's JSON Schema that have none."""
    for name, text in descriptions(model).items():
        if name in form.get("properties", {}):
            form["properties"][name].setdefault("description", text)


@cache
def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The fields that have one, and what it says: ``Field(description=...)``, or the string behind the field."""
    written = {name: text for part in reversed(model.__mro__) for name, text in _docstrings(part).items()}
    described = {name: field.description or written.get(name) for name, field in model.model_fields.items()}
    return {name: text for name, text in described.items() if text}


@cache
def _docstrings(part: type) -> dict[str, str]:
    """Strings behind the annotated names of a class; none where its source cannot be had."""
    if not issubclass(part, BaseModel) or part is BaseModel:
        return {}
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    found = {}
    for field, text in pairwise(getattr(body, "body", ())):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                found[name] = inspect.cleandoc(said)
    return found
