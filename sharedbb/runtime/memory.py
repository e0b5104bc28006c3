"""What a stream keeps from frame to frame: the reference picture, the features computed from it, and their error."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sharedbb.profiling import NullProfiler, Profiler
from sharedbb.program import Program, Session
from sharedbb.reuse.audit import Canary, Trust
from sharedbb.reuse.policy import DEAR, Bargain, How, Sight, by_parts, how
from sharedbb.reuse.regions import CELL, Mask
from sharedbb.reuse.worth import Worth
from sharedbb.runtime.changes import Changes
from sharedbb.runtime.keys import KeyFrame
from sharedbb.runtime.parts import Part
from sharedbb.runtime.reading import Reading
from sharedbb.runtime.trial import NoisyTrial
from sharedbb.types import Frame, Geometry

TYPICAL = 0.9  # of a feature's blocks: what noise does to the rest is more than its tolerance
SOONEST_KEY = 2  # frames from one key frame to the next, at least: with every frame a key, nothing would be learnt
AS_GOOD_AS_WHOLE = 0.8  # of a dense frame's time: what is predicted to take as much is computed densely


class Memory:
    """The cached features of one stream, and what keeps them true.

    Every cached feature is its segment applied to the cached features that it reads, the first one to ``reference``:
    exactly, or to within the feature's tolerance, except where a part has something pending. Where nothing is computed
    in parts, the picture of the last whole run need not be kept: ``reference`` is the latest one.
    """

    def __init__(self, program: Program, bargain: Bargain, reading: Reading) -> None:
        """``reading`` has the stream's input buffers, and reads frames into them."""
        assert program.whole is not None
        self._reading, self._latest = reading, reading.picture
        self._program = program
        self._bargain = bargain
        self._all = program.whole
        parts = by_parts(bargain.mode)
        self.reference = program.device.picture(program.size, program.planes) if parts else reading.picture
        self.changes = Changes(program, bargain, reading, self.reference)
        self._planes = tuple(self.reference.planes)
        self.features: dict[str, Any] = dict(self.reference.features)
        self.parts = [Part(stage, program.device, program.size) for stage in program.stages]
        names = [*self._planes, *(name for part in self.parts for name in part.facts.outputs)]
        self._readers = {name: [part for part in self.parts if name in part.facts.inputs] for name in names}
        self._answer_of: dict[str, list[str]] = {}
        for head, plan in program.heads.items():
            for name in plan.answers.values():
                self._answer_of.setdefault(name, []).append(head)
        self._whole: Session | None = None
        self._strides: dict[str, int] = {}
        self._ripple: dict[str, float] = {}
        self._trial: NoisyTrial | None = None
        self.keys: KeyFrame | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all pictures; buffers stay."""
        bargain, keys = self._bargain, self._bargain.key_every
        self.known = False
        self.changes.reset()
        self._key_since = 0.0
        self.motion_trust = Trust(bargain.budget, keys, min(SOONEST_KEY, keys), clock=keys)
        self.trust = self.motion_trust if bargain.mode == "keyframe" else Trust(bargain.budget)
        self._canary = Canary(bargain.audit, bargain.seed)
        self._age, self._begun = 0, 0.0
        self._whole_heads: set[str] = set()
        self._part_heads: set[str] = set()
        self._macs = 0
        self.error: dict[str, float] = {}
        self._waited = False
        self._worth = Worth()
        self._frame: Frame | None = None
        self._since_full = self._full_before = 0
        self._looked = self._rekey = False
        self._is_calibrated = self._is_exact or not by_parts(bargain.mode)
        if self._trial is not None:
            self._trial.reset()

    def forget(self) -> None:
        """Trust no cached feature, nor the last picture: the next frame is computed in full."""
        self.known = False
        self.changes.skip()

    def set_back(self, seconds: float) -> None:
        """The stream's clock was set back: what waits, and the key frame, stay as old as they were."""
        self._key_since -= seconds
        waiting: list[Changes | Part] = [self.changes, *self.parts]
        for one in waiting:
            if one.since is not None:
                one.since -= seconds

    @property
    def whole_ms(self) -> float:
        """Milliseconds that computing everything took when it was compiled."""
        return self._all.facts.measured_ms or 0.0

    @property
    def is_ready(self) -> bool:
        """Whether buffers are there and noise is measured: the first frame, which does both, takes longer."""
        return self._whole is not None and self._is_calibrated

    def observe(self, frame: Frame, geometry: Geometry, profiler: Profiler | NullProfiler) -> Sight:
        """Compare this frame's picture with what the cached features were computed from."""
        self._begun = time.perf_counter()
        timestamp, self._frame, changes = frame.timestamp, frame, self.changes
        self._age += 1
        self._since_full += 1
        self._part_heads |= self._whole_heads  # what was computed whole and not asked for: that was an earlier frame
        self._whole_heads.clear()
        self._worth.tick()
        for trust in self._trusts():
            trust.tick()
        if self._worth.is_crowded or not (self._divides or self._moves):
            changes.skip()
            self._looked = self.known = False
            return Sight(False, 1.0, True, moves=False)
        changes.look(timestamp, self.known, self.trust.scale, profiler)
        self._looked = True
        if not self.known:
            return Sight(False, 1.0, True, moves=self._moves)
        share = self._foreseen()
        dear = share > DEAR and not self._is_exact
        return Sight(
            known=True,
            dirty=changes.share,
            crowded=share == 1.0,
            dear=dear,
            faint=changes.faint,
            tick=self._is_tick(),
            behind=any(part.pending is not None for part in self.parts),
            overdue=changes.refreshes or any(self._is_overdue(since, timestamp) for since in self._waiting()),
            cut=changes.is_cut(),
            age=self._age,
            unexplained=self._unexplained(geometry, share == 1.0 or (dear and not changes.faint)),
            moves=self._moves,
            outserved=self._is_overdue(self._key_since, timestamp),
        )

    @property
    def _is_exact(self) -> bool:
        return self._bargain.mode == "exact"

    @property
    def _divides(self) -> bool:
        """Whether what changed may be computed in parts on this frame."""
        return by_parts(self._bargain.mode) and not self.trust.is_paused and self._worth.pays("partial")

    @property
    def _moves(self) -> bool:
        """Whether answers may be moved along on this frame."""
        mode = self._bargain.mode
        pays = mode == "keyframe" or (mode == "auto" and self._worth.pays("warped"))
        return pays and not self.motion_trust.is_paused

    def _trusts(self) -> list[Trust]:
        """Each once: where nothing is computed in parts, both are the same."""
        return [self.trust] if self.trust is self.motion_trust else [self.trust, self.motion_trust]

    def _waiting(self) -> list[float | None]:
        """Since when changes wait to be computed."""
        return [self.changes.since, *(part.since for part in self.parts)]

    @property
    def threshold(self) -> float:
        """Grey levels above which a cell of the picture counts as changed."""
        return self.changes.threshold(self.trust.scale)

    @property
    def tolerance(self) -> dict[str, float]:
        """By feature, how far a number may be from what its segment makes of the cached features: 0 in exact mode."""
        if self._is_exact:
            return {}
        scale = self.changes.noise * self.trust.scale
        return {name: ripple * scale for name, ripple in self._ripple.items()}

    def _foreseen(self) -> float:
        """Share of a whole run that the stages which read the picture would take, 1 where one is computed whole."""
        if self.changes.dirty is None or self._bargain.mode == "keyframe":
            return 0.0
        if not self._divides:
            return 1.0
        changed = dict.fromkeys(self._planes, self.changes.dirty)
        return max(min(1.0, part.foresee(changed)[0] / part.whole_ms) for part in self._readers[self._planes[0]])

    def _unexplained(self, geometry: Geometry, much: bool) -> float | None:
        """Measure motion where answers may be moved along: what changed is ``much`` for computing it in parts."""
        changes, wanted = self.changes, self._moves and (much or self._bargain.mode == "keyframe")
        if not wanted or changes.dirty is None or self.keys is None or self._age >= self._key_every():
            return None
        if self._rekey:
            self.keys.remember(changes.then)
            self._rekey = False
        assert self._frame is not None
        return self.keys.measure(changes.now, changes.dirty, changes.noise, self._frame, geometry)

    def follow(
        self,
        sight: Sight,
        heads: Collection[str],
        timestamp: float,
        profiler: Profiler | NullProfiler,
        urgent: Collection[str] = (),
    ) -> How:
        """Bring the cached features up to date, as far as the frame at hand is worth it.

        ``heads``: whose turn it is; ``urgent``: those of them whose answers are older than allowed.
        """
        sight = replace(sight, overdue=True) if urgent else sight
        chosen = how(self._bargain, sight, self._key_every())
        if chosen == "partial" and self._is_tick() and self._is_as_good_as_whole(heads):
            chosen = "dense"
        if chosen in ("dense", "key", "partial") or (chosen == "warped" and self._program.fresh is not None):
            self._reading.read(profiler)
        if chosen in ("dense", "key"):
            with profiler.span(self._all.facts.name):
                self.compute_all()
            if chosen == "dense":
                self.trust.spared_nothing()
        elif chosen == "partial":
            self._compute_changed(set(heads), timestamp, profiler, set(urgent))
        elif chosen == "warped":
            assert self.keys is not None
            with profiler.span("warp"):
                self._macs += self.keys.compute_fresh(self._latest.features)
        crowded = sight.crowded and sight.known
        cycle = self._key_every() if self._bargain.mode == "auto" and self._moves else 0
        if self._worth.judge(chosen, (time.perf_counter() - self._begun) * 1e3, crowded=crowded, cycle=cycle):
            self.trust.recover()
        return chosen

    def _key_every(self) -> int:
        trust = self.trust if self._bargain.mode == "keyframe" else self.motion_trust
        return trust.clock

    def compute_all(self) -> None:
        """One dense run; features and reference are those of the latest picture."""
        self.changes.take_all(self._looked)
        if self._whole is None:
            self._begin()
        else:
            self._whole(self._given())
        if not self._is_calibrated:
            self._calibrate()
        self._macs += self._all.facts.macs
        if self._looked:
            self._begin_key()
        self.known, self._age = self._looked, 0
        self._full_before, self._since_full = self._since_full, 0
        for part in self.parts:
            part.settle()
        self._whole_heads.update(self._program.heads)

    def _given(self) -> list[Any]:
        """What the stage that computes everything reads of the reference."""
        return [self.reference.features[name] for name in self._all.facts.inputs]

    def _begin_key(self) -> None:
        """From here on motion is measured against the picture at hand."""
        self._rekey = True
        if self._frame is not None:
            self._key_since = self._frame.timestamp
            if self.keys is not None:
                self.keys.begin(self._frame)

    def _begin(self) -> None:
        """Compute the first picture, into the buffers that all features stay in."""
        device, whole = self._program.device, self._all
        results = whole.executable.session()(self._given())
        self.features.update(zip(whole.facts.outputs, results, strict=True))
        self._whole = whole.executable.session(results)
        self._worth.begin()
        self._strides = {
            name: stride
            for part in self.parts
            for name, stride in zip(part.facts.outputs, part.strides, strict=True)
            if stride and name in self.features
        }
        self.patches = {name: device.patches(self.features[name]) for name in (*self._planes, *self._strides)}
        if self._bargain.mode in ("keyframe", "auto"):
            self.keys = KeyFrame(self._program, self.features, self.patches, codec=self._bargain.by_codec)

    def _calibrate(self) -> None:
        """Find out what one grey level of noise does to most of every feature, from a picture computed in full."""
        self._is_calibrated = True
        self._worth.begin()
        results = self.compute_noisy()
        for name, stride in self._strides.items():
            if name not in self._answer_of:
                spread = self.patches[name].spread(self._program.device.patches(results[name]), max(1, CELL // stride))
                self._ripple[name] = float(np.quantile(spread, TYPICAL))

    def compute_noisy(self) -> dict[str, Any]:
        """All features of the reference with one grey level of noise added."""
        if self._trial is None:
            self._trial = NoisyTrial(self._program, self._bargain.seed)
        return self._trial(self.reference)

    def wants_floor(self, head: str) -> bool:
        """Whether it is still to be found out what noise does to a head's answers."""
        return not self._is_exact and not self.trust.knows_floor(head)

    @property
    def knows_nothing(self) -> bool:
        """Whether no frame was looked at yet for what noise does to the answers."""
        return not self._is_exact and not self.trust.has_looked

    def allow(self, floor: Mapping[str, float | None]) -> None:
        """Take in what noise alone changed of the answers."""
        for trust in self._trusts():
            trust.allow(floor)

    def _is_as_good_as_whole(self, heads: Collection[str]) -> bool:
        """Whether all that the changes can touch would take about as long in parts as computing everything."""
        dirty = self.changes.dirty
        changed = {} if dirty is None else dict.fromkeys(self._planes, dirty)
        limit, total = AS_GOOD_AS_WHOLE * (self._all.facts.measured_ms or np.inf), 0.0
        due = set(heads)
        for part in self.parts:
            if due.isdisjoint(part.facts.heads):
                continue
            milliseconds, touched = part.foresee(changed)
            total += milliseconds
            if total > limit:
                return True
            if touched is not None:
                changed.update(dict.fromkeys(part.facts.outputs, touched))
        return False

    def _is_tick(self) -> bool:
        """Whether it is the turn of what can only be computed whole."""
        return self._is_exact or self._age >= self.trust.clock

    def _compute_changed(
        self, due: set[str], timestamp: float, profiler: Profiler | NullProfiler, urgent: set[str]
    ) -> None:
        """Run what the changes can have touched, as far as its turn has come, and all of it for ``urgent`` heads."""
        taken = self.changes.take_dirty(timestamp)
        if taken is not None:
            dirty, since = taken
            self._spread(dict.fromkeys(self._planes, dirty), since)
            self._begin_key()
        tolerance, tick, ran_whole = self.tolerance, self._is_tick(), False
        for part in self.parts:
            if part.pending is None or not due.intersection(part.facts.heads):
                continue
            since = timestamp if part.since is None else part.since
            at_once = tick or self._is_overdue(since, timestamp) or not urgent.isdisjoint(part.facts.heads)
            work = part.work(wait=not at_once)
            if work.kind == "later":
                continue
            with profiler.span(part.facts.name) as span:
                if work.cover is not None:
                    changed, macs = part.run_tiles(work.cover, self.features, self.patches, tolerance)
                    span.why = f"partial {_in_tens(macs / max(1, part.facts.macs))} %"
                else:
                    changed, macs = part.run_whole(self.features, self.patches, tolerance)
                    ran_whole = True
            self._macs += macs
            self._spread(changed, since)
        if tick or ran_whole:
            self._age = 0

    def _spread(self, changed: Mapping[str, Mask | None], since: float) -> None:
        """Tell everything that reads changed features of it."""
        for name, mask in changed.items():
            if mask is not None:
                self._part_heads.update(self._answer_of.get(name, ()))
                for reader in self._readers[name]:
                    reader.expect(name, mask, since)

    def _is_overdue(self, since: float | None, timestamp: float) -> bool:
        """Whether a change seen at ``since`` has waited for as long as it may."""
        limit = self._bargain.max_age_ms
        return limit is not None and since is not None and (timestamp - since) * 1e3 > limit

    def is_audited(self, mode: str) -> bool:
        """Whether it is the turn of the frame at hand, computed in this mode, to be computed in full as well."""
        self._waited = self.changes.dirty is not None or any(part.pending is not None for part in self.parts)
        chosen = self._canary.turn(mode)
        if chosen or mode == "warped" or not self._bargain.audit:
            return chosen
        return self._since_full >= self.trust.horizon or (self.trust.probes and self._waited)

    def learn(self, mode: str, errors: Mapping[str, float]) -> None:
        """Take in how far the answers of a frame were off that was computed one way and then in full."""
        by_motion = mode == "warped" and self._bargain.mode == "auto"
        trust = self.motion_trust if by_motion else self.trust
        age = 0 if mode == "warped" else self._full_before
        trust.learn(errors, waited=self._waited or mode == "warped", age=age)
        self.error.update({head: trust.error[head] for head in errors})

    def news(self, head: str) -> str:
        """What became of a head's answer since this was last asked: ``full``, ``partial``, ``still`` or ``reused``.

        ``full`` is said of the frame at hand alone; what an earlier one computed whole is ``partial``.
        """
        found = "full" if head in self._whole_heads else "partial" if head in self._part_heads else None
        self._whole_heads.discard(head)
        self._part_heads.discard(head)
        return found or ("reused" if self.is_behind(head) else "still")

    def outdate(self, head: str) -> None:
        """Have a head's answer decoded again from the features when it is next asked for."""
        self._part_heads.add(head)

    def is_behind(self, head: str) -> bool:
        """Whether changes seen so far are missing from a head's answer."""
        return self.changes.dirty is not None or any(
            part.pending is not None and head in part.facts.heads for part in self.parts
        )

    def work(self) -> float:
        """Share of a dense frame's multiply-adds spent since this was last asked."""
        spent, self._macs = self._macs, 0
        return spent / max(1, self._all.facts.macs)


def _in_tens(share: float) -> int:
    """Per cent in steps of ten, at least ten: few different reasons to count."""
    return max(10, min(100, 10 * round(share * 10)))
