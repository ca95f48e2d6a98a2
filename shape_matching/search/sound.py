"""A shape as its file gives it, taken apart into sound pieces that can be matched.

Files hold more than one surface: stray triangles, eyes and clothes; vertices doubled along texture
seams; vertices of no face; clouds with outliers.  Eigenfunctions are taken over everything that is
there, so each of these changes all of them.  `sound` joins what coincides, leaves aside what
belongs to no surface, and separates the rest into parts, largest first.  Nothing of it depends on
the unit or on where the shape lies; a shape that is sound already is its own only part, the same
object.

Notation: v vertices of the file, m vertices of a part, f faces.  Sides of an edge are the faces
that share it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int64
from scipy.spatial import KDTree

from geo3d.mesh.connectivity import Sides, components, edge_sides, face_components
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import (
    face_areas,
    group_equal_points,
    group_equal_rows,
    group_near_points,
    rows_with_repeats,
)

SEAM = 1e-3
"""Distance between two vertices of open edges, over the median edge, below which they are one."""
FLAP, FLAP_FACES = 0.05, 0.02
"""Share of the area, or of the faces, up to which sheets that hang on edges of three faces are cut
off."""
MOST_PARTS = 64
"""Parts that are looked at, largest first."""
LINK, LINK_RANK = 4.0, 4
"""Points of a cloud hang together within LINK times the distance to their 4th neighbour."""
CLOUD_NEIGHBOURS = 8
FEWEST_VERTICES = 50
"""What a part must have to be matched."""
CLOUD_SPECK, CLOUD_GAP = 0.05, 0.1
"""Groups with a smaller share of the points, or further away (over the extent of the largest
group), are no part of the largest group."""


@dataclass(frozen=True, eq=False)
class Part:
    """A connected surface of a file, and which of the file's vertices it has."""

    mesh: Mesh
    to_file: Int64[np.ndarray, " m"]
    """File vertex of each vertex of ``mesh``."""
    from_file: Int64[np.ndarray, " v"]
    """Vertex of ``mesh`` for each file vertex, doubled ones too; -1 for those of other parts."""


@dataclass(frozen=True, eq=False)
class Sound:
    """The sound parts of a shape."""

    whole: Mesh
    """As in the file."""
    parts: tuple[Part, ...]
    """Largest first: by area, clouds by points.  At least one."""
    notes: tuple[str, ...]
    """What was joined and left aside, a plain sentence; empty when the file was sound."""

    @property
    def is_whole(self) -> bool:
        """Whether the only part is the file as it is."""
        return self.parts[0].mesh is self.whole


@lru_cache(maxsize=8)
def sound(mesh: Mesh) -> Sound:
    """Take ``mesh`` apart; repeated calls with the same mesh object are remembered."""
    if mesh.is_point_cloud:
        return _sound_cloud(mesh)
    faces, owner = _joined_seams(mesh)
    faces = faces[~rows_with_repeats(faces)]
    if not len(faces):
        return _as_it_is(mesh)
    label, n_flaps = _sheets(mesh, faces)
    faces, label = faces[label >= 0], label[label >= 0]
    areas = np.bincount(label, face_areas(replace(mesh, faces=faces)))
    used = np.bincount(faces.ravel(), minlength=mesh.n_vertices) > 0
    if not areas.max() > 0:
        return _as_it_is(mesh)
    if len(areas) == 1 and len(faces) == mesh.n_faces and used.all():
        return _as_it_is(mesh)
    largest_first = np.argsort(-areas, kind="stable")[:MOST_PARTS]
    parts = tuple(_part(mesh, faces[label == i], owner) for i in largest_first)
    found = _Found(
        joined=int((owner != np.arange(mesh.n_vertices)).sum()),
        pieces=len(areas) - 1,
        flaps=n_flaps,
        unused=int((~used[owner]).sum()),
        faces=mesh.n_faces - len(faces) if not n_flaps else 0,
    )
    return Sound(mesh, parts, _note(mesh, found))


def _as_it_is(mesh: Mesh) -> Sound:
    everything = np.arange(mesh.n_vertices)
    return Sound(mesh, (Part(mesh, everything, everything),), ())


def _part(mesh: Mesh, faces: np.ndarray, owner: np.ndarray) -> Part:
    """Return the part with these faces, which name no vertex but the owners of joined ones."""
    to_file, corners = np.unique(faces, return_inverse=True)
    place = np.full(mesh.n_vertices, -1)
    place[to_file] = np.arange(len(to_file))
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors[to_file]
    part = Mesh(mesh.vertices[to_file], corners.reshape(-1, 3), colors, mesh.name)
    return Part(part, to_file, place[owner])


@dataclass(frozen=True)
class _Found:
    """How many of each defect."""

    joined: int
    pieces: int
    flaps: int
    unused: int
    faces: int


def _note(mesh: Mesh, found: _Found) -> tuple[str, ...]:
    done = []
    if found.joined:
        done.append(f"joined {_count(found.joined, 'vertex', 'vertices')} doubled along seams")
    if found.faces:
        done.append(f"dropped {_count(found.faces, 'face', 'faces')} doubled or without area")
    if found.pieces:
        done.append(f"separated {_count(found.pieces, 'smaller piece', 'smaller pieces')}")
    aside = [
        _count(number, *words)
        for number, words in (
            (found.flaps, ("flap on edges of three faces",) * 2),
            (found.unused, ("vertex of no face", "vertices of no face")),
        )
        if number
    ]
    if aside:
        done.append("set aside " + " and ".join(aside))
    return (f"{mesh.name}: " + ", ".join(done) + ".",) if done else ()


def _count(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def joined(mesh: Mesh) -> tuple[Mesh, Int64[np.ndarray, " v"]]:
    """Return the mesh with its seams joined, doubled vertices left unused, and the vertex that
    stands for each; a cloud has no seams."""
    if mesh.is_point_cloud:
        return mesh, np.arange(mesh.n_vertices)
    faces, owner = _joined_seams(mesh)
    return replace(mesh, faces=faces), owner


def _joined_seams(mesh: Mesh) -> tuple[Int64[np.ndarray, "f 3"], Int64[np.ndarray, " v"]]:
    """Join vertices of open edges that coincide; return the faces anew and each vertex's owner.

    Vertices inside a surface stay, however near: two surfaces may touch there.
    """
    owner = np.arange(mesh.n_vertices)
    faces = mesh.faces
    for near in (False, True):
        sides = edge_sides(faces, mesh.n_vertices)
        border = sides.of_edges(sides.count == 1)
        if not len(border):
            return faces, owner
        open_ones = np.unique(np.r_[sides.tail[border], sides.head[border]])
        points = mesh.vertices[open_ones].astype(np.float64)
        if near:
            ends = mesh.vertices.astype(np.float64)
            lengths = np.linalg.norm(ends[sides.tail] - ends[sides.head], axis=1)
            first, group = group_near_points(points, SEAM * float(np.median(lengths)))
        else:
            first, group = group_equal_points(points)
        step = np.arange(mesh.n_vertices)
        step[open_ones] = open_ones[first[group]]
        owner, faces = step[owner], step[faces]
    return faces, owner


def _sheets(mesh: Mesh, faces: np.ndarray) -> tuple[Int64[np.ndarray, " f"], int]:
    """Return each face's piece, -1 for doubled faces and flaps, and the number of flaps.

    Pieces hang together across edges; those that meet in a vertex only are separate.
    """
    sides = edge_sides(faces, mesh.n_vertices)
    if sides.count.max() <= 2:
        return face_components(sides, len(faces)), 0
    keep = np.zeros(len(faces), bool)
    keep[group_equal_rows(np.sort(faces, axis=1))[0]] = True
    flaps = _flaps(mesh, faces, keep)
    keep[flaps >= 0] = False
    label = np.full(len(faces), -1)
    kept = edge_sides(faces[keep], mesh.n_vertices)
    label[keep] = face_components(kept, int(keep.sum()))
    return label, int(flaps.max(initial=-1)) + 1


def _flaps(mesh: Mesh, faces: np.ndarray, keep: Bool[np.ndarray, " f"]) -> np.ndarray:
    """Return the number of the flap of each face, -1 for those of no flap.

    A flap is a small sheet with a free edge that hangs on others by edges of three faces or more: a
    fin, or a triangle that bridges two pieces.
    """
    kept = np.flatnonzero(keep)
    sides = edge_sides(faces[kept], mesh.n_vertices)
    sheet = face_components(sides, len(kept), most=2)
    area = np.bincount(sheet, face_areas(replace(mesh, faces=faces[kept])))
    free, hangs = (_has(sides, of, sheet, len(area)) for of in (sides.count == 1, sides.count > 2))
    count = np.bincount(sheet)
    few = count < FLAP_FACES * len(kept)
    flap = free & hangs & (few | (area < FLAP * area.sum()))
    number = np.full(len(faces), -1)
    # surfaces that consist of such sheets are left as they are
    if count[flap].sum() < FLAP_FACES * len(kept) or area[flap].sum() < FLAP * area.sum():
        order = np.where(flap, np.cumsum(flap) - 1, -1)
        number[kept] = order[sheet]
    return number


def _has(sides: Sides, edges: np.ndarray, sheet: np.ndarray, count: int) -> np.ndarray:
    """Return whether each sheet has one of these edges."""
    return np.bincount(sheet[sides.of_edges(edges) // 3], minlength=count) > 0


def _sound_cloud(cloud: Mesh) -> Sound:
    first, group = group_equal_points(cloud.vertices)
    label = _cloud_groups(cloud.vertices[first].astype(np.float64))
    sizes = np.bincount(label[label >= 0]) if len(label) else np.zeros(0, np.int64)
    if len(first) == cloud.n_vertices and (label == 0).all():
        return _as_it_is(cloud)
    parts = tuple(_cloud_part(cloud, first, group, label == i) for i in range(len(sizes)))
    done = []
    if doubled := cloud.n_vertices - len(first):
        done.append(f"joined {_count(doubled, 'doubled point', 'doubled points')}")
    if aside := int((label != 0).sum()):
        done.append(f"set aside {_count(aside, 'point', 'points')} apart from it")
    return Sound(cloud, parts, (f"{cloud.name}: " + ", ".join(done) + ".",))


def _cloud_part(cloud: Mesh, first: np.ndarray, group: np.ndarray, inside: np.ndarray) -> Part:
    to_file = first[inside]
    place = np.where(inside, np.cumsum(inside) - 1, -1)
    colors = None if cloud.vertex_colors is None else cloud.vertex_colors[to_file]
    part = Mesh(cloud.vertices[to_file], cloud.faces, colors, cloud.name)
    return Part(part, to_file, place[group])


def _cloud_groups(points: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Return the group of each point, 0 the largest, -1 for points and small groups apart.

    Neighbours hang together where their distance is ordinary for both.
    """
    n = len(points)
    if n <= CLOUD_NEIGHBOURS:
        return np.zeros(n, np.int64)
    found = KDTree(points).query(points, k=CLOUD_NEIGHBOURS + 1)
    distances, neighbours = map(np.asarray, found)
    spacing = distances[:, LINK_RANK]
    reach = LINK * np.minimum(spacing[:, None], spacing[neighbours])
    row, column = np.nonzero(distances <= reach)
    _, label = components(row, neighbours[row, column], n)
    sizes = np.bincount(label)
    order = np.argsort(-sizes, kind="stable")
    main = points[label == order[0]]
    tree, gap = KDTree(main), CLOUD_GAP * float(np.linalg.norm(np.ptp(main, axis=0)))
    result, count = np.full(n, -1), 1
    result[label == order[0]] = 0
    for i in order[1:MOST_PARTS]:
        inside = label == i
        if sizes[i] < CLOUD_SPECK * sizes[order[0]]:
            break
        if float(tree.query(points[inside])[0].min()) < gap:
            result[inside] = 0
        else:
            result[inside] = count
            count += 1
    return result
