"""nnU-Net with losses of topology: heads, regions, ignored labels; real nnU-Net for a few steps."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apps import cli
from apps.commands.train_nnunet import FOLDER, trainer_names
from geo3d.errors import ConfigError
from geo3d.segmentation.nnunet.supervision import heads_loss, set_progress
from geo3d.topology.losses.catalogue import LOSSES
from geo3d.topology.losses.overlap import ce_dice_loss

PLAIN = {"scnp": False, "regions": False, "ignored": None, "spacing": (1.0, 1.0)}


def heads() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    sides = (16, 8, 4)
    scores = [torch.randn(2, 2, n, n, generator=generator) for n in sides]
    labels = [torch.randint(0, 2, (2, 1, n, n), generator=generator).float() for n in sides]
    return scores, labels


def test_the_first_head_is_judged_by_topology_the_others_by_overlap() -> None:
    scores, labels = heads()
    loss = heads_loss("cl_dice", **PLAIN)
    expected = (
        4 * LOSSES["cl_dice"].function(scores[0], labels[0])
        + 2 * ce_dice_loss(scores[1], labels[1])
        + ce_dice_loss(scores[2], labels[2])
    ) / 7
    torch.testing.assert_close(loss(scores, labels), expected)
    one = loss(scores[0], labels[0])
    torch.testing.assert_close(one, LOSSES["cl_dice"].function(scores[0], labels[0]))
    late = heads_loss("topo_loss", **PLAIN)
    before = late(scores, labels)
    set_progress(late, 9, 10)
    assert late(scores, labels) != before


def test_regions_and_ignored_labels() -> None:
    scores, labels = heads()
    labels[0][:, :, :3] = 2
    found = heads_loss("cl_dice", **{**PLAIN, "ignored": 2})(scores[0], labels[0])
    torch.testing.assert_close(
        found, LOSSES["cl_dice"].function(scores[0], labels[0], ignore_index=2)
    )
    maps = torch.cat([labels[0] == 1, labels[0] == 0, labels[0] == 2], dim=1)
    loss = heads_loss("cl_dice", **{**PLAIN, "ignored": 2, "regions": True, "scnp": True})
    assert loss(scores[0], maps).isfinite()
    with pytest.raises(ConfigError) as caught:
        heads_loss("topo_win", **{**PLAIN, "spacing": (1.0, 1.0, 1.0)})
    assert caught.value.code == "loss.needs_images"


def test_there_is_a_trainer_for_every_loss(capsys: pytest.CaptureFixture[str]) -> None:
    tree = ast.parse((FOLDER / "trainers.py").read_text("utf-8"))
    values = {
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
    }
    assert LOSSES.keys() - {"scnp"} <= values
    assert cli.main(["train", "nnunet", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(FOLDER),
        "trainers": trainer_names(),
    }
    assert cli.main(["train", "nnunet", "1"]) == 2


DRIVER = """
import sys
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset, plan_experiment_dataset, preprocess_dataset)
import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as base

if __name__ == "__main__":
    extract_fingerprint_dataset(1, num_processes=1)
    plan_experiment_dataset(1)
    preprocess_dataset(1, configurations=("2d",), num_processes=(1,))
    began = base.nnUNetTrainer.__init__

    def shorter(self, *args, **kwargs):
        began(self, *args, **kwargs)
        self.num_epochs, self.num_iterations_per_epoch = 2, 2
        self.num_val_iterations_per_epoch = 1

    shorter.__signature__ = __import__("inspect").signature(began)
    base.nnUNetTrainer.__init__ = shorter
    from apps import cli
    for trainer in sys.argv[1:]:
        code = cli.main(["train", "nnunet", "1", "2d", "0", "--trainer", trainer,
                         "--device", "cpu"])
        assert code == 0, trainer
"""


@pytest.mark.slow
def test_nnunet_trains_with_a_trainer_named(tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2", reason="nnU-Net is an extra")
    raw = tmp_path / "raw" / "Dataset001_Lines"
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for k in range(6):
        mask = np.zeros((64, 64), np.uint8)
        mask[8 * k + 4 : 8 * k + 9, 4:60] = 1
        mask[:, 60:] = 2
        grey = 60 + 120 * (mask == 1) + rng.normal(0, 20, mask.shape)
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(
            raw / "imagesTr" / f"line_{k:03d}_0000.png"
        )
        Image.fromarray(mask).save(raw / "labelsTr" / f"line_{k:03d}.png")
    description = {
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, "line": 1, "ignore": 2},
        "numTraining": 6,
        "file_ending": ".png",
    }
    (raw / "dataset.json").write_text(json.dumps(description), "utf-8")
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER, "utf-8")
    root = Path(__file__).resolve().parents[3]
    places = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **places, "nnUNet_n_proc_DA": "1", "PYTHONPATH": str(root)}
    names = ["nnUNetTrainerClDiceSCNP"]
    done = subprocess.run(
        [sys.executable, str(driver), *names],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    for name in names:
        folder = tmp_path / "results" / "Dataset001_Lines" / f"{name}__nnUNetPlans__2d" / "fold_0"
        assert (folder / "checkpoint_final.pth").is_file()
