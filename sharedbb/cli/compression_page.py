"""A compression as one HTML file: what each step brought and took, what was refused, and pictures before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sharedbb.cli.compression_table import (
    FATES,
    Told,
    about_predictions,
    macs,
    on_test_set,
    predicted,
    sentences,
    size,
    speeds,
    step_name,
    times,
    worst,
)
from sharedbb.profiling.markup import escaped, rate, ticks
from sharedbb.profiling.page import facts, headline, legend, listed, page, pairs, scale_of, section
from sharedbb.profiling.plot import HEIGHT, SHORT_TOP, plot, x_axis, y_tick


def compression_page(told: Told, pictures: Sequence[tuple[str, bytes]] = ()) -> str:
    """The page as text; ``pictures``: captions and JPEGs of answers, before and after in turns."""
    refused = sum(row["fate"] in ("broken", "slower") for row in told["rows"])
    return page(
        title=f"{told['pipeline']} · compression",
        heading=told["pipeline"],
        subtitle=f"{len(told['recipe']['steps'])} steps · {refused} refused · {told['recipe']['data']['train']}",
        numbers=_headline(told),
        body=[
            section("Steps", _steps(told), f"{_STEPS_NOTE} {about_predictions(told)}"),
            section("Quality against speed", _pareto(told["rows"]), _PARETO_NOTE),
            section("Heads, step by step", _heads(told["rows"]), _HEADS_NOTE),
            section("Heads on the test set", _tested(told)),
            section("What the steps say", listed(f"{name}: {sentence}" for name, sentence in sentences(told["rows"]))),
            section("Before and after", pairs(pictures)),
            section("Environment", _environment(told)),
        ],
        footer=f"Artifact digest {told['digest']}",
    )


_STEPS_NOTE = (
    "In the order they were tried. Speed is against the untouched network, measured in turns; –: not measured."
)
_PARETO_NOTE = (
    "The worst head's share of its quality over how many times as fast the network is, or how many times fewer "
    "multiply-adds it takes, where speed was not measured. The line joins those that none beats in both."
)
_HEADS_NOTE = "The headline metric of each head on the validation set; in brackets, the share of what it was."


def _headline(told: Told) -> str:
    first, last = told["rows"][0], _result(told)
    kept = {head: share for head, _, _, share in on_test_set(told)}
    head, share = worst(kept)
    return headline(
        [
            ("speed", f"{rate(told['speed'][0]['ratio'])}×" if told["speed"] else "not measured"),
            ("multiply-adds", f"{macs(first['macs'])} → {macs(last['macs'])}"),
            ("parameters", f"{rate(first['parameters'] / last['parameters'])}× fewer"),
            ("size", f"{size(first['bytes'])} → {size(last['bytes'])}"),
            (f"worst head, {head}", _percent(share)),
            ("heads on test, mean", _percent(sum(kept.values()) / len(kept))),
        ]
    )


def _result(told: Told) -> Told:
    """The last row that was kept."""
    found: Told = [row for row in told["rows"] if row["fate"] == "kept"][-1]
    return found


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _table(names: Sequence[str], rows: Sequence[tuple[bool, Sequence[str]]]) -> str:
    """A table whose cells are HTML; rows that were not kept stand back."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in names)
    body = "".join(
        f'<tr{"" if kept else " class=rest"}><th scope="row">{cells[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells[1:])
        + "</tr>"
        for kept, cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _steps(told: Told) -> str:
    names = ("Step", "size", "multiply-adds", "speed", "predicted", "worst head", "")
    return _table(names, [(row["fate"] == "kept", _step_cells(row)) for row in told["rows"]])


def _step_cells(row: Told) -> list[str]:
    head, share = worst(row["relative"])
    measured = f"<small>{escaped(speeds(row))}</small>" if row["speed"] else ""
    return [
        f"{escaped(step_name(row))}{measured}",
        size(row["bytes"]),
        macs(row["macs"]),
        times(row["speedup"]),
        predicted(row) or "–",
        f"{escaped(head)} {_percent(share)}",
        FATES[row["fate"]],
    ]


def _heads(rows: Sequence[Told]) -> str:
    heads = [*rows[0]["quality"]]
    return _table(
        ["Step", *heads],
        [
            (
                row["fate"] == "kept",
                [
                    escaped(step_name(row)),
                    *(f"{row['quality'][head]['headline']:.4f} ({_percent(row['relative'][head])})" for head in heads),
                ],
            )
            for row in rows
        ],
    )


def _tested(told: Told) -> str:
    rows = [(head, f"{was:.4f}", f"{now:.4f}", _percent(share)) for head, was, now, share in on_test_set(told)]
    return _table(("Head", "before", "after", "kept"), [(True, [escaped(head), *rest]) for head, *rest in rows])


def _pareto(rows: Sequence[Told]) -> str:
    """Quality of the worst head over speed, one dot for each network; over multiply-adds where none was measured."""
    measured = any(row["speed"] for row in rows) and all(row["speedup"] is not None for row in rows)
    across = [row["speedup"] if measured else rows[0]["macs"] / row["macs"] for row in rows]
    down = [worst(row["relative"])[1] for row in rows]
    low, high = scale_of(down)
    left, right = 0.95 * min(across), 1.05 * max(across)
    places = [
        (100 * (x - left) / (right - left), 1 - (y - low) / (high - low)) for x, y in zip(across, down, strict=True)
    ]
    front = sorted(places[at] for at in undominated(list(zip(across, down, strict=True))))
    line = "".join(
        f'<line class="mean" x1="{a[0]:.2f}%" y1="{_y(a[1]):.1f}" x2="{b[0]:.2f}%" y2="{_y(b[1]):.1f}"></line>'
        for a, b in pairwise(front)
    )
    dots = "".join(_dot(row, place, x, y) for row, place, x, y in zip(rows, places, across, down, strict=True))
    grid = "".join(y_tick(_percent(at), (high - at) / (high - low), SHORT_TOP) for at in ticks(low, high, 4))
    against = "speed" if measured else "multiply-adds saved"
    label = f"Quality of the worst head against {against}, {len(rows)} networks"
    chart = plot(label, grid + line + dots + x_axis(left, right, "×", SHORT_TOP), SHORT_TOP)
    return chart + legend([("full", "kept"), ("failed", "refused"), ("reused", "replaced by a stronger one")])


def _y(place: float) -> float:
    return SHORT_TOP + HEIGHT * place


def _dot(row: Told, place: tuple[float, float], x: float, y: float) -> str:
    style = {"kept": "full", "replaced": "reused"}.get(row["fate"], "failed")
    text = escaped(f"{step_name(row)}: {x:.2f}×, worst head {_percent(y)}, {FATES[row['fate']]}")
    return (
        f'<rect class="{style}" x="{place[0]:.2f}%" y="{_y(place[1]):.1f}" width="10" height="10" rx="5"'
        f' transform="translate(-5 -5)"><title>{text}</title></rect>'
    )


def undominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other equals or beats in both coordinates while beating it in one."""
    return [
        at for at, (x, y) in enumerate(points) if not any(u >= x and v >= y and (u > x or v > y) for u, v in points)
    ]


def _environment(told: Told) -> str:
    recipe: Mapping[str, Any] = told["recipe"]
    floors = "; ".join(f"{one['head']} {one['metric']} ≥ {one['least']:.4f} ({one['bound']})" for one in told["floors"])
    known = {"pipeline": recipe["pipeline"], "floors": floors, "measured on": speeds(told), "seed": str(recipe["seed"])}
    return facts({**known, "machine": told.get("machine", ""), **told.get("versions", {})})
