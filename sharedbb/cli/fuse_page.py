"""A fusion as one HTML file: how far each head answers like its teacher, what it costs, how it learnt, and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sharedbb.cli.compression_table import macs, size
from sharedbb.cli.fuse_table import AGREEMENT, Told, agreement, by_labels, fate, percent, short, speed_line
from sharedbb.cli.training_page import curve
from sharedbb.profiling.charts import bar
from sharedbb.profiling.markup import escaped, milliseconds, rate, ticks
from sharedbb.profiling.page import facts, headline, legend, listed, page, pairs, section, share_cell
from sharedbb.profiling.plot import HEIGHT, SHORT_TOP, plot, x_axis, y_tick

AGREES, TIMES = '<th scope="col" class="share">agreement</th>', '<th scope="col" class="share"></th>'
"""Names of columns with bars."""


def fuse_page(told: Told, pictures: Sequence[tuple[str, bytes]] = ()) -> str:
    """The page as text; ``pictures``: captions and JPEGs, the teachers' answers and the student's in turns."""
    sets = told["test"]["sets"]
    return page(
        title=f"{told['student']} · fusion",
        heading=told["student"],
        subtitle=f"{len(told['teachers'])} networks in one · {len(told['heads'])} heads · held out: "
        + ", ".join(map(short, sets)),
        numbers=_headline(told),
        body=[
            section("Heads", _heads(told), _HEADS_NOTE),
            section("Set by set", _by_set(told), _SETS_NOTE),
            section("Speed", _speeds(told["speed"]), _SPEED_NOTE),
            section("Agreement against time", _pareto(told), _PARETO_NOTE),
            _learning(told),
            section("Side by side", pairs(pictures), "Left what the teachers say, right what the student says."),
            section("Teachers", _teachers(told["teachers"])),
            section("Pictures", listed(told["said"])),
            section("Environment", _environment(told)),
        ],
        footer=f"Artifact digest {told['digest']}",
    )


_HEADS_NOTE = (
    "On all held-out sets together, the teacher's answers at its own operating point being the truth. Segmentation: "
    "pixels of the same class. Detection: AP50. Depth: pixels within 5 %. Tags: F1. Keypoints: points within a cell. "
    "The worst decile is the mean of the worst tenth of the pictures, of boxes their F1."
)
_SETS_NOTE = (
    "Agreement, and below it what labels say, where there are some. Where a teacher finds no box in a whole set, the "
    "share of the pictures in which the student finds none either."
)
_SPEED_NOTE = (
    "Milliseconds of a frame from picture to decoded answers, in turns on the same frames: each network by itself with "
    "its own preprocessing, and the fused one."
)
_PARETO_NOTE = (
    "The mean of all heads against the time of a frame: the separate networks, which agree with themselves, and the "
    "student at every validation in the course of its training, on the sets to choose by."
)


def _headline(told: Told) -> str:
    scores = {name: head["score"] for name, head in told["heads"].items() if head["score"] is not None}
    worst = min(scores, key=scores.__getitem__, default="")
    speed = told["speed"][0] if told["speed"] else None
    return headline(
        [
            ("as fast as apart", f"{rate(speed['ratio'])}×" if speed else "not measured"),
            ("heads, mean", percent(sum(scores.values()) / len(scores) if scores else None)),
            (f"worst head, {worst}", percent(scores.get(worst))),
            ("ms of a frame", f"{rate(speed['separate_ms'])} → {rate(speed['fused_ms'])}" if speed else "–"),
            ("multiply-adds", macs(told["macs"])),
            ("size", size(told["bytes"])),
        ]
    )


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML; column names and cells may bring their own tags. The first cell of a row is its name."""
    head = "".join(_in(name, '<th scope="col">') for name in names)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(_in(cell, "<td>") for cell in row[1:])}</tr>' for row in rows
    )
    style = ' class="stages"' if {AGREES, TIMES} & {*names} else ""
    return f"<table{style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _in(content: str, tag: str) -> str:
    return content if content.startswith(("<td", "<th")) else f"{tag}{content}</{tag[1:3]}>"


def _heads(told: Told) -> str:
    rows = []
    for name, head in told["heads"].items():
        known, score = agreement(told, name), head["score"]
        shown = "–" if score is None else share_cell(score, bar([(score, "full")], name), percent(score))
        from_whom = f"learns from {head['teacher']}" if head["teacher"] else "learns from labels"
        rows.append([f"{_named(name, from_whom)}", shown, percent(known.get("worst_decile")), escaped(fate(head))])
    return _table(("Head", AGREES, "worst decile", "floor"), rows)


def _named(name: str, below: str) -> str:
    return f"{escaped(name)}<small>{escaped(below)}</small>"


def _by_set(told: Told) -> str:
    sets = told["test"]["sets"]
    rows = []
    for name, heads in sets.items():
        row = [_named(short(name), f"{told['pictures']['test'][name]} pictures")]
        for head in told["heads"]:
            known = heads.get(head, {})
            agrees = percent(known[AGREEMENT]) if AGREEMENT in known else ""
            labels = f"<small>{escaped(by_labels(known))}</small>" if by_labels(known) else ""
            row.append(f"{agrees}{labels}" or "–")
        rows.append(row)
    return _table(("Set", *map(escaped, told["heads"])), rows)


def _speeds(speeds: Sequence[Told]) -> str:
    if not speeds:
        return ""
    rows = []
    for speed in speeds:
        longest = max(speed["separate_ms"], speed["fused_ms"])
        times = [(name, speed["ran"][name], taken, "partial") for name, taken in speed["teachers_ms"].items()]
        times += [("all of them", speed["target"], speed["separate_ms"], "partial")]
        times += [("fused", speed["fused_ran"], speed["fused_ms"], "full")]
        for name, ran, taken, style in times:
            drawn = bar([(taken / longest, style)], f"{name}: {milliseconds(taken)}")
            rows.append([_named(name, ran), f'<td class="share">{drawn}</td>', milliseconds(taken)])
    lines = "".join(f"<li>{escaped(speed_line(speed))}</li>" for speed in speeds)
    return _table(("Network", TIMES, "a frame"), rows) + f'<ul class="legend">{lines}</ul>'


def _pareto(told: Told) -> str:
    """Mean over heads against milliseconds, on the first target: a dot for what is apart, one for every validation."""
    if not told["speed"] or not told["validations"]:
        return ""
    speed = told["speed"][0]
    fused, apart = speed["fused_ms"], speed["separate_ms"]
    dots = [(apart, 1.0, "reused", f"separate networks: {milliseconds(apart)}")]
    for one in sorted(told["validations"], key=lambda one: bool(one["step"] == told["best_step"])):
        mean = sum(one["scores"].values()) / max(1, len(one["scores"]))
        style = "full" if one["step"] == told["best_step"] else "partial"
        dots.append((fused, mean, style, f"step {one['step']}: {percent(mean)}"))
    right = 1.05 * max(fused, apart)
    low = max(0.0, math.floor(min(0.95, *(down for _, down, _, _ in dots)) * 20 - 1e-9) / 20)
    grid = "".join(y_tick(percent(at), (1 - at) / (1 - low), SHORT_TOP) for at in ticks(low, 1.0, 4))
    drawn = "".join(_dot(100 * x / right, (1 - y) / (1 - low), style, text) for x, y, style, text in dots)
    label = f"Mean over heads against milliseconds: apart {milliseconds(apart)}, fused {milliseconds(fused)}"
    keys = [("full", "fused, the best validation"), ("partial", "fused, the others"), ("reused", "separate")]
    return plot(label, grid + drawn + x_axis(0.0, right, "ms", SHORT_TOP), SHORT_TOP) + legend(keys)


def _dot(across: float, down: float, style: str, text: str) -> str:
    """A dot at a place in the plane, from left in percent and from above in 0–1."""
    return (
        f'<rect class="{style}" x="{across:.2f}%" y="{SHORT_TOP + HEIGHT * down:.1f}" width="10" height="10" rx="5"'
        f' transform="translate(-5 -5)"><title>{escaped(text)}</title></rect>'
    )


def _learning(told: Told) -> str:
    """A card for each head: its loss by step, and below it its validations."""
    cards = [section(f"How {head} learnt", _learnt(told, head)) for head in told["heads"]]
    return f'<div class="pair">{"".join(cards)}</div>' if any(cards) else ""


def _learnt(told: Told, head: str) -> str:
    losses, judged = (told["curves"].get(f"{kind}/{head}", []) for kind in ("loss", "val"))
    steps, charts, keys = told["training"]["steps"], "", []
    if losses:
        charts += curve(f"Loss of {head}", losses, steps, high=1.08 * max(value for _, value in losses))
        keys.append(("full", f"loss, {losses[-1][1]:.3g} at last"))
    if judged:
        charts += curve(f"Validation of {head}", judged, steps, high=1.0, mark=told["best_step"], style="other")
        keys.append(("other", f"validated, {percent(judged[-1][1])} at last"))
    return charts + legend(keys) if charts else ""


def _teachers(teachers: Mapping[str, Told]) -> str:
    def about(told: Told) -> str:
        heads = ", ".join(
            f"{name} ({head['type']}" + (f", from {head['threshold']:g})" if head["threshold"] is not None else ")")
            for name, head in told["heads"].items()
        )
        where = told.get("file") or told.get("module") or ""
        return f"{told['kind']} {short(where)} · {told['parameters'] / 1e6:.2f} M parameters · {heads}"

    return facts({name: about(told) for name, told in teachers.items()})


def _environment(told: Told) -> str:
    training, learnt = told["fuse"]["training"], told["training"]
    pictures = {
        role: "; ".join(f"{name} ({count})" for name, count in sets.items()) for role, sets in told["pictures"].items()
    }
    known = {
        "trained for": f"{learnt['steps']} steps, {learnt['seconds'] / 60:.1f} minutes of work",
        "learning rate · batch": f"{training['lr']:g} · {training['batch']}",
        "balance": training["balance"],
        "parameters": f"{told['parameters']}",
        "new heads": ", ".join(name for name, head in told["heads"].items() if head["new"]),
        "seed": str(told["fuse"]["seed"]),
    }
    return facts({**pictures, **known, "machine": told.get("machine", ""), **told.get("versions", {})})
