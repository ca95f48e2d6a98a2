"""How roads, pavements, parking bays and lawns are painted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float

from geo3d.synth.streets.patterns import band, every, fade, hashed, lane_marks
from geo3d.synth.streets.spots import Paint, Spot, dull, over
from geo3d.synth.streets.styles import Look

_MARK = np.array([0.66, 0.66, 0.63])
_KERB = np.array([0.46, 0.45, 0.43])
_KERB_WIDTH = 0.16
_BAY = 5.9
"""Metres of a parking bay, as `geo3d.synth.streets.block` parks."""
_COVERS = 11.0
"""Metres between manhole covers, about."""


def paint_road(spot: Spot, look: Look) -> Paint:
    """Return asphalt with patches, covers, worn tracks and marks."""
    flat = spot.up > 0.7
    grey = 0.095 * (1 + 0.20 * spot.noise(2.3, 6) + 0.16 * spot.noise(0.3, 7))
    lane = np.abs(np.abs(np.mod(spot.lateral + 1.75, 3.5) - 1.75) - 0.8)
    track = np.exp(-((lane / 0.3) ** 2)) * (np.abs(spot.lateral) < 6)
    grey = grey * (1 - 0.10 * track) * (1 - 0.28 * _patches(spot))
    albedo = grey[:, None] * [1.0, 1.0, 1.03]
    albedo = over(albedo, 0.75 * _covers(spot) * flat, (0.05, 0.045, 0.04))
    wear = 0.88 + 0.12 * spot.noise(0.5, 5)
    paint = lane_marks(spot.lateral, spot.along, spot.pixel, spot.footprint) * flat * wear
    paint = paint * np.array([name == "road" for name in spot.things.names])[spot.instance]
    albedo = over(albedo, paint, _MARK)
    puddle = np.clip(spot.noise(2.3, 8) + 0.4, 0, 1)
    wet = look.wet * flat * (0.3 + 0.5 * puddle)
    return Paint(albedo * (1 - 0.55 * wet)[:, None], wet, np.zeros_like(albedo))


def _patches(spot: Spot) -> Float[np.ndarray, " p"]:
    """Return 1 on rectangles where the road was mended."""
    u, v = spot.lateral / 3.1, spot.along / 7.3
    cell = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    seed = spot.things.seed + 5
    has = hashed(seed, *cell) < 0.16
    wide, long = (0.15 + 0.3 * hashed(seed + k, *cell) for k in (1, 2))
    inside_u = band((u - cell[0] - 0.5) * 3.1, -3.1 * wide, 3.1 * wide, spot.pixel)
    inside_v = band((v - cell[1] - 0.5) * 7.3, -7.3 * long, 7.3 * long, spot.footprint)
    return has * inside_u * inside_v


def _covers(spot: Spot) -> Float[np.ndarray, " p"]:
    """Return 1 on manhole covers."""
    cell = np.floor(spot.along / _COVERS).astype(np.int64)
    seed = spot.things.seed + 9
    at = (cell + 0.2 + 0.6 * hashed(seed, cell)) * _COVERS
    aside = -1.75 + 2.6 * (hashed(seed + 1, cell) - 0.5)
    away = np.hypot(spot.along - at, spot.lateral - aside)
    return band(away, -1, 0.32, 0.5 * (spot.footprint + spot.pixel))


def paint_pavement(spot: Spot, look: Look) -> Paint:
    """Return slabs with joints between kerbstones; parking bays of setts."""
    names = np.array([name == "parking" for name in spot.things.names])[spot.instance]
    plan, flat = spot.points[:, [0, 2]], spot.up > 0.7
    tile = np.floor(plan / 0.6).astype(np.int64)
    shade = (hashed(spot.things.seed, tile[:, 0], tile[:, 1]) - 0.5) * fade(0.6, spot.footprint)
    grey = 0.34 + 0.09 * shade + 0.03 * spot.noise(3.1, 9)
    joints = np.maximum(*(every(axis, 0.6, 0.025, spot.footprint) for axis in plan.T))
    albedo = (grey * (1 - 0.4 * joints))[:, None] * [1.0, 0.95, 0.88]
    setts = 0.19 * (1 + 0.12 * spot.noise(0.25, 15) + 0.12 * spot.noise(2.0, 16))
    bays = setts[:, None] * [1.0, 0.98, 0.96]
    line = every(spot.along, _BAY, 0.12, spot.footprint) * flat
    albedo = np.where(names[:, None], over(bays, 0.85 * line, _MARK), albedo)
    kerb = np.where(flat, band(_edge_distance(spot), -1, _KERB_WIDTH, spot.footprint), 1.0)
    stones = _KERB * (1 - 0.35 * every(spot.along, 1.0, 0.03, spot.footprint))[:, None]
    albedo = over(albedo, kerb * ~names, stones)
    wet = look.wet * flat * 0.35
    return Paint(albedo * (1 - 0.5 * wet)[:, None], wet, np.zeros_like(albedo))


def _edge_distance(spot: Spot) -> Float[np.ndarray, " p"]:
    """Return the distance to the nearer rail of each surfel's slab in the plan, metres."""
    away = np.full(len(spot.instance), np.inf)
    for i in np.unique(spot.instance).tolist():
        rails = spot.things.rails[i]
        if rails is None:
            continue
        here = np.flatnonzero(spot.instance == i)
        plan = spot.points[here][:, [0, 2]]
        for rail in rails:
            for a, b in pairwise(rail):
                way = b - a
                part = (plan - a) @ way / max(float(way @ way), 1e-12)
                nearest = a + np.clip(part, 0, 1)[:, None] * way
                away[here] = np.minimum(away[here], np.linalg.norm(plan - nearest, axis=1))
    return away


def paint_grass(spot: Spot, look: Look) -> Paint:
    """Return a lawn, straw in autumn."""
    noise = (0.22 * spot.noise(1.9, 19) + 0.22 * spot.noise(0.35, 20))[:, None]
    green = np.array([0.085, 0.150, 0.036]) * (1 + noise)
    straw = np.array([0.26, 0.17, 0.06]) * (1 + noise)
    return dull(green + 0.6 * look.autumn * (straw - green))
