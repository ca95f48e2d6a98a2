"""Do the borders of cells show?

Neighbouring pixels of one primitive are compared: those whose points lie on two sides of a border
between cells of the scene with those on two sides of a plane inside cells (`_PLANES`), where there
is nothing to see.  Both kinds of pairs are as often steep, far or oblique; pairs that cross no
plane at all are closer together in the world, and differ less for that alone.

A jump is what two neighbours b, c differ by beyond what their own neighbours a, d lead one to
expect: |(c - b) - ((b - a) + (d - c)) / 2|.  A slow change over metres is none.  Compared are jumps
of colour and of what the depth is off the layout's, within one primitive and at like distance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from geo3d.progress import ProgressCallback, ignore_progress
from scenes.urban.scene import Rendering, Scene
from scenes.urban.views import View, render_frames

_EDGES = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0)
"""Metres between groups of like distance."""
_LEAST = 5
"""Pairs of either kind that a group needs to count."""
_PLANES = (0.25, 0.4, 0.6, 0.75)
"""Where planes inside cells are, as shares of a cell; at the half lie the streets themselves."""


def measure_seams(
    scene: Scene,
    poses: Float[np.ndarray, "n 4 4"],
    size: int,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Return mean jumps at borders and inside cells, and their ratio with its error.

    The errors are those of the jackknife over views: pairs of one view are not independent.
    """
    seen = render_frames(scene, poses, size, progress)
    pairs = [_pairs(scene, *one, number) for number, one in enumerate(seen)]
    joined = _Pairs(*(np.concatenate(column) for column in zip(*pairs, strict=True)))
    n, means = _means(joined)
    without = [_means(joined.select(joined.view != k))[1] for k in range(len(pairs))]
    numbers: dict[str, Any] = {"pairs_at_borders": n}
    for i, name in enumerate(("colour", "depth")):
        at, elsewhere = means[i]
        ratios = [found[i, 0] / found[i, 1] for found in without if found[i, 1] > 0]
        count = max(len(ratios), 1)
        error = float(np.sqrt((count - 1) * np.var(ratios))) if count > 1 else None
        numbers |= {
            f"{name}_at_borders": float(at),
            f"{name}_elsewhere": float(elsewhere),
            f"{name}_ratio": float(at / elsewhere) if elsewhere > 0 else None,
            f"{name}_ratio_error": error,
        }
    return numbers


class _Pairs(NamedTuple):
    """Pairs of neighbouring pixels, each with a pixel more on both sides."""

    away: np.ndarray
    border: np.ndarray
    """Whether a border of cells is between them."""
    inside: np.ndarray
    """Whether a plane inside cells is, and no border."""
    colour: np.ndarray
    depth: np.ndarray
    thing: np.ndarray
    view: np.ndarray

    def select(self, kept: np.ndarray) -> _Pairs:
        return _Pairs(*(column[kept] for column in self))


def _means(pairs: _Pairs) -> tuple[int, np.ndarray]:
    """Return how many pairs at borders count, and jumps (colour and depth) x (border, inside)."""
    group = np.digitize(pairs.away, _EDGES) + len(_EDGES) * 2 * pairs.thing
    sums, total = np.zeros((2, 2)), 0
    for g in np.unique(group[pairs.border]):
        here, other = (group == g) & pairs.border, (group == g) & pairs.inside
        n = int(here.sum())
        if min(n, other.sum()) < _LEAST:
            continue
        total += n
        for i, values in enumerate((pairs.colour, pairs.depth)):
            sums[i] += n * np.array([values[here].mean(), values[other].mean()])
    return total, sums / max(total, 1)


def _pairs(scene: Scene, view: View, seen: Rendering, number: int) -> _Pairs:
    maps, (height, width) = view.maps, view.maps.depth.shape
    origins, directions = view.camera.rays()
    scale = maps.depth.ravel() / (directions @ view.camera.c2w[:3, 2])
    points = torch.from_numpy(origins + directions * scale[:, None]).float()
    codes = [
        scene.lattice.codes(points + share * scene.lattice.side).view(height, width).numpy()
        for share in (0.0, *_PLANES)
    ]
    colour = seen.image().numpy()
    off = seen.depth.view(height, width).numpy() - maps.depth
    solid = (maps.depth > 0) & (seen.acc.view(height, width).numpy() > 0.5)
    parts = []
    for axis in (0, 1):
        one, b, c, four = _runs(maps.instance, axis)
        kept = (one == b) & (b == c) & (c == four) & np.all(_runs(solid, axis), axis=0)
        border, *planes = ((_runs(code, axis)[1] != _runs(code, axis)[2])[kept] for code in codes)
        parts.append(
            _Pairs(
                _runs(maps.depth, axis)[1][kept],
                border,
                np.any(planes, axis=0) & ~border,
                _jumps(colour, axis).mean(axis=2)[kept],
                _jumps(off, axis)[kept],
                b[kept].astype(np.int64),
                np.full(int(kept.sum()), number),
            )
        )
    return _Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _runs(values: np.ndarray, axis: int) -> list[np.ndarray]:
    """Return four neighbours a, b, c, d along an axis, for every run of four pixels."""
    size = values.shape[axis] - 3
    return [values.take(range(i, i + size), axis) for i in range(4)]


def _jumps(values: np.ndarray, axis: int) -> np.ndarray:
    a, b, c, d = _runs(values, axis)
    return np.abs((c - b) - ((b - a) + (d - c)) / 2)
