"""Whether generated meshes are closed, as published and whole, and keep to their faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from geo3d.files import asset
from geo3d.mesh.manifold import open_edges
from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from geo3d.render.cameras import Camera, look_at
from geo3d.synth.objects.generate import KINDS, generate_object
from scenes.objects.data.views import cropped, draw_views
from scenes.objects.export import simplified
from scenes.objects.image import prepare_image
from scenes.objects.pipeline import GenerateConfig, load_pipeline

FACES = (20_000, 5_000, 3_000, 500)
OBJECTS = 20
_OBJECT_SEED = 900_100
_EYE = (1.1, -1.9, 1.1)
_PIXELS = 256
Row = dict[str, Any]


def bench_surfaces(
    data: str | Path | None = None,
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
    kinds: Sequence[str] = tuple(KINDS)[:OBJECTS],
) -> list[Row]:
    """Return a row for meshes as published, and one for whole ones.

    Args:
        data: pipeline folder; by default the shipped one.
        seed: of the noise.
        progress: hears of every object.
        kinds: procedural objects whose images are taken, of a seed that training never saw.
    """
    pipeline = load_pipeline(data or asset("objects/pipeline"))
    totals = {whole: np.zeros(6, np.int64) for whole in (False, True)}
    for kind in tell_each(kinds, progress, "objects"):
        picture = prepare_image(_picture(kind))
        for whole, total in totals.items():
            config = GenerateConfig(outputs=("mesh",), whole=whole, on_empty="keep")
            (made,) = pipeline.generate([picture], [seed], config, prepared=True).objects
            if made.mesh is None or len(made.mesh.faces) == 0:
                continue
            mesh = made.mesh.to_mesh(name=kind)
            found, edges = open_edges(mesh.faces)
            coarse = [simplified(mesh, faces) for faces in FACES]
            kept = sum(c.n_faces <= faces for c, faces in zip(coarse, FACES, strict=True))
            closed = sum(open_edges(c.faces)[0] == 0 for c in coarse)
            total += [1, found == 0, found, edges, kept, closed]
    return [
        {
            "meshes": "whole" if whole else "as published",
            "objects": int(count),
            "watertight": int(closed),
            "open edges": int(found),
            "edges": int(edges),
            "faces kept": f"{kept} of {count * len(FACES)}",
            "of them watertight": int(coarse),
        }
        for whole, (count, closed, found, edges, kept, coarse) in totals.items()
    ]


def _picture(kind: str) -> Image.Image:
    mesh = generate_object(kind, _OBJECT_SEED).mesh
    c2w = look_at(np.array(_EYE), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    focal, middle = 1.5 * _PIXELS, _PIXELS / 2
    camera = Camera(c2w, focal, focal, middle, middle, _PIXELS, _PIXELS)
    return Image.fromarray(draw_views(mesh, [cropped(camera, mesh)])[0])
