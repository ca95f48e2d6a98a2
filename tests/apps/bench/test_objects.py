"""The comparison of methods: equal cost, measures by hand, a grid that goes on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_stages import small_objects, write_stages
from torch import nn

from apps.bench import objects_samples as samples
from apps.bench.objects import Grid, compare_methods, write_table
from apps.bench.objects_methods import (
    METHODS,
    ComparisonConfig,
    passes,
    student_config,
    student_file,
)
from apps.bench.objects_speed import bench_generation
from apps.bench.objects_table import Sample, markdown, table
from apps.cli import main
from geo3d.errors import CheckpointError, ConfigError, InputError
from geo3d.mesh.mesh import Mesh
from geo3d.synth.objects.generate import generate_object
from scenes.objects import training
from scenes.objects.condition import SmallEncoderConfig, SmallImageEncoder
from scenes.objects.pipeline_folder import write_pipeline, write_student
from scenes.objects.samplers import SamplerConfig
from scenes.objects.small.train import TEACHER_SAMPLER


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_stages(tmp_path_factory.mktemp("stages"))


def settings(stages: tuple[Path, Path], grid: Path, **changes: Any) -> ComparisonConfig:
    small: dict[str, Any] = {"structure_evaluations": 60, "latent_evaluations": 60, "objects": 2}
    small |= {"structure_batch": 2, "latent_batch": 2, "seeds": 1, "points": 64, "chunk": 1}
    places = {"work": str(stages[0]), "cells": str(stages[1]), "grid": str(grid)}
    return ComparisonConfig(**{**places, **small, **changes})


@contextmanager
def counted(*networks: nn.Module) -> Iterator[list[int]]:
    """Count the items that pass networks."""
    found = [0]

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found[0] += inputs[0].shape[0]

    hooks = [network.register_forward_hook(count) for network in networks]
    yield found
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_what_a_step_does(
    stages: tuple[Path, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = student_config(settings(stages, tmp_path), name, "structure")
    # all times inside the interval of guidance
    objective = replace(config.objective, guidance_interval=(0.0, 1.0))
    student, teacher = training.load_flow(config)
    assert teacher is not None
    monkeypatch.setattr(training, "load_flow", lambda _: (student, teacher))
    with counted(student, teacher) as found:
        training.train(
            replace(config, objective=objective, steps=1), tmp_path / "out", device="cpu"
        )
    assert found[0] == passes(objective).forward * config.batch


def test_every_student_costs_the_same(stages: tuple[Path, Path], tmp_path: Path) -> None:
    config = settings(stages, tmp_path, structure_evaluations=100_000, structure_batch=4)
    for name in METHODS:
        found = student_config(config, name, "structure")
        cost = found.steps * found.batch * passes(found.objective).evaluations
        assert 100_000 * 0.99 < cost <= 100_000
        assert found.objective.guidance_scale == 3.0 and found.optimiser.learning_rate == 2e-4
    # by hand: guided teacher 2, student 1 and a backward pass of 2
    assert student_config(config, "regression", "structure").steps == 100_000 // 4 // 5
    # VM: teacher 2, student 2; VD: teacher 2, student 3; two backward passes
    assert student_config(config, "mdt_released", "structure").steps == 100_000 // 4 // 13
    scm = student_config(config, "scm", "structure")
    assert scm.steps == 100_000 // 4 // 7 and scm.objective.warmup_steps == scm.steps // 5
    with pytest.raises(ConfigError) as caught:
        settings(stages, tmp_path, methods=("magic",))
    assert caught.value.code == "comparison.unknown_method"


def test_truth_against_itself_and_against_nothing() -> None:
    torch.manual_seed(0)
    encoder = SmallImageEncoder(SmallEncoderConfig(size=16, patch=8, channels=8, depth=1, heads=2))
    mesh = generate_object("key", 1).mesh
    true = samples.measured([mesh, mesh], encoder, 500)
    made = samples.measured([mesh, None], encoder, 500, 0.25)
    rows = samples.compared(made, true, 0.02).numbers
    same, nothing = (dict(zip(samples.NUMBERS, row, strict=True)) for row in rows)
    assert (same["empty"], same["chamfer"], same["f_score"], same["iou"]) == (0, 0, 1, 1)
    assert same["largest_piece"] == 1 and same["seconds"] == 0.25
    assert (nothing["empty"], nothing["iou"], nothing["largest_piece"]) == (1, 0, 0)
    # one point in the middle: every true point is as far from it as it lies from the middle
    away = np.linalg.norm(true.points[1], axis=1)
    assert nothing["chamfer"] == pytest.approx((away.mean() + away.min()) / 2, rel=1e-5)
    assert made.features.shape == (2, 16)
    black = encoder(torch.zeros(1, 3, 16, 16)).mean(1)[0].detach().numpy()
    assert np.allclose(made.features[1], np.tile(black, 2), atol=1e-5)


def test_points_are_seen_and_hidden_parts_are_not() -> None:
    outer, inner = cube(0.45), cube(0.2)
    faces = np.concatenate([outer.faces, inner.faces + outer.n_vertices])
    both = Mesh(np.concatenate([outer.vertices, inner.vertices]), faces)
    points, cells = samples.visible_surface(both, 400)
    assert np.abs(points).max(axis=1) == pytest.approx(np.full(400, 0.45), abs=1e-5)
    assert cells[1, 16, 16] and not cells[9:23, 9:23, 9:23].any()
    beyond = Mesh(outer.vertices * 2, outer.faces)
    assert np.abs(samples.visible_surface(beyond, 10)[0]).max() <= 0.5


def cube(half: float) -> Mesh:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return Mesh(corners, np.array(faces))


def test_files_of_samples_come_back_whole(tmp_path: Path) -> None:
    encoder = SmallImageEncoder(SmallEncoderConfig(size=16, patch=8, channels=8, depth=1, heads=2))
    made = samples.measured([cube(0.4), None], encoder, 32)
    again = samples.read_measured(samples.write_measured(tmp_path / "a.npz", made))
    assert np.array_equal(again.cells, made.cells) and again.is_empty.tolist() == [False, True]
    assert np.allclose(again.points, made.points, atol=1e-3)
    (tmp_path / "b.npz").write_bytes(b"torn")
    with pytest.raises(CheckpointError) as caught:
        samples.read_measured(tmp_path / "b.npz")
    assert caught.value.code == "comparison.bad_file"


def test_the_table_by_hand() -> None:
    found = [
        sample("teacher", "a", 0, f_score=0.8), sample("teacher", "b", 0, f_score=0.6),
        sample("cm", "a", 0, f_score=0.7, shift=1.0), sample("cm", "b", 0, empty=1.0, piece=0.0),
        sample("cm", "a", 1, f_score=0.5, piece=0.6), sample("cm", "b", 1, f_score=0.4),
    ]  # fmt: skip
    teacher, student = table(found, least_piece=0.9)
    assert teacher["F-score"] == pytest.approx(0.7) and student["F-score"] == pytest.approx(0.4)
    assert student["of teacher %"] == pytest.approx(100 * 0.4 / 0.7)
    # differences to the teacher are 0.2 and 0.4; their standard error is 0.1
    assert student["+- %"] == pytest.approx(100 * 1.96 * 0.1 / 0.7)
    assert student["behind best"] == pytest.approx(0.3)
    assert student["+- best"] == pytest.approx(1.96 * 0.1) and teacher["behind best"] == 0
    assert (student["empty %"], student["fragmented %"]) == (25, 25)
    # means of the objects are 0.6 and 0.2; their standard error is 0.2
    assert student["+-"] == pytest.approx(1.96 * 0.2)
    # object a moved by sqrt(3) between its seeds, object b by nothing
    assert student["diversity"] == pytest.approx(np.sqrt(3) / 2)
    assert student["F < 0.5 %"] == 50 and student["F median"] == pytest.approx(0.45)
    text = markdown([teacher, student])
    assert "| cm |" in text and "F p5" in text and "to truth" in text


def sample(maker: str, thing: str, seed: int, **found: float) -> Sample:
    numbers = {"empty": 0.0, "largest_piece": found.pop("piece", 1.0), "chamfer": 0.1}
    numbers |= {"precision": 0.0, "recall": 0.0, "f_score": 0.0, "iou": 0.0, "seconds": 0.0}
    points = np.full((1, 3), found.pop("shift", 0.0))
    features = np.random.default_rng(0).random(4)
    return Sample(maker, maker, 1, 2, seed, thing, {**numbers, **found}, points, features)


@pytest.mark.slow
def test_a_grid_goes_on_and_grows(stages: tuple[Path, Path], tmp_path: Path) -> None:
    config = settings(stages, tmp_path / "grid", methods=("meanflow",), objects=1)
    with pytest.raises(InputError) as caught:
        write_table(config)
    assert caught.value.code == "comparison.nothing"
    rows = compare_methods(config)
    few = {n: replace(TEACHER_SAMPLER, steps=n, rescale_t=1.0) for n in (1, 2)}
    names = [(row["method"], row["steps"], row["passes"]) for row in rows]
    assert names == [
        ("truth, other points on it", 0, 0),
        ("autoencoder (best possible)", 0, 0),
        ("teacher", TEACHER_SAMPLER.steps, 2 * TEACHER_SAMPLER.evaluations()),
        *(("teacher, untrained for few steps", n, 2 * few[n].evaluations()) for n in (1, 2)),
        ("MeanFlow", 1, 2),
        ("MeanFlow", 2, 4),
    ]
    assert rows[0]["IoU"] == 1.0 and 0 < rows[0]["chamfer"] < 0.1
    student = Path(f"{student_file(config, 'meanflow', 'latent', 2)}.safetensors")
    sampled = sorted((tmp_path / "grid" / "samples").rglob("*.npz"))
    before = {path: path.stat().st_mtime_ns for path in (student, *sampled)}
    more = compare_methods(replace(config, objects=2, seeds=2))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert [row["samples"] for row in more] == [2, 2, 4, 4, 4, 4, 4]
    with (tmp_path / "grid" / "samples.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == sum(row["samples"] for row in more)
    assert {line["object"] for line in lines} == {item.name for item in small_objects()}
    with pytest.raises(InputError) as other:
        Grid(replace(config, points=65)).claim()
    assert other.value.code == "work.other_folder"
    with pytest.raises(InputError) as caught:
        compare_methods(replace(config, objects=3))
    assert caught.value.code == "comparison.too_few"


@pytest.mark.slow
def test_the_command_compares(
    stages: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"work": stages[0], "cells": stages[1], "grid": tmp_path / "grid", "objects": 1}
    given |= {"structure_evaluations": 20, "latent_evaluations": 20, "structure_batch": 2}
    given |= {"latent_batch": 2, "methods": "[regression]", "steps": "[1]", "seeds": 1}
    chosen = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    command = ["bench", "objects", "--part", "quality", "--out", str(tmp_path), "--quiet"]
    assert main([*command, *chosen]) == 0
    assert "guidance-distilled" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "spectral", "--set", "objects=1", "--out", str(tmp_path)])
    assert "--set" in capsys.readouterr().err


def test_teacher_and_students_are_timed_stage_by_stage(
    stages: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.bench.objects_speed.TEACHER_STEPS", 3)
    grid = Grid(settings(stages, tmp_path))
    networks, encoder = grid.stages.networks, grid.stages.encoder
    few = SamplerConfig(steps=1, rescale_t=1.0, guidance_scale=None)
    whole, own = SamplerConfig(steps=3), SamplerConfig(steps=2)
    write_pipeline(tmp_path, networks, (own, own), ([0.0] * 4, [1.0] * 4), encoder)
    with pytest.raises(InputError) as caught:
        bench_generation(tmp_path)
    assert caught.value.code == "bench.no_students"
    flows = {key: networks[key] for key in ("sparse_structure_flow_model", "slat_flow_model")}
    write_student(tmp_path, flows, (few, few))
    teacher, one, two = bench_generation(tmp_path, repeats=1, kinds=("key",))
    assert (one["passes"], two["passes"]) == (2, 4)
    assert teacher["passes"] == 2 * whole.evaluations()
    assert teacher["x all"] == teacher["x sampling"] == 1
    parts = [value for name, value in one.items() if name.endswith(" ms") and name[0] != "a"]
    assert one["all ms"] > 0 and min(parts) >= 0
