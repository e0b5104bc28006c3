"""Decoding ahead: a source read in a thread of its own, through a queue of bounded length."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Literal, Self

from sharedbb.errors import SharedBBError
from sharedbb.types import Frame

PARTING_SECONDS = 1.0  # how long closing waits for a thread that hangs in a dead camera


class Prefetch:
    """Iterates a source, up to ``size`` frames read ahead by a daemon thread; used once, in a ``with`` block.

    A live source with ``when_late="drop_oldest"`` never waits: when the queue is full its oldest frame is dropped and
    counted in ``dropped``. Any other source waits for the consumer. What breaks the source is raised to the consumer
    after the frames that came before it. Leaving the block ends the thread, whatever it waits for; a generator that it
    reads is closed there, in its thread.
    """

    def __init__(
        self, source: Iterable[Frame], size: int, when_late: Literal["drop_oldest", "wait"], live: bool = False
    ) -> None:
        if size < 1:
            raise SharedBBError(f"a queue holds at least 1 frame, got {size}")
        self.dropped = 0
        self._told = (0, 0)
        self._source = source
        self._size = size
        self._drops = live and when_late == "drop_oldest"
        self._queue: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._finished = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sharedbb-decode", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and forget what is queued; a thread that hangs in its source is left behind after a second."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(PARTING_SECONDS)

    def __iter__(self) -> Iterator[Frame]:
        if self._thread.ident is None:
            raise SharedBBError("Prefetch reads nothing outside of a with block")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._finished or self._closed)
                if not self._queue:
                    break
                frame = self._queue.popleft()
                self._changed.notify_all()
            yield frame
        if self._error is not None and not self._closed:
            raise self._error

    def lost(self) -> tuple[int, int]:
        """How many frames were dropped, and how many damaged ones the source left out, since this was last asked."""
        now = self.dropped, int(getattr(self._source, "skipped", 0))
        before, self._told = self._told, now
        return now[0] - before[0], now[1] - before[1]

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # handed to the consumer, whatever it is
            self._error = error
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _read(self) -> None:
        frames = iter(self._source)
        try:
            for frame in frames:
                if not self._put(frame):
                    break
        finally:
            if isinstance(frames, Generator):
                frames.close()

    def _put(self, frame: Frame) -> bool:
        """Queue a frame; False when nobody wants more."""
        with self._changed:
            if not self._drops:
                self._changed.wait_for(lambda: len(self._queue) < self._size or self._closed)
            if self._closed:
                return False
            while len(self._queue) >= self._size:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(frame)
            self._changed.notify_all()
            return True
