"""One stage of one stream, computed in parts: its changes to catch up with, its tiles, its results pasted in place."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sharedbb.program import Device, Patches, Session, Stage, Tiles
from sharedbb.reuse.policy import Work, decide
from sharedbb.reuse.regions import CELL, Cover, Mask, Price, grid
from sharedbb.types import Size

MOSTLY = 0.5  # of the cells pending: from there on, results are not compared with what was there

Changed = dict[str, Mask | None]


class TileSession:
    """A stream's use of one bucket of tiles: the batches that it reads, and their patches."""

    def __init__(self, stage: Stage, tiles: Tiles, features: Mapping[str, Any], device: Device, size: Size) -> None:
        assert stage.tiling is not None
        crop = stage.tiling.crop(tiles.size, size)
        strides = zip(stage.facts.inputs, stage.tiling.inputs, strict=True)
        self.crop = crop
        self.count = tiles.count
        self.batches = [
            device.batch(features[name], tiles.count, crop.height // stride, crop.width // stride)
            for name, stride in strides
        ]
        self.inputs = [device.patches(batch) for batch in self.batches]
        self._session = tiles.executable.session()
        self._device = device
        self._known: list[tuple[Any, Patches]] = []

    def __call__(self) -> list[Patches]:
        """Run the batch; the results as patches."""
        results = self._session(self.batches)
        known = [result for result, _ in self._known]
        if len(known) != len(results) or any(map(operator.is_not, known, results)):
            # A session may fill the same buffers every time, or hand out new ones.
            self._known = [(result, self._device.patches(result)) for result in results]
        return [patches for _, patches in self._known]


class Part:
    """A stage, and what this stream still has to compute of it.

    ``pending``: the cells of its outputs that may be out of date, None for none; for a stage that cannot be divided,
    all or none. ``since``: timestamp of the oldest change that waits. ``done``: what was computed on this frame, in
    multiply-adds.
    """

    def __init__(self, stage: Stage, device: Device, size: Size) -> None:
        self.stage = stage
        self.facts = stage.facts
        self.device = device
        self.size = size
        self.grid = grid(size)
        self.prices = tuple(Price(tiles.size, tiles.count, tiles.measured_ms) for tiles in stage.tiles)
        self.strides = [self._stride(shape) for shape in stage.facts.shapes]
        self._sessions: dict[int, TileSession] = {}
        self._wholes: dict[bool, Session] = {}
        self.settle()

    def settle(self) -> None:
        """Nothing is pending any more."""
        self.pending: Mask | None = None
        self.since: float | None = None
        self._foreseen: tuple[Mask, Work] | None = None

    def expect(self, name: str, changed: Mask, timestamp: float) -> None:
        """Note that an input changed in some cells."""
        pending = self._pending_with({name: changed})
        if pending is None:
            return
        self.pending = pending
        if self.since is None:
            self.since = timestamp

    def _pending_with(self, changed: Mapping[str, Mask]) -> Mask | None:
        """What would be pending if inputs changed in these cells; None for nothing."""
        tiling, own = self.stage.tiling, [changed.get(name) for name in self.facts.inputs]
        if tiling is not None:
            reached = tiling.reached(own)
        else:
            reached = None if all(mask is None for mask in own) else np.ones(self.grid, np.bool_)
        if reached is None or self.pending is None:
            return self.pending if reached is None else reached
        return reached | self.pending

    def foresee(self, changed: Mapping[str, Mask]) -> tuple[float, Mask | None]:
        """What changes of inputs, with all that is pending, would cost now: milliseconds, and the cells they can touch.

        The cells are None where nothing is to be done. What is found out for that serves ``work`` as well.
        """
        pending = self._pending_with(changed)
        if pending is None:
            return 0.0, None
        work = self._decide(pending, wait=False)
        self._foreseen = (pending, work)
        return (self.whole_ms if work.cover is None else work.cover.milliseconds), pending

    @property
    def whole_ms(self) -> float:
        """Milliseconds of the whole stage, infinite where that was not measured."""
        return self.facts.measured_ms or np.inf

    def work(self, *, wait: bool) -> Work:
        """How to catch up."""
        assert self.pending is not None
        if not wait and self._foreseen is not None and np.array_equal(self._foreseen[0], self.pending):
            return self._foreseen[1]
        return self._decide(self.pending, wait=wait)

    def _decide(self, pending: Mask, *, wait: bool) -> Work:
        tiling = self.stage.tiling
        step = tiling.step if tiling is not None else CELL
        divisible = pending if tiling is not None else None
        return decide(divisible, self.prices, step, self.size, self.whole_ms, wait=wait)

    def run_tiles(
        self, cover: Cover, features: Mapping[str, Any], patches: Mapping[str, Patches], tolerance: Mapping[str, float]
    ) -> tuple[Changed, int]:
        """Compute the tiles of a cover and paste what moved; returns where each output changed, and multiply-adds."""
        stage, tiling, pending = self.stage, self.stage.tiling, self.pending
        assert tiling is not None
        assert pending is not None
        tiles = stage.tiles[cover.bucket]
        session = self._session(cover.bucket, features)
        ring, crop = tiling.ring(), session.crop
        side = tiles.size // CELL
        dirty_windows = sliding_window_view(pending, (min(side, self.grid[0]), min(side, self.grid[1])))
        changed: Changed = dict.fromkeys(self.facts.outputs)
        calls = range(0, len(cover.rows), session.count)
        for start in calls:
            rows, columns = cover.rows[start : start + session.count], cover.columns[start : start + session.count]
            top = np.clip(rows - ring.top, 0, self.size.height - crop.height)
            left = np.clip(columns - ring.left, 0, self.size.width - crop.width)
            for name, stride, batch in zip(self.facts.inputs, tiling.inputs, session.inputs, strict=True):
                patches[name].take(top // stride, left // stride, batch)
            dirty = dirty_windows[rows // CELL, columns // CELL]
            for name, stride, result in zip(self.facts.outputs, tiling.outputs, session(), strict=True):
                every, block = max(1, stride // CELL), max(1, CELL // stride)
                accepted = patches[name].put(
                    rows // stride,
                    columns // stride,
                    result,
                    (rows - top) // stride,
                    (columns - left) // stride,
                    dirty[:, ::every, ::every],
                    block,
                    tolerance.get(name, 0.0),
                )
                self._note(changed, name, accepted, rows // CELL, columns // CELL, every)
        self.settle()
        return changed, tiles.macs * len(calls)

    def run_whole(
        self, features: Mapping[str, Any], patches: Mapping[str, Patches], tolerance: Mapping[str, float]
    ) -> tuple[Changed, int]:
        """Compute everything and paste what was pending and moved; returns where, and multiply-adds.

        Where most is pending, comparing would cost more than it spares: then everything is replaced and counts as
        changed.
        """
        pending, names = self.pending, self.facts.outputs
        assert pending is not None
        compare = all(self.strides) and pending.mean() < MOSTLY
        session = self._wholes.get(compare)
        if session is None:
            into = None if compare else [features[name] for name in names]
            session = self._wholes[compare] = self.stage.executable.session(into)
        results = session([features[name] for name in self.facts.inputs])
        changed: Changed = dict.fromkeys(names, None if compare else np.ones(self.grid, np.bool_))
        for name, stride, result in zip(names, self.strides, results, strict=True) if compare else ():
            every, block = max(1, stride // CELL), max(1, CELL // stride)
            rows, columns = np.nonzero(pending[::every, ::every])
            at, dirty = (rows * block, columns * block), np.ones((len(rows), 1, 1), np.bool_)
            batch = self.device.patches(result)
            accepted = patches[name].put(*at, batch, *at, dirty, block, tolerance.get(name, 0.0))
            self._note(changed, name, accepted, rows * every, columns * every, every)
        self.settle()
        return changed, self.facts.macs

    def _note(self, changed: Changed, name: str, accepted: Any, rows: Any, columns: Any, every: int) -> None:
        """Enter accepted blocks of tiles, which begin at these cells of the mask."""
        if not accepted.any():
            return
        mask = changed[name]
        if mask is None:
            mask = changed[name] = np.zeros(self.grid, np.bool_)
        tile, row, column = np.nonzero(accepted)
        row, column = rows[tile] + row * every, columns[tile] + column * every
        for down in range(every):
            for right in range(every):
                mask[row + down, column + right] = True

    def _session(self, bucket: int, features: Mapping[str, Any]) -> TileSession:
        if bucket not in self._sessions:
            self._sessions[bucket] = TileSession(self.stage, self.stage.tiles[bucket], features, self.device, self.size)
        return self._sessions[bucket]

    def _stride(self, shape: Sequence[int]) -> int:
        """Network pixels a cell of an output, 0 where it is no map that divides the picture and the mask evenly."""
        height, width = self.size.height, self.size.width
        if len(shape) != 3 or height % shape[1] or width % shape[2] or height % CELL or width % CELL:
            return 0
        stride = height // shape[1]
        return stride if stride * shape[2] == width and not (CELL % stride and stride % CELL) else 0
