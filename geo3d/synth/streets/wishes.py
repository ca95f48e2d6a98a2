"""What the words about one thing ask for: "red brick", "dark green", "modern".

Every word of the vocabulary stands for a colour, a material or a season; other words are told back
to who asks.  Colours are linear reflectances.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from geo3d.synth.streets.styles import Color

COLOURS: dict[str, Color] = {
    "white": (0.72, 0.72, 0.70),
    "black": (0.03, 0.03, 0.035),
    "silver": (0.52, 0.53, 0.55),
    "grey": (0.24, 0.25, 0.27),
    "gray": (0.24, 0.25, 0.27),
    "red": (0.48, 0.04, 0.03),
    "blue": (0.03, 0.09, 0.36),
    "green": (0.06, 0.24, 0.09),
    "yellow": (0.66, 0.46, 0.10),
    "orange": (0.62, 0.22, 0.04),
    "brown": (0.20, 0.11, 0.06),
    "beige": (0.56, 0.47, 0.34),
    "pink": (0.62, 0.30, 0.30),
    "purple": (0.22, 0.07, 0.30),
    "turquoise": (0.08, 0.36, 0.36),
}
MATERIALS: dict[str, str] = {
    "brick": "brick",
    "bricks": "brick",
    "plaster": "plaster",
    "stucco": "plaster",
    "stone": "stone",
    "wood": "wood",
    "wooden": "wood",
    "timber": "wood",
    "modern": "modern",
    "glass": "modern",
    "concrete": "modern",
}
"""Words for what a wall is made of."""
_STATES = {
    "snow": "snow", "snowy": "snow", "winter": "snow", "autumn": "autumn", "autumnal": "autumn",
    "fall": "autumn", "wet": "wet", "rainy": "wet", "rain": "wet",
}  # fmt: skip
_SHADES = {"light": 1.45, "pale": 1.6, "bright": 1.3, "dark": 0.5, "deep": 0.6}


@dataclass(frozen=True)
class Wish:
    """How one thing shall look; empty where nothing is asked for."""

    color: Color | None = None
    material: str = ""
    states: frozenset[str] = frozenset()
    """Of "snow", "autumn", "wet"."""

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is asked for."""
        return self == Wish()


def wish_of(style: str) -> Wish:
    """Return what words ask for; words that are not known ask for nothing."""
    words = re.findall(r"[a-z]+", style.lower())
    shade = next((_SHADES[word] for word in words if word in _SHADES), 1.0)
    color = next((COLOURS[word] for word in words if word in COLOURS), None)
    if color is not None:
        r, g, b = (min(0.85, shade * part) for part in color)
        color = (r, g, b)
    material = next((MATERIALS[word] for word in words if word in MATERIALS), "")
    states = frozenset(_STATES[word] for word in words if word in _STATES)
    return Wish(color, material, states)


def known_words() -> tuple[str, ...]:
    """Return all words that ask for something, in order."""
    return tuple(dict.fromkeys((*COLOURS, *MATERIALS, *_STATES, *_SHADES)))
