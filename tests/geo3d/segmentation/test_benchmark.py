"""The benchmark grid: one cell in this process, the whole of it in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geo3d.config import config_from_dict, load_config
from geo3d.errors import Cancelled, ConfigError
from geo3d.progress import ignore_progress
from geo3d.segmentation.benchmark import (
    PRESETS,
    BenchmarkConfig,
    failures_of,
    grid,
    is_finished,
    run_cell,
    run_cells,
    tabulate,
    write_groups,
)
from geo3d.segmentation.measures import measure_image, read_measures

ROOT = Path(__file__).resolve().parents[3]
TINY = {
    "seeds": 2,
    "wall_side": 64,
    "walls": (2, 1, 7),
    "workers": 2,
    "training": {
        "network": {"filters": (4, 4, 4)},
        "iterations": 4,
        "batch": 1,
        "crop": 32,
        "augmentation": "flips",
        "validate_every": 0,
    },
}


def tiny(**changes: object) -> BenchmarkConfig:
    return config_from_dict(BenchmarkConfig, {**TINY, **changes})


def test_the_grid_takes_the_seeds_one_after_the_other() -> None:
    cells = grid(tiny(frameworks=("supervised", "randhue"), seed=3))
    assert len(cells) == 2 * 2 * 2
    assert [cell.seed for cell in cells] == [3] * 4 + [4] * 4
    assert str(cells[1].path) == "supervised/accurate/large/cl_dice/3"
    assert len({cell.path for cell in cells}) == 8


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_read(preset: str) -> None:
    assert load_config(BenchmarkConfig, preset=preset).seeds >= 2


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": ()},
        {"losses": ("ce_dice", "ce_dice")},
        {"seeds": 0},
        {"labels": ("noisy",)},
    ],
)
def test_settings_out_of_range_are_refused(changes: Mapping[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(**changes)
    assert caught.value.code == "config.bad_value"


def test_unknown_losses_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        grid(tiny(losses=("dice_and_mice",)))
    assert caught.value.code == "segmenter.unknown_loss"


def test_a_cell_leaves_what_the_tables_need(tmp_path: Path) -> None:
    config = tiny(losses=("ce_dice",), seeds=1)
    (cell,) = cells = grid(config)
    write_groups(config, cells, tmp_path)
    assert not is_finished(cell, tmp_path)
    run_cell(config, cell, tmp_path)
    assert is_finished(cell, tmp_path)
    place = tmp_path / "cells" / cell.path
    assert (place / "segmenter.safetensors").is_file()
    assert not (place / "checkpoint.safetensors").exists()
    measures = read_measures(tmp_path / "results" / f"{cell.path}.csv")
    assert len(measures.ids) == 7
    found = tabulate(tmp_path / "results", tmp_path)
    assert {row["split"] for row in found["measured"]} == {
        *("ID", "OOD", "angles", "colors", "graffiti", "objects", "occlusion", "shadows")
    }
    mask = np.asarray(Image.open(place / "masks" / f"{measures.ids[0]}.png")) == 255
    from geo3d.segmentation.benchmark import open_dataset

    true = open_dataset(config, cell.setting).test[0].load().mask
    assert measure_image(mask, true)["Dice"] == measures.values["Dice"][0]


def test_a_finished_grid_starts_nothing(tmp_path: Path) -> None:
    config = tiny()
    for cell in grid(config):
        path = tmp_path / "results" / f"{cell.path}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run_cells(config, grid(config), tmp_path, ignore_progress)
    assert not (tmp_path / "cells").exists()


@pytest.mark.slow
def test_a_failed_cell_stops_no_other(tmp_path: Path) -> None:
    config = tiny()
    cells = grid(config)
    bad = tmp_path / "cells" / cells[1].path
    bad.mkdir(parents=True)
    (bad / "checkpoint.safetensors").write_bytes(b"nonsense")
    run_cells(config, cells, tmp_path, ignore_progress)
    assert [is_finished(cell, tmp_path) for cell in cells] == [True, False, True, True]
    (failure,) = failures_of(cells, tmp_path)
    assert failure["cell"] == str(cells[1].path)
    assert failure["code"].startswith("checkpoint.")
    (bad / "checkpoint.safetensors").unlink()
    run_cells(config, cells, tmp_path, ignore_progress)
    assert failures_of(cells, tmp_path) == []


@pytest.mark.slow
def test_a_cancelled_grid_keeps_its_checkpoints(tmp_path: Path) -> None:
    training = {**TINY["training"], "iterations": 100_000}
    config = tiny(losses=("ce_dice",), seeds=1, training=training)
    (cell,) = grid(config)
    log = tmp_path / "cells" / cell.path / "metrics.jsonl"

    def cancel(event: Mapping[str, object]) -> None:
        if log.is_file():
            raise Cancelled

    with pytest.raises(Cancelled):
        run_cells(config, [cell], tmp_path, cancel)
    assert (log.parent / "checkpoint.safetensors").is_file()
    assert not is_finished(cell, tmp_path)


@pytest.mark.slow
def test_a_killed_benchmark_goes_on(tmp_path: Path) -> None:
    """kill -9 on the whole command, then --resume: what was finished is not done again."""
    (tmp_path / "tiny.yaml").write_text(json.dumps({**TINY, "walls": [2, 1, 7], "workers": 1}))
    command = [sys.executable, "-m", "apps.cli", "bench", "segment", "--json"]
    started = subprocess.Popen(
        [*command, "--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 180
    while not (done := list(tmp_path.glob("bench-segment/*/outputs/results/*/*/*/*/[0-9].csv"))):
        assert time.monotonic() < end and started.poll() is None
        time.sleep(0.1)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    first = {path: path.stat().st_mtime_ns for path in done}
    run = next(tmp_path.glob("bench-segment/*/"))
    again = subprocess.run(
        [*command, "--resume", str(run)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {path: path.stat().st_mtime_ns for path in done} == first
    tables = json.loads(again.stdout)
    assert {row["n_seeds"] for row in tables["measured"]} == {2}
    assert {row["loss"] for row in tables["measured"]} == {"ce_dice", "cl_dice"}
    assert tables["failures"] == []
