"""Pictures with boxes as COCO stores them: ``annotations/instances_train*.json`` and the like, beside the pictures.

Lin et al., Microsoft COCO: Common Objects in Context, 2014.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sharedbb.errors import DataError
from sharedbb.learn.data import PARTS, Data, Item, Memory, Sample, divided, read_picture
from sharedbb.learn.labels import Boxes

PICTURE_FOLDERS = ("{set}", "images/{set}", "{part}", "images/{part}", "images", "")
"""Where the pictures of ``instances_SET.json`` may lie; the part is train, val or test."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """What a file says of one picture: its name, its ``size`` (height, width) or None, and its boxes in pixels."""

    file: str
    size: tuple[int, int] | None
    boxes: Boxes


def open_coco(name: str, folder: Path) -> Data:
    """The set in a folder laid out as COCO is.

    Boxes come from ``annotations/instances_train*.json``, ``instances_val*.json`` and ``instances_test*.json``, which
    are the parts; where there is only one, it is divided by position. Pictures lie in PICTURE_FOLDERS. Classes are the
    categories in the order of their numbers; crowds are ignored, and boxes without an area are left out. Pictures that
    are not there are left out; ``Data.said`` counts them and names the first.

    Raises DataError for files that cannot be read, of which there are two for a part, that disagree on categories, or
    that name a category or picture that they do not have.
    """
    files = _files(folder)
    found: list[tuple[str, Path, Annotated]] = []
    absent: list[str] = []
    classes: dict[int, str] = {}
    for part, file in files.items():
        told = _json(file)
        own = _classes(file, told)
        if classes and own != classes:
            raise DataError(
                f"{file} has other categories than {next(iter(files.values()))}: {_differing(classes, own)}"
            )
        classes = own
        for one in _annotated(file, told, list(classes)):
            path = _picture(folder, file, part, one.file)
            if path is None:
                absent.append(one.file)
            else:
                found.append((part, path, one))
    if not found:
        raise DataError(f"{folder} has none of the {len(absent)} pictures of its annotations{_such_as(absent)}")
    parts = [part for part, _, _ in found] if len(files) > 1 else divided(len(found))
    memory = Memory()
    items = [Item(part, partial(_sample, path, one), memory) for part, (_, path, one) in zip(parts, found, strict=True)]
    said = [f"{len(absent)} of {len(absent) + len(found)} pictures are not there{_such_as(absent)}"] if absent else []
    return Data(name, tuple(classes.values()), items, boxed=True, said=said)


def _files(folder: Path) -> dict[str, Path]:
    """The annotation file of each part that has one."""
    files: dict[str, Path] = {}
    for part in PARTS:
        several = sorted((folder / "annotations").glob(f"instances_{part}*.json"))
        if len(several) > 1:
            raise DataError(f"{several[0]} and {several[1].name} are both there for {part!r}: keep one of them")
        if several:
            files[part] = several[0]
    if not files:
        raise DataError(f"{folder} is not laid out as COCO is: it has no annotations/instances_train*.json")
    return files


def _json(file: Path) -> Mapping[str, Any]:
    """The content of an annotation file: an object with lists of objects."""
    try:
        told = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    for name in ("images", "annotations", "categories"):
        rows = told.get(name) if isinstance(told, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file} must hold a list of objects {name!r}, as COCO's instances do")
    return dict(told)


def _classes(file: Path, told: Mapping[str, Any]) -> dict[int, str]:
    """Names by category number, in the order of the numbers."""
    classes = {_field(file, row, "id", int): _field(file, row, "name", str) for row in told["categories"]}
    if not classes or len(set(classes.values())) < len(told["categories"]):
        raise DataError(f"{file} has {len(told['categories'])} categories; it takes one or more of different names")
    return dict(sorted(classes.items()))


def _differing(ours: Mapping[int, str], theirs: Mapping[int, str]) -> str:
    number = min(dict(ours.items() ^ theirs.items()))
    return f"number {number} is {theirs.get(number, 'nothing')!r} there, not {ours.get(number, 'nothing')!r}"


def _annotated(file: Path, told: Mapping[str, Any], categories: Sequence[int]) -> list[Annotated]:
    """The pictures of a file in its order, each with its boxes."""
    place = {number: index for index, number in enumerate(categories)}
    rows: dict[int, list[tuple[tuple[float, ...], int, bool]]] = {
        _field(file, one, "id", int): [] for one in told["images"]
    }
    for one in told["annotations"]:
        picture, category = (_field(file, one, name, int) for name in ("image_id", "category_id"))
        if category not in place:
            raise DataError(f"{file}: annotation {one.get('id')} is of category {category}, which no category has")
        if picture not in rows:
            raise DataError(f"{file}: annotation {one.get('id')} is of picture {picture}, which is not in the file")
        left, top, width, height = _box(file, one)
        if width > 0 and height > 0:
            box = (left, top, left + width, top + height)
            rows[picture].append((box, place[category], bool(one.get("iscrowd", 0))))
    return [
        Annotated(_field(file, one, "file_name", str), _size(one), _boxes(rows[one["id"]])) for one in told["images"]
    ]


def _field(file: Path, row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    value = row.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{file}: {name!r} must be of type {kind.__name__}, got {value!r} in {json.dumps(row)[:80]}")
    return value


def _box(file: Path, row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, width and height."""
    box = row.get("bbox")
    if isinstance(box, list) and len(box) == 4:
        numbers = [float(side) for side in box if isinstance(side, int | float) and math.isfinite(side)]
        if len(numbers) == 4:
            return numbers[0], numbers[1], numbers[2], numbers[3]
    raise DataError(f"{file}: the bbox of annotation {row.get('id')} must be [left, top, width, height], got {box!r}")


def _size(picture: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = picture.get("height"), picture.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _boxes(rows: Sequence[tuple[tuple[float, ...], int, bool]]) -> Boxes:
    return Boxes(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([kind for _, kind, _ in rows], np.int64),
        np.array([crowd for _, _, crowd in rows], bool),
    )


def _picture(folder: Path, file: Path, part: str, name: str) -> Path | None:
    """Where a picture is; None where it is nowhere."""
    of = file.stem.removeprefix("instances_")
    places = (folder / place.format(set=of, part=part) / name for place in PICTURE_FOLDERS)
    return next((path for path in places if path.is_file()), None)


def _sample(path: Path, told: Annotated) -> Sample:
    """A picture with its boxes, cut off at its borders."""
    sample = read_picture(path)
    height, width = sample.rgb.shape[:2]
    if told.size and told.size != (height, width):
        raise DataError(f"{path} is {width}x{height}, its annotations are of {told.size[1]}x{told.size[0]}")
    xyxy = told.boxes.xyxy.clip(0, np.array([width, height, width, height], np.float32))
    inside = ((xyxy[:, 2:] - xyxy[:, :2]) > 0).all(axis=1)
    return replace(sample, boxes=replace(told.boxes, xyxy=xyxy).only(inside))


def _such_as(names: Sequence[str]) -> str:
    return f", such as {names[0]}" if names else ""
