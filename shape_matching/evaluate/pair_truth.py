"""Ground truth of one pair: which vertex of the target corresponds to which vertex of the source.

Notation: entry i is a body point seen on both shapes; the map that is scored, T, goes from target
vertices to source vertices and is right at i when T[target_i] = source_i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from geo3d.errors import InputError
from shape_matching.evaluate.datasets import Dataset, ShapeRecord
from shape_matching.evaluate.ground_truth import check_indices, read_one_based


@dataclass(frozen=True, eq=False)
class PairTruth:
    """Corresponding vertices (i,) of a pair, 0-based; repeated entries weigh as often as listed."""

    source: Int[np.ndarray, " i"]
    target: Int[np.ndarray, " i"]
    target_sym: Int[np.ndarray, " i"] | None = None
    """Target vertices of the mirrored body points: the left/right flipped map sends them to
    ``source``."""


def pair_truth(dataset: Dataset, source: ShapeRecord, target: ShapeRecord) -> PairTruth:
    """Return the ground truth between two shapes of a dataset.

    Raises:
        InputError: ``dataset.no_ground_truth``, ``dataset.unrelated_ground_truth``,
            ``dataset.unequal_ground_truth``, or a code of `shape_matching.evaluate.ground_truth`.
    """
    key = (source.name, target.name)
    if key in dataset.pair_maps:
        return _from_map(dataset, source, target)
    if source.family == target.family or dataset.shared_ground_truth:
        return _from_lists(source, target)
    return _from_bridge(dataset, source, target)


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


def _from_bridge(dataset: Dataset, source: ShapeRecord, target: ShapeRecord) -> PairTruth:
    """Compose the lists with the map between the body points of the two categories."""
    corr_1, corr_2 = _lists(source, target)
    a, b = source.family, target.family
    for flipped, families in ((False, (a, b)), (True, (b, a))):
        path = dataset.bridges.get(families)
        if path is None:
            continue
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
    raise InputError(
        "dataset.unrelated_ground_truth",
        f"{source.name} and {target.name} are of different families ({a}, {b}) "
        "whose ground truth is not related.",
        "If all shapes of this folder list the same body points, say so with "
        "--shared-ground-truth.",
    )


def _lists(source: ShapeRecord, target: ShapeRecord) -> tuple[np.ndarray, np.ndarray]:
    corr_1, corr_2 = source.corr, target.corr
    if corr_1 is None or corr_2 is None:
        lacking = source.name if corr_1 is None else target.name
        raise InputError(
            "dataset.no_ground_truth",
            f"There is no ground truth between {source.name} and {target.name}: {lacking} has no "
            ".vts file and the pair has no .map file.",
            "Put corres/<shape>.vts (1-based) beside off/.",
        )
    return corr_1, corr_2
