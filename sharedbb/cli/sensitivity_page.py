"""Sensitivity as one HTML file: for each method a heat map of layers against heads, and the layers that matter most."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from sharedbb.compress.sensitivity import Sensitivity, Trial
from sharedbb.profiling.charts import bar
from sharedbb.profiling.markup import escaped, percent
from sharedbb.profiling.page import headline, page, section, share_cell

WORST_FALL = 0.25
"""A fall that is shown in full colour, as are those beyond."""

TOLERATED = 0.02
"""The fall up to which the page says what layers bear."""

LISTED = 20
"""Layers in the table."""

ROW = 18  # pixels

NOTES = {
    "prune": "A share of the layer's channels, those of the least L2 norm, is 0.",
    "quantize": "The layer's weights and what it reads are rounded to so many bits.",
    "cluster": "The layer's weights take as few values as so many bits can tell apart.",
}


def strength_name(method: str, strength: float) -> str:
    """A strength as people say it: ``prune 50 %``, ``quantize 4 bits``."""
    return f"{method} {_amount(method, strength)}"


def _amount(method: str, strength: float) -> str:
    return percent(strength) if method == "prune" else f"{strength:.0f} bits"


def sensitivity_page(found: Sensitivity, source: str) -> str:
    """The page as text; ``source`` is the set that was measured on."""
    return page(
        title=f"{found.pipeline} · sensitivity",
        heading=found.pipeline,
        subtitle=f"Sensitivity of {len(found.layers)} layers · {source} · {found.pictures} pictures",
        numbers=headline(_numbers(found)),
        body=[
            *(section(method.capitalize(), _heat_map(found, method), _note(method)) for method in found.methods),
            section("Layers that matter most", _table(found), "By the falls of the worst head, all methods together."),
        ],
        footer="Each layer is changed alone; agreement is with the unchanged network.",
    )


def _numbers(found: Sensitivity) -> list[tuple[str, str]]:
    """Of each method: how many layers bear its strongest form, and its gentlest."""
    numbers = []
    for method in found.methods:
        borne = list(found.tolerated(method, TOLERATED).values())
        strengths = [trial.strength for trial in found.of(found.layers[0].name, method)]
        counts = {strengths[0]: sum(one is not None for one in borne), strengths[-1]: borne.count(strengths[-1])}
        for strength, count in counts.items():
            numbers.append((f"layers bear {strength_name(method, strength)}", f"{count} of {len(borne)}"))
    return numbers


def _note(method: str) -> str:
    return f"{NOTES[method]} Layers from left to right as they run; the darker, the further a head falls."


def _heat_map(found: Sensitivity, method: str) -> str:
    """A row for each head and strength, a cell for each layer."""
    columns = [found.of(layer.name, method) for layer in found.layers]
    first = columns[0] if columns else ()
    rows = [
        _row([column[place] for column in columns], head, _amount(method, trial.strength))
        for head in (first[0].quality if first else ())
        for place, trial in enumerate(first)
    ]
    return f'<ol class="timeline">{"".join(rows)}</ol>'


def _row(trials: Sequence[Trial], head: str, strength: str) -> str:
    """One head at one strength over all layers."""
    width = 100 / len(trials)
    cells = "".join(
        f'<rect x="{place * width:.3f}%" width="{width:.3f}%" height="{ROW}" style="fill:var(--bad);'
        f'fill-opacity:{_opacity(1 - trial.quality[head]):.2f}"><title>{escaped(trial.layer)}, {escaped(strength)}: '
        f"{escaped(head)} {percent(trial.quality[head])}</title></rect>"
        for place, trial in enumerate(trials)
    )
    name, least = f"{head} · {strength}", min(trial.quality[head] for trial in trials)
    return (
        f'<li><span class="name" title="{escaped(name)}">{escaped(name)}</span>'
        f'<svg height="{ROW}" role="img" aria-label="{escaped(name)}"><rect class="rail" width="100%" height="{ROW}">'
        f'</rect>{cells}</svg><span class="value" title="least agreement">{percent(least)}</span></li>'
    )


def _opacity(fall: float) -> float:
    """The square root, so that falls of a few percent can be seen."""
    return float(min(max(fall, 0.0) / WORST_FALL, 1.0) ** 0.5)


def _table(found: Sensitivity) -> str:
    means = {layer.name: fmean(trial.fall for trial in found.of(layer.name)) for layer in found.layers}
    ranked = sorted(found.layers, key=lambda layer: -means[layer.name])[:LISTED]
    rows = "".join(
        f'<tr><th scope="row" title="{escaped(layer.name)}">{escaped(layer.name)}</th>'
        f"{share_cell(means[layer.name], bar([(means[layer.name], 'dropped')], layer.name))}"
        f"<td>{layer.macs / 1e6:.1f} M</td><td>{layer.parameters:,}</td></tr>"
        for layer in ranked
    )
    return (
        '<table class="stages"><thead><tr><th scope="col">Layer</th><th scope="col" class="share">mean fall</th>'
        f'<th scope="col">multiply-adds</th><th scope="col">weights</th></tr></thead><tbody>{rows}</tbody></table>'
    )
