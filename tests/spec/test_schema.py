"""The JSON Schema that editors get: complete, described, and in step with what is registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sharedbb.registry import BACKBONES, BACKENDS, HEADS, register_backbone
from sharedbb.spec import Pipeline, json_schema
from sharedbb.spec.heads import head_spec
from sharedbb.spec.transforms import TRANSFORMS


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in the schema, nested ones too."""
    if isinstance(schema, dict):
        yield schema
    for child in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _parts(child)


def _heads(schema: dict[str, Any]) -> list[dict[str, Any]]:
    (heads,) = schema["properties"]["heads"]["patternProperties"].values()
    return [
        schema["$defs"][form["$ref"].removeprefix("#/$defs/")] if "$ref" in form else form for form in heads["oneOf"]
    ]


def test_it_is_plain_json() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_reference_leads_somewhere() -> None:
    schema = json_schema()
    references = {part["$ref"] for part in _parts(schema) if "$ref" in part}
    assert references == {f"#/$defs/{name}" for name in schema["$defs"]}


def test_every_field_of_every_part_is_described_and_nothing_else_is_allowed() -> None:
    objects = [part for part in _parts(json_schema()) if part.get("type") == "object" and "properties" in part]
    assert len(objects) == 9 + len(TRANSFORMS) + len(HEADS)
    for part in objects:
        assert part["additionalProperties"] is False
        assert part["description"]
        for name, field in part["properties"].items():
            assert field.get("description"), f"{part['title']}.{name}"


def test_the_required_fields_are_those_without_a_default() -> None:
    schema = json_schema()
    assert schema["required"] == ["name", "backbone", "heads"]
    assert schema["properties"].keys() == Pipeline.model_fields.keys()
    assert schema["$defs"]["Backbone"]["required"] == ["arch"]


def test_a_head_is_one_of_the_registered_types() -> None:
    heads = json_schema()["properties"]["heads"]
    assert heads["minProperties"] == 1
    assert heads["additionalProperties"] is False
    forms = _heads(json_schema())
    assert [form["properties"]["type"]["const"] for form in forms] == [*HEADS]
    for form, name in zip(forms, HEADS, strict=True):
        spec = head_spec(name)
        assert form["properties"].keys() == spec.model_fields.keys()
        required = {field for field, info in spec.model_fields.items() if info.is_required()}
        assert {*form["required"]} == {"type", *required}


def test_ranges_reach_the_editor() -> None:
    segmentation, detection, *_ = _heads(json_schema())
    assert segmentation["properties"]["classes"]["minItems"] == 2
    assert detection["properties"]["classes"]["minItems"] == 1
    assert detection["properties"]["score_threshold"]["maximum"] == 1
    sides = json_schema()["$defs"]["Input"]["properties"]["size"]["prefixItems"]
    assert sides == [{"type": "integer", "minimum": 32, "maximum": 8192, "multipleOf": 32}] * 2


def test_names_are_those_registered_by_now() -> None:
    def arch() -> list[str]:
        return json_schema()["$defs"]["Backbone"]["properties"]["arch"]["enum"]  # type: ignore[no-any-return]

    assert arch() == [*BACKBONES]
    assert json_schema()["$defs"]["Runtime"]["properties"]["backend"]["enum"] == ["auto", *BACKENDS]
    register_backbone("tiny", build=dict)
    try:
        assert arch() == [*BACKBONES]
        assert "tiny" in arch()
    finally:
        BACKBONES.unregister("tiny")
