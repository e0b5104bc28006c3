"""A training as its command line asks for it: sets and shares read, a network begun, trained, judged, and told of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sharedbb import artifact
from sharedbb.errors import CompressionError, DataError
from sharedbb.learn.batches import shares_of
from sharedbb.learn.course import Course
from sharedbb.learn.data import PARTS, Data, open_data
from sharedbb.learn.judge import Quality, headline
from sharedbb.learn.logbook import read_lines
from sharedbb.learn.losses import questions_of
from sharedbb.learn.network import Network
from sharedbb.learn.start import artifact_of, begun
from sharedbb.learn.survey import Examiner, part_of, unknown, usable
from sharedbb.learn.trainer import Trainer
from sharedbb.learn.training import Training, Watch
from sharedbb.profiling.files import write_text
from sharedbb.profiling.summary import installed_versions, machine_name
from sharedbb.spec import Pipeline

RECORD_VERSION = 1
"""Of the form of the record that ``--json`` writes."""

MOST_VALIDATED = 200
"""Pictures of a set on which a training is validated as it goes; the result is judged on all of them."""

VALIDATIONS = 20
"""Validations of a training that is counted in steps, where nothing else is asked for."""

EVERY = 250
"""Steps between validations of a training that is counted in minutes."""

POINTS = 200
"""A curve of the record has at most so many points; of a longer training each stands for several steps."""

Sets = tuple[tuple[str, float | None], ...]
"""What names a set, and the share of a batch that is asked for it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a command line asks for. ``heads``: train a network of these alone; none for all of the pipeline's."""

    pipeline: Pipeline
    sets: Sets
    course: Course
    heads: tuple[str, ...] = ()
    start: Path | None = None
    validate_every: int | None = None
    patience: int | None = None
    test: bool = False

    @property
    def every(self) -> int:
        """Steps between two validations."""
        steps = self.course.steps
        return self.validate_every or (EVERY if steps is None else max(1, steps // VALIDATIONS))


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it: the network, who trained it, and its quality on the parts ``val`` and, if asked for, ``test``.

    ``judges``: by head, the set on whose part it was judged. ``said``: sentences about the sets.
    """

    network: Network
    trainer: Trainer
    quality: Mapping[str, Quality]
    judges: Mapping[str, str]
    said: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write the artifact, with its quality in it, and its pipeline file beside it. Raises ArtifactError."""
        self.network.save(path, report={"data": [data.name for data, _ in self.trainer.sets], **self.quality})
        write_text(path.with_suffix(".yaml"), self.network.pipeline_text(path.name))


def sets_of(texts: Sequence[str]) -> Sets:
    """Sets with their shares, from ``SET`` or ``SET@SHARE``. Raises DataError for a share that is none."""
    found: list[tuple[str, float | None]] = []
    for text in texts:
        name, _, asked = text.rpartition("@")
        try:
            share = float(asked) if name else None
        except ValueError:
            share = None
        if share is not None and not 0 < share <= 1:
            raise DataError(f"the share of a set is above 0 and at most 1, got {asked} for {name}")
        found.append((text, None) if share is None else (name, share))
    return tuple(found)


def crop_of(text: str | None) -> tuple[int, int] | None:
    """Height and width from ``HxW``. Raises CompressionError."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise CompressionError(f"--crop takes height and width such as 384x512, got {text!r}")
    return int(height), int(width)


def run(wanted: Wanted, work: Path, watch: Watch) -> Trained:
    """Train as is wanted, in the folder ``work``, and judge what came of it.

    Raises DataError for sets that do not fit the pipeline or each other, WeightsError for weights to begin with that do
    not fit, CompressionError as ``Training.run`` does.
    """
    network, start, learnt = _begin(_of_heads(wanted), wanted.start)
    sets = _Sets.of(network.pipeline, wanted, watch)
    examiners = {part: Examiner.of(network.pipeline, sets.parts[part]) for part in sets.parts if part != "train"}
    judges = examiners["val"].names()
    if wanted.patience and not judges:
        raise CompressionError("--patience needs pictures to validate on, and no set has a part val")
    origin = {"start": start, "validated": {"every": wanted.every, "patience": wanted.patience, "on": judges}}
    shares = [share for _, share in wanted.sets]
    taught = shares_of(list(zip(sets.parts["train"], shares, strict=True)))
    trainer = Trainer(network.copy(), wanted.course, taught, network.pipeline, origin=origin)
    training = Training(
        network,
        trainer,
        work,
        judged=examiners["val"].spread(MOST_VALIDATED) if judges else None,
        every=wanted.every,
        patience=wanted.patience,
        learnt=learnt,
        watch=watch,
    )
    result = training.run()
    quality: dict[str, Quality] = {}
    for part, examiner in examiners.items():
        if examiner:
            watch(f"judging on {part}", None)
            quality[part] = examiner(result)
    return Trained(result, trainer, quality, judges, (*sets.said, *_left_out(trainer, judges)))


def _left_out(trainer: Trainer, judges: Mapping[str, str]) -> Iterator[str]:
    """What there is to say of heads that no set knows, or none can validate."""
    for head in trainer.pipeline.heads:
        if head not in trainer.tasks:
            yield f"no set teaches {head}: it stays as it was, on a trunk that changes"
        elif head not in judges:
            yield f"no set has pictures to validate {head} on"
        elif trainer.selection.validations and not any(head in one.headlines for one in trainer.selection.validations):
            yield f"the pictures to validate on have nothing that {head} could find: it had no part in what was kept"


@dataclass(frozen=True, slots=True)
class _Sets:
    """The sets by part, in the order they were asked for, without pictures that cannot be used.

    Each has a part ``train``; ``val`` and, if it is asked for, ``test`` are those of the sets that have one.
    """

    parts: Mapping[str, list[Data]]
    said: list[str]

    @classmethod
    def of(cls, pipeline: Pipeline, wanted: Wanted, watch: Watch) -> _Sets:
        """Open the sets and look at every picture. Raises DataError."""
        made = cls({part: [] for part in (PARTS if wanted.test else PARTS[:2])}, [])
        opened = [open_data(name, pipeline.input.size) for name, _ in wanted.sets]
        for data in opened:
            _check_known(pipeline, data)
            data.of("train")
            made._say(data, [*data.said, *unknown(pipeline, data)])
        if wanted.test and not any(part_of(data, "test") for data in opened):
            raise DataError("--test needs pictures to judge on, and no set has a part test")
        for data in opened:
            for part, found in made.parts.items():
                if there := part_of(data, part):
                    found.append(made._looked_at(there, watch))
        return made

    def _looked_at(self, data: Data, watch: Watch) -> Data:
        found = usable(data, lambda share: watch(f"reading {data.name}", share))
        self._say(data, found.said[len(data.said) :])
        return found

    def _say(self, data: Data, sentences: Iterable[str]) -> None:
        self.said.extend(f"{data.name}: {sentence}" for sentence in sentences)


def _of_heads(wanted: Wanted) -> Pipeline:
    """The pipeline with only the heads asked for. Raises CompressionError for heads that it does not have."""
    heads = wanted.pipeline.heads
    for name in (*wanted.heads, *wanted.course.heads):
        if name not in heads:
            raise CompressionError(f"{wanted.pipeline.name} has no head {name!r}; it has {', '.join(heads)}")
    if not wanted.heads:
        return wanted.pipeline
    kept = {name: heads[name] for name in heads if name in wanted.heads}
    return wanted.pipeline.model_copy(update={"heads": kept, "branches": {}})


def _begin(pipeline: Pipeline, start: Path | None) -> tuple[Network, str | None, bool]:
    """The network to train; what its weights are: those of ``start``, else the pipeline's, else random; if all learnt.

    A head that begins at random is not learnt, however good the others are.
    """
    weights = pipeline.backbone.weights
    if start is None and (weights is None or not weights.endswith(artifact.SUFFIX)):
        return Network.of(pipeline), weights, False
    file = artifact_of(start or str(weights))
    network, new = begun(pipeline, file)
    return network, artifact.digest(file), not new


def _check_known(pipeline: Pipeline, data: Data) -> None:
    """Make sure that a set teaches something. Raises DataError with what it has and what heads ask for."""
    if questions_of(pipeline, data):
        return
    has = f"its classes are {', '.join(data.classes)}" if data.classes else "it has no labels"
    asks = "; ".join(
        f"{name} asks for {', '.join(artifact.class_names(head))}" for name, head in pipeline.heads.items()
    )
    raise DataError(f"{data.name} teaches no head of {pipeline.name}: {has}; {asks}")


def record(trained: Trained, out: Path, work: Path) -> dict[str, Any]:
    """What was done and what came of it, as JSON values."""
    trainer, network = trained.trainer, trained.network
    selection, scores = trainer.selection, trainer.selection.scores()
    return {
        "schema": RECORD_VERSION,
        "pipeline": network.pipeline.name,
        "course": trainer.course.to_dict(),
        "sets": [
            {
                "name": data.name,
                "pictures": len(data),
                "share": share / sum(one for _, one in trainer.sets),
                "heads": list(questions_of(network.pipeline, data)),
            }
            for data, share in trainer.sets
        ],
        "said": list(trained.said),
        "steps": trainer.clock.step,
        "seconds": round(trainer.clock.seconds, 1),
        "best_step": selection.step,
        "validations": [
            {**asdict(one), "score": score} for one, score in zip(selection.validations, scores, strict=True)
        ],
        "heads": {
            head: {
                "type": spec.type,
                "weight": trainer.balance.current().get(head),
                "judged_on": trained.judges.get(head),
                **{part: headline(quality).get(head) for part, quality in trained.quality.items()},
            }
            for head, spec in network.pipeline.heads.items()
        },
        **trained.quality,
        "curves": curves(read_lines(work)),
        "parameters": network.parameters,
        "macs": network.macs,
        "bytes": out.stat().st_size,
        "digest": artifact.digest(out),
        "machine": machine_name(),
        "versions": installed_versions(),
    }


def curves(lines: Sequence[Mapping[str, Any]], most: int = POINTS) -> dict[str, list[tuple[int, float]]]:
    """By name of what was logged, points of step and value, at most ``most``; each is the mean of equally many."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step":
                series.setdefault(name, []).append((line["step"], float(value)))
    return {name: _thinned(points, most) for name, points in series.items()}


def _thinned(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    size = -(-len(points) // most)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
