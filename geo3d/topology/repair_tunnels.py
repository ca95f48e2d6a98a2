"""Tunnels that a volume has too many of: loops are cut, or their middles filled.

Persistence tells where: a tunnel is born at the voxel where its loop closes, the weakest of the
loop, and dies at the voxel where its middle is filled last.  Around the first, voxels up to its
level are taken away; around the second, voxels down to its level are added; in a ball that grows
until the tunnel is gone and nothing else has changed.  Voxels whose change was not needed are then
given back, the dearest first, so that a cut is as thin as it can be.  The cheaper of the two is
done, the cheapest tunnels first, as long as that costs less than the price of a tunnel.
Source of the pairs: `geo3d.topology.persistence`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from geo3d.topology.betti import betti_numbers, numbers_of
from geo3d.topology.grids import Pixels
from geo3d.topology.persistence import tunnel_pairs
from geo3d.topology.repair_components import Change

_RADII = (1, 2, 3, 4, 6, 8)
_SLACK = 8
"""How many times its price a ball may cost before it is thinned."""
_PASSES = 4
_TRIES = 64
"""Tunnels looked at: the least persistent ones."""


def fewer_tunnels(
    log_odds: Float[np.ndarray, "d h w"],
    mask: Bool[np.ndarray, "d h w"],
    price: float,
    pixels: Pixels,
) -> tuple[Bool[np.ndarray, "d h w"], list[Change]]:
    """Cut or fill tunnels of a mask while that is cheap.

    Args:
        log_odds: of being in the mask, nats; positive exactly in it.
        mask: its voxels.
        price: of a tunnel, nats.
        pixels: how voxels touch.
    """
    betti, changes = betti_numbers(mask, pixels), []
    if not betti[1]:
        return mask, []
    pairs = tunnel_pairs(log_odds, pixels, superlevel=True)
    alive = np.flatnonzero((pairs.birth > 0) & (pairs.death <= 0))
    alive = alive[np.argsort(np.minimum(pairs.birth, -pairs.death)[alive], kind="stable")]
    for k in alive[:_TRIES]:
        places = int(pairs.birth_at[k]), int(pairs.death_at[k])
        options = [
            _grown(log_odds, mask, places[0], float(pairs.birth[k]), (betti, price, pixels)),
            _grown(log_odds, mask, places[1], float(pairs.death[k]), (betti, price, pixels)),
        ]
        done = [option for option in options if option is not None]
        if done:
            mask, change = min(done, key=lambda option: option[1].cost)
            betti = betti_numbers(mask, pixels)
            changes.append(change)
    return mask, changes


def _grown(
    log_odds: np.ndarray,
    mask: np.ndarray,
    place: int,
    level: float,
    wanted: tuple[tuple[int, ...], float, Pixels],
) -> tuple[np.ndarray, Change] | None:
    """Return the mask changed in the smallest ball that removes one tunnel and nothing else.

    A level above 0 says that voxels up to it are taken away, else voxels down to it are added.
    """
    (b0, b1, b2), price, pixels = wanted
    at = np.unravel_index(place, mask.shape)
    distance = sum((np.ogrid[tuple(map(slice, mask.shape))][k] - at[k]) ** 2 for k in range(3))
    takes = level > 0
    for radius in _RADII:
        ball = np.asarray(distance) <= radius**2
        chosen = ball & (mask & (log_odds <= level) if takes else ~mask & (log_odds >= level))
        if float(np.abs(log_odds[chosen]).sum()) >= _SLACK * price:
            return None
        changed = mask & ~chosen if takes else mask | chosen
        if betti_numbers(changed, pixels) == (b0, b1 - 1, b2):
            flipped = _thinned(changed, chosen, log_odds, pixels)
            cost = float(np.abs(log_odds[flipped]).sum())
            if cost >= price:
                return None
            kind, where = "open" if takes else "close", tuple(int(i) for i in at)
            return mask ^ flipped, Change(kind, cost, int(flipped.sum()), where)
    return None


def _thinned(
    changed: np.ndarray, chosen: np.ndarray, log_odds: np.ndarray, pixels: Pixels
) -> np.ndarray:
    """Return the voxels whose change is needed: the others are changed back, the dearest first.

    A voxel may be changed back if that leaves the topology as it is: if its neighbours in the
    foreground ("vertices": in the background) hang together without tunnels or cavities.
    """
    wide, flipped = np.pad(changed, 1), chosen.copy()
    at = np.argwhere(chosen)
    at = at[np.argsort(-np.abs(log_odds[chosen]), kind="stable")]
    for _ in range(_PASSES):
        left = []
        for place in at:
            box = tuple(slice(i, i + 3) for i in place)
            patch = wide[box] ^ (pixels == "vertices")
            patch[1, 1, 1] = False
            if numbers_of(patch, "cells", empty_is_one=False) == (1, 0, 0):
                wide[tuple(place + 1)] ^= True
                flipped[tuple(place)] = False
            else:
                left.append(place)
        if len(left) == len(at):
            break
        at = np.array(left, dtype=np.int64).reshape(-1, 3)
    return flipped
