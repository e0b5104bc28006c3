"""The model card of the street network: what it is for, what it learnt from, how good it is, where it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from sharedbb.learn.labels import MIN_BOX_AREA, MIN_BOX_SIDE, MIN_TAG_SHARE
from sharedbb.media.synthetic import CLASSES, OBJECTS

LIMITS = (
    "Trained for a few hours on two cores: a demonstration and a subject for measurements, not a safety system.",
    "One city, by day, dry, from a car's height. Night, rain, other countries and other cameras were not measured.",
    "Cameras that look down from above show plain asphalt without a horizon: large parts may be called vehicle or "
    "building. Motorways seen from a bridge and close-ups out of focus come out badly as well.",
    "Thin and small things (poles, far signs) are mostly missed by `surface`; boxes of small objects are loose.",
    "A person on a bicycle is CamVid's cyclist with the bicycle; the network often calls the upper half a pedestrian.",
    "People who stand very near the camera are often called vehicle: hardly any do in what it learnt from.",
    "Touching cars get a box together, or several: the labels do not tell them apart.",
)

_TEXT = """\
# street.sbb: four answers about a street, from one trunk

| | |
|---|---|
| pipeline | `street.yaml` beside this file: MobileNetV2 trunk, feature pyramid of 64 channels, four heads |
| file | {megabytes:.1f} MB, {millions:.2f} M weights (filters in float16, norms and biases in float32), no pickle |
| input | RGB, 384×640 (height × width), letterboxed, ImageNet normalisation |
| `surface` | the class of every pixel, of 11: {surfaces} |
| `objects` | boxes of {objects} |
| `edges` | where one class ends and another begins |
| `scene` | which of the 11 classes are there |

## How good it is

CamVid, pictures of 480×360, through the pipeline's own intake and decoders. `val` was used to choose the weights and
the score threshold of `objects`; `test` chose nothing. `val` is a single drive with a few cyclists all along, so its
numbers for single classes say little about other streets: trust `test`.

| metric | val ({val_pictures} pictures) | test ({test_pictures} pictures) |
|---|---|---|
{metrics}

IoU of `surface` and F1 of `scene`, class by class:

| class | IoU val | IoU test | tag F1 val | tag F1 test |
|---|---|---|---|---|
{classes}

Average precision of `objects` at IoU 0.5, with the number of boxes asked for:

| class | AP50 val | boxes | AP50 test | boxes |
|---|---|---|---|---|
{boxes}

What the metrics mean: mIoU is the mean over the classes that occur, void left out. AP50 is the area under the whole
precision envelope, boxes from a score of 0.02 up; a detection on an ignored box counts neither way. Boundary F1 takes
the pixels answered `edge` (lines as thick as the cells, not thinned) against the labels' class boundaries, each within
{tolerance:g} pixels. Tag F1 is the mean over tags, at the pipeline's threshold.

## What it learnt from

* CamVid `train`, 367 pictures of one city's streets (Brostow, Fauqueur and Cipolla 2009; the 11-class labels of the
  SegNet tutorial). **CamVid is offered for research use: so are these weights.** The data itself is not shipped.
{synthetic}

The labels of `surface` are CamVid's. The other three are derived from them, and no better than that derivation:

* `objects`: a box is the extent of a connected component of its class. Cars that touch in the picture are one box, and
  a car behind a pole is two. Components under {area} pixels, or with a side under {side}, are ignored: neither asked
  for nor punished. So the AP is that of "blobs of a class", not of counted road users.
* `edges`: a pixel with a direct neighbour of another class, void left out; learnt in cells of 4×4 pixels.
* `scene`: a class that covers at least {share:.1%} of the known pixels.

## How it was trained

By `demos/train_street.py` on two CPU cores in bfloat16; crops with scale 0.5–2, flips, colour, blur and noise.
Cross-entropy with mild class weights (`surface`), focal loss and GIoU (`objects`), weighted cross-entropy (`edges`),
binary cross-entropy (`scene`). AdamW with a cosine to zero; the shipped weights are a moving average.

{courses}

## Limits

{limits}
"""


def card(path: Path, weights: int, report: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """The card as Markdown. ``report`` has those of ``evaluation.report`` for ``val`` and ``test``.

    ``recipe``: the training's recipe with ``step``, ``seconds`` and ``synthetic_frames``; ``notes``, if
    any, are further sentences about it.
    """
    val, test = report["val"], report["test"]
    frames = recipe["synthetic_frames"]
    synthetic = (
        f"* The synthetic street, {frames} rendered frames, its classes mapped to CamVid's: "
        f"{recipe['synthetic']:.0%} of each batch."
    )
    return _TEXT.format(
        megabytes=path.stat().st_size / 1e6,
        millions=weights / 1e6,
        surfaces=", ".join(CLASSES),
        objects=", ".join(OBJECTS),
        val_pictures=val["pictures"],
        test_pictures=test["pictures"],
        metrics=_rows(
            ("`surface` mIoU", val["surface"]["miou"], test["surface"]["miou"]),
            ("`surface` pixel accuracy", val["surface"]["accuracy"], test["surface"]["accuracy"]),
            ("`objects` mAP50", val["objects"]["map50"], test["objects"]["map50"]),
            ("`edges` boundary F1", val["edges"]["f1"], test["edges"]["f1"]),
            ("`scene` tag F1", val["scene"]["f1"], test["scene"]["f1"]),
        ),
        classes=_rows(*(_class_row(name, val, test) for name in CLASSES)),
        boxes=_rows(*(_box_row(name, val, test) for name in OBJECTS)),
        tolerance=val["edges"]["tolerance_px"],
        synthetic=synthetic if frames else "* No synthetic pictures.",
        area=MIN_BOX_AREA,
        side=MIN_BOX_SIDE,
        share=MIN_TAG_SHARE,
        courses="\n".join(fill(f"* {line}", 118, subsequent_indent="  ") for line in _courses(recipe)),
        limits="\n".join(fill(f"* {line}", 118, subsequent_indent="  ") for line in LIMITS),
    )


def _courses(recipe: Mapping[str, Any]) -> Iterator[str]:
    """One sentence or more for each training, the first one first."""
    before = recipe.get("before")
    if before:
        yield from _courses(before)
    crops = ", then ".join(f"{height}×{width}" for _, height, width in recipe["crops"])
    steady = (
        " Every crop was seen twice, the second time with a camera's and a codec's noise, and had to be answered alike "
        "(`demos/street/steady.py`)."
        if recipe.get("steady")
        else ""
    )
    overlap = f", weight of IoU in `surface` {recipe['overlap']:g}" if recipe.get("overlap") else ""
    yield (
        f"{'From those weights' if before else 'From random weights, no pretraining'}: {recipe['step']} steps of batch "
        f"{recipe['batch']} in {recipe['seconds'] / 60:.0f} minutes, crops of {crops}, learning rate {recipe['lr']:g}, "
        f"weight decay {recipe['weight_decay']:g}, averaging {recipe['averaging']:g}{overlap}.{steady} "
        + " ".join(recipe.get("notes", ()))
    ).rstrip()


def _class_row(name: str, *splits: Mapping[str, Any]) -> tuple[Any, ...]:
    shares = [split["surface"]["iou"][name] for split in splits]
    tags = [split["scene"]["f1_by_tag"][name] for split in splits]
    return (name, *shares, *tags)


def _box_row(name: str, *splits: Mapping[str, Any]) -> tuple[Any, ...]:
    return (name, *(split["objects"][key][name] for split in splits for key in ("ap50", "boxes")))


def _rows(*rows: tuple[Any, ...]) -> str:
    return "\n".join("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
