"""A fusion: several networks as teachers, pictures, and one pipeline that learns to answer like all of them.

Never imports torch. Reading a file imports and runs nothing of what it names.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from sharedbb.errors import SpecError
from sharedbb.sizes import Fit
from sharedbb.spec.document import Document, FieldPath, read_mapping
from sharedbb.spec.faults import Fault, did_you_mean, said, said_at, shown
from sharedbb.spec.loader import load, text_of
from sharedbb.spec.messages import problems_of
from sharedbb.spec.overrides import override
from sharedbb.spec.parts import (
    AtLeast,
    Count,
    Flag,
    GreyLevel,
    GreySpread,
    Number,
    Share,
    Text,
    Whole,
    exactly,
    unique,
)
from sharedbb.spec.pictures import Sets
from sharedbb.spec.recipe import Target
from sharedbb.spec.steps import Course, Part

KINDS = ("onnx", "artifact", "module")
"""What a teacher may be; just one of these fields names it."""

CLASS_FILES = (".txt", ".names")
"""Endings by which ``classes`` is known to name a file."""

FUNCTION = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
"""How something in Python is named: ``package.module:function``."""

ROLES = ("train", "val", "test")
"""What pictures are for."""


class TeacherInput(Part):
    """How a teacher that is no pipeline reads a picture: ``(x - mean) / std`` of a picture of its size."""

    size: Annotated[tuple[Count, Count], exactly("height", "width")]
    """Height and width of its input in pixels."""

    fit: Fit = "letterbox"
    """How a frame of another shape is fitted: `letterbox`, `stretch` or `crop`, as in a pipeline."""

    order: Literal["rgb", "bgr"] = "rgb"
    """The order of the colours that it reads."""

    mean: Annotated[tuple[GreyLevel, GreyLevel, GreyLevel], exactly("first", "second", "third")] = (0.0, 0.0, 0.0)
    """What is subtracted, in grey levels 0 to 255, in the order of its colours."""

    std: Annotated[tuple[GreySpread, GreySpread, GreySpread], exactly("first", "second", "third")] = (1.0, 1.0, 1.0)
    """What is divided by, in grey levels, in the order of its colours."""


def _same_names(value: Any) -> Any:
    """A list of heads is short for a mapping of each to the one of its name."""
    return {name: name for name in value} if isinstance(value, list) else value


def _function(value: str) -> str:
    if not re.fullmatch(FUNCTION, value):
        raise said(f"must be package.module:function, got {shown(value)}")
    return value


class FuseTeacher(Part):
    """A network to learn from: an ONNX file, an artifact or pipeline file, or a torch module made in Python."""

    onnx: Text | None = None
    """An ONNX file, relative to this file; OpenVINO runs it."""

    artifact: Text | None = None
    """An artifact (.sbb) or a pipeline file, relative to this file."""

    module: Annotated[Text, AfterValidator(_function)] | None = None
    """`package.module:function`, which is called without arguments and returns a torch module. Code of yours that is
    imported and run, though never when this file is only read."""

    input: TeacherInput | None = None
    """How it reads a picture; of an artifact, that is known."""

    format: Text | None = None
    """What its outputs are: a format by its registered name, or `package.module:function`; of an artifact, that is
    known."""

    options: dict[Text, Any] = {}  # noqa: RUF012 - pydantic copies it
    """Further fields of its format, such as `strides`."""

    outputs: dict[Text, Text] = {}  # noqa: RUF012 - pydantic copies it
    """What its format calls an array to what the network calls it; empty where they are called alike."""

    classes: Text | Annotated[tuple[Text, ...], AtLeast(1), AfterValidator(unique)] | None = None
    """Names of its classes, labels or points in the order of its outputs: a list, a list's name such as `coco80`, or a
    file (.txt, .names) with one a line, relative to this file; of an artifact, they are known."""

    score_threshold: Share | None = None
    """Its operating point: boxes and points of a lower score are not its answer; null for the one of its format."""

    iou_threshold: Share | None = None
    """Of its boxes of one class that overlap by more than this, the best one stays; null for what is usual."""

    heads: Annotated[dict[Text, Text], BeforeValidator(_same_names), AtLeast(1, "minProperties")]
    """Which of its heads teaches which head of the student: `{its head: student's head}`, or a list where both have one
    name."""

    @property
    def kind(self) -> str:
        """Which of KINDS it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise said(f"needs one of {', '.join(KINDS)}, got {' and '.join(given) or 'none of them'}")
        absent = [name for name in ("input", "format") if getattr(self, name) is None]
        if given != ["artifact"] and absent:
            raise said(f"needs {' and '.join(absent)}: of kind {given[0]!r}, nobody knows what it reads and answers")
        known: list[Fault] = [
            ((name,), "is known of an artifact; leave it out", value)
            for name in ("input", "format", "options", "outputs", "classes", "score_threshold", "iou_threshold")
            if given == ["artifact"] and (value := getattr(self, name)) not in (None, {}, ())
        ]
        if known:
            raise said_at("teacher", known)
        return self


class FuseData(Part):
    """The pictures. Labels are not needed.

    A set that has labels, or that is named under several of `train`, `val` and `test`, is divided: each gets its part
    of that name. Any other is taken whole.
    """

    train: Annotated[Sets, AtLeast(1)]
    """The sets to learn from, each by its name, or as `{set: NAME, share: 0.25}`."""

    val: Annotated[tuple[Text, ...], AfterValidator(unique)] = ()
    """The sets to choose the best network by; empty for those of `train`."""

    test: Annotated[tuple[Text, ...], AtLeast(1), AfterValidator(unique)]
    """The sets that are held out: the report is about these."""

    labels: Flag = True
    """Whether labels teach, where there are some, in the place of the teacher's answers. What is reported by them is
    reported either way."""

    judge: Count | None = None
    """Pictures of each set of `val` and `test` to judge on, at most, spread evenly over it; null for all."""

    @model_validator(mode="after")
    def _of_shares(self) -> Self:
        shares = [one.share for one in self.train if one.share is not None]
        if len(shares) == len(self.train) and abs(sum(shares) - 1) > 1e-6:
            raise said(f"every set to learn from has a share, and together they are {sum(shares):g}; they must be 1")
        if len(shares) < len(self.train) and sum(shares) >= 1:
            raise said(f"the shares of the sets to learn from, {sum(shares):g}, leave nothing for those without")
        return self

    @property
    def divided(self) -> frozenset[str]:
        """The sets that are named under several of ROLES."""
        times = Counter(name for role in ROLES for name in self.of(role))
        return frozenset(name for name, number in times.items() if number > 1)

    def of(self, role: str) -> tuple[str, ...]:
        """The sets of one of ROLES, by name."""
        learnt = tuple(one.set for one in self.train)
        return {"train": learnt, "val": self.val or learnt, "test": self.test}[role]


class FuseTraining(Course):
    """How the student is trained."""

    weights: dict[Text, Annotated[Number, Field(ge=0)]] = {}  # noqa: RUF012 - pydantic copies it
    """How much each head's loss counts, by name of the student's head; for those not named, what is usual for its
    type."""

    balance: Literal["fixed", "uncertainty", "gradnorm"] = "fixed"
    """How the heads' losses are balanced: `fixed` weights; `uncertainty`: weights learnt with the network (Kendall et
    al., 2018); `gradnorm`: so that all heads learn alike fast (Chen et al., 2018)."""

    validate_every: Count = 500
    """Steps from one validation to the next: the student is judged on `val`, also at the end; the best one stays."""

    patience: Count | None = None
    """After so many validations without a new best the training ends; null for never."""


class Fuse(Part):
    """What a fuse file says. ``load_fuse`` gives one with absolute paths."""

    version: Literal[1] = 1
    """Version of the language of fuse files."""

    student: Text
    """The pipeline that learns, with all its heads: its file, relative to this one."""

    start: Text | None = None
    """Weights to begin with: an artifact or pipeline file of the same backbone and neck, relative to this file, or the
    name of a teacher that is one. Heads that it lacks are new. Null: those that the student's pipeline file names."""

    teachers: Annotated[dict[Text, FuseTeacher], AtLeast(1, "minProperties")]
    """The networks to learn from, by name."""

    data: FuseData
    """The pictures to learn from, to choose by and to report on."""

    training: FuseTraining
    """How the student is trained."""

    floors: dict[Text, Share] = {}  # noqa: RUF012 - pydantic copies it
    """The agreement with its teacher that each head should reach on the held-out sets, 0 to 1, by name."""

    measure: tuple[Target, ...] = (Target(),)
    """Where speed is measured; empty for not at all."""

    seed: Whole = 0
    """Where all random numbers begin."""

    @model_validator(mode="after")
    def _of_fit_teachers(self) -> Self:
        first: dict[str, str] = {}
        faults: list[Fault] = []
        for name, teacher in self.teachers.items():
            for own, head in teacher.heads.items():
                if head in first:
                    message = f"{head!r} learns from {first[head]!r} already; every head has one teacher"
                    faults.append((("teachers", name, "heads", own), message, head))
                first.setdefault(head, name)
        begin = self.teachers.get(self.start or "")
        if begin and begin.artifact is None:
            message = f"the teacher {self.start!r} is of kind {begin.kind!r}; weights are taken from an artifact"
            faults.append((("start",), message, self.start))
        if faults:
            raise said_at("fuse", faults)
        return self

    @property
    def taught(self) -> dict[str, tuple[str, str]]:
        """By head of the student, the name of its teacher and of the teacher's head."""
        return {head: (name, own) for name, teacher in self.teachers.items() for own, head in teacher.heads.items()}

    @property
    def start_file(self) -> str | None:
        """The artifact to begin with; None for none."""
        teacher = self.teachers.get(self.start or "")
        return teacher.artifact if teacher else self.start


def load_fuse(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Fuse:
    """Read a fuse file, YAML or JSON; ``overrides`` are like ``"training.steps=100"``.

    Files named in it are taken from its folder, those in overrides from the working directory; sets of pictures always
    from the working directory. Raises SpecError with everything that is wrong, and for a faulty student.
    """
    return loads_fuse(text_of(path), os.fspath(path), overrides)


def loads_fuse(text: str, file: str | None = None, overrides: Sequence[str] = ()) -> Fuse:
    """The same from text; without ``file``, paths stay as they are written and the student is not looked at."""
    document = read_mapping(text, file, Fuse.model_fields)
    override(document, overrides)
    problems = list(document.problems)
    try:
        fuse = Fuse.model_validate(document.value)
    except ValidationError as error:
        problems += problems_of(error, document)
    if problems:
        raise SpecError(sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0)))
    found = _with_files_found(fuse, document)
    if file is not None:
        faults = _head_faults(found, load(found.student).heads)
        problems = [document.problem(path, message, at_key=at_key) for path, message, at_key in faults]
    if problems:
        raise SpecError(problems)
    return found


def _head_faults(fuse: Fuse, heads: Mapping[str, Any]) -> Iterator[tuple[FieldPath, str, bool]]:
    """Where a head is named that the student lacks; path, message, and whether it is the key that is wrong."""

    def unknown(head: str) -> str:
        return f"the student has no head {head!r}{did_you_mean(head, heads)} (it has {', '.join(heads)})"

    for name, teacher in fuse.teachers.items():
        for own, head in teacher.heads.items():
            if head not in heads:
                yield ("teachers", name, "heads", own), unknown(head), False
    for field, named in (("floors", fuse.floors), ("training.weights", fuse.training.weights)):
        for head in named:
            if head not in heads:
                yield (*field.split("."), head), unknown(head), True


def _with_files_found(fuse: Fuse, document: Document) -> Fuse:
    """The fusion with absolute paths of the files that it names."""

    def found(name: str | None, *path: str | int) -> str | None:
        if name is None or document.file is None:
            return name
        beside = "" if document.place(path)[0].override is not None else os.path.dirname(document.file)
        return os.path.abspath(os.path.join(beside, name))

    def with_files(name: str, teacher: FuseTeacher) -> FuseTeacher:
        files = {kind: found(getattr(teacher, kind), "teachers", name, kind) for kind in ("onnx", "artifact")}
        if isinstance(teacher.classes, str) and teacher.classes.endswith(CLASS_FILES):
            files["classes"] = found(teacher.classes, "teachers", name, "classes")
        return teacher.model_copy(update=files)

    teachers = {name: with_files(name, teacher) for name, teacher in fuse.teachers.items()}
    start = fuse.start if fuse.start in teachers else found(fuse.start, "start")
    return fuse.model_copy(update={"student": found(fuse.student, "student"), "start": start, "teachers": teachers})
