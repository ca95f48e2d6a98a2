"""A picture of some objects of every kind."""

from __future__ import annotations

from pathlib import Path

from geo3d.render.cameras import orbit
from geo3d.render.previews import contact_sheet, save_png
from geo3d.render.shading import render_mesh
from geo3d.synth.objects.generate import KINDS, generate_object
from scenes.objects.data.views import OBJECT_STYLE


def draw_sheet(
    path: str | Path, *, per_kind: int = 2, columns: int = 14, size: int = 96, seed: int = 0
) -> Path:
    """Draw ``per_kind`` objects of every kind into a PNG file and return its path.

    Raises:
        NumericalError: ``creature.no_surface``.
    """
    images, labels = [], []
    for kind in KINDS:
        for i in range(per_kind):
            mesh = generate_object(kind, seed + i).mesh
            camera = orbit(mesh, 0.6, 0.35, up="z", size=size)
            images.append(render_mesh(mesh, camera, style=OBJECT_STYLE))
            labels.append(kind if i == 0 else "")
    return save_png(contact_sheet(images, labels, columns=columns), Path(path))
