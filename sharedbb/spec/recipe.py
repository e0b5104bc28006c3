"""A recipe of compression: a pipeline, data, floors under its heads, and the steps in order. Never imports torch."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Strict, ValidationError

from sharedbb.errors import Problem, SpecError
from sharedbb.registry import BACKENDS
from sharedbb.spec.document import Document, FieldPath, dotted, read_mapping
from sharedbb.spec.faults import said, said_at, shown
from sharedbb.spec.loader import text_of
from sharedbb.spec.messages import problems_of
from sharedbb.spec.overrides import override
from sharedbb.spec.parts import AtLeast, Count, Number, RegisteredName, Text, Whole, names_file
from sharedbb.spec.pictures import Sets
from sharedbb.spec.steps import CodeStep, DistillStep, Part, PruneStep, QuantizeStep, Step

HEADLINE = "headline"
"""Stands for the headline metric of a head's type, whichever that is."""

RELATIVE = re.compile(r"(\d+(?:\.\d+)?) of before")
"""A bound by what the untouched network reaches: ``0.97 of before``."""


class RecipeData(Part):
    """The pictures: to train on, to judge on after each step, to judge on at the end.

    Each is named as `sharedbb.learn.open_data` takes it; paths are taken from the working directory.
    """

    train: Text
    """The set to train and to calibrate on: its training part."""

    footage: Sets = ()
    """Further pictures that trainings with a teacher learn from, such as videos of your own cameras: sets by name, or
    as `{set: NAME, share: 0.25}`. They need no labels, since the teacher answers them; of a set with labels it is
    the training part, of any other the whole."""

    val: Text | None = None
    """The set to judge on after each step: its validation part; null for that of the set to train on."""

    test: Text | None = None
    """The set to judge on at the end: its test part; null for that of the set to train on."""

    calibrate: Count = 128
    """Pictures of the set to train on that quantization is calibrated with and importance is measured on."""

    judge: Count | None = None
    """Pictures to judge on after each step, at most, spread evenly over the set; null for all."""


class Target(Part):
    """Where speed is measured."""

    backend: Annotated[str, Strict(), RegisteredName(BACKENDS, extra=("auto",))] = "auto"
    """The backend, by its registered name; `auto`: the one that is fastest here."""

    precision: Literal["auto", "f32", "bf16", "f16"] = "auto"
    """Number format of what is not quantized."""

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


def _bound(value: str | float) -> str | float:
    share = RELATIVE.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and not share:
        raise said(f"must be a number from 0 to 1 or text such as '0.97 of before', got {shown(value)}")
    if not 0 <= float(share[1] if share else value) <= 1:
        raise said(f"must be from 0 to 1, got {shown(value)}")
    return value


def _by_metric(value: Any) -> Any:
    return value if isinstance(value, Mapping) else {HEADLINE: value}


def _in_order(steps: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse steps that change weights behind the one that has rounded them for good.

    Another `quantize` may stand there: it takes the place of one that was refused.
    """
    places = [place for place, step in enumerate(steps) if isinstance(step, QuantizeStep) and step.claims_speed]
    late = [
        (
            (place, "type"),
            f"changes weights, which step {places[0]} has quantized; put it before that one",
            step.type,
        )
        for place, step in enumerate(steps)
        if places and place > places[0] and not isinstance(step, CodeStep | QuantizeStep)
    ]
    if late:
        raise said_at("steps", late)
    return steps


Bound = Annotated[str | Number, AfterValidator(_bound)]
Bounds = Annotated[dict[Text, Bound], BeforeValidator(_by_metric), AtLeast(1, "minProperties")]


class Recipe(Part):
    """What a recipe file says. ``load_recipe`` gives one with absolute paths."""

    version: Literal[1] = 1
    """Version of the recipe language."""

    pipeline: Text
    """The pipeline to compress: its file, relative to the recipe."""

    data: RecipeData
    """The pictures to train and judge on."""

    floors: dict[Text, Bounds] = {}  # noqa: RUF012 - pydantic copies it
    """How good each head must stay, by name and metric: a number, or a share of what it was, such as `0.97 of before`;
    without a metric, the one that heads of its type are judged by."""

    steps: Annotated[tuple[Step, ...], AtLeast(1), AfterValidator(_in_order)]
    """The steps, in order. Training directly behind a step that shrinks belongs to it: floors are held after it."""

    measure: tuple[Target, ...] = (Target(),)
    """Where speed is measured; the first decides whether a step is faster. Empty for not at all."""

    seed: Whole = 0
    """Where all random numbers begin."""


@dataclass(frozen=True, slots=True)
class Search:
    """A free number: ``{search: [low, high]}``, whole where both ends are."""

    low: float
    high: float

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True, slots=True)
class Choose:
    """A free choice: ``{choose: [a, b, ...]}``."""

    values: tuple[Any, ...]


class Space:
    """A recipe with free fields. ``free`` has them by dotted path, in the order of the file."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._paths = {dotted(path): path for path, _ in _free(document)}
        self.free: dict[str, Search | Choose] = {dotted(path): found for path, found in _free(document)}

    def recipe(self, values: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe with every free field filled in. Raises SpecError, also where a free field has no value."""
        given, document = dict(values or {}), copy.deepcopy(self._document)
        for name, path in self._paths.items():
            if name not in given:
                message = "is free ({search: ...} or {choose: ...}); `sharedbb search` fills it in, or write a value"
                raise SpecError([document.problem(path, message)])
            here = document.value
            for key in path[:-1]:
                here = here[key]
            here[path[-1]] = given.pop(name)
        if given:
            raise SpecError([Problem(name, "is not a free field of the recipe", document.file) for name in given])
        return _validated(document)


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML or JSON file; ``overrides`` are like ``"steps.0.amount=0.3"``.

    Files named in the file are taken from its folder, those in overrides from the working directory; data sets always
    from the working directory. Raises SpecError with everything that is wrong.
    """
    return load_space(path, overrides).recipe()


def load_space(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Space:
    """Read a recipe whose fields may be free; both ends of every free field are tried. Raises SpecError."""
    return loads_space(text_of(path), os.fspath(path), overrides)


def loads_space(text: str, file: str | None = None, overrides: Sequence[str] = ()) -> Space:
    """The same from text; without ``file``, paths stay as they are written."""
    document = read_mapping(text, file, Recipe.model_fields)
    override(document, overrides)
    space = Space(document)
    first = {name: found.low if isinstance(found, Search) else found.values[0] for name, found in space.free.items()}
    space.recipe(first)
    for name, found in space.free.items():
        for value in (found.high,) if isinstance(found, Search) else found.values[1:]:
            space.recipe({**first, name: value})
    return space


def _validated(document: Document) -> Recipe:
    problems = list(document.problems)
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        problems += problems_of(error, document)
    if problems:
        raise SpecError(sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0)))
    return _with_files_found(recipe, document)


def _with_files_found(recipe: Recipe, document: Document) -> Recipe:
    """The recipe with absolute paths of the files that it names."""

    def found(name: str | None, *path: str | int) -> str | None:
        if name is None or document.file is None:
            return name
        beside = "" if document.place(path)[0].override is not None else os.path.dirname(document.file)
        return os.path.abspath(os.path.join(beside, name))

    def with_files(step: Any, at: int) -> Any:
        changes: dict[str, Any] = {}
        match step:
            case PruneStep() | QuantizeStep():
                changes["sensitivity"] = found(step.sensitivity, "steps", at, "sensitivity")
            case DistillStep():
                changes["teacher"] = found(step.teacher, "steps", at, "teacher")
                if step.student and step.student.weights and names_file(step.student.weights):
                    weights = found(step.student.weights, "steps", at, "student", "weights")
                    changes["student"] = step.student.model_copy(update={"weights": weights})
        return step.model_copy(update=changes)

    steps = tuple(with_files(step, at) for at, step in enumerate(recipe.steps))
    return recipe.model_copy(update={"pipeline": found(recipe.pipeline, "pipeline"), "steps": steps})


def _free(document: Document) -> Iterator[tuple[FieldPath, Search | Choose]]:
    """The free fields below a value. Raises SpecError for a marker that means nothing."""
    stack: list[tuple[FieldPath, Any]] = [((), document.value)]
    while stack:
        path, value = stack.pop()
        match value:
            case {"search": [int() | float() as low, int() | float() as high]} if len(value) == 1 and low < high:
                yield path, Search(low, high)
            case {"choose": [_, _, *_] as values} if len(value) == 1:
                yield path, Choose(tuple(values))
            case {"search": _} | {"choose": _} if len(value) == 1:
                wanted = "must be {search: [low, high]} or {choose: [a, b, ...]} with two values or more"
                raise SpecError([document.problem(path, wanted)])
            case dict():
                stack += [((*path, key), item) for key, item in reversed(value.items())]
            case list():
                stack += [((*path, at), item) for at, item in reversed([*enumerate(value)])]
