"""What every peer gets and gives: the same decoded frames, the same networks, the same kind of picture."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

import sharedbb as sb
from benchmarks import networks
from sharedbb.compiler import build_network
from sharedbb.transforms.rgb import RgbIntake
from sharedbb.types import Normalization, Size

Picture = NDArray[np.uint8]
Answers = dict[str, NDArray[Any]]
"""Raw arrays on the host by the names that the networks give them, as ``surface.logits``."""

CLIP = "moving-dashcam.mp4"
FRAMES, CALIBRATION = 60, 128
GENERATED = "synthetic:street?motion=drive&frames={frames}&seed=1&size=960x540&fps=25"


class Absent(Exception):  # noqa: N818 - a finding, no fault
    """Why a peer cannot run here, in one line."""


@dataclass(frozen=True)
class Work:
    """What there is to do: run four heads on the frames of a clip.

    ``frames`` are decoded (``Frame.video``). ``networks`` holds every head with a trunk of its own, ``whole`` all heads
    on one trunk; both take normalised float32 [1, 3, H, W]. ``folder`` is for model files. ``calibration`` are uint8
    RGB pictures [H, W, 3] of the network's size, letterboxed. ``environments``: a folder where peers may install what
    they need; without one, those that need something are absent.
    """

    pipeline: sb.Pipeline
    clip: Path
    frames: list[sb.Frame]
    networks: dict[str, nn.Module]
    whole: nn.Module
    folder: Path
    calibration: list[Picture] = field(repr=False)
    environments: Path | None = None

    @classmethod
    def street(
        cls,
        data: Path | None,
        folder: Path,
        *,
        frames: int = FRAMES,
        pictures: int = CALIBRATION,
        environments: Path | None = None,
    ) -> Work:
        """The shipped street pipeline on a clip of ``data`` (its ``clips/``), calibrated on its ``camvid/``.

        Without them: on a generated clip, which is written to ``folder``, and calibrated on its frames.
        """
        folder.mkdir(parents=True, exist_ok=True)
        pipeline = networks.street()
        clip = clip_of(data, folder)
        with sb.open_source(clip) as source:
            decoded = list(islice(source, frames))
        return cls(
            pipeline=pipeline,
            clip=clip,
            frames=decoded,
            networks=networks.separate(pipeline),
            whole=build_network(pipeline),
            folder=folder,
            calibration=calibration_of(data, clip, pipeline, pictures),
            environments=environments,
        )

    @property
    def size(self) -> Size:
        """Height and width of the network's input."""
        return self.pipeline.input.network_size

    @property
    def normalization(self) -> Normalization:
        """Of the network's input."""
        return self.pipeline.input.normalization

    def intake(self) -> Intake:
        """What brings decoded frames into the network's input."""
        return Intake(self.pipeline)


@dataclass(frozen=True)
class Peer:
    """One way to do the work.

    ``source``: the address of the documentation that was followed, and what it recommends. ``prepare`` loads or makes
    what is needed and returns a function from one decoded frame to all four answers; it raises Absent where that
    cannot be done here. ``at_once``: so many frames are in flight together; the answers of all of them come with the
    last, and with the others None. ``differs``: what of the work is not the same.
    """

    name: str
    source: str
    prepare: Callable[[Work], Callable[[sb.Frame], Any]]
    at_once: int = 1
    differs: str = ""


class Intake:
    """Decoded frames as RGB pictures of the network's size, uint8 [1, H, W, 3], the same array every time.

    It is the engine's own intake, so that all see the same pixels and nobody pays for slower ones.
    """

    def __init__(self, pipeline: sb.Pipeline) -> None:
        size = pipeline.input.network_size
        self.picture: Picture = np.zeros((1, size.height, size.width, 3), np.uint8)
        self._read = RgbIntake(self.picture, pipeline.input.fit, pipeline.input.normalization)

    def __call__(self, frame: sb.Frame) -> Picture:
        self._read(frame)
        return self.picture


def clip_of(data: Path | None, folder: Path, frames: int = 100) -> Path:
    """The clip of the data folder, or a generated drive as H.264 in ``folder``."""
    if data is not None and (data / "clips" / CLIP).is_file():
        return data / "clips" / CLIP
    path = folder / f"generated-street-{frames}.mp4"
    if not path.is_file():
        unfinished = path.with_suffix(".part.mp4")
        with sb.open_source(GENERATED.format(frames=frames)) as street, sb.VideoSink(unfinished, 25) as sink:
            for frame in street:
                sink.write(frame.rgb())
        unfinished.replace(path)
    return path


def calibration_of(data: Path | None, clip: Path, pipeline: sb.Pipeline, pictures: int) -> list[Picture]:
    """Pictures like those that the network was trained on: CamVid's ``train``, else the clip's frames."""
    from sharedbb.learn import open_data

    camvid = None if data is None else data / "camvid"
    if camvid is not None and camvid.is_dir():
        found = open_data(f"camvid:{camvid}").of("train").spread(pictures)
        frames = (sb.Frame.of(sample.rgb, order="rgb") for sample in found)
        return [boxed(frame, pipeline) for frame in frames]
    with sb.open_source(clip) as source:
        return [boxed(frame, pipeline) for frame in islice(source, pictures)]


def boxed(frame: sb.Frame, pipeline: sb.Pipeline) -> Picture:
    """The frame as the pipeline's network sees it, uint8 RGB [H, W, 3]."""
    return Intake(pipeline)(frame)[0]


def cores() -> int:
    """How many the process may use: what runtimes that do not look at that themselves are told."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reason(error: BaseException) -> str:
    """The last line of an error that says anything: those before say where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def quietly() -> warnings.catch_warnings[None]:
    """Meanwhile no warning is shown: of other people's code, about other people's code."""
    return warnings.catch_warnings(action="ignore")
