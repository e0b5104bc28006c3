"""Values that every room shares: sizes, the geometry of a frame, frames, freshness and results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import FrameError
from sharedbb.sizes import Fit, Normalization, Size

if TYPE_CHECKING:
    import av

__all__ = [
    "ColorOrder",
    "Encoded",
    "Fit",
    "Frame",
    "FrameResult",
    "Freshness",
    "Geometry",
    "Normalization",
    "Output",
    "Plane",
    "Size",
    "StemError",
    "rounded_up",
]

ColorOrder = Literal["rgb", "bgr"]


@dataclass(frozen=True, slots=True)
class Plane:
    """One array of the picture as the network reads it: uint8 (1, height / stride, width / stride, channels).

    ``name`` is the graph's input. The network takes ``(x - mean) / std``, by channel, in grey levels 0–255.
    """

    name: str
    channels: int
    stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def rgb(cls, normalization: Normalization) -> tuple[Plane, ...]:
        """The usual form of a picture: one array with all of it."""
        return (cls("input", 3, 1, normalization.mean, normalization.std),)

    def shape(self, size: Size) -> tuple[int, int, int, int]:
        """Of the array, for a picture of ``size``."""
        return 1, size.height // self.stride, size.width // self.stride, self.channels


@dataclass(frozen=True, slots=True)
class Geometry:
    """How source pixels lie in the network's input; both ways, at half-pixel centres.

    A source point (x, y) falls on the network point ``(x * scale_x + offset_x, y * scale_y + offset_y)``.
    """

    source: Size
    network: Size
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    @classmethod
    def fit(cls, source: Size, network: Size, fit: Fit = "letterbox") -> Geometry:
        """Place ``source`` in ``network``: whole with bars, stretched, or filling with the overhang cropped."""
        scale_x, scale_y = network.width / source.width, network.height / source.height
        if fit == "stretch":
            return cls(source, network, scale_x, scale_y, 0.0, 0.0)
        scale = min(scale_x, scale_y) if fit == "letterbox" else max(scale_x, scale_y)
        width, height = max(1, round(source.width * scale)), max(1, round(source.height * scale))
        left, top = (network.width - width) // 2, (network.height - height) // 2
        return cls(source, network, width / source.width, height / source.height, float(left), float(top))

    @property
    def placed(self) -> tuple[int, int, int, int]:
        """The whole source in network pixels: left, top, width, height (may overhang when cropped)."""
        return (
            round(self.offset_x),
            round(self.offset_y),
            max(1, round(self.source.width * self.scale_x)),
            max(1, round(self.source.height * self.scale_y)),
        )

    def to_source(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Network points to source points, clipped to the source; any shape ending in x, y pairs (xyxy boxes too)."""
        offset, scale, size = self._pairs
        moved: NDArray[np.float32] = np.clip((xy.reshape(-1, 2) - offset) / scale, 0, size)
        return moved.astype(np.float32, copy=False).reshape(xy.shape)

    def to_network(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Source points to network points, any shape ending in x, y pairs (boxes as xyxy too)."""
        offset, scale, _ = self._pairs
        return (xy.reshape(-1, 2) * scale + offset).astype(np.float32, copy=False).reshape(xy.shape)

    @property
    def _pairs(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Offset, scale and source size as x, y pairs."""
        offset = np.array([self.offset_x, self.offset_y], np.float32)
        scale = np.array([self.scale_x, self.scale_y], np.float32)
        return offset, scale, np.array([self.source.width, self.source.height], np.float32)


class Encoded(Protocol):
    """A picture that is kept compressed and decoded as far as it is needed."""

    @property
    def size(self) -> Size:
        """Height and width of the whole picture."""
        ...

    def at_least(self, least: Size) -> NDArray[np.uint8]:
        """The picture as HWC uint8 BGR, whole or evenly reduced, no smaller than ``least`` where it is that large."""
        ...


@dataclass(slots=True)
class Frame:
    """One picture on its way through the engine, in whatever form it arrived.

    Exactly one of ``pixels`` (HWC uint8, three channels in ``order``), ``video`` (a decoder's frame, its planes
    untouched) and ``encoded`` is given. ``timestamp`` is in seconds since the stream's start.
    """

    index: int
    timestamp: float
    pixels: NDArray[np.uint8] | None = None
    order: ColorOrder = "rgb"
    video: av.VideoFrame | None = None
    encoded: Encoded | None = None
    _rgb: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def size(self) -> Size:
        """Height and width in source pixels."""
        if self.video is not None:
            return Size(self.video.height, self.video.width)
        if self.encoded is not None:
            return self.encoded.size
        assert self.pixels is not None
        return Size(self.pixels.shape[0], self.pixels.shape[1])

    def rgb(self) -> NDArray[np.uint8]:
        """The whole picture as HWC uint8 RGB at source size, converted once and kept."""
        if self._rgb is None:
            self._rgb = self._converted()
        return self._rgb

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickling and copying: a decoder's frame, which can do neither, becomes its picture."""
        pixels, order = (self.pixels, self.order) if self.video is None else (self.rgb(), "rgb")
        return type(self), (self.index, self.timestamp, pixels, order, None, self.encoded)

    def _converted(self) -> NDArray[np.uint8]:
        if self.video is not None:
            return self.video.to_ndarray(format="rgb24").view(np.uint8)
        if self.encoded is not None:
            return np.ascontiguousarray(self.encoded.at_least(self.size)[..., ::-1])
        assert self.pixels is not None
        return self.pixels if self.order == "rgb" else np.ascontiguousarray(self.pixels[..., ::-1])

    def checked(self) -> Frame:
        """The frame itself. Raises FrameError for no picture or several, unfit pixels, a time that is no number."""
        given = sum(one is not None for one in (self.pixels, self.video, self.encoded))
        if given != 1:
            raise FrameError(f"a frame has exactly one of pixels, video and encoded, got {given} of them")
        if self.pixels is not None:
            shape, kind = np.shape(self.pixels), getattr(self.pixels, "dtype", type(self.pixels).__name__)
            if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
                raise FrameError(f"a frame's pixels are HWC uint8 of three channels, got {kind} of shape {shape}")
        if not _is_finite(self.timestamp):
            raise FrameError(f"a timestamp must be a number of seconds, got {self.timestamp!r}")
        return self

    @classmethod
    def of(cls, picture: Any, *, index: int = 0, timestamp: float = 0.0, order: ColorOrder = "bgr") -> Frame:
        """Wrap what a caller has: a ``Frame``, a decoder's frame, a NumPy array or a torch tensor.

        Arrays: HWC with 1, 3 or 4 channels, or HW grey; tensors: CHW (or HWC, where that fits better), alone or as a
        batch of one; uint8, uint16, or float in 0–1. ``order`` says how the colour channels of an array are stored
        (OpenCV: ``"bgr"``); tensors are RGB. Alpha is dropped.

        Raises FrameError for any other shape or type, NaN or infinity, values outside 0–1, or an empty picture.
        """
        if order not in ("rgb", "bgr"):
            raise FrameError(f"the order of a frame's colours is 'rgb' or 'bgr', got {order!r}")
        if isinstance(picture, Frame):
            return picture
        if hasattr(picture, "planes") and hasattr(picture, "to_ndarray"):
            return cls(index, timestamp, video=picture)
        if hasattr(picture, "detach"):
            array, order = _of_tensor(picture), "rgb"
        elif isinstance(picture, np.ndarray):
            array = picture
        else:
            raise FrameError(f"cannot take a {type(picture).__name__} as a frame; give a NumPy array, tensor or Frame")
        return cls(index, timestamp, pixels=_three_channels(_as_uint8(array)), order=order)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _of_tensor(tensor: Any) -> NDArray[Any]:
    """A torch tensor on the host, HWC."""
    tensor = tensor.detach()
    if tensor.is_floating_point():
        tensor = tensor.float()
    array: NDArray[Any] = tensor.cpu().numpy()
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and (array.shape[0] == 3 or array.shape[2] != 3):
        array = array.transpose(1, 2, 0)
    return array


def _as_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise FrameError(f"a frame must be HW or HWC and not empty, got shape {array.shape}; pass frames one at a time")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind != "f":
        raise FrameError(f"a frame must be uint8, uint16 or float in 0–1, got {array.dtype}")
    if not np.isfinite(array).all():
        raise FrameError("the frame holds NaN or infinite values")
    if array.min() < 0 or array.max() > 1:
        raise FrameError(f"a float frame must lie in 0–1, got {array.min():.3g} to {array.max():.3g}; divide by 255?")
    levels: NDArray[np.uint8] = np.rint(array * 255).astype(np.uint8)
    return levels


def _three_channels(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] not in (3, 4):
        raise FrameError(f"a frame must have 1, 3 or 4 channels, got {array.shape[2]} in shape {array.shape}")
    return array[..., :3]


class Output(Protocol):
    """What a head answers for one frame, in source pixels."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old one head's answer is, why, and how exact.

    ``ran`` says whether something of it was computed on this very frame; ``age_frames`` and ``age_ms`` count since it
    last knew of every change that was seen. ``why`` is ``full`` (all of it was computed), ``partial`` (what changed
    was, or what an earlier frame had computed was taken up), ``still`` (nothing changed that it reads), ``warped``
    (moved along from a key frame), ``reused`` (it was not its turn) or ``dropped`` (the deadline left no time).
    ``error`` is the share of its answers that differed from a dense run, on average over the latest audits, None when
    that was not measured.
    """

    ran: bool
    age_frames: int
    age_ms: float
    why: str
    error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return {
            "ran": self.ran,
            "age_frames": self.age_frames,
            "age_ms": round(self.age_ms, 3),
            "why": self.why,
            "error": None if self.error is None else round(self.error, 5),
        }


@dataclass(frozen=True, slots=True)
class StemError:
    """How wrong a stem's outputs are at most on one frame, and their root mean square error as estimated.

    Both of the output that is worst off, before its activation.
    """

    bound: float
    rms: float

    def __str__(self) -> str:
        return f"at most {rounded_up(self.bound)}"


def rounded_up(bound: float) -> str:
    """A bound in two digits, never below it."""
    if bound <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(bound)) - 1)
    return f"{math.ceil(bound / unit - 1e-9) * unit:.2g}"


@dataclass(slots=True)
class FrameResult(Mapping[str, Output]):
    """Every head's answer to one frame: ``result["objects"]``, with the freshness of each beside it.

    ``mode`` says how the frame was computed (``dense``: in full), ``work`` is the share of the multiply-adds of a frame
    in full that were spent on it; an audit, which computes the frame twice, brings it above 1. ``stem_error``: where
    bands of the picture are left out and it was asked for (``certify``), the certified bound of what that changes.
    """

    frame: Frame
    geometry: Geometry
    outputs: dict[str, Output]
    freshness: dict[str, Freshness]
    stream: str = "main"
    mode: str = "dense"
    work: float = 1.0
    stem_error: StemError | None = None

    @property
    def index(self) -> int:
        """The frame's number in its stream, from 0."""
        return self.frame.index

    @property
    def timestamp(self) -> float:
        """Seconds since the stream's start."""
        return self.frame.timestamp

    def __getitem__(self, head: str) -> Output:
        try:
            return self.outputs[head]
        except KeyError:
            raise KeyError(f"no answer of a head {head!r}; this result has {sorted(self.outputs)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON: one line of ``out.jsonl``."""
        size = self.frame.size
        return {
            "frame": self.index,
            "timestamp": round(self.timestamp, 6),
            "stream": self.stream,
            "width": size.width,
            "height": size.height,
            "mode": self.mode,
            "work": round(self.work, 4),
            "heads": {name: output.to_dict() for name, output in self.outputs.items()},
            "freshness": {name: freshness.to_dict() for name, freshness in self.freshness.items()},
            **({"stem_error": asdict(self.stem_error)} if self.stem_error is not None else {}),
        }

    def to_json(self) -> str:
        """One JSON line; numbers that are not finite are null."""
        told = self.to_dict()
        try:
            return json.dumps(told, separators=(",", ":"), allow_nan=False)
        except ValueError:  # JSON knows neither NaN nor infinity
            return json.dumps(_finite(told), separators=(",", ":"))


def _finite(tree: Any) -> Any:
    """The same with None in the place of every number that is not finite."""
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
