"""Decoding ahead: a source read in a thread of its own, through a queue of bounded length."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Literal, Self

from sharedbb.types import Frame


class Prefetch:
    """Iterates a source, up to ``size`` frames read ahead by a daemon thread.

    A live source with ``when_late="drop_oldest"`` never waits: when the queue is full its oldest frame is dropped and
    counted in ``dropped``. Any other source waits for the consumer. What breaks the source is raised to the consumer
    after the frames that came before it. Leaving the ``with`` block ends the thread, whatever it waits for.
    """

    def __init__(
        self, source: Iterable[Frame], size: int, when_late: Literal["drop_oldest", "wait"], live: bool = False
    ) -> None:
        self.dropped = 0
        self._source = source
        self._size = size
        self._drops = live and when_late == "drop_oldest"
        self._queue: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._finished = False
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="sharedbb-decode", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; a thread that hangs in a dead camera is left behind after a second."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=1.0)

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._finished or self._closed)
                if not self._queue:
                    break
                frame = self._queue.popleft()
                self._changed.notify_all()
            yield frame
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            for frame in self._source:
                if not self._put(frame):
                    break
        except BaseException as error:  # handed to the consumer, whatever it is
            self._error = error
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _put(self, frame: Frame) -> bool:
        """Queue a frame; False when nobody wants more."""
        with self._changed:
            if self._drops:
                while len(self._queue) >= self._size:
                    self._queue.popleft()
                    self.dropped += 1
            else:
                self._changed.wait_for(lambda: len(self._queue) < self._size or self._closed)
            if self._closed:
                return False
            self._queue.append(frame)
            self._changed.notify_all()
            return True
