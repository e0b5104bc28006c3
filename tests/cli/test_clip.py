"""The generated clip: made whole or not at all, and played as often as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from sharedbb import media
from sharedbb.cli.clip import Repeated, street_clip
from sharedbb.cli.session import Screen
from sharedbb.errors import SourceError
from sharedbb.media.synthetic import StreetVideo
from sharedbb.types import Frame, Size

SCREEN = Screen(Console(), Console(), quiet=True)


def test_a_clip_that_breaks_off_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Torn(StreetVideo):
        def __iter__(self) -> Iterator[Frame]:
            yield next(super().__iter__())
            raise SourceError("no more")

    monkeypatch.setattr(media, "open_source", lambda source: Torn(Size(64, 96)))
    with pytest.raises(SourceError, match="no more"):
        street_clip(tmp_path, 3, Size(64, 96), SCREEN)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_is_played_again_and_again(clip: Path) -> None:
    with Repeated(clip, "clip", 30) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(30))
    assert frames[29].timestamp == pytest.approx(29 / 25)
    levels = [float(frame.rgb().mean()) for frame in frames]
    assert levels[12:24] == levels[:12]
    assert levels[24:] == levels[:6]
    assert levels[0] < levels[11]


def test_motion_is_read_where_it_is_wanted(clip: Path) -> None:
    for wanted in (True, False):
        with Repeated(clip, "clip", 14, motion=wanted) as source:
            carried = [frame.video is not None and frame.video.side_data.get("MOTION_VECTORS") for frame in source]
            assert any(carried) == wanted
