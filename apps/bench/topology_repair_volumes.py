"""Repair of drawn volumes with uncertain faults, beside random repair: is it right in 3D?

Trees of vessels with two cuts and two false bridges each, and hollow bodies with a leak each
(`apps.bench.topology_volumes`).  The probabilities of a network are imitated: smooth noise on the
log-odds, faults near 1/2 (what is missing 0.2 to 0.45, what is too much 0.55 to 0.8), one level a
volume.  Errors of components, tunnels and cavities, mean over draws; change of Dice.

* random: as many balls as repair has made changes, put at random: on the mask they are cut out, off
  it but near they are added.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from apps.bench.topology_volumes import cut_branch, false_bridge, hollow_body, leak, vessel_tree
from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from geo3d.topology.metrics import betti_errors, dice
from geo3d.topology.repair import repair

SIDE, DRAWS = 32, 3
MISSING, SURPLUS = (0.2, 0.45), (0.55, 0.8)
_BALL = 2
WAYS = ("before", "repaired", "random")
Volume = Bool[np.ndarray, "d h w"]


def bench_repair_volumes(
    seed: int = 0, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return a row for each kind of volume."""
    found: dict[str, list[dict[str, list[float]]]] = {"vessel tree": [], "hollow body": []}
    draws = [(kind, seed + k) for kind in found for k in range(DRAWS)]
    for kind, number in tell_each(draws, progress, "volumes"):
        generator = np.random.default_rng(number)
        true, broken = _drawn(kind, number, generator)
        p = uncertain(true, broken, generator)
        given, repaired = p > 0.5, repair(p)
        balls = random_balls(given, len(repaired.changes), generator)
        masks = {"before": given, "repaired": repaired.mask, "random": balls}
        before = dice(given, true)
        found[kind].append(
            {way: [*betti_errors(m, true), dice(m, true) - before] for way, m in masks.items()}
        )
    rows = []
    for kind, volumes in found.items():
        row: dict[str, Any] = {"volume": kind}
        for way in WAYS:
            *errors, change = np.mean([volume[way] for volume in volumes], axis=0)
            row[way] = f"{' / '.join(f'{e:.2f}' for e in errors)} ({change:+.3f})"
        rows.append(row)
    return rows


def _drawn(kind: str, seed: int, generator: np.random.Generator) -> tuple[Volume, Volume]:
    """Return a volume and the same with its faults."""
    if kind == "hollow body":
        body = hollow_body(seed, SIDE)
        return body, leak(body, generator)
    tree = broken = vessel_tree(seed, SIDE)
    for damage in (cut_branch, cut_branch, false_bridge, false_bridge):
        broken = damage(broken, generator)
    return tree, broken


def uncertain(
    true: Volume, broken: Volume, generator: np.random.Generator
) -> Float[np.ndarray, "d h w"]:
    """Return probabilities that are right but for the faults, and unsure of these."""
    smooth = ndimage.gaussian_filter(true.astype(np.float64), 0.7) - 0.5
    noise = ndimage.gaussian_filter(generator.normal(size=true.shape), 1.0)
    p = 1 / (1 + np.exp(-8 * smooth - 1.2 * noise))
    p[true & ~broken] = generator.uniform(*MISSING)
    p[broken & ~true] = generator.uniform(*SURPLUS)
    return p


def random_balls(given: Volume, count: int, generator: np.random.Generator) -> Volume:
    """Return the mask with balls cut out of it, or added near it, at random."""
    mask = given.copy()
    near = np.argwhere(ndimage.binary_dilation(given, iterations=_BALL))
    for k in generator.integers(len(near), size=count):
        at = near[k]
        grid = np.ogrid[tuple(map(slice, mask.shape))]
        far = sum((axis - i) ** 2 for axis, i in zip(grid, at, strict=True))
        mask[np.asarray(far) <= _BALL**2] = not given[tuple(at)]
    return mask
