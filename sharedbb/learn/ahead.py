"""Work that is begun before its result is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def ahead(make: Callable[[Given], Made], given: Iterable[Given], threads: int) -> Generator[Made]:
    """What ``make`` makes of each of ``given``, in order; as many as there are threads are being made meanwhile.

    Without threads each is made when it is asked for. ``given`` may be endless: close the iterator to end the work.
    """
    if not threads:
        yield from map(make, given)
        return
    pool, begun = ThreadPoolExecutor(threads), deque[Future[Made]]()
    try:
        for one in given:
            begun.append(pool.submit(make, one))
            if len(begun) > threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
