"""The scene: cells of hash grids for what stands, one field per vehicle, and a sky.

Cells lie on a lattice and are known from the layout before training; neighbours blend in a band.
A movable primitive has a field in its own box, found by the primitive's id: moving the primitive
moves the field.  A point inside a movable primitive belongs to it alone (to several in equal
parts), any other point to its cells, a point where no cell is to nobody: it is empty.

All fields are blocks (`geo3d.fields.blocks`): a street of any length needs the memory of the part
in view.  World in metres; see `geo3d.layout.layout`.
Source: Urban Architect (arXiv 2404.06780), sections 3.2 and 3.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.fields.blocks import Blocks
from geo3d.fields.cells import Key, Lattice, cell_name, cells_of_boxes, code_of_cell
from geo3d.fields.hashgrid import chosen_backend
from geo3d.layout.layout import Layout, Primitive
from geo3d.render.cameras import Camera
from geo3d.render.rays import Rays
from geo3d.render.volume import alpha_weights, composite
from scenes.urban.conditions import LayoutMaps
from scenes.urban.config import FieldsConfig
from scenes.urban.fields import Field, Matter, Sky, SkyGrid
from scenes.urban.sampling import Spots, layout_rays, place_samples, with_matter

SKY = "sky"
_CELL, _OBJECT = "cell-", "object-"


@dataclass(frozen=True)
class Rendering:
    """What a camera sees.  ``a`` counts the rays that were sampled, ``r`` all rays."""

    rgb: Float[Tensor, "r 3"]
    depth: Float[Tensor, " r"]
    """z-depth in metres; 0 for rays that were not sampled."""
    acc: Float[Tensor, " r"]
    """Opacity; what is left shows the sky."""
    classes: Float[Tensor, "r k"]
    """Mixed logits of classes; k = 0 without semantics."""
    sampled: Tensor
    """Which rays were sampled (r,), bool."""
    weights: Float[Tensor, "a n"]
    middles: Float[Tensor, "a n"]
    """z-depth of the samples."""
    s: Float[Tensor, "a n1"]
    """Fenceposts normalised to [0, 1], for `geo3d.render.volume`."""
    width: int
    height: int
    """Of the image; 0 where rays were given."""

    def image(self) -> Float[Tensor, "h w 3"]:
        """Return the colours as an image."""
        return self.rgb.view(self.height, self.width, 3)


class Placement(NamedTuple):
    """Where the field of a movable primitive lies."""

    to_box: Float[Tensor, "3 4"]
    """World to the box [-1, 1]^3."""
    scale: float
    """Mean factor of lengths on the way."""
    codes: Tensor
    """The lattice cells its bounds touch."""


class Scene:
    """A street that can be rendered and trained.

    Args:
        config: settings.
        layout: the street.
        folder: where blocks are paged to; None uses a temporary folder.
        cells: the cells that exist; None takes those the layout needs.
        source: folder of a saved scene's blocks, read but never written.
        device: where fields lie and learn; rays and images stay with the processor.

    Raises:
        BackendUnavailable: ``backend.unavailable`` for a backend asked for by name.
    """

    def __init__(
        self,
        config: FieldsConfig,
        layout: Layout,
        folder: Path | None = None,
        cells: Sequence[Key] | None = None,
        source: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.device = config, torch.device(device)
        grid = config.stuff.grid(config.convention)
        self.backend = chosen_backend(config.backend, grid, self.device)
        """What computes the hash grids, by name."""
        self._chosen = None if cells is None else tuple(cells)
        self.blocks = Blocks(self._make, folder, source, config.resident)
        self.set_layout(layout)

    def set_layout(self, layout: Layout) -> None:
        """Take a changed layout: new cells and fields start untrained, all others stay."""
        self.layout = layout
        keys = needed_cells(layout, self.config) if self._chosen is None else self._chosen
        self.lattice = Lattice(self.config.cell, keys, self.config.band)
        movable = [p for p in layout.primitives if p.movable]
        self.placements = {p.id: _placement(p, self.config) for p in movable}
        codes = [place.codes for place in self.placements.values()]
        self._codes = torch.cat([torch.zeros(0, dtype=torch.int64), *codes])
        counts = torch.tensor([len(c) for c in codes], dtype=torch.int64)
        self._owners = torch.arange(len(codes)).repeat_interleave(counts)

    @property
    def block_names(self) -> tuple[str, ...]:
        """Every block of the scene: cells in order, objects, the sky."""
        cells = [_CELL + cell_name(key) for key in self.lattice.keys]
        return (*cells, *(_OBJECT + id for id in self.placements), SKY)

    def blocks_in(
        self, boxes: Float[np.ndarray, "n 2 3"], ids: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Return the blocks that boxes of the world touch, and those of the given primitives."""
        touched: set[Key] = set()
        if len(boxes):
            touched = set(cells_of_boxes(boxes, self.config.cell, self.config.band))
        cells = [_CELL + cell_name(key) for key in self.lattice.keys if key in touched]
        return (*cells, *(_OBJECT + id for id in self.placements if id in ids))

    def learn(self, rate: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        """Start training with Adam, or change its rate."""
        self.blocks.learn(rate, betas)

    def step(self) -> tuple[str, ...]:
        """Apply gradients, page out blocks over the limit; return the names of changed blocks."""
        return self.blocks.step()

    def render(
        self,
        view: Camera | Rays,
        maps: LayoutMaps | None = None,
        *,
        generator: torch.Generator | None = None,
        train: bool = False,
        across: Float[Tensor, "a 3"] | None = None,
    ) -> Rendering:
        """Render an image or a list of rays.

        Args:
            view: a camera, or rays of `layout_rays`.
            maps: the layout from this camera, with segments (near and far for "hull").
            generator: places samples at random; None is deterministic.
            train: keep what gradients need; without, rays go through in chunks.
            across: vectors that fix the turn of cones, one per sampled ray.

        Raises:
            InputError: ``scene.no_segments``, ``scene.map_size``.
        """
        is_camera = isinstance(view, Camera)
        rays = layout_rays(view, maps, self.config) if is_camera else view
        size = (view.width, view.height) if is_camera else (0, 0)
        if train:
            return self._render(rays, generator, across, True, size)
        with torch.no_grad():
            parts = []
            for start in range(0, max(len(rays), 1), self.config.chunk):
                part = rays.select(slice(start, start + self.config.chunk))
                parts.append(self._render(part, generator, across, False, size))
                self.blocks.trim()
        return parts[0] if len(parts) == 1 else _joined(parts)

    def query(
        self,
        points: Float[Tensor, "p 3"],
        cone: Float[Tensor, "p 6 3"] | None = None,
        spread: Float[Tensor, "p 6"] | None = None,
        train: bool = False,
    ) -> Matter:
        """Return what is at points of the world; nothing (density 0) where no field is.

        Args:
            points: decide which fields answer.
            cone, spread: six points each and their spread in metres, to ask the fields with.
            train: keep the blocks in memory until `step`.
        """
        numbers, rows = [], []
        inside = torch.zeros(len(points), dtype=torch.int64)
        asked = list(self._objects_at(points))
        for _, _, here in asked:
            inside[here] += 1
        for name, place, here in asked:
            at = points[here] if cone is None else cone[here]
            at = at @ place.to_box[:, :3].T + place.to_box[:, 3]
            wide = None if spread is None else spread[here] * self._object_scale(place)
            rows.append(_row(self._ask(name, at, wide, train), 1 / inside[here]))
            numbers.append(here)
        outside = torch.nonzero(inside == 0)[:, 0]
        for key, members, weights in self.lattice.locate(points[outside]):
            here = outside[members]
            at = 2 * self.lattice.local(points[here] if cone is None else cone[here], key) - 1
            wide = None if spread is None else spread[here] * self._cell_scale()
            rows.append(_row(self._ask(_CELL + cell_name(key), at, wide, train), weights))
            numbers.append(here)
        total = torch.zeros(len(points), 4 + self.config.semantics)
        if rows:
            total = total.index_add(0, torch.cat(numbers), torch.cat(rows))
        return Matter(total[:, 0], total[:, 1:4], total[:, 4:])

    def _render(
        self,
        rays: Rays,
        generator: torch.Generator | None,
        across: Tensor | None,
        train: bool,
        size: tuple[int, int],
    ) -> Rendering:
        sampled = with_matter(rays, self.config)
        some = rays.select(sampled)
        spots = place_samples(some, self.config, generator, across)
        matter = self._matter(spots, train)
        lengths = spots.samples.lengths
        weights = alpha_weights(matter.density, lengths, some.directions).weights
        colours = torch.cat([matter.rgb, matter.classes], dim=2)
        seen = composite(weights, colours, spots.samples.middles, some.near, some.far)
        acc = torch.zeros(len(rays)).masked_scatter(sampled, seen.acc)
        depth = torch.zeros(len(rays)).masked_scatter(sampled, seen.depth)
        mixed = torch.zeros(len(rays), colours.shape[2])
        mixed = mixed.masked_scatter(sampled[:, None], seen.rgb)
        sky = home(self.blocks.get(SKY, train)(rays.directions.to(self.device)))
        rgb = mixed[:, :3] + (1 - acc).clamp(min=0)[:, None] * sky
        return Rendering(
            rgb, depth, acc, mixed[:, 3:], sampled, weights, spots.samples.middles, spots.s, *size
        )

    def _matter(self, spots: Spots, train: bool) -> Matter:
        shape = spots.points.shape[:2]
        cone = None if spots.cone is None else spots.cone.flatten(0, 1)
        spread = None if spots.spread is None else spots.spread.flatten(0, 1)
        found = self.query(spots.points.flatten(0, 1), cone, spread, train)
        return Matter(*(part.view(*shape, *part.shape[1:]) for part in found))

    def _objects_at(self, points: Tensor) -> Iterator[tuple[str, Placement, Tensor]]:
        """Yield the movable primitives that hold points, and which; looks only at their cells."""
        if not self.placements or not len(points):
            return
        codes, order = self.lattice.codes(points).sort()
        low = torch.searchsorted(codes, self._codes)
        high = torch.searchsorted(codes, self._codes, right=True)
        ids = list(self.placements)
        near: dict[int, list[Tensor]] = {}
        for i in torch.nonzero(high > low)[:, 0].tolist():
            near.setdefault(int(self._owners[i]), []).append(order[int(low[i]) : int(high[i])])
        for number, parts in near.items():
            id, here = ids[number], torch.cat(parts)
            place = self.placements[id]
            at = points[here] @ place.to_box[:, :3].T + place.to_box[:, 3]
            here = here[(at.abs() < 1).all(dim=1)]
            if len(here):
                yield _OBJECT + id, place, here

    def _cell_scale(self) -> float:
        return (1 if self.config.compat else 2) / (self.config.cell + self.config.band)

    def _object_scale(self, place: Placement) -> float:
        return 1 / self.config.cell if self.config.compat else place.scale

    def _ask(self, name: str, at: Tensor, wide: Tensor | None, train: bool) -> Matter:
        wide = None if wide is None else wide.to(self.device)
        found = self.blocks.get(name, train)(at.to(self.device), wide)
        return Matter(*(home(part) for part in found))

    def _make(self, name: str) -> nn.Module:
        digest = hashlib.sha256(f"{self.config.seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        if name == SKY:
            is_grid = self.config.sky == "grid"
            sky = SkyGrid() if is_grid else Sky(self.config.sky_hidden, generator)
            return sky.to(self.device)
        config = self.config.stuff if name.startswith(_CELL) else self.config.objects
        return Field(config, self.config, generator).to(self.device)


def home(tensor: Tensor) -> Tensor:
    """Return a tensor on the processor."""
    return tensor.cpu()


def needed_cells(layout: Layout, config: FieldsConfig) -> tuple[Key, ...]:
    """Return the cells in which a layout has matter, or all it spans if rays are not held to it."""
    if not layout.primitives:
        return ()
    if config.constrain != "segments":
        return cells_of_boxes(layout.bounds()[None], config.cell, config.band)
    boxes = [
        _triangle_boxes(p) if p.kind == "slab" else p.bounds()[None] for p in layout.primitives
    ]
    return cells_of_boxes(np.concatenate(boxes), config.cell, config.band)


def _triangle_boxes(primitive: Primitive) -> np.ndarray:
    # a bent road's own bounds would cover the whole block
    corners = primitive.world_vertices()[primitive.faces]
    return np.stack([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _placement(primitive: Primitive, config: FieldsConfig) -> Placement:
    low, high = primitive.vertices.min(axis=0), primitive.vertices.max(axis=0)
    inverse = np.linalg.inv(primitive.transform)[:3]
    inverse[:, 3] -= (low + high) / 2
    to_box = inverse * (2 / (high - low))[:, None]
    cells = cells_of_boxes(primitive.bounds()[None], config.cell)
    return Placement(
        torch.from_numpy(to_box).float(),
        float(abs(np.linalg.det(to_box[:, :3])) ** (1 / 3)),
        torch.tensor([code_of_cell(key) for key in cells]),
    )


def _row(matter: Matter, weights: Tensor) -> Tensor:
    row = torch.cat([matter.density[:, None], matter.rgb, matter.classes], dim=1)
    return row * weights[:, None]


def _joined(parts: Sequence[Rendering]) -> Rendering:
    names = ("rgb", "depth", "acc", "classes", "sampled", "weights", "middles", "s")
    joined = [torch.cat([getattr(part, name) for part in parts]) for name in names]
    return Rendering(*joined, width=parts[0].width, height=parts[0].height)
