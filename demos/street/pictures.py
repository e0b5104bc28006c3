"""Labelled pictures: CamVid from a folder, the synthetic street rendered once into a cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2

from sharedbb.learn.data import Data, Sample, labelled, open_data
from sharedbb.media.synthetic import CLASSES


def camvid(folder: Path, split: str) -> Data:
    """All pictures of ``train``, ``val`` or ``test``, by name. Raises DataError when there are none."""
    return open_data(f"camvid:{folder}").of(split)


def cached_synthetic(folder: Path) -> Data | None:
    """The frames that ``synthetic.render`` left in ``folder``; None when it is absent."""
    if not (folder / "done.json").is_file():
        return None
    return labelled(str(folder), [(folder / "rgb", folder / "labels")], CLASSES)


def write_cache(folder: Path, samples: Sequence[Sample], recipe: dict[str, object]) -> None:
    """Store ``samples`` as JPEG pictures (quality 95) and PNG labels; ``done.json`` is written last."""
    for name in ("rgb", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for sample in samples:
        bgr = cv2.cvtColor(sample.rgb, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / "rgb" / f"{sample.name}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(folder / "labels" / f"{sample.name}.png"), sample.labels)
    (folder / "done.json").write_text(json.dumps(recipe, indent=2) + "\n")
