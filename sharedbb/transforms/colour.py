"""What a stream's numbers mean: the matrix and range of Y'CbCr, and the affine maps between it and RGB.

All values are in grey levels of eight bits, 0–255, and in the order Y, Cb, Cr (in a decoder's words: Y, U, V).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import TransformError

if TYPE_CHECKING:
    from av import VideoFrame

Matrix = Literal["bt601", "bt709", "fcc", "smpte240m", "bt2020"]
Range = Literal["limited", "full"]

LUMA: Mapping[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
    "bt2020": (0.2627, 0.0593),
}
"""The shares of red and blue in luma, Kr and Kb (ITU-T H.273, table 4)."""

TAGGED: Mapping[int, Matrix] = {
    1: "bt709",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    9: "bt2020",
    10: "bt2020",
}
"""A stream's matrix by its tag (H.273's MatrixCoefficients, FFmpeg's AVColorSpace)."""

UNTAGGED: Matrix = "bt601"
"""What swscale takes where the tag is missing or another one, at any size; both ways into the network agree on it."""

RANGES: Mapping[int, Range] = {1: "limited", 2: "full"}
"""A stream's range by its tag (FFmpeg's AVColorRange)."""


@dataclass(frozen=True, slots=True)
class Colour:
    """The matrix and range of a Y'CbCr picture.

    ``limited``: luma 16–235, chroma 16–240; ``full``: both 0–255. Chroma is centred on 128 in either.

    Raises TransformError for a matrix or range that does not exist.
    """

    matrix: Matrix = UNTAGGED
    range: Range = "limited"

    def __post_init__(self) -> None:
        if self.matrix not in LUMA:
            raise TransformError(f"no colour matrix {self.matrix!r}; there are {', '.join(LUMA)}")
        if self.range not in get_args(Range):
            raise TransformError(f"no range {self.range!r}; there are {', '.join(get_args(Range))}")

    def __str__(self) -> str:
        return f"{self.matrix} {self.range}"

    @classmethod
    def of(cls, video: VideoFrame, untagged: Colour | None = None) -> Colour:
        """What a decoder's frame says of itself; where it says nothing, ``untagged``: what swscale takes without one.

        That is BT.601, limited. Formats of the family ``yuvj`` are of full range whatever their tag says.
        """
        otherwise = untagged or cls()
        known = RANGES.get(int(video.color_range), otherwise.range)
        matrix = TAGGED.get(int(video.colorspace), otherwise.matrix)
        return cls(matrix, "full" if video.format.name.startswith("yuvj") else known)

    def from_rgb(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Matrix A [3, 3] and offset b [3] of ``yuv = A @ rgb + b``."""
        red, blue = LUMA[self.matrix]
        luma = np.array([red, 1 - red - blue, blue])
        cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
        cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
        foot, luma_span, chroma_span = (0.0, 1.0, 1.0) if self.range == "full" else (16.0, 219 / 255, 224 / 255)
        spans = np.array([[luma_span], [chroma_span], [chroma_span]])
        return np.stack([luma, cb, cr]) * spans, np.array([foot, 128.0, 128.0])

    def to_rgb(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Matrix A [3, 3] and offset b [3] of ``rgb = A @ (yuv - b)``; colours outside 0–255 are not clipped."""
        matrix, offset = self.from_rgb()
        return np.linalg.inv(matrix).astype(np.float64, copy=False), offset

    def towards(self, other: Colour) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Matrix A [3, 3] and offset b [3] of ``yuv_of_other = A @ yuv + b``.

        Grey stays grey, so the chroma rows do not depend on luma: ``A[1:, 0]`` is 0 exactly. Where the matrices are the
        same, A is diagonal exactly.
        """
        to_rgb, own = self.to_rgb()
        from_rgb, others = other.from_rgb()
        matrix = from_rgb @ to_rgb
        if self.matrix == other.matrix:
            matrix = np.diag(np.diag(matrix))
        matrix[1:, 0] = 0.0
        return matrix, others - matrix @ own
