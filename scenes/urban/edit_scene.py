"""Change a finished scene: what the edit touched is trained again, the rest stays bit for bit.

The cells that an edit of the layout (`scenes.urban.edits`) touches are open again, and so are
fields of vehicles that are new or look different; every other block is frozen.  A vehicle that
moves takes its field along untouched; the cells where it stood learn what it hid.

The open blocks are fitted to images in which only the changed pixels are the teacher's: around
them the scene's own renderings from before the edit are the target, so that the rest of an open
cell keeps its look too.

    scene = load_scene("RUN/outputs/scene")
    edited = edit_scene(scene, move(scene.layout, "car-3", (0, 0, 6)), teacher, config)
    edited.blocks                                    # what was trained

Notation: r rays of the views of a window, row by row.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geo3d.device import item_generator
from geo3d.fields.cells import cell_name
from geo3d.layout.layout import Layout, Primitive
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.render.rays import Rays
from scenes.urban.conditions import LayoutMaps, RayScene
from scenes.urban.config import SceneConfig
from scenes.urban.edits import Edit
from scenes.urban.guidance import Guidance
from scenes.urban.sample_then_fit import (
    Window,
    colours_of,
    fit_images,
    make_window,
    prepare_round,
    render_views,
)
from scenes.urban.scene import Scene
from scenes.urban.scene_folder import load_scene, save_scene
from scenes.urban.styles import Styles
from scenes.urban.teachers.choice import device_of
from scenes.urban.teachers.painter import Painter, Teacher
from scenes.urban.validate import require_drivable, require_valid
from scenes.urban.views import look, training_poses

KEPT_PER_CHANGED = 4
"""Unchanged rays per changed one that take part in the fitting."""
LEAST_KEPT = 1024
_DEPTH_STEP = 0.01
"""Metres by which a pixel's depth may differ and count as unchanged."""


@dataclass(frozen=True, eq=False)
class Edited:
    """A scene after an edit."""

    scene: Scene
    edit: Edit
    blocks: tuple[str, ...]
    """The blocks that were open to training."""
    views: int
    """Cameras that see the change."""
    error: float
    """Mean absolute difference of colours from the last fit's targets."""


def open_blocks(scene: Scene, before: Layout, edit: Edit) -> tuple[str, ...]:
    """Return the blocks that an edit opens; ``scene`` has the new layout already.

    Cells: where something was that is gone or moved, and where something that is no vehicle is.
    Fields of vehicles: those that are new or look different.
    """
    old = {p.id: p for p in before.primitives}
    new = {p.id: p for p in edit.layout.primitives}
    boxes, fresh = [], []
    for id in edit.touched:
        was, now = old.get(id), new.get(id)
        if was is not None and not (now and was.movable and _is_in_place(was, now)):
            boxes.append(was.bounds())
        if now is not None and not now.movable:
            boxes.append(now.bounds())
        if now is not None and now.movable and _looks_new(was, now):
            fresh.append(id)
    return scene.blocks_in(np.array(boxes).reshape(-1, 2, 3), fresh)


def edit_scene(
    scene: Scene,
    edit: Edit,
    guidance: Teacher,
    config: SceneConfig,
    *,
    progress: ProgressCallback = ignore_progress,
) -> Edited:
    """Apply an edit of the layout to a trained scene, in place.

    Args:
        scene: with the layout from before the edit.
        guidance: the teacher.
        config: how the scene was built.

    Raises:
        InputError: faults of the new layout; ``layout.drive_without_ground``.
        ConfigError: ``styles.unknown`` for new words about a thing that the teacher does not know.
        Cancelled: from ``progress``; the scene is then half done: open it again.
    """
    require_valid(edit.layout)
    before = scene.layout
    require_drivable(before, edit.layout)
    poses = _affected_poses(before, edit, config)
    known = _Before(scene, before, edit, config, guidance, poses)
    scene.set_layout(edit.layout)
    blocks = open_blocks(scene, before, edit)
    error = 0.0
    scene.blocks.train_only(blocks)
    try:
        for number, some in enumerate(known.windows if blocks else []):
            window = make_window(scene, guidance, known.config, some, number)
            error = _fit(scene, guidance, window, known, blocks, progress)
    finally:
        scene.blocks.train_only(None)
    return Edited(scene, edit, blocks, len(poses), error)


def edit_saved_scene(
    source: Path,
    edit: Edit,
    guidance: Teacher,
    config: SceneConfig,
    folder: Path,
    *,
    progress: ProgressCallback = ignore_progress,
) -> tuple[Edited, dict[str, int | float]]:
    """Apply an edit to a saved scene, which stays as it is.

    Args:
        source: folder of the scene (`scenes.urban.scene`).
        folder: of the new run; blocks that change are kept in its folder work.

    Returns:
        The edited scene, and numbers: blocks open to training, blocks changed and blocks the same
        bit for bit, views that see the change, seconds.
    """
    begun = time.monotonic()
    scene = load_scene(
        source, folder / "work" / "blocks", config.fields.backend, device_of(guidance)
    )
    edited = edit_scene(scene, edit, guidance, config, progress=progress)
    same, other = same_blocks(source, save_scene(scene, folder / "outputs" / "scene"))
    numbers = {
        "blocks_trained": len(edited.blocks),
        "blocks_changed": len(other),
        "blocks_same": len(same),
        "views": edited.views,
        "edit_error": round(edited.error, 4),
        "edit_seconds": round(time.monotonic() - begun, 2),
    }
    return edited, numbers


def same_blocks(before: Path, after: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the files of blocks that two saved scenes share bit for bit, and all others."""
    hashes = [
        {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.safetensors")}
        for folder in (before / "blocks", after / "blocks")
    ]
    names = sorted(hashes[0].keys() | hashes[1].keys())
    same = tuple(n for n in names if hashes[0].get(n) == hashes[1].get(n))
    return same, tuple(n for n in names if n not in same)


class _Before:
    """What is remembered of the scene from before the edit, window by window."""

    def __init__(
        self,
        scene: Scene,
        layout: Layout,
        edit: Edit,
        config: SceneConfig,
        guidance: Teacher,
        poses: Float[np.ndarray, "n 4 4"],
    ) -> None:
        style = "" if isinstance(guidance, Painter) else _new_style(layout, edit, guidance)
        self.config = replace(config, prompt=style) if style else config
        self.edit, self.layout = edit, layout
        count = max(1, -(-len(poses) // config.views.window))
        self.windows = np.array_split(poses, count) if len(poses) else []
        self.maps: list[list[LayoutMaps]] = []
        self.colours: list[Tensor] = []
        for number, some in enumerate(self.windows):
            window = make_window(scene, guidance, config, some, number)
            self.maps.append([view.maps for view in window.views])
            self.colours.append(colours_of(render_views(scene, window), window.size))


def _fit(
    scene: Scene,
    guidance: Teacher,
    window: Window,
    known: _Before,
    blocks: tuple[str, ...],
    progress: ProgressCallback,
) -> float:
    """Fit the open blocks to a window's images; return the last error."""
    config, kept = known.config, known.colours[window.number]
    changed, frozen = _changed_rays(window, known, blocks)
    reached = rays_through(window.bundle.rays, _block_boxes(scene, blocks)) & ~frozen
    index = _chosen(changed & reached, ~changed & reached, config.seed, window.number)
    if not len(index):
        return 0.0
    bundle, error = window.bundle.select(index), 0.0
    for number in range(max(1, config.fit.rounds) if bool(changed.any()) else 1):
        images, settings = prepare_round(scene, guidance, window, config, number, progress)
        colours = torch.where(changed[:, None], colours_of(images, window.size), kept)[index]
        rays, name = min(config.fit.rays, len(index)), f"edit/{window.number}/{number}"
        settings = replace(settings, rays=rays, name=name)
        error = fit_images(scene, bundle, colours, config.constraints, settings, progress)
    return error


def _affected_poses(before: Layout, edit: Edit, config: SceneConfig) -> np.ndarray:
    """Return the training cameras of the new layout that see the change."""
    poses = training_poses(edit.layout, config.views)
    middles = edit.boxes.reshape(-1, 3)
    far = np.linalg.norm(poses[:, None, :3, 3] - middles, axis=2).min(axis=1)
    poses = poses[far < config.fields.far] if len(middles) else poses[:0]
    old, new, size = RayScene(before), RayScene(edit.layout), 64
    seen = [
        _differences(
            look(old, pose, size, segments=False).maps,
            look(new, pose, size, segments=False).maps,
            before,
            edit,
        ).any()
        for pose in poses
    ]
    return poses[np.array(seen, bool)]


def _changed_rays(
    window: Window, known: _Before, blocks: tuple[str, ...]
) -> tuple[Bool[Tensor, " r"], Bool[Tensor, " r"]]:
    """Return the rays that the teacher decides, and those that show a frozen moved vehicle."""
    edit, pairs = known.edit, zip(known.maps[window.number], window.views, strict=True)
    changed = [_differences(old, view.maps, known.layout, edit).ravel() for old, view in pairs]
    ids = np.array([p.id for p in edit.layout.primitives] + [""])
    touched = {p.id: p for p in edit.layout.primitives if p.id in edit.touched and p.movable}
    still = [id for id in touched if f"object-{id}" not in blocks]
    instance = np.concatenate([view.maps.instance.ravel() for view in window.views])
    return (
        torch.from_numpy(np.concatenate(changed)),
        torch.from_numpy(np.isin(ids[instance], still)),
    )


def _differences(
    old: LayoutMaps, new: LayoutMaps, before: Layout, edit: Edit
) -> Bool[np.ndarray, "h w"]:
    """Return the pixels that show something else, or a touched primitive."""
    was = _instances(old.instance, before)
    now = _instances(new.instance, edit.layout)
    # edges of a pixel's triangles leave the depth of an untouched thing as it is, to the bit
    moved = np.abs(old.depth - new.depth) > _DEPTH_STEP
    return (was != now) | moved | np.isin(now, list(edit.touched))


def _instances(instance: Int[np.ndarray, "h w"], layout: Layout) -> np.ndarray:
    """Return the id at each pixel; indices shift when a primitive goes."""
    return np.array([p.id for p in layout.primitives] + [""])[instance]


def rays_through(rays: Rays, boxes: Float[Tensor, "n 2 3"]) -> Bool[Tensor, " r"]:
    """Return which rays have matter of the layout within one of the boxes."""
    through = torch.zeros(len(rays), dtype=torch.bool)
    inverse = 1 / torch.where(rays.directions == 0, 1e-12, rays.directions)
    whole = torch.stack([rays.near, rays.far], dim=1)[:, None]
    segments = whole if rays.segments is None else rays.segments
    for low, high in boxes:
        ends = torch.stack([(low - rays.origins) * inverse, (high - rays.origins) * inverse])
        enter = ends.amin(dim=0).amax(dim=1)[:, None]
        leave = ends.amax(dim=0).amin(dim=1)[:, None]
        first = torch.maximum(segments[..., 0], enter.clamp(min=0))
        through |= (torch.minimum(segments[..., 1], leave) > first).any(dim=1)
    return through


def _block_boxes(scene: Scene, blocks: tuple[str, ...]) -> Float[Tensor, "n 2 3"]:
    """Return the boxes of the world in which blocks answer."""
    half = (scene.config.cell + scene.config.band) / 2
    boxes = [scene.layout.primitive(id).bounds() for id in _objects_of(blocks)]
    for key in scene.lattice.keys:
        if f"cell-{cell_name(key)}" in blocks:
            middle = np.array(key) * scene.config.cell
            boxes.append(np.stack([middle - half, middle + half]))
    return torch.from_numpy(np.array(boxes).reshape(-1, 2, 3)).float()


def _objects_of(blocks: tuple[str, ...]) -> list[str]:
    return [name.removeprefix("object-") for name in blocks if name.startswith("object-")]


def _chosen(changed: Tensor, kept: Tensor, seed: int, number: int) -> Int[Tensor, " n"]:
    """Return the rays to fit: all changed ones, and a share of the others."""
    first, second = (torch.nonzero(mask)[:, 0] for mask in (changed, kept))
    generator = item_generator(seed, f"kept rays/{number}")
    order = torch.randperm(len(second), generator=generator)
    return torch.cat([first, second[order[: max(LEAST_KEPT, KEPT_PER_CHANGED * len(first))]]])


def _new_style(before: Layout, edit: Edit, guidance: Guidance) -> str:
    """Return the words that an edit of one primitive gives it.

    Raises:
        ConfigError: ``styles.unknown``.
    """
    old = {p.id: p.style for p in before.primitives}
    changed = [
        p.style
        for p in edit.layout.primitives
        if p.id in edit.touched and p.style and old.get(p.id) != p.style
    ]
    if len(edit.touched) != 1 or not changed:
        return ""
    if isinstance(guidance.prompts, Styles):
        guidance.prompts.tokens(changed[0])
    return changed[0]


def _is_in_place(old: Primitive, new: Primitive) -> bool:
    return new.movable and np.array_equal(old.world_vertices(), new.world_vertices())


def _looks_new(old: Primitive | None, new: Primitive) -> bool:
    """Return whether the field of a vehicle has something to learn."""
    if old is None or not old.movable or old.style != new.style:
        return True
    return not np.array_equal(old.vertices, new.vertices)
