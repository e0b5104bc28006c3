"""Memory of processes: what a case runs, what is made of what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from torch import nn

import sharedbb as sb
from benchmarks import memory, memory_case, networks
from benchmarks.memory import CACHED, FIRST, MERGED, MODES, NOTHING, OURS, SEPARATE, STREAMS, Held, Programs
from sharedbb.types import Normalization


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "three.mp4"
    with sb.VideoSink(path) as sink:
        for level in (0, 100, 200):
            sink.write(np.full((64, 96, 3), level, np.uint8))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.xml"
    network = nn.Conv2d(3, 2, 1).eval()
    ov.save_model(networks.openvino_model(network, Normalization((0, 0, 0), (1, 1, 1)), (1, 3, 8, 12)), path)
    return path


def held(steady: float, peak: float | None = None) -> Held:
    return Held({10: steady - 1, 20: steady}, peak, steady / 2)


class TestCase:
    def test_a_clip_is_decoded_again_and_again(self, clip: Path) -> None:
        levels = [int(frame.to_ndarray(format="gray").mean()) for frame in islice(memory_case.decoded(str(clip)), 7)]
        assert levels[:3] == levels[3:6]
        assert levels[0] < levels[1] < levels[2]

    def test_it_says_what_is_resident_as_it_goes(self, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
        memory_case.main(json.dumps({"kind": "nothing", "clip": str(clip), "frames": 20}))
        found = Held.of(capsys.readouterr().out)
        assert list(found.resident) == list(range(2, 21, 2))
        assert found.peak is None or found.peak >= found.own > 0

    def test_networks_see_every_frame_at_their_size(self, clip: Path, model: Path) -> None:
        def check() -> None:
            step = memory_case.openvino({"models": [str(model)], "precision": "f32", "cache": ""})
            plain = ov.Core().compile_model(str(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            for number, frame in enumerate(islice(memory_case.decoded(str(clip)), 3)):
                (found,) = step(frame, number)
                expected = plain([frame.reformat(width=12, height=8, format="rgb24").to_ndarray()[None]])
                assert found[0].shape == (1, 2, 8, 12)
                assert np.allclose(found[0], expected[0], atol=1e-4)

        # Not in the main thread: this network leaves the processor's tile registers in use, and where a library has set
        # up a small stack for signals, Linux then kills a process that gets one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(check).result()

    def test_every_stream_sees_every_frame(self, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[str, float]] = []

        class Recording:
            def step(self, frame: Any, *, stream: str, timestamp: float) -> None:
                seen.append((stream, timestamp))

        monkeypatch.setattr(sb, "load", lambda path, changes: changes)
        monkeypatch.setattr(sb, "compile", lambda pipeline, profile: Recording())
        step = memory_case.engine({"pipeline": "p", "changes": [], "streams": 2})
        for number in (1, 2):
            step(None, number)
        assert seen == [("camera 0", 0.04), ("camera 1", 0.04), ("camera 0", 0.08), ("camera 1", 0.08)]

    def test_what_is_not_needed_is_not_imported(self) -> None:
        code = "import benchmarks.memory_case, sys; print({'torch', 'openvino', 'sharedbb'} & {*sys.modules})"
        done = subprocess.run([sys.executable, "-c", code], cwd=memory.ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"


class TestHeld:
    def test_of_what_a_case_says(self) -> None:
        found = Held.of('a word\n{"resident": {"20": 50.0, "200": 57.5}, "peak": 80.0, "own": 30.0}\n')
        assert (found.steady, found.growth, found.peak) == (57.5, 7.5, 80.0)
        assert found.row() == {"resident MiB": 57.5, "peak MiB": 80.0, "own MiB": 30.0}


class TestPrograms:
    @pytest.fixture
    def found(self, clip: Path, tmp_path: Path) -> Programs:
        return Programs(clip, tmp_path, "f32", 10)

    def test_a_process_of_its_own(self, found: Programs) -> None:
        assert 0 < found.run({"kind": "nothing"}).steady < 200

    def test_one_that_fails_says_why(self, found: Programs) -> None:
        with pytest.raises(RuntimeError, match=r"openvino failed: .*\w"):
            found.run(found.openvino([found.folder / "absent.xml"]))

    def test_a_mode_is_one_of_the_changes(self, found: Programs) -> None:
        assert "reuse.mode=exact" in found.engine(mode="exact")["changes"]

    def test_every_case_runs_after_its_cache_is_filled(self, found: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
        runs: list[tuple[int, str]] = []

        def run(self: Programs, case: dict[str, Any], *, cache: str = "engine") -> Held:
            runs.append((self.frames, json.dumps([{**case, "streams": 1}, cache], sort_keys=True)))
            return held(1.0)

        monkeypatch.setattr(Programs, "run", run)
        files = {MERGED: [Path("m.xml")], SEPARATE: [Path("a.xml"), Path("b.xml")]}
        names = [name for name, _ in memory.programs(found, files, STREAMS)]
        assert len(names) == len(set(names)) == 3 + len(STREAMS) - 1 + len(MODES) + 4
        prepared = [case for frames, case in runs if frames == memory.PREPARING]
        for case in prepared:
            assert runs.index((memory.PREPARING, case)) < runs.index((10, case))

    def test_files_on_disk(self, model: Path, tmp_path: Path) -> None:
        found = memory.sizes({SEPARATE: [model]}, tmp_path)
        both = model.stat().st_size + model.with_suffix(".bin").stat().st_size
        assert found[SEPARATE] == round(both / 2**20, 2)
        assert found["sharedbb, artifact"] > 1


def test_numbers() -> None:
    processes = {
        NOTHING: held(50.0),
        OURS: held(200.0, 220.0),
        FIRST: held(900.0, 1100.0),
        **{memory.stream_case(count): held(200.0 + 10 * (count - 1)) for count in STREAMS[1:]},
        **{f"{OURS}, reuse {mode}": held(260.0) for mode in MODES},
        **{case: held(300.0) for case in (MERGED, MERGED + CACHED, SEPARATE + CACHED)},
        SEPARATE: held(500.0),
    }
    numbers = memory.numbers_of(processes, {"off": held(201.0), "auto": held(205.0)}, STREAMS)
    found = {name: number.measured for name, number in numbers.items()}
    assert found["sharedbb, resident"] == 200.0
    assert found["sharedbb, peak"] == 220.0
    assert found[f"{FIRST}, peak"] == 1100.0
    assert found["four OpenVINO networks over sharedbb, resident"] == 2.5
    assert found["one stream more"] == 10.0
    assert found["reuse exact over off"] == 60.0
    growth = numbers["growth over 20 frames, reuse off"]
    assert (growth.measured, growth.goal, growth.is_met) == (1.0, memory.GROWTH_GOAL, True)
    assert numbers["growth over 20 frames, reuse auto"].goal is None


def test_the_note_tells_what_is_not_the_networks() -> None:
    said = memory.note({OURS: held(200.0), NOTHING: held(50.0)}, {"sharedbb, artifact": 9.0, SEPARATE: 17.5})
    assert "Of the 200 MiB resident, 50 are" in said
    assert "17.5" in said
