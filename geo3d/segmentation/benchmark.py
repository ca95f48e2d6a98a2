"""The benchmark: losses x frameworks x labels x training sizes x seeds, trained and measured.

`geo3d.segmentation.grids` says what is to be done, `geo3d.segmentation.cells` does it, and here its
results become tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geo3d.files import asset, atomic_write_json, atomic_write_text
from geo3d.segmentation import data as data_sets
from geo3d.segmentation.cells import failures_of, run_cell, run_cells
from geo3d.segmentation.grids import (
    PRESETS,
    BenchmarkConfig,
    Cell,
    data_key,
    grid,
    is_finished,
    open_all,
    open_dataset,
)
from geo3d.segmentation.report import write_tables
from geo3d.segmentation.samples import Dataset
from geo3d.segmentation.significance import Procedure, compare_with_baseline
from geo3d.segmentation.tables import (
    GROUPS_FILE,
    Entry,
    aggregate,
    groups_for,
    read_published,
    read_results,
)
from geo3d.work.tables import csv_text

__all__ = [
    "PRESETS",
    "BenchmarkConfig",
    "Cell",
    "failures_of",
    "grid",
    "is_finished",
    "open_all",
    "open_dataset",
    "run_cell",
    "run_cells",
]

PUBLISHED = "segmentation/published.csv"
"""The published numbers, among the assets."""


def write_groups(
    config: BenchmarkConfig,
    cells: Sequence[Cell],
    folder: Path,
    datasets: Mapping[str, Dataset] | None = None,
) -> None:
    """Write the group of each test image beside the results."""
    for cell in {cell.below: cell for cell in reversed(cells)}.values():
        if datasets is None:
            dataset = open_dataset(config, cell.setting, cell.drawn)
        else:
            dataset = datasets[data_key(cell)]
        rows = [[item.id, item.group] for item in dataset.test]
        text = csv_text(["ID", "group"], rows)
        atomic_write_text(folder / cell.below / "results" / GROUPS_FILE, text)


def seconds_of(cells: Sequence[Cell], folder: Path) -> dict[str, float]:
    """Return the mean CPU seconds that a training with each loss took, where it is known."""
    spent: dict[str, list[float]] = {}
    for cell in cells:
        path = folder / cell.below / "cells" / cell.path / "seconds.json"
        if path.is_file():
            taken = json.loads(path.read_text(encoding="utf-8"))["train_cpu_s"]
            spent.setdefault(cell.setting.loss.replace(":", "."), []).append(taken)
    return {loss: sum(taken) / len(taken) for loss, taken in spent.items()}


def tabulate_kinds(
    cells: Sequence[Cell],
    folder: Path,
    *,
    published: Sequence[Entry] = (),
    failures: Sequence[Mapping[str, Any]] = (),
    procedure: Procedure | None = None,
) -> dict[str, Any]:
    """Write the tables of every kind of data a benchmark has, and one file of all of them.

    Raises:
        InputError, FileFormatError: see `geo3d.segmentation.tables`.
    """
    kinds: dict[str, list[Cell]] = {}
    for cell in cells:
        kinds.setdefault(cell.below, []).append(cell)
    done = {k: c for k, c in kinds.items() if any(is_finished(cell, folder) for cell in c)}
    found = {}
    for kind, own in done.items():
        names = {cell.name for cell in own}
        found[kind] = tabulate(
            folder / kind / "results",
            folder / kind,
            published=published,
            failures=[failure for failure in failures if failure.get("cell") in names],
            procedure=procedure,
            seconds=seconds_of(own, folder),
        )
    if list(found) == [""]:
        return found[""]
    texts = []
    for kind in found:
        own_text = (folder / kind / "tables.md").read_text(encoding="utf-8")
        texts.append(f"# {kind.capitalize()}\n\n" + own_text.replace("# ", "## "))
    atomic_write_text(folder / "tables.md", "\n".join(texts))
    whole: dict[str, Any] = {
        part: [{"data": kind, **row} for kind, tables in found.items() for row in tables[part]]
        for part in ("measured", "significance", "published")
    }
    whole["failures"] = [dict(failure) for failure in failures]
    whole["train_cpu_s"] = {kind: tables.get("train_cpu_s", {}) for kind, tables in found.items()}
    atomic_write_json(folder / "tables.json", whole)
    return whole


def tabulate(
    results: Path,
    out: Path,
    *,
    published: Sequence[Entry] = (),
    groups: Mapping[str, str] | None = None,
    failures: Sequence[Mapping[str, Any]] = (),
    procedure: Procedure | None = None,
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write tables of all results below a folder into ``out``; return them as plain mappings.

    Raises:
        InputError, FileFormatError: see `geo3d.segmentation.tables`.
    """
    runs = read_results(results)
    known = groups_for(results) if groups is None else groups
    entries = aggregate(runs, known)
    comparisons = compare_with_baseline(runs, known, procedure)
    return write_tables(out, entries, comparisons, published, failures, seconds)


def published_beside(config: BenchmarkConfig) -> list[Entry]:
    """Return the published numbers to print beside a benchmark: only beside TopoMortar's images."""
    if not config.data or not data_sets.is_topomortar_layout(Path(config.data)):
        return []
    dataset = data_sets.read_topomortar(config.data, config.labels[0], config.sizes[0])
    return read_published(asset(PUBLISHED)) if data_sets.shows_topomortar(dataset) else []
