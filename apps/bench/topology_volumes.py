"""Volumes for trying topology losses in 3D: vessel trees, hollow bodies, meshes, and ways to break.

Everything is a grid of booleans with ``side`` voxels along each axis, axes (z, y, x), drawn from a
seed.  A tree is one component without tunnels, Betti numbers (1, 0, 0); a hollow body one with a
cavity, (1, 0, 1).  Each way to break a volume changes exactly one Betti number by one; places are
drawn until it does:

* `cut_branch` removes a ball from a branch: one component more.
* `false_bridge` draws a thin rod between two places: one tunnel more.
* `leak` removes a ball from the wall of a cavity: one cavity less.

`broken_volumes` puts three broken examples together for `apps.bench.topology_toys.descend`, which
lets one topology term of `VOLUME_TERMS` alone repair them; `painted_surface` shows the result.  Run
and drawn by `geo3d bench topology --part volumes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from apps.bench.topology_toys import SHORT_NAMES, TERMS, Term, Toy, descend_all
from geo3d.errors import ConfigError, MeshError, NumericalError
from geo3d.mesh.connectivity import edge_sides
from geo3d.mesh.mesh import Mesh
from geo3d.progress import ProgressCallback
from geo3d.render.cameras import orbit
from geo3d.render.previews import contact_sheet, display_azimuth, save_png
from geo3d.render.shading import render_mesh
from geo3d.topology.betti import betti_numbers

LEAST_SIDE = 24
"""Voxels below which branches and walls would touch."""
TRIES = 200
THINNEST = 1.3
"""Least radius of a branch in voxels."""

SURFACE_COLORS = np.array([[205, 205, 210], [214, 69, 65], [66, 120, 190]], dtype=np.uint8)
"""Right, added, missing."""

Volume = Bool[np.ndarray, "z y x"]

_SHARED = (
    "skeleton_recall",
    "cl_dice",
    "cb_dice",
    "warping",
    "cavity",
    "topo_loss",
    "betti_matching",
    "topo_grad",
    "cl_ce",
    "euler",
    "cape",
)
VOLUME_TERMS: dict[str, Term] = {
    **{name: TERMS[name] for name in _SHARED},
}
"""The topology terms that judge volumes."""


LEVELS = 4
"""Of branches of a tree."""


def vessel_tree(seed: int = 0, side: int = 40) -> Volume:
    """Return a tree of branches that grow thinner: the trunk, then two children per branch.

    Raises:
        ConfigError: "topology.small_phantom".
        NumericalError: "topology.no_phantom" if no tree without tunnels was found.
    """
    generator = _generator(seed, side)

    def draw() -> Volume:
        grown = np.zeros((side, side, side), dtype=bool)
        for start, end, radius in _branches(generator, side, LEVELS):
            grown |= _rod(start, end, radius, side)
        return grown

    return _first(draw, (1, 0, 0))


def hollow_body(seed: int = 0, side: int = 40) -> Volume:
    """Return an uneven ball with a cavity.

    Raises:
        ConfigError: "topology.small_phantom".
        NumericalError: "topology.no_phantom".
    """
    generator = _generator(seed, side)

    def draw() -> Volume:
        noise = ndimage.gaussian_filter(generator.normal(size=(side,) * 3), side / 8)
        radius = np.linalg.norm(_centres(side) - (side - 1) / 2, axis=-1)
        edge = 0.36 * side + 0.05 * side * noise / noise.std()
        return hollowed(radius < edge)

    return _first(draw, (1, 0, 1))


def hollowed(solid: Volume, wall: float = 2.5) -> Volume:
    """Return a body with its largest inner part, deeper than ``wall`` voxels, taken out."""
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(solid, 1)))[1:-1, 1:-1, 1:-1]
    inner = np.empty(solid.shape, dtype=np.int32)
    ndimage.label(depth > wall, output=inner)
    sizes = np.bincount(inner.ravel())[1:]
    return solid & (inner != 1 + sizes.argmax()) if len(sizes) else solid.copy()


def occupancy(mesh: Mesh, side: int = 40, margin: int = 2) -> Volume:
    """Return the voxels whose centres lie inside a closed mesh, which fills the grid but a margin.

    The mesh's axes x, y, z become the last, the middle and the first of the grid.

    Raises:
        ConfigError: "topology.small_phantom".
        MeshError: "topology.open_mesh".
    """
    import trimesh

    _generator(0, side)
    if not mesh.n_faces or not (edge_sides(mesh.faces, mesh.n_vertices).count == 2).all():
        raise MeshError(
            "topology.open_mesh",
            f"{mesh.name} has no inside: an edge is not between two faces.",
            "Give a closed mesh; `geo3d check` tells what is open.",
        )
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    step = float((high - low).max()) / (side - 2 * margin)
    places = (_centres(side)[..., ::-1] - (side - 1) / 2) * step + (low + high) / 2
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False, validate=False)
    inside = body.contains(places.reshape(-1, 3))
    return np.asarray(inside, dtype=bool).reshape((side,) * 3)


def cut_branch(volume: Volume, generator: np.random.Generator, width: float = 2.0) -> Volume:
    """Return the volume with a ball removed that makes one component more.

    Raises:
        NumericalError: "topology.no_phantom".
    """
    depth = np.asarray(ndimage.distance_transform_edt(volume))

    def draw() -> Volume:
        at = _any_voxel(volume, generator)
        return volume & ~_rod(at, at, float(depth[tuple(at.astype(int))]) + width, len(volume))

    return _first(draw, np.add(betti_numbers(volume), (1, 0, 0)))


def false_bridge(volume: Volume, generator: np.random.Generator, radius: float = 1.8) -> Volume:
    """Return the volume with a rod added that makes one tunnel more.

    Raises:
        NumericalError: "topology.no_phantom".
    """

    def draw() -> Volume:
        start, end = _any_voxel(volume, generator), _any_voxel(volume, generator)
        fits = len(volume) / 6 < np.linalg.norm(end - start) < len(volume) / 2
        return volume | _rod(start, end, radius, len(volume)) if fits else volume

    return _first(draw, np.add(betti_numbers(volume), (0, 1, 0)))


def leak(volume: Volume, generator: np.random.Generator, radius: float = 3.0) -> Volume:
    """Return the volume with a ball removed that opens a cavity.

    Raises:
        NumericalError: "topology.no_phantom".
    """

    def draw() -> Volume:
        at = _any_voxel(volume, generator)
        return volume & ~_rod(at, at, radius, len(volume))

    return _first(draw, np.add(betti_numbers(volume), (0, 0, -1)))


def broken_volumes(seed: int = 0, side: int = 40) -> tuple[Toy, ...]:
    """Return three broken volumes: a vessel tree, a hollow body, a hollow creature.

    The tree has two cuts and two false bridges, the hollow body a leak, the creature both a cut and
    a leak.

    Raises:
        ConfigError: "topology.small_phantom".
        NumericalError: "topology.no_phantom".
    """
    from geo3d.synth.creatures.generate import generate_creature

    generator = _generator(seed, side)
    tree, body = vessel_tree(seed, side), hollow_body(seed, side)
    creature = hollowed(occupancy(generate_creature("quadruped", seed).rest, side), wall=1.6)
    broken = tree
    for damage in (cut_branch, cut_branch, false_bridge, false_bridge):
        broken = damage(broken, generator)
    return (
        Toy("vessels", tree, broken),
        Toy("hollow body", body, leak(body, generator)),
        Toy("creature", creature, leak(cut_branch(creature, generator), generator)),
    )


def painted_surface(mask: Volume, toy: Toy) -> Mesh:
    """Return the surface of a volume with colours: grey where right, red where added.

    What is missing is drawn too, in blue, so that a cut or a leak shows as a plug.
    """
    from skimage.measure import marching_cubes

    vertices, faces, colors = [], [], []
    missing = toy.true & np.logical_not(mask)
    for part, is_missing in ((mask, False), (missing, True)):
        if not part.any():
            continue
        smooth = ndimage.gaussian_filter(np.pad(part, 2).astype(np.float32), 0.6)
        # Smoothing takes a single voxel below any fixed level.
        places, triangles, *_ = marching_cubes(smooth, min(0.4, float(smooth.max()) / 2))
        near = np.clip(np.rint(places - 2).astype(int), 0, np.array(mask.shape) - 1)
        # A vertex may lie just outside: what was added within a step of it counts.
        deep = np.asarray(ndimage.binary_erosion(toy.true))
        added = ndimage.binary_dilation(mask & ~toy.true) & np.logical_not(deep)
        kind = np.where(is_missing, 2, added[tuple(near.T)])
        faces.append(triangles + sum(map(len, vertices)))
        vertices.append(places[:, ::-1])
        colors.append(SURFACE_COLORS[kind])
    if not vertices:
        return Mesh(np.zeros((1, 3)), np.zeros((0, 3), dtype=np.int64), name=toy.name)
    return Mesh(
        np.concatenate(vertices).astype(float),
        np.concatenate(faces).astype(np.int64),
        np.concatenate(colors),
        toy.name,
    )


def _branches(
    generator: np.random.Generator, side: int, levels: int
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yield start, end and radius of every branch of a random tree that grows along x."""
    half = (side - 1) / 2
    tips = [(np.array([half, half, 2.0]), np.array([0.0, 0.0, 1.0]))]
    length, radius = 0.32 * side, side / 14
    for _ in range(levels):
        grown = []
        for start, along in tips:
            end = np.clip(start + length * along, 3, side - 4)
            yield start, end, max(radius, THINNEST)
            aside = np.cross(along, generator.normal(size=3))
            aside /= np.linalg.norm(aside)
            for sign in (-1, 1):
                turned = along + sign * generator.uniform(0.6, 1.1) * aside
                grown.append((end, turned / np.linalg.norm(turned)))
        tips, length, radius = grown, 0.8 * length, 0.75 * radius


def _rod(start: np.ndarray, end: np.ndarray, radius: float, side: int) -> Volume:
    """Return the voxels within a radius of a line; a ball where start and end are one."""
    from_start, along = _centres(side) - start, end - start
    share = np.clip(from_start @ along / max(float(along @ along), 1e-12), 0, 1)
    return np.linalg.norm(from_start - share[..., None] * along, axis=-1) < radius


def _centres(side: int) -> Float[np.ndarray, "z y x 3"]:
    return np.moveaxis(np.indices((side, side, side)), 0, -1).astype(float)


def _any_voxel(volume: Volume, generator: np.random.Generator) -> Float[np.ndarray, " n"]:
    return generator.choice(np.argwhere(volume)).astype(float)


def _first(draw: Callable[[], Volume], wanted: tuple[int, ...] | np.ndarray) -> Volume:
    """Draw until the Betti numbers are those wanted."""
    for _ in range(TRIES):
        found = draw()
        if betti_numbers(found) == tuple(wanted):
            return found
    raise NumericalError(
        "topology.no_phantom",
        f"None of {TRIES} draws has the Betti numbers {tuple(map(int, wanted))}.",
        "Take another seed or a larger grid.",
    )


def _generator(seed: int, side: int) -> np.random.Generator:
    if side < LEAST_SIDE:
        raise ConfigError(
            "topology.small_phantom",
            f"A grid of {side} voxels a side is too small for a phantom.",
            f"Give {LEAST_SIDE} or more.",
        )
    return np.random.default_rng(seed)


def bench_volumes(seed: int, progress: ProgressCallback, previews: Path) -> list[dict[str, Any]]:
    """Let every 3D term repair every broken volume; keep the image in the run folder."""
    starts = broken_volumes(seed)
    found = descend_all(100, progress, starts, VOLUME_TERMS)
    repairs = {(repair.toy, repair.term): repair for repair in found}
    rows: list[dict[str, Any]] = [{"term": "truth"}, {"term": "broken"}]
    rows += [{"term": term} for term in VOLUME_TERMS]
    images, labels = [], []
    for toy in starts:
        masks = [toy.true, toy.wrong, *(repairs[toy.name, term].final for term in VOLUME_TERMS)]
        for row, mask in zip(rows, masks, strict=True):
            repair = repairs.get((toy.name, row["term"]))
            numbers = str(betti_numbers(mask))
            needed = repair.steps_needed if repair else None
            row[toy.name] = numbers if needed is None else f"{numbers} after {needed} steps"
            images.append(_shown(mask, toy))
            labels.append(f"{SHORT_NAMES.get(row['term'], row['term'])} {numbers}")
    save_png(contact_sheet(images, labels, columns=len(rows)), previews / "volumes.png")
    return rows


def _shown(mask: Volume, toy: Toy) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a volume, a tree from its broad side, a hollow body from where it leaks."""
    whole = painted_surface(toy.true, toy)
    azimuth = display_azimuth(whole)
    if betti_numbers(toy.true)[2]:
        broken = np.argwhere(toy.true & ~toy.wrong) - (np.array(mask.shape) - 1) / 2
        z, _, x = broken.mean(axis=0)
        azimuth = float(np.arctan2(x, z))
    camera = orbit(whole, azimuth, size=200)
    return render_mesh(painted_surface(mask, toy), camera)
