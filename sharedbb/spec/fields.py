"""Which fields may stand where in a document: for suggestions and for what a missing field means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from sharedbb.registry import HEADS
from sharedbb.spec import meanings
from sharedbb.spec.document import FieldPath
from sharedbb.spec.faults import nearest
from sharedbb.spec.heads import head_spec
from sharedbb.spec.parts import Branch
from sharedbb.spec.pipeline import Pipeline


def known_fields(root: Any, path: FieldPath) -> list[str]:
    """Names of the fields that the mapping at ``path`` may have; empty where that is not known."""
    model = _model_at(root, path)
    return [*model.model_fields] if model else []


def meant_field(root: Any, path: FieldPath) -> str | None:
    """The field that the unknown one at ``path`` resembles most; those not given yet come first."""
    *parents, word = path
    known = known_fields(root, tuple(parents))
    given = _value_at(root, tuple(parents))
    return nearest(str(word), [field for field in known if field not in given]) or nearest(str(word), known)


def meaning(root: Any, path: FieldPath) -> str:
    """The first sentence of a field's description, without its full stop; empty where there is none."""
    *parents, name = path
    model = _model_at(root, tuple(parents))
    return meanings.meaning(model, str(name)) if model else ""


def _value_at(root: Any, path: FieldPath) -> Any:
    for key in path:
        root = root[key]
    return root


def _model_at(root: Any, path: FieldPath) -> type[BaseModel] | None:
    """The model of the mapping at ``path``; a head's and a transform's depend on the ``type`` that is written there."""
    model: type[BaseModel] = Pipeline
    place: FieldPath = ()
    if path[:1] == ("heads",):
        head = _value_at(root, path[:2])
        kind = head.get("type") if len(path) > 1 and isinstance(head, Mapping) else None
        if not isinstance(kind, str) or kind not in HEADS:
            return None
        model, place, path = head_spec(kind), path[:2], path[2:]
    if path[:1] == ("branches",):
        if len(path) == 1:
            return None
        model, place, path = Branch, path[:2], path[2:]
    for name in path:
        place = (*place, name)
        field = model.model_fields.get(str(name))
        nested = _models_in(field.annotation) if field else []
        if len(nested) > 1:
            nested = _of_type(nested, _value_at(root, place))
        if len(nested) != 1:
            return None
        model = nested[0]
    return model


def _of_type(models: list[type[BaseModel]], value: Any) -> list[type[BaseModel]]:
    """Those of the models whose ``type`` is written in a mapping."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    return [model for model in models if "type" in model.model_fields and model.model_fields["type"].default == kind]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models among a field's alternatives; of containers, those of their items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
