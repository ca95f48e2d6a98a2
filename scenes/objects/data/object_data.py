"""Training data for the small image-to-3D pipeline: procedural objects, their cells, their views.

    make_object_data(ObjectDataConfig(objects=4000), "data/objects", workers=2)
    for batch in read_batches("data/objects"): ...

The content of a shard depends on the settings and its number alone, not on the number of workers or
on what happened before; a broken-off run is continued by the same call.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from geo3d.errors import ConfigError, Geo3dError, InputError
from geo3d.files import atomic_write_json
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.cameras import sphere_views
from geo3d.synth.objects.generate import KINDS, ProceduralObject, generate_object
from geo3d.work.pool import Task, run_pool
from scenes.objects.data.shards import (
    INDEX,
    ObjectBatch,
    join_batches,
    kept_shard,
    shard_key,
    write_index,
    write_shard,
)
from scenes.objects.data.views import OBJECT_STYLE, cropped, draw_views
from scenes.objects.data.voxels import visible_shell, voxelize

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
OBJECTS_PER_SHARD = 50
OBJECT_SECONDS = 60.0
"""A shard whose objects take longer than this each is given up."""
_SEED_BLOCK = 10_000_000
Payload = tuple[str, int, str, list[int]]


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
    """Pictures of each object."""
    view_size: int = 96
    """Pixels per side."""
    lowest_deg: float = -20.0
    """Elevation below which there are no cameras; -90 covers the whole sphere, as TRELLIS does."""
    crop: bool = True
    """Whether pictures are cropped to the object, as they are before encoding."""
    hidden: bool = False
    """Whether cells that cannot be reached from outside are kept, as TRELLIS keeps them."""


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
        ConfigError: ``objects_data.bad_setting``.
        InputError: ``objects_data.other_folder`` when ``out`` is for other settings.
        Cancelled: from ``progress``.
    """
    _check(config)
    settings = json.loads(json.dumps(asdict(config)))
    starts = range(0, config.objects, OBJECTS_PER_SHARD)
    jobs = [list(range(config.objects)[i : i + OBJECTS_PER_SHARD]) for i in starts]
    # a shard does not depend on how many objects come after its own
    keys = [shard_key({**settings, "objects": job}, number) for number, job in enumerate(jobs)]
    folder = Path(out)
    _claim(folder, settings)
    todo = [n for n, key in enumerate(keys) if not kept_shard(folder, n, key)]
    if todo:
        # an index beside shards that are being replaced would promise too much
        (folder / INDEX).unlink(missing_ok=True)
    tasks = [Task(n, n, (str(folder), n, keys[n], jobs[n])) for n in todo]
    lost = _run(tasks, config, workers, (len(keys) - len(todo), len(keys)), progress)
    return write_index(folder, settings, len(keys), lost)


def _run(
    tasks: list[Task],
    config: ObjectDataConfig,
    workers: int,
    counts: tuple[int, int],
    progress: ProgressCallback,
) -> dict[int, str]:
    """Make the missing shards; return those that could not be made."""
    made, total = counts
    lost: dict[int, str] = {}

    def tell() -> None:
        report(progress, "shards of objects", made, total, lost=len(lost))

    tell()
    seconds = OBJECT_SECONDS * OBJECTS_PER_SHARD
    handler = partial(make_handler, config)
    # told all the time, so that the listener may cancel between shards
    for outcome in run_pool(tasks, handler, workers, seconds, tell, 1) if tasks else ():
        made += 1
        if outcome.error is not None:
            lost[outcome.task.index] = f"{outcome.error['code']}: {outcome.error['message']}"
        tell()
    return lost


def make_handler(config: ObjectDataConfig) -> Callable[[Payload], int]:
    """Return what a worker does with a (folder, number, key, object numbers) of a shard."""
    return partial(_make_shard, config)


def _make_shard(config: ObjectDataConfig, payload: Payload) -> int:
    folder, number, key, numbers = payload
    batches, failures = [_nothing(config)], {}
    for item in numbers:
        try:
            batches.append(object_batch(config, item))
        except Geo3dError as error:
            failures[item] = f"{error.code}: {error.message}"
        except Exception as error:
            # one object's defect must not stop the others; it is recorded with its type
            logger.exception("unexpected error with object %d", item)
            failures[item] = f"{type(error).__name__}: {error}"
    write_shard(Path(folder), number, join_batches(batches), failures, key)
    return len(batches) - 1


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


def _check(config: ObjectDataConfig) -> None:
    unknown = [kind for kind in config.kinds if kind not in KINDS]
    problems = {
        "objects": config.objects < 1,
        "seed": config.seed < 0,
        "kinds": not config.kinds or bool(unknown),
        "views": not 1 <= config.views <= 1000,
        "view_size": not 8 <= config.view_size <= 1024,
        "lowest_deg": not -90 <= config.lowest_deg < 90,
    }
    for name, is_bad in problems.items():
        if is_bad:
            raise ConfigError(
                "objects_data.bad_setting",
                f"{name} = {getattr(config, name)!r} cannot be used.",
                f"Known kinds: {', '.join(KINDS)}." if name == "kinds" else "Choose another.",
            )


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder of other settings; more of the same is welcome."""
    path = folder / SETTINGS
    if path.is_file():
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            found = {"kinds": "a damaged settings.json"}
        names = {*found, *settings} - {"objects"}
        different = sorted(name for name in names if found.get(name) != settings.get(name))
        if different:
            raise InputError(
                "objects_data.other_folder",
                f"{folder} is for objects of other settings ({', '.join(different)} differ).",
                "Choose another --out.",
            )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, dict(settings))
