"""What each part of a method is worth: several methods on the same pairs, one table.

The rows follow the ablation of the paper (Pierson et al. 2025), then the multi-start
methods: what the search for a start is worth, and what optimisation and prior add to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geo3d.files import atomic_write_text
from geo3d.progress import ProgressCallback, ignore_progress
from shape_matching.evaluate.config import EvaluationConfig
from shape_matching.evaluate.datasets import Dataset
from shape_matching.evaluate.evaluate import evaluate
from shape_matching.evaluate.protocols import Pair

ROWS: Mapping[str, str] = {
    "mask-laplacian": "Laplacian mask, random features",
    "mask-only": "mask of the prior, random features",
    "zero-shot-no-prior": "Laplacian mask + proper-map loss",
    "zero-shot-proper": "mask of the prior + proper-map loss",
    "zero-shot-released": "... + SDS as released",
    "zero-shot": "... + SDS corrected",
    "axiomatic": "many starts, nothing learned",
    "optimised-no-prior": "many starts + features optimised, no prior",
    "optimised": "many starts + features optimised, SDS corrected",
    "diffumatch": "many starts + learned corrector",
}
"""Method and what it is, in the order of the table."""
COLUMNS = ("error", "median_error", "max_error", "scored", "failed")


def run_ablation(
    dataset: Dataset,
    pairs: Sequence[Pair],
    config: EvaluationConfig,
    folder: Path,
    *,
    protocol: str = "custom",
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Evaluate every method of `ROWS` on ``pairs``; write and return the rows of the table.

    Each method has a folder of its own below ``folder`` and goes on where it was interrupted.

    Raises:
        Cancelled: from ``progress``.
    """
    rows = []
    for method, what in ROWS.items():
        single = replace(config, method=method, ablation=False)
        summary = evaluate(
            dataset, pairs, single, folder / method, protocol=protocol, progress=progress
        )
        timings = json.loads((folder / method / "timings.json").read_text(encoding="utf-8"))
        seconds = timings.get("match_cpu_seconds_per_pair")
        rows.append(
            {
                "method": method,
                "what": what,
                **{name: summary[name] for name in COLUMNS},
                "families": summary["families"],
                "cpu_seconds_per_pair": seconds,
            }
        )
        atomic_write_text(folder / "ablation.json", json.dumps(rows, indent=2) + "\n")
    return rows


def format_ablation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as text for a terminal."""
    lines = [
        f"{'method':<20}{'error':>7}{'median':>8}{'worst':>7}{'failed':>8}{'CPU s':>8}  what",
        "-" * 100,
    ]
    for row in rows:
        numbers = (row["error"], row["median_error"], row["max_error"])
        errors = "".join(f"{_number(x):>{w}}" for x, w in zip(numbers, (7, 8, 7), strict=True))
        seconds = _number(row["cpu_seconds_per_pair"])
        lines.append(f"{row['method']:<20}{errors}{row['failed']:>8}{seconds:>8}  {row['what']}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
