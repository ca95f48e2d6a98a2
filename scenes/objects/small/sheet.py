"""A sheet of objects made by a pipeline and by its students, from the camera of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from geo3d.errors import NumericalError
from geo3d.render.cameras import Camera
from geo3d.render.previews import contact_sheet, save_png
from geo3d.render.shading import render_mesh
from geo3d.synth.objects.generate import generate_object
from geo3d.work.shards import read_batches
from scenes.objects.data.shards import OBJECT_SHARDS, join_batches
from scenes.objects.data.views import OBJECT_STYLE
from scenes.objects.image import prepare_image
from scenes.objects.pipeline import GenerateConfig, Pipeline, load_pipeline

Pixels = UInt8[np.ndarray, "h w 3"]
TEACHER_STEPS = 25
"""Drawn beside as many as the pipeline takes."""
STUDENT_STEPS = (1,)
_SIDE = 160
"""Pixels of an image."""


def draw_generated(objects: str | Path, model: str | Path, path: Path, rows: Sequence[int]) -> Path:
    """Draw a sheet into ``path``: input, truth, teacher, and the students if there are any.

    Args:
        objects: folder of procedural objects that no network was trained on.
        model: pipeline folder.
        path: PNG file.
        rows: which objects.

    Raises:
        CheckpointError: as `load_pipeline`.
        InputError, FileFormatError: as `read_batches`.
    """
    batch = join_batches(list(read_batches(OBJECT_SHARDS, objects)))
    teacher = load_pipeline(model)
    own = teacher.samplers[0].steps
    makers = [(f"teacher, {n} + {n} steps", teacher, n) for n in sorted({TEACHER_STEPS, own})[::-1]]
    if (Path(model) / "student.json").is_file():
        student = load_pipeline(model, variant="student")
        makers += [(f"student, {n} + {n}", student, n) for n in STUDENT_STEPS]
    tiles, labels = [], []
    for i in rows:
        image = Image.fromarray(batch.views[i, 0])
        camera = _camera(batch.c2w[i, 0], batch.intrinsics[i, 0], image.width, _SIDE)
        truth = generate_object(str(batch.kinds[i]), int(batch.seeds[i])).mesh
        tiles += [_on_white(image, _SIDE), render_mesh(truth, camera, style=OBJECT_STYLE)]
        tiles += [_made(pipeline, image, camera, n) for _, pipeline, n in makers]
        labels += ["input", "truth", *(label for label, _, _ in makers)]
    return save_png(contact_sheet(tiles, labels, columns=2 * (2 + len(makers))), path)


def _made(pipeline: Pipeline, image: Image.Image, camera: Camera, steps: int) -> Pixels:
    """Return the object made from an image, or white where none comes out."""
    structure, latent = (replace(sampler, steps=steps) for sampler in pipeline.samplers)
    config = GenerateConfig(structure, latent, outputs=("mesh",))
    try:
        (made,) = pipeline.generate([prepare_image(image)], [0], config, prepared=True).objects
    except NumericalError:
        made = None
    if made is None or made.mesh is None or not len(made.mesh.faces):
        return np.full((camera.height, camera.width, 3), 255, np.uint8)
    mesh = made.mesh.to_mesh(y_up=False)
    return render_mesh(mesh, camera, mesh.vertex_colors, OBJECT_STYLE)


def _camera(c2w: np.ndarray, intrinsics: np.ndarray, width: int, size: int) -> Camera:
    fx, fy, cx, cy = (float(v) * size / width for v in intrinsics)
    return Camera(c2w.astype(np.float64), fx, fy, cx, cy, size, size)


def _on_white(image: Image.Image, size: int) -> Pixels:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
