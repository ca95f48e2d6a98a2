"""What light, weather and materials the procedural street images know, by style word.

An image has at most one light and at most one look; each of them is a word of the prompt.  A look
named alone comes with the light that suits it.  Colours are linear RGB reflectances or radiances,
angles degrees, fog per metre.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geo3d.errors import ConfigError

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """Everything about an image that is not the layout."""

    sun_elevation: tuple[float, float] = (35.0, 55.0)
    """Range the layout's own elevation is drawn from."""
    sun: Color = (2.6, 2.45, 2.2)
    """Radiance of a white surface that faces the sun; black for no sun."""
    zenith: Color = (0.11, 0.28, 0.78)
    horizon: Color = (0.62, 0.74, 0.88)
    ambient: float = 0.75
    """Light from the sky, relative to its mean colour."""
    clouds: float = 0.35
    """Covered share of the sky."""
    cloud: Color = (0.95, 0.95, 0.95)
    fog: float = 0.0015
    snow: float = 0.0
    """Share of upward surfaces under snow."""
    wet: float = 0.0
    """How much flat ground mirrors the sky."""
    autumn: float = 0.0
    """Share of the foliage that has turned."""
    lamps: float = 0.0
    """Radiance of street lamps, headlights and lit windows."""
    facade: str = "plaster"
    """plaster, brick or modern."""
    exposure: float = 1.0


LIGHTS: dict[str, dict[str, Any]] = {
    "sunny": {},
    "overcast": {
        "sun": (0.0, 0.0, 0.0),
        "zenith": (0.50, 0.53, 0.57),
        "horizon": (0.72, 0.74, 0.76),
        "ambient": 1.25,
        "clouds": 1.0,
        "cloud": (0.60, 0.62, 0.65),
        "fog": 0.004,
    },
    "sunset": {
        "sun_elevation": (6.0, 14.0),
        "sun": (2.4, 1.15, 0.45),
        "zenith": (0.16, 0.20, 0.46),
        "horizon": (1.00, 0.46, 0.16),
        "ambient": 0.55,
        "clouds": 0.45,
        "cloud": (0.85, 0.38, 0.26),
        "fog": 0.003,
    },
    "night": {
        "sun": (0.0, 0.0, 0.0),
        "zenith": (0.004, 0.006, 0.018),
        "horizon": (0.020, 0.022, 0.040),
        "ambient": 1.6,
        "clouds": 0.25,
        "cloud": (0.018, 0.018, 0.026),
        "fog": 0.0015,
        "lamps": 1.0,
    },
}
"""Words for the time of day; what they change in `Look`."""

LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "snow": ("overcast", {"snow": 0.95, "exposure": 1.25}),
    "rain": ("overcast", {"wet": 0.95, "fog": 0.007, "exposure": 0.5}),
    "fog": ("overcast", {"fog": 0.030}),
    "autumn": ("sunny", {"autumn": 0.85}),
    "brick": ("sunny", {"facade": "brick"}),
    "modern": ("sunny", {"facade": "modern"}),
}
"""Words for weather, season and material: the light they come with, and what they change."""

STYLES: dict[str, tuple[str, ...]] = {
    "sunny": ("sun", "day", "daylight", "sunshine"),
    "overcast": ("cloudy", "grey", "gray"),
    "sunset": ("dusk", "evening", "dawn"),
    "night": ("dark", "night time", "nighttime"),
    "snow": ("snowy", "winter"),
    "rain": ("rainy", "wet"),
    "fog": ("foggy", "mist", "misty"),
    "autumn": ("fall", "autumnal"),
    "brick": ("bricks", "red brick"),
    "modern": ("glass", "concrete"),
}
"""Every style in the order of prompts, with further words that call it."""

SLOTS = 2
"""Styles that one prompt may name: a light and a look."""


def look_of(names: tuple[str, ...]) -> Look:
    """Return the look of one style, or of a light with a weather, season or material.

    Raises:
        ConfigError: ``street_images.unknown_style``.
    """
    lights = [name for name in names if name in LIGHTS]
    looks = [name for name in names if name in LOOKS]
    if len(lights) > 1 or len(looks) > 1 or len(lights) + len(looks) != len(names) or not names:
        raise ConfigError(
            "street_images.unknown_style",
            f"There is no street image in the styles {', '.join(names) or '(none)'}.",
            f"Give one of {', '.join(LIGHTS)}, one of {', '.join(LOOKS)}, or one of each.",
        )
    usual, change = LOOKS[looks[0]] if looks else ("sunny", {})
    light = lights[0] if lights else usual
    look = replace(Look(), **{**LIGHTS[light], **change})
    return look if light == usual else replace(look, exposure=1.0)


def draw_style(rng: np.random.Generator, pairs: float = 0.35) -> tuple[str, ...]:
    """Return a random style, or with probability ``pairs`` a light and a look."""
    if rng.random() < pairs:
        light, look = list(LIGHTS), list(LOOKS)
        return light[rng.integers(len(light))], look[rng.integers(len(look))]
    return (list(STYLES)[rng.integers(len(STYLES))],)
