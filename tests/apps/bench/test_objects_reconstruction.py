"""What autoencoders keep, by stand-ins whose loss is known; and the teacher's guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_stages import small_objects, write_stages

from apps.bench import objects_reconstruction as reconstruction
from apps.bench.objects_reconstruction import (
    ReconstructionConfig,
    bench_reconstruction,
)
from apps.cli import main
from geo3d.errors import ConfigError
from scenes.objects.embeddings import unpatchify
from scenes.objects.samplers import SamplerConfig
from scenes.objects.slat_mesh import ExtractedMesh
from scenes.objects.small.autoencoders import surface_points
from scenes.objects.small.cells import CellObject, write_cells

DARKER = 0.25


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_stages(tmp_path_factory.mktemp("stages"))


def stand_ins(item: CellObject, moved: float) -> dict[str, Callable[[Any], Any]]:
    """Return networks that keep the surface of ``item`` but for a shift, and darken it."""
    filled = torch.from_numpy(item.filled)
    points, colors = (values[filled] for values in surface_points([item], filled))
    points, colors = points / 16 - 0.5 + torch.tensor([moved, 0, 0]), colors - DARKER
    attributes = torch.cat([colors, torch.zeros_like(colors)], dim=1)
    places = torch.arange(len(points))
    faces = torch.stack([places, places.roll(-1), places.roll(-2)], dim=1)
    return {
        "sparse_structure_decoder": lambda latent: unpatchify(latent, 2),
        "slat_encoder": lambda x: x,
        "slat_decoder_mesh": lambda x: [ExtractedMesh(points, faces, attributes)],
        "slat_decoder_gs": lambda x: [SimpleNamespace(unit_xyz=points + 0.5, colors=colors)],
    }


def measured_with(
    networks: dict[str, Callable[[Any], Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    item: CellObject,
) -> dict[str, dict[str, Any]]:
    write_cells(tmp_path / "cells-0000.npz", [item])
    monkeypatch.setattr(reconstruction, "load_model", lambda stem: networks[stem.name])
    rows = bench_reconstruction(ReconstructionConfig(work="work", cells=str(tmp_path)))
    return {row.pop("what"): row for row in rows}


def bright(item: CellObject) -> CellObject:
    """Return the object with colours that may become darker."""
    return type(item)(**{**vars(item), "colors": item.colors // 2 + 100})


def test_what_is_kept_is_measured_as_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = bright(small_objects()[0])
    found = measured_with(stand_ins(item, 0.0), tmp_path, monkeypatch, item)
    assert found["structure: voxel IoU"]["mean"] == 1
    assert found["mesh: F-score at 1/64"]["worst"] == 1
    assert found["mesh: error of colours"]["mean"] == pytest.approx(DARKER, abs=0.003)
    assert found["Gaussians: distance of the surface"]["mean"] == pytest.approx(0, abs=1e-6)
    assert found["Gaussians: error of colours"]["median"] == pytest.approx(DARKER, abs=1e-6)
    plain = item.colors / 255
    spread = abs(plain - plain.mean(0)).mean()
    assert found["one mean colour: error of colours"]["mean"] == pytest.approx(spread, abs=1e-4)


def test_what_is_moved_away_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = bright(small_objects()[0])
    found = measured_with(stand_ins(item, 2.0), tmp_path, monkeypatch, item)
    assert found["mesh: F-score at 1/64"]["mean"] == 0
    assert 1 < found["Gaussians: distance of the surface"]["mean"] < 2


def test_an_object_that_does_not_come_out_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = bright(small_objects()[0])
    nothing = ExtractedMesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), None)
    networks = stand_ins(item, 0.0) | {"slat_decoder_mesh": lambda x: [nothing]}
    found = measured_with(networks, tmp_path, monkeypatch, item)
    assert found["mesh: F-score at 1/64"]["mean"] == 0
    assert "mesh: error of colours" not in found


def test_a_mesh_without_colours_keeps_its_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = bright(small_objects()[0])
    networks = stand_ins(item, 0.0)
    colored = networks["slat_decoder_mesh"](None)[0]
    plain = replace(colored, attributes=None)
    networks["slat_decoder_mesh"] = lambda x: [plain]
    found = measured_with(networks, tmp_path, monkeypatch, item)
    assert found["mesh: F-score at 1/64"]["mean"] == 1
    assert "mesh: error of colours" not in found


def test_worst_is_low_for_scores_and_high_for_errors() -> None:
    values = [0.0, 0.5, 1.0]
    assert reconstruction._row("mesh: F-score at 1/64", values)["worst"] == 0
    assert reconstruction._row("mesh: error of colours", values)["worst"] == 1
    assert reconstruction._row("mesh: error of colours", values)["worst 5 %"] == pytest.approx(0.95)


def test_guidance_of_the_teacher_by_command(
    stages: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"work": stages[0], "cells": stages[1], "objects": 2, "points": 64}
    given |= {"guidance_scales": "[1, 3]"}
    monkeypatch.setattr(reconstruction, "TEACHER_SAMPLER", SamplerConfig(steps=2))
    monkeypatch.setattr(reconstruction, "_CHUNK", 1)
    chosen = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    command = ["bench", "objects", "--part", "guidance", "--out", str(tmp_path), "--quiet"]
    assert main([*command, *chosen]) == 0
    said = capsys.readouterr().out
    assert all(
        name in said for name in ("autoencoder", "teacher, guidance 1 ", "teacher, guidance 3 ")
    )


@pytest.mark.parametrize("bad", [{"objects": 0}, {"points": 0}, {"guidance_scales": (0.5,)}])
def test_impossible_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        ReconstructionConfig(**bad)
    assert caught.value.code == "config.bad_value"
