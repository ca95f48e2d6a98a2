"""Training data for the small image-to-3D pipeline: procedural objects, their cells, their views.

    make_object_data(ObjectDataConfig(objects=4000), "data/objects", workers=2)
    for batch in read_batches("data/objects"): ...

The content of a shard depends on the settings and its number alone, not on the number of workers or
on what happened before; a broken-off run is continued by the same call.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from geo3d.config import require, require_at_least
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.render.cameras import sphere_views
from geo3d.synth.objects.generate import KINDS, ProceduralObject, generate_object
from geo3d.work.pool import Limits
from geo3d.work.shards import Failed, Plan, collect, fill_folder
from scenes.objects.data.shards import OBJECT_SHARDS, ObjectBatch, join_batches
from scenes.objects.data.views import OBJECT_STYLE, cropped, draw_views
from scenes.objects.data.voxels import visible_shell, voxelize

OBJECTS_PER_SHARD = 50
OBJECT_SECONDS = 60.0
"""A shard whose objects take longer than this each is given up."""
_SEED_BLOCK = 10_000_000


@dataclass(frozen=True)
class ObjectDataConfig:
    """What a folder of objects holds."""

    objects: int = 1000
    """How many; a folder may be enlarged later."""
    seed: int = 0
    """Folders of different seeds have no object in common."""
    kinds: tuple[str, ...] = KINDS
    """The kinds, taken in turns."""
    views: int = 8
    """Images of each object."""
    view_size: int = 96
    """Pixels per side."""
    lowest_deg: float = -20.0
    """Elevation below which there are no cameras; -90 covers the whole sphere, as TRELLIS does."""
    crop: bool = True
    """Whether images are cropped to the object, as they are before encoding."""
    hidden: bool = False
    """Whether cells that cannot be reached from outside are kept, as TRELLIS keeps them."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "objects")
        require_at_least(self, 0, "seed")
        known = bool(self.kinds) and set(self.kinds) <= set(KINDS)
        require(known, "kinds", f"one or more of {', '.join(KINDS)}")
        require(1 <= self.views <= 1000, "views", "1 to 1000")
        require(8 <= self.view_size <= 1024, "view_size", "8 to 1024")
        require(-90 <= self.lowest_deg < 90, "lowest_deg", "at least -90 and below 90")


def make_object_data(
    config: ObjectDataConfig,
    out: str | Path,
    *,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Make the objects in folder ``out`` and return its index.

    Shards that are already there with the same settings are kept.  An object that fails is recorded
    in the index and left out.

    Raises:
        InputError: ``work.other_folder`` when ``out`` is for other settings.
        Cancelled: from ``progress``.
    """
    starts = range(0, config.objects, OBJECTS_PER_SHARD)
    jobs = [list(range(config.objects)[i : i + OBJECTS_PER_SHARD]) for i in starts]
    limits = Limits(workers, timeout=OBJECT_SECONDS * OBJECTS_PER_SHARD, threads=1)
    plan = Plan(asdict(config), jobs, grows="objects")
    return fill_folder(
        OBJECT_SHARDS, Path(out), plan, partial(partial, _shard, config), limits, progress
    )


def _shard(config: ObjectDataConfig, number: int, items: list[int]) -> tuple[ObjectBatch, Failed]:
    batches, failures = collect(items, partial(object_batch, config))
    return join_batches([_nothing(config), *batches]), failures


def numbered_object(config: ObjectDataConfig, number: int) -> ProceduralObject:
    """Return object ``number`` of the folder: kinds take turns.

    Raises:
        NumericalError: ``creature.no_surface``.
    """
    kind = config.kinds[number % len(config.kinds)]
    return generate_object(kind, config.seed * _SEED_BLOCK + number)


def object_batch(config: ObjectDataConfig, number: int) -> ObjectBatch:
    """Return object ``number`` with its cells and views, as a batch of one.

    Raises:
        NumericalError: ``creature.no_surface``.
    """
    made = numbered_object(config, number)
    voxels = voxelize(made.mesh)
    if not config.hidden:
        voxels = visible_shell(voxels)
    rng = np.random.default_rng([config.seed, number])
    lowest = np.radians(config.lowest_deg)
    cameras = sphere_views(config.views, config.view_size, rng, lowest=float(lowest))
    if config.crop:
        cameras = [cropped(camera, made.mesh) for camera in cameras]
    intrinsics = np.array([[c.fx, c.fy, c.cx, c.cy] for c in cameras], np.float32)
    return ObjectBatch(
        kinds=np.array([made.kind], np.str_),
        seeds=np.array([made.seed], np.int64),
        occupancy=np.packbits(voxels.occupancy())[None],
        counts=np.array([len(voxels.coords)], np.int64),
        colors=voxels.colors,
        normals=voxels.normals,
        offsets=voxels.offsets,
        views=draw_views(made.mesh, cameras, OBJECT_STYLE)[None],
        c2w=np.array([c.c2w for c in cameras], np.float32)[None],
        intrinsics=intrinsics[None],
    )


def _nothing(config: ObjectDataConfig) -> ObjectBatch:
    """Return a batch of no objects, which gives dtypes and shapes."""
    one = object_batch(replace(config, kinds=("table",), seed=0), 0)
    empty = {name: value[:0] for name, value in vars(one).items()}
    return ObjectBatch(**empty)
