"""The course of a training: its rate, its crops, its clock, and what cannot be one."""

from __future__ import annotations

from typing import Any

import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.course import LONGEST_STEP, Clock, Course


def test_the_rate_warms_up_and_falls() -> None:
    course = Course(steps=1, lr=1.0, warm_up=0.1)
    rates = [course.rate(progress / 100) for progress in range(101)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(rates[10], rel=1e-6)
    assert rates[10] == pytest.approx(0.975, abs=0.01)
    assert rates[-1] == pytest.approx(0.005)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_crops_grow_with_the_training_unless_they_are_given() -> None:
    course = Course(steps=1)
    assert [course.crop_at(progress, (384, 512)) for progress in (0, 0.7, 0.9)] == [(224, 320), (288, 384), (352, 480)]
    assert Course(steps=1, crop=(64, 96)).crop_at(0.9, (384, 512)) == (64, 96)
    assert course.crop_at(0, (32, 40)) == (32, 32)


def test_a_clock_counts_steps_or_work_without_pauses() -> None:
    clock = Clock()
    for loss in (4.0, 2.0):
        clock.tick(6.0, loss)
    assert (clock.step, clock.seconds, clock.loss) == (2, 12.0, 3.0)
    assert clock.progress(Course(steps=8)) == 0.25
    assert clock.progress(Course(minutes=2)) == 0.1
    assert clock.progress(Course(steps=0)) == clock.progress(Course(minutes=0)) == 1
    clock.tick(3600, 2.0)
    assert clock.seconds == 12 + LONGEST_STEP


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs an end: give steps or minutes"),
        ({"steps": 1, "crop": (48, 64)}, "multiples of 32, got 48x64"),
        ({"steps": 1, "balance": "even"}, "no balance is called 'even'; there are fixed, uncertainty, gradnorm"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        Course(**settings)
