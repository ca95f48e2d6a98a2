"""Learning rates over the steps, as factors and functions: every training's rate is made of these.

rate = peak * rise(step + 1, warmup) * cosine(step, steps)
"""

from __future__ import annotations

import math

ONE_CYCLE_RISE = 0.3
"""Share of the steps of `one_cycle` in which the rate rises (Smith & Topin 2018, as in torch)."""


def rise(done: int, over: int) -> float:
    """Return a line from 0 to 1 over the first ``over`` steps, or 1 where there is no warm-up."""
    return min(done / over, 1.0) if over else 1.0


def cosine(done: float | int, whole: float | int, floor: float = 0.0) -> float:
    """Return half a cosine from 1 at ``done`` = 0 to ``floor`` at ``done`` = ``whole``."""
    part = min(max(done, 0) / max(whole, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * part))


def power(done: int, whole: int, exponent: float) -> float:
    """Return (1 - done / whole)^exponent."""
    return (1 - done / whole) ** exponent


def one_cycle(step: int, steps: int, middle: float, start: float, end: float) -> float:
    """Return a value that goes along cosines from ``start`` to ``middle`` and on to ``end``."""
    top = ONE_CYCLE_RISE * steps - 1
    if step <= top:
        return middle + (start - middle) * cosine(step, top)
    return end + (middle - end) * cosine(step - top, steps - 1 - top)
