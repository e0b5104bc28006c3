"""The same picture with a little noise: what that does to features and answers is the measure of every error."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharedbb.program import Program


class NoisyTrial:
    """Computes everything from a picture to which one grey level of noise is added, in buffers of its own."""

    def __init__(self, program: Program, seed: int) -> None:
        assert program.whole is not None
        self._device, self._facts = program.device, program.whole.facts
        self._picture = program.device.picture(program.size, program.planes)
        self._session = program.whole.executable.session()
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Begin with the first noise again."""
        self._dice = np.random.default_rng(self._seed)

    def __call__(self, reference: Any) -> dict[str, Any]:
        """All features of a picture (``sharedbb.program.Picture``) with noise; they last until the next call."""
        for name, array in reference.planes.items():
            noise = self._dice.integers(-1, 2, array.shape, np.int16)
            self._picture.planes[name][...] = np.clip(array + noise, 0, 255)
        self._device.upload(self._picture)
        given = [self._picture.features[name] for name in self._facts.inputs]
        return dict(zip(self._facts.outputs, self._session(given), strict=True))
