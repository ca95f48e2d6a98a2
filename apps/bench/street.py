"""What scenes of streets are worth: objectives compared, length, borders, edits.

Every cell of a comparison is a file of its own in the folder: a broken-off bench goes on where it
was.  Cells of one comparison get the same processor time (`CELL_SECONDS`): how many steps that are
is found once by timing each method, and kept in ``plan.json``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.bench.seams import measure_seams
from geo3d import checkpoints
from geo3d.config import load_config
from geo3d.files import asset_roots, atomic_write_json
from geo3d.layout.layout import Layout
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.synth.streets.generate import generate_street
from geo3d.synth.streets.path import StreetKind
from geo3d.work.pool import Limits, Task
from geo3d.work.runner import Work, run_items
from scenes.urban import adherence
from scenes.urban.adherence import near_labels
from scenes.urban.config import SceneConfig
from scenes.urban.driver import Builder, build_scene, with_classes
from scenes.urban.edit_scene import edit_scene
from scenes.urban.edits import move
from scenes.urban.guidance import Guidance
from scenes.urban.scene import Scene
from scenes.urban.scene_folder import load_scene
from scenes.urban.street_segmenter import agreement, shipped_segmenter
from scenes.urban.teachers.choice import open_teacher, require_network
from scenes.urban.views import as_bytes, held_out_poses, render_frames, stations

Rows = list[dict[str, Any]]
CELL_SECONDS = 60.0
"""Processor time of one cell of the comparison."""
LAYOUTS: tuple[tuple[StreetKind, int], ...] = (("straight", 11), ("curved", 12), ("crossing", 13))
"""Streets of the comparison; the teacher has seen neither."""
_TIMED_STEPS = 5
"""Steps per view of a run that is timed."""
LENGTH = 50.0
"""Metres of each, cameras on the middle 30."""
_COMMON: tuple[str, ...] = (
    "teacher=learned",
    "prompt=sunny",
    "views.spacing=4",
    "views.window=16",
    "optimise.fit_rounds=0",
    "outputs.measured=6",
    "sampling.steps=15",
)
_FREE = ("fields.constrain=none", "fields.empty_background=false", "fields.near=1.0")
_NO_CONSTRAINTS = ("constraints.density=0", "constraints.depth=0", "constraints.semantics=0")
_DISTIL = ("method=lgvsd",)
_NO_CONTROL = ("distil.use_layout=false",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "no layout": (*_DISTIL, *_FREE, *_NO_CONSTRAINTS, *_NO_CONTROL),
    "SDS, ControlNet": ("method=sds", *_NO_CONSTRAINTS),
    "SDS, all of the layout": ("method=sds",),
    "VSD": (*_DISTIL, *_NO_CONSTRAINTS, *_NO_CONTROL),
    "VSD, ControlNet": (*_DISTIL, *_NO_CONSTRAINTS),
    "LG-VSD": _DISTIL,
    "LG-VSD, no density": (*_DISTIL, "constraints.density=0"),
    "LG-VSD, no depth": (*_DISTIL, "constraints.depth=0"),
    "LG-VSD, no classes": (*_DISTIL, "constraints.semantics=0"),
    "sample, then fit": ("method=sample_then_fit", "fit.rounds=2"),
}
"""What is compared: settings beside those all share."""
SEGMENTER = "urban/segmenter.safetensors"
SCALE_LENGTHS = (100.0, 1000.0, 5000.0)
_SCALE: tuple[str, ...] = (
    "prompt=sunny",
    "fields.stuff.log2_rows=11",
    "fields.resident=64",
    "fields.far=80",
    "outputs.voxel=0",
    "outputs.points=0",
    "outputs.measured=0",
    "checkpoint_seconds=1e9",
)


@dataclass(frozen=True)
class Cell:
    """One scene of the comparison."""

    variant: str
    kind: StreetKind
    street: int
    seed: int

    @property
    def file(self) -> str:
        """Name of its file."""
        word = "".join(c if c.isalnum() else "-" for c in self.variant.lower())
        return f"{word}-{self.kind}-{self.seed}.json"


def cells(seeds: int = 2) -> list[Cell]:
    """Return the cells, whole tables of one seed and layout first."""
    return [
        Cell(variant, kind, street, seed)
        for seed in range(seeds)
        for kind, street in LAYOUTS
        for variant in VARIANTS
    ]


def bench_ablation(
    data: Path,
    overrides: tuple[str, ...] = (),
    seeds: int = 2,
    seconds: float = CELL_SECONDS,
    progress: ProgressCallback = ignore_progress,
) -> Rows:
    """Build what is not built yet, and return one row per variant.

    Args:
        data: keeps the cells.
        overrides: further settings of all cells, such as the teacher.
        seconds: processor time of a cell.
    """
    data.mkdir(parents=True, exist_ok=True)
    plan = _plan(data, _network(overrides), overrides, seconds)
    work = Work(
        data,
        [Task(cell.file, cell) for cell in cells(seeds)],
        partial(_cell_maker, data, overrides, plan),
        lambda name: (data / name).is_file(),
        "cells of the comparison",
    )
    # one at a time: their processor times are compared
    run_items(work, Limits(), progress)
    return ablation_table(data)


def ablation_table(folder: Path) -> Rows:
    """Return the means of the cells that are there, one row per variant."""
    rows: Rows = []
    has_segmenter = any((root / SEGMENTER).is_file() for root in asset_roots())
    names = ("depth_error_m", "miou", "feature_distance", "consistency", "see_through", "floaters")
    for variant in VARIANTS:
        own = [c for c in cells() if c.variant == variant and (folder / c.file).is_file()]
        found = [json.loads((folder / c.file).read_text("utf-8")) for c in own]
        for cell, numbers in zip(own, found, strict=True):
            if numbers["miou"] is None and has_segmenter:
                numbers["miou"] = _miou(folder / f"{Path(cell.file).stem}.safetensors")
        if not found:
            continue
        row: dict[str, Any] = {"variant": variant, "cells": len(found)}
        for name in names:
            values = [f[name] for f in found if f.get(name) is not None]
            row[name] = float(np.mean(values)) if values else None
        row["cpu_s"] = float(np.mean([f["build_cpu_seconds"] for f in found]))
        row["divergences"] = sum(len(f["divergences"]) for f in found)
        rows.append(row)
    return rows


def bench_scale(
    data: Path,
    overrides: tuple[str, ...] = (),
    lengths: tuple[float, ...] = SCALE_LENGTHS,
    progress: ProgressCallback = ignore_progress,
) -> Rows:
    """Build streets of several lengths in the smallest preset, each in a process of its own."""
    data.mkdir(parents=True, exist_ok=True)
    files = {f"scale-{length:g}": data / f"scale-{length:g}.json" for length in lengths}
    work = Work(
        data,
        [Task(name, length) for name, length in zip(files, lengths, strict=True)],
        partial(partial, _scale_row, data, overrides),
        lambda name: files[name].is_file(),
        "lengths",
    )
    # a process of its own for each, so that the memory measured is its own
    run_items(work, Limits(threads=1, fresh=True), progress)
    return [json.loads(path.read_text("utf-8")) for path in files.values() if path.is_file()]


def bench_seams(data: Path, progress: ProgressCallback = ignore_progress) -> Rows:
    """Return the jumps at the borders of the cells of a finished run's scene, and elsewhere."""
    scene = load_scene(data / "outputs" / "scene")
    poses = stations(scene.layout, 2.5)
    return [{"scene": scene.layout.name, **measure_seams(scene, poses, 96, progress)}]


def _config(own: tuple[str, ...], overrides: tuple[str, ...], seed: int = 0) -> SceneConfig:
    given = (f"seed={seed}", *_COMMON, *own, *overrides)
    return with_classes(load_config(SceneConfig, None, "learned", given))


def _network(overrides: tuple[str, ...]) -> Guidance:
    """Return the teacher of the comparison.

    Raises:
        ConfigError: ``teacher.no_score`` for the painter.
    """
    return require_network(open_teacher(_config((), overrides)))


def _plan(
    folder: Path, guidance: Guidance, overrides: tuple[str, ...], seconds: float
) -> Mapping[str, int]:
    """Return the steps per view of each variant that take ``seconds`` of processor time."""
    path = folder / "plan.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    layout = generate_street(LENGTH, LAYOUTS[0][1], LAYOUTS[0][0])
    for variant, own in VARIANTS.items():
        if variant not in known:
            # the first run compiles and fills caches
            spent = [
                _timed(layout, own, overrides, guidance, folder, n) for n in (0, 0, _TIMED_STEPS)
            ]
            each = max(spent[2] - spent[1], 1e-3) / _TIMED_STEPS
            known[variant] = max(1, round((seconds - spent[1]) / each))
            atomic_write_json(path, known)
    return known


def _timed(
    layout: Layout,
    own: tuple[str, ...],
    overrides: tuple[str, ...],
    guidance: Guidance,
    folder: Path,
    steps: int,
) -> float:
    config = _with_steps(_config(own, overrides), steps)
    builder = Builder(layout, config, folder / "building", guidance, ignore_progress)
    builder.open(resume=False)
    builder.build()
    return builder.cpu


def _with_steps(config: SceneConfig, steps: int) -> SceneConfig:
    return replace(
        config,
        fit=replace(config.fit, steps_per_view=steps),
        optimise=replace(config.optimise, steps_per_view=steps),
    )


def _cell_maker(
    folder: Path, overrides: tuple[str, ...], plan: Mapping[str, int]
) -> Callable[[Cell], None]:
    guidance = _network(overrides)

    def make(cell: Cell) -> None:
        numbers = _cell_numbers(cell, guidance, overrides, plan, folder)
        atomic_write_json(folder / cell.file, numbers)

    return make


def _cell_numbers(
    cell: Cell,
    guidance: Guidance,
    overrides: tuple[str, ...],
    plan: Mapping[str, int],
    folder: Path,
) -> dict[str, Any]:
    config = _with_steps(_config(VARIANTS[cell.variant], overrides, cell.seed), plan[cell.variant])
    layout = generate_street(LENGTH, cell.street, cell.kind)
    builder = Builder(layout, config, folder / "building", guidance, ignore_progress)
    builder.open(resume=False)
    builder.build()
    drawn = _drawn(folder, cell, layout, config, guidance)
    numbers = adherence.measure(builder.scene, config, guidance, drawn=drawn)
    _keep_pictures(builder.scene, config, folder / f"{Path(cell.file).stem}.safetensors")
    preview = builder.previews / "progress.png"
    if preview.is_file():
        preview.replace(folder / f"{Path(cell.file).stem}.png")
    return {**vars(cell), **numbers, **builder.costs(), "steps_per_view": plan[cell.variant]}


def _keep_pictures(scene: Scene, config: SceneConfig, path: Path) -> None:
    """Write the measured views, so that another segmenter can look at them."""
    poses = held_out_poses(scene.layout, config.views, config.outputs.measured)
    found = list(render_frames(scene, poses, adherence.SIZE))
    pictures = np.stack([as_bytes(seen) for _, seen in found])
    labels = np.stack([near_labels(view, scene.config.far) for view, _ in found])
    kept = {"pictures": torch.from_numpy(pictures), "labels": torch.from_numpy(labels)}
    checkpoints.save(path, kept)


def _miou(path: Path) -> float | None:
    """Return what the shipped segmenter says of images that `_keep_pictures` wrote."""
    if not path.is_file():
        return None
    tensors = checkpoints.load(path).tensors
    seen = shipped_segmenter().labels(tensors["pictures"].numpy())
    return agreement(seen, tensors["labels"].numpy())["miou"]


def _drawn(
    folder: Path, cell: Cell, layout: Layout, config: SceneConfig, guidance: Guidance
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the teacher's images of a layout, drawn once for all variants."""
    path = folder / f"drawn-{cell.kind}-{cell.seed}.safetensors"
    if not path.is_file():
        poses = held_out_poses(layout, config.views, config.outputs.measured)
        one, two = adherence.teacher_images(layout, config, guidance, poses)
        checkpoints.save(path, {"one": one, "two": two})
    tensors = checkpoints.load(path).tensors
    return tensors["one"], tensors["two"]


def _scale_row(folder: Path, overrides: tuple[str, ...], length: float) -> None:
    torch.set_num_threads(1)
    start = time.process_time()
    layout = generate_street(length, 5, "curved")
    config = load_config(SceneConfig, None, "smoke", (*_SCALE, *overrides))
    built = build_scene(layout, config, folder / f"scale-{length:g}")
    metrics = built.metrics
    row = {
        "length_m": length,
        "primitives": len(layout.primitives),
        "views": metrics["views"],
        "blocks": len(built.scene.block_names),
        "memory_mib": metrics["peak_memory_mib"],
        "cpu_s": metrics["build_cpu_seconds"],
        "cpu_s_per_m": metrics["build_cpu_seconds"] / length,
        "whole_cpu_s": time.process_time() - start,
    }
    atomic_write_json(folder / f"scale-{length:g}.json", row)


def bench_edit(
    data: Path,
    overrides: tuple[str, ...] = (),
    progress: ProgressCallback = ignore_progress,
) -> Rows:
    """Move one vehicle of a finished run's scene by 4 m; nothing of the run is changed."""
    settings = data / "config.yaml"
    config = load_config(SceneConfig, settings if settings.is_file() else None, None, overrides)
    scene = load_scene(data / "outputs" / "scene")
    places = scene.layout.trajectory[:, :3, 3]
    middle = places[len(places) // 2]
    vehicles = [p for p in scene.layout.primitives if p.movable]
    moved = min(vehicles, key=lambda p: float(np.linalg.norm(p.transform[:3, 3] - middle)))
    heading = scene.layout.trajectory[len(places) // 2, :3, 2]
    before = {name: _digest(scene, name) for name in scene.block_names}
    start = time.process_time()
    guidance = open_teacher(config)
    edited = edit_scene(
        scene, move(scene.layout, moved.id, 4 * heading), guidance, config, progress=progress
    )
    spent = time.process_time() - start
    changed = {name for name in before if _digest(scene, name) != before[name]}
    return [
        {
            "moved": moved.id,
            "blocks": len(before),
            "opened": len(edited.blocks),
            "changed": len(changed),
            "others_identical": changed <= set(edited.blocks),
            "views": edited.views,
            "cpu_s": spent,
        }
    ]


def _digest(scene: Scene, name: str) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(scene.blocks.get(name).state_dict().items()):
        digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
    scene.blocks.trim()
    return digest.hexdigest()
