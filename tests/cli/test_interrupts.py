"""Signals: at once outside of an item, after it inside, at once when they come twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator

import pytest

from sharedbb.cli.interrupts import Interrupted, between, interruptible


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Signals as a program in a terminal gets them, wherever these tests run: in the background SIGINT is ignored."""
    given = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in given.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    signal.getsignal(number)  # the handler has run when this returns


def work(items: Iterable[int], signals: int, done: list[int]) -> None:
    """Go through items, with so many signals while working on each of them."""
    with interruptible():
        for item in between(items):
            for _ in range(signals):
                interrupt()
            done.append(item)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_raises_and_says_which(number: signal.Signals) -> None:
    with interruptible(), pytest.raises(Interrupted, match=number.name) as stop:
        interrupt(number)
    assert stop.value.number == number


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a program
    try:
        done: list[int] = []
        with interruptible():
            for item in between([1, 2]):
                interrupt(signal.SIGHUP)
                done.append(item)
        assert done == [1, 2]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible():
        for _ in between([1, 2]):
            pass
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_waits_until_the_item_is_done() -> None:
    done: list[int] = []
    with pytest.raises(Interrupted):
        work([1, 2, 3], 1, done)
    assert done == [1]


def test_a_second_signal_does_not_wait() -> None:
    done: list[int] = []
    with pytest.raises(Interrupted):
        work([1, 2, 3], 2, done)
    assert done == []


def test_fetching_an_item_is_interrupted_at_once() -> None:
    fetched: list[int] = []

    def slow() -> Iterator[int]:
        yield 1
        interrupt()
        fetched.append(2)
        yield 2

    done: list[int] = []
    with pytest.raises(Interrupted):
        work(slow(), 0, done)
    assert (done, fetched) == ([1], [])


def test_other_threads_get_the_items_and_no_handlers() -> None:
    done: list[int] = []
    with interruptible():
        handler = signal.getsignal(signal.SIGINT)
        thread = threading.Thread(target=lambda: done.extend(between([1, 2])))
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGINT) is handler
    assert done == [1, 2]
