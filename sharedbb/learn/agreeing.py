"""How far a student answers like its teachers, set by set and over all, and how good its answers are by labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from sharedbb.learn.data import Data, Rgb
from sharedbb.learn.judge import Answer, headline, judge
from sharedbb.learn.losses import questions_of
from sharedbb.learn.teachers import at_threshold
from sharedbb.outputs.agreement import Agreement, DetectionAgreement
from sharedbb.outputs.detections import Detections
from sharedbb.spec import Pipeline
from sharedbb.types import Output

AGREEMENT, LABELLED = "agreement", "labelled"


class Tally:
    """One head's answers against its teacher's, picture by picture; the teacher's are the truth.

    ``threshold``: the student's own operating point, None where it has none.
    """

    def __init__(self, threshold: float | None) -> None:
        self._threshold = threshold
        self._decided: Agreement | None = None
        self._ranked: Agreement | None = None

    def add(self, ours: Output, theirs: Output) -> None:
        """One picture; of boxes, all of the student's, and the teacher's at its operating point."""
        if self._decided is None:
            self._decided = Agreement.of(type(theirs))
            self._ranked = Agreement.of(type(theirs)) if isinstance(theirs, Detections) else None
        if self._ranked is not None:
            self._ranked.add(ours, theirs)
        self._decided.add(at_threshold(ours, self._threshold), theirs)

    def summary(self) -> dict[str, Any]:
        """What ``outputs.agreement`` says of the head's type, by decided answers: ``agreement``, ``worst_decile``, ...

        Boxes: the agreement is AP50, which takes the student's boxes of every score; where the teacher has none at all,
        the share of the pictures on which the student has none either. ``boxes`` is how many the teacher has.
        """
        assert self._decided is not None
        told = self._decided.summary()
        if self._ranked is None:
            return told
        ranked = self._ranked.overall()
        if not ranked["ap50"]:
            return told | {AGREEMENT: float(np.mean(self._decided.frames))}
        return told | {name: ranked[name] for name in (AGREEMENT, "ap50", "ap50_weighted")}

    def best_threshold(self) -> float | None:
        """Of boxes: where the student's scores are best cut off; None for other heads, and where nothing matches."""
        return self._ranked.best_threshold() if isinstance(self._ranked, DetectionAgreement) else None


Tallies = dict[str, Tally]


@dataclass(frozen=True, slots=True)
class Witness:
    """A student whose answers are held against those of its teachers while it gives them.

    ``teachers`` answers the heads that are taught, at their operating points. Each of ``tallies`` gets every picture,
    and ``seen`` is called after it.
    """

    student: Answer
    teachers: Answer
    pipeline: Pipeline
    tallies: Sequence[Tallies]
    seen: Callable[[], None]

    def __call__(self, rgb: Rgb) -> Mapping[str, Output]:
        """The student's answers."""
        ours = self.student(rgb)
        for head, theirs in self.teachers(rgb).items():
            threshold = getattr(self.pipeline.heads[head], "score_threshold", None)
            for tallies in self.tallies:
                tallies.setdefault(head, Tally(threshold)).add(ours[head], theirs)
        self.seen()
        return ours


def compared(
    student: Answer,
    teachers: Answer,
    sets: Sequence[Data],
    pipeline: Pipeline,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """``sets``, by name of the set and head, and ``all``, by head: plain JSON values.

    Of a head that is taught, its ``Tally``'s summary; ``labelled``, what ``learn.judge`` says of it, where the set has
    labels for it. ``student`` is to answer every box, as average precision wants. ``progress`` is told the share of the
    pictures that is done, 0–1.

    Raises DataError where labels and pictures do not fit.
    """
    pictures, done = sum(map(len, sets)), count(1)
    overall: Tallies = {}
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for data in sets:
        mine: Tallies = {}
        witness = Witness(student, teachers, pipeline, (mine, overall), lambda: progress(next(done) / pictures))
        labelled = _labelled(witness, data, pipeline)
        told[data.name] = {head: tally.summary() for head, tally in mine.items()}
        for head, metrics in labelled.items():
            told[data.name].setdefault(head, {})[LABELLED] = metrics
    together = {head: tally.summary() for head, tally in overall.items()}
    for summary in together.values():
        del summary["worst_frame"]  # which has a meaning in a set alone
    return {"sets": told, "all": together}


def operating_points(
    student: Answer,
    teachers: Answer,
    sets: Sequence[Data],
    pipeline: Pipeline,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, float]:
    """By head that answers boxes: the score from which up the student's match its teacher's best over all sets (F1).

    Heads of which nothing matches are left out. Arguments are those of ``compared``.
    """
    pictures, done = sum(map(len, sets)), count(1)
    tallies: Tallies = {}
    witness = Witness(student, teachers, pipeline, (tallies,), lambda: progress(next(done) / pictures))
    for data in sets:
        for sample in data:
            witness(sample.rgb)
    found = {head: tally.best_threshold() for head, tally in tallies.items()}
    return {head: round(threshold, 3) for head, threshold in found.items() if threshold is not None}


def _labelled(answer: Answer, data: Data, pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """The metrics of the heads that the set has labels for; every picture is answered once, whether or not it has."""
    heads = {name: pipeline.heads[name] for name in questions_of(pipeline, data)}
    if heads:
        return judge(answer, data, heads)
    for sample in data:
        answer(sample.rgb)
    return {}


def scores(told: Mapping[str, Any], heads: Sequence[str]) -> dict[str, float]:
    """One number for each head, 0–1: its agreement over all sets where it has a teacher, else its mean by labels.

    Heads of which nothing could be measured are left out.
    """
    found: dict[str, float] = {}
    for head in heads:
        metrics = {name: one[head][LABELLED] for name, one in told["sets"].items() if LABELLED in one.get(head, {})}
        if head in told["all"]:
            found[head] = told["all"][head][AGREEMENT]
        elif by_labels := list(headline(metrics).values()):
            found[head] = sum(by_labels) / len(by_labels)
    return found
