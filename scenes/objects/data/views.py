"""Pictures of an object as training shows them: cameras all round, cropped to what is seen.

Notation: z is up, n views; pictures are sRGB with opacity.  The crop is that of TRELLIS: a square
1.2 times the longer side of what is seen, around its middle.  It is made by the camera rather than
from a larger picture, so every pixel that is drawn is kept.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import Camera
from geo3d.render.shading import Painter, Style

CROP = 1.2
OBJECT_STYLE = Style(crease=0.6)
"""Edges of more than 34 degrees are sharp."""


def cropped(camera: Camera, mesh: Mesh) -> Camera:
    """Return the camera of the same size that shows only the square around the mesh."""
    pixels, _ = camera.project(mesh.vertices.astype(np.float64))
    low, high = pixels.min(0), pixels.max(0)
    side = CROP * float((high - low).max())
    zoom = camera.width / side
    start = (low + high) / 2 - side / 2
    return replace(
        camera,
        fx=camera.fx * zoom,
        fy=camera.fy * zoom,
        cx=(camera.cx - start[0]) * zoom,
        cy=(camera.cy - start[1]) * zoom,
    )


def draw_views(
    mesh: Mesh, cameras: list[Camera], style: Style = OBJECT_STYLE
) -> UInt8[np.ndarray, "n h w 4"]:
    """Return one picture with opacity per camera; all cameras have one size."""
    painter = Painter(mesh, style=style)
    return np.stack([painter.rgba(camera) for camera in cameras])
