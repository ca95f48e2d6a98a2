"""Ground truth of one pair: which vertex of the target corresponds to which vertex of the source.

Notation: entry i is a body point seen on both shapes; the map that is scored, T, goes from target
vertices to source vertices and is right at i when T[target_i] = source_i.

Truth comes from lists of body points (``.vts``, npz), files of the pair (``.map``, ``.baryc_gt``),
maps between families, or, in folders without any such file, from meshes with the same faces.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from geo3d.errors import Geo3dError, InputError
from shape_matching.evaluate.datasets import BARYCENTRIC, Dataset, ShapeFile, ShapeRecord
from shape_matching.evaluate.ground_truth import check_indices, read_barycentric, read_one_based

Relation = Literal["map", "barycentric", "topology", "lists", "bridge"]


@dataclass(frozen=True, eq=False)
class PairTruth:
    """Corresponding vertices (i,) of a pair, 0-based; repeated entries weigh as often as listed."""

    source: Int[np.ndarray, " i"]
    target: Int[np.ndarray, " i"]
    target_sym: Int[np.ndarray, " i"] | None = None
    """Target vertices of the mirrored body points: the left/right flipped map sends them to
    ``source``."""


def require_truth(dataset: Dataset, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse a list none of whose pairs can be scored, before anything is matched.

    Shapes are read only where the folder has no files of ground truth, up to the first pair with
    equal faces.

    Raises:
        InputError: ``dataset.no_ground_truth``, ``dataset.unrelated_ground_truth``, or why the
            shapes of the first pair cannot be read.
    """
    problems: list[Geo3dError] = []
    faces_of = functools.cache(lambda name: _digest(dataset.file(name).load()))
    for source, target in pairs:
        try:
            kind = relation(dataset, dataset.file(source), dataset.file(target))
            if kind == "topology" and faces_of(source) != faces_of(target):
                raise _unlike_faces(source, target)
        except Geo3dError as error:
            problems.append(error)
        else:
            return
    if problems:
        first = problems[0]
        count = f"None of the {len(pairs):,} pairs can be scored. " if len(pairs) > 1 else ""
        raise InputError(first.code, f"{count}{first.message}", first.hint)


def _digest(shape: ShapeRecord) -> str:
    """Return what two shapes have in common if their faces are equal; clouds have nothing."""
    content = (
        shape.name.encode()
        if shape.mesh.is_point_cloud
        else shape.mesh.faces.astype("<i8").tobytes()
    )
    return hashlib.sha256(content).hexdigest()


def relation(dataset: Dataset, source: ShapeFile, target: ShapeFile) -> Relation:
    """Return what relates two shapes, from names and files that are there; nothing is read.

    Raises:
        InputError: ``dataset.no_ground_truth``, ``dataset.unrelated_ground_truth``.
    """
    path = dataset.pair_maps.get((source.name, target.name))
    if path is not None:
        return "barycentric" if path.suffix == BARYCENTRIC else "map"
    if not dataset.has_truth_files:
        return "topology"
    a, b = source.family, target.family
    related = a == b or dataset.shared_ground_truth
    if not related and not {(a, b), (b, a)} & dataset.bridges.keys():
        raise InputError(
            "dataset.unrelated_ground_truth",
            f"{source.name} and {target.name} are of different families ({a}, {b}) "
            "whose ground truth is not related.",
            "If all shapes of this folder list the same body points, say so with "
            "--shared-ground-truth.",
        )
    for file in (source, target):
        if not file.has_list:
            raise InputError(
                "dataset.no_ground_truth",
                f"There is no ground truth between {source.name} and {target.name}: {file.name} "
                "has no .vts file and the pair has no .map or .baryc_gt file.",
                "Put <shape>.vts (1-based) into corres/ beside off/, or next to the meshes of a "
                "flat folder.",
            )
    return "lists" if related else "bridge"


def pair_truth(dataset: Dataset, source: ShapeRecord, target: ShapeRecord) -> PairTruth:
    """Return the ground truth between two shapes of a dataset.

    Raises:
        InputError: ``dataset.no_ground_truth``, ``dataset.unrelated_ground_truth``,
            ``dataset.unequal_ground_truth``, or a code of `shape_matching.evaluate.ground_truth`.
    """
    kind = relation(dataset, dataset.file(source.name), dataset.file(target.name))
    if kind == "map":
        return _from_map(dataset, source, target)
    if kind == "barycentric":
        return _from_barycentric(dataset, source, target)
    if kind == "topology":
        return _from_topology(source, target)
    if kind == "bridge":
        return _from_bridge(dataset, source, target)
    return _from_lists(source, target)


def _from_lists(source: ShapeRecord, target: ShapeRecord) -> PairTruth:
    corr_1, corr_2 = _lists(source, target)
    if len(corr_1) != len(corr_2):
        raise InputError(
            "dataset.unequal_ground_truth",
            f"{source.name} lists {len(corr_1)} body points, {target.name} {len(corr_2)}.",
            "They belong to different templates and cannot be compared.",
        )
    return PairTruth(corr_1, corr_2, target.corr_sym)


def _from_map(dataset: Dataset, source: ShapeRecord, target: ShapeRecord) -> PairTruth:
    path = dataset.pair_maps[source.name, target.name]
    images = read_one_based(path)
    check_indices(images, source.mesh.n_vertices, path.name)
    if len(images) != target.mesh.n_vertices:
        raise InputError(
            "dataset.unequal_ground_truth",
            f"{path.name} has {len(images)} lines, {target.name} {target.mesh.n_vertices} "
            "vertices.",
            "A file a_b.map holds one line per vertex of a.",
        )
    return PairTruth(images, np.arange(len(images), dtype=np.int64))


def _from_barycentric(dataset: Dataset, source: ShapeRecord, target: ShapeRecord) -> PairTruth:
    """Return truth from the triangle of the source that shows each target vertex.

    The corner with the largest weight stands for the point.  Triangles beyond the source's are left
    out: some files of SHREC'16 name faces that were removed from the whole shape.
    """
    path = dataset.pair_maps[source.name, target.name]
    triangles, weights = read_barycentric(path)
    if len(triangles) != target.mesh.n_vertices:
        raise InputError(
            "dataset.unequal_ground_truth",
            f"{path.name} has {len(triangles)} lines, {target.name} {target.mesh.n_vertices} "
            "vertices.",
            "A .baryc_gt file holds one line per vertex of the shape it is named after.",
        )
    known = np.flatnonzero(triangles < source.mesh.n_faces)
    corners = source.mesh.faces[triangles[known]]
    heaviest = weights[known].argmax(axis=1)
    return PairTruth(corners[np.arange(len(known)), heaviest], known)


def _from_topology(source: ShapeRecord, target: ShapeRecord) -> PairTruth:
    """Return the identity between meshes with the same faces."""
    if not np.array_equal(source.mesh.faces, target.mesh.faces) or source.mesh.is_point_cloud:
        raise _unlike_faces(source.name, target.name)
    everything = np.arange(source.mesh.n_vertices)
    return PairTruth(everything, everything)


def _unlike_faces(source: str, target: str) -> InputError:
    return InputError(
        "dataset.no_ground_truth",
        f"There is no file of ground truth in the folder, and {source} and {target} do not have "
        "the same faces.",
        "Put <shape>.vts (1-based) into corres/ beside off/, or next to the meshes of a flat "
        "folder.",
    )


def _from_bridge(dataset: Dataset, source: ShapeRecord, target: ShapeRecord) -> PairTruth:
    """Compose the lists with the map between the body points of the two categories."""
    corr_1, corr_2 = _lists(source, target)
    a, b = source.family, target.family
    flipped = (a, b) not in dataset.bridges
    path = dataset.bridges[(b, a) if flipped else (a, b)]
    bridge = read_one_based(path)
    near, far = (corr_2, corr_1) if flipped else (corr_1, corr_2)
    check_indices(bridge, len(far), path.name)
    if len(bridge) != len(near):
        raise InputError(
            "dataset.unequal_ground_truth",
            f"{path.name} has {len(bridge)} lines for {len(near)} body points.",
            "A file a_b.vts holds one line per body point of category a.",
        )
    return PairTruth(far[bridge], near) if flipped else PairTruth(near, far[bridge])


def _lists(source: ShapeRecord, target: ShapeRecord) -> tuple[np.ndarray, np.ndarray]:
    assert source.corr is not None and target.corr is not None
    return source.corr, target.corr
