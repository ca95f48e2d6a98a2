"""What a finished map tells about itself, without truth: stretch, folds, roundtrips.

A right map keeps distances along the surface, keeps the side that faces outwards, and returns to
where it started.  `signals` measures how far a map fails to, at samples of the target (local) and
over the whole (whole).  Nothing depends on position, rotation or unit of either shape.  What the
search knew is among the signals of the whole (`KNOWN`), NaN for maps that were made otherwise;
all else depends on the map alone.  Seams are joined first: distances go across them.

Notation: 1 is the source, 2 the target; s samples of the target, l local signals, w signals of the
whole; d1, d2 distances along the surfaces among the images and among the samples, each over its
median, so that a change of size is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import coo_matrix, csgraph, csr_matrix
from scipy.spatial import KDTree

from geo3d.mesh.clouds import outward_normals
from geo3d.mesh.geodesic import edge_graph
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import faces_per_edge, total_area
from geo3d.mesh.sampling import farthest_point_samples
from shape_matching.correspondence import Correspondence
from shape_matching.search.sound import joined

N_SAMPLES = 192
MOST_VERTICES = 6000
"""Shapes with more are looked at through clusters of vertices, about as many as this."""
N_AROUND = 30
"""Vertices around a sample whose images tell whether the map turns over or stretches there."""
N_FIELD = 2000
"""Vertices that count as around, of shapes with many more: on dense meshes the next 30 vertices lie
closer together than maps are exact."""
N_NEAR = 8
"""Nearest samples over which local signals are smoothed and local stretch is measured."""
ALIKE = 0.2
"""Relative difference of two distances that still counts as kept."""
LOCAL = (
    "roundtrip", "stretch", "stretch_high", "stretch_near", "turned_over", "area_change",
    "anisotropy", "roughness", "remoteness", "disagreement", "bending", "crowding",
    "bent", "facing",
)  # fmt: skip
KNOWN = (
    "rivalry", "pieces", "search_residual", "search_orientation", "search_roughness",
    "search_curvature", "pieces_misfit", "pieces_strain", "pieces_curvature",
)  # fmt: skip
"""What the search knew: see `_known`."""
WHOLE = (
    *(f"{name}_{part}" for name in LOCAL for part in ("10", "50", "90")),
    "uncovered_50", "uncovered_90", "size_change", "open_source", "open_target", "cloud",
    "left_source", "left_target", "left_both", "one_sided", "mirrored", *KNOWN,
)  # fmt: skip
N_PATCH = 20
"""Nearest samples that one rotation is fitted to: a tenth of the surface, a limb or a joint."""
RIVAL, RIVAL_PIECES, NO_RIVAL = 0.3, 0.1, 1e3
"""Leads of the choice at which rivalry is 1/e (twice the margins of ambiguity), of whole maps and
of pieces; what stands for no rival."""
_FAR = 4.0
"""Stands for infinite relative distances: pieces that do not hang together."""


@dataclass(frozen=True, eq=False)
class Signals:
    """Signals of one map."""

    samples: Int64[np.ndarray, " s"]
    """Target vertices."""
    local: Float[np.ndarray, "s l"]
    """Columns of `LOCAL`."""
    whole: Float[np.ndarray, " w"]
    """Columns of `WHOLE`."""

    def spread(self, target: Mesh, values: Float[np.ndarray, " s"]) -> Float[np.ndarray, " v"]:
        """Return values at the samples, carried to all vertices of the target."""
        points = target.vertices.astype(np.float64)
        k = min(4, len(self.samples))
        gap, near = KDTree(points[self.samples]).query(points, k=np.arange(1, k + 1))
        weight = 1.0 / np.maximum(np.square(gap), 1e-12 * np.square(np.ptp(points)).clip(1e-30))
        return (weight * values[near]).sum(axis=1) / weight.sum(axis=1)


def signals(found: Correspondence) -> Signals | None:
    """Return the signals of a map; None where fewer than 16 target vertices are mapped.

    Vertices whose image is -1, or that lie outside the overlap, are left aside.
    """
    found = _without_seams(found)
    mapped = found.p2p_21 >= 0
    back = found.p2p_12 >= 0
    if found.overlap_2 is not None:
        mapped &= found.overlap_2
    if found.overlap_1 is not None:
        back &= found.overlap_1
    ids = np.flatnonzero(mapped & _used(found.target))
    if len(ids) < 16:
        return None
    chosen = Mesh(found.target.vertices[ids], np.zeros((0, 3), np.int64))
    samples = ids[farthest_point_samples(chosen, min(N_SAMPLES, len(ids)))]
    images = found.p2p_21[samples]
    graph_1, graph_2 = _Surface(found.source), _Surface(found.target)
    d2, unit_2 = _relative(graph_2.among(samples))
    d1, unit_1 = _relative(graph_1.among(images))
    near = np.argsort(d2, axis=1, kind="stable")[:, 1 : N_NEAR + 1]
    returned = np.where(back[images], found.p2p_12[images], samples)
    roundtrip = _gaps(found.target, returned, samples) / unit_2
    turns, mirrored = _turns(found, ids, samples, near)
    local = np.column_stack(
        [
            np.log1p(10 * roundtrip),
            *_stretch(d1, d2, near),
            *turns,
            *_density(d1, d2, near),
            *_posed(found, samples, d2),
        ]
    )
    order = (0, 1, 2, 3, 6, 7, 8, 9, 4, 5, 10, 11, 12, 13)
    local = local[:, order]
    way = found.p2p_12[back], np.flatnonzero(back)
    lost = _gaps(found.source, found.p2p_21[way[0]].clip(min=0), way[1]) / unit_1
    whole = np.concatenate(
        [
            np.quantile(local, (0.1, 0.5, 0.9), axis=0).T.ravel(),
            np.log1p(10 * np.quantile(lost, (0.5, 0.9))) if len(lost) else np.full(2, 3.0),
            [_size_change(found, unit_1, unit_2)],
            [_open_share(found.source), _open_share(found.target)],
            [float(found.source.is_point_cloud or found.target.is_point_cloud)],
            [1 - back.mean(), 1 - mapped.mean(), 1 - max(back.mean(), mapped.mean())],
            [abs(float(np.mean(1 - 2 * local[:, LOCAL.index("turned_over")])))],
            [float(mirrored)],
            _known(found),
        ]
    )
    return Signals(samples, local, whole)


def _stretch(d1: np.ndarray, d2: np.ndarray, near: np.ndarray) -> list[np.ndarray]:
    """Return middle, high and near stretch, remoteness, and the share of samples that disagree."""
    change = np.abs(d1 - d2) / (d2 + 0.1)
    here = np.take_along_axis(np.abs(d1 - d2), near, axis=1).mean(axis=1)
    size = np.take_along_axis(d2, near, axis=1).mean(axis=1)
    return [
        np.median(change, axis=1),
        np.quantile(change, 0.8, axis=1),
        np.minimum(here / np.maximum(size, 1e-9), _FAR),
        d1.mean(axis=1) - d2.mean(axis=1),
        (change > ALIKE).mean(axis=1),
    ]


def _turns(
    found: Correspondence, ids: np.ndarray, samples: np.ndarray, near: np.ndarray
) -> tuple[list[np.ndarray], bool]:
    """Return how far the map turns over, changes areas, is lopsided, and is rough at samples, and
    whether it turns most of the surface over.

    The images of the vertices around a sample, in the tangent plane, are fitted by a linear map.
    """
    source, target = found.source, found.target
    points_1, points_2 = (m.vertices.astype(np.float64) for m in (source, target))
    normals_1, normals_2 = outward_normals(source), outward_normals(target)
    if len(ids) > 1.25 * N_FIELD:
        ids = np.sort(np.random.default_rng(0).choice(ids, N_FIELD, replace=False))
    tree = KDTree(points_2[ids])
    around = ids[tree.query(points_2[samples], k=np.arange(2, min(N_AROUND, len(ids)) + 1))[1]]
    images, centres = found.p2p_21[around], found.p2p_21[samples]
    weight = np.einsum("skc,sc->sk", normals_2[around], normals_2[samples]) > 0.3
    weight &= np.einsum("skc,sc->sk", normals_1[images], normals_1[centres]) > 0.0
    flat_2 = _flattened(points_2, around, samples, normals_2)
    flat_1 = _flattened(points_1, images, centres, normals_1)
    gram = np.einsum("sk,ski,skj->sij", weight, flat_2, flat_2)
    gram += 1e-3 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(2) + 1e-30 * np.eye(2)
    linear = np.linalg.solve(gram, np.einsum("sk,ski,skj->sij", weight, flat_2, flat_1))
    misfit = np.einsum("sk,skj->s", weight, np.square(flat_1 - flat_2 @ linear))
    size = np.einsum("sk,skj->s", weight, np.square(flat_1))
    singular = np.linalg.svd(linear, compute_uv=False)
    area = np.log(np.maximum(singular.prod(axis=1), 1e-12))
    side = np.sign(np.linalg.det(linear)) * (weight.sum(axis=1) >= 4)
    # a shape that is the mirror image of the other, or inside out, turns everywhere
    mirrored = bool(side.sum() < 0)
    side = -side if mirrored else side
    sides = np.column_stack([side, side[near]]).mean(axis=1)
    ratio = -np.log(singular[:, 1] / np.maximum(singular[:, 0], 1e-30) + 1e-3)
    return [
        (1 - sides) / 2,
        np.minimum(np.abs(area - np.median(area)), _FAR),
        np.clip(ratio, 0.0, _FAR),
        np.sqrt(misfit / np.maximum(size, 1e-30)),
    ], mirrored


def _posed(found: Correspondence, samples: np.ndarray, d2: np.ndarray) -> list[np.ndarray]:
    """Return, around each sample, how far the map is from a rotation, and how far it turns normals
    away from it.

    A patch of samples and its image are fitted by one rotation, on all patches or on none by a
    reflection.
    """
    patch = np.argsort(d2, axis=1, kind="stable")[:, : min(N_PATCH, len(samples))]
    sides = (found.target, samples), (found.source, found.p2p_21[samples])
    places = [mesh.vertices.astype(np.float64)[ids][patch] for mesh, ids in sides]
    offsets = [p - p.mean(axis=1, keepdims=True) for p in places]
    sizes = [np.sqrt(np.square(p).sum(axis=(1, 2))).clip(min=1e-30) for p in offsets]
    here, there = (p / size[:, None, None] for p, size in zip(offsets, sizes, strict=True))
    left, singular, right = np.linalg.svd(np.einsum("ski,skj->sij", here, there))
    handed = np.sign(np.linalg.det(left) * np.linalg.det(right))
    # a reflection of all patches fits better where the last of these are mostly negative
    handed *= -1.0 if float(handed @ singular[:, 2]) < 0 else 1.0
    left[:, :, 2] *= handed[:, None]
    normals = [outward_normals(mesh)[ids][patch] for mesh, ids in sides]
    cosine = np.einsum("ski,sij,skj->sk", normals[0], left @ right, normals[1])
    facing = -1.0 if float(cosine.sum()) < 0 else 1.0
    bent = 1 - singular[:, 0] - singular[:, 1] - singular[:, 2] * handed
    return [bent, 1 - facing * cosine.mean(axis=1)]


def _without_seams(found: Correspondence) -> Correspondence:
    """Return the map between the same shapes without seams."""
    (source, owner_1), (target, owner_2) = joined(found.source), joined(found.target)
    p2p_21 = np.where(found.p2p_21 >= 0, owner_1[found.p2p_21], -1)
    p2p_12 = np.where(found.p2p_12 >= 0, owner_2[found.p2p_12], -1)
    return replace(found, source=source, target=target, p2p_21=p2p_21, p2p_12=p2p_12)


def _used(mesh: Mesh) -> Bool[np.ndarray, " v"]:
    """Return which vertices have a face; those of a cloud all count."""
    used = np.full(mesh.n_vertices, mesh.is_point_cloud)
    used[mesh.faces] = True
    return used


def _density(d1: np.ndarray, d2: np.ndarray, near: np.ndarray) -> list[np.ndarray]:
    """Return how much wider or narrower the surroundings are, and the share of far samples whose
    images fall together."""
    widths = [np.quantile(d, 0.15, axis=1) for d in (d1, d2)]
    bending = np.log(np.maximum(widths[0], 1e-3) / np.maximum(widths[1], 1e-3))
    spacing = np.take_along_axis(d2, near[:, :1], axis=1).mean()
    crowded = (d2 > 3 * spacing) & (d1 < 0.3 * d2)
    return [np.abs(bending), crowded.mean(axis=1)]


def _flattened(
    points: np.ndarray, ids: np.ndarray, centres: np.ndarray, normals: np.ndarray
) -> Float[np.ndarray, "s k 2"]:
    """Return points around each centre in its tangent plane."""
    normal = normals[centres]
    axis = np.eye(3)[np.abs(normal).argmin(axis=1)]
    first = np.cross(normal, axis)
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-30)
    frame = np.stack([first, np.cross(normal, first)], axis=2)
    return np.einsum("skc,scj->skj", points[ids] - points[centres][:, None], frame)


def _known(found: Correspondence) -> Float[np.ndarray, " c"]:
    """Return how near the best different map of the search came (0 to 1), whether the shapes were
    matched as pieces, and the scores of that search; NaN where they are not known."""
    scores, is_pieces = found.scores, found.overlap_2 is not None
    whole, pieces = ({}, scores) if is_pieces else (scores, {})
    lead = scores.get("lead", NO_RIVAL)
    near = np.exp(-max(lead, 0.0) / (RIVAL_PIECES if is_pieces else RIVAL))
    known = [
        near if lead < NO_RIVAL else np.nan,
        is_pieces,
        np.log(max(whole.get("residual", np.nan), 1e-9)),
        whole.get("orientation", np.nan),
        np.log(max(whole.get("roughness", np.nan), 1e-9)),
        whole.get("curvature", np.nan),
        *(pieces.get(name, np.nan) for name in ("misfit", "strain", "curvature")),
    ]
    return np.array(known, float)


def _gaps(mesh: Mesh, ids: np.ndarray, others: np.ndarray) -> Float[np.ndarray, " n"]:
    points = mesh.vertices.astype(np.float64)
    return np.linalg.norm(points[ids] - points[others], axis=1)


def _relative(distances: Float[np.ndarray, "s s"]) -> tuple[Float[np.ndarray, "s s"], float]:
    """Return distances over their median, and the median; between loose pieces they are far."""
    reached = distances[np.isfinite(distances) & (distances > 0)]
    unit = float(np.median(reached)) if len(reached) else 1.0
    return np.minimum(distances / max(unit, 1e-30), _FAR), max(unit, 1e-30)


def _size_change(found: Correspondence, unit_1: float, unit_2: float) -> float:
    """Return how the mean distance over the root of the area changes: 0 for a whole map."""
    areas = [total_area(m) for m in (found.source, found.target)]
    if min(areas) <= 0:
        return 0.0
    return float(np.log(unit_1 / np.sqrt(areas[0])) - np.log(unit_2 / np.sqrt(areas[1])))


def _open_share(mesh: Mesh) -> float:
    """Return the share of edges that have one face."""
    if mesh.is_point_cloud or not mesh.n_faces:
        return 0.0
    return float((faces_per_edge(mesh.faces) == 1).mean())


class _Surface:
    """Distances along a surface; a large one is made of clusters of vertices."""

    def __init__(self, mesh: Mesh) -> None:
        graph = edge_graph(mesh)
        self._cluster = np.arange(mesh.n_vertices)
        if mesh.n_vertices > 2 * MOST_VERTICES:
            self._cluster, graph = _clustered(mesh, graph)
        self._graph = graph

    def among(self, ids: Int64[np.ndarray, " s"]) -> Float[np.ndarray, "s s"]:
        """Return the distances among vertices; infinite between loose pieces."""
        places, inverse = np.unique(self._cluster[ids], return_inverse=True)
        found = csgraph.dijkstra(self._graph, directed=False, indices=places)[:, places]
        return found[np.ix_(inverse, inverse)]


def _clustered(mesh: Mesh, graph: csr_matrix) -> tuple[Int64[np.ndarray, " v"], csr_matrix]:
    """Return the cluster of each vertex, and the graph of clusters.

    A cluster is what hangs together within a cell of space: sheets that pass through the same cell
    stay apart.
    """
    points = mesh.vertices.astype(np.float64)
    size = np.sqrt(
        6 * max(total_area(mesh), np.square(np.ptp(points, axis=0)).sum()) / MOST_VERTICES
    )
    cell = np.floor((points - points.min(axis=0)) / (0.7 * size)).astype(np.int64)
    _, cell_id = np.unique(cell, axis=0, return_inverse=True)
    edge = graph.tocoo()
    inside = cell_id.ravel()[edge.row] == cell_id.ravel()[edge.col]
    n = mesh.n_vertices
    kept = coo_matrix((np.ones(inside.sum()), (edge.row[inside], edge.col[inside])), (n, n))
    count, label = csgraph.connected_components(kept, directed=False)
    members = np.bincount(label, minlength=count)
    centre = np.stack(
        [np.bincount(label, points[:, c], minlength=count) / members for c in range(3)], axis=1
    )
    rows, columns = label[edge.row[~inside]], label[edge.col[~inside]]
    ends = np.unique(np.sort(np.stack([rows, columns], axis=1), axis=1), axis=0)
    length = np.linalg.norm(centre[ends[:, 0]] - centre[ends[:, 1]], axis=1)
    length = np.maximum(length, np.finfo(np.float64).tiny)
    return label.astype(np.int64), csr_matrix((length, (ends[:, 0], ends[:, 1])), (count, count))
