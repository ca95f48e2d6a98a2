"""The benchmark: losses x frameworks x labels x training sizes x seeds, trained and measured.

    results/<framework>/<labels>/<size>/<loss>/<seed>.csv    one run, see `measures`
    results/groups.csv                                       group of each test image
    cells/<framework>/<labels>/<size>/<loss>/<seed>/         its segmenter, log and masks
    failures/                                                see `geo3d.work.runner`

A run is a cell of the grid.  Its CSV is written last and whole, so a cell with a CSV is finished
and is skipped when the benchmark is started again; the others continue from their checkpoints.
A cell takes minutes to days, so a fresh process for each costs nothing, gives its memory back, and
can die without taking others along.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from geo3d.config import require, require_at_least
from geo3d.errors import ConfigError
from geo3d.files import append_line, asset, atomic_write_json, atomic_write_text
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation import config as training_config
from geo3d.segmentation.config import Framework, SegmentationConfig
from geo3d.segmentation.data import (
    Dataset,
    LabelKind,
    TrainingSize,
    generated_dataset,
    read_topomortar,
)
from geo3d.segmentation.measures import gather, measure_image, write_measures
from geo3d.segmentation.own_code import is_importable
from geo3d.segmentation.report import write_tables
from geo3d.segmentation.significance import Procedure, compare_with_baseline
from geo3d.segmentation.tables import (
    GROUPS_FILE,
    Entry,
    Setting,
    aggregate,
    groups_for,
    read_published,
    read_results,
)
from geo3d.topology.losses.catalogue import LOSSES, ROWS, Loss
from geo3d.work.pool import Limits, Task, raise_if_stopping
from geo3d.work.runner import Work, read_failure, run_items

PUBLISHED = "segmentation/published.csv"
"""The published numbers, among the assets."""
STOP_S = 60.0
"""How long a cell may take to write its checkpoint when asked to stop."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of a benchmark."""

    data: str = ""
    """TopoMortar folder; empty for generated walls."""
    losses: tuple[str, ...] = ("ce_dice", "cl_dice")
    """Keys of `geo3d.topology.losses.catalogue.LOSSES`, or "package.module:function"."""
    frameworks: tuple[Framework, ...] = ("supervised",)
    labels: tuple[LabelKind, ...] = ("accurate",)
    sizes: tuple[TrainingSize, ...] = ("large",)
    seeds: int = 3
    """Trainings of each setting."""
    seed: int = 0
    """The first seed; the others follow it."""
    workers: int = 1
    """Cells at a time, each with one thread."""
    device: str = "auto"
    published_metrics: bool = False
    """Rules of the published code for empty masks, for numbers beside published ones."""
    save_masks: bool = True
    wall_side: int = 256
    """Of generated walls, in pixels."""
    walls: tuple[int, int, int] = (24, 4, 14)
    """Generated walls for training, validation and test."""
    training: SegmentationConfig = field(default_factory=SegmentationConfig)
    """What all cells share; loss, framework and seed are those of the cell."""

    def __post_init__(self) -> None:
        for name in ("losses", "frameworks", "labels", "sizes"):
            values = getattr(self, name)
            once = len(set(values)) == len(values) > 0
            require(once, name, "a list that is not empty and names nothing twice")
        require_at_least(self, 1, "seeds workers")
        require(min(self.walls) >= 1, "walls", "at least 1")
        known = bool(self.data) or (self.labels, self.sizes) == (("accurate",), ("large",))
        require(known, "labels and sizes", "accurate and large for generated walls")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {"training": training_config.PRESETS[name]} for name in ("paper", "cpu", "smoke")
}
PRESETS = {
    **PRESETS,
    "paper": {**PRESETS["paper"], "seeds": 10},
    "smoke": {**PRESETS["smoke"], "seeds": 2, "wall_side": 96, "walls": (6, 1, 14)},
}
"""Named settings: those of training with as many seeds as fit."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    setting: Setting
    seed: int

    @property
    def path(self) -> Path:
        """Where it lies below ``results`` and ``cells``, without suffix."""
        s = self.setting
        return Path(s.framework, s.labels, s.size, s.loss.replace(":", "."), str(self.seed))


def grid(config: BenchmarkConfig) -> list[Cell]:
    """Return all cells, seed by seed: a benchmark that is stopped is complete in its first seeds.

    Raises:
        ConfigError: ``segmenter.unknown_loss``, and those of `geo3d.segmentation.own_code`.
    """
    from geo3d.segmentation.train import find_loss

    for loss in config.losses:
        find_loss(loss)
    settings = product(config.frameworks, config.labels, config.sizes, config.losses)
    rows = [Setting(*names) for names in settings]
    return [Cell(row, config.seed + i) for i in range(config.seeds) for row in rows]


def open_dataset(config: BenchmarkConfig, setting: Setting) -> Dataset:
    """Return the images of a setting.

    Raises:
        InputError, FileFormatError: see `geo3d.segmentation.data.read_topomortar`.
    """
    if not config.data:
        return generated_dataset(*config.walls, config.wall_side)
    return read_topomortar(config.data, setting.labels, setting.size)  # type: ignore[arg-type]


def run_cells(
    config: BenchmarkConfig, cells: Sequence[Cell], folder: Path, progress: ProgressCallback
) -> None:
    """Run all cells that are not finished; failures are recorded.

    Args:
        config: settings of the benchmark.
        cells: the grid.
        folder: where results and cells lie.
        progress: told at least every second; what it raises ends the benchmark.

    Raises:
        ConfigError: ``segmenter.loss_only_here``.
    """
    by_name = {str(cell.path): cell for cell in cells}
    work = Work(
        folder,
        [Task(name, cell) for name, cell in by_name.items()],
        partial(partial, _one_cell, config, folder, _added_losses(config)),
        lambda name: is_finished(by_name[name], folder),
        "runs",
        retry_all=True,
    )
    run_items(work, Limits(config.workers, threads=1, fresh=True, grace=STOP_S), progress)


def _added_losses(config: BenchmarkConfig) -> dict[str, Loss]:
    """Return the losses that this process has put into the catalogue: workers get them along."""
    added = {name: LOSSES[name] for name in config.losses if name in LOSSES}
    added = {name: row for name, row in added.items() if row not in ROWS}
    for name, row in added.items():
        if not all(is_importable(f) for f in (row.function, row.auxiliary) if f is not None):
            raise ConfigError(
                "segmenter.loss_only_here",
                f"The loss {name!r} cannot reach the processes of a benchmark: its function is no "
                "name of a module.",
                "Put the function into a module and name it: package.module:function.",
            )
    return added


def _one_cell(
    config: BenchmarkConfig, folder: Path, added: Mapping[str, Loss], cell: Cell
) -> None:
    import torch

    torch.set_num_threads(1)
    LOSSES.update(added)
    run_cell(config, cell, folder, raise_if_stopping)


def run_cell(
    config: BenchmarkConfig,
    cell: Cell,
    folder: Path,
    progress: ProgressCallback = ignore_progress,
) -> None:
    """Train and measure one cell; its CSV is written last.

    Raises:
        Geo3dError: those of `geo3d.segmentation.train.train_segmenter` and of reading images.
    """
    from geo3d.segmentation.images import save_mask
    from geo3d.segmentation.train import train_segmenter
    from geo3d.work.state import drop_state
    from geo3d.work.training import CHECKPOINT

    place = folder / "cells" / cell.path
    place.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(config, cell.setting)
    begun = time.process_time()
    settings = _training_of(config, cell)
    segmenter = train_segmenter(
        settings,
        dataset,
        place,
        device=config.device,
        log_metrics=lambda values: append_line(place / "metrics.jsonl", json.dumps(dict(values))),
        progress=progress,
    )
    trained = time.process_time()
    rows = []
    for number, item in enumerate(dataset.test):
        report(progress, "measuring", number, len(dataset.test))
        sample = item.load()
        mask = segmenter.predict(sample.image).mask
        rows.append((item.id, measure_image(mask, sample.mask, compat=config.published_metrics)))
        if config.save_masks:
            save_mask(place / "masks" / f"{item.id}.png", mask)
    # Of this process only: what an interrupted one had spent before is not in it.
    spent = {"train_cpu_s": trained - begun, "measure_cpu_s": time.process_time() - trained}
    atomic_write_json(place / "seconds.json", {k: round(v, 1) for k, v in spent.items()})
    write_measures(gather(rows), folder / "results" / f"{cell.path}.csv")
    drop_state(place / CHECKPOINT)


def write_groups(config: BenchmarkConfig, cells: Sequence[Cell], folder: Path) -> None:
    """Write the group of each test image beside the results."""
    dataset = open_dataset(config, cells[0].setting)
    lines = ["ID,group", *(f"{item.id},{item.group}" for item in dataset.test)]
    atomic_write_text(folder / "results" / GROUPS_FILE, "\n".join(lines) + "\n")


def tabulate(
    results: Path,
    out: Path,
    *,
    published: Sequence[Entry] = (),
    groups: Mapping[str, str] | None = None,
    failures: Sequence[Mapping[str, Any]] = (),
    procedure: Procedure | None = None,
) -> dict[str, Any]:
    """Write tables of all results below a folder into ``out``; return them as plain mappings.

    Raises:
        InputError, FileFormatError: see `geo3d.segmentation.tables`.
    """
    runs = read_results(results)
    known = groups_for(results) if groups is None else groups
    entries = aggregate(runs, known)
    comparisons = compare_with_baseline(runs, known, procedure)
    return write_tables(out, entries, comparisons, published, failures)


def published_beside(config: BenchmarkConfig) -> list[Entry]:
    """Return the published numbers to print beside a benchmark: none beside generated walls."""
    return read_published(asset(PUBLISHED)) if config.data else []


def failures_of(cells: Sequence[Cell], folder: Path) -> list[dict[str, Any]]:
    """Return what went wrong with each cell that failed."""
    open_cells = [str(cell.path) for cell in cells if not is_finished(cell, folder)]
    found = ((name, read_failure(folder, name)) for name in open_cells)
    return [{"cell": name, **failure} for name, failure in found if failure is not None]


def is_finished(cell: Cell, folder: Path) -> bool:
    """Tell whether a cell has its results."""
    return (folder / "results" / f"{cell.path}.csv").is_file()


def _training_of(config: BenchmarkConfig, cell: Cell) -> SegmentationConfig:
    framework: Framework = cell.setting.framework  # type: ignore[assignment]
    return replace(config.training, loss=cell.setting.loss, framework=framework, seed=cell.seed)
