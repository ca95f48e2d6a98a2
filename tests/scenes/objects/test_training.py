"""The trainer: every objective, dense and sparse, resumed bit by bit, whatever its parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distill_helpers import DENSE, settings, write_latents
from PIL import Image

from geo3d import checkpoints
from geo3d.config import config_from_dict, dump_config
from geo3d.errors import Cancelled, CheckpointError, ConfigError, Geo3dError, NumericalError
from geo3d.work.training import CHECKPOINT
from scenes.objects.latent_folder import LatentFolder, chosen, write_tokens
from scenes.objects.models import load_model, save_model
from scenes.objects.ss_flow import SparseStructureFlowModel
from scenes.objects.ss_vae import SparseStructureEncoder, SSEncoderConfig
from scenes.objects.train_config import PRESETS, DataConfig, DistillConfig, OptimiserConfig
from scenes.objects.training import learning_rate, train
from scenes.objects.training_batch import (
    TwoTimes,
    as_mean_velocity,
    as_velocity,
    parts_of_equal_load,
)

OBJECTIVES: dict[str, dict[str, Any]] = {
    "flow_matching": {"kind": "flow_matching", "drop_condition": 0.3},
    "guidance": {"kind": "regression", "guidance_scale": 4.0, "guidance_interval": [0.5, 1.0]},
    "mdt": {"kind": "velocity", "distillation_weight": 1.0, "guidance_scale": 3.0},
    "mdt_jvp": {
        "kind": "velocity",
        "distillation_weight": 0.5,
        "distillation_noise": "fresh",
        "distillation_factor": "one_minus_t",
        "derivative": {"estimator": "jvp", "norm": "unit_rms"},
    },
    "cm": {"kind": "consistency"},
    "pcm_vd": {"kind": "consistency", "phases": 2, "distillation_weight": 1.0},
    "scm": {"kind": "scm", "warmup_steps": 2, "derivative": {"estimator": "jvp"}},
    "meanflow": {"kind": "meanflow", "adaptive_power": 1.0, "derivative": {"estimator": "jvp"}},
    "eulerian": {"kind": "eulerian"},
    "lagrangian": {"kind": "lagrangian", "derivative": {"estimator": "jvp"}},
    "data_free": {"kind": "data_free"},
    "boot": {"kind": "boot"},
    "dmd": {"kind": "distribution", "student_steps": 2, "tracker_updates": 2},
}


def config(folder: Path, kind: str, **changes: Any) -> DistillConfig:
    return config_from_dict(DistillConfig, settings(folder, kind, **changes))


def same_files(a: Path, b: Path) -> None:
    names, others = (
        sorted(p.name for p in folder.glob("*.safetensors") if ".previous" not in p.name)
        for folder in (a, b)
    )
    assert names == others
    for name in names:
        left, right = (checkpoints.load(f / name).tensors for f in (a, b))
        assert left.keys() == right.keys()
        assert all(torch.equal(t, right[n]) for n, t in left.items()), name


def stop_at(step: int):
    def tell(event: Mapping[str, Any]) -> None:
        if event["step"] == step:
            raise Cancelled()

    return tell


EASY = ("dense-mdt", "dense-boot", "dense-dmd", "sparse-cm", "sparse-eulerian")


def every_objective() -> list[Any]:
    """Return all objectives over both kinds of latents, most of them marked slow."""
    found = []
    for kind in ("dense", "sparse"):
        for name in OBJECTIVES:
            marks = () if f"{kind}-{name}" in EASY else pytest.mark.slow
            found.append(pytest.param(name, kind, id=f"{kind}-{name}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "kind"), every_objective())
def test_every_objective_trains_and_resumes_bit_by_bit(
    name: str, kind: str, tmp_path: Path
) -> None:
    own = config(tmp_path, kind, objective=OBJECTIVES[name], steps=3)
    if name == "meanflow":
        own = config(tmp_path, kind, objective=OBJECTIVES[name], steps=3, teacher="",
                     student=own.teacher)  # fmt: skip
    numbers = train(own, tmp_path / "whole", device="cpu")
    assert np.isfinite(numbers["loss"]) and numbers["grad_norm"] > 0
    with pytest.raises(Cancelled):
        train(own, tmp_path / "parts", device="cpu", progress=stop_at(1))
    train(own, tmp_path / "parts", device="cpu")
    same_files(tmp_path / "whole", tmp_path / "parts")
    stem = "student_1step" if own.objective.facts.has_two_times else "student"
    student = load_model(tmp_path / "whole" / stem)
    before = load_model(own.teacher or own.student)
    moved = [
        (a - b).abs().max() for a, b in zip(student.parameters(), before.parameters(), strict=True)
    ]
    assert max(moved) > 1e-4


def test_steps_do_not_depend_on_the_parts(tmp_path: Path) -> None:
    for kind in ("dense", "sparse"):
        # per element losses of equal parts only agree if parts are equally large
        first, second = (
            train(config(tmp_path / kind, kind, split=split, steps=1), tmp_path / f"{kind}{split}")
            for split in (1, 4)
        )
        if kind == "dense":
            assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
            assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-4)
        assert first["learning_rate"] == second["learning_rate"] == 1e-3


def test_a_teacher_learns_and_its_average_begins_at_the_start(tmp_path: Path) -> None:
    objective = {"kind": "flow_matching", "time": {"kind": "uniform"}}
    own = config(
        tmp_path, "dense", objective=objective, steps=60, split=1, log_every=20,
        optimiser={"learning_rate": 3e-3, "average_rates": [0.9, 1.0]},
    )  # fmt: skip
    lines: list[dict[str, Any]] = []
    train(own, tmp_path / "out", device="cpu", log_metrics=lambda m: lines.append(dict(m)))
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert {line["step"] for line in lines} == {20, 40, 60}
    assert any(name.startswith("loss_bin_") for name in lines[0])
    frozen, start = (load_model(p) for p in (tmp_path / "out" / "student_ema1.0", own.teacher))
    for a, b in zip(frozen.parameters(), start.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("torso", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_torso_with_masters(torso: str, tmp_path: Path) -> None:
    own = config(
        tmp_path, "sparse", objective=OBJECTIVES["mdt"], teacher_torso=torso, steps=2, batch=2,
        optimiser={"learning_rate": 1e-3, "torso": torso, "initial_log_scale": 8.0},
    )  # fmt: skip
    train(own, tmp_path / "whole", device="cpu")
    with pytest.raises(Cancelled):
        train(own, tmp_path / "parts", device="cpu", progress=stop_at(1))
    train(own, tmp_path / "parts", device="cpu")
    same_files(tmp_path / "whole", tmp_path / "parts")
    kept = checkpoints.load(tmp_path / "whole" / CHECKPOINT).tensors
    assert all(t.dtype == torch.float32 for n, t in kept.items() if ".weights." in n)


def test_folded_spans_are_the_student_at_that_span(tmp_path: Path) -> None:
    student = TwoTimes(SparseStructureFlowModel(DENSE, torch.Generator().manual_seed(0)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    x = torch.randn(3, 2, 4, 4, 4, generator=generator)
    condition = torch.randn(3, 3, 6, generator=generator)
    t = torch.tensor([0.5, 0.9, 1.0])
    wanted = as_mean_velocity(student, None)(x, t, t - 0.5, condition)
    plain = SparseStructureFlowModel(DENSE)
    plain.load_state_dict(student.folded(0.5))
    found = as_velocity(plain, None)(x, t, condition)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    other = as_mean_velocity(student, None)(x, t, t, condition)
    assert not torch.allclose(other, wanted, atol=1e-3)


def test_dropped_without_a_word_and_resumed_is_the_same_bit_by_bit(tmp_path: Path) -> None:
    """As a kill would: nothing is written on the way out; the last checkpoint counts."""

    class Dropped(BaseException):
        pass

    def drop(event: Mapping[str, Any]) -> None:
        if event["step"] == 4:
            raise Dropped

    for kind in ("dense", "sparse"):
        folder = tmp_path / kind
        own = config(folder, kind, objective=OBJECTIVES["mdt"], steps=5, checkpoint_every=3)
        with pytest.raises(Dropped):
            train(own, folder / "parts", device="cpu", progress=drop)
        assert checkpoints.load(folder / "parts" / CHECKPOINT).config["step"] == 3
        train(own, folder / "parts", device="cpu")
        train(own, folder / "whole", device="cpu")
        same_files(folder / "whole", folder / "parts")


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_bit_by_bit(tmp_path: Path) -> None:
    own = config(
        tmp_path, "dense", objective=OBJECTIVES["mdt"], steps=12, log_every=1, checkpoint_every=3
    )
    (tmp_path / "config.yaml").write_text(dump_config(own), "utf-8")
    code = (
        "import sys, time; from pathlib import Path\n"
        "from geo3d.config import load_config\n"
        "from scenes.objects.train_config import DistillConfig\n"
        "from scenes.objects.training import train\n"
        "def slow(event): time.sleep(0.05)\n"
        "train(load_config(DistillConfig, sys.argv[1]), Path(sys.argv[2]), device='cpu',"
        " progress=slow)\n"
    )
    out = tmp_path / "parts"
    command = [sys.executable, "-c", code, str(tmp_path / "config.yaml"), str(out)]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[3])
    try:
        deadline = time.monotonic() + 120
        while not (out / CHECKPOINT).is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
            assert child.poll() in (None, 0)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert checkpoints.load(out / CHECKPOINT).config["step"] in (3, 6, 9)
    train(own, out, device="cpu")
    train(own, tmp_path / "whole", device="cpu")
    same_files(tmp_path / "whole", out)


def test_folders_are_read_as_published(tmp_path: Path) -> None:
    places = write_latents(tmp_path, "sparse")
    data = DataConfig(**places, mean=(1.0, 2.0), std=(2.0, 4.0), hold_out=2)
    folder = LatentFolder(data, True)
    assert len(folder.names) == 7 and folder.held_out == ["some/item7", "some/item8"]
    item = folder.read(folder.names[0], torch.Generator().manual_seed(0))
    with np.load(tmp_path / "latents/some/item0.npz") as stored:
        wanted = (stored["feats"] - np.array([1.0, 2.0])) / np.array([2.0, 4.0])
        np.testing.assert_allclose(item.values.numpy(), wanted, rtol=1e-5, atol=1e-6)
        assert item.grid is not None
        assert np.array_equal(item.grid.coords[:, 1:].numpy(), stored["coords"])
    views = {folder.read("some/item0", torch.Generator().manual_seed(s)).condition.sum().item()
             for s in range(8)}  # fmt: skip
    assert len(views) == 2
    small = LatentFolder(DataConfig(**places, max_voxels=15), True)
    assert 0 < len(small.names) < 9
    tight = LatentFolder(DataConfig(**places, cache_bytes=1), True)
    again = tight.read("some/item0", torch.Generator().manual_seed(0))
    tight.read("some/item1", torch.Generator().manual_seed(0))
    assert len(tight._kept) == 1
    assert torch.equal(again.condition, item.condition)


def test_tokens_are_encoded_once(tmp_path: Path) -> None:
    calls = []

    class Encoder:
        def encode(self, images: Any) -> torch.Tensor:
            calls.append(len(images))
            return torch.stack([torch.full((3, 6), p.size[0] / 10) for p in images])

    places = write_latents(tmp_path, "dense")
    (tmp_path / "conditions/some/item0.npz").unlink()
    images = [Image.new("RGB", (size, 4)) for size in (1, 2, 3)]
    for _ in range(2):
        write_tokens(places["conditions"], "some/item0", images, Encoder(), 2)
    assert calls == [2, 1]
    item = LatentFolder(DataConfig(**places), False).read("some/item0", torch.Generator())
    assert item.condition.shape == (1, 3, 6)
    assert float(item.condition.mean()) == pytest.approx(0.2, abs=0.11)


def test_every_name_comes_once_per_round() -> None:
    names = [f"n{i}" for i in range(5)]
    seen = [name for step in range(5) for name in chosen(names, step, 3, 0)]
    for start in (0, 5, 10):
        assert sorted(seen[start : start + 5]) == names
    assert seen[:5] != seen[5:10]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"data": {"latents": "nowhere"}}, "latents.no_folder"),
        ({"data": {"hold_out": 9}}, "latents.none"),
        ({"data": {"mean": [1.0]}}, "latents.bad_file"),
        ({"teacher": "nowhere"}, "object_model.missing"),
        ({"teacher": ""}, "config.bad_value"),
        ({"shard": True, "teacher_torso": "float16"}, "config.bad_value"),
        ({"objective": {"kind": "boot", "distillation_weight": 1.0}}, "config.bad_value"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], code: str, tmp_path: Path) -> None:
    base = settings(tmp_path, "dense")
    merged = {**base, **change}
    if "data" in change:
        merged["data"] = {**base["data"], **change["data"]}
    with pytest.raises(Geo3dError) as caught:
        train(config_from_dict(DistillConfig, merged), tmp_path / "out", device="cpu")
    assert caught.value.code == code


def test_damaged_files_and_other_networks_are_named(tmp_path: Path) -> None:
    own = config(tmp_path, "dense")
    encoder = SparseStructureEncoder(SSEncoderConfig(channels=(32,), latent_channels=2))
    save_model(encoder, tmp_path / "encoder")
    changed = config(tmp_path, "dense", teacher=str(tmp_path / "encoder"))
    with pytest.raises(ConfigError, match="not_a_flow"):
        train(changed, tmp_path / "out", device="cpu")
    (tmp_path / "latents/some/item3.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(Geo3dError, match="bad_file"):
        train(own, tmp_path / "out", device="cpu")


def test_another_training_does_not_go_on_from_it(tmp_path: Path) -> None:
    own = config(tmp_path, "dense")
    train(own, tmp_path / "out", device="cpu")
    with pytest.raises(CheckpointError, match="other_training"):
        train(config(tmp_path, "dense", steps=5), tmp_path / "out", device="cpu")


def test_an_exploding_training_stops(tmp_path: Path) -> None:
    own = config(tmp_path, "dense", steps=40, optimiser={"learning_rate": 1e30})
    with pytest.raises(NumericalError, match="diverged"):
        train(own, tmp_path / "out", device="cpu")


def test_schedules_and_presets() -> None:
    settings = OptimiserConfig(learning_rate=1.0, warmup_steps=4, decay="cosine")
    rates = [learning_rate(settings, step, 104) for step in (0, 3, 54, 103)]
    assert rates == pytest.approx([0.25, 1.0, 0.5, 0.000247], abs=1e-5)
    for name, preset in PRESETS.items():
        teacher = {} if name in ("teacher", "meanflow") else {"teacher": "t"}
        made = config_from_dict(DistillConfig, {**teacher, **preset})
        assert made.steps > 0
    released = config_from_dict(DistillConfig, {"teacher": "t", **PRESETS["released"]})
    assert released.objective.derivative.norm == "unit_l2"
    assert (released.objective.guidance_scale, released.objective.distillation_guidance_scale) == (
        41,
        101,
    )


def test_parts_of_equal_load_by_hand() -> None:
    assert parts_of_equal_load([5, 1, 4, 2], 2) == [[0, 1], [2, 3]]
    assert parts_of_equal_load([1, 1, 1, 1], 2) == [[0, 2], [1, 3]]
    assert parts_of_equal_load([3, 3], 4) == [[0], [1]]
    assert parts_of_equal_load([0, 0, 7], 2) == [[2], [0, 1]]
