"""``sharedbb explain`` on a pipeline that was really compiled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_the_tree_names_segments_heads_and_what_was_tried(sharedbb: Callable[..., Any], tiny: Path) -> None:
    ended = sharedbb("explain", tiny)
    assert (ended.code, ended.err) == (0, "")
    for text in ("tiny: scene, objects on one graph, openvino f32 on cpu", "96×160 RGB", "trunk/16", "every 2 frames"):
        assert text in ended.out
    assert "openvino f32 on cpu: " in ended.out.partition("What was tried here:")[2]


def test_json_on_stdout_is_nothing_but_json(sharedbb: Callable[..., Any], tiny: Path) -> None:
    description = json.loads(sharedbb("explain", tiny, "--json", "-").out)
    names = [segment["name"] for segment in description["segments"]]
    assert description["heads"].keys() == {"scene", "objects"}
    assert set(description["heads"]["scene"]["segments"]) < set(names)
    assert description["operators"]["merged"] < description["operators"]["separate"]
    trunk = [segment for segment in description["segments"] if len(segment["heads"]) == 2]
    assert [segment["inputs"][0]["segment"] for segment in trunk] == ["input", *(one["name"] for one in trunk[:-1])]
    assert sum(segment["macs"] for segment in trunk) > 1_000_000


def test_files_are_written_beside_the_tree(sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    ended = sharedbb("explain", tiny, "--dot", tmp_path / "g.dot", "--json", tmp_path / "g.json")
    wrote = [line.split(" (")[0] for line in ended.err.splitlines()]
    assert sorted(wrote) == [f"wrote {tmp_path / 'g.dot'}", f"wrote {tmp_path / 'g.json'}"]
    assert (tmp_path / "g.dot").read_text().startswith('digraph "tiny" {')
    assert json.loads((tmp_path / "g.json").read_text())["pipeline"] == "tiny"
    assert "trunk/16" in ended.out


def test_a_pipeline_that_does_not_hold_together(sharedbb: Callable[..., Any], tiny: Path) -> None:
    ended = sharedbb("explain", tiny, "--set", "heads.scene.taps=[7]", "--set", "heads.objects.every=0")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 2
    assert all(line.startswith("sharedbb: error: ") for line in ended.err.splitlines())


def test_sizes_and_what_a_source_decides_are_shown(sharedbb: Callable[..., Any], tiny: Path, clip: Path) -> None:
    ladder = "transform={type: low_resolution, sizes: [[96, 160], [64, 96]]}"
    told = sharedbb("explain", tiny, "--set", ladder).out.partition("Smaller sizes of the same network:")[2]
    assert "96x64: " in told
    auto = sharedbb("explain", tiny, "--set", "transform.type=auto", "--source", clip)
    assert "intake and network by form: rgb " in auto.out
    assert "yuv420 " in auto.out
