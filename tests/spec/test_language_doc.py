"""docs/pipeline-language.md says what the models are: every field, every default, every message."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from sharedbb.errors import SpecError
from sharedbb.registry import BACKBONES, BACKENDS, HEADS
from sharedbb.spec import Head, Pipeline, loads
from sharedbb.spec.heads import head_spec
from sharedbb.spec.transforms import TRANSFORMS

DOC = (Path(__file__).parents[2] / "docs" / "pipeline-language.md").read_text(encoding="utf-8")


def _models(annotation: Any) -> set[type[BaseModel]]:
    """The models in an annotation, and those in their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.values()
        return {annotation}.union(*(_models(field.annotation) for field in fields))
    return set().union(*(_models(argument) for argument in get_args(annotation)))


MODELS = sorted(_models(Pipeline) | {head_spec(name) for name in HEADS}, key=lambda model: model.__name__)


def _rows(model: type[BaseModel]) -> dict[str, list[str]]:
    """The table under the heading that ends with the model's name: field to type, default and meaning."""
    (section,) = re.findall(rf"^### .*`{model.__name__}`$(.*?)(?=^##|\Z)", DOC, re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    assert rows[0] == ["field", "type", "default", "meaning"]
    return {field.strip("`"): cells for field, *cells in rows[2:]}


def _own_fields(model: type[BaseModel]) -> dict[str, Any]:
    common = Head.model_fields if issubclass(model, Head) and model is not Head else {}
    return {name: field for name, field in model.model_fields.items() if name not in common}


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    match field.default:
        case BaseModel():
            return "its defaults"
        case None:
            return "`null`"
        case bool():
            return f"`{str(field.default).lower()}`"
        case tuple():
            return f"`{list(field.default)}`"
    return f"`{field.default}`"


def _literals(annotation: Any) -> set[str]:
    if get_origin(annotation) is Literal:
        return {str(value) for value in get_args(annotation)}
    return set().union(*(_literals(argument) for argument in get_args(annotation)))


def test_all_models_are_found() -> None:
    assert len(MODELS) == 10 + len(TRANSFORMS) + len(HEADS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_there_with_its_default_and_its_words(model: type[BaseModel]) -> None:
    rows, fields = _rows(model), _own_fields(model)
    assert rows.keys() == fields.keys()
    for name, field in fields.items():
        kind, default, meaning = rows[name]
        assert default == _default(field), name
        assert len(meaning) > 10, name
        assert _literals(field.annotation) <= {*re.findall(r"`([^`\]]+)`", kind)}, name


@pytest.mark.parametrize(
    ("model", "field", "names"),
    [("Backbone", "arch", BACKBONES), ("Runtime", "backend", BACKENDS), ("Head", "type", HEADS)],
)
def test_every_registered_name_is_there(model: str, field: str, names: Any) -> None:
    (found,) = [known for known in MODELS if known.__name__ == model]
    assert {*names} <= {*re.findall(r"`([^`]+)`", _rows(found)[field][2])}


BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
WITH_ERRORS = [
    (source, errors)
    for (kind, source), (_, errors) in pairwise(BLOCKS)
    if kind == "yaml" and errors.startswith("street.yaml:")
]
WRONG = [source for source, _ in WITH_ERRORS]
RIGHT = [source for kind, source in BLOCKS if kind == "yaml" and source not in WRONG]


def test_the_page_shows_before_it_tells() -> None:
    assert DOC.split("\n\n")[1].startswith("```yaml\nversion: 1\n")
    assert len(RIGHT) >= 3
    assert len(WRONG) >= 3


@pytest.mark.parametrize("source", RIGHT)
def test_every_example_loads(source: str) -> None:
    assert loads(source).heads


def test_the_first_example_has_every_section() -> None:
    pipeline = loads(RIGHT[0])
    assert {*pipeline.model_fields_set} == {*Pipeline.model_fields}


@pytest.mark.parametrize(("source", "errors"), WITH_ERRORS)
def test_every_error_reads_as_shown(source: str, errors: str) -> None:
    with pytest.raises(SpecError) as raised:
        loads(source, "street.yaml")
    assert str(raised.value) == errors.rstrip("\n")


@pytest.mark.parametrize("source", [source for kind, source in BLOCKS if kind == "python"])
def test_every_python_example_runs(source: str) -> None:
    before = {*HEADS}
    try:
        exec(compile(source, "<example>", "exec", dont_inherit=True), {"__name__": "example"})
    finally:
        for name in {*HEADS} - before:
            HEADS.unregister(name)


def test_the_links_lead_to_headings() -> None:
    headings = re.findall(r"^#+ (.*)$", DOC, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]+)\)", DOC)
    assert len(links) >= 8
    assert {*links} <= anchors
