"""The plan of a layout: what one sees from high above, as an image.

Primitives are drawn from the lowest to the highest, each as the convex outline of its vertices in
the (x, z) plane (slabs: as their ribbon), in the colours of their classes; the drive is a line.
World x points right in the image and z up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull, QhullError

from geo3d.files import atomic_path, atomic_write_text
from geo3d.layout.classes import PALETTE
from geo3d.layout.layout import Layout, Primitive

_PAPER = (244, 244, 240)
_DRIVE = (220, 20, 60)
_OVER = 3
"""The image is drawn larger by this factor and reduced, to smooth the edges."""
WIDTH = 640
"""Pixels of a plan that is written."""
MARGIN = 2.0
"""Metres around the layout."""


def outline(primitive: Primitive) -> Float[np.ndarray, "n 2"]:
    """Return the outline of a primitive in the plan: x and z of its corners in order."""
    points = primitive.world_vertices()[:, [0, 2]]
    if primitive.kind == "slab":
        m = len(points) // 4
        return np.concatenate([points[:m], points[m : 2 * m][::-1]])
    try:
        return points[ConvexHull(points).vertices]
    except QhullError:
        # seen from above it is a line
        return points[[int(np.argmin(points.sum(axis=1))), int(np.argmax(points.sum(axis=1)))]]


def plan_image(
    layout: Layout,
    width: int = 640,
    window: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Draw the plan, uint8 (h, w, 3).

    Args:
        width: pixels.
        window: x0, x1, z0, z1 in metres; the whole layout if None.

    Raises:
        InputError: ``layout.empty``.
    """
    x0, x1, z0, z1 = window or plan_window(layout)
    scale = width * _OVER / (x1 - x0)
    size = (width * _OVER, max(1, round((z1 - z0) * scale / _OVER)) * _OVER)
    image = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(image)
    flip = np.array([1.0, -1.0]) * scale

    def pixels(points: np.ndarray) -> list[tuple[float, float]]:
        return [(float(a), float(b)) for a, b in (points - [x0, z1]) * flip]

    for primitive in _from_low_to_high(layout):
        color = tuple(int(c) for c in PALETTE[primitive.class_id])
        dark = tuple(int(c * 0.6) for c in color)
        corners = pixels(outline(primitive))
        if len(corners) > 2:
            draw.polygon(corners, fill=color, outline=None if primitive.kind == "slab" else dark)
    drive = pixels(layout.trajectory[:, [0, 2], 3])
    if len(drive) > 1:
        draw.line(drive, fill=_DRIVE, width=_OVER * 2)
    return np.asarray(image.resize((size[0] // _OVER, size[1] // _OVER), Image.Resampling.BOX))


def save_plan(layout: Layout, path: str | os.PathLike[str]) -> Path:
    """Write the plan as ``.svg`` or as an image (``.png``).

    Raises:
        InputError: ``layout.empty``.
    """
    path = Path(path)
    if path.suffix == ".svg":
        return atomic_write_text(path, plan_svg(layout))
    with atomic_path(path) as temporary:
        Image.fromarray(plan_image(layout, WIDTH)).save(temporary)
    return path


def plan_svg(layout: Layout) -> str:
    """Return the plan as SVG; every outline carries the id of its primitive as a title.

    Raises:
        InputError: ``layout.empty``.
    """
    x0, x1, z0, z1 = plan_window(layout)
    height = WIDTH * (z1 - z0) / (x1 - x0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="{x0:.2f} {-z1:.2f} {x1 - x0:.2f} {z1 - z0:.2f}">'
    ]
    for primitive in _from_low_to_high(layout):
        corners = " ".join(f"{x:.2f},{-z:.2f}" for x, z in outline(primitive))
        color = "rgb({},{},{})".format(*PALETTE[primitive.class_id])
        lines.append(
            f'<polygon points="{corners}" fill="{color}"><title>{escape(primitive.id)}</title>'
            "</polygon>"
        )
    drive = " ".join(f"{x:.2f},{-z:.2f}" for x, z in layout.trajectory[:, [0, 2], 3])
    lines.append(f'<polyline points="{drive}" fill="none" stroke="crimson" stroke-width="0.4"/>')
    return "\n".join([*lines, "</svg>", ""])


def plan_window(layout: Layout) -> tuple[float, float, float, float]:
    """Return x0, x1, z0, z1 of the whole layout with a margin.

    Raises:
        InputError: ``layout.empty``.
    """
    low, high = layout.bounds()
    return (
        float(low[0] - MARGIN),
        float(high[0] + MARGIN),
        float(low[2] - MARGIN),
        float(high[2] + MARGIN),
    )


def _from_low_to_high(layout: Layout) -> Iterator[Primitive]:
    """Yield the primitives by their upper side; slabs first."""
    tops = layout.primitive_bounds()[:, 0, 1]
    slabs = np.array([p.kind == "slab" for p in layout.primitives])
    for i in np.lexsort((-tops, ~slabs)):
        yield layout.primitives[i]
