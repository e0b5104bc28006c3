"""Ctrl-C, requests to terminate and terminals that close: at once while waiting or computing, else between frames.

While the files of a frame are written, they wait for its end.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

T = TypeVar("T")

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(BaseException):
    """The user or the system asked to stop; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, a signal raises Interrupted wherever the main thread is. Elsewhere than in the main thread: nothing."""
    with _handled_by(_raise):
        yield


def between(items: Iterable[T]) -> Iterator[T]:
    """The items; a signal that comes while the caller works on one waits until the next is asked for.

    A second signal does not wait. While an item is fetched, signals act as they did before.
    """
    for item in items:
        waiting = _Waiting()
        with _handled_by(waiting):
            yield item
        if waiting.number is not None:
            raise Interrupted(waiting.number)


class _Waiting:
    """A handler that remembers the first signal and raises at the second."""

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise Interrupted(number)
        self.number = number


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has it
    before = [(number, signal.signal(number, handler)) for number in heard]
    try:
        yield
    finally:
        for number, handled in before:
            signal.signal(number, handled)
