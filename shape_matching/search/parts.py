"""Shapes of several parts, matched part by part, and carried back to the vertices of their files.

The parts that correspond (the largest, unless landmarks or spectra say otherwise) are matched as
whole shapes.  Parts near to them (eyes, clothes, wheels) follow: each vertex moves with the map of
the surface around it, and lands on the part that it then lies on.  Large parts that stand apart are
matched on their own.  What is left takes the map of its nearest neighbour, with confidence 0.

Notation: 1 is the source, 2 the target; q points of a part, n anchors, vertices whose images are
known already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import normalized, total_area
from geo3d.mesh.sampling import farthest_point_samples
from geo3d.spectral.basis import eigenbasis
from shape_matching.correspondence import Correspondence, cycle_confidence
from shape_matching.search.sound import FEWEST_VERTICES, Part, Sound

MatchWhole = Callable[..., Correspondence]

RIVAL = 1 / 3
"""Share of the largest part from which a part may be the one that corresponds."""
K_SPECTRUM, AS_GOOD = 20, 0.02
"""Eigenvalues by which parts are told apart; how much further (mean logarithm) the spectra of the
largest parts may lie apart than the best ones."""
N_ANCHORS, N_AROUND = 600, 30
NEAR = 0.1
"""Median distance of a part to the matched one, over its extent, up to which it follows."""
FITS = 0.5
"""Mean distance of a part that followed to the one it lands on, over the extent of that."""


@dataclass(frozen=True, eq=False)
class Known:
    """What the user knows, in vertices of the files."""

    landmarks: Int64[np.ndarray, "p 2"] | None
    initial_p2p_21: Int64[np.ndarray, " v2"] | None


@dataclass(frozen=True, eq=False)
class Pair:
    """Two parts that correspond and the maps between them, in vertices of the parts."""

    one: Part
    two: Part
    p2p_21: Int64[np.ndarray, " m2"]
    p2p_12: Int64[np.ndarray, " m1"]
    confidence: Float[np.ndarray, " m2"]


def match_parts(one: Sound, two: Sound, known: Known, match_whole: MatchWhole) -> Correspondence:
    """Match the sound parts and return the correspondence of the files.

    Args:
        match_whole: takes two meshes, ``landmarks`` and ``initial_p2p_21``.

    Raises:
        InputError: ``landmarks.bad`` with fewer than 3 landmarks on parts that correspond; and what
            ``match_whole`` raises.
    """
    i, j = _corresponding(one, two, known)
    main_1, main_2 = one.parts[i], two.parts[j]
    found = match_whole(main_1.mesh, main_2.mesh, **_restricted(known, one.whole, main_1, main_2))
    pairs = [_pair(main_1, main_2, found)]
    rest_1 = [part for part in one.parts if part is not main_1]
    rest_2 = [part for part in two.parts if part is not main_2]
    if rest_1 and rest_2:
        mirrored = found.scores.get("orientation", 0.0) < 0
        near_1, far_1 = _near_and_far(rest_1, main_1)
        near_2, far_2 = _near_and_far(rest_2, main_2)
        pairs += _followers(pairs[0], near_1, near_2, mirrored)
        for part_1, part_2 in _apart(far_1, far_2, main_1, main_2):
            pairs.append(_pair(part_1, part_2, match_whole(part_1.mesh, part_2.mesh)))
    return _carried_back(found, one, two, pairs)


def _pair(one: Part, two: Part, found: Correspondence) -> Pair:
    return Pair(one, two, found.p2p_21, found.p2p_12, found.confidence)


def _corresponding(one: Sound, two: Sound, known: Known) -> tuple[int, int]:
    """Return the numbers of the parts of 1 and of 2 that are matched first."""
    rivals_1, rivals_2 = _rivals(one), _rivals(two)
    if len(rivals_1) == len(rivals_2) == 1:
        return 0, 0
    links = _links(known, one, two)
    if links is not None:
        votes = [
            [int(((p.from_file[links[:, 0]] >= 0) & (q.from_file[links[:, 1]] >= 0)).sum())
             for q in rivals_2]
            for p in rivals_1
        ]  # fmt: skip
        i, j = np.unravel_index(np.argmax(votes), (len(rivals_1), len(rivals_2)))
        return int(i), int(j)
    far = _spectral_distances(rivals_1, rivals_2)
    if far[0, 0] <= far.min() + AS_GOOD:
        return 0, 0
    i, j = np.unravel_index(np.argmin(far), far.shape)
    return int(i), int(j)


def _rivals(shape: Sound) -> list[Part]:
    sizes = [_size(part.mesh) for part in shape.parts]
    return [p for p, size in zip(shape.parts, sizes, strict=True) if size >= RIVAL * sizes[0]]


def _size(mesh: Mesh) -> float:
    return float(mesh.n_vertices) if mesh.is_point_cloud else total_area(mesh)


def _links(known: Known, one: Sound, two: Sound) -> np.ndarray | None:
    """Return rows (vertex of 1, vertex of 2) that the user says correspond."""
    if known.landmarks is not None:
        return known.landmarks
    if known.initial_p2p_21 is not None:
        return np.stack([known.initial_p2p_21, np.arange(two.whole.n_vertices)], axis=1)
    return None


def _spectral_distances(ones: Sequence[Part], twos: Sequence[Part]) -> Float[np.ndarray, "n1 n2"]:
    """Return how far the spectra of parts lie apart; parts too small to match are far from all."""
    first, second = ([_spectrum(part.mesh) for part in parts] for parts in (ones, twos))
    return np.array(
        [
            [np.inf if s is None or t is None else np.abs(s - t).mean() for t in second]
            for s in first
        ]
    )


def _spectrum(mesh: Mesh) -> np.ndarray | None:
    if mesh.n_vertices < FEWEST_VERTICES:
        return None
    basis = eigenbasis(normalized(mesh), K_SPECTRUM)
    return np.log((basis.evals[1:] * basis.mass.sum()).numpy().clip(min=1e-6))


def _restricted(known: Known, whole_1: Mesh, one: Part, two: Part) -> dict[str, np.ndarray]:
    """Return what is known about these two parts, as arguments of the matcher.

    Landmarks on other parts are left out; images on other parts move to the nearest vertex.
    """
    if known.landmarks is not None:
        first, second = one.from_file[known.landmarks[:, 0]], two.from_file[known.landmarks[:, 1]]
        inside = (first >= 0) & (second >= 0)
        if inside.sum() < 3:
            raise InputError(
                "landmarks.bad",
                f"{int(inside.sum())} of {len(inside)} landmarks lie on the parts of "
                f"{one.mesh.name} and {two.mesh.name} that are matched.",
                "At least 3 must lie on the largest parts; `geo3d check FILE` lists the pieces.",
            )
        return {"landmarks": np.stack([first[inside], second[inside]], axis=1)}
    if known.initial_p2p_21 is not None:
        wanted = known.initial_p2p_21[two.to_file]
        elsewhere = one.from_file[wanted] < 0
        images = one.from_file[wanted]
        places = whole_1.vertices[wanted[elsewhere]]
        images[elsewhere] = KDTree(one.mesh.vertices).query(places)[1]
        return {"initial_p2p_21": images}
    return {}


def _near_and_far(parts: Sequence[Part], main: Part) -> tuple[list[Part], list[Part]]:
    """Separate the parts that lie at the matched one from those that stand apart."""
    tree, reach = KDTree(main.mesh.vertices), NEAR * _extent(main.mesh.vertices)
    near = [float(np.median(tree.query(part.mesh.vertices)[0])) <= reach for part in parts]
    return (
        [part for part, close in zip(parts, near, strict=True) if close],
        [part for part, close in zip(parts, near, strict=True) if not close],
    )


def _extent(points: np.ndarray) -> float:
    return max(float(np.linalg.norm(np.ptp(points, axis=0))), float(np.finfo(np.float64).tiny))


def _apart(
    ones: Sequence[Part], twos: Sequence[Part], main_1: Part, main_2: Part
) -> list[tuple[Part, Part]]:
    """Return pairs of large parts with like spectra, the most alike first."""
    ones = [part for part in ones if _size(part.mesh) >= RIVAL * _size(main_1.mesh)]
    twos = [part for part in twos if _size(part.mesh) >= RIVAL * _size(main_2.mesh)]
    if not ones or not twos:
        return []
    far = np.minimum(_spectral_distances(ones, twos), 1e6)
    rows, columns = linear_sum_assignment(far)
    return [(ones[i], twos[j]) for i, j in zip(rows, columns, strict=True) if far[i, j] < 1e6]


def _followers(
    main: Pair, ones: Sequence[Part], twos: Sequence[Part], mirrored: bool
) -> list[Pair]:
    """Return the parts of both that lie at corresponding places, and their maps."""
    if not ones or not twos:
        return []
    anchors = farthest_point_samples(main.two.mesh, min(N_ANCHORS, main.two.mesh.n_vertices))
    start = main.two.mesh.vertices[anchors].astype(np.float64)
    end = main.one.mesh.vertices[main.p2p_21[anchors]].astype(np.float64)
    moved = [follow(part.mesh.vertices.astype(np.float64), start, end, mirrored) for part in twos]
    there = [part.mesh.vertices.astype(np.float64) for part in ones]
    cost = np.array([[_misfit(p, q) for q in there] for p in moved])
    rows, columns = linear_sum_assignment(cost)
    tree = KDTree(start)
    pairs = []
    for j, i in zip(rows, columns, strict=True):
        if cost[j, i] >= FITS:
            continue
        p2p_21, p2p_12 = _laid_on(moved[j], there[i])
        around = tree.query(twos[j].mesh.vertices)[1]
        trust = main.confidence[anchors][around]
        area = _size(main.two.mesh)
        if main.two.mesh.is_point_cloud:
            area = _extent(start) ** 2
        confidence = trust * cycle_confidence(twos[j].mesh, p2p_21, p2p_12, area)
        pairs.append(Pair(ones[i], twos[j], p2p_21, p2p_12, confidence))
    return pairs


def follow(
    points: Float[np.ndarray, "q 3"],
    start: Float[np.ndarray, "n 3"],
    end: Float[np.ndarray, "n 3"],
    mirrored: bool,
) -> Float[np.ndarray, "q 3"]:
    """Move points with the anchors around them, which move from ``start`` to ``end``.

    Each point takes the similarity that fits its nearest anchors best (Umeyama 1991), a rotation or
    with ``mirrored`` a reflection.
    """
    around = KDTree(start).query(points, k=min(N_AROUND, len(start)))[1]
    before, after = start[around], end[around]
    centre_1, centre_2 = before.mean(axis=1), after.mean(axis=1)
    before, after = before - centre_1[:, None], after - centre_2[:, None]
    left, stretch, right = np.linalg.svd(np.einsum("qki,qkj->qij", after, before))
    sign = np.linalg.det(left) * np.linalg.det(right)
    flip = np.where(sign < 0, -1.0, 1.0) * (-1.0 if mirrored else 1.0)
    left[:, :, 2] *= flip[:, None]
    stretch[:, 2] *= flip
    spread = np.square(before).sum(axis=(1, 2)).clip(min=np.finfo(np.float64).tiny)
    scale = stretch.sum(axis=1) / spread
    turned = np.einsum("qij,qj->qi", left @ right, points - centre_1)
    return centre_2 + scale[:, None] * turned


def _misfit(points: np.ndarray, others: np.ndarray) -> float:
    """Return the mean distance of two sets of points both ways, over the extent of the larger."""
    there, back = KDTree(others).query(points)[0], KDTree(points).query(others)[0]
    size = max(_extent(points), _extent(others))
    return float((np.mean(there) + np.mean(back)) / (2 * size))


def _laid_on(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale points onto others; return the nearest of both."""
    scale = _extent(others) / _extent(points)
    laid = (points - points.mean(axis=0)) * scale + others.mean(axis=0)
    forward, back = KDTree(others).query(laid)[1], KDTree(laid).query(others)[1]
    return np.asarray(forward, np.int64), np.asarray(back, np.int64)


def _carried_back(
    found: Correspondence, one: Sound, two: Sound, pairs: Sequence[Pair]
) -> Correspondence:
    """Return the correspondence of the files."""
    n1, n2 = one.whole.n_vertices, two.whole.n_vertices
    p2p_12, p2p_21, confidence = np.full(n1, -1), np.full(n2, -1), np.zeros(n2)
    # a vertex of several parts belongs to the part that was matched first
    for pair in reversed(pairs):
        inside = np.flatnonzero(pair.two.from_file >= 0)
        place = pair.two.from_file[inside]
        p2p_21[inside] = pair.one.to_file[pair.p2p_21[place]]
        confidence[inside] = pair.confidence[place]
        inside = np.flatnonzero(pair.one.from_file >= 0)
        p2p_12[inside] = pair.two.to_file[pair.p2p_12[pair.one.from_file[inside]]]
    neighbour, matched = _neighbours(two.whole, p2p_21 >= 0)
    other = None
    if found.alternative_21 is not None:
        # the other parts stay where they are
        other, main = p2p_21.copy(), pairs[0]
        inside = np.flatnonzero(main.two.from_file >= 0)
        other[inside] = main.one.to_file[found.alternative_21[main.two.from_file[inside]]]
        other = other[neighbour]
    confidence = np.where(matched, confidence[neighbour], 0.0)
    p2p_21, p2p_12 = p2p_21[neighbour], p2p_12[_neighbours(one.whole, p2p_12 >= 0)[0]]
    notes = (*one.notes, *two.notes, *_summary(len(pairs) - 1, int((~matched).sum())), *found.notes)
    return replace(
        found,
        source=one.whole,
        target=two.whole,
        p2p_21=p2p_21,
        p2p_12=p2p_12,
        confidence=confidence,
        notes=notes,
        overlap_1=_overlap(found.overlap_1, pairs[0].one, n1),
        overlap_2=_overlap(found.overlap_2, pairs[0].two, n2),
        alternative_21=other,
    )


def _overlap(mask: np.ndarray | None, part: Part, n: int) -> Bool[np.ndarray, " v"] | None:
    """Return the mask of the part that was matched first in vertices of the file; others follow."""
    if mask is None:
        return None
    inside = part.from_file >= 0
    whole = np.ones(n, bool)
    whole[inside] = mask[part.from_file[inside]]
    return whole


def _neighbours(mesh: Mesh, matched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest matched vertex of each vertex, and whether it lies at the same place."""
    ids, here = np.flatnonzero(matched), np.arange(mesh.n_vertices)
    left = np.flatnonzero(~matched)
    gap, nearest = KDTree(mesh.vertices[ids]).query(mesh.vertices[left])
    here[left] = ids[nearest]
    coincides = matched.copy()
    coincides[left] = gap == 0
    return here, coincides


def _summary(more: int, left: int) -> tuple[str, ...]:
    notes = []
    if more:
        parts = "1 further part was matched with its counterpart." if more == 1 else (
            f"{more} further parts were matched, each with its counterpart."
        )  # fmt: skip
        notes.append(parts)
    if left:
        vertices = "1 target vertex without counterpart takes" if left == 1 else (
            f"{left:,} target vertices without counterpart take"
        )  # fmt: skip
        notes.append(f"{vertices} the map of the nearest neighbour, with confidence 0.")
    return tuple(notes)
