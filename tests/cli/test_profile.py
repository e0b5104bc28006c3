"""``sharedbb profile``: measured after a warm-up that leaves no trace, on a source or a generated street."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharedbb import media


def test_only_the_frames_asked_for_are_measured(
    sharedbb: Callable[..., Any], tiny: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a video was written")

    monkeypatch.setattr(media, "VideoSink", refuse)
    summary, trace = tmp_path / "s.json", tmp_path / "t.json"
    ended = sharedbb("profile", tiny, clip, "--frames", 6, "--json", summary, "--trace", trace)
    assert ended.code == 0
    assert "p50 ms" in ended.out
    told = json.loads(summary.read_text())
    assert (told["frames"], told["source"]) == (6, str(clip))
    assert told["heads"]["scene"]["ran"] == 6
    assert told["stages"]["transform"]["count"] == 6
    begun = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"].startswith("frame ")]
    assert [event["name"] for event in begun] == [f"frame {index}" for index in range(6)]


def test_without_a_source_a_street_is_generated(sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    ended = sharedbb("profile", tiny, "--frames", 2, "--report", tmp_path / "r.html", "--quiet")
    assert (ended.code, ended.out) == (0, "")
    assert "data:image/jpeg" in (tmp_path / "r.html").read_text()
