"""A comparison as one HTML file: the numbers, their course over the clip, and the worst frames as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sharedbb.cli.comparison import Comparison
from sharedbb.cli.comparison_table import further
from sharedbb.cli.worst import Shot
from sharedbb.outputs.agreement import WORST
from sharedbb.profiling.charts import bar
from sharedbb.profiling.curves import Curve, by_frame
from sharedbb.profiling.markup import escaped, milliseconds, rate
from sharedbb.profiling.page import facts, figures, headline, legend, page, section, share_cell

STYLES = ("full", "partial", "other", "reused", "skipped")  # of modes, dense first
SLOWEST = 1.3  # times the slower side's p95 is where the scale of times ends


def comparison_page(comparison: Comparison, told: Mapping[str, Any]) -> str:
    """The page as text; ``told`` is what ``comparison.to_dict`` gave."""
    ours, against = comparison.ours.label, comparison.against.label
    heads = [_head(comparison, name, head) for name, head in told["heads"].items()]
    return page(
        title=f"{told['pipeline']} · comparison",
        heading=told["pipeline"],
        subtitle=f"{ours} against {against} · {told['source']} · {told['frames']} frames",
        numbers=_headline(told),
        body=[
            section("Agreement", _agreement(told["heads"]), _AGREEMENT_NOTE),
            section("Time by frame", _times(comparison, told), _TIME_NOTE),
            section("How frames were computed", _modes(told)),
            *heads,
            section("Environment", _environment(told)),
        ],
        footer="Agreement counts the other side's answers as the truth.",
    )


_AGREEMENT_NOTE = (
    "Segmentation: pixels of the same class. Detection: AP50. Depth: pixels within 5 %. Tags: F1. "
    "The worst decile is the mean of the worst tenth of the frames."
)

_TIME_NOTE = "The whole engine without decoding; the two take turns, sixteen frames each."


def _headline(told: Mapping[str, Any]) -> str:
    became = told["macs_saved_as_time"]
    ours, against = told["ours"], told["against"]
    return headline(
        [
            ("speed ratio", f"{rate(told['speedup'])}×"),
            ("p50 ms, ours · other", f"{rate(ours['p50_ms'])} · {rate(against['p50_ms'])}"),
            ("p95 ms, ours · other", f"{rate(ours['p95_ms'])} · {rate(against['p95_ms'])}"),
            ("MACs saved · as time", f"{_percent(told['macs_saved'], 0)} · {_percent(became, 0)}"),
            _least("agreement", told["agreement"]),
            _least("worst decile", told["worst_decile"]),
        ]
    )


def _least(what: str, shares: Mapping[str, float]) -> tuple[str, str]:
    """The head with the smallest share, and the share."""
    head = min(shares, key=shares.__getitem__)
    return f"{what}, {head}", _percent(shares[head])


def _percent(share: float | None, digits: int = 1) -> str:
    """A share to a tenth of a percent: 99.6 % and 100 % are not the same agreement."""
    if share is None:
        return "–"
    return "100 %" if share == 1 else f"{share * 100:.{digits}f} %"


def _way(side: Mapping[str, Any]) -> tuple[str, ...]:
    return side["device"], side["backend"], side["precision"]


def _agreement(heads: Mapping[str, Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><th scope="row" title="{escaped(name)}">{escaped(name)}<small>{escaped(further(head))}</small></th>'
        f"{_share(name, head['agreement'])}<td>{_percent(head['worst_decile'])}</td><td>{head['worst_frame']}</td></tr>"
        for name, head in heads.items()
    )
    return (
        '<table class="stages"><thead><tr><th scope="col">Head</th><th scope="col" class="share">Agreement</th>'
        '<th scope="col">worst decile</th><th scope="col">worst frame</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _share(name: str, share: float) -> str:
    return share_cell(share, bar([(share, "full")], f"{name}: {_percent(share)}"), _percent(share))


def _times(comparison: Comparison, told: Mapping[str, Any]) -> str:
    sides = (comparison.ours, comparison.against)
    styled = zip(sides, ("", "other"), strict=True)
    curves = [Curve(side.label, np.array(side.times_ms), style) for side, style in styled]
    high = SLOWEST * max(told["ours"]["p95_ms"], told["against"]["p95_ms"])
    chart = by_frame(curves, 0.0, high, milliseconds, comparison.numbers)
    return chart + legend([("full", f"ours: {sides[0].label}"), ("other", f"against: {sides[1].label}")])


def _modes(told: Mapping[str, Any]) -> str:
    ordered = sorted(told["modes"], key=lambda mode: (mode != "dense", mode))
    styles = {mode: STYLES[min(place, len(STYLES) - 1)] for place, mode in enumerate(ordered)}
    written = {mode: f"{mode} {_percent(told['modes'][mode], 0)}" for mode in ordered}
    shown = bar([(told["modes"][mode], styles[mode]) for mode in ordered], ", ".join(written.values()))
    return shown + legend([(styles[mode], written[mode]) for mode in ordered])


def _head(comparison: Comparison, name: str, head: Mapping[str, Any]) -> str:
    """A head's agreement by frame, and its worst frames."""
    shares = np.array(comparison.agreements[name].frames)
    low = math.floor(min(float(shares.min()), 0.99) * 20 - 1e-9) / 20
    chart = by_frame([Curve("agreement", shares)], max(low, 0.0), 1.0, _percent, comparison.numbers)
    shots = comparison.worst.of(name) if comparison.worst else ()
    worst = float(np.sort(shares)[math.ceil(len(shares) / WORST) - 1])
    shown = [shot for shot in shots if shot.share <= worst]
    note = f"By frame; the mean of the worst decile is {_percent(head['worst_decile'])}."
    if shown:
        note += " Below, some of its frames, the worst first: ours, the other side's, and where they differ."
    return section(f"Head {name}", chart + "".join(map(_pictures, shown)), note)


def _pictures(shot: Shot) -> str:
    sides = (
        f"ours: frame {shot.frame}, {shot.timestamp:.2f} s, {_percent(shot.share)}",
        "against",
        "where they differ",
    )
    return figures(list(zip(sides, shot.pictures, strict=True)))


def _environment(told: Mapping[str, Any]) -> str:
    sides: dict[str, str] = {}
    for name in ("ours", "against"):
        sides[name] = " · ".join((*_settings(told[name]["settings"]), *_way(told[name])))
    known = {"source": told["source"], "frames": str(told["frames"]), "machine": told["machine"]}
    return facts({"pipeline": told["pipeline"], **sides, **known, **told["versions"]})


def _settings(settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(settings) or ("as in the file",)
