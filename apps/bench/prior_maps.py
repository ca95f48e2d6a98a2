"""How near generated maps come to maps of real shapes: mean |C| beside mean |C|.

Notation: |C| entrywise absolute value of a functional map; correlations are Pearson's, over all
entries of the mean and over the off-diagonal ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.spatial import KDTree

from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import normalized
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.fmap import p2p_to_fmap
from shape_matching.evaluate.datasets import Dataset, ShapeRecord, open_dataset
from shape_matching.evaluate.truth import pair_truth
from shape_matching.prior.map_shards import load_maps, load_provenance

SIZE = 30
"""Rows and columns of the maps that are compared."""
PER_FAMILY = 10
"""Shapes of a family that are taken."""
BAND = 2
"""Distance from the diagonal within which energy is counted."""


def real_maps(
    folder: str | Path,
    size: int,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Float32[np.ndarray, "n s s"]]:
    """Return |C| of all ordered pairs inside each family of a dataset with ground truth.

    The families of FAUST, where all shapes are one family, are its subjects, and pairs between
    subjects are a family of their own.

    Raises:
        InputError: see `shape_matching.evaluate.datasets.open_dataset` and `pair_truth`.
    """
    dataset = open_dataset(folder)
    families = _families(dataset)
    names = [name for group in families.values() for name in group[:PER_FAMILY]]
    shapes = {}
    for i, name in enumerate(names):
        report(progress, "eigenbases", i, len(names))
        record = dataset.file(name).load()
        mesh = normalized(record.mesh)
        shapes[name] = (record, mesh, eigenbasis(mesh, size))
    pairs = {
        family: list(permutations(group[:PER_FAMILY], 2)) for family, group in families.items()
    }
    pairs |= _between_subjects(families, PER_FAMILY)
    return {
        label: np.stack([_map(dataset, shapes[a], shapes[b]) for a, b in group])
        for label, group in pairs.items()
        if group
    }


def compare(
    generated: Float32[np.ndarray, "n s s"], real: Mapping[str, Float32[np.ndarray, "_ s s"]]
) -> list[dict[str, Any]]:
    """Return a row per set of maps: its statistics and its correlation with the generated mean."""
    mean = generated.mean(axis=0)
    rows = [{"maps": "generated", **statistics(generated)}]
    for label, maps in real.items():
        other = maps.mean(axis=0)
        off = ~np.eye(len(mean), dtype=bool)
        rows.append(
            {
                "maps": label,
                **statistics(maps),
                "correlation": _correlation(mean, other),
                "off_diagonal": _correlation(mean[off], other[off]),
            }
        )
    return rows


def statistics(maps: Float32[np.ndarray, "n s s"]) -> dict[str, float | int]:
    """Return count, mean diagonal by thirds, energy near the diagonal and root mean square."""
    size = maps.shape[1]
    diagonal = np.diagonal(maps, axis1=1, axis2=2).mean(axis=0)
    thirds = np.array_split(diagonal, 3)
    energy = (maps.astype(np.float64) ** 2).mean(axis=0)
    near = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) <= BAND
    return {
        "n": len(maps),
        **{f"diagonal_{i + 1}": float(third.mean()) for i, third in enumerate(thirds)},
        "near_diagonal": float(energy[near].sum() / energy.sum()),
        "rms": float(np.sqrt(energy.mean())),
    }


def compare_folder(
    folder: str | Path,
    datasets: list[str],
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Return `compare` for a folder of maps, whole and by kind of pair, against datasets.

    Raises:
        InputError: see `load_maps`, `real_maps`.
    """
    maps, columns = load_maps(folder, SIZE), load_provenance(folder)
    real = {}
    for dataset in datasets:
        real |= real_maps(dataset, SIZE, progress=progress)
    rows = compare(maps, real)
    return [
        *rows,
        *({"maps": f"generated: {n}", **statistics(maps[s])} for n, s in _parts(columns)),
    ]


def _parts(columns: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    if "amount_source" not in columns:
        return []
    kin = np.hypot(columns["amount_source"], columns["amount_target"]) > 0
    own = ~(columns["remeshed_source"] | columns["remeshed_target"])
    parts = {
        "poses, one mesh": ~kin & own,
        "poses, own meshes": ~kin & ~own,
        "relatives, one mesh": kin & own,
        "relatives, own meshes": kin & ~own,
    }
    return [(name, rows) for name, rows in parts.items() if rows.any()]


def _families(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for family, names in dataset.families.items():
        if not all(name[-3:].isdecimal() for name in names):
            groups[family] = names
            continue
        # FAUST numbers ten poses per subject: the tens tell who it is
        for name in names:
            label = f"{family} {name[-3:-1]}x"
            groups[label] = (*groups.get(label, ()), name)
    return groups


def _between_subjects(
    families: Mapping[str, tuple[str, ...]], per_family: int
) -> dict[str, list[tuple[str, str]]]:
    subjects = {label: names[:per_family] for label, names in families.items() if label[-1] == "x"}
    pairs = [
        (a, b)
        for one, two in combinations(subjects, 2)
        for a in subjects[one]
        for b in subjects[two]
    ]
    return {"between subjects": pairs} if pairs else {}


def _map(
    dataset: Dataset,
    source: tuple[ShapeRecord, Mesh, Basis],
    target: tuple[ShapeRecord, Mesh, Basis],
) -> Float[np.ndarray, "s s"]:
    """Return |C|; a target vertex without ground truth takes that of the nearest one with it."""
    truth = pair_truth(dataset, source[0], target[0])
    points = target[1].vertices
    near = KDTree(points[truth.target]).query(points)[1]
    p2p_21 = torch.from_numpy(np.asarray(truth.source, np.int64)[near])
    return np.abs(p2p_to_fmap(p2p_21, source[2], target[2]).numpy()).astype(np.float32)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
