"""Questions that make sense, and depths in words."""

from __future__ import annotations

import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.course import Course
from sharedbb.learn.grafting import ALL, Depth, Specialist
from sharedbb.learn.network import Network
from sharedbb.learn.sharing_record import LEAST, Question, named
from sharedbb.spec import loads

pytestmark = pytest.mark.usefixtures("chain")

PIPELINE = """\
name: street
input: {size: [64, 96]}
backbone: {arch: chain}
heads:
  near: {type: depth, taps: [4, 16], channels: 8}
  scene: {type: tags, taps: [32], labels: [day, night]}
"""


def _question(
    *owners: tuple[str, str], depths: tuple[Depth, ...] = (4, 8), floors: dict[str, float] | None = None
) -> Question:
    trunk = Network.of(loads(PIPELINE))
    specialists = tuple(Specialist(name, trunk, tuple(heads.split())) for name, heads in owners)
    return Question(trunk, specialists, depths, Course(steps=1), floors or {})


def test_floors_are_those_given_or_the_usual_one() -> None:
    asked = _question(("a", "near"), ("b", "scene"), floors={"scene": 0.5})
    assert (asked.floor("near"), asked.floor("scene")) == (LEAST, 0.5)


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        ((), "sharing needs specialists"),
        ((("a", "near scene"), ("b", "scene")), "both a and b are there for the head 'scene'; say which"),
        ((("a", "near"), ("a", "near")), "a is twice there for the head 'near'"),
        ((("a", "near"), ("a", "scene")), "two specialists are called a"),
    ],
)
def test_a_head_has_one_specialist(owners: tuple[tuple[str, str], ...], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        _question(*owners)


@pytest.mark.parametrize("floors", [{"scene": 0.9}, {"near": 1.1}, {"near": float("nan")}])
def test_a_floor_is_a_share_of_a_specialist_s_head(floors: dict[str, float]) -> None:
    with pytest.raises(CompressionError, match="must be from 0 to 1, of one of the heads near"):
        _question(("a", "near"), floors=floors)


@pytest.mark.parametrize("depths", [(8, 4), (4, "second"), (0, 4), (4, 4), (ALL, 32)])
def test_depths_go_deeper(depths: tuple[Depth, ...]) -> None:
    with pytest.raises(CompressionError, match="depths go from shallow to deep"):
        _question(("a", "near"), depths=depths)


def test_a_depth_that_the_trunk_does_not_have_is_named() -> None:
    with pytest.raises(CompressionError, match="street cannot share up to 12"):
        _question(("a", "near"), depths=(12,))


@pytest.mark.parametrize(
    ("depth", "words"), [(0, "nothing"), (8, "up to 8"), ("features.5", "up to features.5"), (ALL, "all but heads")]
)
def test_depths_have_words(depth: Depth, words: str) -> None:
    assert named(depth) == words
