"""``sharedbb sensitivity``: the table, the JSON that recipes read, and the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharedbb.cli.sensitivity_page import sensitivity_page, strength_name
from sharedbb.compress.sensitivity import Layer, Sensitivity, Trial

STREET = "synthetic:street?frames=10&seed=1&size=160x96"


def test_layers_are_measured_and_written(sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    numbers, report = tmp_path / "new" / "s.json", tmp_path / "new" / "s.html"
    layers = ("--layer", "heads.scene.predict", "--layer", "heads.objects.tower.pointwise")
    files = ("--json", numbers, "--report", report)
    asked = ("--data", STREET, "--part", "train", "--pictures", 2, "--methods", "prune, quantize", *layers)
    ended = sharedbb("sensitivity", tiny, *asked, *files)
    assert (ended.code, ended.err) == (0, "")
    found = Sensitivity.load(numbers)
    assert {layer.name for layer in found.layers} == set(layers[1::2])
    assert (found.pictures, found.methods) == (2, ("prune", "quantize"))
    assert len(found.trials) == 2 * (3 + 2)
    assert "heads.scene.predict" in report.read_text()
    assert f"wrote {report}" in "".join(ended.out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "shrink"), "no method 'shrink' to measure (there are: prune, quantize, cluster)"),
        (("--layer", "heads.scene.predicted"), "did you mean 'heads.scene.predict'?"),
        (("--part", "tset"), "has no pictures for 'tset'"),
    ],
)
def test_errors_are_one_line(
    sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    numbers = tmp_path / "s.json"
    ended = sharedbb("sensitivity", tiny, "--data", STREET, "--part", "train", *arguments, "--json", numbers)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert message in ended.err
    assert list(tmp_path.iterdir()) == []


def test_the_page_has_a_cell_for_every_layer_head_and_strength() -> None:
    layers = tuple(Layer(name, "conv2d", 1234, 5_600_000) for name in ("a<b", "c"))
    trials = [
        Trial(layer.name, method, strength, {"look": 1 - fall, "scene": 1.0})
        for layer, fall in zip(layers, (0.25, 0.01), strict=True)
        for method, strength in (("prune", 0.5), ("quantize", 8), ("quantize", 4))
    ]
    text = sensitivity_page(Sensitivity("tiny", 3, layers, tuple(trials)), "noise")
    assert text.count("var(--bad);fill-opacity:") == 2 * 2 * 3
    assert text.count("fill-opacity:1.00") == 3
    assert text.count("fill-opacity:0.20") == 3
    assert text.count("fill-opacity:0.00") == 6
    assert "a&lt;b, 4 bits: look 75 %" in text
    assert "a<b" not in text
    assert re.search(r"layers bear prune 50 %</dt><dd>1 of 2", text)
    assert text.index("a&lt;b</th>") < text.index("c</th>")


def test_strengths_are_said_in_their_units() -> None:
    assert strength_name("prune", 0.25) == "prune 25 %"
    assert strength_name("cluster", 4.0) == "cluster 4 bits"
