"""Looking at sets before work begins: what cannot be used is left out and said, and the first set that knows judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from sharedbb.errors import DataError
from sharedbb.learn.data import Data, Sample, open_data
from sharedbb.learn.labels import VOID, Boxes
from sharedbb.learn.survey import Examiner, part_of, unknown, usable
from sharedbb.spec import Pipeline

PIPELINE = Pipeline.model_validate(
    {
        "name": "tiny",
        "input": {"size": [64, 64]},
        "backbone": {"arch": "resnet18"},
        "heads": {
            "surface": {"type": "segmentation", "taps": [4], "classes": ["ground", "thing"]},
            "objects": {"type": "detection", "taps": [8], "classes": ["thing", "car"]},
            "scene": {"type": "tags", "taps": [8], "labels": ["thing"]},
            "looks": {"type": "embedding", "taps": [8], "dim": 4},
        },
    }
)
BOXES = Boxes(np.float32([[8, 8, 24, 24]]), np.array([0]), np.array([False]))


def folder_of(path: Path, pictures: int, classes: Sequence[str] = ("ground", "thing")) -> Path:
    """Labelled pictures of 16 × 16."""
    for name in ("all", "allannot"):
        (path / name).mkdir()
    (path / "classes.txt").write_text("\n".join(classes))
    for number in range(pictures):
        cv2.imwrite(str(path / "all" / f"{number:02d}.png"), np.full((16, 16, 3), number, np.uint8))
        cv2.imwrite(str(path / "allannot" / f"{number:02d}.png"), np.eye(16, dtype=np.uint8))
    return path


def test_pictures_that_cannot_be_read_are_left_out_counted_and_the_first_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 20)
    (folder / "all" / "03.png").write_bytes(b"no picture")
    cv2.imwrite(str(folder / "allannot" / "05.png"), np.zeros((4, 4), np.uint8))
    shares: list[float] = []
    found = usable(open_data(folder), shares.append)
    assert [sample.name for sample in found] == [f"{n:02d}" for n in range(20) if n not in (3, 5)]
    (said,) = found.said
    assert said.startswith("2 of 20 pictures cannot be used; the first: cannot read ")
    assert "03.png" in said
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_set_that_is_mostly_unusable_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 10)
    for number in (2, 7):
        (folder / "all" / f"{number:02d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 10 pictures cannot be used; the first: .*02\.png"):
        usable(open_data(folder))


def test_numbers_that_no_class_has_are_said_and_void_is_not(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 4)
    for number, value in ((0, 2), (1, VOID), (2, 9), (3, 9)):  # 2 is the first behind the classes
        labels = np.zeros((16, 16), np.uint8)
        labels[0, 0] = value
        cv2.imwrite(str(folder / "allannot" / f"{number:02d}.png"), labels)
    assert usable(open_data(folder)).said == (
        "labels have numbers that no class has, 9, in up to 2 of 4 pictures: they count as void, beside the 2 classes "
        "from 0 on",
    )


def test_parts_that_are_not_there_are_none(tmp_path: Path) -> None:
    data = open_data(folder_of(tmp_path, 20))
    assert len(part_of(data, "val") or ()) == 2
    assert part_of(data.of("train"), "val") is None


def test_a_class_list_that_nearly_fits_is_said() -> None:
    data = Data.given(
        "set", [Sample("p", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))], ("ground", "thing")
    )
    assert unknown(PIPELINE, data) == ["it says nothing of objects, whose car is not among its classes ground, thing"]
    far = Data.given("set", [data[0]], ("water",))
    assert unknown(PIPELINE, far) == []


def test_each_head_is_judged_on_the_first_set_that_knows_it() -> None:
    rgb, labels = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    plain = Data.given("plain", [Sample("p", rgb)])
    drawn = Data.given("drawn", [Sample("d", rgb, boxes=BOXES)], ("thing", "car"))
    maps = Data.given("maps", [Sample("m", rgb, labels)] * 3, ("ground", "thing"))
    examiner = Examiner.of(PIPELINE, [plain, drawn, maps])
    assert examiner.names() == {"objects": "drawn", "scene": "drawn", "surface": "maps"}
    assert Examiner.of(PIPELINE, [maps, drawn]).names() == {"surface": "maps", "scene": "maps", "objects": "drawn"}
    assert not Examiner.of(PIPELINE, [plain])
    assert [len(data) for data, _ in examiner.spread(2).sets] == [1, 2]


def test_the_digest_is_of_pictures_labels_and_class_names(tmp_path: Path) -> None:
    def digest(name: str, pictures: int = 3, classes: Sequence[str] = ("ground", "thing"), blot: int = 0) -> str:
        path = tmp_path / name
        path.mkdir()
        folder_of(path, pictures, classes)
        if blot:
            cv2.imwrite(str(path / "allannot" / "01.png"), np.full((16, 16), blot, np.uint8))
        return usable(open_data(path)).digest

    same = digest("one")
    assert same == digest("two") != ""
    assert len({same, digest("more", 4), digest("swapped", 3, ("thing", "ground")), digest("corrected", blot=1)}) == 4
