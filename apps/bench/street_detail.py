"""What of the painter's detail a street's scene shows, at cameras it was not built from.

The painter knows any street exactly, from everywhere: its pictures are the truth that the scenes of
every teacher are compared with, at cameras between those of the drive and beside it.  Both are
anti-aliased, as frames are.  Every scene is a file of its own in the folder: a broken-off bench
goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from apps.bench.image_detail import feature_distances, imagenet_encoder, kernel_distance
from geo3d.config import load_config
from geo3d.files import asset, atomic_write_json
from geo3d.layout.layout import Layout, piece
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.render.cameras import Camera
from geo3d.render.previews import save_png
from geo3d.synth.streets.generate import generate_street
from geo3d.work.pool import Limits, Task
from geo3d.work.runner import Work, run_items
from scenes.urban.conditions import RayScene, street_camera
from scenes.urban.config import SceneConfig
from scenes.urban.driver import Builder, with_classes
from scenes.urban.imports.door import import_layout
from scenes.urban.scene import SKY, Scene
from scenes.urban.splats import Discs, paint_discs, scene_discs
from scenes.urban.teachers.choice import open_teacher
from scenes.urban.teachers.painter import Painter
from scenes.urban.views import held_out_poses

Rows = list[dict[str, Any]]
SHIFTS = (0.0, 1.0, 2.0, 4.0)
"""Metres that the cameras are moved to the left, from the right lane to the middle and beyond."""
SIZE, FINER = 192, 2
"""Side of the compared images, and rays per pixel, squared."""
PRESETS = {"painter": "demo", "learned": "learned"}
"""By teacher."""
_CAMERAS = 6
_LENGTH = 60.0
_LAYOUTS = "layouts"
"""Folder in the bench's own with further layouts, such as published samples."""


class Street(NamedTuple):
    """One scene of the bench."""

    layout: str
    teacher: str

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{Path(self.layout).stem}-{self.teacher}"


def bench_detail(
    data: Path,
    overrides: tuple[str, ...] = (),
    progress: ProgressCallback = ignore_progress,
) -> Rows:
    """Build the scenes that are not there yet; return a row for each street, teacher and shift.

    Args:
        data: keeps what is done; layouts in its folder ``layouts`` are taken too.
        overrides: further settings of all scenes.

    Raises:
        BackendUnavailable: ``backend.lite0_missing``.
    """
    imagenet_encoder()
    data.mkdir(parents=True, exist_ok=True)
    more = sorted(str(path) for path in (data / _LAYOUTS).glob("*") if path.is_file())
    streets = [
        Street(name, teacher) for name in ("straight", "tcrossing", *more) for teacher in PRESETS
    ]
    work = Work(
        data,
        [Task(street.name, street) for street in streets],
        partial(partial, _build_and_measure, data, overrides),
        lambda name: (data / f"{name}.json").is_file(),
        "scenes",
    )
    run_items(work, Limits(threads=1), progress)
    found = [data / f"{street.name}.json" for street in streets]
    return [row for path in found if path.is_file() for row in json.loads(path.read_text("utf-8"))]


def _build_and_measure(data: Path, overrides: tuple[str, ...], street: Street) -> None:
    layout = street_of(street.layout)
    preset = PRESETS[street.teacher]
    given = ("prompt=sunny", f"teacher={street.teacher}", *overrides)
    config = with_classes(load_config(SceneConfig, None, preset, given))
    folder = data / f"{street.name}.building"
    builder = Builder(layout, config, folder, open_teacher(config), ignore_progress)
    builder.open(resume=False)
    builder.build()
    costs = {"build_cpu_s": builder.costs()["build_cpu_seconds"]}
    scene, known = builder.scene, {"street": layout.name, "teacher": street.teacher}
    shown: dict[str, Callable[[Camera], Tensor]] = {"scene": partial(_of_scene, scene)}
    if street.teacher == "painter":
        discs = scene_discs(scene, config.outputs)
        shown["Gaussians"] = partial(_of_discs, scene, discs)
    rows: Rows = []
    for name, show in shown.items():
        sheet = data / f"{street.name}-{name.lower()}.png"
        found = detail_rows(scene.layout, config, show, sheet)
        rows += [{**known, "shown": name, **row, **costs} for row in found]
    atomic_write_json(data / f"{street.name}.json", rows)
    shutil.rmtree(folder)


def street_of(name: str) -> Layout:
    """Return a made-up street, a shipped one, or 60 m of a file's."""
    if name == "straight":
        return generate_street(_LENGTH, 0, "straight")
    path = asset(f"urban/streets/{name}.json") if name == "tcrossing" else Path(name)
    layout = import_layout(path).layout
    return layout if name == "tcrossing" else piece(layout, _LENGTH, 0.0)


def detail_rows(
    layout: Layout,
    config: SceneConfig,
    show: Callable[[Camera], Float[Tensor, "3 h w"]],
    sheet: Path | None = None,
) -> Rows:
    """Return PSNR and the distances of what is shown to the painter's pictures, by shift.

    Args:
        show: returns what a camera sees.
        sheet: where to write pictures of both, one under the other.
    """
    rows, tiles, both = [], [], []
    encoder = imagenet_encoder()
    poses = held_out_poses(layout, config.views, _CAMERAS)
    for shift in SHIFTS:
        ours, theirs = compared(layout, config, show, beside(poses, shift))
        error = (ours - theirs).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
        distance = float(feature_distances(ours, theirs, encoder).mean())
        psnr = float(-10 * error.log10().mean())
        rows.append({"shift_m": shift, "psnr": psnr, "distance": distance})
        tiles.append(torch.cat([torch.cat(list(part[::2]), 2) for part in (theirs, ours)], 1))
        both.append((ours, theirs))
    # of all shifts together: of few images it says little
    sets = [torch.cat(part) for part in zip(*both, strict=True)]
    apart = kernel_distance(sets[0], sets[1], encoder)
    rows = [{**row, "kernel_distance": apart} for row in rows]
    if sheet is not None:
        image = (torch.cat(tiles, 1).permute(1, 2, 0) * 255).round().to(torch.uint8)
        save_png(image.numpy(), sheet)
    return rows


def beside(poses: Float[np.ndarray, "n 4 4"], metres: float) -> Float[np.ndarray, "n 4 4"]:
    """Return poses moved to their left."""
    moved = poses.copy()
    moved[:, :3, 3] -= metres * moved[:, :3, 0]
    return moved


def compared(
    layout: Layout,
    config: SceneConfig,
    show: Callable[[Camera], Float[Tensor, "3 h w"]],
    poses: Float[np.ndarray, "n 4 4"],
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]]:
    """Return what cameras are shown, and what the painter paints there."""
    finer = [street_camera(pose, SIZE * FINER) for pose in poses]
    ours = torch.stack([torch.nn.functional.avg_pool2d(show(c), FINER) for c in finer])
    cameras = [street_camera(pose, SIZE) for pose in poses]
    far, painter = config.fields.far, Painter(config.seed)
    return ours, painter.paint(layout, cameras, config.prompt, far, FINER).images


@torch.no_grad()
def _of_scene(scene: Scene, camera: Camera) -> Float[Tensor, "3 h w"]:
    maps = RayScene(scene.layout).maps(camera, segments=True)
    return scene.render(camera, maps).image().clamp(0, 1).permute(2, 0, 1)


@torch.no_grad()
def _of_discs(scene: Scene, discs: Discs, camera: Camera) -> Float[Tensor, "3 h w"]:
    _, directions = camera.rays()
    sky = scene.blocks.get(SKY)(torch.from_numpy(directions).float())
    behind = sky.double().numpy().reshape(camera.height, camera.width, 3)
    return torch.from_numpy(paint_discs(discs, camera, behind)).float().permute(2, 0, 1)
