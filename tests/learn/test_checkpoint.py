"""Checkpoints: whole or not there, told apart field by field."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sharedbb.errors import CompressionError
from sharedbb.learn import checkpoint

CPU = torch.device("cpu")
PARTS = {"network": {"a.b": torch.arange(6.0).reshape(2, 3)}, "optimizer": {"0.step": torch.tensor(3.0)}}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "c.safetensors", PARTS, {"clock": {"step": 3}, "told": "é"})
    parts, about = checkpoint.read(tmp_path / "c.safetensors", CPU)
    assert about == {"clock": {"step": 3}, "told": "é"}
    assert parts.keys() == PARTS.keys()
    assert all(torch.equal(parts[part][name], value) for part in PARTS for name, value in PARTS[part].items())
    checkpoint.write(tmp_path / "again", PARTS, {"clock": {"step": 3}, "told": "é"})
    assert (tmp_path / "again").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_a_full_disk_leaves_the_checkpoint_before_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with full_disk(64), pytest.raises(CompressionError, match=r"cannot write .*c\.safetensors: .*make room") as caught:
        checkpoint.write(path, PARTS, {})
    assert "before it" not in str(caught.value)
    checkpoint.write(path, PARTS, {"clock": 1})
    whole = path.read_bytes()
    with full_disk(64), pytest.raises(CompressionError, match="the checkpoint before it is whole") as caught:
        checkpoint.write(path, PARTS, {"clock": 2})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == whole
    assert [one.name for one in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_damaged_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, PARTS, {})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CompressionError, match="is no checkpoint of this training") as caught:
        checkpoint.read(path, CPU)
    assert "\n" not in str(caught.value)


def test_differences_are_told_field_by_field() -> None:
    was = {"lr": 0.1, "heads": {"road": 1.0, "gone": 2.0}, "crop": [1, 2], "same": None}
    now = {"lr": 0.2, "heads": {"road": 1.0, "new": None}, "crop": [1, 2], "same": None}
    assert checkpoint.differences(was, now) == [
        "lr: 0.1 -> 0.2",
        "heads.new: nothing -> None",
        "heads.gone: 2.0 -> nothing",
    ]
    assert checkpoint.differences(was, dict(reversed(was.items()))) == []


def test_many_differences_are_counted() -> None:
    checkpoint.check_same(Path("x"), {"a": 1}, {"a": 1})
    with pytest.raises(
        CompressionError, match=r"x is of a training with other settings: a0: 0 -> 1; .*; and 2 more; go on"
    ):
        checkpoint.check_same(Path("x"), {f"a{n}": 0 for n in range(10)}, {f"a{n}": 1 for n in range(10)})
