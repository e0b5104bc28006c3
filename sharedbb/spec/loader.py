"""Pipeline files in and out: ``load``, ``loads``, ``check`` and ``dump``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from sharedbb.errors import Problem, SpecError
from sharedbb.spec.document import Document, FieldPath, read
from sharedbb.spec.faults import did_you_mean, shown
from sharedbb.spec.messages import problems_of
from sharedbb.spec.overrides import override
from sharedbb.spec.parts import names_file
from sharedbb.spec.pipeline import Pipeline
from sharedbb.spec.syntax import PLAIN_SCALARS

MAX_BYTES = 1 << 20
"""Largest pipeline file that is read: 1 MiB."""

Further = Callable[[Pipeline], Iterable[tuple[FieldPath, str]]]

_WEIGHTS = ("backbone", "weights")


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline from a YAML or JSON file; ``overrides`` are like ``"heads.road.every=2"``.

    Relative weights files are taken from the pipeline file's folder, those in overrides from the working directory.
    Raises SpecError with everything that is wrong.
    """
    return loads(text_of(path), path, overrides)


def loads(text: str, file: str | os.PathLike[str] | None = None, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline from YAML or JSON text; ``file`` is its name in messages, and its weights are taken from there.

    Without ``file``, a relative weights file stays as it is written. Raises SpecError with everything
    that is wrong.
    """
    pipeline, problems = _validated(_document(text, None if file is None else os.fspath(file), overrides))
    if pipeline is None:
        raise SpecError(problems)
    return pipeline


def check(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), further: Further | None = None
) -> tuple[Problem, ...]:
    """Everything that is wrong with a pipeline file, in the order of its lines, missing weights files included.

    ``further`` says what else is wrong with a pipeline that has no such faults: fields, and messages.
    """
    try:
        document = _document(text_of(path), os.fspath(path), overrides)
    except SpecError as error:
        return error.problems
    pipeline, problems = _validated(document)
    problems += _missing_weights(document)
    if pipeline is not None and not problems and further is not None:
        problems = [document.problem(field, message) for field, message in further(pipeline)]
    return tuple(_in_order(problems))


def dump(pipeline: Pipeline) -> str:
    """The pipeline as YAML, every field written out; ``loads`` gives an equal one back."""
    values = pipeline.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def text_of(path: str | os.PathLike[str]) -> str:
    """The text of a file of pipelines or recipes.

    Raises SpecError where it cannot be read, is too large, or is not UTF-8.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = did_you_mean(os.path.basename(name), _siblings(name))
        raise SpecError([Problem("", f"no such file{near}", name)]) from None
    except IsADirectoryError:
        raise SpecError([Problem("", "is a folder; name a pipeline file in it", name)]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpecError([Problem("", f"cannot be read: {reason}", name)]) from None
    if name.endswith(".sbb"):
        beside = os.path.splitext(name)[0] + ".yaml"
        raise SpecError([Problem("", f"is an artifact; name the pipeline file, such as {beside}", name)])
    if len(content) > MAX_BYTES:
        raise SpecError([Problem("", f"is larger than {MAX_BYTES >> 10} KiB, which no pipeline file is", name)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = f"is not UTF-8 text (byte 0x{error.object[error.start]:02X})"
        raise SpecError([Problem("", message, name, line, column)]) from None


def _siblings(name: str) -> list[str]:
    try:
        return os.listdir(os.path.dirname(name) or ".")
    except (OSError, ValueError):
        return []


def _document(text: str, file: str | None, overrides: Sequence[str]) -> Document:
    """Parsed text with overrides applied; its value is a mapping. Raises SpecError where it is none."""
    document = read(text, file)
    if document.value is None and not document.problems:
        raise SpecError([Problem("", "is empty; a pipeline needs at least name, backbone and heads", file, 1, 1)])
    if not isinstance(document.value, dict):
        message = f"must be a mapping of fields such as name, backbone and heads, got {shown(document.value)}"
        raise SpecError(document.problems or [document.problem((), message)])
    override(document, overrides)
    return document


def _validated(document: Document) -> tuple[Pipeline | None, list[Problem]]:
    """The pipeline, or everything that is wrong with it."""
    problems = list(document.problems)
    pipeline = None
    try:
        pipeline = Pipeline.model_validate(document.value)
    except ValidationError as error:
        problems += problems_of(error, document)
    if pipeline is None or problems:
        return None, _in_order(problems)
    return _with_weights_found(pipeline, document), []


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))


def _with_weights_found(pipeline: Pipeline, document: Document) -> Pipeline:
    """The pipeline with an absolute path of its weights file, if it has one."""
    weights = pipeline.backbone.weights
    if document.file is None or weights is None or not names_file(weights):
        return pipeline
    found = os.path.abspath(_beside(document, weights))
    return pipeline.model_copy(update={"backbone": pipeline.backbone.model_copy(update={"weights": found})})


def _beside(document: Document, weights: str) -> str:
    """``weights`` from the pipeline file's folder, or from the working directory where an override gave it."""
    place, _ = document.place(_WEIGHTS)
    if document.file is None or place.override is not None:
        return weights
    return os.path.join(os.path.dirname(document.file), weights)


def _missing_weights(document: Document) -> list[Problem]:
    backbone = document.value.get("backbone")
    weights = backbone.get("weights") if isinstance(backbone, dict) else None
    if not isinstance(weights, str) or not names_file(weights) or "\0" in weights:
        return []
    path = _beside(document, weights)
    if os.path.isfile(path):
        return []
    if os.path.isdir(path):
        return [document.problem(_WEIGHTS, f"{path!r} is a folder, not a weights file")]
    files = [name for name in _siblings(path) if names_file(name)]
    near = did_you_mean(os.path.basename(path), files)
    return [document.problem(_WEIGHTS, f"no such file: {path!r}{near}")]


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in PLAIN_SCALARS:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
