"""The table of a comparison: a row per way of making objects, over the same objects and seeds.

Notation: d features.  Percentiles go over samples, every object and seed being one; the interval of
the mean F-score goes over objects, since the seeds of one are not independent.

`kernel_distance` compares two sets of n and m samples by their features, whatever made these.
The squared maximum mean discrepancy of the kernel (x.y / d + 1)^3, in its unbiased form: its mean
over draws is 0 where both sets come from one distribution, however small they are, so a value may
be negative.  A Fréchet distance would grow as the sets shrink.

Source: Gretton et al., "A Kernel Two-Sample Test" (2012), lemma 6; Binkowski et al. (2018) for the
kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from geo3d.errors import InputError
from geo3d.mesh.sampling import spread
from geo3d.work.tables import markdown_table

TRUTH, AUTOENCODER, TEACHER, FEW = "truth", "autoencoder", "teacher", "untrained"
_MAIN = (
    *("method", "steps", "passes", "samples", "F-score", "+-", "of teacher %", "+- %"),
    *("behind best", "+- best", "chamfer"),
    *("IoU", "empty %", "fragmented %", "to truth", "to teacher", "diversity"),
)
_TAIL = (
    *("method", "steps", "F p1", "F p5", "F p25", "F median"),
    *("F < 0.5 %", "chamfer median", "chamfer p95", "chamfer p99"),
)


@dataclass(frozen=True, eq=False)
class Sample:
    """One object that was made."""

    maker: str
    title: str
    steps: int
    passes: int
    """Network evaluations of both stages."""
    seed: int
    object: str
    numbers: Mapping[str, float]
    """Of `apps.bench.objects_samples.compared`."""
    points: Float[np.ndarray, "p 3"]
    features: Float[np.ndarray, " d"]


def table(samples: Sequence[Sample], least_piece: float) -> list[dict[str, Any]]:
    """Return a row per maker and number of steps, in the order of the samples.

    Args:
        samples: all makers over the same objects and seeds.
        least_piece: an object whose largest piece holds less of its cells is fragmented.
    """
    groups: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.maker, sample.steps), []).append(sample)
    sets = {name: _features(group) for (name, _), group in groups.items()}
    rows = []
    for group in groups.values():
        row = _row(group, least_piece)
        for name, column in ((TRUTH, "to truth"), (TEACHER, "to teacher")):
            if name in sets and min(len(group), len(sets[name])) > 1:
                row[column] = kernel_distance(_features(group), sets[name])
        rows.append(row)
    means = [_object_means(group) for group in groups.values()]
    teacher = [own for own, (name, _) in zip(means, groups, strict=True) if name == TEACHER]
    for row, own in zip(rows, means, strict=True):
        if teacher and teacher[0].mean():
            ahead, error = _paired(own, teacher[0])
            row["of teacher %"] = 100 * (1 + ahead / teacher[0].mean())
            row["+- %"] = 100 * error / teacher[0].mean()
        steps = row["steps"]
        same = [o for o, beside in zip(means, rows, strict=True) if beside["steps"] == steps]
        row["behind best"], row["+- best"] = _paired(max(same, key=np.mean), own)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table, and that of the failures, as Markdown."""
    return (
        "Means over all samples; `+-` is 1.96 standard errors over objects, of differences on "
        "the same objects where one is beside another; `behind best` of as many steps; "
        "`to truth` and `to teacher` are kernel distances of image features; `passes` are "
        f"network evaluations.\n\n{_table(rows, _MAIN)}\n"
        f"Percentiles over samples:\n\n{_table(rows, _TAIL)}"
    )


def _by_object(group: Sequence[Sample]) -> dict[str, list[Sample]]:
    objects: dict[str, list[Sample]] = {}
    for sample in group:
        objects.setdefault(sample.object, []).append(sample)
    return objects


def _object_means(group: Sequence[Sample]) -> Float[np.ndarray, " k"]:
    """Return the mean F-score of each object, in the order of their names."""
    objects = sorted(_by_object(group).items())
    return np.array([np.mean([s.numbers["f_score"] for s in own]) for _, own in objects])


def _paired(one: Float[np.ndarray, " k"], other: Float[np.ndarray, " k"]) -> tuple[float, float]:
    """Return the mean difference over the same objects, and 1.96 standard errors of it."""
    ahead = one - other
    error = np.std(ahead, ddof=1) / np.sqrt(len(ahead)) if len(ahead) > 1 else np.nan
    return float(ahead.mean()), float(1.96 * error)


def _row(group: Sequence[Sample], least_piece: float) -> dict[str, Any]:
    first = group[0]
    by_name = {name: np.array([s.numbers[name] for s in group]) for name in first.numbers}
    score, chamfer, empty = by_name["f_score"], by_name["chamfer"], by_name["empty"]
    objects = _by_object(group)
    means = _object_means(group)
    error = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
    fragmented = (empty == 0) & (by_name["largest_piece"] < least_piece)
    row: dict[str, Any] = {
        "method": first.title,
        "steps": first.steps,
        "passes": first.passes,
        "samples": len(group),
        "F-score": float(score.mean()),
        "+-": float(1.96 * error),
        "chamfer": float(chamfer.mean()),
        "IoU": float(by_name["iou"].mean()),
        "empty %": float(100 * empty.mean()),
        "fragmented %": float(100 * fragmented.mean()),
        "diversity": float(np.mean([spread([s.points for s in own]) for own in objects.values()])),
        "F < 0.5 %": float(100 * (score < 0.5).mean()),
        "F median": float(np.median(score)),
        "chamfer median": float(np.median(chamfer)),
        "seconds": float(np.median(by_name["seconds"])),
    }
    row |= {f"F p{q}": float(np.percentile(score, q)) for q in (1, 5, 25)}
    return row | {f"chamfer p{q}": float(np.percentile(chamfer, q)) for q in (95, 99)}


def _features(group: Sequence[Sample]) -> Float[np.ndarray, "n d"]:
    return np.stack([sample.features for sample in group])


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    cells = [[_cell(name, row.get(name, "")) for name in columns] for row in rows]
    return markdown_table(columns, cells)


def _cell(column: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if column.endswith("%"):
        return f"{value:.1f}"
    return (
        f"{value:.4f}"
        if "chamfer" in column or column.startswith(("to ", "div"))
        else (f"{value:.3f}")
    )


def kernel_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Return the unbiased squared discrepancy between the distributions of two sets.

    Raises:
        InputError: ``set_distance.too_few`` (fewer than 2 samples in a set).
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise InputError(
            "set_distance.too_few",
            f"Sets of {n} and {m} samples have no distance.",
            "Each needs 2 or more.",
        )
    x, y = x.astype(np.float64), y.astype(np.float64)
    own_x, own_y = _kernel(x, x), _kernel(y, y)
    within_x = (own_x.sum() - np.trace(own_x)) / (n * (n - 1))
    within_y = (own_y.sum() - np.trace(own_y)) / (m * (m - 1))
    return float(within_x + within_y - 2 * _kernel(x, y).mean())


def _kernel(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    return (x @ y.T / x.shape[1] + 1) ** 3
