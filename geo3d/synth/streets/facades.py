"""How houses, garages, walls and fences are painted: storeys of windows, doors, bricks, tiles.

Windows are counted out along each wall, so that none is cut by a corner.  Notation: x metres along
a wall from its left corner, y metres above the foot; wall length and height of the eaves likewise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from geo3d.synth.streets.bodies import Part
from geo3d.synth.streets.patterns import band, bricks, every, fade, hashed
from geo3d.synth.streets.spots import Paint, Spot, dull, over
from geo3d.synth.streets.styles import Look

_PLASTER = np.array(
    [
        (0.62, 0.54, 0.40), (0.66, 0.62, 0.54), (0.55, 0.36, 0.24), (0.60, 0.50, 0.26),
        (0.42, 0.45, 0.48), (0.68, 0.66, 0.62), (0.52, 0.42, 0.36), (0.40, 0.46, 0.38),
        (0.60, 0.44, 0.38),
    ]
)  # fmt: skip
_BRICK = np.array([(0.36, 0.11, 0.06), (0.30, 0.10, 0.07), (0.42, 0.17, 0.09), (0.26, 0.12, 0.09)])
_MODERN = np.array([(0.55, 0.57, 0.60), (0.66, 0.68, 0.70), (0.30, 0.34, 0.38), (0.46, 0.50, 0.53)])
_STONE = np.array([(0.38, 0.36, 0.33), (0.44, 0.40, 0.34), (0.33, 0.33, 0.34)])
_WOOD = np.array([(0.24, 0.17, 0.11), (0.34, 0.24, 0.15), (0.30, 0.10, 0.06), (0.20, 0.24, 0.22)])
_WALLS = {
    "plaster": _PLASTER, "brick": _BRICK, "modern": _MODERN, "stone": _STONE, "wood": _WOOD,
}  # fmt: skip
_ROOF = np.array([(0.30, 0.10, 0.06), (0.11, 0.11, 0.12), (0.22, 0.13, 0.09), (0.36, 0.15, 0.08)])
_DOORS = np.array([(0.24, 0.12, 0.06), (0.05, 0.14, 0.10), (0.32, 0.05, 0.04), (0.06, 0.10, 0.22)])
_FRAME, _GLASS = np.array([0.70, 0.70, 0.68]), np.array([0.030, 0.040, 0.050])
_CURTAIN = np.array([0.46, 0.44, 0.40])
_WARM = np.array([1.0, 0.62, 0.26])
_STOREY, _PITCH = 2.9, 2.6
"""Metres, about: storeys and windows are fitted to the wall."""


class Wall(NamedTuple):
    """Where on a wall each surfel lies."""

    x: Float[np.ndarray, " p"]
    y: Float[np.ndarray, " p"]
    length: Float[np.ndarray, " p"]
    eaves: Float[np.ndarray, " p"]
    number: Float[np.ndarray, " p"]
    """Which of the four walls."""


def paint_buildings(spot: Spot, look: Look) -> Paint:
    """Return the colours of everything of the class building."""
    names = np.array(spot.things.names)[spot.instance]
    out = dull(np.zeros((len(names), 3)))
    groups = {"garage": _garages, "fence": _fences, "gate": _fences, "wall": _garden_walls}
    for name in np.unique(names).tolist():
        here = np.flatnonzero(names == name)
        made = groups.get(name, _houses)(spot.select(here), look)
        out.albedo[here], out.mirror[here], out.glow[here] = made
    return out


def wall_of(spot: Spot) -> Wall:
    """Return where on its wall each surfel lies."""
    places, sizes = spot.local()
    facing = spot.facing()
    across = np.abs(facing[:, 0]) > np.abs(facing[:, 2])
    axis = np.where(across, 2, 0)
    rows = np.arange(len(axis))
    length = sizes[rows, axis]
    x = (places[rows, axis] + 0.5) * length
    number = 2 * across + (np.where(across, facing[:, 0], facing[:, 2]) > 0)
    return Wall(x, places[:, 1] * sizes[:, 1], length, spot.things.eaves[spot.instance], number)


def materials_of(spot: Spot, usual: str) -> np.ndarray:
    """Return the material of each surfel's wall: what its thing asks for, or the usual one."""
    asked = np.array([wish.material or usual for wish in spot.things.wishes])
    return asked[spot.instance]


def _houses(spot: Spot, look: Look) -> Paint:
    material = materials_of(spot, look.facade)
    wall = wall_of(spot)
    is_wall = np.abs(spot.up) < 0.3
    albedo = np.zeros((len(material), 3))
    for name in np.unique(material).tolist():
        here = np.flatnonzero(material == name)
        some = spot.select(here)
        albedo[here] = _masonry(some, name, Wall(*(part[here] for part in wall)))
    albedo *= (1 + 0.08 * spot.noise(1.7, 11) + 0.05 * spot.noise(0.5, 12))[:, None]
    # damp and splashed mud darken the foot of a wall
    plinth = band(wall.y, -9, 0.45, spot.footprint) * is_wall
    albedo *= (1 - 0.35 * plinth)[:, None]
    # under the eaves it is dark
    shade = np.clip(1 - (wall.eaves - wall.y) / 0.5, 0, 1) * (wall.y < wall.eaves) * is_wall
    albedo *= (1 - 0.3 * shade)[:, None]
    paint = dull(albedo)
    _roofs(spot, wall, paint)
    walls = np.flatnonzero(is_wall & (wall.y < wall.eaves))
    if len(walls):
        _openings(spot.select(walls), look, Wall(*(part[walls] for part in wall)),
                  material[walls], walls, paint)  # fmt: skip
    return paint


def _masonry(spot: Spot, name: str, wall: Wall) -> np.ndarray:
    albedo = spot.pick(_WALLS[name], 10)
    if name == "brick":
        texture = bricks(wall.x, wall.y, spot.things.seed) - 1
        albedo *= (1 + texture * fade(0.3, spot.footprint))[:, None]
    elif name == "stone":
        texture = bricks(wall.x / 1.7, wall.y / 2.2, spot.things.seed) - 1
        albedo *= (1 + 0.8 * texture * fade(0.5, spot.footprint))[:, None]
    elif name == "wood":
        albedo *= (1 - 0.55 * every(wall.y, 0.18, 0.03, spot.footprint))[:, None]
    elif name == "modern":
        seams = np.maximum(
            every(wall.x, 1.9, 0.03, spot.footprint), every(wall.y, 2.9, 0.03, spot.footprint)
        )
        albedo *= (1 - 0.5 * seams)[:, None]
    return albedo


def _roofs(spot: Spot, wall: Wall, paint: Paint) -> None:
    """Cover roofs with tiles, flat ones with gravel."""
    is_roof = (spot.up > 0.3) | ((spot.part == Part.ROOF) & (spot.up < -0.3))
    here = np.flatnonzero(is_roof)
    if not len(here):
        return
    some = spot.select(here)
    tiles = some.pick(_ROOF, 12) if not _asks_color(some) else some.choice(_ROOF, 12)
    rows = every(wall.y[here], 0.2, 0.05, some.footprint * 0.6)
    tiles = tiles * (1 - 0.45 * rows + 0.14 * some.noise(0.45, 13))[:, None]
    is_flat = some.up > 0.97
    gravel = np.array([0.24, 0.23, 0.22]) * (1 + 0.15 * some.noise(0.6, 14))[:, None]
    paint.albedo[here] = np.where(is_flat[:, None], gravel, tiles)


def _asks_color(spot: Spot) -> bool:
    return any(spot.things.wishes[i].color is not None for i in np.unique(spot.instance).tolist())


class _Grid(NamedTuple):
    """The window that each surfel is nearest to, and its place from the middle of it, metres."""

    column: np.ndarray
    storey: np.ndarray
    across: np.ndarray
    up: np.ndarray
    """Above the lower edge of the window."""


def _grid(spot: Spot, wall: Wall) -> _Grid:
    pitch = _PITCH * (0.85 + 0.5 * spot.draw(21))
    columns = np.maximum(np.floor((wall.length - 0.5) / pitch), 1)
    storeys = np.maximum(np.round(wall.eaves / _STOREY), 1)
    each, high = wall.length / columns, wall.eaves / storeys
    column = np.clip(np.floor(wall.x / each), 0, columns - 1)
    storey = np.clip(np.floor(wall.y / high), 0, storeys - 1)
    return _Grid(
        column.astype(np.int64),
        storey.astype(np.int64),
        wall.x - (column + 0.5) * each,
        wall.y - storey * high - 0.9,
    )


def _openings(
    spot: Spot, look: Look, wall: Wall, material: np.ndarray, rows: np.ndarray, paint: Paint
) -> None:
    """Put windows and doors into walls; ``rows`` are those of the surfels in ``paint``."""
    grid, fine = _grid(spot, wall), spot.footprint
    albedo = paint.albedo[rows]
    tall = (wall.eaves > 2.4) & (wall.length > 2.0)
    is_modern = material == "modern"
    half = np.where(is_modern, 0.95, 0.5 + 0.2 * spot.draw(22))
    high = np.where(is_modern, 1.7, 1.25 + 0.3 * spot.draw(23))
    fits = tall & (grid.up + 0.9 + 0.3 < wall.eaves)
    door_at = (spot.draw(24) * 5).astype(int) + wall.number.astype(int)
    is_door = (grid.storey == 0) & (grid.column == door_at % 3) & tall & (wall.number % 2 == 0)
    low = np.where(is_door, -0.88, 0.0)
    high = np.where(is_door, 1.25, high)
    half = np.where(is_door, 0.55, half)

    def pane(grow: float) -> np.ndarray:
        inside = band(grid.across, -half - grow, half + grow, fine)
        return inside * band(grid.up, low - grow, high + grow, fine) * fits

    sill = band(grid.across, -half - 0.12, half + 0.12, fine) * band(grid.up, -0.14, -0.03, fine)
    albedo = over(albedo, 0.8 * sill * fits * ~is_door * ~is_modern, _FRAME * 0.9)
    _shutters(spot, grid, half, high, fits & ~is_door & ~is_modern, paint, rows, albedo)
    frame = np.where(is_modern[:, None], [0.12, 0.13, 0.14], _FRAME)
    outer, inner = pane(0.07), pane(0.0)
    albedo = over(albedo, outer, frame)
    glass, covered = _panes(spot, grid, half, high)
    leaf = spot.choice(_DOORS, 25)
    panel = band(grid.up, 0.3, 1.05, fine) * band(grid.across, -0.28, 0.28, fine)
    leaf = over(leaf, 0.8 * panel, _GLASS)
    albedo = over(albedo, inner, np.where(is_door[:, None], leaf, glass))
    cross = every(grid.across, 100.0, 0.06, fine) + band(
        grid.up, high * 0.68, high * 0.68 + 0.05, fine
    )
    albedo = over(albedo, np.clip(cross, 0, 1) * inner * ~is_door * ~is_modern, frame)
    paint.albedo[rows] = albedo
    clear = inner * (1 - covered) * ~is_door
    paint.mirror[rows] = 0.30 * clear
    cells = (grid.column, grid.storey + 16 * wall.number.astype(np.int64))
    lit = hashed(spot.things.seed + 1, spot.key, *cells) < 0.45
    warm = 0.4 + 0.6 * hashed(spot.things.seed + 2, spot.key, *cells)
    paint.glow[rows] = look.lamps * 0.75 * (inner * ~is_door * lit * warm)[:, None] * _WARM


def _panes(
    spot: Spot, grid: _Grid, half: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is seen through the glass, and how much of it curtains and blinds cover."""
    kind = hashed(spot.things.seed + 3, spot.key, grid.column, grid.storey)
    aside = np.clip((np.abs(grid.across) / half - 0.45) / 0.08, 0, 1) * (kind < 0.35)
    drawn = np.clip((grid.up / high - 0.35 - 0.9 * kind) / 0.03, 0, 1) * (kind > 0.62)
    covered = np.maximum(aside, drawn)
    # the lintel throws a shadow on the upper edge
    edge = np.clip((high - grid.up) / 0.12, 0.35, 1)
    glass = over(np.broadcast_to(_GLASS, (len(half), 3)), 0.85 * covered, _CURTAIN)
    return glass * edge[:, None], covered


def _shutters(
    spot: Spot,
    grid: _Grid,
    half: np.ndarray,
    high: np.ndarray,
    where: np.ndarray,
    paint: Paint,
    rows: np.ndarray,
    albedo: np.ndarray,
) -> None:
    """Hang shutters beside the windows of some houses, into ``albedo``."""
    has = where & (spot.draw(26) < 0.22) & (half < 0.65)
    if not has.any():
        return
    beside = band(np.abs(grid.across), half + 0.08, half + 0.5, spot.footprint)
    beside = beside * band(grid.up, 0.0, high, spot.footprint) * has
    slats = 1 - 0.35 * every(grid.up, 0.09, 0.03, spot.footprint)
    albedo[:] = over(albedo, beside, spot.choice(_DOORS, 27) * slats[:, None])


def _garages(spot: Spot, look: Look) -> Paint:
    wall = wall_of(spot)
    albedo = spot.pick(_PLASTER, 28) * (1 + 0.08 * spot.noise(1.3, 29))[:, None]
    is_wall = np.abs(spot.up) < 0.3
    middle = wall.x - wall.length / 2
    half = np.minimum(1.3, wall.length / 2 - 0.25)
    door = band(middle, -half, half, spot.footprint) * band(wall.y, 0.1, 2.15, spot.footprint)
    grooves = 1 - 0.4 * every(wall.y, 0.36, 0.04, spot.footprint)
    leaf = np.array([0.52, 0.52, 0.50]) * grooves[:, None]
    narrow = wall.length < 4.2
    albedo = over(albedo, door * is_wall * narrow, leaf)
    albedo[spot.up > 0.5] = (0.22, 0.21, 0.20)
    rim = band(wall.y, wall.eaves - 0.2, wall.eaves + 1, spot.footprint) * is_wall
    return dull(over(albedo, rim, (0.16, 0.16, 0.17)))


def _fences(spot: Spot, look: Look) -> Paint:
    """Return boards with dark gaps between them, on two rails."""
    wall = wall_of(spot)
    albedo = spot.pick(_WOOD, 30) * 1.25
    gaps = every(wall.x, 0.16, 0.045, spot.footprint)
    posts = every(wall.x, 1.8, 0.12, spot.footprint)
    albedo = over(albedo, 0.75 * gaps * (1 - posts) * (np.abs(spot.up) < 0.5), (0.03, 0.035, 0.025))
    return dull(albedo * (1 + 0.15 * spot.noise(0.4, 31))[:, None])


def _garden_walls(spot: Spot, look: Look) -> Paint:
    """Return bricks or stones under a lighter cap."""
    wall = wall_of(spot)
    usual = np.where(spot.draw(32) < 0.5, "brick", "stone")
    asked = np.array([wish.material for wish in spot.things.wishes])[spot.instance]
    chosen = np.where(asked == "", usual, asked)
    albedo = np.zeros((len(chosen), 3))
    for name in np.unique(chosen).tolist():
        here = np.flatnonzero(chosen == name)
        albedo[here] = _masonry(spot.select(here), name, Wall(*(p[here] for p in wall)))
    top = spot.things.sizes[spot.instance][:, 1]
    cap = np.maximum(band(wall.y, top - 0.1, top + 1, spot.footprint), spot.up > 0.5)
    return dull(over(albedo, cap, (0.42, 0.40, 0.37)))
