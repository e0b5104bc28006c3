"""The demos run, and print what they promise."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

DEMOS = Path(__file__).parents[2] / "demos"

PIPELINE = """
name: tiny
input: {size: [64, 96], normalize: unit}
backbone: {arch: mobilenet_v3_small}
heads:
  objects: {type: detection, taps: [16], classes: [car], channels: 8}
  surface: {type: segmentation, taps: [8], classes: [a, b, c], channels: 8}
runtime: {device: cpu, backend: eager}
"""


def _run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(DEMOS / name), run_name="__main__")


def test_merge_networks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _run(monkeypatch, "merge_networks.py", "--size", "64", "96")
    said = capsys.readouterr().out
    assert "bit-equal: True" in said
    assert "mood leaves kind at mood/2" in said
    assert "area leaves kind at area/0.7.1" in said


def test_robot_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pipeline = tmp_path / "tiny.yaml"
    pipeline.write_text(PIPELINE)
    _run(monkeypatch, "robot_loop.py", str(pipeline), "synthetic:street?frames=9&size=96x64", "--frames", "5")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].endswith("surface 0 frames old")
    assert "could be done" in lines[-1]
