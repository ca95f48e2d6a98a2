"""Images of an object as training shows them: cameras all round, cropped to what is seen.

Notation: z is up, n views; images are sRGB with opacity.  The crop is that of TRELLIS: a square
1.2 times the longer side of what is seen, around its middle.  It is made by the camera rather than
from a larger image, so every pixel that is drawn is kept.

An image of some objects of every kind.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import Camera, orbit
from geo3d.render.previews import contact_sheet, save_png
from geo3d.render.shading import Painter, Style, render_mesh
from geo3d.synth.objects.generate import KINDS, generate_object

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
    """Return one image with opacity per camera; all cameras have one size."""
    painter = Painter(mesh, style=style)
    return np.stack([painter.rgba(camera) for camera in cameras])


def draw_sheet(path: str | Path, *, seed: int = 0) -> Path:
    """Draw two objects of every kind into a PNG file and return its path.

    Raises:
        NumericalError: ``creature.no_surface``.
    """
    images, labels = [], []
    for kind in KINDS:
        for i in range(2):
            mesh = generate_object(kind, seed + i).mesh
            camera = orbit(mesh, 0.6, 0.35, up="z", size=96)
            images.append(render_mesh(mesh, camera, style=OBJECT_STYLE))
            labels.append(kind if i == 0 else "")
    return save_png(contact_sheet(images, labels, columns=14), Path(path))
