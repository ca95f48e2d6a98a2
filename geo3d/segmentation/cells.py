"""The cells of a benchmark: each a training and its measurements, in a process of its own.

A cell with a CSV is finished and is skipped when the benchmark is started again; the others
continue from their checkpoints.  A cell takes minutes to days, so a fresh process for each costs
nothing, gives its memory back, and can die without taking others along.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from geo3d.errors import ConfigError
from geo3d.files import append_line, atomic_write_json
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation.config import Framework, SegmentationConfig
from geo3d.segmentation.grids import (
    BenchmarkConfig,
    Cell,
    data_key,
    is_finished,
    open_all,
    open_dataset,
)
from geo3d.segmentation.images import save_mask
from geo3d.segmentation.measures import gather, measure_sample, write_measures
from geo3d.segmentation.own_code import fingerprint, is_importable, is_own, own_function
from geo3d.segmentation.predict import Prediction
from geo3d.segmentation.rasters import save_labels
from geo3d.segmentation.samples import Dataset
from geo3d.topology.losses.catalogue import LOSSES, ROWS, Loss
from geo3d.work.pool import Limits, Task, raise_if_stopping
from geo3d.work.runner import Work, claim, read_failure, run_items
from geo3d.work.slurm import engine_of

STOP_S = 60.0
"""How long a cell may take to write its checkpoint when asked to stop."""


def run_cells(
    config: BenchmarkConfig,
    cells: Sequence[Cell],
    folder: Path,
    progress: ProgressCallback,
    datasets: Mapping[str, Dataset] | None = None,
) -> None:
    """Run all cells that are not finished; failures are recorded.

    Args:
        config: settings of the benchmark.
        cells: the grid.
        folder: where results and cells lie.
        progress: told at least every second; what it raises ends the benchmark.
        datasets: what `open_all` returned; None: opened here if a cell is not finished.

    Raises:
        ConfigError: ``segmenter.loss_only_here``.
        InputError: ``work.other_folder`` where code of one's own has changed since the folder was
            begun.
    """
    by_name, folder = {cell.name: cell for cell in cells}, folder.resolve()
    todo = [cell for cell in cells if not is_finished(cell, folder)]
    if datasets is None:
        datasets = open_all(config, todo)
    own = [name for name in (*config.losses, config.training.network.own) if is_own(name)]
    if own:
        claim(folder, {name: fingerprint(own_function(name)) for name in own})
    work = Work(
        folder,
        [Task(name, cell) for name, cell in by_name.items()],
        partial(partial, _one_cell, config, folder, _added_losses(config), dict(datasets)),
        lambda name: is_finished(by_name[name], folder),
        "runs",
        retry_all=True,
        engine=engine_of(config.engine, config.slurm, folder),
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
    config: BenchmarkConfig,
    folder: Path,
    added: Mapping[str, Loss],
    datasets: Mapping[str, Dataset],
    cell: Cell,
) -> None:
    import torch

    torch.set_num_threads(1)
    LOSSES.update(added)
    # What is unusual about the images has been said once, by the process that looked at them.
    logging.getLogger("geo3d.segmentation").setLevel(logging.ERROR)
    run_cell(config, cell, folder, raise_if_stopping, datasets[data_key(cell)])


def run_cell(
    config: BenchmarkConfig,
    cell: Cell,
    folder: Path,
    progress: ProgressCallback = ignore_progress,
    dataset: Dataset | None = None,
) -> None:
    """Train and measure one cell; its CSV is written last.

    Raises:
        Geo3dError: those of `geo3d.segmentation.train.train_segmenter` and of reading images.
    """
    from geo3d.segmentation.train import train_segmenter
    from geo3d.work.state import drop_state
    from geo3d.work.training import CHECKPOINT

    place = folder / cell.below / "cells" / cell.path
    place.mkdir(parents=True, exist_ok=True)
    if dataset is None:
        dataset = open_dataset(config, cell.setting, cell.drawn)
    begun = time.process_time()
    settings = _training_of(config, cell, dataset)
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
        found = segmenter.predict(sample.image)
        rows.append((item.id, measure_sample(found, sample, compat=config.published_metrics)))
        if config.save_masks:
            save_prediction(place / "masks" / item.id, found)
    # Of this process only: what an interrupted one had spent before is not in it.
    spent = {"train_cpu_s": trained - begun, "measure_cpu_s": time.process_time() - trained}
    atomic_write_json(place / "seconds.json", {k: round(v, 1) for k, v in spent.items()})
    write_measures(gather(rows), folder / cell.below / "results" / f"{cell.path}.csv")
    drop_state(place / CHECKPOINT)


def save_prediction(path: Path, found: Prediction) -> None:
    """Write a mask of one class in an image as a PNG of 0 and 255, all else as a label map."""
    if found.kind.is_binary and found.kind.dimensions == 2:
        save_mask(path.with_name(path.name + ".png"), found.mask)
    else:
        save_labels(path, found.kind.label_map(found.probabilities), found.kind.spacing)


def failures_of(cells: Sequence[Cell], folder: Path) -> list[dict[str, Any]]:
    """Return what went wrong with each cell that failed."""
    open_cells = [cell.name for cell in cells if not is_finished(cell, folder)]
    found = ((name, read_failure(folder, name)) for name in open_cells)
    return [{"cell": name, **failure} for name, failure in found if failure is not None]


def _training_of(config: BenchmarkConfig, cell: Cell, dataset: Dataset) -> SegmentationConfig:
    framework: Framework = cell.setting.framework  # type: ignore[assignment]
    shared = config.training
    if not config.data and dataset.kind.dimensions == 3:
        network = replace(shared.network, filters=config.volume_network or shared.network.filters)
        shared = replace(shared, network=network, crop=config.volume_crop or shared.crop)
    return replace(shared, loss=cell.setting.loss, framework=framework, seed=cell.seed)
