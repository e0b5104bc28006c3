"""JPEG pictures decoded no larger than they are needed, by the decoder's own reduced transforms."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import FrameError
from sharedbb.types import Size

FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the SOF markers of ITU-T T.81, table B.1
BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))  # those without a length: TEM, RST, SOI


class Jpeg:
    """A JPEG file in memory, decoded at 1/2, 1/4 or 1/8 of its size, and once more in full where all of it is wanted.

    A block's transform of fewer points gives nearly the mean of the pixels that each of them stands for. ``size`` is
    that of the whole picture, as oriented.
    """

    def __init__(self, data: NDArray[np.uint8], by: int, *, oriented: bool = True) -> None:
        """``data`` are the file's bytes, uint8; ``by`` divides both sides; ``oriented`` applies EXIF's orientation.

        Raises FrameError when it is damaged.
        """
        self._data, self._oriented = data, oriented
        self._reduced = self._decoded(by)
        self.size = Size(self._reduced.shape[0] * by, self._reduced.shape[1] * by)

    @classmethod
    def reduced(cls, data: NDArray[np.uint8], at_least: Callable[[Size], Size]) -> Jpeg | None:
        """The picture decoded no larger than need be; None when it is no JPEG, or needed at more than half its size.

        ``at_least`` takes the whole picture's size and gives the smallest that will do; it is asked about the picture
        upright and on its side, since that is known when it is decoded. Raises FrameError when it is damaged.
        """
        stored = stored_size(data)
        if stored is None:
            return None
        turned = Size(stored.width, stored.height)
        by = min(reduction(size, at_least(size)) for size in (stored, turned))
        return cls(data, by) if by > 1 else None

    def at_least(self, least: Size) -> NDArray[np.uint8]:
        """The picture as HWC uint8 BGR: as it was decoded where that is no smaller than ``least``, else in full."""
        height, width = self._reduced.shape[:2]
        return self._reduced if height >= least.height and width >= least.width else self._decoded(1)

    def _decoded(self, by: int) -> NDArray[np.uint8]:
        try:
            picture = cv2.imdecode(self._data, FLAGS[by] | (0 if self._oriented else cv2.IMREAD_IGNORE_ORIENTATION))
        except cv2.error:
            picture = None
        if picture is None:
            raise FrameError("the JPEG picture is damaged")
        return picture.view(np.uint8)


def reduction(size: Size, least: Size) -> int:
    """The largest of 8, 4, 2 and 1 that divides ``size`` and leaves no less than ``least``.

    A size that is not divided would leave part of a pixel at the far edge, and everything else out of place.
    """
    for by in (8, 4, 2):
        whole = size.height % by == size.width % by == 0
        if whole and size.height // by >= least.height and size.width // by >= least.width:
            return by
    return 1


def stored_size(data: NDArray[np.uint8]) -> Size | None:
    """Height and width in a JPEG file's header, before any orientation; None where there is no such header."""
    raw = data.data
    if len(raw) < 4 or raw[0] != 0xFF or raw[1] != 0xD8:
        return None
    at = 2
    while at + 9 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xFF or marker in BARE_MARKERS:
            at += 1 if marker == 0xFF else 2
        elif marker in FRAME_HEADERS:
            height, width = (int.from_bytes(raw[at + place : at + place + 2], "big") for place in (5, 7))
            return Size(height, width) if height and width else None
        else:
            at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    return None
