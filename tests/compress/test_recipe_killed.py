"""Recipes in a process that is really killed, at several moments, and run again: the artifact is the same."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")

PIPELINE = """\
name: plain
input: {size: [32, 64], normalize: unit}
backbone: {arch: two_layers}
heads: {surface: {type: segmentation, taps: [4], classes: [sky, road], channels: 8}}
"""

RECIPE = """\
pipeline: plain.yaml
data: {train: "synthetic:street?frames=10&seed=1", calibrate: 2}
steps:
  - {type: prune, method: magnitude, amount: 0.3}
  - {type: finetune, steps: 16, batch: 2, crop: [32, 32]}
  - {type: code, bits: 8}
measure: []
"""

PROGRAM = """
import os, sys
from importlib import import_module
import torch
from torch import nn
from sharedbb.learn.network import Network
from sharedbb.compress.recipe import run
from sharedbb.registry import register_backbone
from sharedbb.spec.recipe import load_recipe

class TwoLayers(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.channels = {4: 8}
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 8, 2, 2), nn.BatchNorm2d(8))
        for place, weight in enumerate(self.layers.parameters()):
            nn.init.normal_(weight, 0.0, 0.3, generator=torch.Generator().manual_seed(place))

    def forward(self, image):
        return {4: self.layers(image)}

torch.set_num_threads(1)
register_backbone("two_layers", TwoLayers, strides=(4,))
import_module("sharedbb.compress.finetune").SAVED_EVERY_S = 0.0
assert Network.of("plain.yaml").macs  # what capturing imports is there before the first fork, too
for folder in map(str.strip, sys.stdin):
    child = os.fork()
    if child == 0:
        try:
            print(os.getpid(), flush=True)
            result = run(load_recipe("recipe.yaml"), folder, watch=lambda doing, share: print(doing, flush=True))
            result.save(result.result.entry.folder.parent / "out.sbb")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""
"""Runs the recipe in each folder that it reads the name of, in a fork of its own: importing everything takes longer."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of the recipe, in processes that say what they are doing."""

    folders: IO[str]
    said: IO[str]

    def run(self, work: Path, *, killed_at: str | None = None) -> list[str]:
        """What a run said; with ``killed_at``, it was killed as it had said so."""
        print(work, file=self.folders, flush=True)
        process, words = int(self.said.readline()), list[str]()
        while (line := self.said.readline()) not in ("ended\n", ""):
            words.append(line.strip())
            if killed_at and words[-1].startswith(killed_at):
                os.kill(process, signal.SIGKILL)
                killed_at = None
        return words


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    (tmp_path / "plain.yaml").write_text(PIPELINE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with _program(tmp_path) as runs:
        yield runs


@contextmanager
def _program(folder: Path) -> Iterator[Runs]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=folder, **pipes) as process:  # type: ignore[call-overload]
        yield Runs(process.stdin, process.stdout)


def _steps(words: list[str]) -> list[int]:
    """Which steps of the training were told."""
    return [int(found[1]) for word in words if (found := re.match(r"training, step (\d+)", word))]


MOMENTS = ("reading the network", "prune", "training, step 2,", "training, step 7,", "code", "judging on test")


def test_killed_at_many_moments_and_run_again_the_artifact_is_the_same(runs: Runs, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _steps(runs.run(whole)) == [*range(1, 17)]
    trained = []
    for moment in MOMENTS:
        trained.append(_steps(runs.run(killed, killed_at=moment)))
        assert not (killed / "out.sbb").exists()
    runs.run(killed)
    assert (killed / "out.sbb").read_bytes() == (whole / "out.sbb").read_bytes()
    begun, resumed, again = (steps for steps in trained if steps)
    assert begun[0] == 1
    assert resumed[0] > 1  # from a checkpoint on
    assert again[0] > resumed[0]
    assert not [*killed.glob("*.part")]
