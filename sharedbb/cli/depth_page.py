"""How deep to share, as one HTML file: quality against cost, and each head depth by depth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sharedbb.cli.compression_table import macs
from sharedbb.cli.depth_table import Told, chosen, fate, milliseconds, row_name, worst
from sharedbb.profiling.markup import escaped, rate, ticks
from sharedbb.profiling.page import facts, headline, legend, listed, page, scale_of, section
from sharedbb.profiling.plot import HEIGHT, SHORT_TOP, anchor, plot, x_axis, y_tick

Point = tuple[float, float]
"""Place in a plane: to the right in percent of the chart's width, downwards from 0 to 1."""


def depth_page(told: Told) -> str:
    """The page as text."""
    heads = [name for names in told["specialists"].values() for name in names]
    return page(
        title=f"{told['pipeline']} · how deep to share",
        heading=told["pipeline"],
        subtitle=f"{_specialists(told)} for {', '.join(heads)} · {told['data']}",
        numbers=_headline(told),
        body=[
            section("Quality against cost", _against_cost(told), _COST_NOTE),
            section("Depth by depth", _table(told), _TABLE_NOTE),
            section("Head by head", _heads(told), _HEADS_NOTE),
            section("Of the pictures", listed(told["said"])),
            section("Environment", _environment(told)),
        ],
        footer="Quality is on the validation set.",
    )


_COST_NOTE = (
    "What the worst head keeps of its specialist's quality, over what a frame costs. Each dot is one network with all "
    "specialists' heads; the line joins those that none beats in both."
)
_TABLE_NOTE = "The headline metric of each head; in brackets, what that is of its specialist's."
_HEADS_NOTE = "What each head keeps of its specialist's quality at each depth; the dashed line is its floor."


def _specialists(told: Told) -> str:
    count = len(told["specialists"])
    return f"{count} specialist{'s' if count > 1 else ''}"


def _headline(told: Told) -> str:
    apart, found = told["rows"][0], chosen(told)
    head, share = worst(told, found)
    speed = f"{rate(apart['ms'] / found['ms'])}× as fast" if found["ms"] else "not measured"
    return headline(
        [
            ("speed", speed),
            ("multiply-adds", f"{macs(apart['macs'])} → {macs(found['macs'])}"),
            ("parameters", f"{rate(apart['parameters'] / found['parameters'])}× fewer"),
            (f"worst head, {head}", _percent(share)),
            ("shared", row_name(found)),
            ("networks compared", str(len(told["rows"]))),
        ]
    )


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _table(told: Told) -> str:
    heads = list(told["floors"])
    names = ("Shared", "multiply-adds", "frame", "parameters", *heads, "")
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in names)
    body = "".join(
        f'<tr{"" if row["holds"] else " class=rest"}><th scope="row">{escaped(row_name(row))}</th>'
        f"<td>{macs(row['macs'])}</td><td>{milliseconds(row)}</td><td>{macs(row['parameters'])}</td>"
        + "".join(_kept(row["quality"][name]) for name in heads)
        + f"<td>{escaped(fate(told, row))}</td></tr>"
        for row in told["rows"]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _kept(quality: Told) -> str:
    return f"<td>{quality['headline']:.4f} ({_percent(quality['share'])})</td>"


def _against_cost(told: Told) -> str:
    """The worst head's share over milliseconds, or over multiply-adds where nothing was timed."""
    rows = told["rows"]
    timed = rows[0]["ms"] is not None
    across = [row["ms"] if timed else row["macs"] / 1e9 for row in rows]
    down = [worst(told, row)[1] for row in rows]
    low, high = scale_of(down)
    left, right = 0.9 * min(across), 1.06 * max(across)
    places = [(100 * (x - left) / (right - left), (high - y) / (high - low)) for x, y in zip(across, down, strict=True)]
    front = sorted(places[at] for at in undominated(list(zip(across, down, strict=True))))
    label = f"Quality of the worst head against {'milliseconds' if timed else 'multiply-adds'}, {len(rows)} networks"
    content = [
        *(y_tick(_percent(at), (high - at) / (high - low), SHORT_TOP) for at in ticks(low, high, 4)),
        *(_line("mean", a, b) for a, b in pairwise(front)),
        *(_dot(told, row, place, worst(told, row)[1]) for row, place in zip(rows, places, strict=True)),
        *(_label("chosen" if row is chosen(told) else row_name(row), at) for row, at in zip(rows, places, strict=True)),
        x_axis(left, right, "ms" if timed else "G multiply-adds", SHORT_TOP),
    ]
    return plot(label, "".join(content), SHORT_TOP) + _LEGEND


_LEGEND = legend([("full", "chosen"), ("partial", "every floor holds"), ("failed", "below a floor")])


def _heads(told: Told) -> str:
    """A chart for each head of a specialist: its share over the depths, evenly spaced."""
    rows = [row for row in told["rows"] if row["depth"] is not None]
    charts = [_head(told, rows, owner, head) for owner, heads in told["specialists"].items() for head in heads]
    return f'<div class="pair">{"".join(charts)}</div>{_LEGEND}'


def _head(told: Told, rows: Sequence[Told], owner: str, head: str) -> str:
    floor, taken = told["floors"][head], chosen(told)["depths"][owner]
    shares = [row["quality"][head]["share"] for row in rows]
    low, high = scale_of([*shares, floor])
    places = [
        (100 * (number + 0.8) / (len(rows) + 0.4), (high - share) / (high - low)) for number, share in enumerate(shares)
    ]
    at = (high - floor) / (high - low)
    content = [
        *(y_tick(_percent(tick), (high - tick) / (high - low), SHORT_TOP) for tick in ticks(low, high, 3)),
        f'<g class="p95">{_line("", (0, at), (100, at))}</g>',
        *(_line("mean", a, b) for a, b in pairwise(places)),
    ]
    for row, place, share in zip(rows, places, shares, strict=True):
        style = "full" if row["depth"] == taken else "partial" if share >= floor else "failed"
        content.append(_mark(style, place, f"{head}, {row_name(row)}: {_percent(share)}"))
        x, name = place[0], escaped(row_name(row).removeprefix("up to "))
        content.append(f'<text x="{x:.2f}%" y="{SHORT_TOP + HEIGHT + 18}" text-anchor="middle">{name}</text>')
    chart = plot(f"{head}, what it keeps at {len(rows)} depths", "".join(content), SHORT_TOP)
    return f"<figure>{chart}<figcaption>{escaped(head)} of {escaped(owner)}</figcaption></figure>"


def _y(place: float) -> float:
    return SHORT_TOP + HEIGHT * place


def _line(style: str, a: Point, b: Point) -> str:
    ends = f'x1="{a[0]:.2f}%" y1="{_y(a[1]):.1f}" x2="{b[0]:.2f}%" y2="{_y(b[1]):.1f}"'
    return f'<line class="{style}" {ends}></line>'


def _dot(told: Told, row: Told, place: Point, share: float) -> str:
    style = "full" if row is chosen(told) else "partial" if row["holds"] else "failed"
    cost = f"{macs(row['macs'])} multiply-adds, {milliseconds(row)}"
    return _mark(style, place, f"{row_name(row)}: {cost}, worst head {_percent(share)}, {fate(told, row)}")


def _mark(style: str, place: Point, title: str) -> str:
    return (
        f'<rect class="{style}" x="{place[0]:.2f}%" y="{_y(place[1]):.1f}" width="10" height="10" rx="5"'
        f' transform="translate(-5 -5)"><title>{escaped(title)}</title></rect>'
    )


def _label(text: str, place: Point) -> str:
    """The name of a dot, below it, or above it where the axis is."""
    below = _y(place[1]) + 20
    y = below if below <= _y(1) else below - 32
    at = f'x="{place[0]:.2f}%" y="{y:.1f}" text-anchor="{anchor(place[0] / 100)}"'
    return f"<text {at}>{escaped(text)}</text>"


def undominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, quality) that no other equals or beats in both while beating it in one."""
    return [
        at for at, (x, y) in enumerate(points) if not any(u <= x and v >= y and (u < x or v > y) for u, v in points)
    ]


def _environment(told: Told) -> str:
    floors = ", ".join(f"{head} {floor:g}" for head, floor in told["floors"].items())
    course = told["course"]
    length = f"{course['steps']} steps" if course["steps"] is not None else f"{course['minutes']:g} minutes"
    training = f"{length} of {course['batch']} pictures, learning rate {course['lr']:g}, seed {course['seed']}"
    known = {"floors": floors, "each training": training, "machine": told["machine"]}
    return facts({**known, **told["versions"]})
