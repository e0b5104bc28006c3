"""In which form a compiled network reads its picture, and which forms a source can give. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.program import Intake
from sharedbb.spec import Input
from sharedbb.spec.transforms import AnyTransform, AutoTransform, Yuv420Transform
from sharedbb.transforms import RgbIntake
from sharedbb.transforms.certificate import Certificate
from sharedbb.transforms.colour import Colour
from sharedbb.transforms.rgb import HALF_CHROMA
from sharedbb.transforms.yuv420 import Yuv420Intake
from sharedbb.types import Fit, Frame, Normalization, Plane

Planes = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Form:
    """What the network reads: the ``planes``, in ``colour`` (matrix and range) where they are no RGB.

    ``stems`` says in words what was done to each convolution that reads the picture, ``certificates`` how wrong those
    are whose bands were left out.
    """

    planes: tuple[Plane, ...]
    colour: Colour | None = None
    stems: tuple[str, ...] = ()
    certificates: tuple[Certificate, ...] = ()

    def intake(self, picture: Input) -> Callable[[Planes], Intake]:
        """Makes a stream's intake for its buffers."""
        if self.colour is None:
            return partial(_rgb, fit=picture.fit, normalization=picture.normalization)
        return partial(Yuv420Intake, fit=picture.fit, normalization=picture.normalization, colour=self.colour)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "planes": [asdict(plane) for plane in self.planes],
            "colour": self.colour and [self.colour.matrix, self.colour.range],
            "stems": list(self.stems),
            "certificates": [one.to_dict() for one in self.certificates],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Form:
        """What ``to_dict`` gave. Raises KeyError, TypeError or ValueError for anything else."""
        planes = [{**plane, "mean": tuple(plane["mean"]), "std": tuple(plane["std"])} for plane in stored["planes"]]
        return cls(
            tuple(Plane(**plane) for plane in planes),
            stored["colour"] and Colour(*stored["colour"]),
            tuple(stored["stems"]),
            tuple(Certificate.from_dict(one) for one in stored["certificates"]),
        )


def _rgb(planes: Planes, fit: Fit, normalization: Normalization) -> RgbIntake:
    return RgbIntake(planes["input"], fit, normalization)


@dataclass(frozen=True, slots=True)
class Given:
    """What a source's first frame is like: its form decides what ``auto`` may choose, and its tags the colours."""

    frame: Frame | None = None

    @classmethod
    def of(cls, source: Any, transform: AnyTransform) -> Given:
        """The first frame of a video, where the transform depends on it.

        Nothing is known of live sources, of pictures, and of sources that may give their frames only once. Raises
        SourceError for a file that cannot be read.
        """
        if not _depends(transform):
            return cls()
        from sharedbb.media.sources import PictureSource, open_source
        from sharedbb.media.video import VideoSource

        if not isinstance(source, str | Path | VideoSource):
            return cls()
        with ExitStack() as stack:
            opened = source if isinstance(source, VideoSource) else stack.enter_context(open_source(source))
            if opened.live or isinstance(opened, PictureSource):
                return cls()
            frames = iter(opened)
            stack.callback(getattr(frames, "close", lambda: None))
            return cls(next(frames, None))

    @property
    def planes(self) -> bool:
        """Whether the frames are a decoder's planes with chroma at half size."""
        video = self.frame.video if self.frame is not None else None
        return video is not None and video.format.name in HALF_CHROMA

    @property
    def colour(self) -> Colour | None:
        """By the stream's own tags, where it is a video in Y'CbCr."""
        video = self.frame.video if self.frame is not None else None
        return Colour.of(video) if video is not None and not video.format.is_rgb else None

    @property
    def decides(self) -> str:
        """What of it the compiled network depends on, for the cache's key."""
        return f"{self.planes} {self.colour}"


def _depends(transform: AnyTransform) -> bool:
    by_tags = isinstance(transform, Yuv420Transform) and "auto" in (transform.matrix, transform.range)
    return by_tags or isinstance(transform, AutoTransform)
