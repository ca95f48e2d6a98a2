"""Do the borders of cells show?

Neighbouring pixels of one primitive are compared: those whose points lie in different cells of the
scene with those of the same cell.  Compared are the difference of colours and the difference of
what the depth is off the layout's, within one primitive and at like distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from geo3d.progress import ProgressCallback, ignore_progress
from scenes.urban.frames import render_frames
from scenes.urban.scene import Rendering, Scene
from scenes.urban.views import View

_EDGES = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0)
"""Metres between groups of like distance."""
_LEAST = 5
"""Pairs at a border that a group needs to count."""


def measure_seams(
    scene: Scene,
    poses: Float[np.ndarray, "n 4 4"],
    size: int,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Return mean jumps at borders and elsewhere, and their ratio with its standard error.

    The error takes pairs for independent; they are not, so it is the least it can be.
    """
    pairs = [_pairs(scene, *one) for one in render_frames(scene, poses, size, progress)]
    away, border, colour, depth, thing = (np.concatenate([p[i] for p in pairs]) for i in range(5))
    group = np.digitize(away, _EDGES) + len(_EDGES) * 2 * thing
    sums = {"colour": np.zeros(2), "depth": np.zeros(2)}
    total, kept = 0, np.zeros(len(group), bool)
    for g in np.unique(group):
        here, other = (group == g) & border, (group == g) & ~border
        if here.sum() < _LEAST or not other.any():
            continue
        n = int(here.sum())
        total += n
        kept |= here
        for name, values in (("colour", colour), ("depth", depth)):
            sums[name] += n * np.array([values[here].mean(), values[other].mean()])
    numbers: dict[str, Any] = {"pairs_at_borders": total}
    for name, values in sums.items():
        at, elsewhere = values / max(total, 1)
        values_at = (colour if name == "colour" else depth)[kept]
        spread = float(values_at.std() / np.sqrt(max(total, 1)))
        numbers |= {
            f"{name}_at_borders": float(at),
            f"{name}_elsewhere": float(elsewhere),
            f"{name}_ratio": float(at / elsewhere) if elsewhere > 0 else None,
            f"{name}_ratio_error": spread / float(elsewhere) if elsewhere > 0 else None,
        }
    return numbers


def _pairs(scene: Scene, view: View, seen: Rendering) -> tuple[np.ndarray, ...]:
    """Return distance, whether at a border, jumps of colour and depth, primitive of pixel pairs."""
    maps, (height, width) = view.maps, view.maps.depth.shape
    origins, directions = view.camera.rays()
    scale = maps.depth.ravel() / (directions @ view.camera.c2w[:3, 2])
    points = torch.from_numpy(origins + directions * scale[:, None]).float()
    code = scene.lattice.codes(points).view(height, width).numpy()
    colour = seen.image().numpy()
    off = seen.depth.view(height, width).numpy() - maps.depth
    solid = (maps.depth > 0) & (seen.acc.view(height, width).numpy() > 0.5)
    parts = []
    for a, b in (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
    ):
        kept = solid[a] & solid[b] & (maps.instance[a] == maps.instance[b])
        parts.append(
            (
                maps.depth[a][kept],
                (code[a] != code[b])[kept],
                np.abs(colour[a] - colour[b]).mean(axis=2)[kept],
                np.abs(off[a] - off[b])[kept],
                maps.instance[a][kept].astype(np.int64),
            )
        )
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
