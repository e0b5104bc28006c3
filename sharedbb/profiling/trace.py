"""The latest spans as a trace for ``chrome://tracing`` and ui.perfetto.dev."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharedbb.profiling.files import write_text
from sharedbb.profiling.recording import Recording, SpanRecord

_FIXED_TRACKS = ("frames", "stages", "heads", "events")


def chrome_trace(recording: Recording) -> dict[str, Any]:
    """The trace as plain Python values, in Chrome's JSON object form (Google's "Trace Event Format").

    Every stream is a process. Its threads are the tracks ``frames``, ``stages``, ``heads`` (stages of one head),
    ``events`` (marks outside of frames) and one for each background stage. Spans are complete events (``ph`` X), marks
    instant events (``ph`` i); ``args`` hold frame, head and why. Times are in µs since the first span kept.
    """
    begin = min((span.start for span in recording.spans), default=0)
    processes = {stream: number for number, stream in enumerate(dict.fromkeys(s.stream for s in recording.spans), 1)}
    tracks: dict[tuple[str, str], int] = {}
    events = [_event(span, begin, processes[span.stream], _thread(span, tracks)) for span in recording.spans]
    return {
        "traceEvents": [*_names(processes, tracks), *events],
        "displayTimeUnit": "ms",
        "otherData": {"summary": recording.summary.to_dict(), "complete": recording.complete},
    }


def write_trace(path: str | Path, recording: Recording) -> None:
    """Write the trace as JSON. Raises SinkError when the file cannot be written."""
    write_text(path, json.dumps(chrome_trace(recording), separators=(",", ":")))


def _track(span: SpanRecord) -> str:
    if span.kind == "frame":
        return "frames"
    if span.kind == "mark" and span.frame < 0:
        return "events"
    if span.kind == "background":
        return span.stage
    return "stages" if span.head is None else "heads"


def _thread(span: SpanRecord, tracks: dict[tuple[str, str], int]) -> int:
    """The number of the span's track in its process; a background stage gets a new one when it is first seen."""
    name = _track(span)
    if span.kind != "background":
        return tracks.setdefault((span.stream, name), _FIXED_TRACKS.index(name))
    return tracks.setdefault((span.stream, f"outside of frames: {name}"), len(_FIXED_TRACKS) + len(tracks))


def _event(span: SpanRecord, begin: int, process: int, thread: int) -> dict[str, Any]:
    event: dict[str, Any] = {
        "name": f"frame {span.frame}" if span.kind == "frame" else span.stage,
        "cat": span.kind,
        "ph": "X",
        "ts": (span.start - begin) / 1e3,
        "pid": process,
        "tid": thread,
        "args": {"frame": span.frame, "head": span.head, "why": span.why},
    }
    if span.kind == "mark":
        return {**event, "name": f"{span.stage}: {span.why}", "ph": "i", "s": "t"}
    return {**event, "dur": span.duration / 1e3}


def _names(processes: dict[str, int], tracks: dict[tuple[str, str], int]) -> Iterator[dict[str, Any]]:
    for stream, process in processes.items():
        yield _metadata("process_name", process, 0, name=stream or "no stream")
        yield _metadata("process_sort_index", process, 0, sort_index=process)
    for (stream, name), thread in tracks.items():
        yield _metadata("thread_name", processes[stream], thread, name=name)
        yield _metadata("thread_sort_index", processes[stream], thread, sort_index=thread)


def _metadata(kind: str, process: int, thread: int, **args: str | int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": args}
