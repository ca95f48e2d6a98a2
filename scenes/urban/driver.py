"""From a layout to a scene, window by window along the drive, and all that is made of it.

    built = build_scene(layout, SceneConfig(prompt="sunny"), run.path)
    built.scene.render(camera, maps)
    same = load_built(run.path)

A window is a few successive cameras.  All work on it is done before the next one begins, so memory
does not depend on the length of the street.  Into the folder:

    work/state.json, work/state-*/     where an interrupted build goes on; removed at the end
    outputs/scene/  layout.json        the scene (`scenes.urban.scene`)
    outputs/frames/*.png  drive.gif  drive.mp4    the drive
    outputs/depth  classes  instances  transforms.json  sparse    see `scenes.urban.frame_data`
    outputs/mesh.glb  mesh_textured.glb  mesh.usdz  points.ply  gaussians.ply, .glb, .spz
    outputs/metrics.json               adherence to the layout, time, memory
    previews/progress.png  pictures.png  drive.png   the newest window, the teacher's images,
                                       some frames
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from geo3d import checkpoints
from geo3d.device import item_generator
from geo3d.errors import InputError
from geo3d.files import atomic_write_json
from geo3d.layout.layout import Layout
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.cameras import Camera
from geo3d.render.previews import contact_sheet, save_png
from scenes.urban import adherence, export, optimise
from scenes.urban.conditions import RayScene, street_camera
from scenes.urban.config import OutputConfig, SceneConfig, ViewConfig
from scenes.urban.film import save_mp4
from scenes.urban.frame_data import save_cameras, save_maps
from scenes.urban.layout_json import save_layout
from scenes.urban.moving import Track, render_moving
from scenes.urban.sample_then_fit import fit_window, make_window, render_views
from scenes.urban.scene import Scene
from scenes.urban.scene_folder import load_scene, save_scene
from scenes.urban.teachers.choice import device_of, open_teacher
from scenes.urban.teachers.painter import Painter, Teacher, warn_of_styles
from scenes.urban.tracker import Tracker, new_tracker
from scenes.urban.validate import require_valid
from scenes.urban.views import as_bytes, render_frames, save_film, save_frames, training_poses
from scenes.urban.within import Saver

CLASS_COUNT = 14


@dataclass(frozen=True, eq=False)
class BuiltScene:
    """A finished scene."""

    scene: Scene
    layout: Layout
    metrics: Mapping[str, Any]
    previews: tuple[Path, ...]


def build_scene(
    layout: Layout,
    config: SceneConfig,
    folder: Path,
    progress: ProgressCallback = ignore_progress,
    device: str = "cpu",
    resume: bool = False,
    guidance: Teacher | None = None,
) -> BuiltScene:
    """Build a scene and all that is made of it.

    Args:
        folder: the run's; see the head of this module for what comes into it.
        progress: told after every step; may raise `Cancelled`.
        device: of the teacher, and of the scene's fields where that is a network.
        resume: go on from the last state in ``folder``, if there is one.
        guidance: a teacher already open; None opens the one of ``config``.

    Raises:
        InputError: faults of the layout (`scenes.urban.validate`).
        NumericalError: ``distill.not_finite``, ``rollback.gave_up``.
        Cancelled: from ``progress``; call again with ``resume`` to go on.
    """
    require_valid(layout)
    config = with_classes(config)
    guidance = guidance or open_teacher(config, device)
    warn_of_styles(layout, isinstance(guidance, Painter))
    builder = Builder(layout, config, Path(folder), guidance, progress)
    builder.open(resume)
    builder.build()
    return finish(builder.scene, config, Path(folder), guidance, builder.costs(), progress)


def load_built(folder: str | Path) -> BuiltScene:
    """Open what `build_scene` left in a run's folder.

    Raises:
        InputError: ``scene.missing``, and those of `load_scene`.
    """
    root = Path(folder)
    outputs = root / "outputs"
    scene = load_scene(outputs / "scene")
    try:
        metrics = json.loads((outputs / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "scene.missing", f"{root} holds no finished scene.", "Finish it with --resume."
        ) from error
    return BuiltScene(scene, scene.layout, metrics, _previews(root))


def with_classes(config: SceneConfig) -> SceneConfig:
    """Let the scene predict classes where the constraints ask for them, and only there."""
    wanted = CLASS_COUNT if config.constraints.semantics > 0 else 0
    return replace(config, fields=replace(config.fields, semantics=wanted, seed=config.seed))


class Builder:
    """The work on the windows of one scene, and its state on disk."""

    def __init__(
        self,
        layout: Layout,
        config: SceneConfig,
        folder: Path,
        guidance: Teacher,
        progress: ProgressCallback,
    ) -> None:
        self.config, self.folder, self.guidance = config, folder, guidance
        self.layout, self.progress = layout, progress
        self.work, self.previews = folder / "work", folder / "previews"
        self.rays = RayScene(layout)
        self.windows = _windows(training_poses(layout, config.views), config.views)
        self.done, self.saves, self.seconds, self.cpu = 0, 0, 0.0, 0.0
        self.within: tuple[Mapping[str, Any], Mapping[str, Tensor]] | None = None
        self.divergences: list[dict[str, Any]] = []

    def open(self, resume: bool) -> None:
        """Start anew, or from the last state."""
        state = _read_state(self.work) if resume else None
        if state is None:
            shutil.rmtree(self.work, ignore_errors=True)
            work, device = self.work / "blocks", device_of(self.guidance)
            self.scene = Scene(self.config.fields, self.layout, work, device=device)
            self.tracker = self._new_tracker()
            return
        kept = self.work / state["folder"]
        shutil.rmtree(self.work / "blocks", ignore_errors=True)
        backend, device = self.config.fields.backend, device_of(self.guidance)
        self.scene = load_scene(kept, self.work / "blocks", backend, device)
        self.tracker = self._new_tracker()
        if self.tracker is not None:
            optimise.load_tracker(self.tracker, kept / "tracker.safetensors")
        self.done, self.seconds, self.saves = state["done"], state["seconds"], state["saves"]
        self.cpu, self.divergences = state["cpu"], state["divergences"]
        if state.get("within"):
            found = kept / "within.safetensors"
            tensors = checkpoints.load(found).tensors if found.is_file() else {}
            self.within = (state["within"], tensors)

    def build(self) -> None:
        """Do the windows that are left.

        Raises:
            Cancelled: from ``progress``.
        """
        saved = time.monotonic()
        while self.done < len(self.windows):
            start, cpu = time.monotonic(), time.process_time()
            self._work_on(self.done)
            self.done += 1
            self.seconds += time.monotonic() - start
            self.cpu += time.process_time() - cpu
            is_last = self.done == len(self.windows)
            if not is_last and time.monotonic() - saved > self.config.checkpoint_seconds:
                self.save()
                saved = time.monotonic()
            report(self.progress, "windows of the street", self.done, len(self.windows))

    def save(
        self, at: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the state; the one before is removed afterwards.

        Args:
            at: where the work on a window is; None between two.
            tensors: needed to go on within a window.
        """
        self.saves += 1
        name = f"state-{self.done:05d}-{self.saves}"
        save_scene(self.scene, self.work / name)
        if self.tracker is not None:
            optimise.save_tracker(self.tracker, self.work / name / "tracker.safetensors")
        if tensors:
            checkpoints.save(self.work / name / "within.safetensors", dict(tensors))
        state = {
            "within": dict(at) if at else None,
            "saves": self.saves,
            "folder": name,
            "done": self.done,
            "seconds": self.seconds,
            "cpu": self.cpu,
            "divergences": self.divergences,
        }
        atomic_write_json(self.work / "state.json", state)
        if self.scene.blocks.source is not None:
            # a resumed scene reads what nobody changed since from the state it was opened from
            self.scene.blocks.source = self.work / name / "blocks"
        for old in self.work.glob("state-*"):
            if old.name != name:
                shutil.rmtree(old)

    def costs(self) -> dict[str, Any]:
        """Return time and memory of the windows."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "windows": len(self.windows),
            "views": len(training_poses(self.layout, self.config.views)),
            "build_seconds": round(self.seconds, 2),
            "build_cpu_seconds": round(self.cpu, 2),
            "peak_memory_mib": round(peak, 1),
            "divergences": self.divergences,
        }

    def _work_on(self, number: int) -> None:
        poses, config = self.windows[number], self.config
        window = make_window(self.scene, self.guidance, config, poses, number, self.rays)
        at, tensors = self.within or (None, None)
        self.within = None
        saver = Saver(self.save, config.checkpoint_seconds, at, tensors)
        first = 0
        if self.config.method != "sample_then_fit":
            self.divergences += optimise.distil_window(
                self.scene, self.guidance, self.tracker, window, config, self.progress, saver
            )
            first = 1
        rounds = self.config.fit.rounds if first == 0 else 1 + self.config.optimise.fit_rounds
        images, _ = fit_window(
            self.scene, self.guidance, window, config, range(first, rounds), self.progress, saver
        )
        self._show(images, render_views(self.scene, window))

    def _show(self, images: Tensor, seen: Tensor) -> None:
        self.previews.mkdir(parents=True, exist_ok=True)
        save_png(_sheet(seen), self.previews / "progress.png")
        if len(images):
            save_png(_sheet(images), self.previews / "pictures.png")

    def _new_tracker(self) -> Tracker | None:
        if self.config.method not in ("vsd", "lgvsd") or isinstance(self.guidance, Painter):
            return None
        generator = item_generator(self.config.seed, "tracker")
        return new_tracker(self.config.distil.tracker, self.guidance.unet, generator)


def finish(
    scene: Scene,
    config: SceneConfig,
    folder: Path,
    guidance: Teacher | None,
    costs: Mapping[str, Any],
    progress: ProgressCallback = ignore_progress,
) -> BuiltScene:
    """Write the scene and everything made of it; also after an edit.

    Args:
        guidance: the teacher, for the distance to its images; None leaves that out.
        costs: numbers that go into the metrics as they are.
    """
    start, cpu = time.monotonic(), time.process_time()
    outputs, asked = folder / "outputs", config.outputs
    save_scene(scene, outputs / "scene", moments=False)
    save_layout(scene.layout, outputs / "layout.json")
    cameras = _drive(scene, config, folder, progress) if asked.frames else []
    made, cloud = export.export_all(scene, asked, outputs, progress)
    if cameras and asked.data:
        save_cameras(scene.layout, cameras, cloud, outputs)
    found: dict[str, Any] = {}
    if asked.measured:
        found = adherence.measure(scene, config, guidance, progress)
    spent = {
        "outputs_seconds": round(time.monotonic() - start, 2),
        "outputs_cpu_seconds": round(time.process_time() - cpu, 2),
    }
    metrics = {**found, **costs, **spent, **made, "method": config.method, "seed": config.seed}
    metrics["hash_grid_backend"] = scene.backend
    atomic_write_json(outputs / "metrics.json", metrics)
    shutil.rmtree(folder / "work", ignore_errors=True)
    return BuiltScene(load_scene(outputs / "scene"), scene.layout, metrics, _previews(folder))


def _windows(poses: np.ndarray, config: ViewConfig) -> list[np.ndarray]:
    """Return the poses of successive windows, each after the last ones of the window before."""
    count = max(1, math.ceil(len(poses) / config.window))
    starts = [part[0] for part in np.array_split(np.arange(len(poses)), count) if len(part)]
    ends = [*starts[1:], len(poses)]
    return [
        poses[max(0, start - config.overlap) : end] for start, end in zip(starts, ends, strict=True)
    ]


def _drive(
    scene: Scene, config: SceneConfig, folder: Path, progress: ProgressCallback
) -> list[Camera]:
    """Write the frames along the drive, what belongs to them, and films; return the cameras."""
    asked = config.outputs
    poses = scene.layout.trajectory
    poses = poses[np.linspace(0, len(poses) - 1, asked.frames).round().astype(int)]
    size = asked.frame_size
    finer = asked.antialias
    outputs, frames, cameras = folder / "outputs", [], []
    for number, (view, seen) in enumerate(render_frames(scene, poses, size * finer, progress)):
        frames.append(as_bytes(seen, finer))
        cameras.append(street_camera(view.camera.c2w, size))
        if asked.data:
            save_maps(number, view, seen, outputs, finer)
    _save_drive(frames, asked, folder)
    return cameras


def film_moving(
    scene: Scene,
    tracks: Mapping[str, Track],
    asked: OutputConfig,
    folder: Path,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Film the drive with things that move, into the folder of a run; return its numbers.

    The drive takes as long as its film: frame i is at i / ``asked.frame_rate`` seconds.
    """
    count = max(asked.frames, 2)
    poses = scene.layout.trajectory
    poses = poses[np.linspace(0, len(poses) - 1, count).round().astype(int)]
    times = [i / asked.frame_rate for i in range(count)]
    finer = asked.antialias
    found = render_moving(scene, tracks, poses, times, asked.frame_size * finer, progress)
    _save_drive([as_bytes(seen, finer) for _, seen in found], asked, folder)
    return {"frames": count, "seconds": times[-1], "moving": sorted(tracks)}


def _save_drive(
    frames: list[UInt8[np.ndarray, "h w 3"]], asked: OutputConfig, folder: Path
) -> None:
    outputs = folder / "outputs"
    save_frames(frames, outputs / "frames")
    save_film(frames, outputs / "drive.gif", asked.frame_rate)
    save_mp4(frames, outputs / "drive.mp4", asked.frame_rate)
    (folder / "previews").mkdir(parents=True, exist_ok=True)
    some = frames[:: max(1, len(frames) // 8)][:8]
    save_png(contact_sheet(some, columns=4), folder / "previews" / "drive.png")


def _sheet(images: Tensor) -> np.ndarray:
    tiles = (images[:12].clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    scale = max(1, 128 // tiles.shape[1])
    large = [tile.repeat(scale, 0).repeat(scale, 1) for tile in tiles]
    return contact_sheet(large, columns=min(4, len(large)))


def _previews(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted((folder / "previews").glob("*.png")))


def _read_state(work: Path) -> dict[str, Any] | None:
    path = work / "state.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None
