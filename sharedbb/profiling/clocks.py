"""Where times come from: the host's clock, or CUDA events whose times are read once the device has passed them."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from sharedbb.errors import BackendError

if TYPE_CHECKING:
    import torch

_REANCHOR_MS = 10_000.0
"""Event times are float32 ms since an anchor: after 10 s they are still good to a microsecond."""


class CudaClock:
    """Stamps are CUDA events on the current stream of the current device; one device a clock.

    Events are used again after ``resolve``, so their number is bounded by the spans under way.
    Raises BackendError where torch sees no CUDA device.
    """

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise BackendError("clock 'cuda' needs a CUDA device and torch sees none; use clock='host'")
        self._new: Callable[..., torch.cuda.Event] = torch.cuda.Event
        self._free: list[torch.cuda.Event] = []
        self._anchor = self.stamp()
        self._anchor.synchronize()
        self._anchor_ns = perf_counter_ns()

    def stamp(self) -> torch.cuda.Event:
        """An event that the device will reach after the work issued so far."""
        try:
            event = self._free.pop()
        except IndexError:
            event = self._new(enable_timing=True)
        event.record()
        return event

    def resolve(self, start: torch.cuda.Event, end: torch.cuda.Event) -> tuple[int, int]:
        """Start (on the host's ``perf_counter``) and duration, both ns; the device must have reached ``end``.

        Both events belong to the clock again afterwards.
        """
        since_anchor = self._anchor.elapsed_time(start)
        duration = round(start.elapsed_time(end) * 1e6)
        begin = self._anchor_ns + round(since_anchor * 1e6)
        self._free.append(start)
        if since_anchor > _REANCHOR_MS:
            self._free.append(self._anchor)
            self._anchor, self._anchor_ns = end, begin + duration
        else:
            self._free.append(end)
        return begin, duration
