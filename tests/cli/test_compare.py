"""``sharedbb compare``: two engines in turns on frames decoded once, their agreement, and what is written of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sharedbb.cli.compare import WARM_UP, runs, warmed
from sharedbb.cli.comparison import COMPARISON_SCHEMA, Comparison, Side
from sharedbb.cli.worst import WorstFrames
from sharedbb.errors import SharedBBError
from sharedbb.outputs import Tags
from sharedbb.types import Frame, FrameResult, Freshness, Geometry, Size

PIPELINE = """\
version: 1
name: moving
input: {size: [64, 96], normalize: unit}
backbone: {arch: resnet18}
runtime: {device: cpu, backend: eager, precision: f32}
heads:
  look: {type: segmentation, taps: [8], classes: [a, b, c], channels: 8}
"""
STREET = "synthetic:street?motion=drive&frames=30&seed=1&size=160x96"


@pytest.fixture(scope="session")
def moving(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A pipeline whose untrained segmentation differs from frame to frame of a moving clip."""
    path = tmp_path_factory.mktemp("pipeline") / "moving.yaml"
    path.write_text(PIPELINE)
    return path


def test_the_same_settings_agree_wholly(sharedbb: Callable[..., Any], tiny: Path, clip: Path, tmp_path: Path) -> None:
    report, numbers = tmp_path / "new" / "c.html", tmp_path / "new" / "c.json"
    ended = sharedbb("compare", tiny, clip, "--max-frames", 9, "--json", numbers, "--report", report)
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(numbers.read_text())
    assert told["agreement"] == told["worst_decile"] == {"scene": 1.0, "objects": 1.0}
    assert (told["frames"], told["macs_saved"], told["macs_saved_as_time"]) == (9, 0.0, None)
    assert (told["source"], told["modes"]) == (str(clip), {"dense": 1.0})
    assert report.read_text().count("data:image") == 0
    assert "9 frames" in ended.out
    assert f"wrote {report}" in ended.out


def test_held_answers_agree_less_and_the_files_say_where(
    sharedbb: Callable[..., Any], moving: Path, tmp_path: Path
) -> None:
    report, numbers = tmp_path / "c.html", tmp_path / "c.json"
    files = ("--json", numbers, "--report", report)
    ended = sharedbb("compare", moving, STREET, "--set", "heads.look.every=3", *files, "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    told = json.loads(numbers.read_text())
    assert told.keys() == COMPARISON_SCHEMA["properties"].keys()
    for side in ("ours", "against"):
        assert told[side].keys() == COMPARISON_SCHEMA["properties"][side]["properties"].keys()
    assert told["agreement"]["look"] < 1
    assert told["worst_decile"]["look"] < told["agreement"]["look"]
    assert told["agreement"] == {name: head["agreement"] for name, head in told["heads"].items()}
    assert told["worst_decile"] == {name: head["worst_decile"] for name, head in told["heads"].items()}
    assert told["heads"]["look"]["worst_frame"] % 3 != 0
    assert told["speedup"] == pytest.approx(told["against"]["mean_ms"] / told["ours"]["mean_ms"], rel=1e-3)
    assert told["speedup_p95"] == pytest.approx(told["against"]["p95_ms"] / told["ours"]["p95_ms"], rel=1e-3)
    assert (told["ours"]["settings"], told["against"]["settings"]) == (["heads.look.every=3"], [])
    page = report.read_text()
    assert f"ours: frame {told['heads']['look']['worst_frame']}, " in page
    assert page.count("data:image/jpeg") % 3 == 0
    for said in ("heads.look.every=3", "as in the file", "Time by frame", "Head look", "where they differ"):
        assert said in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.mp4",), "no file, folder or address"),
        ((STREET, "--against", "heads.scen.every=2"), "there is no head 'scen'"),
    ],
)
def test_errors_are_one_line(
    sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = sharedbb("compare", tiny, *arguments, "--json", tmp_path / "c.json")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert message in ended.err
    assert list(tmp_path.iterdir()) == []


class Plain:
    """An engine that answers with what a function says of a frame; counts its calls in a list that is shared."""

    def __init__(self, answer: Callable[[Frame], float], calls: list[str], name: str, **facts: Any) -> None:
        heads = facts.pop("heads", {"scene": None})
        device = SimpleNamespace(device="cpu", name="eager", precision="f32")
        self.program = SimpleNamespace(name="plain", heads=heads, device=device, macs=facts.pop("macs", 1000))
        self.profiler = SimpleNamespace(reset=lambda: None)
        self.facts = facts
        self._answer, self._calls, self._name = answer, calls, name

    names = tuple("abcdefghij")

    def step(self, frame: Frame) -> FrameResult:
        self._calls.append(f"{self._name}{frame.index}")
        answers = np.arange(10) < self._answer(frame)
        tags = Tags(self.names, answers.astype(np.float32), 0.5)
        fresh = Freshness(True, 0, 0.0, "full")
        geometry = Geometry.fit(frame.size, Size(32, 32))
        return FrameResult(frame, geometry, {"scene": tags}, {"scene": fresh}, **self.facts)

    def reset(self) -> None:
        self._calls.append(f"{self._name}reset")


def sides(
    answer: Callable[[Frame], float], calls: list[str], ours: dict[str, Any] | None = None, **others: Any
) -> tuple[Side, Side]:
    engines: list[Any] = [Plain(answer, calls, "o", **(ours or {})), Plain(lambda _: 10, calls, "d", **others)]
    return Side(engines[0], ["a=1"]), Side(engines[1])


def frames(count: int) -> list[Frame]:
    return [Frame(index, index / 25, np.full((48, 64, 3), index, np.uint8)) for index in range(count)]


def test_the_two_take_turns_after_a_warm_up_that_is_forgotten() -> None:
    calls: list[str] = []
    comparison = Comparison(*sides(lambda _: 10, calls))
    comparison.warm_up(frames(2))
    assert calls == ["o0", "o1", "oreset", "d0", "d1", "dreset"]
    calls.clear()
    pairs = [pair for run in runs(frames(5), 2) for pair in comparison.take(run)]
    assert calls == ["o0", "o1", "d0", "d1", "d2", "d3", "o2", "o3", "o4", "d4"]
    assert [(ours.index, dense.index) for ours, dense in pairs] == [(index, index) for index in range(5)]
    assert len(comparison.ours.times_ms) == len(comparison.against.times_ms) == 5


def test_frames_are_read_once_and_only_when_their_turn_comes() -> None:
    read: list[int] = []

    def source() -> Iterator[Frame]:
        for frame in frames(12):
            read.append(frame.index)
            yield frame

    calls: list[str] = []
    comparison = Comparison(*sides(lambda _: 10, calls))
    for run in runs(warmed(comparison, source()), 3):
        assert read == list(range(max(run[-1].index + 1, WARM_UP)))
        comparison.take(run)
    assert list(comparison.numbers) == list(range(12))


def test_what_breaks_the_source_comes_after_the_frames_before_it() -> None:
    def source() -> Iterator[Frame]:
        yield from frames(5)
        raise SharedBBError("torn cable")

    found = runs(source(), 4)
    assert [len(next(found)), len(next(found))] == [4, 1]
    with pytest.raises(SharedBBError, match="torn cable"):
        next(found)
    assert [len(run) for run in runs(frames(8), 4)] == [4, 4]
    assert not list(runs([], 4))


def test_work_saved_and_what_became_of_it() -> None:
    ours, against = sides(lambda _: 10, [], {"mode": "bounded", "work": 0.25})
    comparison = Comparison(ours, against)
    comparison.take(frames(4))
    for place in range(4):
        ours.times_ms[place], against.times_ms[place] = 5.0, 10.0
    told = comparison.to_dict("clip")
    assert (told["speedup"], told["macs_saved"]) == (2.0, 0.75)
    assert told["macs_saved_as_time"] == pytest.approx(0.5 / 0.75, rel=1e-5)
    assert (told["modes"], told["against"]["modes"]) == ({"bounded": 1.0}, {"dense": 1.0})
    assert (told["source"], told["ours"]["work"]) == ("clip", 0.25)


def test_a_smaller_network_does_without_multiply_adds_too() -> None:
    comparison = Comparison(*sides(lambda _: 10, [], {"work": 0.5, "macs": 500}))
    comparison.take(frames(2))
    assert comparison.to_dict()["macs_saved"] == 0.75


def test_the_worst_frame_is_the_worst_and_its_pictures_are_kept() -> None:
    present = np.random.default_rng(3).integers(2, 10, 60)
    present[47] = 1
    comparison = Comparison(*sides(lambda frame: present[frame.index], []), WorstFrames(kept=3, apart=5))
    for run in runs(frames(60)):
        comparison.take(run)
    told = comparison.to_dict()
    shares = 2 * present / (present + 10)
    assert told["heads"]["scene"]["worst_frame"] == 47
    assert told["worst_decile"]["scene"] == pytest.approx(np.sort(shares)[: math.ceil(6)].mean(), abs=1e-6)
    assert comparison.worst is not None
    shots = comparison.worst.of("scene")
    assert shots[0].frame == 47
    assert [shot.share for shot in shots] == sorted(shot.share for shot in shots)
    assert len(shots) == 3
    assert all(picture.startswith(b"\xff\xd8\xff") for picture in shots[0].pictures)


def test_of_neighbours_only_the_worst_is_kept_and_of_equal_answers_none() -> None:
    present = [10, 9, 8, 7, 8, 9, 10, 10, 10, 10, 10, 10, 6, 10]
    comparison = Comparison(*sides(lambda frame: present[frame.index], []), WorstFrames(kept=4, apart=4))
    comparison.take(frames(len(present)))
    assert comparison.worst is not None
    assert [shot.frame for shot in comparison.worst.of("scene")] == [12, 3]
    assert comparison.worst.of("other") == ()


def test_heads_that_cannot_be_compared() -> None:
    ours, against = sides(lambda _: 10, [])
    vars(against.engine)["names"] = tuple("zbcdefghij")
    with pytest.raises(SharedBBError, match=r"head scene: answers about a, b, .* with those about z, b"):
        Comparison(ours, against).take(frames(1))


def test_two_without_a_common_head() -> None:
    with pytest.raises(SharedBBError, match="no head in common: scene here, road there"):
        Comparison(*sides(lambda _: 10, [], heads={"road": None}))
