"""Text and numbers as they stand in the report's HTML."""

from __future__ import annotations

import html
import math
import re

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def escaped(text: object) -> str:
    """Any text, safe between tags and in quoted attributes; what HTML cannot hold becomes the replacement sign."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", str(text)), quote=True)


def milliseconds(value: float) -> str:
    """Three significant digits with the unit: ``0.042 ms``, ``7.93 ms``, ``124 ms``."""
    return f"{_significant(value)} ms"


def rate(value: float) -> str:
    """Three significant digits: ``0.52``, ``30``, ``126``."""
    return _significant(value)


def percent(share: float) -> str:
    """A share (0–1) in percent, a digit behind the point below ten: ``4.2 %``, ``63 %``."""
    return f"{share:.1%}".replace("%", " %") if 0 < share < 0.0995 else f"{share:.0%}".replace("%", " %")


def _significant(value: float) -> str:
    if not value:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 3)}f}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most ``most`` + 1 of them, evenly spaced by 1, 2 or 5 × 10ⁿ."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float) -> str:
    """A tick as short as it can be: ``0``, ``2.5``, ``40``."""
    return f"{value:.10g}" if abs(value) >= 1 else f"{round(value, 6):g}"
