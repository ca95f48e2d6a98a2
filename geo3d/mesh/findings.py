"""The individual searches behind `geo3d.mesh.check`.

Notation: v vertices, f faces.  *Sound* faces have indices in range and three different corners;
what concerns edges and components looks at sound faces without exact duplicates, what concerns
areas and volumes at those with finite corners.  Geometry is computed on coordinates divided by
the largest one, so that nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from geo3d.mesh import connectivity
from geo3d.mesh.ops import (
    finite_rows,
    group_equal_points,
    group_equal_rows,
    rows_in_range,
    rows_with_repeats,
)

EXTENT_RANGE = (1e-6, 1e6)
ZERO_ALTITUDE = 1e-12
"""Altitude over longest edge at which a face counts as having no area."""
SLIVER_ALTITUDE = 1e-3
"""Altitude over longest edge below which a face counts as a sliver."""


MAX_EXAMPLES = 10
Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Defect:
    """One kind of defect."""

    code: str
    """Stable identifier, documented in docs/errors.md."""
    severity: Severity
    """error, warning or info."""
    count: int
    """How many (faces, vertices, edges or components, as the message says)."""
    examples: tuple[int, ...]
    """Up to ten 0-based ids of the faces or vertices the message speaks of."""
    message: str
    """One sentence."""
    hint: str
    """What to do; names the repair if there is one."""


def find(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], self_intersections: bool
) -> list[Defect]:
    """Run every search."""
    faces = faces.astype(np.int64, copy=False)
    found: list[Defect] = []
    finite = finite_rows(vertices)
    in_range = rows_in_range(faces, len(vertices))
    found += _counts(vertices, faces, finite, in_range)
    repeated = in_range & rows_with_repeats(faces)
    found += _if_any(
        "mesh.repeated_index",
        repeated,
        "{n} faces name a vertex twice and have no area.",
        "`--repair drop_degenerate` removes them.",
    )
    sound = np.flatnonzero(in_range & ~repeated)
    unique = sound[group_equal_rows(np.sort(faces[sound], axis=1))[0]]
    found += _duplicate_faces(sound, unique, len(faces))
    found += _vertices(vertices, faces[in_range], finite)
    if len(unique) == 0:
        return found
    sides = connectivity.edge_sides(faces[unique], len(vertices))
    found += _edges(sides, unique)
    found += _orientation(sides, unique)
    found += _components(vertices, faces, unique, sides)
    geometric = unique[finite[faces[unique]].all(axis=1)]
    if len(geometric):
        points = scaled_points(vertices, finite)
        found += _areas(points, faces, geometric)
        found += _inward(points, faces[unique], sides, finite)
        if self_intersections:
            found += _self_intersections(points, faces, geometric)
    return found


def _defect(
    code: str,
    severity: Severity,
    message: str,
    hint: str = "",
    ids: np.ndarray = np.zeros(0, np.int64),  # noqa: B008
    count: int | None = None,
) -> Defect:
    """Return a defect of ``count`` things, by default as many as there are ids, or one."""
    examples = tuple(int(i) for i in ids[:MAX_EXAMPLES])
    return Defect(code, severity, count or len(ids) or 1, examples, message, hint)


def _if_any(
    code: str, where: np.ndarray, message: str, hint: str, severity: Severity = "warning"
) -> list[Defect]:
    """Return a defect of these ids (a mask: where it is set), or none; {n} is their number."""
    ids = np.flatnonzero(where) if where.dtype == bool else where
    found = _defect(code, severity, message.format(n=f"{len(ids):,}"), hint, ids)
    return [found] if len(ids) else []


def _counts(
    vertices: np.ndarray, faces: np.ndarray, finite: np.ndarray, in_range: np.ndarray
) -> list[Defect]:
    found: list[Defect] = []
    if len(vertices) == 0:
        found.append(_defect("mesh.no_vertices", "error", "There are no vertices."))
    elif len(faces) == 0:
        message = "There are no faces: this is a point cloud."
        found.append(_defect("mesh.no_faces", "warning", message))
    found += _if_any(
        "mesh.non_finite",
        ~finite,
        "{n} vertices have NaN or infinite coordinates.",
        "`--repair drop_non_finite` removes them and their faces.",
        "error",
    )
    return found + _if_any(
        "mesh.index_out_of_range",
        ~in_range,
        f"{{n}} faces name a vertex outside 0..{len(vertices) - 1}.",
        "`--repair drop_bad_faces` removes them.",
        "error",
    )


def _duplicate_faces(sound: np.ndarray, unique: np.ndarray, n_faces: int) -> list[Defect]:
    mask = np.zeros(n_faces, bool)
    mask[sound] = True
    mask[unique] = False
    return _if_any(
        "mesh.duplicate_faces",
        mask,
        "{n} faces have the same three corners as an earlier one.",
        "`--repair drop_duplicate_faces` keeps the first of each.",
    )


def _vertices(vertices: np.ndarray, faces: np.ndarray, finite: np.ndarray) -> list[Defect]:
    found: list[Defect] = []
    if len(faces):
        referenced = np.zeros(len(vertices), bool)
        referenced[faces] = True
        found += _if_any(
            "mesh.unreferenced",
            ~referenced,
            "{n} vertices belong to no face.",
            "`--repair drop_unreferenced` removes them.",
        )
    ids = np.flatnonzero(finite)
    first, _ = group_equal_points(vertices[ids])
    duplicate = np.zeros(len(vertices), bool)
    duplicate[ids] = True
    duplicate[ids[first]] = False
    found += _if_any(
        "mesh.duplicate_vertices",
        duplicate,
        "{n} vertices lie exactly on an earlier one.",
        "`--repair merge_duplicate_vertices` joins them.",
    )
    return found + _extent(vertices[ids])


def _extent(points: np.ndarray) -> list[Defect]:
    if len(points) == 0:
        return []
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    scale = max(float(np.abs([low, high]).max()), 1.0)
    extent = float(np.linalg.norm(high / scale - low / scale)) * scale
    if EXTENT_RANGE[0] <= extent <= EXTENT_RANGE[1]:
        return []
    message = f"The bounding box is {extent:.3g} across; {EXTENT_RANGE} is accepted."
    hint = "Convert the units (metres are a good choice), or remove stray vertices."
    return [_defect("mesh.extreme_scale", "error", message, hint)]


def _edges(sides: connectivity.Sides, face_ids: np.ndarray) -> list[Defect]:
    found = []
    crowded = sides.count > 2
    if n := int(crowded.sum()):
        ids = np.unique(face_ids[sides.of_edges(crowded) // 3])
        message = f"{n:,} edges belong to three or more faces (ids of faces)."
        hint = "`--repair cut_non_manifold_edges` separates the sheets."
        found.append(_defect("mesh.non_manifold_edge", "warning", message, hint, ids, count=n))
    open_edges = sides.count == 1
    if n := int(open_edges.sum()):
        ids = np.unique(face_ids[sides.of_edges(open_edges) // 3])
        message = f"The surface is open: {n:,} edges belong to one face (ids of faces)."
        hint = "`--repair fill_small_holes` closes holes of up to 32 edges."
        found.append(_defect("mesh.boundary", "info", message, hint, ids, count=n))
    return found


def _orientation(sides: connectivity.Sides, face_ids: np.ndarray) -> list[Defect]:
    first, second = sides.pairs(most=2)
    if not (sides.tail[first] == sides.tail[second]).any():
        return []
    turn, _, conflict = connectivity.orientation(sides, len(face_ids))
    return _if_any(
        "mesh.flipped",
        face_ids[turn],
        "{n} faces are turned against their neighbours.",
        "`--repair orient_consistently` turns them.",
    ) + _if_any(
        "mesh.non_orientable",
        face_ids[conflict],
        "The surface has one side only, like a Moebius strip (seen at {n} faces).",
        "No orientation exists; methods that need normals will not work.",
    )


def _components(
    vertices: np.ndarray, faces: np.ndarray, face_ids: np.ndarray, sides: connectivity.Sides
) -> list[Defect]:
    found = _if_any(
        "mesh.non_manifold_vertex",
        connectivity.fans_per_vertex(sides, len(vertices)) > 1,
        "{n} vertices join pieces of surface that touch only there.",
        "`--repair split_non_manifold_vertices` gives each piece its own vertex.",
    )
    _, labels = connectivity.vertex_components(faces[face_ids], len(vertices))
    present, first = np.unique(labels[faces[face_ids, 0]], return_index=True)
    if len(present) > 1:
        message = f"There are {len(present):,} separate pieces (ids of one face each)."
        hint = (
            "`--repair keep_largest_component` keeps the piece with most faces, "
            "`merge_close_vertices` joins pieces that nearly touch."
        )
        found.append(
            _defect("mesh.disconnected", "warning", message, hint, np.sort(face_ids[first]))
        )
    return found


def scaled_points(
    vertices: Float[np.ndarray, "v 3"], finite: Bool[np.ndarray, " v"]
) -> Float[np.ndarray, "v 3"]:
    """Return float64 coordinates in [-1, 1], non-finite rows at the origin."""
    points = np.where(finite[:, None], vertices, 0).astype(np.float64)
    size = float(np.abs(points).max(initial=0.0))
    # Dividing by a denormal would overflow, and nothing that small can be told from a point.
    return points / size if size > np.finfo(np.float64).tiny else np.zeros_like(points)


def relative_altitudes(
    points: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Float[np.ndarray, " f"]:
    """Return the altitude over the longest edge, as a fraction of that edge: 0 without area.

    Coordinates must be finite and at most 1 in size.
    """
    a, b, c = np.moveaxis(points[faces], 1, 0)
    edges = np.stack([b - a, c - b, a - c])
    # Relative to the longest edge, so that tiny faces of large meshes do not underflow.
    longest = np.abs(edges).max(axis=(0, 2))
    edges = edges / np.where(longest > 0, longest, 1.0)[:, None]
    squared = (edges * edges).sum(axis=2).max(axis=0)
    return np.linalg.norm(np.cross(edges[0], edges[1]), axis=1) / np.where(squared > 0, squared, 1)


def degenerate_faces(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Bool[np.ndarray, " f"]:
    """Return whether a face names a vertex twice or has no area; False where it cannot be told."""
    finite = finite_rows(vertices)
    known = rows_in_range(faces, len(vertices))
    known[known] = finite[faces[known]].all(axis=1)
    result = rows_with_repeats(faces)
    result[known] |= (
        relative_altitudes(scaled_points(vertices, finite), faces[known]) <= ZERO_ALTITUDE
    )
    return result


def _areas(points: np.ndarray, faces: np.ndarray, face_ids: np.ndarray) -> list[Defect]:
    altitude = relative_altitudes(points, faces[face_ids])
    flat = altitude <= ZERO_ALTITUDE
    everything = bool(flat.all())
    return _if_any(
        "mesh.zero_area",
        face_ids[flat],
        "No face has any area." if everything else "{n} faces have no area.",
        "`--repair drop_degenerate` removes them.",
        "error" if everything else "warning",
    ) + _if_any(
        "mesh.sliver",
        face_ids[~flat & (altitude < SLIVER_ALTITUDE)],
        f"{{n}} faces are slivers: over {1 / SLIVER_ALTITUDE:.0f} times longer than wide.",
        "The robust Laplacian copes; remeshing removes them.",
    )


def _inward(
    points: np.ndarray, faces: np.ndarray, sides: connectivity.Sides, finite: np.ndarray
) -> list[Defect]:
    """Look at the sign of the volume, which only a closed, oriented, finite surface has."""
    first, second = sides.pairs()
    closed = (sides.count == 2).all() and finite[faces].all()
    if not closed or (sides.tail[first] == sides.tail[second]).any():
        return []
    a, b, c = np.moveaxis(points[faces] - points[faces[0, 0]], 1, 0)
    volume = float(np.einsum("ij,ij->", a, np.cross(b, c))) / 6.0
    if volume >= 0:
        return []
    message = "The faces look inward: the enclosed volume is negative."
    hint = "`--repair orient_outward` turns them."
    return [_defect("mesh.inward", "warning", message, hint, count=len(faces))]


def _self_intersections(
    points: np.ndarray, faces: np.ndarray, face_ids: np.ndarray
) -> list[Defect]:
    from geo3d.mesh.intersect import self_intersecting_pairs

    pairs, complete = self_intersecting_pairs(points, faces[face_ids])
    if len(pairs) == 0 and complete:
        return []
    found = []
    if n := len(pairs):
        message = f"{n:,} pairs of faces pass through each other (ids of faces)."
        hint = "Distances and volumes near them are unreliable; edit or remesh."
        ids = face_ids[np.unique(pairs)]
        found.append(_defect("mesh.self_intersection", "warning", message, hint, ids, count=n))
    if not complete:
        message = "Too many faces overlap; the search for self-intersections was given up."
        found.append(_defect("mesh.self_intersection_unknown", "warning", message))
    return found
