"""Frames of the synthetic street, rendered once and kept: few from each of many streets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharedbb.learn.data import Sample
from sharedbb.media.synthetic import StreetVideo
from street.pictures import write_cache

FIRST_SEED = 1000
FRAMES_A_STREET = 4
SECONDS_APART = 4.0


def render(folder: Path, frames: int, seed: int) -> None:
    """Write ``frames`` labelled frames at 640×384 into ``folder``; streets have seeds of FIRST_SEED and up.

    Half of the streets are seen by a driving camera; light, noise and what stands there differ.
    """
    samples = [_sample(FIRST_SEED + 10_000 * seed + index // FRAMES_A_STREET, index) for index in range(frames)]
    write_cache(folder, samples, {"frames": frames, "seed": seed, "streets": -(-frames // FRAMES_A_STREET)})


def _sample(street: int, index: int) -> Sample:
    rng = np.random.default_rng((street, index))
    steps = round(SECONDS_APART * 25)
    video = StreetVideo(
        motion=("drive", "static", "drive", "pan")[street % 4],
        seed=street,
        frames=steps * FRAMES_A_STREET,
        noise=float(rng.uniform(0, 4)),
        lighting=("steady", "changing")[street % 3 // 2],
    )
    made = video.render(index % FRAMES_A_STREET * steps + int(rng.integers(0, steps)))
    return Sample(f"street{street}_{index:04d}", made.frame.rgb(), made.classes)
