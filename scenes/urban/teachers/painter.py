"""The procedural painter as a teacher: exact, the same from every view, on any layout.

It needs no weights.  It obeys the style of the scene, of regions and of single things: a prompt
may name one light and one weather, season or material (`geo3d.synth.streets.styles`), the style of
a thing any words of `geo3d.synth.streets.wishes`.  Beside its images it knows how far the painted
bodies are, so that fields learn the shape of a car and not that of its box.

It has no score: it can be fitted, not distilled.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.layout.layout import Layout, primitives_near
from geo3d.render.cameras import Camera
from geo3d.synth.streets.painter import StreetPainter, lamps_of, tone
from geo3d.synth.streets.styles import STYLES, look_of
from geo3d.synth.streets.wishes import known_words, wish_of
from scenes.urban.guidance import Guidance

_log = logging.getLogger(__name__)

USUAL = ("sunny",)
"""The style where a prompt names none."""
_REACH = 40.0
"""Metres beyond the scene's far end from which something may still throw a shadow."""


@dataclass(frozen=True, eq=False)
class Painted:
    """Images of several cameras."""

    images: Float[Tensor, "v 3 h w"]
    """In [0, 1]."""
    depth: Float[Tensor, "v h w"]
    """z-depth of what is painted, metres; -1 for the sky."""
    label: Tensor
    """Class ids (v, h, w), int64; -1 for the sky."""


@dataclass(frozen=True)
class Painter:
    """The painter with its seed: materials, sun and clouds."""

    seed: int = 0
    image_size: int = 256
    """Side of the images a scene is fitted to, pixels."""

    def paint(
        self,
        layout: Layout,
        cameras: Sequence[Camera],
        prompt: str = "",
        far: float = 200.0,
        supersampling: int = 1,
    ) -> Painted:
        """Paint what cameras see.

        Args:
            layout: whole; only what is near the cameras is prepared.
            prompt: of the scene; empty takes the layout's.
            far: metres up to which things are painted.
            supersampling: rays per pixel, squared; depth and classes are of the first of them.

        Raises:
            ConfigError: ``styles.unknown``, ``street_images.unknown_style``.
        """
        style = style_of(prompt, layout)
        places = np.stack([camera.position for camera in cameras])
        near = replace(layout, primitives=primitives_near(layout, places, far + _REACH))
        lamps = lamps_of(layout)
        away = np.linalg.norm(lamps[:, None] - places, axis=2).min(axis=1)
        painter = StreetPainter(near, self.seed, lamps[away < far])
        parts = [_one(painter, camera, style, supersampling) for camera in cameras]
        return Painted(*(torch.stack(column) for column in zip(*parts, strict=True)))


Teacher = Guidance | Painter
"""Whoever draws the images that a scene is made from."""


def _one(
    painter: StreetPainter, camera: Camera, style: tuple[str, ...], supersampling: int
) -> tuple[Tensor, Tensor, Tensor]:
    view = painter.view(camera, supersampling)
    image = tone(painter.radiance(view, style)).astype(np.float32)
    surfels, s = view.surfels, supersampling
    shape = (camera.height * s, camera.width * s)
    depth, label = np.full(shape[0] * shape[1], -1.0, np.float32), np.full(shape, -1).ravel()
    forward = surfels.directions[surfels.rows] @ camera.c2w[:3, 2]
    depth[surfels.rows] = surfels.distance * forward
    label[surfels.rows] = surfels.label
    return (
        torch.from_numpy(image).permute(2, 0, 1),
        torch.from_numpy(depth.reshape(shape)[::s, ::s].copy()),
        torch.from_numpy(label.reshape(shape)[::s, ::s].copy()),
    )


def named_in(prompt: str) -> tuple[str, ...]:
    """Return the whole-scene styles that a prompt names, in the order of `STYLES`."""
    said = " " + " ".join(re.findall(r"[^\W_]+", prompt.lower())) + " "
    found = []
    for name, words in STYLES.items():
        adjectives = (name, f"{name}y", *words)
        if any(f" {word} " in said for word in adjectives):
            found.append(name)
    return tuple(found)


def is_known(words: str) -> bool:
    """Return whether words name a style of a scene, or ask for something of one thing."""
    return bool(named_in(words)) or not wish_of(words).is_empty


def require_together(words: str) -> None:
    """Raise where words name styles that exclude each other.

    Raises:
        ConfigError: ``street_images.unknown_style``.
    """
    if found := named_in(words):
        look_of(found)


def style_of(prompt: str, layout: Layout | None = None) -> tuple[str, ...]:
    """Return the style that a prompt names, or the layout's; a sunny day if neither names one.

    Raises:
        ConfigError: ``styles.unknown`` for a prompt without a word that is known,
            ``street_images.unknown_style`` for styles that exclude each other.
    """
    found = named_in(prompt)
    if prompt.strip() and not found:
        raise ConfigError(
            "styles.unknown",
            f"The painter knows no style named in {prompt!r}.",
            f"Name one of: {', '.join(STYLES)}; or leave the prompt empty.",
        )
    found = found or (named_in(layout.prompt) if layout else ()) or USUAL
    look_of(found)
    return found


def warn_of_styles(layout: Layout, is_painter: bool = True) -> tuple[str, ...]:
    """Return the styles of things that the teacher of a new scene ignores, and log them.

    The painter knows some words; networks are told of whole images, of single things only in edits.
    """
    styles = sorted({p.style for p in layout.primitives if p.style})
    if not is_painter:
        if styles:
            _log.warning(
                "the teacher paints whole images and ignores styles of single things (%s); use "
                "teacher=painter, or restyle them in the finished scene: "
                "geo3d scene --edit RUN --restyle THING TEXT",
                ", ".join(styles),
            )
        return tuple(styles)
    unknown = [style for style in styles if wish_of(style).is_empty]
    for style in unknown:
        _log.warning(
            "the painter knows no word of the style %r of a thing, and ignores it; it knows: %s",
            style,
            ", ".join(known_words()),
        )
    return tuple(unknown)
