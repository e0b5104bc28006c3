"""Peers: the same frames, the same networks, the same answers; and what is said where one cannot run."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharedbb as sb
from benchmarks.networks import PIPELINE
from benchmarks.peers import environments, suite
from benchmarks.peers.base import Absent, Intake, Peer, Work, clip_of, reason
from benchmarks.peers.catalogue import GROUPS
from benchmarks.peers.environments import Environment, Program, last_line, program
from benchmarks.peers.openvino_peers import InFlight, compiled, in_flight, one_by_one, separate
from benchmarks.peers.quantized import digest, preset_of
from benchmarks.peers.suite import AGREEING, INTAKE, OURS, OURS_INT8, Bench, Walk, agreement, chosen, kept, timed
from benchmarks.peers.torch_peers import eager
from benchmarks.timing import Rounds
from sharedbb.transforms.rgb import RgbIntake
from sharedbb.types import Geometry, Size

SIZE = Size(64, 96)


class Tiny(nn.Module):
    """A head of a few weights, with a map and a row of scores."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.name, self.map = name, nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        found = torch.relu(self.map(picture)) - 0.1
        return {f"{self.name}.logits": found, f"{self.name}.scores": found.mean((2, 3)) - 0.2}


class Both(nn.Module):
    """Two heads in one network."""

    def __init__(self, *heads: Tiny) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        return {name: answer for head in self.heads for name, answer in head(picture).items()}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Two tiny heads on eight frames of noise."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (72, 96, 3), np.uint8) for _ in range(AGREEING)]
    frames = [sb.Frame(i, i / 25, video=av.VideoFrame.from_ndarray(one, "rgb24")) for i, one in enumerate(pictures)]
    heads = {name: Tiny(name, seed).eval() for seed, name in enumerate(("surface", "objects"))}
    return Work(
        pipeline=sb.load(PIPELINE, [f"input.size=[{SIZE.height}, {SIZE.width}]"]),
        clip=Path("noise.mp4"),
        frames=frames,
        networks=dict(heads),
        whole=Both(*heads.values()).eval(),
        folder=tmp_path_factory.mktemp("models"),
        calibration=[np.full((SIZE.height, SIZE.width, 3), level, np.uint8) for level in (40, 200)],
    )


@pytest.fixture(scope="module")
def expected(work: Work) -> list[dict[str, np.ndarray]]:
    """The plain way: letterbox, normalise, run in torch."""
    intake, normalization = work.intake(), work.normalization
    found = []
    for frame in work.frames:
        picture = (intake(frame).astype(np.float32) - normalization.mean) / normalization.std
        with torch.no_grad():
            answers = work.whole(torch.from_numpy(picture.transpose(0, 3, 1, 2)).float())
        found.append({name: answer.numpy().copy() for name, answer in answers.items()})
    return found


def test_a_frame_lies_where_the_engine_puts_it(work: Work) -> None:
    frame, buffer = work.frames[0], np.zeros((1, SIZE.height, SIZE.width, 3), np.uint8)
    ours = RgbIntake(buffer, "letterbox", work.normalization)
    ours(frame)
    picture = work.intake()(frame)
    left, top, width, height = Geometry.fit(frame.size, SIZE, "letterbox").placed
    assert (left, top, width, height) == (5, 0, 85, 64)
    assert (picture[:, :, :left] == np.rint(work.normalization.mean)).all()
    assert (picture == buffer).all()


def test_every_frame_comes_in_the_same_array(work: Work) -> None:
    intake = Intake(work.pipeline)
    first = intake(work.frames[0]).copy()
    second = intake(work.frames[1])
    assert second is intake.picture
    assert (first != second).any()


def test_the_clip_is_that_of_the_data_or_a_generated_one(tmp_path: Path) -> None:
    there = tmp_path / "clips" / "moving-dashcam.mp4"
    there.parent.mkdir()
    there.touch()
    assert clip_of(tmp_path, tmp_path) == there
    made = clip_of(tmp_path / "nothing", tmp_path, frames=2)
    assert clip_of(None, tmp_path, frames=2) == made
    with av.open(str(made)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) == 2


@pytest.mark.parametrize("together", [False, True])
def test_openvino_answers_as_torch_does(work: Work, expected: Any, together: bool) -> None:
    run = one_by_one(separate, together=together)(work)
    found = [kept(run(frame)) for frame in work.frames]
    close(found, expected, 0.05)


def test_frames_in_flight_are_answered_in_their_order(work: Work, expected: Any) -> None:
    run = in_flight(separate)(work)
    for _ in range(2):
        *waiting, last = [run(frame) for frame in work.frames]
        assert waiting == [None] * (AGREEING - 1)
        close(last, expected, 0.05)


def test_fewer_frames_in_flight(work: Work, expected: Any) -> None:
    run = InFlight(compiled(separate(work), "THROUGHPUT"), [work.intake(), work.intake()])
    for first, second in ((0, 1), (2, 3)):
        assert run(work.frames[first]) is None
        close(run(work.frames[second]), expected[first : second + 1], 0.05)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-4), (True, 0.05)])
def test_torch_answers_as_torch_does(work: Work, expected: Any, half: bool, tolerance: float) -> None:
    run = eager(lambda work: list(work.networks.values()), half=half)(work)
    close([kept(run(frame)) for frame in work.frames], expected, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-3), (True, 0.3)])
def test_onnx_runtime_answers_as_torch_does(work: Work, expected: Any, int8: bool, tolerance: float) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from benchmarks.peers.onnx_peers import merged, sessions

    run = sessions(merged, int8=int8)(work)
    close([kept(run(frame)) for frame in work.frames], expected, tolerance)


@pytest.mark.slow
def test_8_bits_answer_about_as_torch_does(work: Work, expected: Any) -> None:
    pytest.importorskip("nncf")
    from benchmarks.peers.openvino_peers import separate_int8

    files = separate_int8(work)
    assert files == separate_int8(work)
    run = one_by_one(separate_int8)(work)
    close([kept(run(frame)) for frame in work.frames], expected, 0.3)


def close(found: Any, expected: Any, tolerance: float) -> None:
    """All answers to all frames, by relative error."""
    assert len(found) == len(expected)
    for own, right in zip(found, expected, strict=True):
        assert own.keys() == right.keys()
        for name, answer in right.items():
            assert np.linalg.norm(own[name] - answer) <= tolerance * np.linalg.norm(answer)


def test_a_preset_follows_the_activation_functions() -> None:
    assert preset_of(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU6(), nn.ReLU())) == "performance"
    assert preset_of(nn.Sequential(nn.ReLU(), nn.SiLU())) == "mixed"


def test_a_digest_is_of_weights_and_pictures(work: Work) -> None:
    one, other = work.networks.values()
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)
    assert len({digest(one), digest(one, work.calibration), digest(one, work.calibration[:1])}) == 3


def test_agreement_counts_decisions() -> None:
    right = {"a.logits": np.zeros((1, 2, 2, 2)), "b.scores": np.array([[1.0, 1.0, -1.0, -1.0]])}
    right["a.logits"][0, 1] = 1
    own = {name: answer.copy() for name, answer in right.items()}
    assert agreement([own], [right]) == {"a.logits": 1.0, "b.scores": 1.0}
    own["a.logits"][0, 0, 0, 0] = 2  # one of four pixels
    own["b.scores"] = np.array([[1.0, -1.0, 1.0, -1.0]])  # one of the three that either thinks so of
    assert agreement([own], [right]) == {"a.logits": 0.75, "b.scores": pytest.approx(1 / 3, abs=1e-4)}
    nothing = {"b.scores": -np.ones((1, 4))}
    assert agreement([nothing], [nothing]) == {"b.scores": 1.0}


def test_kept_answers_stay() -> None:
    buffer = np.zeros(3)
    found = kept({"a": buffer, "note": "left out"})
    buffer += 1
    assert found.keys() == {"a"}
    assert (found["a"] == 0).all()


def test_a_walk_goes_over_the_frames_again_and_again(work: Work) -> None:
    seen: list[int] = []
    walk = Walk(lambda frame: seen.append(frame.index), work.frames[:3], at_once=2)
    walk()
    walk()
    assert seen == [0, 1, 2, 0]


def test_a_frame_of_several_takes_its_share(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "interleaved", lambda cases, rounds: Rounds({name: [0.8, 1.6] for name in cases}))
    walks = {"one": Walk(id, work.frames), "eight": Walk(id, work.frames, at_once=8)}
    assert timed(walks, 2).seconds == {"one": [0.8, 1.6], "eight": [0.1, 0.2]}


def test_a_group_is_measured_beside_the_engine(work: Work, expected: Any) -> None:
    def broken(work: Work) -> Any:
        raise RuntimeError("a long story\nno such library")

    same = eager(lambda work: list(work.networks.values()), half=False)
    peers = [Peer("same", "https://a", same), Peer("same int8", "https://a", same), Peer("broken", "https://b", broken)]
    bench = Bench(work, {"OpenVINO": peers}, rounds=3)
    bench._group("OpenVINO", peers, dict.fromkeys((OURS, OURS_INT8), same(work)), expected)
    assert bench.absent == {"broken": "RuntimeError: no such library"}
    assert bench.timings.keys() == {OURS, OURS_INT8, INTAKE, "same", "same int8"}
    assert bench.numbers.keys() == {f"same over {OURS}", f"same int8 over {OURS_INT8}"}
    assert bench.agreeing["same"] == dict.fromkeys(("surface.logits", "surface.scores", "objects.logits"), 1.0) | {
        "objects.scores": 1.0
    }
    assert bench._spent().keys() == {"same", "same int8"}
    for name, parts in bench._spent().items():
        assert sum(parts.values()) == pytest.approx(max(bench.timings[name].median_ms, parts[INTAKE]), abs=0.01)


def test_peers_are_chosen_by_words() -> None:
    assert [peer.name for peer in chosen("supervision")["frameworks"]] == [
        "supervision loop over ONNX Runtime f32, separate"
    ]
    assert chosen(None) == {title: list(peers) for title, peers in GROUPS.items()}
    with pytest.raises(ValueError, match="no peer's name contains 'nonsense'"):
        chosen("nonsense")


def test_every_peer_says_whose_documentation_it_follows() -> None:
    for peer in chain(*GROUPS.values()):
        assert peer.source.startswith("https://")
        assert peer.at_once in (1, AGREEING)


STEPS = """
import sys
print("a library prints this")
print('{"ready": {"version": "1"}}', flush=True)
for line in sys.stdin:
    if int(line) > 1:
        raise RuntimeError("enough")
    print('{"answers": %d}' % int(line), flush=True)
"""


def test_a_program_answers_frame_by_frame_until_it_fails(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "PROGRAMS", tmp_path)
    (tmp_path / "steps.py").write_text(STEPS)
    runs = Program(Path(sys.executable), "steps", [str(tmp_path)])
    assert runs.ready == {"version": "1"}
    assert [runs(frame)["answers"] for frame in work.frames[:2]] == [0, 1]
    for _ in range(2):
        with pytest.raises(Absent, match="RuntimeError: enough"):
            runs(work.frames[2])
    runs.close()


def test_a_program_says_why_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "PROGRAMS", tmp_path)
    (tmp_path / "missing.py").write_text("import nothing_of_this_name")
    with pytest.raises(Absent, match="No module named 'nothing_of_this_name'"):
        Program(Path(sys.executable), "missing", [str(tmp_path)])


def test_an_environment_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda step, **_: ran.append(step))
    environment = Environment(tmp_path, ("one", "two"))
    assert environment.installed() == environment.installed() == environment.python
    assert [step[-2:] for step in ran] == [["venv", str(tmp_path)], ["one", "two"]]
    Environment(tmp_path, ("three",)).installed()
    assert ran[-1][-1] == "three"


def test_an_environment_says_why_it_cannot_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(step: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, step, stderr="collecting\nERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(Absent, match="cannot be installed: ERROR: no matching distribution"):
        Environment(tmp_path, ("nothing",)).installed()


def test_a_program_without_a_folder_for_its_packages_is_absent(work: Work) -> None:
    with pytest.raises(Absent, match="--envs FOLDER"):
        program("steps", ("one",))(work)


def test_the_last_line_says_what_went_wrong() -> None:
    assert last_line("Traceback\n  somewhere\nValueError: this\n\n") == "ValueError: this"
    assert last_line("") == "it ended without a word"
    assert reason(ValueError("where\nwhat")) == "what"
    assert reason(KeyboardInterrupt()) == "KeyboardInterrupt"
