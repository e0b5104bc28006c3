"""What every backend offers, and what the engine may rely on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sharedbb.types import Plane, Size

if TYPE_CHECKING:
    from sharedbb.graph.cut import Cut


@dataclass(slots=True, eq=False)
class Picture:
    """The network's input buffers of one stream, by the planes' names: uint8 arrays, and the backend's views of them.

    Whoever fills ``planes`` has filled ``features``: they share memory, or ``Backend.upload`` makes them equal.
    """

    planes: dict[str, NDArray[np.uint8]]
    features: dict[str, Any]


class Session(Protocol):
    """One stream's use of an executable. Its results may live in buffers that the next call overwrites."""

    def __call__(self, features: Sequence[Any]) -> Sequence[Any]:
        """Run the segment: features in the order of its inputs, results in the order of its outputs."""
        ...


class Executable(Protocol):
    """A compiled segment, shared by all streams."""

    def session(self, into: Sequence[Any] | None = None) -> Session:
        """A session whose results go into the given features (of the outputs' form), or into buffers of its own."""
        ...


class Backend(Protocol):
    """Compiles segments for one device in one precision.

    Between segments, features are whatever the backend likes best (its own precision, NHWC in memory); only the picture
    and the answers have a form that the engine knows.
    """

    name: ClassVar[str]
    precision: str
    device: str

    def __init__(self, precision: str, device: str, threads: int | None) -> None: ...

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        """What ``auto`` may choose from on a device, the one expected to be fastest first; empty when it cannot run."""
        ...

    @staticmethod
    def version() -> str:
        """Version of what compiles and runs, for cache keys and reports."""
        ...

    def compile(self, parts: Cut, planes: Sequence[Plane]) -> Sequence[Executable]:
        """Compile all segments, in order.

        Those that read the picture take its planes as uint8 NHWC and normalise them inside; what ``answer`` is
        asked for (the values of ``parts.answers``) comes out as float32. Raises BackendError naming the segment.
        """
        ...

    def picture(self, size: Size, planes: Sequence[Plane]) -> Picture:
        """New input buffers for one stream."""
        ...

    def upload(self, picture: Picture) -> None:
        """Bring what was written to ``picture.planes`` to the device; nothing where memory is shared."""
        ...

    def answer(self, feature: Any) -> NDArray[np.float32]:
        """A result as float32 NumPy on the host, four-dimensional ones NHWC; valid until the session runs again."""
        ...

    def patches(self, feature: Any) -> Any:
        """A feature map, or a batch of crops, to be cut into tiles; see ``sharedbb.backends.patches``."""
        ...

    def batch(self, feature: Any, count: int, height: int, width: int) -> Any:
        """A new buffer like a feature map, for as many crops of a height and width in cells."""
        ...

    def save(self, executable: Executable) -> bytes | None:
        """The compiled segment as bytes for the disk cache, None when it cannot be stored."""
        ...

    def load(self, stored: bytes) -> Executable:
        """A compiled segment from the bytes that ``save`` gave."""
        ...
