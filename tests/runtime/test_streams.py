"""Decoding ahead: order, a bounded queue, drops that are counted, errors in their place, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest

from sharedbb.errors import SharedBBError, SourceError
from sharedbb.runtime.streams import Prefetch
from sharedbb.types import Frame

PATIENCE = 10.0  # seconds after which a test gives up; nothing waits for it when all is well


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def frame(index: int) -> Frame:
    return Frame(index, index / 10, np.zeros((1, 1, 3), np.uint8))


class Steps:
    """A source of frames that can be held at any frame, and tells how far it has got.

    It passes frame ``n`` on once ``allow(n)`` was called; ``at[n]`` is set when it has been asked for frame ``n``.
    """

    def __init__(self, count: int, held: bool = False, error: BaseException | None = None) -> None:
        self.at = [threading.Event() for _ in range(count + 1)]
        self.allowed = [threading.Event() for _ in range(count)]
        self.error = error
        self.closed_in: threading.Thread | None = None
        self.closed = threading.Event()
        if not held:
            self.allow(count - 1)

    def allow(self, index: int) -> None:
        for event in self.allowed[: index + 1]:
            event.set()

    def __iter__(self) -> Iterator[Frame]:
        try:
            for index, allowed in enumerate(self.allowed):
                self.at[index].set()
                assert allowed.wait(PATIENCE)
                yield frame(index)
            self.at[-1].set()
            if self.error is not None:
                raise self.error
        finally:
            self.closed_in = threading.current_thread()
            self.closed.set()


def numbers(frames: Iterator[Frame]) -> list[int]:
    return [one.index for one in frames]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("when_late", ["wait", "drop_oldest"])
@pytest.mark.parametrize("live", [False, True])
def test_all_frames_in_order_unless_they_may_be_dropped(
    size: int, when_late: Literal["wait", "drop_oldest"], live: bool
) -> None:
    with Prefetch(Steps(50), size, when_late, live) as frames:
        taken = numbers(iter(frames))
    assert taken == sorted(set(taken))
    assert len(taken) + frames.dropped == 50
    if not live or when_late == "wait":
        assert frames.dropped == 0
    assert taken[-1] == 49


def test_no_more_than_the_queue_holds_is_read_ahead() -> None:
    source = Steps(20)
    with Prefetch(source, 3, "wait") as frames:
        taken = iter(frames)
        # Three wait, the fourth is in the thread's hand and waits for room.
        assert source.at[3].wait(PATIENCE)
        assert not source.at[4].is_set()
        assert next(taken).index == 0
        assert source.at[4].wait(PATIENCE)
        assert not source.at[5].is_set()
        assert numbers(taken) == list(range(1, 20))


def test_a_live_source_drops_the_oldest() -> None:
    source = Steps(10)
    with Prefetch(source, 3, "drop_oldest", live=True) as frames:
        assert source.closed.wait(PATIENCE)  # it never waited for anybody
        assert numbers(iter(frames)) == [7, 8, 9]
        assert frames.dropped == 7


def test_nothing_is_dropped_while_the_consumer_keeps_up() -> None:
    source = Steps(10, held=True)
    with Prefetch(source, 1, "drop_oldest", live=True) as frames:
        taken = iter(frames)
        for index in range(10):
            source.allow(index)
            assert next(taken).index == index
        assert list(taken) == []
    assert frames.dropped == 0


def test_drops_are_known_by_the_frame_after_them() -> None:
    source = Steps(6, held=True)
    with Prefetch(source, 2, "drop_oldest", live=True) as frames:
        taken = iter(frames)
        source.allow(0)
        assert (next(taken).index, frames.dropped) == (0, 0)
        source.allow(4)
        assert source.at[5].wait(PATIENCE)
        assert (next(taken).index, frames.dropped) == (3, 2)
        source.allow(5)
        assert numbers(taken) == [4, 5]
        assert frames.dropped == 2


@pytest.mark.parametrize("error", [SourceError("it broke"), KeyboardInterrupt("Ctrl-C"), MemoryError()])
def test_an_error_comes_after_the_frames_before_it(error: BaseException) -> None:
    source = Steps(3, error=error)
    with Prefetch(source, 5, "wait") as frames:
        assert source.closed.wait(PATIENCE)
        taken = iter(frames)
        assert [next(taken).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(type(error)) as raised:
            next(taken)
        assert raised.value is error


def test_an_error_at_once() -> None:
    class Broken:
        def __iter__(self) -> Iterator[Frame]:
            raise SourceError("no such camera")

    with Prefetch(Broken(), 5, "wait") as frames, pytest.raises(SourceError, match="no such camera"):
        next(iter(frames))


def test_an_empty_source() -> None:
    with Prefetch([], 5, "wait") as frames:
        assert list(frames) == []


def test_closing_while_the_reader_waits_for_room() -> None:
    source = Steps(10)
    with Prefetch(source, 2, "wait"):
        assert source.at[2].wait(PATIENCE)
    assert source.closed.is_set()
    assert source.closed_in is not threading.current_thread()  # a generator is closed where it runs
    assert not source.at[3].is_set()


def test_closing_in_the_middle_of_a_loop() -> None:
    source = Steps(10)
    with Prefetch(source, 2, "wait") as frames:
        for taken in frames:
            if taken.index == 3:
                break
    assert source.closed.is_set()
    assert not source.at[-1].is_set()


def test_closing_when_the_consumer_fails() -> None:
    source = Steps(10)

    def consume() -> None:
        with Prefetch(source, 2, "wait") as frames:
            next(iter(frames))
            raise ValueError("in the consumer")

    with pytest.raises(ValueError, match="in the consumer"):
        consume()
    assert source.closed.is_set()


def elsewhere(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_closing_while_the_consumer_waits() -> None:
    source = Steps(2, held=True)
    taken: list[int] = []
    with Prefetch(source, 2, "wait") as frames:
        consumer = elsewhere(lambda: taken.extend(numbers(iter(frames))))
        assert source.at[0].wait(PATIENCE)
        closing = elsewhere(frames.close)
        consumer.join(PATIENCE)  # it is let go although the source still hangs
        assert not consumer.is_alive()
        source.allow(1)
        closing.join(PATIENCE)
        assert not closing.is_alive()
    assert taken == []


def test_an_error_after_closing_bothers_nobody() -> None:
    waits, goes_on = threading.Event(), threading.Event()

    def broken() -> Iterator[Frame]:
        waits.set()
        assert goes_on.wait(PATIENCE)
        raise SourceError("closed under its feet")
        yield frame(0)

    with Prefetch(broken(), 2, "wait") as frames:
        assert waits.wait(PATIENCE)
        closing = elsewhere(frames.close)
        assert list(frames) == []
        goes_on.set()
        closing.join(PATIENCE)
    assert isinstance(frames._error, SourceError)
    assert list(frames) == []


def test_a_source_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharedbb.runtime.streams.PARTING_SECONDS", 0.01)
    source = Steps(1, held=True)
    with Prefetch(source, 2, "wait") as frames:
        assert source.at[0].wait(PATIENCE)
    [reader] = [thread for thread in threading.enumerate() if thread.name == "sharedbb-decode"]
    assert reader.daemon
    assert list(frames) == []
    source.allow(0)
    reader.join(PATIENCE)
    assert source.closed.is_set()


def test_a_generator_is_closed_also_when_somebody_else_holds_it() -> None:
    given = iter(Steps(10))
    with Prefetch(given, 1, "wait") as frames:
        assert next(iter(frames)).index == 0
    assert list(given) == []


def test_other_iterators_are_left_open() -> None:
    class Camera:
        """A source that is its own iterator, and somebody else's to close."""

        closed = False

        def __iter__(self) -> Iterator[Frame]:
            return self

        def __next__(self) -> Frame:
            return frame(0)

        def close(self) -> None:
            self.closed = True

    camera = Camera()
    with Prefetch(camera, 1, "wait") as frames:
        assert next(iter(frames)).index == 0
    assert not camera.closed


def test_misuse_is_an_error_and_no_hang() -> None:
    with pytest.raises(SharedBBError, match="a queue holds at least 1 frame, got 0"):
        Prefetch([], 0, "wait")
    with pytest.raises(SharedBBError, match="outside of a with block"):
        next(iter(Prefetch([frame(0)], 1, "wait")))
    with Prefetch([frame(0)], 1, "wait") as frames:
        pass
    assert list(frames) == []
