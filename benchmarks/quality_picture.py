"""The picture of ``benchmarks.quality``: quality of every head against milliseconds a frame, in light and in dark.

``python -m benchmarks.quality_picture`` draws ``results/quality.svg`` anew from ``results/quality.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.schema import RESULTS, Suite
from sharedbb.profiling.markup import escaped, tick_label, ticks

NAMES: Mapping[str, str] = {"miou": "mIoU", "map50": "mAP50", "f1": "F1", "delta1": "δ1"}
"""Of the metrics, as the field writes them."""

WIDTH, HEIGHT, LEFT, RIGHT, GAP = 860, 702, 52, 20, 56
MAIN_TOP, MAIN_HEIGHT, SMALL_TOP, SMALL_HEIGHT = 118, 320, 510, 128
LETTER, LINE = 6.6, 13
"""Width and height that a letter of a label takes, in pixels, at most."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a family of settings is drawn: its colour (a style class), what the legend says of it, line and marks."""

    colour: str
    said: str
    joined: bool = True
    hollow: bool = False
    dashed: bool = False

    @property
    def line(self) -> str:
        """The style of the line that joins its marks."""
        return f"line {self.colour}{' dashed' if self.dashed else ''}"

    def mark(self, x: float, y: float, radius: float, said: str = "") -> str:
        """A mark at a place in pixels; ``said`` is shown under the pointer."""
        kind = f"mark {self.colour}{' hollow' if self.hollow else ''}"
        title = f"<title>{escaped(said)}</title>" if said else ""
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{title}</circle>'


LOOKS: Mapping[str, Look] = {
    "off": Look("off", "computed in full", joined=False),
    "every": Look("every", "every n-th frame, answers held"),
    "exact": Look("exact", "exact", joined=False),
    "bounded": Look("bounded", "bounded, by budget"),
    "keyframe": Look("keyframe", "keyframe, key every n-th"),
    "keyframe, fresh 8": Look("keyframe", "keyframe, fresh 8, key every n-th", hollow=True),
    "keyframe, audited": Look("audited", "keyframe with audits, by budget", hollow=True, dashed=True),
    "auto": Look("auto", "auto, by budget"),
}

STYLE = """
svg{--back:#fff;--text:#1f2328;--quiet:#656d76;--grid:#e6e9ed;--purple:#9a4a86;--grey:#8b929a;--green:#08795a;
--blue:#0a66ad;--sky:#2f9fd8;--orange:#c2500a;font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
@media(prefers-color-scheme:dark){svg{--back:#0d1117;--text:#e6edf3;--quiet:#9198a1;--grid:#262c36;--purple:#e59fd0;
--grey:#7d858f;--green:#3ecf9b;--blue:#5aa9f0;--sky:#9fd9ff;--orange:#ff9d5c}}
.back{fill:var(--back)}text{fill:var(--quiet)}.title{font-weight:600;fill:var(--text)}.label{fill:var(--text);
stroke:var(--back);stroke-width:3px;paint-order:stroke;font-size:11px}.grid{stroke:var(--grid);fill:none}
.level{stroke:var(--quiet);stroke-dasharray:2 4}
.off{--c:var(--text)}.every{--c:var(--purple)}.exact{--c:var(--grey)}.bounded{--c:var(--green)}
.keyframe{--c:var(--blue)}.audited{--c:var(--sky)}.auto{--c:var(--orange)}
.line{stroke:var(--c);fill:none;stroke-width:1.6}.dashed{stroke-dasharray:5 4}
.mark{fill:var(--c);stroke:var(--c);stroke-width:1.6}.hollow{fill:var(--back)}
"""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A plane in the picture: its place in pixels, and the milliseconds and percent at its edges."""

    left: float
    top: float
    width: float
    height: float
    ms: tuple[float, float]
    percent: tuple[float, float]

    def place(self, ms: float, percent: float) -> tuple[float, float]:
        """A measurement's place in pixels."""
        across = (ms - self.ms[0]) / (self.ms[1] - self.ms[0])
        down = (self.percent[1] - percent) / (self.percent[1] - self.percent[0])
        return self.left + across * self.width, self.top + down * self.height

    def axes(self, title: str, most: int) -> str:
        """Grid, numbers and title."""
        right, bottom = self.left + self.width, self.top + self.height
        drawn = [f'<text class="title" x="{self.left}" y="{self.top - 10}">{escaped(title)}</text>']
        for at in ticks(*self.percent, most):
            y = self.place(0, at)[1]
            drawn.append(f'<path class="grid" d="M{self.left} {y:.1f}H{right}"/>')
            drawn.append(f'<text x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick_label(at)}</text>')
        for at in ticks(*self.ms, most):
            x = self.place(at, 0)[0]
            drawn.append(f'<path class="grid" d="M{x:.1f} {self.top}V{bottom}"/>')
            drawn.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{tick_label(at)}</text>')
        return "".join(drawn)


@dataclass(slots=True)
class Labels:
    """Texts beside marks, each where it covers neither a mark nor another text; one that finds no room is left out."""

    taken: list[Box] = field(default_factory=list)

    def beside(self, x: float, y: float, text: str) -> str:
        """The text, above, below, right or left of a mark."""
        wide, away = LETTER * len(text), 8
        for left, top in (
            (x - wide / 2, y - away - LINE),
            (x - wide / 2, y + away),
            (x + away, y - LINE / 2),
            (x - away - wide, y - LINE / 2),
        ):
            box = (left, top, left + wide, top + LINE)
            if not any(_overlap(box, other) for other in self.taken):
                self.taken.append(box)
                middle = f'x="{left + wide / 2:.1f}" y="{top + 10:.1f}"'
                return f'<text class="label" text-anchor="middle" {middle}>{escaped(text)}</text>'
        return ""


def picture(told: Mapping[str, Any]) -> str:
    """What ``benchmarks.quality`` has measured, as an SVG: the first head large, the others small below."""
    first, *others = told["metrics"]
    ms = (0.0, 1.08 * max(row["ms"] for row in told["rows"].values()))
    panels = {first: Panel(LEFT, MAIN_TOP, WIDTH - LEFT - RIGHT, MAIN_HEIGHT, ms, _span(told, first))}
    wide = (WIDTH - LEFT - RIGHT - GAP * (len(others) - 1)) / max(1, len(others))
    for number, head in enumerate(others):
        panels[head] = Panel(LEFT + number * (wide + GAP), SMALL_TOP, wide, SMALL_HEIGHT, ms, _span(told, head))
    drawn = "".join(_drawn(panel, told, head, large=head == first) for head, panel in panels.items())
    height = HEIGHT if others else SMALL_TOP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>Quality against milliseconds a frame: {escaped(told['data'])}</title><style>{STYLE}</style>"
        f'<rect class="back" width="{WIDTH}" height="{height}"/>{_legend(told)}{drawn}'
        f'<text x="{WIDTH / 2}" y="{height - 14}" text-anchor="middle">milliseconds a frame, mean '
        f"({escaped(told['data'])})</text></svg>\n"
    )


def _drawn(panel: Panel, told: Mapping[str, Any], head: str, *, large: bool) -> str:
    """One head's panel; labels only where there is room for them."""
    metric = told["metrics"][head]
    title = f"{head}: {NAMES.get(metric, metric)}, %"
    drawn = [panel.axes(title, 8 if large else 4), _level(panel, told, head)]
    marks: list[tuple[float, float, str]] = []
    for family, rows in _families(told["rows"], head):
        look = LOOKS[family]
        at = [panel.place(row["ms"], 100 * row["quality"][head]["median"]) for row in rows]
        if look.joined:
            corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
            drawn.append(f'<polyline class="{look.line}" points="{corners}"/>')
        for row, (x, y) in zip(rows, at, strict=True):
            drawn.append(look.mark(x, y, 4.5 if large else 3.2, _said(row, head)))
            marks.append((x, y, row["label"] or (row["network"] if family == "off" else "")))
    if large:
        labels = Labels([(x - 5, y - 5, x + 5, y + 5) for x, y, _ in marks])
        drawn += [labels.beside(*mark) for mark in marks if mark[2]]
    return "".join(drawn)


def _families(rows: Mapping[str, Any], head: str) -> Iterator[tuple[str, list[Any]]]:
    """The cases that answer with ``head``, family by family."""
    for family in LOOKS:
        found = [row for row in rows.values() if row["family"] == family and head in row["quality"]]
        if found:
            yield family, found


def _level(panel: Panel, told: Mapping[str, Any], head: str) -> str:
    """A line at what the reference reaches, computed in full."""
    y = panel.place(0, 100 * told["rows"][told["reference"]]["quality"][head]["median"])[1]
    return f'<path class="level" d="M{panel.left} {y:.1f}H{panel.left + panel.width}"/>'


def _legend(told: Mapping[str, Any]) -> str:
    """The families that were measured, in columns."""
    measured = {row["family"] for row in told["rows"].values()}
    drawn, columns = [], 3
    for number, look in enumerate(look for family, look in LOOKS.items() if family in measured):
        x = LEFT + 11 + number % columns * (WIDTH - LEFT) / columns
        y = 22 + number // columns * 22
        if look.joined:
            drawn.append(f'<path class="{look.line}" d="M{x - 11:.1f} {y}h22"/>')
        drawn.append(look.mark(x, y, 4.5))
        drawn.append(f'<text x="{x + 17:.1f}" y="{y + 4}">{escaped(look.said)}</text>')
    return "".join(drawn)


def _said(row: Mapping[str, Any], head: str) -> str:
    """A case in words, for the pointer."""
    setting = f"{row['family']} {row['label']}".rstrip()
    return f"{row['network']}, {setting}: {100 * row['quality'][head]['median']:.1f} %, {row['ms']:.2f} ms"


def _span(told: Mapping[str, Any], head: str) -> tuple[float, float]:
    """From the least to the most percent of a head, with some room."""
    values = [100 * row["quality"][head]["median"] for row in told["rows"].values() if head in row["quality"]]
    room = 0.08 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def main() -> None:
    """Draw what was kept."""
    kept = Suite.read("quality")
    if kept is None:
        raise SystemExit(f"nothing is kept in {RESULTS}: python -m benchmarks.quality measures it")
    (RESULTS / "quality.svg").write_text(picture(kept.details))


if __name__ == "__main__":
    main()
