"""Match a piece of a surface to the whole, or two pieces to each other.

Surfaces are compared by lengths, in the units of their files, so a piece has to have the size it
has on the whole.  Steps: both are thinned to the same density; maps of samples that keep distances
are searched (`isometry`, `search`); surface 2 is bent into the pose of 1 by each of the best
(`deform`); the one that fits best (`fit`) is carried back to the vertices of the files.

Notation as in `geo3d.spectral.fmap`: 1 is the source, 2 the target.  Inside, the smaller surface is
always 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.spatial import KDTree

from geo3d.errors import InputError, NumericalError
from geo3d.mesh.decimate import Decimated, decimate
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area, vertex_areas
from geo3d.progress import ProgressCallback, ignore_progress, report
from shape_matching.correspondence import Correspondence, cycle_confidence
from shape_matching.partial.deform import registered
from shape_matching.partial.fit import Fit, fit_of
from shape_matching.partial.isometry import pairing, violation
from shape_matching.partial.search import hypotheses, start_of
from shape_matching.partial.surface import Surface, border_edges, surface_of
from shape_matching.search.coupled import upsample

VERTICES, FEWEST = 2_000, 300
"""Vertices of the larger surface when it is searched, and least of the smaller one; both are
thinned to one density."""
ENOUGH = 1.3
"""A mesh of up to this many times the vertices asked for is not thinned."""
SAMPLES_1, SAMPLES_2 = 250, 80
NOTHING = 0.8
"""Cost of a sample without counterpart, where both surfaces may have such."""
FINALISTS = 16
APART = 0.1
"""Mean distance between the images of two maps that count as different explanations."""
MARGIN = 0.05
"""Lead below which the runner-up counts as a second explanation."""
GIVEN = 4.0
"""Weight of what the user gives in the search."""
TELLING = 150
"""Vertices below which a border tells nothing."""
OPEN = 0.3
"""Length of the border, over the root of the area, from which a surface counts as cut."""
SAME_AREA, OTHER_UNIT = 0.85, 0.025
"""Ratio of areas above which a surface is no piece of the other; ratio below which the files must
be in different units."""
LINKS = 60
"""Most vertices of a given map to which distances are measured."""
KEEP = 0.1
"""A given map is kept unless its rank is worse by this than that of the one found."""
RIVAL = "A clearly different map of the pieces fits nearly as well; three landmarks settle it."
NOTE = "Matched as pieces: {} % of the source and {} % of the target have a counterpart (by area)."


def looks_partial(source: Mesh, target: Mesh) -> bool:
    """Return whether one of the surfaces is cut and the smaller one lacks a good part of the area.

    Files in different units look as if; they are left to the matching of whole shapes.
    """
    if source.is_point_cloud or target.is_point_cloud:
        return False
    if min(source.n_vertices, target.n_vertices) < TELLING:
        return False
    areas = sorted(total_area(mesh) for mesh in (source, target))
    if not areas[0] > 0 or not OTHER_UNIT < areas[0] / areas[1] < SAME_AREA:
        return False
    return max(_openness(source), _openness(target)) > OPEN


def wants_partial(source: Mesh, target: Mesh, choice: Literal["auto", "yes", "no"]) -> bool:
    """Return whether two shapes are to be matched as pieces.

    Raises:
        InputError: ``match.partial_cloud`` when a point cloud is to be.
    """
    cloud = next((mesh for mesh in (source, target) if mesh.is_point_cloud), None)
    if choice == "yes" and cloud is not None:
        raise InputError(
            "match.partial_cloud",
            f"{cloud.name} is a point cloud; pieces are matched by distances along triangles.",
            "Mesh the cloud, or leave --partial out.",
        )
    return choice == "yes" or (choice == "auto" and looks_partial(source, target))


def match_partial(
    source: Mesh,
    target: Mesh,
    *,
    landmarks: Int64[np.ndarray, "p 2"] | None = None,
    initial_p2p_21: Int64[np.ndarray, " v2"] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Correspondence:
    """Match two surfaces of which at least one is a piece.

    The maps name a vertex for every vertex; ``overlap_1`` and ``overlap_2`` tell which have a
    counterpart.  Arguments as in `shape_matching.match.match`.

    Raises:
        MeshError, NumericalError: what decimation, operators and eigenbasis raise.
    """
    swapped = total_area(target) > total_area(source)
    one, two = (target, source) if swapped else (source, target)
    links = _links(landmarks, initial_p2p_21)
    links = links if links is None or not swapped else links[:, ::-1]
    coarse_1, coarse_2 = _thinned(one, two, progress)
    unit = float(np.sqrt(total_area(one)))
    surface_1 = surface_of(coarse_1.mesh, unit, SAMPLES_1)
    surface_2 = surface_of(coarse_2.mesh, unit, SAMPLES_2)
    report(progress, "pieces", 1, 3)
    nothing = None if np.isinf(surface_1.border).all() else NOTHING
    coarse_links = None
    if links is not None:
        coarse_links = np.stack(
            [coarse_1.nearest_coarse()[links[:, 0]], coarse_2.nearest_coarse()[links[:, 1]]], axis=1
        )
    found = _searched(surface_1, surface_2, coarse_links, nothing, progress)
    report(progress, "pieces", 3, 3)
    inner = Correspondence(
        coarse_1.mesh,
        coarse_2.mesh,
        found.best.p2p_21,
        found.best.p2p_12,
        None,
        np.ones(coarse_2.mesh.n_vertices),
        found.scores,
        found.ambiguous,
        overlap_1=found.best.overlap_1,
        overlap_2=found.best.overlap_2,
    )
    fine = _carried(inner, one, two, coarse_1, coarse_2, progress)
    if links is not None:
        fine = _obeyed(fine, links, whole_map=landmarks is None and found.given)
    return _finished(_swapped(fine) if swapped else fine)


@dataclass(frozen=True, eq=False)
class _Found:
    """The chosen map of the thinned surfaces."""

    best: Fit
    scores: dict[str, float]
    ambiguous: bool
    given: bool
    """Whether it is the given map itself."""


def _openness(mesh: Mesh) -> float:
    """Return the length of the border over the root of the area."""
    ends = mesh.vertices.astype(np.float64)[border_edges(mesh)]
    length = float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())
    return length / total_area(mesh) ** 0.5


def _links(
    landmarks: np.ndarray | None, initial_p2p_21: np.ndarray | None
) -> Int64[np.ndarray, "n 2"] | None:
    """Return what the user gives as rows (source vertex, target vertex)."""
    if landmarks is not None:
        return landmarks
    if initial_p2p_21 is None:
        return None
    return np.stack([initial_p2p_21, np.arange(len(initial_p2p_21))], axis=1)


def _thinned(one: Mesh, two: Mesh, progress: ProgressCallback) -> tuple[Decimated, Decimated]:
    n_1 = min(VERTICES, one.n_vertices)
    n_2 = max(FEWEST, round(n_1 * total_area(two) / total_area(one)))
    coarse_1 = _decimated(one, n_1)
    report(progress, "decimation", 1, 2)
    coarse_2 = _decimated(two, min(n_2, two.n_vertices))
    report(progress, "decimation", 2, 2)
    return coarse_1, coarse_2


def _decimated(mesh: Mesh, n_vertices: int) -> Decimated:
    """Thin a mesh that is much denser than asked; less where that breaks a ragged border."""
    if mesh.n_vertices <= ENOUGH * n_vertices:
        return decimate(mesh, mesh.n_vertices)
    try:
        return decimate(mesh, n_vertices)
    except NumericalError:
        return _decimated(mesh, 2 * n_vertices)


def _searched(
    one: Surface,
    two: Surface,
    links: Int64[np.ndarray, "n 2"] | None,
    nothing: float | None,
    progress: ProgressCallback,
) -> _Found:
    pair = pairing(one, two)
    if links is not None:
        pair = replace(pair, unlike=pair.unlike + _away_from(links, one, two))
    contained = nothing is None
    fits = []
    for hypothesis in hypotheses(one, two, pair, nothing)[:FINALISTS]:
        start = start_of(one, two, hypothesis.p2p, hypothesis.trusted)
        fits.append(fit_of(one, two, *registered(one, two, start, contained), contained))
        report(progress, "pieces", 2, 3)
    fits.sort(key=lambda fit: fit.rank)
    best, given = fits[0], False
    rivals = [fit.rank - best.rank for fit in fits[1:] if _apart(one, fit, best)]
    if links is not None and len(links) >= two.mesh.n_vertices:
        maps = _nearest_link(two.mesh, links[:, ::-1]), _nearest_link(one.mesh, links)
        known = fit_of(one, two, *maps, contained)
        given = known.rank <= best.rank + KEEP
        best = known if given else best
    scores = {
        "misfit": best.misfit,
        "strain": best.strain,
        "curvature": best.curvature,
        "lead": min(rivals, default=1e3),
    }
    return _Found(best, scores, scores["lead"] < MARGIN and links is None, given)


def _apart(one: Surface, first: Fit, second: Fit) -> bool:
    gap = one.mesh.vertices[first.p2p_21] - one.mesh.vertices[second.p2p_21]
    return float(np.linalg.norm(gap, axis=1).mean()) > APART


def _away_from(
    links: Int64[np.ndarray, "n 2"], one: Surface, two: Surface
) -> Float[torch.Tensor, "q p"]:
    """Return how badly every pair of samples keeps the distances to what the user gives."""
    some = links[np.linspace(0, len(links) - 1, min(LINKS, len(links))).astype(int)]
    broken = np.zeros((len(two.samples), len(one.samples)), np.float32)
    for at_1, at_2 in some:
        rows = [shape.distances_from(np.array([at])) for shape, at in ((two, at_2), (one, at_1))]
        ends = (rows[0], two.at_least(rows[0], np.array([at_2])), rows[1])
        d2, l2, d1 = (torch.from_numpy(r[0].astype(np.float32)) for r in ends)
        l1 = torch.from_numpy(one.at_least(rows[1], np.array([at_1]))[0].astype(np.float32))
        i, j = two.samples, one.samples
        broken += violation(d2[i, None], l2[i, None], d1[j], l1[j]).numpy()
    return torch.from_numpy(GIVEN * broken / len(some))


def _nearest_link(mesh: Mesh, links: Int64[np.ndarray, "n 2"]) -> Int64[np.ndarray, " v"]:
    """Return for every vertex the second end of the link whose first end lies nearest."""
    at = np.asarray(KDTree(mesh.vertices[links[:, 0]]).query(mesh.vertices)[1])
    return links[at, 1]


def _carried(
    found: Correspondence,
    one: Mesh,
    two: Mesh,
    coarse_1: Decimated,
    coarse_2: Decimated,
    progress: ProgressCallback,
) -> Correspondence:
    """Return the correspondence of the meshes that were thinned; pieces keep their masks."""
    if coarse_1.mesh is one and coarse_2.mesh is two:
        return found
    whole = replace(found, overlap_1=None, overlap_2=None)
    return replace(
        upsample(whole, one, two, coarse_1, coarse_2, progress),
        overlap_1=_fine_mask(found.overlap_1, coarse_1),
        overlap_2=_fine_mask(found.overlap_2, coarse_2),
    )


def _fine_mask(mask: Bool[np.ndarray, " m"] | None, coarse: Decimated) -> Bool[np.ndarray, " v"]:
    """Return the mask at all vertices: true where it holds for half of the triangle."""
    assert mask is not None
    corners = mask[coarse.mesh.faces[coarse.face_ids]]
    return (coarse.barycentric * corners).sum(axis=1) >= 0.5


def _obeyed(
    found: Correspondence, links: Int64[np.ndarray, "n 2"], whole_map: bool
) -> Correspondence:
    """Return the correspondence in which landmarks, or a map that is kept, hold exactly."""
    assert found.overlap_1 is not None and found.overlap_2 is not None
    p2p_21, p2p_12 = found.p2p_21.copy(), found.p2p_12.copy()
    overlap_1, overlap_2 = found.overlap_1.copy(), found.overlap_2.copy()
    if whole_map:
        p2p_21 = _nearest_link(found.target, links[:, ::-1])
    else:
        p2p_12[links[:, 0]] = links[:, 1]
        overlap_1[links[:, 0]] = overlap_2[links[:, 1]] = True
    p2p_21[links[:, 1]] = links[:, 0]
    return replace(found, p2p_21=p2p_21, p2p_12=p2p_12, overlap_1=overlap_1, overlap_2=overlap_2)


def _swapped(found: Correspondence) -> Correspondence:
    return replace(
        found,
        source=found.target,
        target=found.source,
        p2p_21=found.p2p_12,
        p2p_12=found.p2p_21,
        confidence=np.ones(found.source.n_vertices),
        overlap_1=found.overlap_2,
        overlap_2=found.overlap_1,
    )


def _finished(found: Correspondence) -> Correspondence:
    """Return the correspondence with its confidence and what the user should know."""
    assert found.overlap_1 is not None and found.overlap_2 is not None
    confidence = cycle_confidence(
        found.target, found.p2p_21, found.p2p_12, total_area(found.target)
    )
    shares = [
        round(100 * float(np.average(mask, weights=vertex_areas(mesh))))
        for mesh, mask in ((found.source, found.overlap_1), (found.target, found.overlap_2))
    ]
    notes = (NOTE.format(*shares),)
    if found.ambiguous:
        notes += (RIVAL,)
    return replace(
        found, confidence=np.where(found.overlap_2, confidence, 0.0), notes=found.notes + notes
    )
