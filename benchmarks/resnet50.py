"""A ResNet-50 at 736x1280 with the street pipeline's neck and heads, for benchmarks where the trunk is what costs.

``python -m benchmarks.resnet50 --data DIR`` distils it from the shipped street network, from random weights, and leaves
in ``runs/resnet50`` the artifact ``street-resnet50.sbb`` and the pipeline ``street-resnet50.yaml``. The same command
resumes after a stop, and does nothing once the artifact is there and measured.

The student starts with the teacher's heads and smoothing convolutions; its trunk and lateral convolutions learn to give
the same neck features, and answers, on the same crops: CamVid's ``train`` pictures and frames of the clips. The clips
are those that the benchmarks run on, so nothing here says how good the student is at streets. It is a network of a
usual size whose features mean something, and what is measured on it is how far reuse strays from its own dense answers.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

import sharedbb as sb
from benchmarks.distillation import Crops, Distillation, read, student_of
from benchmarks.networks import PIPELINE
from sharedbb import artifact
from sharedbb.compiler import build_network
from sharedbb.outputs.agreement import Agreement

NAME = "street-resnet50"
SIZE = (736, 1280)
HELD_OUT = 20
"""Pictures of CamVid's ``val``, evenly spaced, on which student and teacher are compared."""


def untrained() -> sb.Pipeline:
    """The street pipeline with the larger input and the trunk of this file, without weights."""
    street = sb.load(PIPELINE, [f"input.size={list(SIZE)}"])
    backbone = street.backbone.model_copy(update={"arch": "resnet50", "weights": None})
    return street.model_copy(update={"name": NAME, "backbone": backbone})


def write_pipeline(path: Path) -> None:
    """``untrained``, to run with the weights beside it, as a file."""
    document = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))
    document["name"] = NAME
    document["input"]["size"] = list(SIZE)
    document["backbone"] = {"arch": "resnet50", "weights": f"{NAME}{artifact.SUFFIX}"}
    path.write_text(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=120), encoding="utf-8")


def publish(made: Distillation, pipeline: sb.Pipeline, path: Path, report: Mapping[str, Any]) -> None:
    """Write the artifact: the student's weights, filters as float16."""
    manifest = artifact.Manifest(
        kind="network",
        pipeline=pipeline.model_dump(mode="json"),
        classes={name: artifact.class_names(head) for name, head in pipeline.heads.items()},
        input={"layout": "NHWC", "dtype": "uint8", "colour": "rgb", **pipeline.input.model_dump(mode="json")},
        report=report,
        recipe={
            "teacher": artifact.digest(PIPELINE.with_suffix(artifact.SUFFIX)),
            "minutes": round(made.seconds / 60, 1),
            "steps": made.step,
            "pictures": made.pictures,
        },
    )
    artifact.save(path, manifest, made.student.state_dict(), half=True)


def agreement(student: sb.Engine, teacher: sb.Engine, pictures: list[Path]) -> dict[str, dict[str, Any]]:
    """How alike the student's answers are to the teacher's, head by head, in the terms of ``outputs.agreement``."""
    heads: dict[str, Agreement] = {}
    for rgb in read(pictures):
        ours, theirs = student.step(rgb, order="rgb"), teacher.step(rgb, order="rgb")
        for name, answer in ours.items():
            heads.setdefault(name, Agreement.of(type(answer))).add(answer, theirs[name])
    return {name: measure.overall() for name, measure in heads.items()}


def held_out(data: Path) -> list[Path]:
    """The pictures to compare on. Raises FileNotFoundError when there are none."""
    pictures = sorted((data / "camvid" / "val").glob("*.jpg"))
    if not pictures:
        raise FileNotFoundError(f"no pictures in {data / 'camvid' / 'val'}")
    return pictures[:: max(1, len(pictures) // HELD_OUT)][:HELD_OUT]


def distil(options: argparse.Namespace, path: Path) -> None:
    """Train, from the checkpoint if there is one; at the end write the artifact, measure, and write it again."""
    pipeline, pictures = untrained(), held_out(options.data)
    crops = Crops(options.data, pipeline.input)
    teacher = build_network(sb.load(PIPELINE)).to(memory_format=torch.channels_last)
    student = student_of(teacher, pipeline)
    made = Distillation(teacher, student, pipeline.input.normalization, crops, options.minutes, options.threads)
    checkpoint = options.out / "checkpoint.pt"
    if checkpoint.is_file():
        made.resume(checkpoint)
    print(f"from step {made.step}, {made.seconds / 60:.1f} of {made.minutes:g} minutes", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: setattr(made, "stopped", True))
    made.train(checkpoint, options.out / "log.jsonl")
    if made.stopped:
        print(f"stopped at step {made.step}; the same command goes on")
        return
    publish(made, pipeline, path, {})
    file = path.with_suffix(".yaml")
    write_pipeline(file)
    engines = (sb.compile(sb.load(file)), sb.compile(sb.load(PIPELINE, [f"input.size={list(SIZE)}"])))
    report = {"pictures": len(pictures), "agreement": agreement(*engines, pictures)}
    publish(made, pipeline, path, report)
    print(f"{path}: {json.dumps(report, indent=1)}")


def finished(path: Path) -> bool:
    """Whether ``path`` is an artifact that was trained to the end and measured."""
    return path.is_file() and bool(artifact.load(path).manifest.report)


def main() -> None:
    """Distil, unless that is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds camvid/ and clips/")
    parser.add_argument("--out", type=Path, default=Path("runs/resnet50"), help="artifact, pipeline, checkpoint, log")
    parser.add_argument("--minutes", type=float, default=30.0, help="of work, by the processor's clock, in all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    path = options.out / f"{NAME}{artifact.SUFFIX}"
    if finished(path):
        print(f"{path} is finished; remove it to distil again")
        return
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    distil(options, path)


if __name__ == "__main__":
    main()
