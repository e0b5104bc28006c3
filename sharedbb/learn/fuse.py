"""Running a fusion: teachers answer all pictures, one student learns from them, and each head is held against its own.

Everything is kept in a work folder. A run that was killed at any moment goes on there; where the training is counted in
steps, its result is that of an unbroken run, bit by bit.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sharedbb import artifact
from sharedbb.errors import CompressionError, DataError
from sharedbb.learn.agreeing import AGREEMENT, compared, operating_points, scores
from sharedbb.learn.batches import shares_of
from sharedbb.learn.checkpoint import check_same
from sharedbb.learn.course import Course
from sharedbb.learn.data import Data, Rgb, open_data
from sharedbb.learn.fusion import Fusion
from sharedbb.learn.judge import LOWEST_SCORE, Quality
from sharedbb.learn.losses import questions_of
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.learn.start import begun
from sharedbb.learn.survey import part_of, usable
from sharedbb.learn.teachers import Teacher, answered, open_teacher
from sharedbb.learn.teachers.answers import digest_of
from sharedbb.learn.teachers.teacher import WHERE
from sharedbb.learn.trainer import Trainer
from sharedbb.learn.training import Training, Watch, silent
from sharedbb.profiling.files import write_text
from sharedbb.spec import Pipeline, load
from sharedbb.spec.fuse import ROLES, Fuse, FuseData
from sharedbb.types import Output

SETTINGS, ANSWERS, STUDENT, TEST = "settings.json", "answers", "student.sbb", "test.json"
"""What is in the work folder beside the training: what decides it, the teachers' answers, what comes out."""

MOST_SAID = 256
"""Pictures of which the teachers' answers stay in memory, about one or two megabytes each."""


def fuse(spec: Fuse, work: str | Path, *, watch: Watch = silent) -> Fusion:
    """Run a fusion; ``work`` is the folder where everything is kept to go on from, ``watch`` is told how far it is.

    Raises CompressionError for teachers that cannot be run or do not fit their heads, for a work folder of another
    fusion, for a training that fails; DataError for pictures, WeightsError for weights to begin with that do not fit.
    """
    return _Fusing(spec, Path(work), watch).run()


@dataclass
class _Fusing:
    """A fusion while it runs."""

    spec: Fuse
    work: Path
    watch: Watch
    _said: dict[str, Mapping[str, Output]] = field(default_factory=dict)

    def run(self) -> Fusion:
        """All of it."""
        self._check_teachers()
        settings, path = self._settings(), self.work / SETTINGS
        if path.exists():
            check_same(self.work, _read_json(path), settings)
        self._check_untaught()
        training = self._training()
        write_text(path, json.dumps(settings, indent=1) + "\n")
        file = self.work / STUDENT
        trained, points = self._at_operating_points(training.run())
        trained.then(self._report(points)).save(file)
        network = _stored(trained.pipeline, file)
        return Fusion(
            fuse=self.spec,
            pipeline=network.pipeline,
            network=network,
            file=file,
            teachers=self.teachers,
            sets=self.sets,
            selection=training.trainer.selection,
            clock=training.trainer.clock,
            log=self.work,
            test=self._test(network, file),
            new_heads=self.start[1],
        )

    @cached_property
    def pipeline(self) -> Pipeline:
        """The student's."""
        return load(self.spec.student)

    @cached_property
    def teachers(self) -> dict[str, Teacher]:
        """All of them, under the student's names of their heads."""
        opened = {}
        for name, spec in self.spec.teachers.items():
            self.watch(f"opening the teacher {name}", None)
            opened[name] = open_teacher(name, spec)
        return opened

    @cached_property
    def start(self) -> tuple[Network, tuple[str, ...]]:
        """The network before training, and which of its heads are new."""
        self.watch("building the student", None)
        if self.spec.start_file is not None:
            return begun(self.pipeline, self.spec.start_file)
        whole = (self.pipeline.backbone.weights or "").endswith(artifact.SUFFIX)
        return Network.of(self.pipeline), () if whole else tuple(self.pipeline.heads)

    @cached_property
    def sets(self) -> dict[str, list[Data]]:
        """By role, the sets of pictures."""
        return sets_of(self.spec.data, self.pipeline.input.size, self.watch)

    def _check_teachers(self) -> None:
        """Hold every head that is taught against its teacher's. Raises CompressionError."""
        for name, teacher in self.teachers.items():
            for head, theirs in teacher.heads.items():
                ours = self.pipeline.heads[head]
                if ours.type != theirs.type:
                    raise CompressionError(
                        f"head {head!r} is of type {ours.type!r}, its teacher {name!r} answers {theirs.type!r}"
                    )
                length = getattr(ours, "dim", theirs.length)
                if theirs.length and length != theirs.length:
                    raise CompressionError(
                        f"head {head!r} answers {length} numbers, its teacher {name!r} {theirs.length}; they must be "
                        "equally many"
                    )
                names = artifact.class_names(ours)
                if names != theirs.names:
                    raise CompressionError(
                        f"head {head!r} has the names {list(names)}, its teacher {name!r} {list(theirs.names)}; they "
                        "must be the same, in the same order"
                    )

    def _check_untaught(self) -> None:
        """Make sure that heads without a teacher have labels to learn from. Raises CompressionError."""
        labelled = {head for data in self.sets["train"] for head in questions_of(self.pipeline, data)}
        for head in self.pipeline.heads:
            if head not in self.spec.taught and not (head in labelled and self.spec.data.labels):
                raise CompressionError(
                    f"head {head!r} learns from nobody: it has no teacher, and no set to learn from has labels for it"
                    + ("" if self.spec.data.labels else " that may teach (data.labels is false)")
                )

    def _settings(self) -> dict[str, Any]:
        """What decides the student, plain JSON values: a work folder of something else is refused."""
        aside: Any = {"backbone": {"weights"}, "name": True, "reuse": True, "schedule": True, "runtime": True}
        return _plain(
            {
                "student": self.pipeline.model_dump(mode="json", exclude=aside),
                "start": _digest(self.start[0]),
                "teachers": {name: _whatever_its_place(teacher) for name, teacher in self.teachers.items()},
                "data": self.spec.data.model_dump(mode="json", exclude={"test"}),
                "pictures": {role: [data.digest for data in self.sets[role]] for role in ("train", "val")},
                "training": self.spec.training.model_dump(mode="json"),
                "seed": self.spec.seed,
            }
        )

    def _training(self) -> Training:
        """The training of the student on all sets, with the teachers' answers."""
        asked, (network, _) = self.spec.training, self.start
        course = Course(
            asked.steps,
            asked.minutes,
            asked.batch,
            asked.crop,
            asked.lr,
            overlap=asked.overlap,
            balance=asked.balance,
            heads=asked.weights,
            seed=self.spec.seed,
        )
        sets = self.sets["train"]
        pools = shares_of([(data, one.share) for data, one in zip(sets, self.spec.data.train, strict=True)])
        taught = [(self._taught(data), share) for data, share in pools]
        trainer = Trainer(network.copy(), course, taught, self.pipeline)
        every, patience = asked.validate_every, asked.patience
        return Training(
            network,
            trainer,
            self.work,
            judged=self._judged,
            every=every,
            patience=patience,
            learnt=not self.start[1],
            watch=self.watch,
        )

    def _taught(self, data: Data) -> Data:
        """A set with what the teachers say of its pictures, and without its labels where they are not to teach."""
        if not self.spec.data.labels:
            data = copy.copy(data)
            data.classes, data.depth = (), False

        def progress(done: int, pictures: int) -> None:
            self.watch(f"asking the teachers about {data.name}", done / pictures)

        return answered(data, self.teachers, self.work / ANSWERS, progress)

    def _judged(self, network: Network) -> Quality:
        """One number for each head, on the sets to choose by."""
        told = self._compared(network, "val", "validating")
        return {head: {AGREEMENT: score} for head, score in scores(told, list(self.pipeline.heads)).items()}

    def _at_operating_points(self, network: Network) -> tuple[Network, dict[str, float]]:
        """The network with the ``score_threshold`` of every head that answers boxes where it is best on ``val``."""
        student = network.predictor(lowest_score=LOWEST_SCORE)
        doing = partial(self.watch, "choosing operating points")
        points = operating_points(student, self._answer, self.sets["val"], self.pipeline, doing)
        heads = dict(self.pipeline.heads)
        for name, point in points.items():
            heads[name] = heads[name].model_copy(update={"score_threshold": point})
        return replace(network, pipeline=network.pipeline.model_copy(update={"heads": heads})), points

    def _report(self, points: Mapping[str, float]) -> StepReport:
        teachers = {name: {"digest": one.digest, "heads": list(one.heads)} for name, one in self.teachers.items()}
        facts = {"new_heads": list(self.start[1]), "operating_points": dict(points)}
        return StepReport("fuse", {"teachers": teachers, "seed": self.spec.seed}, facts)

    def _test(self, network: Network, file: Path) -> dict[str, Any]:
        """How the student does on the sets that are held out; worked out once for a student and its sets."""
        path = self.work / TEST
        sets = {data.name: [len(data), data.digest] for data in self.sets["test"]}
        decided_by = {"student": artifact.digest(file), "sets": sets}
        if path.exists() and (told := _read_json(path)).get("decided_by") == decided_by:
            found: dict[str, Any] = told["test"]
            return found
        test = _plain(self._compared(network, "test", "judging on what was held out"))
        write_text(path, json.dumps({"decided_by": decided_by, "test": test}, indent=1) + "\n")
        return test

    def _compared(self, network: Network, role: str, doing: str) -> dict[str, Any]:
        student = network.predictor(lowest_score=LOWEST_SCORE)
        return compared(student, self._answer, self.sets[role], network.pipeline, partial(self.watch, doing))

    def _answer(self, rgb: Rgb) -> Mapping[str, Output]:
        """What the teachers say of a picture, at their operating points, by head of the student.

        They are asked once about each of the first pictures: those of ``val``, which come again at every validation.
        """
        picture = digest_of(rgb)
        if picture in self._said:
            return self._said[picture]
        said = {head: output for teacher in self.teachers.values() for head, output in teacher(rgb).items()}
        if len(self._said) < MOST_SAID:
            self._said[picture] = said
        return said


def sets_of(data: FuseData, size: tuple[int, int], watch: Watch = silent) -> dict[str, list[Data]]:
    """By role, the sets of pictures, or those parts of them that are for it; without those that are unreadable.

    ``size``: height and width of what they are reduced to. Raises DataError where there are none.
    """
    opened: dict[str, Data] = {}

    def part(name: str, role: str) -> Data | None:
        if name not in opened:
            watch(f"reading {name}", None)
            opened[name] = open_data(name, size)
        found: Data | None = opened[name]
        if opened[name].classes or name in data.divided:
            by_itself = role == "val" and not data.val
            found = part_of(opened[name], role) if by_itself else opened[name].of(role)
        if found and data.judge and role != "train":
            found = found.spread(data.judge)
        return usable(found, partial(watch, f"reading {name}")) if found else None

    sets = {role: [found for name in data.of(role) if (found := part(name, role))] for role in ROLES}
    if not sets["val"]:
        raise DataError("no set to learn from has pictures for 'val': name some to choose by under data.val")
    return sets


def _whatever_its_place(teacher: Teacher) -> dict[str, Any]:
    """What a teacher is, wherever its file lies."""
    return {name: value for name, value in teacher.describe().items() if name not in WHERE}


def _stored(pipeline: Pipeline, file: Path) -> Network:
    """The network of a pipeline as its artifact has it."""
    backbone = pipeline.backbone.model_copy(update={"weights": str(file)})
    return Network.of(pipeline.model_copy(update={"backbone": backbone}))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As they are when read back from JSON."""
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompressionError(f"{path} is damaged ({error}); delete it and run again") from error
    return found


def _digest(network: Network) -> str:
    """Of the artifact that a network makes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / STUDENT
        network.save(path)
        return artifact.digest(path)
