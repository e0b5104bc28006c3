"""The profiler: what belongs to which frame, own times, reasons, threads, and memory that stays bounded."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from sharedbb.errors import SharedBBError
from sharedbb.profiling import Latency, NullProfiler, Profiler, Recording, SpanRecord

FRAMES = 5_000


def test_latencies_are_numpys_percentiles(clock: Any) -> None:
    profiler = Profiler()
    latencies = np.random.default_rng(0).gamma(4, 3, 200).round(3)
    for index, latency in enumerate(latencies):
        with profiler.frame("main", index), profiler.span("network"):
            clock.move(latency)
        clock.move(1)
    summary = profiler.summary()
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    told = summary.latency
    assert (told.p50_ms, told.p95_ms, told.p99_ms) == pytest.approx((p50, p95, p99))
    assert (told.mean_ms, told.max_ms) == pytest.approx((latencies.mean(), latencies.max()))
    assert summary.seconds == pytest.approx((latencies.sum() + 199) / 1e3)
    assert summary.fps == pytest.approx(200 / summary.seconds)
    network = summary.stages["network"]
    assert (network.count, network.p95_ms, network.share) == (200, pytest.approx(p95), pytest.approx(1))


def test_a_share_is_own_time_only(clock: Any) -> None:
    profiler = Profiler()
    with profiler.frame("main", 0):
        clock.move(10)
        with profiler.span("outer"):
            clock.move(20)
            with profiler.span("inner"):
                clock.move(30)
                with profiler.span("innermost"):
                    clock.move(15)
            with profiler.span("inner"):
                clock.move(25)
    stages = profiler.summary().stages
    assert {name: stage.share for name, stage in stages.items()} == pytest.approx(
        {"outer": 0.20, "inner": 0.55, "innermost": 0.15}
    )
    assert (stages["outer"].mean_ms, stages["inner"].mean_ms, stages["inner"].count) == (90, 35, 2)


def test_outside_of_frames_has_times_but_no_share(clock: Any) -> None:
    profiler = Profiler()
    with profiler.frame("main", 0), profiler.span("network"):
        clock.move(10)
    with profiler.span("draw", stream="main", frame=0), profiler.span("blend"):
        clock.move(40)
    summary = profiler.summary()
    draw = summary.stages["draw"]
    assert (draw.background, draw.share, draw.p50_ms) == (True, 0.0, 40)
    assert summary.stages["blend"].background
    assert summary.stages["network"].share == 1.0
    assert [(span.kind, span.stream, span.frame) for span in profiler.recording().spans[2:]] == [
        ("background", "main", 0),
        ("background", "main", 0),
    ]


def test_a_frame_within_a_span_is_a_frame_and_gives_the_span_back(clock: Any) -> None:
    profiler = Profiler()
    with profiler.span("session"):
        with profiler.frame("main", 0), profiler.span("network"):
            clock.move(2)
        with profiler.span("draw"):
            clock.move(1)
    stages = profiler.summary().stages
    assert {name: stage.background for name, stage in stages.items()} == {
        "network": False,
        "draw": True,
        "session": True,
    }


def test_reasons_are_counted_by_stage(record: Callable[..., Recording]) -> None:
    summary = record(frames=9).summary
    assert summary.whys["trunk"] == {"full": 1, "partial 12 %": 8}
    assert summary.whys["head road"] == {"full": 3, "reused": 6}
    assert (summary.heads["road"].ran, summary.heads["road"].reused, summary.heads["road"].dropped) == (3, 6, 0)
    assert (summary.dropped_frames, summary.skipped_frames) == (2, 0)


def test_a_reason_may_be_set_inside(clock: Any) -> None:
    profiler = Profiler()
    with profiler.frame("main", 3), profiler.span("trunk") as span:
        clock.move(1)
        span.why = "partial 40 %"
    assert profiler.summary().whys == {"trunk": {"partial 40 %": 1}}


def test_what_only_ever_was_skipped_is_no_stage_but_has_its_reasons(clock: Any) -> None:
    profiler = Profiler()
    with profiler.frame("main", 0):
        clock.move(1)
        profiler.mark("trunk", "skipped")
    summary = profiler.summary()
    assert (summary.stages, summary.whys) == ({}, {"trunk": {"skipped": 1}})


def test_an_exception_is_recorded_as_failed_and_goes_on(clock: Any) -> None:
    profiler = Profiler()

    def breaks() -> None:
        with profiler.frame("main", 0), profiler.span("network"):
            clock.move(1)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        breaks()
    with profiler.frame("main", 1), profiler.span("network"):
        clock.move(1)
    recording = profiler.recording()
    assert recording.summary.whys["network"] == {"failed": 1, "full": 1}
    assert [(span.stage, span.frame, span.why) for span in recording.spans] == [
        ("network", 0, "failed"),
        ("frame", 0, "failed"),
        ("network", 1, "full"),
        ("frame", 1, "full"),
    ]
    # A frame that failed was not answered: it counts by its reason alone.
    assert (recording.summary.frames, recording.summary.whys["frame"]) == (1, {"failed": 1})
    assert len(recording.latencies_ms) == 1


def test_shares_of_stages_count_frames_that_failed_on_both_sides(clock: Any) -> None:
    profiler = Profiler()
    for index in range(3):
        with suppress(ValueError), profiler.frame("main", index):
            with profiler.span("a"):
                clock.move(3)
            with profiler.span("b"):
                clock.move(1)
                if index:
                    raise ValueError("broken")
    stages = profiler.summary().stages
    assert (stages["a"].share, stages["b"].share) == (0.75, 0.25)


def test_losing_nothing_leaves_no_mark() -> None:
    profiler = Profiler()
    profiler.drop("main", 0)
    profiler.skip("main", 0)
    assert profiler.recording().spans == ()


def test_two_threads_keep_their_streams_apart() -> None:
    profiler = Profiler()
    start = threading.Barrier(2)

    def _run(stream: str, frames: int) -> None:
        start.wait()
        for index in range(frames):
            with profiler.frame(stream, index), profiler.span("network"), profiler.span(f"only {stream}"):
                profiler.mark("trunk", "reused")
                profiler.head("road", "ran")

    threads = [threading.Thread(target=_run, args=args) for args in (("left", 300), ("right", 200))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recording = profiler.recording()
    summary = recording.summary
    assert (summary.frames, summary.stages["network"].count, summary.heads["road"].ran) == (500, 500, 500)
    assert summary.whys["trunk"] == {"reused": 500}
    assert sum(stage.share for stage in summary.stages.values()) <= 1
    for stream, frames in (("left", 300), ("right", 200)):
        own = [span for span in recording.spans if span.stage == f"only {stream}"]
        assert [(span.stream, span.frame, span.kind) for span in own] == [(stream, i, "stage") for i in range(frames)]
    _nested_in_their_frames(recording)


def _nested_in_their_frames(recording: Recording) -> None:
    frames = {(span.stream, span.frame): span for span in recording.spans if span.kind == "frame"}
    for span in recording.spans:
        frame = frames[span.stream, span.frame]
        assert frame.start <= span.start <= span.end <= frame.end


def test_memory_stays_bounded(clock: Any) -> None:
    profiler = Profiler(keep=100, samples=64)
    for index in range(FRAMES):
        with profiler.frame("main", index), profiler.span("trunk", f"partial {index} ‰"):
            clock.move(1)
        profiler.drop("main")
    recording = profiler.recording()
    summary = recording.summary
    assert (len(recording.spans), recording.complete) == (100, False)
    assert recording.spans[-2] == SpanRecord(
        "frame", "main", FRAMES - 1, "frame", None, "full", clock.now - 1_000_000, 1_000_000
    )
    assert recording.latencies_ms.shape == (64,)
    assert len(recording.timeline) <= 2_049
    assert sum(bucket.number for bucket in recording.timeline) == FRAMES
    assert (summary.frames, summary.stages["trunk"].count, summary.dropped_frames) == (FRAMES, FRAMES, FRAMES)
    assert len(summary.whys["trunk"]) == 129
    assert summary.whys["trunk"]["other"] == FRAMES - 128


def test_reset_forgets_what_was_measured_and_keeps_what_was_described(clock: Any) -> None:
    profiler = Profiler()
    profiler.describe(pipeline="street")
    profiler.describe(source="clip.mp4")
    with profiler.frame("main", 0), profiler.span("network"):
        clock.move(1)
    profiler.head("road", "ran")
    profiler.reset()
    summary = profiler.summary()
    assert (summary.pipeline, summary.source) == ("street", "clip.mp4")
    assert (summary.frames, summary.fps, summary.seconds) == (0, 0.0, 0.0)
    assert (summary.latency, summary.stages, summary.heads, summary.whys) == (Latency(), {}, {}, {})


def test_the_typical_frame_is_the_one_nearest_to_the_median(record: Callable[..., Recording]) -> None:
    spans = record(frames=9).typical_frame()
    assert spans[0].kind == "frame"
    assert spans[0].duration == 9_750_000  # the others take as long, or 1 ms more
    assert [span.stage for span in spans[1:4]] == ["transform", "network", "trunk"]


def test_a_frame_with_lost_spans_is_not_typical(clock: Any) -> None:
    profiler = Profiler(keep=3)
    with profiler.frame("main", 0), profiler.span("a"), profiler.span("b"), profiler.span("c"):
        clock.move(1)
    assert profiler.recording().typical_frame() == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Profiler("sun"), "no profiler clock 'sun'"),  # type: ignore[arg-type]
        (lambda: Profiler(keep=0), "at least 1 span"),
        (lambda: Profiler().head("road", "flew"), "a head cannot be 'flew'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_known_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SharedBBError, match=message):
        make()


@pytest.mark.cuda
def test_the_devices_clock_sees_the_devices_work() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    profiler, matrix = Profiler("cuda"), torch.rand(1024, 1024, device="cuda")
    for index in range(20):
        with profiler.frame("main", index), profiler.span("network"):
            matrix = (matrix @ matrix).clamp(0, 1)
    recording = profiler.recording()
    assert recording.summary.frames == recording.summary.stages["network"].count == 20
    assert 0 < recording.summary.stages["network"].share <= 1
    assert all(span.duration > 0 for span in recording.spans)


def _methods(kind: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(member).parameters)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_the_null_profiler_has_the_same_methods_and_records_nothing() -> None:
    assert _methods(NullProfiler) == _methods(Profiler)
    profiler: Profiler = NullProfiler()
    with profiler.frame("main", 0), profiler.span("network", "full", head="road", stream="a", frame=1) as span:
        span.why = "partial 3 %"
        profiler.mark("trunk", "reused", head="road")
        profiler.head("road", "ran")
    profiler.drop("main")
    profiler.skip("main", 3)
    recording = profiler.recording()
    summary = recording.summary
    assert (summary.frames, summary.dropped_frames, summary.skipped_frames) == (0, 0, 0)
    assert (summary.stages, summary.heads, summary.whys, recording.spans) == ({}, {}, {}, ())


def test_the_null_profiler_lets_exceptions_through() -> None:
    with pytest.raises(ValueError, match="broken"), NullProfiler().frame("main", 0):
        raise ValueError("broken")
