"""What is run on a GPU: the engine's streams, and the same frames through anybody's networks to the same results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import sharedbb as sb
from benchmarks.gpu_clock import held_mib
from benchmarks.gpu_peers import SEPARATE, Answering, Answers, Call, Peer, answering, apart, prepared
from sharedbb.backends.torch_backends import DTYPES
from sharedbb.compiler import build_network
from sharedbb.runtime.schedule import Moment, plan
from sharedbb.runtime.state import StreamState
from sharedbb.types import Output

ENGINE, MERGED, GRAPHS = "engine", "hand-merged, CUDA graph", "CUDA graphs"
PARTS = ("taking the frame in", "launching", "waiting for the GPU and reading answers", "decoding answers")

HostAnswers = dict[str, NDArray[np.float32]]
"""Raw answers on the host by name (``head.part``), the pictures' axis first, maps NHWC."""


@dataclass(frozen=True)
class Cameras:
    """The engine on as many streams, each with a frame; ``mib``: what they and the engine hold of the GPU's memory."""

    engine: sb.Engine
    frames: Sequence[sb.Frame]
    states: Sequence[StreamState]
    mib: float

    @classmethod
    def started(cls, engine: sb.Engine, frames: Sequence[sb.Frame], engine_mib: float) -> Cameras:
        """A stream for each frame, run once. ``engine_mib``: of the engine without further streams."""
        before = held_mib(device_of(engine))
        states = [engine.state(f"camera {at}") for at in range(len(frames))]
        made = cls(engine, frames, states, 0.0)
        made.step()
        return cls(engine, frames, states, engine_mib + held_mib(device_of(engine)) - before)

    @property
    def dtype(self) -> torch.dtype:
        """What the engine computes in."""
        return DTYPES[self.engine.program.device.precision]

    def step(self, times: int = 1) -> None:
        """Every camera's frame to its results, as a user has it done."""
        for _ in range(times):
            for frame, state in zip(self.frames, self.states, strict=True):
                self.engine.step(frame, stream=state.name)

    def networks(self) -> Callable[[], None]:
        """What computes the raw answers to all frames, which were taken in."""
        everything = plan(self.engine.program, Moment(0, 0.0, {}))

        def call() -> None:
            for state in self.states:
                self.engine._execute(everything, state)

        return call

    def pictures(self) -> Tensor:
        """A batch of all frames as the networks read them, uint8 NHWC on the device."""
        return torch.cat([picture for state in self.states for picture in state.reading.picture.features.values()])

    def answers(self) -> HostAnswers:
        """The raw answers that the networks made last."""
        program = self.engine.program
        return {
            f"{head.name}.{part}": np.concatenate([program.device.answer(state.features[at]) for state in self.states])
            for head in program.heads.values()
            for part, at in head.answers.items()
        }

    def through(self, call: Call, modules: Sequence[Answering], pictures: Tensor) -> Callable[[], list[list[Output]]]:
        """Every frame to its results by other networks, with the engine's own intake and decoders.

        ``call`` runs them on ``pictures``, a batch that is filled anew each time.
        """
        engine, heads = self.engine, self.engine.program.heads.values()

        def results() -> list[list[Output]]:
            for frame, state in zip(self.frames, self.states, strict=True):
                state.take_in(frame)
                state.reading.read(engine.profiler)
            pictures.copy_(self.pictures())
            raw = on_host(engine, modules, call())
            return [
                [
                    head.decoder(
                        {part: raw[f"{head.name}.{part}"][at : at + 1] for part in head.answers}, state.geometry
                    )
                    for head in heads
                ]
                for at, state in enumerate(self.states)
            ]

        return results

    def spent(self, rounds: int) -> dict[str, float]:
        """Milliseconds of the host's time a frame, by part: medians over rounds through all cameras."""
        engine, program = self.engine, self.engine.program
        everything, taken = plan(program, Moment(0, 0.0, {})), []
        for _ in range(rounds):
            for frame, state in zip(self.frames, self.states, strict=True):
                stamps = [time.perf_counter()]
                state.take_in(frame)
                state.reading.read(engine.profiler)
                stamps.append(time.perf_counter())
                engine._execute(everything, state)
                stamps.append(time.perf_counter())
                raw = [
                    {part: program.device.answer(state.features[at]) for part, at in head.answers.items()}
                    for head in program.heads.values()
                ]
                stamps.append(time.perf_counter())
                for head, answers in zip(program.heads.values(), raw, strict=True):
                    head.decoder(answers, state.geometry)
                stamps.append(time.perf_counter())
                taken.append(np.diff(stamps) * 1e3)
        return {part: round(float(ms), 4) for part, ms in zip(PARTS, np.median(taken, axis=0), strict=True)}


@dataclass(frozen=True)
class Rivals:
    """Other ways to compute the same answers to a batch of the cameras' pictures.

    ``separate``: the four networks, by how they are run; ``merged``: all heads on one trunk. ``absent``: what cannot
    run here, and why. ``graphs_mib``: the GPU's memory that the four networks hold as CUDA graphs.
    """

    pictures: Tensor
    modules: Sequence[Answering]
    whole: Answering
    separate: Mapping[str, Call]
    merged: Mapping[str, Call]
    absent: Mapping[str, str]
    graphs_mib: float

    @classmethod
    def of(cls, cameras: Cameras, pipeline: sb.Pipeline, peers: Mapping[str, Peer]) -> Rivals:
        """Make all that can run; CUDA graphs always."""
        pictures, device = cameras.pictures(), device_of(cameras.engine)
        before = held_mib(device)
        modules = answering(apart(pipeline), pipeline, pictures, cameras.dtype)
        graphs, failed = prepared({GRAPHS: SEPARATE[GRAPHS]}, modules, pictures)
        graphs_mib = held_mib(device) - before
        others, absent = prepared({name: peer for name, peer in peers.items() if name != GRAPHS}, modules, pictures)
        (whole,) = answering([build_network(pipeline)], pipeline, pictures, cameras.dtype)
        merged, unmerged = prepared({MERGED: SEPARATE[GRAPHS]}, [whole], pictures)
        return cls(pictures, modules, whole, graphs | others, merged, failed | absent | unmerged, graphs_mib)

    def agreement(self, cameras: Cameras, pipeline: sb.Pipeline) -> dict[str, float]:
        """The share of the surface map's cells in which each agrees with torch eager in float32."""
        engine = cameras.engine
        (exact,) = answering([build_network(pipeline)], pipeline, self.pictures, torch.float32)
        with torch.inference_mode():
            reference = on_host(engine, [exact], [exact(self.pictures)])
        cameras.networks()()
        found = {ENGINE: agreement(cameras.answers(), reference)}
        for modules, calls in ((self.modules, self.separate), ([self.whole], self.merged)):
            found |= {name: agreement(on_host(engine, modules, call()), reference) for name, call in calls.items()}
        return found


def device_of(engine: sb.Engine) -> torch.device:
    """Where the engine runs."""
    return torch.device(engine.program.device.device)


def on_host(engine: sb.Engine, modules: Sequence[Answering], answers: Sequence[Answers]) -> HostAnswers:
    """Other networks' answers as the engine's own."""
    return {
        name: engine.program.device.answer(answer)
        for module, own in zip(modules, answers, strict=True)
        for name, answer in zip(module.names, own, strict=True)
    }


def agreement(answers: HostAnswers, reference: HostAnswers, name: str = "surface.logits") -> float:
    """The share of a segmentation's cells that have the same largest class."""
    same: Any = answers[name].argmax(-1) == reference[name].argmax(-1)
    return round(float(same.mean()), 5)
