"""One scene of a batch, in a process of its own: layout in, finished run folder out.

A scene that was interrupted goes on in the run folder it has; one that is finished is only read.
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from geo3d.errors import (
    BackendUnavailable,
    Cancelled,
    ConfigError,
    Geo3dError,
    InputError,
)
from geo3d.layout.layout import Layout
from geo3d.listeners import cancel_listener, chain, jsonl_listener
from geo3d.progress import ProgressCallback
from geo3d.runs import Run, open_run, start_run
from scenes.batch_plan import BatchConfig, Item, open_layout, scene_config
from scenes.urban.config import SceneConfig
from scenes.urban.validate import require_valid

_log = logging.getLogger(__name__)

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


def make_item_job(setup: ItemSetup) -> Callable[[Item], dict[str, Any]]:
    """Return the function that makes one scene."""
    return functools.partial(run_item, setup)


def run_item(setup: ItemSetup, item: Item) -> dict[str, Any]:
    """Make one scene; never raises but for a cancelled job.

    Returns:
        ``run``, ``seconds``, and either ``metrics``, or ``error`` and whether it ``is_final``:
        trying again would not help.
    """
    begun = time.monotonic()
    answer: dict[str, Any] = {"run": None}
    try:
        run = _run_of(setup, item)
        answer["run"] = str(run.path)
        answer["metrics"] = _finished(run) if run.is_done else _make(setup, item, run)
    except Cancelled:
        raise
    except Geo3dError as error:
        is_final = isinstance(error, ConfigError | InputError | BackendUnavailable)
        answer["error"] = error.to_dict()
        answer["is_final"] = is_final and error.code != "run.busy"
    except Exception as error:
        # one scene's defect must not stop the others; it is recorded with its type
        _log.exception("unexpected error in %s", item.name)
        message = f"{type(error).__name__}: {error}"
        answer["error"] = {"code": "batch.unexpected_error", "message": message, "hint": ""}
        answer["is_final"] = False
    return {**answer, "seconds": round(time.monotonic() - begun, 2)}


def build_street(
    layout: Layout, config: SceneConfig, run: Run, progress: ProgressCallback, device: str
) -> Mapping[str, Any]:
    """Build a scene as ``geo3d scene`` does."""
    from geo3d.device import pick_device
    from scenes.urban.driver import build_scene

    device = str(pick_device(device))
    return build_scene(layout, config, run.path, progress, device, resume=True).metrics


def _run_of(setup: ItemSetup, item: Item) -> Run:
    """Open the run that an item has, or start one."""
    root = setup.folder / "items" / item.name
    for folder in sorted((root / "scene").glob("*"), reverse=True):
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
