"""One scene of a batch, in a process of its own: layout in, finished run folder out.

A scene that was interrupted goes on in the run folder it has; one that is finished is only read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from geo3d.layout.layout import Layout
from geo3d.listeners import cancel_listener, chain, jsonl_listener
from geo3d.progress import ProgressCallback
from geo3d.runs import Run, open_run, start_run
from scenes.batch_plan import BatchConfig, Item, open_layout, scene_config
from scenes.urban.config import SceneConfig
from scenes.urban.validate import require_valid

Build: TypeAlias = Callable[[Layout, SceneConfig, Run, ProgressCallback, str], Mapping[str, Any]]
"""Builds a scene in a run folder, going on with what is there, and returns its numbers."""


@dataclass(frozen=True)
class ItemSetup:
    """What all scenes of a batch share."""

    config: BatchConfig
    folder: Path
    """Of the batch."""
    build: Build
    """An importable function."""


def run_item(setup: ItemSetup, item: Item) -> dict[str, Any]:
    """Make one scene; return its ``run`` folder and its ``metrics``.

    Raises:
        Geo3dError: whatever ends the building.
    """
    run = _run_of(setup, item)
    return {
        "run": str(run.path),
        "metrics": _finished(run) if run.is_done else _make(setup, item, run),
    }


def build_street(
    layout: Layout, config: SceneConfig, run: Run, progress: ProgressCallback, device: str
) -> Mapping[str, Any]:
    """Build a scene as ``geo3d scene`` does."""
    from geo3d.device import pick_device
    from scenes.urban.driver import build_scene

    device = str(pick_device(device))
    return build_scene(layout, config, run.path, progress, device, resume=True).metrics


def item_folder(batch: Path, item: Item) -> Path:
    """Return where the run folder of a scene lies."""
    return batch / "items" / item.name


def run_folders(batch: Path, item: Item) -> list[Path]:
    """Return the run folders of a scene, the latest first."""
    return sorted((item_folder(batch, item) / "scene").glob("*"), reverse=True)


def _run_of(setup: ItemSetup, item: Item) -> Run:
    """Open the run that an item has, or start one."""
    root = item_folder(setup.folder, item)
    for folder in run_folders(setup.folder, item):
        if (folder / "state.json").is_file():
            return open_run(folder)
        # left by a kill while it was being made: nothing was done in it yet
        shutil.rmtree(folder)
    config = scene_config(setup.config, item)
    file = item.layout.file
    inputs = [file] if file is not None and Path(file).is_file() else []
    return start_run("scene", item.name, config, root, item.seed, setup.config.device, inputs)


def _make(setup: ItemSetup, item: Item, run: Run) -> Mapping[str, Any]:
    with run:
        layout = open_layout(item.layout, item.seed)
        require_valid(layout)
        progress = chain(cancel_listener(run), jsonl_listener(run.path / "progress.jsonl"))
        config = run.load_config(SceneConfig)
        metrics = setup.build(layout, config, run, progress, setup.config.device)
        run.finish(metrics)
    return _finished(run)


def _finished(run: Run) -> Mapping[str, Any]:
    return json.loads((run.path / "metrics.json").read_text("utf-8"))
