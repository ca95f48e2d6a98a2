"""The line that a made-up street follows, and where it is crossed.

Path coordinates: s metres along the path, u metres to its right; world x right, y down, z forward.
Heading 0 looks along z and grows towards x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from geo3d.errors import ConfigError

StreetKind = Literal["straight", "curved", "crossing"]
STREET_KINDS: tuple[StreetKind, ...] = get_args(StreetKind)
BLOCK = 20.0
"""Metres of street that are furnished together."""
CLEAR = 10.0
"""Metres of street before the first and behind the last camera."""
_STEP = 1.0
_WAVES = (320.0, 170.0)
"""Wavelengths of the bends in metres."""
_SWINGS = (0.5, 0.2)
"""Largest headings of the bends in radians; together they never turn the street back."""
_CROSSING_EVERY = 4
"""Blocks between crossings."""


@dataclass(frozen=True)
class Start:
    """Where a street begins: a point of the road's middle, and the heading there in radians."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    heading: float = 0.0
    first_camera: float = CLEAR
    """Metres from there to the first camera."""


class Path:
    """The middle of the road as a function of s, from 40 m before the start to 40 m after the end.

    Raises:
        ConfigError: ``street.unknown_kind``, ``street.bad_length``.
    """

    def __init__(self, length: float, seed: int, kind: str, hills: float, start: Start) -> None:
        if kind not in STREET_KINDS:
            raise ConfigError(
                "street.unknown_kind",
                f"There is no kind of street {kind!r}.",
                f"Choose one of {', '.join(STREET_KINDS)}.",
            )
        if not 0 < length <= 1e6:
            raise ConfigError(
                "street.bad_length", f"A street cannot be {length} m long.", "Up to 1000 km."
            )
        self.length, self.kind = length, kind
        before = 40.0
        self._s = np.arange(-before, length + 40.0 + 2 * _STEP, _STEP)
        generator = np.random.default_rng([seed, 1 << 20])
        phases = generator.uniform(0, 2 * np.pi, 3)
        heading = np.zeros(len(self._s))
        if kind == "curved":
            for swing, wave, phase in zip(_SWINGS, _WAVES, phases, strict=False):
                angle = 2 * np.pi * self._s / wave + phase
                heading += swing * (np.sin(angle) - np.sin(phase))
        # straight up to the start, so that a street continues another without a bend
        heading = np.where(self._s < 0, 0.0, heading) + start.heading
        # the trapezoid rule keeps the line independent of how far it goes on
        steps = np.stack([np.sin(heading), np.cos(heading)], axis=1)
        line = np.cumsum(np.vstack([[0.0, 0.0], (steps[1:] + steps[:-1]) / 2 * _STEP]), axis=0)
        line -= line[int(before / _STEP)]
        climb = hills * (np.sin(2 * np.pi * self._s / 230.0 + phases[2]) - np.sin(phases[2]))
        self._points = np.stack(
            [line[:, 0] + start.x, climb + start.y, line[:, 1] + start.z], axis=1
        )
        self._heading = heading

    def heading(self, s: float) -> float:
        """Return the heading in radians."""
        return float(np.interp(s, self._s, self._heading))

    def point(self, s: float, u: float = 0.0, up: float = 0.0) -> Float[np.ndarray, " 3"]:
        """Return the world position of path coordinates, ``up`` metres above the road."""
        return self.points(np.array([s]), u, up)[0]

    def points(
        self, s: Float[np.ndarray, " n"], u: float = 0.0, up: float = 0.0
    ) -> Float[np.ndarray, "n 3"]:
        """Return the world positions of a line at a constant distance from the middle."""
        middle = np.stack([np.interp(s, self._s, self._points[:, k]) for k in range(3)], axis=1)
        angle = np.interp(s, self._s, self._heading)
        side = np.stack([np.cos(angle), np.zeros(len(s)), -np.sin(angle)], axis=1)
        return middle + u * side - np.array([0.0, up, 0.0])

    def crossing(self, block: int) -> float | None:
        """Return s of the middle of the crossing in a block, if there is one."""
        is_crossed = self.kind == "crossing" and block % _CROSSING_EVERY == 2
        return (block + 0.5) * BLOCK if is_crossed else None
