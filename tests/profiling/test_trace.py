"""The trace is what chrome://tracing and Perfetto read: complete events on named tracks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharedbb.errors import SinkError
from sharedbb.profiling import Profiler, Recording, chrome_trace, write_trace


def _of(trace: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event["ph"] == phase]


def test_every_span_is_a_complete_event(record: Callable[..., Recording], tmp_path: Path) -> None:
    recording = record(frames=9)
    write_trace(tmp_path / "sub" / "trace.json", recording)
    trace = json.loads((tmp_path / "sub" / "trace.json").read_text())
    assert trace == chrome_trace(recording)
    spans, marks = _of(trace, "X"), _of(trace, "i")
    assert len(spans) + len(marks) == len(recording.spans)
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in spans)
    assert all(event["ts"] >= 0 and "dur" not in event and event["s"] == "t" for event in marks)
    assert all(isinstance(event[key], int) for event in trace["traceEvents"] for key in ("pid", "tid"))
    assert min(event["ts"] for event in spans) == 0
    assert trace["otherData"] == {"summary": recording.summary.to_dict(), "complete": True}


def test_times_are_microseconds(record: Callable[..., Recording]) -> None:
    spans = _of(chrome_trace(record(frames=2)), "X")
    first, second = (event for event in spans if event["cat"] == "frame")
    assert (first["name"], first["ts"], first["dur"]) == ("frame 0", 0, 9_750)
    assert second["ts"] == 9_750 + 3_000
    trunk = next(event for event in spans if event["name"] == "trunk" and event["args"]["frame"] == 1)
    assert trunk["args"] == {"frame": 1, "head": None, "why": "partial 12 %"}


def test_tracks_have_names_and_nothing_overlaps_on_one(record: Callable[..., Recording]) -> None:
    trace = chrome_trace(record(frames=9))
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in _of(trace, "M") if e["name"] == "thread_name"}
    used = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["ph"] != "M"}
    assert used == names.keys()
    assert sorted(names.values()) == ["events", "frames", "heads", "outside of frames: draw", "stages"]
    for track in used:
        _properly_nested([e for e in _of(trace, "X") if (e["pid"], e["tid"]) == track])


def _properly_nested(events: list[dict[str, Any]]) -> None:
    ends: list[float] = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        while ends and ends[-1] <= event["ts"] + 1e-6:
            ends.pop()
        assert not ends or event["ts"] + event["dur"] <= ends[-1] + 1e-6
        ends.append(event["ts"] + event["dur"])


def test_every_stream_is_a_process(clock: Any) -> None:
    profiler = Profiler()
    for stream in ("left", "right", "left"):
        with profiler.frame(stream, 0), profiler.span("network"):
            clock.move(1)
        with profiler.span(f"draw {stream}", stream=stream), profiler.span("write", stream=stream):
            clock.move(1)
    trace = chrome_trace(profiler.recording())
    processes = {e["args"]["name"]: e["pid"] for e in _of(trace, "M") if e["name"] == "process_name"}
    assert set(processes) == {"left", "right"}
    tracks = [(e["pid"], e["tid"]) for e in _of(trace, "M") if e["name"] == "thread_name"]
    assert len(tracks) == len(set(tracks)) == 8
    left = [e for e in _of(trace, "X") if e["pid"] == processes["left"]]
    assert len(left) == 2 * 4


def test_no_spans_make_an_empty_trace() -> None:
    trace = chrome_trace(Profiler().recording())
    assert (trace["traceEvents"], trace["otherData"]["complete"]) == ([], True)


def test_a_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"cannot write .*trace\.json"):
        write_trace(tmp_path / "file" / "trace.json", Profiler().recording())
