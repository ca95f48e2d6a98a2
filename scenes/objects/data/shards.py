"""Folders of procedural objects: what the small pipeline is trained on.

    objects-0000.npz ...  the arrays of `ObjectBatch`, the failures and a key
    index.json            see `geo3d.work.shards`

Notation: n objects, m cells of all objects of a batch one after the other, s views, h pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float32, Int, Int8, UInt8

from geo3d.work.shards import BOOKKEEPING, ShardKind
from scenes.objects.data.voxels import RESOLUTION, SurfaceVoxels


@dataclass(frozen=True, eq=False)
class ObjectBatch:
    """Objects as arrays."""

    kinds: np.ndarray
    """(n,) names."""
    seeds: Int[np.ndarray, " n"]
    occupancy: UInt8[np.ndarray, "n bytes"]
    """Cells of the 64^3 grid, eight per byte (`np.packbits`), x slowest."""
    counts: Int[np.ndarray, " n"]
    """Cells of each object; the rows below follow in the order of objects and of `np.argwhere`."""
    colors: UInt8[np.ndarray, "m 3"]
    normals: Int8[np.ndarray, "m 3"]
    offsets: Int8[np.ndarray, "m 3"]
    views: UInt8[np.ndarray, "n s h h 4"]
    """Images with opacity."""
    c2w: Float32[np.ndarray, "n s 4 4"]
    intrinsics: Float32[np.ndarray, "n s 4"]
    """fx, fy, cx, cy in pixels."""

    def __len__(self) -> int:
        return len(self.seeds)

    def voxels(self, i: int) -> SurfaceVoxels:
        """Return the cells of object ``i``."""
        grid = np.unpackbits(self.occupancy[i]).reshape((RESOLUTION,) * 3)
        start = int(self.counts[:i].sum())
        rows = slice(start, start + int(self.counts[i]))
        coords = np.argwhere(grid).astype(np.int16)
        parts = (self.colors[rows], self.normals[rows], self.offsets[rows])
        return SurfaceVoxels(RESOLUTION, coords, *parts)


ARRAYS = tuple(f.name for f in fields(ObjectBatch))


def join_batches(batches: Sequence[ObjectBatch]) -> ObjectBatch:
    """Return the objects of all batches in one."""
    return ObjectBatch(*(np.concatenate([getattr(b, name) for b in batches]) for name in ARRAYS))


def _build(arrays: dict[str, np.ndarray]) -> ObjectBatch:
    n, cells = len(arrays["seeds"]), int(arrays["counts"].sum())
    shown = arrays["views"].shape[1:2]
    shapes: dict[str, tuple[int, ...]] = {"kinds": (n,), "counts": (n,)}
    shapes |= {"occupancy": (n, RESOLUTION**3 // 8)}
    shapes |= dict.fromkeys(("colors", "normals", "offsets"), (cells, 3))
    shapes |= {"c2w": (n, *shown, 4, 4), "intrinsics": (n, *shown, 4)}
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    views = arrays["views"]
    if wrong or views.ndim != 5 or len(views) != n or views.dtype != np.uint8:
        raise ValueError(f"its arrays do not fit each other ({', '.join(wrong) or 'views'})")
    return ObjectBatch(**arrays)


OBJECT_SHARDS = ShardKind("objects", "objects", 1, (*BOOKKEEPING, *ARRAYS), vars, _build)
