"""Work ahead of time: the same results in the same order, no more of it than was asked for."""

from __future__ import annotations

import itertools
import threading

import pytest

from sharedbb.learn.ahead import ahead


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_are_those_of_map_in_order(threads: int) -> None:
    assert list(ahead(lambda number: number**2, range(20), threads)) == [number**2 for number in range(20)]


@pytest.mark.parametrize(("threads", "begun"), [(0, 1), (3, 4)])
def test_no_more_is_begun_than_there_are_threads_besides_what_is_asked_for(threads: int, begun: int) -> None:
    made = []
    with_all = ahead(made.append, itertools.count(), threads)
    next(with_all)
    with_all.close()
    assert len(made) <= begun


def test_threads_work_while_nobody_asks() -> None:
    later = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            later.set()
        return number

    results = ahead(make, range(3), 2)
    assert next(results) == 0
    assert later.wait(5)
    assert list(results) == [1, 2]


def test_an_error_comes_where_its_result_would() -> None:
    results = ahead(lambda number: 1 // number, [1, 0, 1], 2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
