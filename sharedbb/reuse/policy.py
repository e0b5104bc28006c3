"""What a frame is worth: computing it all, the changed parts, moving the last answers along, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sharedbb.reuse.regions import Cover, Mask, Price, cover
from sharedbb.types import Size

Mode = Literal["exact", "bounded", "keyframe", "auto"]
How = Literal["dense", "partial", "still", "held", "key", "warped"]

DEAR = 0.3  # of the time of computing everything: what takes more waits for its clock
UNEXPLAINED = 0.25  # of the picture that motion does not account for: from there on, a new key frame


@dataclass(frozen=True, slots=True)
class Bargain:
    """What the user gives for time.

    ``budget``: largest tolerated share of changed answers of a head. ``max_age_ms``: longest time that a change may
    wait to be seen, None for no limit. ``refresh``: share of the picture taken anew on every frame, changed or not.
    ``audit``: share of frames computed in full to measure the error. ``key_every``: most frames from one key frame to
    the next. ``fresh``: in keyframe mode, the stride up to which features are computed on every frame, 0 for none.
    ``motion``: how it is found, ``codec`` by the decoder's vectors where these serve. ``seed`` of the audit's dice.
    """

    mode: Mode = "bounded"
    budget: float = 0.02
    max_age_ms: float | None = None
    refresh: float = 0.0
    audit: float = 0.02
    key_every: int = 4
    fresh: int = 0
    motion: Literal["optical", "codec"] = "optical"
    seed: int = 0

    @property
    def glances(self) -> bool:
        """Whether frames are looked at before they are read: most are not computed."""
        return self.mode in ("keyframe", "auto")

    @property
    def by_codec(self) -> bool:
        """Whether a decoder's motion vectors are of use."""
        return self.motion == "codec" and self.glances


def by_parts(mode: str) -> bool:
    """Whether a mode of reuse computes changed parts of features anew: a key frame's are moved along or left."""
    return mode in ("exact", "bounded", "auto")


@dataclass(frozen=True, slots=True)
class Work:
    """What to do about a stage that has changes to catch up with.

    ``kind``: ``tiles`` (see ``cover``), ``whole``, or ``later`` when it is not its turn.
    """

    kind: Literal["tiles", "whole", "later"]
    cover: Cover | None = None


LATER = Work("later")
WHOLE = Work("whole")


def decide(
    pending: Mask | None, prices: Sequence[Price], step: int, picture: Size, dense_ms: float, *, wait: bool
) -> Work:
    """How a stage catches up with the cells that are pending: in tiles at once where that costs far less than all.

    What takes a good part of the whole's time waits for its turn when ``wait`` says so. ``pending`` None means that
    everything is.
    """
    if pending is not None and prices:
        found = cover(pending, prices, step, picture, dense_ms)
        if found is not None and not (wait and found.milliseconds > DEAR * dense_ms):
            return Work("tiles", found)
    return LATER if wait else WHOLE


@dataclass(frozen=True, slots=True)
class Sight:
    """What the plan of a frame depends on.

    ``known``: whether there are cached features. ``dirty``: share of the picture that differs from what they were
    computed from. ``crowded``: whether the first segment would be computed whole; ``dear``: whether computing it in
    parts would take a good part of that. ``faint``: whether all changes are hardly above the threshold. ``tick``:
    whether it is the turn of what waits for its clock. ``behind``: whether earlier changes still wait. ``overdue``:
    whether a change waits for longer than allowed, or a head's answer is older.
    ``cut``: whether a new scene began. ``age``: which frame after that one it is, from 1. ``unexplained``: share of the
    picture that its motion does not account for, None where that was not measured. ``moves``: whether answers may be
    moved along: that has kept the budget and costs less than computing. ``outserved``: whether the key frame from which
    they would be is older than allowed.
    """

    known: bool
    dirty: float
    crowded: bool
    dear: bool = False
    faint: bool = False
    tick: bool = True
    behind: bool = False
    overdue: bool = False
    cut: bool = False
    age: int = 0
    unexplained: float | None = None
    moves: bool = True
    outserved: bool = False


def how(bargain: Bargain, sight: Sight, key_every: int) -> How:
    """Whether a frame is computed in full, in part, moved along from the key frame, or left as it is.

    Small changes are computed at once, unless they are faint; these, and what takes about as much as the whole frame,
    wait, ``held``, for the clock that the audit allows. ``auto`` moves along instead what is too much for tiles.

    ``key_every``: frames from one key frame to the next, as far as the audit lets them be apart.
    """
    much = sight.crowded or (sight.dear and not sight.faint)
    moves = bargain.mode == "keyframe" or (bargain.mode == "auto" and much and sight.moves)
    if not sight.known or sight.cut:
        return "key" if moves else "dense"
    if sight.dirty == 0 and not sight.behind:
        return "still"
    if moves:
        lost = sight.unexplained is not None and sight.unexplained > UNEXPLAINED
        return "key" if lost or sight.overdue or sight.outserved or sight.age >= key_every else "warped"
    if (sight.crowded or sight.dear or sight.faint) and not (sight.tick or sight.overdue):
        return "held"
    return "dense" if sight.crowded else "partial"
