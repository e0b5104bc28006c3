"""The HTML report: one file with everything in it, for a browser, a colleague, or an issue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharedbb.profiling import charts
from sharedbb.profiling.files import write_text
from sharedbb.profiling.markup import escaped, milliseconds, percent, rate
from sharedbb.profiling.page import facts, figures, headline, legend, page, section, share_cell
from sharedbb.profiling.recording import Recording
from sharedbb.profiling.summary import ReuseSummary, StageSummary, Summary

_SHOWN_WHYS = 3


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report of the caller's own; ``html`` goes in as it is: escape what comes from outside."""

    title: str
    html: str


def html_report(
    recording: Recording, pictures: Sequence[tuple[str, bytes]] = (), sections: Sequence[Section] = ()
) -> str:
    """The page as text.

    ``pictures`` are (caption, JPEG or PNG bytes), three of them look best. Every name and caption is escaped.
    Raises SinkError for a picture of another format.
    """
    summary = recording.summary
    body = [
        section("Frames", figures(pictures)),
        _typical_frame(recording),
        _latency(recording),
        section("Stages", _stages(summary), _STAGES_NOTE) if summary.stages else "",
        section("Heads", _heads(summary), _HEADS_NOTE) if summary.heads else "",
        section("Reuse", _reuse(summary.reuse), _REUSE_NOTE) if summary.reuse else "",
        *(section(own.title, own.html) for own in sections),
        section("Environment", _environment(summary)),
    ]
    return page(
        title=f"{summary.pipeline or 'sharedbb'} · profile",
        heading=summary.pipeline or "Profile",
        subtitle=_subtitle(summary),
        numbers=_headline(summary),
        body=body,
        footer="Quantiles are over all frames of the run, or a uniform sample of a long one.",
    )


def write_report(
    path: str | Path,
    recording: Recording,
    pictures: Sequence[tuple[str, bytes]] = (),
    sections: Sequence[Section] = (),
) -> None:
    """Write the page. Raises SinkError when the file cannot be written or a picture is neither JPEG nor PNG."""
    write_text(path, html_report(recording, pictures, sections))


_STAGES_NOTE = (
    "Share is a stage's own part of all frames' time, nested stages not counted; times include them. "
    "Stages outside of frames run between them and have no share."
)
_HEADS_NOTE = "On how many frames a head was computed, gave an earlier answer again, or gave none."

_REUSE_NOTE = (
    "How frames were computed, and by head the share of answers that differed from a full run at the latest audits."
)


def _subtitle(summary: Summary) -> str:
    parts = (summary.source, summary.backend, summary.precision, summary.device)
    return " · ".join(part for part in parts if part)


def _headline(summary: Summary) -> str:
    latency = summary.latency
    numbers = [
        ("frames a second", rate(summary.fps)),
        ("median latency", milliseconds(latency.p50_ms)),
        ("p95", milliseconds(latency.p95_ms)),
        ("p99", milliseconds(latency.p99_ms)),
        ("frames", f"{summary.frames:,}".replace(",", "\u202f")),
        ("dropped · skipped", f"{summary.dropped_frames} · {summary.skipped_frames}"),
    ]
    return headline(numbers)


def _typical_frame(recording: Recording) -> str:
    spans = recording.typical_frame()
    if len(spans) < 2:
        return ""
    frame = spans[0]
    note = (
        f"Frame {frame.frame} of {frame.stream or 'the stream'}, {milliseconds(frame.duration / 1e6)}: "
        "the kept frame whose latency is nearest to the median."
    )
    styles = dict.fromkeys(charts.style_of(span.why) for span in spans[1:] if span.kind == "stage")
    shown = charts.frame_timeline(spans) + legend([(style, style) for style in styles])
    return section("A typical frame", shown, note)


def _latency(recording: Recording) -> str:
    if not recording.latencies_ms.size or not recording.timeline:
        return ""
    latency = recording.summary.latency
    spread = charts.histogram(recording.latencies_ms, latency)
    course = charts.latency_over_time(recording.timeline, latency)
    note = f"Mean as a line, longest frames behind it; the longest of all took {milliseconds(latency.max_ms)}."
    return (
        f'<div class="pair">{section("Latency", spread, "How the frames spread, with the quantiles marked.")}'
        f"{section('Latency over the run', course, note)}</div>"
    )


def _stages(summary: Summary) -> str:
    rows = [_stage_row(name, stage, summary.whys.get(name, {})) for name, stage in summary.stages.items()]
    rest = 1.0 - sum(stage.share for stage in summary.stages.values())
    if summary.frames and rest > 0.0005:
        bar = charts.bar([(rest, "rest")], f"between the stages: {percent(rest)} of the frame")
        rows.append(
            f'<tr class="rest"><th scope="row">between the stages</th>{share_cell(rest, bar)}'
            + "<td></td>" * 3
            + '<td class="wide"></td>' * 2
            + "</tr>"
        )
    return (
        '<table class="stages"><thead><tr><th scope="col">Stage</th>'
        '<th scope="col" class="share">Share of the frame</th>'
        '<th scope="col">p50 ms</th><th scope="col">p95 ms</th><th scope="col">p99 ms</th>'
        '<th scope="col" class="wide">mean ms</th><th scope="col" class="wide">count</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _stage_row(name: str, stage: StageSummary, whys: Mapping[str, int]) -> str:
    if stage.background:
        share = '<td class="share">outside of frames</td>'
    else:
        bar = charts.bar([(stage.share, "full")], f"{name}: {percent(stage.share)} of the frame")
        share = share_cell(stage.share, bar)
    times = "".join(f"<td>{value:.2f}</td>" for value in (stage.p50_ms, stage.p95_ms, stage.p99_ms))
    return (
        f'<tr><th scope="row" title="{escaped(name)}">{escaped(name)}{_reasons(whys)}</th>{share}{times}'
        f'<td class="wide">{stage.mean_ms:.2f}</td><td class="wide">{stage.count}</td></tr>'
    )


def _reasons(whys: Mapping[str, int]) -> str:
    """The commonest reasons in small print; none where a stage always ran in full."""
    if not whys.keys() - {"full"}:
        return ""
    ordered = sorted(whys.items(), key=lambda item: -item[1])
    shown = [f"{why} ×{count}" for why, count in ordered[:_SHOWN_WHYS]]
    if len(ordered) > _SHOWN_WHYS:
        shown.append(f"{len(ordered) - _SHOWN_WHYS} more")
    every = ", ".join(f"{why} ×{count}" for why, count in ordered)
    return f'<small title="{escaped(every)}">{escaped(", ".join(shown))}</small>'


def _heads(summary: Summary) -> str:
    rows = []
    for name, head in summary.heads.items():
        whole = max(1, head.ran + head.reused + head.dropped)
        parts = [("ran", head.ran), ("reused", head.reused), ("dropped", head.dropped)]
        said = " · ".join(f"{word} {percent(count / whole)}" for word, count in parts if count)
        rows.append(
            f'<li><span class="name" title="{escaped(name)}">{escaped(name)}</span>{charts.head_bar(name, head)}'
            f'<span class="value">{escaped(said)}</span></li>'
        )
    key = legend([("full", "ran"), ("reused", "reused"), ("dropped", "dropped")])
    return f'<ul class="heads">{"".join(rows)}</ul>{key}'


def _reuse(reuse: ReuseSummary) -> str:
    """Frames by mode, what was computed and refreshed, and what audits found."""
    frames = sum(reuse.modes.values())
    ordered = sorted(reuse.modes.items(), key=lambda item: -item[1])
    rows = {mode: f"{percent(count / frames)} of the frames ({count})" for mode, count in ordered}
    rows["computed"] = f"{percent(reuse.work)} of the multiply-adds of full frames, audits included"
    rows["refreshed"] = f"{percent(reuse.refreshed)} of the picture on each frame, though it had not changed"
    rows |= {f"{head}: error": f"{percent(error)} of its answers" for head, error in reuse.errors.items()}
    return facts(rows)


def _environment(summary: Summary) -> str:
    known = {
        "pipeline": summary.pipeline,
        "source": summary.source,
        "device": summary.device,
        "backend": summary.backend,
        "precision": summary.precision,
        "machine": summary.machine,
        "measured": f"{summary.frames} frames in {summary.seconds:.2f} s",
        **summary.versions,
    }
    return facts(known)
