"""What the small pipeline learns an object from: cells of a 16^3 grid with what is inside them.

Notation: n cells of the coarse grid in the order of `np.argwhere`; each has 4^3 fine cells (of the
64^3 grid) in C order, m of which the surface passes, and 5^3 fine corners; s views of p pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int8, UInt8
from PIL import Image

from geo3d.errors import FileFormatError, InputError
from geo3d.files import atomic_path
from geo3d.npz import read_npz
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.synth.objects.generate import generate_object
from geo3d.work.pool import Limits, Task
from geo3d.work.runner import Work, run_items
from geo3d.work.shards import read_sound
from scenes.objects.data.shards import OBJECT_SHARDS, ObjectBatch
from scenes.objects.data.voxels import RESOLUTION, SurfaceVoxels
from scenes.objects.lifting import camera_parameters
from scenes.objects.small.distances import signed_distances

COARSE = 16
"""Cells per side."""
CHILDREN = RESOLUTION // COARSE
"""Fine cells along the edge of a cell."""
REACH = 2.0
"""Distances are cut off at this many fine cells."""
PIXELS = 64
CHANNELS = (CHILDREN + 1) ** 3 + 3
"""Of `CellObject.features`."""
_PARTS = CHILDREN**3
_BYTES = 2 << 30


@dataclass(frozen=True, eq=False)
class CellObject:
    """One object."""

    name: str
    """Kind and seed, unique."""
    coords: Int8[np.ndarray, "n 3"]
    filled: Bool[np.ndarray, "n 64"]
    """Fine cells that the surface passes."""
    colors: UInt8[np.ndarray, "m 3"]
    normals: Int8[np.ndarray, "m 3"]
    offsets: Int8[np.ndarray, "m 3"]
    """Of the filled fine cells, cell after cell; as in `SurfaceVoxels`."""
    distances: Int8[np.ndarray, "n 125"]
    """Signed distance at the fine corners, in 1/127 of `REACH`, negative inside."""
    views: UInt8[np.ndarray, "s p p 3"]
    """Images on black."""
    cameras: Float32[np.ndarray, "s 6"]
    """Of the views, see `scenes.objects.lifting.camera_parameters`."""

    def occupancy(self) -> Bool[np.ndarray, "16 16 16"]:
        """Return the cells as a dense grid."""
        grid = np.zeros((COARSE,) * 3, bool)
        grid[tuple(self.coords.T)] = True
        return grid

    def mean_colors(self) -> Float[np.ndarray, "n 3"]:
        """Return the mean colour of each cell, in [0, 1]."""
        cell, _ = np.nonzero(self.filled)
        sums = np.zeros((len(self.coords), 3))
        np.add.at(sums, cell, self.colors / 255)
        return sums / self.filled.sum(1, keepdims=True)

    def features(self) -> Float[np.ndarray, "n 128"]:
        """Return what latents are made of: signed distances and the mean colour, in [-1, 1]."""
        values = (self.distances / 127, 2 * self.mean_colors() - 1)
        return np.concatenate(values, axis=1).astype(np.float32)


_PER_VIEW = ("views", "cameras")
_SHARED = tuple(f.name for f in fields(CellObject) if f.name not in ("name", *_PER_VIEW))


def cell_object(
    kind: str, seed: int, voxels: SurfaceVoxels, views: np.ndarray, cameras: np.ndarray
) -> CellObject:
    """Return an object from its fine cells, its images with opacity, and their cameras.

    Raises:
        NumericalError: ``creature.no_surface`` from making the object again.
    """
    parent, child = np.divmod(voxels.coords.astype(np.int64), CHILDREN)
    number = np.ravel_multi_index(tuple(parent.T), (COARSE,) * 3)
    part = np.ravel_multi_index(tuple(child.T), (CHILDREN,) * 3)
    cells, row = np.unique(number, return_inverse=True)
    filled = np.zeros((len(cells), _PARTS), bool)
    filled[row, part] = True
    order = np.lexsort((part, row))
    coords = np.stack(np.unravel_index(cells, (COARSE,) * 3), axis=1)
    field = signed_distances(generate_object(kind, seed).mesh, RESOLUTION, REACH)
    return CellObject(
        f"{kind}-{seed}",
        coords.astype(np.int8),
        filled,
        voxels.colors[order],
        voxels.normals[order],
        voxels.offsets[order],
        np.rint(_corner_values(field, coords) * (127 / REACH)).astype(np.int8),
        np.stack([_on_black(view) for view in views]),
        cameras,
    )


def prepare_cells(
    objects: str | Path,
    cells: str | Path,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> list[Path]:
    """Make the cells of every shard of objects that has none yet, and return the new files.

    Args:
        objects: a folder of `geo3d data objects`, finished or not.
        cells: where to.

    Raises:
        FileFormatError: ``shards.bad_shard``, and what else went wrong with the first that failed.
        Cancelled: from ``progress``.
    """
    folder = Path(cells)
    targets = {
        path.stem: folder / path.name.replace("objects", "cells")
        for path in sorted(Path(objects).glob("objects-*.npz"))
    }
    todo = [target for target in targets.values() if not target.is_file()]
    work = Work(
        folder,
        [Task(name, Path(objects) / f"{name}.npz") for name in targets],
        partial(partial, _cells_of_shard, folder),
        lambda name: targets[name].is_file(),
        "shards of cells",
        retry_all=True,
    )
    failures = run_items(work, Limits(workers, threads=1), progress)
    for failure in failures.values():
        raise FileFormatError(failure["code"], failure["message"], failure["hint"])
    return todo


def _cells_of_shard(folder: Path, path: Path) -> None:
    batch = read_sound(OBJECT_SHARDS, path)
    items = [_from_batch(batch, i) for i in range(len(batch))]
    write_cells(folder / path.name.replace("objects", "cells"), items)


def read_cells(folder: str | Path) -> list[CellObject]:
    """Return all objects of a folder of `prepare_cells`.

    Raises:
        InputError: ``cells.none``.
        FileFormatError: ``cells.bad_file``.
    """
    paths = sorted(Path(folder).glob("cells-*.npz"))
    if not paths:
        raise InputError(
            "cells.none",
            f"There are no cells of objects in {folder}.",
            "Make them with `geo3d train objects --stage cells --objects DIR`.",
        )
    return [item for path in paths for item in _read(path)]


def _from_batch(batch: ObjectBatch, i: int) -> CellObject:
    c2w, intrinsics = (torch.from_numpy(a[i]) for a in (batch.c2w, batch.intrinsics))
    views, name = batch.views[i], (str(batch.kinds[i]), int(batch.seeds[i]))
    cameras = camera_parameters(c2w, intrinsics, views.shape[2])
    return cell_object(*name, batch.voxels(i), views, cameras.float().numpy())


def _corner_values(
    field: Float[np.ndarray, "k k k"], coords: Int[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 125"]:
    steps = np.stack(np.meshgrid(*[np.arange(CHILDREN + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    x, y, z = np.moveaxis(coords[:, None] * CHILDREN + steps, 2, 0)
    return field[x, y, z]


def _on_black(view: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "p p 3"]:
    small = Image.fromarray(view).resize((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    values = np.asarray(small).astype(np.float32)
    return (values[:, :, :3] * (values[:, :, 3:] / 255)).astype(np.uint8)


def write_cells(path: Path, items: Sequence[CellObject]) -> None:
    """Write a file of `read_cells`, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream,
            names=np.array([item.name for item in items], np.str_),
            cells=np.array([len(item.coords) for item in items]),
            fine=np.array([len(item.colors) for item in items]),
            **{n: np.stack([getattr(item, n) for item in items]) for n in _PER_VIEW},
            **cast(Any, {n: np.concatenate([getattr(i, n) for i in items]) for n in _SHARED}),
        )


def _read(path: Path) -> Iterator[CellObject]:
    try:
        arrays = read_npz(path, ("names", "cells", "fine", *_PER_VIEW, *_SHARED), _BYTES)
        ends = np.cumsum(arrays["cells"])[:-1], np.cumsum(arrays["fine"])[:-1]
        columns = {
            name: np.split(arrays[name], ends[name in ("colors", "normals", "offsets")])
            for name in _SHARED
        }
        for i, name in enumerate(arrays["names"]):
            parts = {key: column[i] for key, column in columns.items()}
            parts |= {key: arrays[key][i] for key in _PER_VIEW}
            yield CellObject(name=str(name), **parts)
    except (OSError, ValueError, IndexError) as error:
        raise FileFormatError(
            "cells.bad_file", f"{path} cannot be used: {error}.", "Delete it and make it again."
        ) from error
