"""One stream's place on a ladder: which frames are audited, and what audits have to say of the next one."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from sharedbb.runtime.place import Place
from sharedbb.runtime.sizes import Rules

NOTHING = (0.0, 0.0), (0.0, 0.0)
PLAIN = SimpleNamespace(planes={"input": np.zeros((1, 96, 160, 3), np.uint8)}, features={})


def _place(**rules: float) -> Place:
    return Place("main", Rules(**rules), 2, reuses=False)  # type: ignore[arg-type]


def _scene(seed: int, height: int = 96, channels: int = 3) -> SimpleNamespace:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 10, channels), np.uint8)
    picture = cv2.resize(coarse, (height * 5 // 3, height), interpolation=cv2.INTER_CUBIC)
    return SimpleNamespace(planes={"y": picture.reshape(1, *picture.shape[:2], channels)}, features={})


def _audits(place: Place, pictures: list[SimpleNamespace], size: int = 0) -> list[int]:
    found = []
    for at, picture in enumerate(pictures):
        place.take(size)
        if place.is_audited(picture):
            found.append(at)
    return found


def test_some_of_the_first_frames_of_a_size_are_audited_and_then_a_share() -> None:
    place = _place(audit=0.02)
    early, later = _audits(place, [PLAIN] * 27), _audits(place, [PLAIN] * 2000)
    assert {2, 11, 26} <= set(early)
    assert 20 < len(later) < 60
    assert {2, 11, 26} <= set(_audits(place, [PLAIN] * 30, size=1))
    assert _audits(_place(audit=0.02), [PLAIN] * 27) == early


def test_without_a_share_nothing_is_audited() -> None:
    assert not _audits(_place(audit=0.0), [_scene(at // 5) for at in range(50)])


def test_under_a_deadline_the_dice_alone_decide_and_the_largest_size_is_left_alone() -> None:
    place = _place(audit=0.05, deadline_ms=10.0)
    scenes = [_scene(at // 5) for at in range(400)]
    assert not _audits(place, scenes)
    found = _audits(place, scenes, size=1)
    assert 5 < len(found) < 40
    assert {400 + at for at in found} != set(_audits(place, scenes, size=1))


@pytest.mark.parametrize("channels", [1, 3])
def test_new_scenes_are_audited_at_any_size_but_not_one_on_the_heels_of_another(channels: int) -> None:
    place = _place(audit=1e-9)
    assert _audits(place, [_scene(0, channels=channels)] * 50) == [2, 11, 26]
    place.learn(1, {"road": 0.01})
    assert not _audits(place, [_scene(0, 48, channels)], size=1)  # the same scene, seen at another size
    assert _audits(place, [_scene(0, 48, channels)] * 40, size=1) == [1, 10, 25]
    assert _audits(place, [_scene(1, 48, channels)] * 12, size=1) == [0, 2, 11]
    assert place.evidence[1].audits == 0
    flicker = [_scene(at % 2, 48, channels) for at in range(48)]
    assert len(_audits(place, flicker, size=1)) == 12  # three of twelve


def test_a_budget_is_broken_by_audits_of_the_size_in_use_since_it_was_taken_up() -> None:
    place = _place(budget=0.02, deadline_ms=10.0)
    place.take(1)
    assert not place.outlook(*NOTHING).breaks
    place.learn(1, {"road": 0.05})
    assert place.outlook(*NOTHING).breaks
    place.take(0)
    assert not place.outlook(*NOTHING).breaks
    place.take(1)
    assert not place.outlook(*NOTHING).breaks
    assert place.evidence[1].error == {"road": 0.05}
    place.learn(1, {"road": 0.05})
    assert place.outlook(*NOTHING).breaks


def test_a_size_agrees_after_enough_audits_of_the_one_above() -> None:
    place = _place(budget=0.02)
    for expected in (False, False, True):
        place.take(0)
        place.learn(1, {"road": 0.01})
        assert place.outlook(*NOTHING).agrees == expected
    place.take(1)
    assert not place.outlook(*NOTHING).agrees  # there is none below
    place.reset()
    assert not place.outlook(*NOTHING).agrees
