"""The plain form: the whole picture as RGB at the network's size, resized once, written straight into the buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import FrameError
from sharedbb.transforms.colour import Colour
from sharedbb.types import Fit, Frame, Geometry, Normalization, Size

Image = NDArray[np.uint8]

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

# Below this scale bilinear sampling would skip source pixels.
AREA_BELOW = 0.5

# Decoders' formats of three planes, chroma at half the resolution.
HALF_CHROMA = ("yuv420p", "yuvj420p")

# The same samples as yuv420p, in another order.
INTERLEAVED = ("nv12", "nv21")

# Pixels of a whole frame that is made large enough to be cropped.
MOST_PLACED = 1 << 28


def placed(source: Size, network: Size, fit: Fit) -> Geometry:
    """How a frame of this size lies in the network's input; FrameError if that would take too much memory."""
    geometry = Geometry.fit(source, network, fit)
    _, _, width, height = geometry.placed
    if width * height > MOST_PLACED:
        raise FrameError(f"a frame of {source} is too narrow to fill {network}; fit it by letterbox or stretch")
    return geometry


class RgbIntake:
    """Fills one stream's (1, height, width, 3) uint8 buffer with each frame, as RGB.

    A decoder's planes are resized and converted by swscale, which cuts off and leaves RGB a level too dark on average.
    Arrays are resized by OpenCV (bilinear, or area when shrinking to less than half). Letterbox bars hold the
    normalisation's mean, which the network reads as zero.
    """

    def __init__(self, buffer: NDArray[np.uint8], fit: Fit, normalization: Normalization) -> None:
        self._picture = buffer[0]
        self._size = Size(*self._picture.shape[:2])
        self._fit: Fit = fit
        self._bars = np.clip(np.rint(normalization.mean), 0, 255).astype(np.uint8)
        self._geometry: Geometry | None = None
        self._planes: VideoReformatter | None = None
        self._reformatter: VideoReformatter | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Nothing: every frame is converted to RGB."""
        return ()

    def needs(self, source: Size) -> Size:
        """The height and width that a picture of this size is shown at; no more of its detail is read."""
        _, _, width, height = Geometry.fit(source, self._size, self._fit).placed
        return Size(height, width)

    def __call__(self, frame: Frame) -> Geometry:
        """Write the frame into the buffer; returns how its pixels lie there. Raises FrameError if it cannot be read."""
        geometry = self.place(frame.size)
        left, top, width, height = geometry.placed
        view = self._picture[max(top, 0) : top + height, max(left, 0) : left + width]
        try:
            if frame.pixels is not None and frame.pixels.shape == view.shape and frame.order == "bgr":
                cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2RGB, dst=view)
                return geometry
            resized = self._resized(frame, width, height)
        except (OSError, ValueError, cv2.error) as error:
            raise FrameError(f"frame {frame.index} of {frame.size} cannot be converted: {error}") from error
        skip_y, skip_x = max(-top, 0), max(-left, 0)
        view[...] = resized[skip_y : skip_y + view.shape[0], skip_x : skip_x + view.shape[1]]
        return geometry

    def place(self, source: Size) -> Geometry:
        """How a frame of this size lies in the buffer; a new size clears the bars. Raises FrameError."""
        if self._geometry is None or self._geometry.source != source:
            geometry = placed(source, self._size, self._fit)
            self._geometry = geometry
            self._picture[...] = self._bars
        return self._geometry

    def _resized(self, frame: Frame, width: int, height: int) -> Image:
        """The whole frame as RGB of this size."""
        if frame.video is not None:
            return self._from_video(frame.video, width, height)
        pixels, order = frame.pixels, frame.order
        if frame.encoded is not None:
            pixels, order = frame.encoded.at_least(Size(height, width)), "bgr"
        assert pixels is not None
        if pixels.shape[:2] != (height, width):
            shrinks = min(height / pixels.shape[0], width / pixels.shape[1]) < AREA_BELOW
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            pixels = cv2.resize(pixels, (width, height), interpolation=how).view(np.uint8)
        return pixels if order == "rgb" else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).view(np.uint8)

    def _from_video(self, video: VideoFrame, width: int, height: int) -> Image:
        """A decoder's frame as RGB: its planes are resized first, since there are far fewer pixels to convert then."""
        if self._reformatter is None:
            from av.video.reformatter import VideoReformatter

            self._planes, self._reformatter = VideoReformatter(), VideoReformatter()
        assert self._planes is not None
        name = video.format.name
        if name not in HALF_CHROMA and not video.format.is_rgb:
            # Straight to RGB swscale is two levels too dark for most. What has more chroma than 4:2:0 keeps it.
            planes = "yuv420p" if name in INTERLEAVED else "yuv444p"
            number = 2 if Colour.of(video).range == "full" else 1
            levels = {"src_color_range": number, "dst_color_range": number}
            video = self._planes.reformat(video, width, height, planes, interpolation="BILINEAR", threads=1, **levels)
        elif name in HALF_CHROMA and (video.width, video.height) != (width, height):
            video = self._planes.reformat(video, width, height, interpolation="BILINEAR", threads=1)
        small = self._reformatter.reformat(video, width, height, "rgb24", interpolation="BILINEAR", threads=1)
        plane = small.planes[0]
        return np.ndarray((height, width, 3), np.uint8, memoryview(plane), strides=(plane.line_size, 3, 1))
