"""The contract between compiling and running: what was decided, measured and built, all of it frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sharedbb.reuse.policy import Bargain
from sharedbb.reuse.regions import Tiling
from sharedbb.transforms.certificate import Certificate
from sharedbb.types import Frame, Geometry, Normalization, Output, Plane, Size

UNCHANGED = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

Decoder = Callable[[Mapping[str, NDArray[np.float32]], Geometry], Output]


class Picture(Protocol):
    """A stream's input buffers; see ``sharedbb.backends.Picture``."""

    planes: dict[str, NDArray[np.uint8]]
    features: dict[str, Any]


class Session(Protocol):
    """One stream's use of a stage; see ``sharedbb.backends.Session``."""

    def __call__(self, features: Sequence[Any]) -> Sequence[Any]:
        """Run on features in the order of the stage's inputs."""
        ...


class Executable(Protocol):
    """A compiled segment; see ``sharedbb.backends.Executable``."""

    def session(self, into: Sequence[Any] | None = None) -> Session:
        """A session whose results go into the given features, or else into buffers of its own."""
        ...


class Patches(Protocol):
    """A feature map, or a batch, cut into tiles; see ``sharedbb.backends.patches``."""

    def take(self, rows: Any, columns: Any, into: Any) -> None:
        """Copy the tiles that begin at these rows and columns into the first places of a batch."""
        ...

    def put(
        self,
        rows: Any,
        columns: Any,
        batch: Any,
        batch_rows: Any,
        batch_columns: Any,
        dirty: NDArray[np.bool_],
        block: int,
        tolerance: float,
    ) -> NDArray[np.bool_]:
        """Replace the dirty blocks in which a number moved by more than ``tolerance``; returns which ones did."""
        ...

    def move(self, warp: Callable[[NDArray[np.float32]], NDArray[np.float32]], into: Any) -> None:
        """Write this map, moved along, into another one of its shape."""
        ...

    def spread(self, other: Any, block: int) -> NDArray[np.float32]:
        """The largest difference from another map of the same shape in every block of cells."""
        ...


class Device(Protocol):
    """What running needs of a backend; see ``sharedbb.backends.Backend``."""

    precision: str
    device: str

    @property
    def name(self) -> str:
        """The backend's name."""
        ...

    def picture(self, size: Size, planes: Sequence[Plane]) -> Picture:
        """New input buffers."""
        ...

    def upload(self, picture: Any) -> None:
        """Bring the buffers to the device."""
        ...

    def answer(self, feature: Any) -> NDArray[np.float32]:
        """A result on the host, NHWC."""
        ...

    def patches(self, feature: Any) -> Patches:
        """A feature map or batch, to be cut into tiles."""
        ...

    def batch(self, feature: Any, count: int, height: int, width: int) -> Any:
        """A new buffer like a feature map, for as many crops of a height and width in cells."""
        ...


class Intake(Protocol):
    """Brings frames of one stream into its input buffers, in the form the network reads.

    ``reasons`` says what had to be converted on the way that the form does not call for, a line each.
    """

    @property
    def reasons(self) -> tuple[str, ...]:
        """What was converted so far."""
        ...

    def needs(self, source: Size) -> Size:
        """The height and width that a picture of this size is shown at; no more of its detail is read."""
        ...

    def place(self, source: Size) -> Geometry:
        """How a frame of this size lies in the buffers, which hold bars where it does not reach."""
        ...

    def __call__(self, frame: Frame) -> Geometry:
        """Fill the buffers with a frame; returns how its pixels lie there."""
        ...


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What is known of a stage before it runs.

    ``stride``: input pixels per cell of its last output, None for vectors. ``shapes``: (channels, height, width) or the
    plain shape of every output. ``reach``: for each input, how far its last output reaches into it, or why it depends
    on all of it; ``local`` when none does. ``macs``: multiply-adds. ``measured_ms``: median time on this machine when
    it was compiled.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    heads: tuple[str, ...]
    stride: int | None
    shapes: tuple[tuple[int, ...], ...]
    reach: tuple[str, ...]
    local: bool
    operators: int
    macs: int
    parameters: int
    measured_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> StageFacts:
        """What ``to_dict`` gave, after JSON made lists of the tuples."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
        }
        values["shapes"] = tuple(tuple(shape) for shape in stored["shapes"])
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """A segment compiled for a batch of ``count`` tiles of ``size`` network pixels a side, with their margins.

    ``measured_ms`` is the median time with cutting out, comparing and putting back.
    """

    size: int
    count: int
    executable: Executable = field(repr=False)
    macs: int = 0
    measured_ms: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A segment, or several as one, compiled.

    ``tiling`` says how it can be computed in parts, None when it cannot; ``tiles`` are the sizes compiled for that.
    """

    facts: StageFacts
    executable: Executable = field(repr=False)
    tiling: Tiling | None = None
    tiles: tuple[Tiles, ...] = ()


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """One head: when it runs, which features are its raw answers, how they become an output.

    ``answers`` maps the decoder's names to features. ``every``, ``max_age_ms`` and ``priority`` are its clock, as in a
    pipeline.
    """

    name: str
    answers: Mapping[str, str]
    decoder: Decoder
    every: int = 1
    max_age_ms: float | None = None
    priority: int = 0


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled pipeline, ready for any number of streams.

    ``stages`` are the segments in execution order. ``fused`` holds, for sets of heads that fall due together, one stage
    that does the work of all their segments, where that was measured to be faster. ``bargain`` says what may be reused
    between frames, None for nothing; then ``whole`` is one stage that gives every answer, and every feature that is
    used again, and ``fresh``, where asked for, one that gives the maps among the answers from the picture and given
    deep features. ``planes`` are the arrays that the picture is read as; ``intake`` makes a stream's intake for such
    buffers, by name. ``choices`` says what ``auto`` chose and why, one line each. ``operators`` and ``separate`` count
    the operators of the merged graph and of its heads' networks one by one. ``stems`` says what a transform did to each
    convolution that reads the picture, ``certificates`` how wrong those can be that are not given all of it.
    """

    name: str
    size: Size
    stages: tuple[Stage, ...]
    heads: Mapping[str, HeadPlan]
    device: Device
    intake: Callable[[Mapping[str, NDArray[np.uint8]]], Intake]
    planes: tuple[Plane, ...] = Plane.rgb(UNCHANGED)
    fused: Mapping[frozenset[str], Stage] = field(default_factory=dict)
    whole: Stage | None = None
    fresh: Stage | None = None
    bargain: Bargain | None = None
    queue: int = 4
    when_late: Literal["drop_oldest", "wait"] = "drop_oldest"
    deadline_ms: float | None = None
    choices: tuple[str, ...] = ()
    operators: int = 0
    separate: int = 0
    stems: tuple[str, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    _stages: dict[frozenset[str], tuple[Stage, ...]] = field(default_factory=dict, init=False, repr=False)
    _shares: dict[frozenset[str], float] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of a frame in full: every segment once."""
        return sum(stage.facts.macs for stage in self.stages)

    def share_for(self, heads: frozenset[str]) -> float:
        """The share of ``macs`` in the segments that the given heads need; 1 where there are none to count."""
        if heads not in self._shares:
            own = sum(stage.facts.macs for stage in self.segments_for(heads))
            self._shares[heads] = own / self.macs if self.macs else 1.0
        return self._shares[heads]

    def segments_for(self, heads: frozenset[str]) -> tuple[Stage, ...]:
        """The segments that the given heads need, in execution order."""
        return tuple(stage for stage in self.stages if heads.intersection(stage.facts.heads))

    def stages_for(self, heads: frozenset[str]) -> tuple[Stage, ...]:
        """What to run for the given heads: their segments, or the one stage that is faster."""
        if heads not in self._stages:
            fused = self.fused.get(heads)
            self._stages[heads] = (fused,) if fused is not None else self.segments_for(heads)
        return self._stages[heads]


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What one frame will run: the heads that are due, and the stages that they need, in order.

    ``dropped`` are heads whose turn it was and for which the deadline left no time. ``predicted_ms`` is the time the
    stages took when they were compiled, 0 where that was not measured; ``work`` is their share of the multiply-adds of
    a frame in full.
    """

    due: tuple[str, ...]
    stages: tuple[Stage, ...]
    dropped: tuple[str, ...] = ()
    predicted_ms: float = 0.0
    work: float = 1.0
