"""The decoder's own planes: luma at the network's size, chroma at half of it, with no RGB in between."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import FrameError, TransformError
from sharedbb.transforms.colour import Colour
from sharedbb.transforms.rgb import HALF_CHROMA, INTERLEAVED, RgbIntake, placed
from sharedbb.types import Fit, Frame, Geometry, Normalization, Size

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

Image = NDArray[np.uint8]

PLANES = ("input.y", "input.u", "input.v")
"""The names of the graph's inputs, in the order of a decoder's planes."""


LOOKED_AT = 8  # one in so many pixels, either way, is looked at for colours that no RGB has

# The pixels of a chroma sample.
SQUARE = np.ones((2, 2), np.uint8)


class Yuv420Intake:
    """Fills one stream's planes with each frame: Y (1, height, width, 1), U and V (1, height/2, width/2, 1), uint8.

    A decoder's frame is resized plane by plane, with the same arithmetic as in ``RgbIntake``, so that the planes are
    those which that would convert. Frames of other chroma sampling or depth are brought to 4:2:0 of eight bits, frames
    of another matrix or range to ``colour``, pictures in RGB are placed as by ``RgbIntake`` and converted; ``reasons``
    says which of this was needed. Letterbox bars hold the normalisation's mean.

    Colours that no RGB picture has, as codecs make them in the dark, lose the chroma that is too much.

    Luma lies exactly where the geometry says. Where that puts the picture's left or upper edge at an odd pixel, a
    chroma sample of the network covers halves of two of the picture's, and holds their mean. An odd width or height of
    source or picture stretches chroma by up to half a sample at the far edge, as swscale does it.

    Raises TransformError when the buffers do not fit each other.
    """

    def __init__(self, planes: Mapping[str, Image], fit: Fit, normalization: Normalization, colour: Colour) -> None:
        self._y, self._u, self._v = _checked(planes)
        self._size = Size(*self._y.shape)
        self._fit: Fit = fit
        self._normalization = normalization
        self._colour = colour
        matrix, offset = colour.from_rgb()
        self._rows = np.column_stack([matrix, offset])
        self._bars = np.clip(np.rint(matrix @ np.array(normalization.mean) + offset), 0, 255).astype(np.uint8)
        self._geometry: Geometry | None = None
        self._reformatter: VideoReformatter | None = None
        self._rgb: tuple[Image, RgbIntake] | None = None
        self._reasons: dict[str, None] = {}
        self._least = _least(colour)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What had to be converted so far, a line for each kind of frame; empty while planes came as they are read."""
        return tuple(self._reasons)

    def needs(self, source: Size) -> Size:
        """The height and width that a picture of this size is shown at; no more of its detail is read."""
        _, _, width, height = Geometry.fit(source, self._size, self._fit).placed
        return Size(height, width)

    def __call__(self, frame: Frame) -> Geometry:
        """Write the frame into the planes; returns how its pixels lie there. Raises FrameError if it cannot be read."""
        geometry = self.place(frame.size)
        if frame.video is None or not _has_chroma(frame.video):
            self._from_rgb(frame, geometry)
            return geometry
        left, top, width, height = geometry.placed
        try:
            y, u, v = self._resized(frame.video, width, height)
            own = Colour.of(frame.video, self._colour)
            if own != self._colour:
                self._reasons[f"{own} converted to {self._colour}"] = None
                y, u, v = recoloured(y, u, v, own, self._colour)
        except (OSError, ValueError, cv2.error) as error:
            raise FrameError(f"frame {frame.index} of {frame.size} cannot be converted: {error}") from error
        _put(self._y, y, left, top)
        for plane, chroma in ((self._u, u), (self._v, v)):
            _put(plane, _aligned(chroma, left, top, width, height), left // 2, top // 2)
        self._desaturate()
        return geometry

    def _desaturate(self) -> None:
        """Take away the chroma of dark places that no RGB colour has: the way by RGB clips such colours.

        A sample keeps what any of its four pixels could have. Where a look at some samples finds none too strong,
        nothing is done: most pictures have none, and looking at all takes as long as bringing the planes here.
        """
        seen = self._y[::LOOKED_AT, ::LOOKED_AT]
        some = slice(None, None, LOOKED_AT // 2)
        if not any(
            (plane[some, some] < least[seen]).any()
            for plane, least in zip((self._u, self._v), self._least, strict=True)
        ):
            return
        height, width = self._u.shape
        brightest = cv2.resize(
            cv2.dilate(self._y, SQUARE, anchor=(0, 0)), (width, height), interpolation=cv2.INTER_NEAREST
        )
        for plane, least in zip((self._u, self._v), self._least, strict=True):
            cv2.max(plane, cv2.LUT(brightest, least), dst=plane)

    def place(self, source: Size) -> Geometry:
        """How a frame of this size lies in the buffer; a new size clears the bars. Raises FrameError."""
        if self._geometry is None or self._geometry.source != source:
            self._geometry = placed(source, self._size, self._fit)
            for plane, level in zip((self._y, self._u, self._v), self._bars, strict=True):
                plane[...] = level
        return self._geometry

    def _resized(self, video: VideoFrame, width: int, height: int) -> list[Image]:
        """Y [height, width], U and V of half that, rounded up, in the frame's own matrix and range."""
        if self._reformatter is None:
            from av.video.reformatter import VideoReformatter

            self._reformatter = VideoReformatter()
        name = video.format.name
        if name in HALF_CHROMA:
            small = self._reformatter.reformat(video, width, height, interpolation="BILINEAR", threads=1)
        else:
            if name not in INTERLEAVED:
                self._reasons[f"{name} converted to yuv420p"] = None
            levels = 2 if Colour.of(video, self._colour).range == "full" else 1
            small = self._reformatter.reformat(
                video,
                width,
                height,
                "yuv420p",
                interpolation="BILINEAR",
                src_color_range=levels,
                dst_color_range=levels,
                threads=1,
            )
        return [
            np.ndarray((plane.height, plane.width), np.uint8, memoryview(plane), strides=(plane.line_size, 1))
            for plane in small.planes[:3]
        ]

    def _from_rgb(self, frame: Frame, geometry: Geometry) -> None:
        """Place the picture as RGB, then convert what it covers; chroma is the mean of four pixels."""
        if self._rgb is None:
            picture = np.empty((1, self._size.height, self._size.width, 3), np.uint8)
            self._rgb = picture, RgbIntake(picture, self._fit, self._normalization)
        kind = "RGB pictures" if frame.video is None else frame.video.format.name
        self._reasons[f"{kind} converted to yuv420p"] = None
        picture, intake = self._rgb
        intake(frame)
        left, top, width, height = geometry.placed
        rows, columns = (
            slice(max(top // 2, 0), -(-(top + height) // 2)),
            slice(max(left // 2, 0), -(-(left + width) // 2)),
        )
        part = picture[0, 2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop]
        self._y[2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop] = cv2.transform(
            part, self._rows[:1]
        )
        half = cv2.resize(part, (part.shape[1] // 2, part.shape[0] // 2), interpolation=cv2.INTER_AREA)
        chroma = cv2.transform(half, self._rows[1:])
        self._u[rows, columns], self._v[rows, columns] = chroma[..., 0], chroma[..., 1]


def recoloured(y: Image, u: Image, v: Image, own: Colour, wanted: Colour) -> tuple[Image, Image, Image]:
    """The planes of a 4:2:0 picture in another matrix and range: rounded once, chroma taken as replicated.

    Y [H, W], U and V [⌈H/2⌉, ⌈W/2⌉].
    """
    rows = _between(own, wanted)
    chroma = cv2.transform(cv2.merge([u, v]), rows[1:, 1:])
    if rows[0, 1:3].any():
        size = (2 * u.shape[1], 2 * u.shape[0])
        full = [
            cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST)[: y.shape[0], : y.shape[1]] for plane in (u, v)
        ]
        luma = cv2.transform(cv2.merge([y, *full]), rows[:1])
    else:
        luma = cv2.transform(y, rows[:1, [0, 3]])
    return luma.view(np.uint8), chroma[..., 0].view(np.uint8), chroma[..., 1].view(np.uint8)


@cache
def _between(own: Colour, wanted: Colour) -> NDArray[np.float64]:
    """Matrix and offset from one colour's planes to another's, [3, 4]."""
    return np.column_stack(own.towards(wanted))


def _has_chroma(video: VideoFrame) -> bool:
    """Whether the frame is Y'CbCr: neither RGB, nor grey, nor of a palette."""
    format_ = video.format
    return not format_.is_rgb and not format_.has_palette and len(format_.components) >= 3


def _checked(planes: Mapping[str, Image]) -> list[Image]:
    """The buffers as pictures, if they are those of one network input of even size."""
    shapes = ", ".join(f"{name} {planes[name].shape}" for name in sorted(planes))
    if set(planes) != set(PLANES):
        raise TransformError(f"4:2:0 planes are {', '.join(PLANES)}, got {shapes or 'none'}")
    y, u, v = (planes[name] for name in PLANES)
    if any(
        plane.ndim != 4 or plane.shape[0] != 1 or plane.shape[3] != 1 or plane.dtype != np.uint8
        for plane in planes.values()
    ):
        raise TransformError(f"4:2:0 planes are uint8 of shape (1, height, width, 1), got {shapes}")
    height, width = y.shape[1:3]
    if height % 2 or width % 2:
        raise TransformError(f"4:2:0 planes need a network input of even size, got {Size(height, width)}")
    if u.shape != v.shape or u.shape[1:3] != (height // 2, width // 2):
        raise TransformError(f"chroma planes of 4:2:0 are half as high and wide as luma, got {shapes}")
    return [plane[0, :, :, 0] for plane in (y, u, v)]


def _put(picture: Image, plane: Image, left: int, top: int) -> None:
    """Copy a plane to its place, without what overhangs."""
    view = picture[max(top, 0) : top + plane.shape[0], max(left, 0) : left + plane.shape[1]]
    skip_y, skip_x = max(-top, 0), max(-left, 0)
    view[...] = plane[skip_y : skip_y + view.shape[0], skip_x : skip_x + view.shape[1]]


def _aligned(chroma: Image, left: int, top: int, width: int, height: int) -> Image:
    """Chroma on the network's own samples, from the one at (left // 2, top // 2) on.

    At an odd edge each holds the mean of the two that it covers, so nothing is shifted; at the borders the nearest.
    """
    odd_x, odd_y = left % 2, top % 2
    if odd_x:
        more = (1 + width + 1) // 2 - chroma.shape[1]
        chroma = _halfway(cv2.copyMakeBorder(chroma, 0, 0, 1, more, cv2.BORDER_REPLICATE))
    if odd_y:
        more = (1 + height + 1) // 2 - chroma.shape[0]
        chroma = _halfway(cv2.copyMakeBorder(chroma, 1, more, 0, 0, cv2.BORDER_REPLICATE).T).T
    return chroma


def _halfway(plane: NDArray[Any]) -> Image:
    """The means of each two neighbours in a row, rounded."""
    return cv2.addWeighted(plane[:, :-1], 0.5, plane[:, 1:], 0.5, 0).view(np.uint8)


def _least(colour: Colour) -> list[Image]:
    """By luma, the least Cb that leaves blue at 0 or more, and the least Cr that leaves red there: uint8 [256] each.

    Each of the two depends on one chroma alone.
    """
    matrix, offset = colour.to_rgb()
    grey = np.maximum(matrix[0, 0] * (np.arange(256) - offset[0]), 0)
    slopes = (matrix[2, 1], matrix[0, 2])
    return [np.floor(128 - grey / slope).clip(0, 255).astype(np.uint8) for slope in slopes]
