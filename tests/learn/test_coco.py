"""Sets laid out as COCO is: boxes and classes as the files say, faults in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sharedbb.errors import DataError
from sharedbb.learn.data import open_data

CATEGORIES = [{"id": 7, "name": "person"}, {"id": 3, "name": "car"}]


def told(*pictures: str) -> dict[str, Any]:
    """Pictures of 40 × 30 with a car each, and in the first one a crowd, a box that sticks out and an empty one."""
    images = [{"id": 100 + n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(pictures)]
    boxes = [(one["id"], 3, [10, 5, 8, 6], 0) for one in images]
    boxes += [
        (100, 7, [0, 0, 20, 20], 1),
        (100, 7, [-5, 20, 15, 30], 0),
        (100, 3, [1, 1, 0, 5], 0),
        (100, 3, [50, 5, 9, 9], 0),
    ]
    names = ("image_id", "category_id", "bbox", "iscrowd")
    annotations = [{"id": n, **dict(zip(names, one, strict=True))} for n, one in enumerate(boxes)]
    return {"images": images, "annotations": annotations, "categories": [dict(one) for one in CATEGORIES]}


def lay_out(folder: Path, parts: dict[str, tuple[str, dict[str, Any]]]) -> Path:
    """Annotation files by name, each with the folder of its pictures; pictures called absent are not written."""
    (folder / "annotations").mkdir()
    for name, (place, content) in parts.items():
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))
        (folder / place).mkdir(parents=True, exist_ok=True)
        for one in content["images"]:
            if "absent" not in one["file_name"]:
                cv2.imwrite(str(folder / place / one["file_name"]), np.full((30, 40, 3), 90, np.uint8))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts = {
        "instances_train2017": ("images/train2017", told("a.png", "b.png", "absent-1.png")),
        "instances_val2017": ("val", told("c.png", "absent-2.png")),
        "captions_train2017": ("x", {"images": []}),
    }
    return lay_out(tmp_path, parts)


def test_parts_classes_and_boxes_are_those_of_the_files(folder: Path) -> None:
    data = open_data(f"coco:{folder}")
    assert data.classes == ("car", "person")  # in the order of their numbers
    assert data.boxed
    assert not data.depth
    assert [sample.name for sample in data.of("train")] == ["a", "b"]
    assert [sample.name for sample in data.of("val")] == ["c"]
    first, second = data.of("train")
    assert first.rgb.shape == (30, 40, 3)
    assert first.labels is None
    assert first.boxes is not None
    assert second.boxes is not None
    assert first.boxes.xyxy.tolist() == [[10, 5, 18, 11], [0, 0, 20, 20], [0, 20, 10, 30]]
    assert first.boxes.classes.tolist() == [0, 1, 1]
    assert first.boxes.ignored.tolist() == [False, True, False]
    assert second.boxes.xyxy.tolist() == [[10, 5, 18, 11]]


def test_missing_pictures_are_counted_and_the_first_is_named(folder: Path) -> None:
    assert open_data(f"coco:{folder}").said == ("2 of 5 pictures are not there, such as absent-1.png",)
    assert open_data(f"coco:{folder}").of("val").said == ("2 of 5 pictures are not there, such as absent-1.png",)


def test_one_file_alone_is_divided_by_position(tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(20)]
    data = open_data(f"coco:{lay_out(tmp_path, {'instances_train': ('', told(*names))})}")
    assert (len(data.of("train")), len(data.of("val")), len(data.of("test"))) == (16, 2, 2)
    assert data.said == ()


def test_a_picture_of_another_size_than_its_annotations_is_refused_when_it_is_read(tmp_path: Path) -> None:
    data = open_data(f"coco:{lay_out(tmp_path, {'instances_train': ('train', told('a.png', 'b.png'))})}")
    cv2.imwrite(str(tmp_path / "train" / "a.png"), np.zeros((40, 30, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is 30x40, its annotations are of 40x30"):
        data[0]
    assert data[1].name == "b"


def change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def on_the_first(content: dict[str, Any]) -> None:
        content["annotations"][0].update(changes)

    return on_the_first


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (change(category_id=99), "annotation 0 is of category 99, which no category has"),
        (change(image_id=5), "annotation 0 is of picture 5, which is not in the file"),
        (change(bbox=[1, 2, 3]), r"the bbox of annotation 0 must be \[left, top, width, height\], got \[1, 2, 3\]"),
        (change(bbox=[1, 2, float("nan"), 4]), "the bbox of annotation 0 must be"),
        (change(category_id="3"), "'category_id' must be of type int, got '3'"),
        (lambda content: content.pop("categories"), "must hold a list of objects 'categories'"),
        (lambda content: content["categories"].append({"id": 9, "name": "car"}), "3 categories; .* different names"),
        (lambda content: content["images"].__setitem__(slice(None), [3]), "must hold a list of objects 'images'"),
        (lambda content: content["images"][0].pop("file_name"), "'file_name' must be of type str, got None"),
        (lambda content: content["images"][0].update(file_name="absent.png"), r"none of the 1 pictures .* absent\.png"),
    ],
)
def test_faults_are_one_line_with_the_file(
    fault: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    content = told("a.png")
    lay_out(tmp_path, {"instances_train": ("train", content)})
    fault(content)
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        open_data(f"coco:{tmp_path}")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit_each_other_are_refused(folder: Path) -> None:
    annotations = folder / "annotations"
    other = told("c.png") | {"categories": [{"id": 7, "name": "person"}, {"id": 3, "name": "lorry"}]}
    (annotations / "instances_val2017.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match=r"has other categories than .*: number 3 is 'lorry' there, not 'car'"):
        open_data(f"coco:{folder}")
    (annotations / "instances_train2014.json").write_text("{}")
    with pytest.raises(DataError, match=r"are both there for 'train': keep one of them"):
        open_data(f"coco:{folder}")
    for path in annotations.glob("instances_*"):
        path.unlink()
    with pytest.raises(DataError, match="is not laid out as COCO is"):
        open_data(f"coco:{folder}")
    (annotations / "instances_train.json").write_text("[")
    with pytest.raises(DataError, match=r"cannot read .*instances_train\.json"):
        open_data(f"coco:{folder}")
