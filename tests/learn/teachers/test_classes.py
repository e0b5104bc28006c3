"""Names of classes: lists, files and those that are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.teachers.classes import class_names


def test_lists_files_and_known_names(tmp_path: Path) -> None:
    file = tmp_path / "animals.names"
    file.write_text("cat\n dog \n\n")
    assert class_names(str(file)) == ("cat", "dog")
    assert class_names(("a", "b")) == ("a", "b")
    assert class_names(None) == ()
    coco = class_names("coco80")
    assert (len(coco), coco[0], coco[2], coco[79]) == (80, "person", "car", "toothbrush")
    assert class_names(str(tmp_path / "coco80")) == coco


@pytest.mark.parametrize(
    ("text", "message"), [("", "has 0 names"), ("a\nb\na\n", "has 3 names"), (None, "cannot read")]
)
def test_what_is_no_list_of_names(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "animals.names"
    if text is not None:
        file.write_text(text)
    with pytest.raises(CompressionError, match=message):
        class_names(str(file))
