"""Every stage of the small pipeline once, from objects to a pipeline with students."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apps.cli import main
from geo3d.config import load_config
from scenes.objects.image import prepare_image
from scenes.objects.latent_folder import LatentFolder
from scenes.objects.models import load_model
from scenes.objects.pipeline import GenerateConfig, load_pipeline
from scenes.objects.small.latents import RECIPES
from scenes.objects.small.train import PARTS
from scenes.objects.train_config import DistillConfig


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all stages, each trained for a step."""
    root = tmp_path_factory.mktemp("small")
    objects = [
        "data",
        "objects",
        "--out",
        str(root / "objects"),
        "--objects",
        "2",
        "--workers",
        "1",
    ]
    sizes = ["--set", "kinds=[spoon,key]", "--set", "views=2", "--set", "view_size=32"]
    assert main([*objects, *sizes, "--quiet"]) == 0
    common = ["--cells", str(root / "cells"), "--work", str(root / "work"), "--quiet"]

    def stage(name: str, *more: str) -> None:
        assert main(["train", "objects", "--stage", name, *common, *more]) == 0

    stage("cells", "--objects", str(root / "objects"))
    few = ("--set", "steps=1", "--set", "batch=1")
    for name in ("structure", "latent", "mesh", "gaussian", "picture"):
        stage(name, *few, "--set", "warmup_steps=0")
    stage("latents")
    for name in RECIPES:
        stage(name, *few, "--set", "optimiser.warmup_steps=0")
    stage("pipeline", "--out", str(root / "pipeline"))
    return root


@pytest.mark.slow
def test_folders_and_recipes(work: Path) -> None:
    latents = work / "work" / "latents"
    config = load_config(DistillConfig, latents / "latent-flow.yaml")
    folder = LatentFolder(config.data, is_sparse=True)
    assert folder.names == ["key-1", "spoon-0"]
    rows = torch.cat([folder.read(name, torch.Generator()).values for name in folder.names])
    # ten components of the distances have mean square 1 together, colours have a common one
    assert torch.allclose(rows[:, :10].mean(0), torch.zeros(10), atol=1e-3)
    assert float(rows[:, :10].square().mean()) == pytest.approx(1, abs=0.3)
    student = load_config(DistillConfig, latents / "structure-student.yaml")
    assert student.student.endswith("structure-flow/outputs/student") and not student.teacher


@pytest.mark.slow
def test_the_pipeline_and_its_students_generate(work: Path) -> None:
    image = np.zeros((40, 40, 4), np.uint8)
    image[10:30, 5:35] = (180, 90, 60, 255)
    prepared = prepare_image(Image.fromarray(image))
    teacher = load_pipeline(work / "pipeline")
    student = load_pipeline(work / "pipeline", variant="student")
    assert teacher.samplers[0].evaluations() == student.samplers[0].evaluations() == 1
    settings = GenerateConfig(on_empty="keep", outputs=("mesh", "gaussian"))
    assert len(student.generate([prepared], [0], settings, prepared=True).objects) == 1
    assert set(PARTS) <= set(teacher.networks)
    same = ["sparse_structure_decoder", "slat_decoder_mesh", "slat_decoder_gs"]
    assert all(teacher.networks[key] == student.networks[key] for key in same)
    size = sum(path.stat().st_size for path in (work / "pipeline").rglob("*") if path.is_file())
    assert size < 45_000_000


@pytest.mark.slow
def test_a_finished_stage_stays_as_it_is(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stem = work / "work" / "structure" / "sparse_structure_decoder"
    before = load_model(stem).state_dict()
    again = ["--cells", str(work / "cells"), "--work", str(work / "work"), "--json"]
    few = ["--set", "steps=1", "--set", "batch=1", "--set", "warmup_steps=0"]
    assert main(["train", "objects", "--stage", "structure", *again, *few]) == 0
    assert json.loads(capsys.readouterr().out)["folder"].endswith("structure")
    after = load_model(stem).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("stage", ["cells", "pipeline", "sheet", "curves"])
def test_missing_folders_are_named(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "objects", "--stage", stage, "--json"]) == 2
    assert "run.no_flag" in capsys.readouterr().out


def test_curves_are_drawn_of_what_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["train", "objects", "--stage", "curves", "--json"]
    ask += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "curves.png")]
    assert main(ask) == 3
    assert "train_objects.no_curves" in capsys.readouterr().out
    sizes = []
    for stage in ("mesh", "latent", "picture", "structure-flow"):
        folder = tmp_path / "work" / stage
        folder.mkdir(parents=True)
        lines = [json.dumps({"step": i, "loss": 1 / i}) for i in range(1, 9)]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step"')
        assert main(ask) == 0
        with Image.open(tmp_path / "curves.png") as image:
            sizes.append(image.size)
    assert sizes[0] == sizes[2] and sizes[3][1] == pytest.approx(2 * sizes[0][1], abs=1)
