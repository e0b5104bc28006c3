"""``sharedbb demo``, with a tiny pipeline in place of the shipped one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from sharedbb.cli import shipped

RESULTS = {"street.mp4", "report.html", "summary.json", "results.jsonl"}


@pytest.fixture(autouse=True)
def elsewhere(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory outside of the checkout, and ``street`` is the tiny pipeline."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "street.yaml").write_bytes(tiny.read_bytes())
    monkeypatch.setattr(shipped, "folders", lambda: (tmp_path / "pipelines",))
    monkeypatch.chdir(tmp_path)


def test_the_demo_makes_its_clip_once(sharedbb: Callable[..., Any]) -> None:
    ended = sharedbb("demo", "--frames", 3)
    assert (ended.code, ended.err) == (0, "")
    out = Path("demo-out")
    clip = out / "generated-street-960x540-3.mp4"
    assert set(os.listdir(out)) == {*RESULTS, clip.name}
    assert all(f"wrote {out / name}" in ended.out for name in RESULTS)
    assert json.loads((out / "summary.json").read_text())["source"] == str(clip)
    with av.open(str(out / "street.mp4")) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.width, video.height) == ("h264", 960, 540)

    made = clip.stat().st_mtime_ns
    assert sharedbb("demo", "--frames", 3).code == 0
    assert clip.stat().st_mtime_ns == made


def test_the_demo_runs_on_a_video_of_yours(sharedbb: Callable[..., Any], clip: Path) -> None:
    assert sharedbb("demo", "--video", clip, "--out", "there").code == 0
    assert set(os.listdir("there")) == RESULTS
    assert len(Path("there/results.jsonl").read_text().splitlines()) == 12


def test_a_video_that_is_not_there(sharedbb: Callable[..., Any]) -> None:
    ended = sharedbb("demo", "--video", "no.mp4")
    assert (ended.code, ended.err) == (2, "sharedbb: error: no file, folder or address 'no.mp4'\n")
