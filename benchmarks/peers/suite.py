"""How peers are measured: in groups, each beside the engine, and their answers held against torch's."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharedbb as sb
from benchmarks.networks import PIPELINE
from benchmarks.peers.base import CALIBRATION, FRAMES, Absent, Answers, Peer, Work, reason
from benchmarks.peers.catalogue import GROUPS
from benchmarks.peers.quantized import digest
from benchmarks.peers.torch_peers import REFERENCE
from benchmarks.schema import Case, Number
from benchmarks.timing import Rounds, interleaved, show

OURS, OURS_INT8, SMALL = "sharedbb", "sharedbb int8", "sharedbb, smaller network"
INTAKE = "preparing a frame"
FAST = "OpenVINO"
AGREEING = 8  # frames on which answers are compared: as many as any peer has in flight

Run = Callable[[sb.Frame], Any]


class Walk:
    """A peer on its way through the frames, over and over; ``at_once`` of them a call."""

    def __init__(self, run: Run, frames: Sequence[sb.Frame], at_once: int = 1) -> None:
        self._run, self._frames, self.at_once = run, cycle(frames), at_once

    def __call__(self) -> Any:
        """The answers to the last frame, or to all of them where they are in flight together."""
        for _ in range(self.at_once):
            answers = self._run(next(self._frames))
        return answers

    def close(self) -> None:
        """End what runs in a process of its own: only then does its time count as ours, not as a disturbance."""
        if hasattr(self._run, "close"):
            self._run.close()


def timed(walks: Mapping[str, Walk], rounds: int) -> Rounds:
    """Seconds a frame, by case."""
    taken = interleaved(walks, rounds).seconds
    return Rounds({name: [seconds / walks[name].at_once for seconds in taken[name]] for name in walks})


@dataclass
class Bench:
    """One run of the suite; what it finds gathers here."""

    work: Work
    groups: Mapping[str, Sequence[Peer]]
    rounds: int
    absent: dict[str, str] = field(default_factory=dict)
    timings: dict[str, Case] = field(default_factory=dict)
    numbers: dict[str, Number] = field(default_factory=dict)
    agreeing: dict[str, dict[str, float]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, options: argparse.Namespace) -> Bench:
        """As the command line has it."""
        quick = {"frames": AGREEING, "pictures": 8} if options.quick else {"frames": FRAMES, "pictures": CALIBRATION}
        work = Work.street(options.data, options.work, environments=options.envs, **quick)
        groups = chosen(options.only)
        asked = {peer.name for peers in groups.values() for peer in peers}
        left = [peer.name for peers in GROUPS.values() for peer in peers if peer.name not in asked]
        return cls(work, groups, options.rounds, dict.fromkeys(left, f"not asked for: --only {options.only}"))

    def results(self) -> dict[str, Any]:
        """The suite's fields."""
        reference = Walk(REFERENCE.prepare(self.work), self.work.frames)
        expected = [reference() for _ in range(AGREEING)]
        ours = {name: sb.compile(pipeline, profile=False) for name, pipeline in engines(self.work).items()}
        for name in (OURS, OURS_INT8):
            self.agreeing[name] = agreement(raw(ours[name], self.work.frames[:AGREEING]), expected)
        for title, peers in self.groups.items():
            self._group(title, peers, {name: engine.step for name, engine in ours.items()}, expected)
        return {
            "timings": self.timings,
            "numbers": self.numbers,
            "spent": self._spent(),
            "absent": self.absent,
            "notes": self._notes(),
            "details": {
                "clip": self.work.clip.name,
                "frames": len(self.work.frames),
                "precision": {name: engine.program.device.precision for name, engine in ours.items()},
                "agreement with torch eager f32": self.agreeing,
                "versions": self.versions,
                "as documented": {peer.name: peer.source for peers in self.groups.values() for peer in peers},
                "what differs": {
                    peer.name: peer.differs for peers in self.groups.values() for peer in peers if peer.differs
                },
            },
        }

    def _group(self, title: str, peers: Sequence[Peer], ours: Mapping[str, Run], expected: list[Answers]) -> None:
        """Measure the peers of a group that are there, in turns with the engine."""
        frames = self.work.frames
        walks = {name: Walk(run, frames) for name, run in ours.items()}
        if title == FAST:
            walks[INTAKE] = Walk(self.work.intake(), frames)
        for peer in peers:
            try:
                walks[peer.name] = self._begun(peer, expected)
                print(f"{peer.name}: ready")
            except Absent as error:
                self.absent[peer.name] = str(error)
                print(f"{peer.name}: absent, {error}")
        if not any(peer.name in walks for peer in peers):
            return
        rounds = timed(walks, self.rounds if title == FAST else max(3, self.rounds // 3))
        for walk in walks.values():
            walk.close()
        show(f"{title}: {self.work.clip.name}, a frame", rounds.timings, OURS)
        for name, case in rounds.timings.items():
            self.timings.setdefault(name if name not in self.timings else f"{name} (beside {title})", case)
        for peer in peers:
            if peer.name in walks:
                base = OURS_INT8 if "int8" in peer.name else OURS
                self.numbers[f"{peer.name} over {base}"] = rounds.ratio(peer.name, base)

    def _begun(self, peer: Peer, expected: list[Answers]) -> Walk:
        """The peer, made ready, its answers compared. Raises Absent with what went wrong."""
        try:
            run = peer.prepare(self.work)
            found = [kept(run(frame)) for frame in islice(cycle(self.work.frames), AGREEING)]
        except Absent:
            raise
        except Exception as error:  # other people's code, which may raise anything: what it said is kept
            raise Absent(f"{type(error).__name__}: {reason(error)}") from error
        answers = found[-1] if peer.at_once == AGREEING else found
        if comparable(answers[0], expected[0]):
            self.agreeing[peer.name] = agreement(answers, expected)
        if hasattr(run, "ready"):
            self.versions[peer.name] = run.ready
        return Walk(run, self.work.frames, peer.at_once)

    def _spent(self) -> dict[str, dict[str, float]]:
        """Of the peers that bring the frame in as the engine does, what is not their runtime's."""
        if INTAKE not in self.timings:
            return {}
        intake = self.timings[INTAKE].median_ms
        return {
            name: {INTAKE: round(intake, 3), "networks": round(max(0.0, self.timings[name].median_ms - intake), 3)}
            for name in self.agreeing
            if name in self.timings and not name.startswith(OURS)
        }

    def _notes(self) -> list[str]:
        """What to know when reading the table."""
        notes = [
            "The engine computes every frame in full here: temporal reuse is off, what it adds stands in other suites.",
            "The engine's time holds decoding to boxes, class maps and tags in source pixels. Runtimes end with raw "
            "arrays on the host, to their advantage; frameworks decode in their own ways.",
        ]
        same = {name: case.median_ms for name, case in self.timings.items() if name in self.agreeing}
        ours = {name: same.pop(name) for name in (OURS, OURS_INT8) if name in same}
        if same and ours:
            theirs, own = min(same, key=same.__getitem__), min(ours, key=ours.__getitem__)
            notes.append(
                f"The fastest peer on these weights is {theirs} at {same[theirs]:.2f} ms a frame; "
                f"the fastest of ours is {own} at {ours[own]:.2f} ms."
            )
        if SMALL in self.timings and OURS in self.timings:
            times = self.timings[OURS].median_ms / self.timings[SMALL].median_ms
            notes.append(f"The smaller network (street-small) is {times:.2f} × as fast as the one that all others run.")
        return notes


def chosen(words: str | None) -> dict[str, list[Peer]]:
    """The groups, of them the peers whose names contain one of the words; all without any.

    Raises ValueError when that leaves none.
    """
    wanted = [word.strip().lower() for word in (words or "").split(",") if word.strip()]
    found = {
        title: [peer for peer in peers if not wanted or any(word in peer.name.lower() for word in wanted)]
        for title, peers in GROUPS.items()
    }
    left = {title: peers for title, peers in found.items() if peers}
    if not left:
        raise ValueError(f"no peer's name contains {words!r}; there are {', '.join(map(str, GROUPS))}")
    return left


def engines(work: Work) -> dict[str, sb.Pipeline]:
    """What of ours stands beside the peers, dense: the same weights, the same in 8 bits, and the smaller network."""
    from sharedbb.compress import Network, quantize
    from sharedbb.learn.data import Data, Sample

    pipeline = work.pipeline
    path = work.folder / f"{pipeline.name}-int8-{digest(work.whole, work.calibration)}.sbb"
    if not path.is_file():
        pictures = [Sample(str(place), rgb) for place, rgb in enumerate(work.calibration)]
        network, _ = quantize(Network.of(pipeline), Data.given("calibration", pictures), pictures=len(pictures))
        network.save(path)
    backbone = pipeline.backbone.model_copy(update={"weights": str(path)})
    return {
        OURS: pipeline,
        OURS_INT8: pipeline.model_copy(update={"name": f"{pipeline.name}-int8", "backbone": backbone}),
        SMALL: sb.load(PIPELINE.with_name("street-small.yaml")),
    }


def raw(engine: sb.Engine, frames: Sequence[sb.Frame]) -> list[Answers]:
    """What the engine's heads compute before decoding, by the networks' names."""
    found = []
    for frame in frames:
        engine.step(frame)
        state, program = engine.state(), engine.program
        found.append(
            {
                f"{head.name}.{part}": _classes_second(np.array(program.device.answer(state.features[at]), np.float32))
                for head in program.heads.values()
                for part, at in head.answers.items()
            }
        )
    return found


def _classes_second(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps as networks give them, NCHW: the engine keeps them NHWC."""
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array


def kept(answers: Any) -> Any:
    """Answers that stay as they are when the next frame comes; runtimes hand out their own buffers."""
    if isinstance(answers, dict):
        return {name: np.array(answer) for name, answer in answers.items() if isinstance(answer, np.ndarray)}
    return answers


def comparable(answers: Any, expected: Answers) -> bool:
    """Whether these are the same networks' raw answers."""
    return isinstance(answers, dict) and answers.keys() == expected.keys()


def agreement(answers: Sequence[Answers], expected: Sequence[Answers]) -> dict[str, float]:
    """Share of decisions that are the same, by answer, over all frames.

    Class maps [1, C, H, W]: of pixels, the likeliest class. Scores [1, L, C] and tags [1, C]: of those that either
    thinks likelier than not, both do; 1 where neither thinks so of any.
    """
    found = {}
    for name in expected[0]:
        pairs = [(np.asarray(own[name]), right[name]) for own, right in zip(answers, expected, strict=True)]
        if pairs[0][1].ndim == 4:
            found[name] = float(np.mean([(own.argmax(1) == right.argmax(1)).mean() for own, right in pairs]))
        elif not name.endswith("distances"):
            both = sum(int(((own > 0) & (right > 0)).sum()) for own, right in pairs)
            either = sum(int(((own > 0) | (right > 0)).sum()) for own, right in pairs)
            found[name] = both / either if either else 1.0
    return {name: round(share, 4) for name, share in found.items()}
